//! A request that made nothing holds no key.

use serde_json::json;

use super::{KEY, files, replay, upload};
use crate::harness::client::{id, send};
use crate::harness::connection::until;
use crate::harness::content::digest;
use crate::harness::raw;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    a_request_that_failed_frees_its_key,
    a_copy_that_failed_frees_its_key,
    a_client_that_hung_up_frees_its_key,
    a_body_that_broke_off_frees_its_key,
);

async fn a_request_that_failed_frees_its_key(service: &Service) {
    let client = service.client("acme");
    let wrong = upload(&client, "k1", "a", "content").header("repr-digest", digest(b"other"));
    send(wrong).await.problem(422, "checksum-mismatch");
    // The very same fails the same way, as often as it comes.
    let wrong = upload(&client, "k1", "a", "content").header("repr-digest", digest(b"other"));
    send(wrong).await.problem(422, "checksum-mismatch");
    let form = client.post("/v1/files").header(KEY, "k1");
    let form = form.header("content-type", "multipart/form-data; boundary=b");
    send(form.body("--b\r\n")).await.problem(400, "bad-request");
    for query in ["name=..", "nonsense=1"] {
        let request = client.post(&format!("/v1/files?{query}")).header(KEY, "k1");
        send(request.body("x"))
            .await
            .problem(422, "invalid-request");
    }
    let first = send(upload(&client, "k1", "a", "content")).await;
    first.json(201);
    replay(upload(&client, "k1", "a", "content"), &first).await;
    // Nor does a failure take the answer away.
    let wrong = upload(&client, "k1", "a", "content").header("repr-digest", digest(b"other"));
    send(wrong).await.problem(422, "invalid-request");
    replay(upload(&client, "k1", "a", "content"), &first).await;
    assert_eq!(files(&client).await, 1);
    service.assert_holds(1).await;
}

async fn a_copy_that_failed_frees_its_key(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let path = format!("/v1/files/{}", id(&file));
    let copy = || client.post(&format!("{path}/copy")).header(KEY, "k1");
    let invalid = copy().json(&json!({"name": ""}));
    send(invalid).await.invalid(&["/name"]);
    assert_eq!(send(client.delete(&path)).await.status, 204);
    send(copy()).await.problem(409, "conflict");
    let restore = client.post(&format!("{path}/restore"));
    send(restore).await.json(200);
    let first = send(copy()).await;
    first.json(201);
    replay(copy(), &first).await;
    assert_eq!(files(&client).await, 2);
    service.assert_holds(1).await;
}

async fn until_nothing_is_written(service: &Service) {
    until("what was begun is given up", || async {
        service.count("objects WHERE state = 'writing'").await == 0
    })
    .await;
}

async fn a_client_that_hung_up_frees_its_key(service: &Service) {
    let client = service.client("acme");
    let fields = [
        "idempotency-key: k1",
        "content-length: 7",
        "content-type: a/b",
    ];
    for _ in 0..3 {
        let cut_off = raw::send(service, "POST /v1/files?name=a", &fields, b"cont").await;
        until("the upload has begun", || async {
            service.count("objects WHERE state = 'writing'").await > 0
        })
        .await;
        drop(cut_off);
        until_nothing_is_written(service).await;
    }
    let request = || upload(&client, "k1", "a", "content").header("content-type", "a/b");
    let first = send(request()).await;
    first.json(201);
    replay(request(), &first).await;
    service.assert_holds(1).await;
}

async fn a_body_that_broke_off_frees_its_key(service: &Service) {
    let client = service.client("acme");
    let fields = ["idempotency-key: k1", "transfer-encoding: chunked"];
    for body in [&b"5\r\nbegunXX"[..], b"zz\r\n"] {
        let line = "POST /v1/files?name=a";
        let answer = raw::exchange(service, line, &fields, body).await;
        answer.problem(400, "bad-request");
        let other = send(upload(&client, "k1", "b", "other")).await;
        let file = other.json(201);
        let path = format!("/v1/files/{}?permanent=true", id(&file));
        assert_eq!(send(client.delete(&path)).await.status, 204);
        service.assert_holds(0).await;
        service
            .clock
            .advance(std::time::Duration::from_secs(86_400));
    }
}
