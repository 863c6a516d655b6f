//! Copies: new files over the same bytes.

use std::time::Duration;

use serde_json::{Value, json};

use super::{NEVER, events, path, remove, shown, trash};
use crate::harness::client::{Answer, Client, id, send};
use crate::harness::content::{MIB, escape, noise};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    a_copy_is_a_file_of_its_own_over_the_same_bytes,
    the_body_says_what_is_to_differ,
    whichever_goes_first_the_other_stays_readable,
    invalid_bodies_are_refused,
    what_is_trashed_or_not_there_is_not_copied,
    a_copy_and_its_source_change_apart,
    copied_and_removed_at_once_nothing_dangles,
    many_copies_at_once_share_one_object,
);

async fn copy(client: &Client, file: &Value, body: Option<Value>) -> Answer {
    let request = client.post(&format!("{}/copy", path(file)));
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    send(request).await
}

async fn a_copy_is_a_file_of_its_own_over_the_same_bytes(service: &Service) {
    let client = service.client("acme");
    let content = noise(2 * MIB + 3);
    let query = escape(r#"{"k":{"l":[1]}}"#);
    let upload = client.post(&format!("/v1/files?name=a/b.bin&metadata={query}"));
    let upload = upload.header("content-type", "application/x-own");
    let file = send(upload.body(content.clone())).await.json(201);
    service.clock.advance(Duration::from_secs(5));
    let answer = copy(&client, &file, None).await;
    let made = answer.json(201);
    assert_ne!(made["id"], file["id"]);
    let mut expected = file.clone();
    expected["id"] = made["id"].clone();
    expected["created_at"] = json!("2026-01-31T12:00:05.123456Z");
    expected["updated_at"] = expected["created_at"].clone();
    assert_eq!(made, expected);

    let location = answer.header("location");
    let relative = location.strip_prefix(&service.url).unwrap_or(location);
    assert_eq!(relative, path(&made));
    assert_eq!(shown(&client, &made).await, made);
    let bytes = send(client.get(&format!("{relative}/content"))).await;
    assert_eq!(bytes.header("etag"), answer.header("etag"));
    assert!(bytes.body == content);
    // The source knows nothing of it.
    assert_eq!(shown(&client, &file).await, file);
    assert_eq!(events(service, &made).await, ["file.copied"]);
    service.assert_holds(1).await;
}

async fn the_body_says_what_is_to_differ(service: &Service) {
    let client = service.client("acme");
    let query = escape(r#"{"k":1,"l":2}"#);
    let upload = client.post(&format!("/v1/files?name=a&metadata={query}"));
    let file = send(upload.body("content")).await.json(201);
    for (body, name, metadata, expires_at) in [
        (json!({}), "a", json!({"k": 1, "l": 2}), Value::Null),
        (
            json!({"name": "b/c"}),
            "b/c",
            json!({"k": 1, "l": 2}),
            Value::Null,
        ),
        // Instead of the source's, and not merged with it.
        (
            json!({"metadata": {"k": 3}}),
            "a",
            json!({"k": 3}),
            Value::Null,
        ),
        (json!({"metadata": {}}), "a", json!({}), Value::Null),
        (json!({"metadata": null}), "a", json!({}), Value::Null),
        (
            json!({"name": "x", "metadata": {"n": [null]}, "expires_at": "2027-01-01T01:00:00+01:00"}),
            "x",
            json!({"n": [null]}),
            json!("2027-01-01T00:00:00.000000Z"),
        ),
    ] {
        let made = copy(&client, &file, Some(body)).await.json(201);
        assert_eq!(made["name"], name);
        assert_eq!(made["metadata"], metadata);
        assert_eq!(made["expires_at"], expires_at);
        assert_eq!(made["content_type"], file["content_type"]);
        assert_eq!(made["sha256"], file["sha256"]);
        assert_eq!(client.content(id(&made)).await, b"content");
    }
    service.assert_holds(1).await;
}

async fn whichever_goes_first_the_other_stays_readable(service: &Service) {
    let client = service.client("acme");
    for first in 0..3 {
        let file = client.upload("a", "content").await;
        let second = copy(&client, &file, None).await.json(201);
        // And one of the copy.
        let third = copy(&client, &second, None).await.json(201);
        let mut files = vec![file, second, third];
        while files.len() > 1 {
            remove(&client, &files.remove(first % files.len())).await;
            service.settle().await;
            for file in &files {
                assert_eq!(client.content(id(file)).await, b"content");
            }
        }
        service.assert_holds(1).await;
        remove(&client, &files[0]).await;
        service.assert_holds(0).await;
    }
}

async fn invalid_bodies_are_refused(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    for (body, pointer) in [
        (json!({"nonsense": 1}), "/nonsense"),
        (json!({"content_type": "a/b"}), "/content_type"),
        (json!({"name": ""}), "/name"),
        (json!({"name": "../a"}), "/name"),
        (json!({"name": 1}), "/name"),
        (json!({"metadata": []}), "/metadata"),
        (json!({"metadata": {"k": "\0"}}), "/metadata"),
        (
            json!({"expires_at": "2026-01-31T12:00:00.123456Z"}),
            "/expires_at",
        ),
        (json!({"expires_at": "soon"}), "/expires_at"),
    ] {
        copy(&client, &file, Some(body)).await.invalid(&[pointer]);
    }
    for body in [json!([]), json!(1), json!("x")] {
        let answer = copy(&client, &file, Some(body)).await;
        answer.problem(422, "invalid-request");
    }
    let to = format!("{}/copy", path(&file));
    for body in ["{", "name=b", "{}x"] {
        let request = client.post(&to).header("content-type", "application/json");
        let answer = send(request.body(body)).await;
        answer.problem(400, "malformed-json");
    }
    let request = client.post(&to).header("content-type", "text/plain");
    let answer = send(request.body("{}")).await;
    answer.problem(415, "unsupported-media-type");
    let large = json!({"metadata": {"k": "x".repeat(4 << 20)}});
    // By a client of its own: a connection on which more was sent than was read is closed.
    let answer = copy(&service.client("acme"), &file, Some(large)).await;
    answer.problem(413, "payload-too-large");
    let request = client.post(&format!("{to}?nonsense=1"));
    send(request).await.invalid(&["/nonsense"]);
    let listed = send(client.get("/v1/files")).await.json(200);
    assert_eq!(listed["items"], json!([file]));
    service.assert_holds(1).await;
}

async fn what_is_trashed_or_not_there_is_not_copied(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let foreign = copy(&service.client("other"), &file, None).await;
    foreign.problem(404, "not-found");
    trash(&client, &file).await;
    copy(&client, &file, None).await.problem(409, "conflict");
    remove(&client, &file).await;
    copy(&client, &file, None).await.problem(404, "not-found");
    for absent in [NEVER, "x", "%00"] {
        let request = client.post(&format!("/v1/files/{absent}/copy"));
        send(request).await.problem(404, "not-found");
    }
    let query = escape("2026-01-31T13:00:00Z");
    let upload = client.post(&format!("/v1/files?name=a&expires_at={query}"));
    let brief = send(upload.body("content")).await.json(201);
    service.clock.advance(Duration::from_secs(3600));
    copy(&client, &brief, None).await.problem(404, "not-found");
    service.domain().sweep().await.unwrap();
    service.assert_holds(0).await;
}

async fn a_copy_and_its_source_change_apart(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let made = copy(&client, &file, None).await.json(201);
    let change = json!({"name": "b", "metadata": {"k": 1}});
    send(client.patch(&path(&made)).json(&change))
        .await
        .json(200);
    assert_eq!(shown(&client, &file).await, file);
    let replace = client.put(&format!("{}/content", path(&file)));
    send(replace.body("other")).await.json(200);
    assert_eq!(client.content(id(&made)).await, b"content");
    assert_eq!(client.content(id(&file)).await, b"other");
    trash(&client, &file).await;
    assert_eq!(client.content(id(&made)).await, b"content");
    // What is still in the trash is no reason to keep what the copy has.
    remove(&client, &made).await;
    service.assert_holds(1).await;
}

async fn copied_and_removed_at_once_nothing_dangles(service: &Service) {
    let client = service.client("acme");
    let mut made = Vec::new();
    for _ in 0..10 {
        let file = client.upload("a", "content").await;
        let delete = client.delete(&format!("{}?permanent=true", path(&file)));
        let (copied, deleted) = tokio::join!(copy(&client, &file, None), send(delete));
        assert_eq!(deleted.status, 204, "{deleted:?}");
        if copied.status == 201 {
            made.push(copied.json(201));
        } else {
            copied.problem(404, "not-found");
        }
    }
    service.assert_holds(made.len() as u64).await;
    for file in made {
        assert_eq!(client.content(id(&file)).await, b"content");
    }
}

async fn many_copies_at_once_share_one_object(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let copies = (0..16).map(|_| copy(&client, &file, None));
    let copies = futures::future::join_all(copies).await;
    let made: Vec<Value> = copies.iter().map(|answer| answer.json(201)).collect();
    service.assert_holds(1).await;
    let removals = made.iter().chain([&file]).map(|file| remove(&client, file));
    futures::future::join_all(removals).await;
    service.assert_holds(0).await;
}
