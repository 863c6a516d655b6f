//! A quota of three files.

use serde_json::json;

use super::{assert_usage, path, refused, remove, trash, upload};
use crate::harness::client::send;
use crate::harness::content::digest;
use crate::harness::raw;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    with [("BOX_QUOTA__MAX_FILES", "3"), ("BOX_VERSIONS__KEEP", "5")];
    as_many_files_are_taken_as_there_may_be,
    trash_and_copies_are_files_and_versions_are_none,
    of_many_at_once_as_many_are_taken_as_there_may_be,
);

async fn as_many_files_are_taken_as_there_may_be(service: &Service) {
    let client = service.client("acme");
    let usage = send(client.get("/v1/usage")).await.json(200);
    let empty = json!({"bytes": 0, "files": 0, "max_bytes": null, "max_files": 3});
    assert_eq!(usage, empty);
    let file = upload(&client, 0).await;
    upload(&client, 100_000).await;
    let wrong = client
        .post("/v1/files")
        .header("repr-digest", digest(b"other"));
    let answer = send(wrong.body("content")).await;
    answer.problem(422, "checksum-mismatch");
    upload(&client, 5).await;
    assert_usage(&client, 100_005, 3).await;
    refused(&client, 0).await;
    refused(&client, 10).await;
    let line = "POST /v1/files?name=a";
    for field in ["content-length: 10", "transfer-encoding: chunked"] {
        let answer = raw::exchange(service, line, &[field], b"").await;
        answer.problem(403, "quota-exceeded");
    }
    remove(&client, &file).await;
    upload(&client, 1).await;
    refused(&client, 0).await;
    assert_usage(&client, 100_006, 3).await;
    service.assert_holds(3).await;
}

async fn trash_and_copies_are_files_and_versions_are_none(service: &Service) {
    let client = service.client("acme");
    let file = upload(&client, 10).await;
    let trashed = upload(&client, 20).await;
    trash(&client, &trashed).await;
    let copy = |file| send(client.post(&format!("{}/copy", path(file))));
    let copied = copy(&file).await.json(201);
    assert_usage(&client, 40, 3).await;
    copy(&file).await.problem(403, "quota-exceeded");
    refused(&client, 1).await;
    for size in [1, 2, 3] {
        let request = client.put(&format!("{}/content", path(&file)));
        send(request.body(vec![b'y'; size])).await.json(200);
    }
    let restore = client.post(&format!("{}/versions/1/restore", path(&file)));
    send(restore).await.json(200);
    assert_usage(&client, 56, 3).await;
    remove(&client, &trashed).await;
    remove(&client, &copied).await;
    assert_usage(&client, 26, 1).await;
    service.assert_holds(4).await;
}

async fn of_many_at_once_as_many_are_taken_as_there_may_be(service: &Service) {
    let client = service.client("acme");
    let attempts = (0..16).map(|index| {
        let request = client.post(&format!("/v1/files?name={index}"));
        send(request.body("content"))
    });
    let answers = futures::future::join_all(attempts).await;
    let mut made = 0;
    for answer in answers {
        if answer.status == 201 {
            made += 1;
        } else {
            answer.problem(403, "quota-exceeded");
        }
    }
    assert_eq!(made, 3);
    assert_usage(&client, 21, 3).await;
    service.assert_holds(3).await;
}
