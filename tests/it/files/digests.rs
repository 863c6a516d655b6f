//! Checksums that an upload declares.

use reqwest::RequestBuilder;

use crate::harness::client::{Client, send};
use crate::harness::content::{digest, sha256};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    a_declared_checksum_that_is_right_is_accepted,
    a_declared_checksum_that_is_wrong_leaves_nothing,
    malformed_checksums_are_refused,
    checksums_that_contradict_each_other_are_refused,
);

const CONTENT: &[u8] = b"content";

/// With the checksum of `said`, in every place that takes one.
fn declared(client: &Client, said: &[u8]) -> [RequestBuilder; 5] {
    let hex = sha256(said);
    let upload = || client.post("/v1/files").body(CONTENT);
    [
        client
            .post(&format!("/v1/files?sha256={hex}"))
            .body(CONTENT),
        upload().header("repr-digest", digest(said)),
        upload().header("content-digest", digest(said)),
        upload()
            .header("repr-digest", digest(said))
            .header("content-digest", digest(said)),
        client
            .post("/v1/files")
            .header("content-type", "multipart/form-data; boundary=b")
            .body(form(&format!("{{\"sha256\":\"{hex}\"}}"))),
    ]
}

fn form(properties: &str) -> Vec<u8> {
    let head = format!(
        "--b\r\ncontent-disposition: form-data; name=\"properties\"\r\n\r\n{properties}\r\n\
         --b\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\n"
    );
    [head.as_bytes(), CONTENT, b"\r\n--b--\r\n"].concat()
}

async fn a_declared_checksum_that_is_right_is_accepted(service: &Service) {
    let client = service.client("acme");
    for request in declared(&client, CONTENT) {
        let file = send(request).await.json(201);
        assert_eq!(file["sha256"], sha256(CONTENT));
    }
    // Other algorithms are none of ours, beside it or alone.
    let others = format!("sha-512=:AAAA:, {}, unixsum=:AAAA:", digest(CONTENT));
    for field in [others.as_str(), "sha-512=:AAAA:"] {
        let request = client.post("/v1/files").header("repr-digest", field);
        send(request.body(CONTENT)).await.json(201);
    }
    service.assert_holds(7).await;
}

async fn a_declared_checksum_that_is_wrong_leaves_nothing(service: &Service) {
    let client = service.client("acme");
    for request in declared(&client, b"other") {
        send(request).await.problem(422, "checksum-mismatch");
    }
    let others = format!("sha-512=:AAAA:, {}", digest(b"other"));
    let request = client.post("/v1/files").header("repr-digest", others);
    send(request.body(CONTENT))
        .await
        .problem(422, "checksum-mismatch");
    service.assert_holds(0).await;
}

async fn malformed_checksums_are_refused(service: &Service) {
    let client = service.client("acme");
    let upload = || client.post("/v1/files").body(CONTENT);
    let short = &sha256(CONTENT)[..62];
    for hex in [
        "",
        "x",
        short,
        &format!("{short}zz"),
        &format!("{short}0000"),
    ] {
        let request = client.post(&format!("/v1/files?sha256={hex}"));
        send(request.body(CONTENT)).await.invalid(&["/sha256"]);
        let request = client
            .post("/v1/files")
            .header("content-type", "multipart/form-data; boundary=b")
            .body(form(&format!("{{\"sha256\":\"{hex}\"}}")));
        send(request).await.invalid(&["/sha256"]);
    }
    for field in [
        "sha-256=:AAAA:",
        "sha-256=::",
        "sha-256=:!!!!:",
        "sha-256=AAAA",
        &format!("sha-256={}", sha256(CONTENT)),
        &digest(CONTENT)[..50],
    ] {
        for name in ["repr-digest", "content-digest"] {
            let answer = send(upload().header(name, field)).await;
            assert!(matches!(answer.status, 400 | 422), "{field} {answer:?}");
        }
    }
    service.assert_holds(0).await;
}

async fn checksums_that_contradict_each_other_are_refused(service: &Service) {
    let client = service.client("acme");
    let (right, wrong) = (digest(CONTENT), digest(b"other"));
    let hex = sha256(CONTENT);
    for (query, repr, content) in [
        ("", &right, Some(&wrong)),
        ("", &wrong, Some(&right)),
        (&*format!("?sha256={hex}"), &wrong, None),
        (&*format!("?sha256={}", sha256(b"other")), &right, None),
    ] {
        let mut request = client
            .post(&format!("/v1/files{query}"))
            .header("repr-digest", repr);
        if let Some(content) = content {
            request = request.header("content-digest", content);
        }
        let answer = send(request.body(CONTENT)).await;
        assert_eq!(answer.status, 422, "{answer:?}");
    }
    service.assert_holds(0).await;
}
