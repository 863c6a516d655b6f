//! Earlier contents that become the current one again, where two are kept.

use std::time::Duration;

use serde_json::json;

use super::{
    content_path, earlier, named, numbers, path, put, remove, replace, shown, tag, versions,
};
use crate::harness::client::{id, send};
use crate::harness::content::{MIB, noise, sha256};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    with [("BOX_VERSIONS__KEEP", "2")];
    a_restored_version_is_a_new_one_with_the_old_bytes,
    a_restored_version_counts_among_those_kept,
    the_oldest_may_be_restored,
    restored_by_many_at_once_all_bytes_stay,
    parameters_of_a_restore_are_checked,
);

async fn a_restored_version_is_a_new_one_with_the_old_bytes(service: &Service) {
    let client = service.client("acme");
    let content = noise(2 * MIB);
    let request = client.post("/v1/files?name=a");
    let request = request
        .header("content-type", "a/old")
        .body(content.clone());
    let file = send(request).await.json(201);
    let old_tag = tag(&client, &file).await;
    service.clock.advance(Duration::from_secs(1));
    let request = client.put(&content_path(&file));
    let request = request.header("content-type", "a/new").body("new");
    send(request).await.json(200);
    service.clock.advance(Duration::from_secs(1));

    let request = named(service, "restorer").post(&format!("{}/versions/1/restore", path(&file)));
    let restored = send(request).await.json(200);
    let mut expected = file.clone();
    expected["version"] = json!(3);
    expected["revision"] = json!(3);
    expected["updated_at"] = json!("2026-01-31T12:00:02.123456Z");
    assert_eq!(restored, expected);
    assert_eq!(shown(&client, &file).await, expected);
    let answer = send(client.get(&content_path(&file))).await;
    assert!(answer.body == content);
    assert_eq!(answer.header("content-type"), "a/old");
    // No bytes moved: what has them cached has them.
    assert_eq!(answer.header("etag"), old_tag);

    let listed = versions(&client, &file).await;
    assert_eq!(numbers(&listed), [3, 2, 1]);
    assert_eq!(listed[0]["current"], true);
    assert_eq!(listed[2]["current"], false);
    assert_eq!(listed[0]["sha256"], sha256(&content));
    assert_eq!(listed[0]["created_by"], "restorer");
    assert_eq!(earlier(&client, &file, 2).await.body, b"new");
    assert!(earlier(&client, &file, 1).await.body == content);
    service.assert_holds(2).await;
}

async fn a_restored_version_counts_among_those_kept(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "A").await;
    replace(&client, &file, "B").await;
    let restore = client.post(&format!("{}/versions/1/restore", path(&file)));
    send(restore).await.json(200);
    service.assert_holds(2).await;
    // 1 goes, and 3 has its bytes.
    replace(&client, &file, "C").await;
    assert_eq!(numbers(&versions(&client, &file).await), [4, 3, 2]);
    assert_eq!(earlier(&client, &file, 3).await.body, b"A");
    service.assert_holds(3).await;
    // With 2 the bytes of B go.
    replace(&client, &file, "D").await;
    assert_eq!(numbers(&versions(&client, &file).await), [5, 4, 3]);
    earlier(&client, &file, 2).await.problem(404, "not-found");
    service.assert_holds(3).await;
    replace(&client, &file, "E").await;
    replace(&client, &file, "F").await;
    service.assert_holds(3).await;
    assert_eq!(client.content(id(&file)).await, b"F");
    remove(&client, &file).await;
    service.assert_holds(0).await;
}

async fn the_oldest_may_be_restored(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "1").await;
    replace(&client, &file, "2").await;
    replace(&client, &file, "3").await;
    // It would be the one too many, and must not be trimmed away under its own restore.
    let restore = client.post(&format!("{}/versions/1/restore", path(&file)));
    assert_eq!(send(restore).await.json(200)["version"], 4);
    assert_eq!(numbers(&versions(&client, &file).await), [4, 3, 2]);
    service.settle().await;
    assert_eq!(client.content(id(&file)).await, b"1");
    service.assert_holds(3).await;
}

async fn restored_by_many_at_once_all_bytes_stay(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "1").await;
    replace(&client, &file, "2").await;
    let attempts = (0..6).map(|index| {
        let version = index % 2 + 1;
        send(client.post(&format!("{}/versions/{version}/restore", path(&file))))
    });
    let (answers, replaced) = tokio::join!(
        futures::future::join_all(attempts),
        put(&client, &file, "3")
    );
    replaced.json(200);
    for answer in answers {
        // Who comes late may find the version trimmed.
        if answer.status != 200 {
            answer.problem(404, "not-found");
        }
    }
    service.settle().await;
    for version in versions(&client, &file).await {
        let content = earlier(&client, &file, &version["version"]).await;
        assert_eq!(sha256(&content.body), version["sha256"]);
    }
    let now = shown(&client, &file).await;
    assert_eq!(sha256(&client.content(id(&file)).await), now["sha256"]);
}

async fn parameters_of_a_restore_are_checked(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "1").await;
    replace(&client, &file, "2").await;
    let restore = format!("{}/versions/1/restore?nonsense=1", path(&file));
    send(client.post(&restore)).await.invalid(&["/nonsense"]);
    let content = format!("{}/versions/1/content?nonsense=1", path(&file));
    send(client.get(&content)).await.invalid(&["/nonsense"]);
    assert_eq!(numbers(&versions(&client, &file).await), [2, 1]);
}
