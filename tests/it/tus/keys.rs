//! What tus uploads share with others: Idempotency-Keys, and how many of a tenant run at a time.

use reqwest::RequestBuilder;
use serde_json::json;

use super::{BYTES, begun, create, head, offset, patch, tus};
use crate::harness::client::{Client, send};
use crate::harness::connection::{Raw, until};
use crate::harness::raw;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    who_asks_again_with_a_key_gets_the_upload_that_was_begun,
    equal_requests_at_the_same_time_begin_one_upload,
);

mod places {
    use super::*;

    on_every_pair!(
        with [("BOX_LIMITS__UPLOADS_PER_TENANT", "1")];
        an_upload_takes_a_place_while_its_bytes_come,
    );
}

fn keyed(client: &Client, key: &str, length: usize) -> RequestBuilder {
    tus(client.post("/v1/uploads/tus"))
        .header("idempotency-key", key)
        .header("upload-length", length)
        .header("upload-metadata", "filename YQ==")
}

async fn who_asks_again_with_a_key_gets_the_upload_that_was_begun(service: &Service) {
    let client = service.client("acme");
    let path = begun(send(keyed(&client, "a", 3)).await);
    assert_eq!(begun(send(keyed(&client, "a", 3)).await), path);
    assert_ne!(begun(send(keyed(&client, "b", 3)).await), path);
    // Of another tenant's it is another key.
    let other = service.client("other");
    assert_ne!(begun(send(keyed(&other, "a", 3)).await), path);
    for another in [
        keyed(&client, "a", 4),
        keyed(&client, "a", 3).header("upload-metadata", "x"),
        tus(client.post("/v1/uploads/tus"))
            .header("idempotency-key", "a")
            .header("upload-defer-length", 1)
            .header("upload-metadata", "filename YQ=="),
    ] {
        let answer = send(another).await;
        assert!(matches!(answer.status, 400 | 422), "{}", answer.text());
    }
    let bytes = keyed(&client, "c", 3)
        .header("content-type", BYTES)
        .body("abc");
    send(bytes).await.invalid(&["/Idempotency-Key"]);
    // It says how far the upload is now, and what became of it.
    assert_eq!(send(patch(&client, &path, 0, b"ab")).await.status, 204);
    let again = send(keyed(&client, "a", 3)).await;
    assert_eq!((again.status, again.header("upload-offset")), (201, "2"));
    let ended = send(patch(&client, &path, 2, b"c")).await;
    let again = send(keyed(&client, "a", 3)).await;
    assert_eq!(again.header("box-file-id"), ended.header("box-file-id"));
    // One that was given up is not begun anew: its key has been used.
    assert_eq!(send(tus(client.delete(&path))).await.status, 204);
    assert_eq!(begun(send(keyed(&client, "a", 3)).await), path);
    assert_eq!(head(&client, &path).await.status, 404);
    // Nor is an empty file made twice.
    let empty = send(keyed(&client, "empty", 0)).await;
    let again = send(keyed(&client, "empty", 0)).await;
    assert_eq!(again.header("box-file-id"), empty.header("box-file-id"));
    service.assert_holds(2).await;
}

async fn equal_requests_at_the_same_time_begin_one_upload(service: &Service) {
    let client = service.client("acme");
    let requests = (0..8).map(|_| send(keyed(&client, "a", 3)));
    let answers = futures::future::join_all(requests).await;
    let paths: std::collections::BTreeSet<String> = answers.into_iter().map(begun).collect();
    assert_eq!(paths.len(), 1);
    let page = send(client.get("/v1/uploads")).await.json(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
}

async fn an_upload_takes_a_place_while_its_bytes_come(service: &Service) {
    let client = service.client("acme");
    let (first, second) = (create(&client, 6).await, create(&client, 3).await);
    let fields = [
        "tus-resumable: 1.0.0",
        &format!("content-type: {BYTES}"),
        "upload-offset: 0",
        "content-length: 6",
    ];
    let line = format!("PATCH {first}");
    let mut slow = Raw::over(raw::send(service, &line, &fields, b"abc").await);
    let refused = &service.app.domain.metrics.refusals.uploads;
    // Looked at from outside: a request that tried would itself have the place now and then.
    let writing = || async {
        service
            .count("uploads WHERE writer_until IS NOT NULL")
            .await
            > 0
    };
    until("an upload is written to", writing).await;
    let before = refused.get();
    let answer = send(patch(&client, &second, 0, b"abc")).await;
    answer.problem(429, "rate-limited");
    let bytes = tus(client.post("/v1/uploads/tus")).header("upload-length", 3);
    let bytes = bytes.header("content-type", BYTES).body("abc");
    send(bytes).await.problem(429, "rate-limited");
    assert_eq!(refused.get(), before + 2);
    // Who brings no bytes takes none, and others have their own.
    let third = create(&client, 3).await;
    let other = service.client("other");
    let path = create(&other, 3).await;
    assert_eq!(send(patch(&other, &path, 0, b"abc")).await.status, 204);
    slow.send("def").await;
    assert_eq!(slow.head().await.0, 204);
    assert_eq!(send(patch(&client, &second, 0, b"abc")).await.status, 204);
    assert_eq!(offset(&client, &third).await, "0");
    let page = send(client.get("/v1/uploads")).await.json(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    assert_eq!(page["items"][0]["offset"], json!(0));
}
