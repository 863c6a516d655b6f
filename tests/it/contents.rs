//! Downloads: the bytes, and what is said of them.

mod conditions;
mod presentation;
mod ranges;
mod redirects;

use std::time::Duration;

use crate::harness::client::{id, send};
use crate::harness::content::{MIB, digest, noise, sha256};
use crate::harness::raw;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    contents_of_every_size_come_back_whole,
    head_says_what_get_would_and_sends_no_body,
    contents_are_unlike_where_files_are,
    parameters_of_a_download_are_checked,
    contents_are_the_same_by_any_framing_of_the_upload,
);

async fn contents_of_every_size_come_back_whole(service: &Service) {
    let client = service.client("acme");
    let mut files = Vec::new();
    for size in [0, 1, MIB - 1, MIB, MIB + 1, 20 * MIB] {
        let content = noise(size);
        let file = client.upload("a", content.clone()).await;
        assert_eq!(file["size"], size);
        assert_eq!(file["sha256"], sha256(&content));
        files.push((file, content));
    }
    // Long after, and from another client.
    service.clock.advance(Duration::from_secs(86_400));
    let client = service.client("acme");
    for (file, content) in files {
        let answer = send(client.get(&format!("/v1/files/{}/content", id(&file)))).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body.len(), content.len());
        assert_eq!(sha256(&answer.body), sha256(&content));
        assert_eq!(answer.header("content-length"), content.len().to_string());
        assert_eq!(answer.header("repr-digest"), digest(&content));
        assert_eq!(answer.header("accept-ranges"), "bytes");
    }
}

async fn head_says_what_get_would_and_sends_no_body(service: &Service) {
    let client = service.client("acme");
    for size in [0, 1, 70_000] {
        let file = client.upload("a", noise(size)).await;
        let path = format!("/v1/files/{}/content", id(&file));
        let got = send(client.get(&path)).await;
        let head = raw::to_the_end(service, &format!("HEAD {path}"), &[]).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), size.to_string());
        for name in got.headers.keys() {
            if !matches!(name.as_str(), "date" | "x-request-id" | "connection") {
                assert_eq!(head.headers.get(name), got.headers.get(name), "{name}");
            }
        }
        // Ranges are GET's alone (RFC 9110, 14.2).
        let line = format!("HEAD {path}");
        let head = raw::to_the_end(service, &line, &["range: bytes=0-0"]).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), size.to_string());
    }
    let never = "HEAD /v1/files/01890a5d-ac96-774b-bcce-b302099a8057/content";
    let head = raw::to_the_end(service, never, &[]).await;
    assert_eq!((head.status, head.body.len()), (404, 0));
}

async fn contents_are_unlike_where_files_are(service: &Service) {
    let client = service.client("acme");
    let mut tags = Vec::new();
    // The same bytes twice are two contents.
    for _ in 0..2 {
        let file = client.upload("a", "content").await;
        let answer = send(client.get(&format!("/v1/files/{}/content", id(&file)))).await;
        let tag = answer.header("etag").to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag} is weak");
        tags.push(tag);
    }
    assert_ne!(tags[0], tags[1]);
}

async fn parameters_of_a_download_are_checked(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    for (query, pointer) in [
        ("disposition=x", "/disposition"),
        ("disposition=", "/disposition"),
        ("disposition=INLINE", "/disposition"),
        ("disposition=inline&disposition=inline", "/disposition"),
        ("redirect=yes", "/redirect"),
        ("redirect=", "/redirect"),
        ("nonsense=1", "/nonsense"),
    ] {
        let path = format!("/v1/files/{}/content?{query}", id(&file));
        send(client.get(&path)).await.invalid(&[pointer]);
    }
}

async fn contents_are_the_same_by_any_framing_of_the_upload(service: &Service) {
    let client = service.client("acme");
    let content = noise(300_000);
    // Uneven chunks, some of them of one byte.
    let mut body = Vec::new();
    let mut rest = &content[..];
    let mut length = 1;
    while !rest.is_empty() {
        let (part, others) = rest.split_at(length.min(rest.len()));
        body.extend(raw::chunk(part));
        rest = others;
        length = length * 7 % 8191;
    }
    body.extend(raw::chunk(b""));
    let fields = ["transfer-encoding: chunked"];
    let answer = raw::exchange(service, "POST /v1/files", &fields, &body).await;
    let file = answer.json(201);
    assert_eq!(file["sha256"], sha256(&content));
    assert!(client.content(id(&file)).await == content);
}
