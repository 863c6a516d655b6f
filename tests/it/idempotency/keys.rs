//! Whose a key is, and what it may look like.

use serde_json::json;

use super::{KEY, files, named, replay, told, upload};
use crate::harness::client::{id, send};
use crate::harness::content::{digest, sha256};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    another_request_under_the_same_key_is_refused,
    a_key_belongs_to_tenant_and_subject,
    a_key_belongs_to_its_route,
    a_copy_of_another_file_is_another_request,
    malformed_keys_are_refused,
    keys_are_compared_as_they_are_written,
);

async fn another_request_under_the_same_key_is_refused(service: &Service) {
    let client = service.client("acme");
    let typed = |query: &str, content_type: &str, content: &'static str| {
        let request = client.post(&format!("/v1/files?{query}"));
        let request = request
            .header(KEY, "k1")
            .header("content-type", content_type.to_owned());
        request.body(content)
    };
    let first = send(typed("name=a", "a/b", "content")).await;
    first.json(201);
    for (query, content_type, content) in [
        ("name=a", "a/b", "contenT"),
        ("name=a", "a/b", ""),
        ("name=a", "a/c", "content"),
        ("name=b", "a/b", "content"),
        ("", "a/b", "content"),
        ("name=a&metadata=%7B%7D", "a/b", "content"),
        ("name=a&expires_at=2027-01-01T00:00:00Z", "a/b", "content"),
    ] {
        let answer = send(typed(query, content_type, content)).await;
        answer.invalid(&["/Idempotency-Key"]);
    }
    replay(typed("name=a", "a/b", "content"), &first).await;
    assert_eq!(files(&client).await, 1);
    service.assert_holds(1).await;
}

async fn a_key_belongs_to_tenant_and_subject(service: &Service) {
    let clients = [
        service.client("acme"),
        service.client("other"),
        named(service, "someone"),
        named(service, "Someone"),
    ];
    let mut answers = Vec::new();
    for client in &clients {
        answers.push(send(upload(client, "k1", "a", "content")).await);
    }
    let mut ids: Vec<String> = answers
        .iter()
        .map(|a| id(&a.json(201)).to_owned())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "someone got another's file");
    for (client, first) in clients.iter().zip(&answers) {
        replay(upload(client, "k1", "a", "content"), first).await;
        let answer = send(upload(client, "k1", "a", "other")).await;
        answer.invalid(&["/Idempotency-Key"]);
    }
    // It is not the token that counts but who it names.
    let again = named(service, "someone");
    replay(upload(&again, "k1", "a", "content"), &answers[2]).await;
    service.assert_holds(4).await;
}

async fn a_key_belongs_to_its_route(service: &Service) {
    let client = service.client("acme");
    let first = send(upload(&client, "k1", "a", "content")).await;
    let file = first.json(201);
    let copy = || {
        client
            .post(&format!("/v1/files/{}/copy", id(&file)))
            .header(KEY, "k1")
    };
    let copied = send(copy()).await;
    assert_ne!(copied.json(201)["id"], file["id"]);
    replay(copy(), &copied).await;
    replay(upload(&client, "k1", "a", "content"), &first).await;
    assert_eq!(files(&client).await, 2);
    service.assert_holds(1).await;
}

async fn a_copy_of_another_file_is_another_request(service: &Service) {
    let client = service.client("acme");
    let one = client.upload("one", "one").await;
    let two = client.upload("two", "two").await;
    let copy = |file| {
        client
            .post(&format!("/v1/files/{}/copy", id(file)))
            .header(KEY, "k1")
    };
    let first = send(copy(&one)).await;
    assert_eq!(first.json(201)["sha256"], sha256(b"one"));
    let second = send(copy(&two)).await;
    if second.status == 201 {
        assert_eq!(second.json(201)["sha256"], sha256(b"two"));
    } else {
        second.invalid(&["/Idempotency-Key"]);
    }
    replay(copy(&one), &first).await;
    service.assert_holds(2).await;
}

async fn malformed_keys_are_refused(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let long = "k".repeat(1000);
    for key in [
        &b""[..],
        b" ",
        b"a\tb",
        b"\xff\xfe",
        "clé".as_bytes(),
        long.as_bytes(),
    ] {
        let value = reqwest::header::HeaderValue::from_bytes(key).unwrap();
        for path in [
            "/v1/files".to_owned(),
            format!("/v1/files/{}/copy", id(&file)),
        ] {
            let request = client.post(&path).header(KEY, value.clone());
            let answer = send(request).await;
            assert_eq!(answer.status, 422, "{key:?} {}", answer.text());
            answer.invalid(&["/Idempotency-Key"]);
        }
    }
    let twice = client.post("/v1/files").header(KEY, "k1").header(KEY, "k2");
    send(twice).await.invalid(&["/Idempotency-Key"]);
    assert_eq!(files(&client).await, 1);
    service.assert_holds(1).await;
}

async fn keys_are_compared_as_they_are_written(service: &Service) {
    let client = service.client("acme");
    let long = "k".repeat(200);
    let keys = [
        "k",
        "K",
        "k ?",
        "%6b",
        "k'--",
        "{k}",
        "8e03978e-40d5-43dd-bc93-6894a57f9324",
        &long,
        "0",
        "-",
        "_",
        "a/b",
        "a:b",
        "~!@#$^&*()",
    ];
    let mut answers = Vec::new();
    for key in keys {
        let answer = send(upload(&client, key, "a", "content")).await;
        answer.json(201);
        answers.push(answer);
    }
    for (key, first) in keys.iter().zip(&answers) {
        replay(upload(&client, key, "a", "content"), first).await;
    }
    assert_eq!(files(&client).await, keys.len());
    // A checksum that is declared may be the content's own description.
    let declared = || {
        let request = upload(&client, "declared", "a", "content");
        request.header("repr-digest", digest(b"content"))
    };
    let first = send(declared()).await;
    assert_eq!(told(&first).4["size"], json!(7));
    replay(declared(), &first).await;
}
