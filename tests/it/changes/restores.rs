//! Out of the trash.

use std::time::Duration;

use serde_json::{Value, json};

use super::{NEVER, events, path, remove, shown, trash};
use crate::harness::client::{Client, id, send};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    a_trashed_file_comes_back_as_it_was,
    restoring_what_is_live_changes_nothing,
    a_restored_file_is_kept_by_the_sweep,
    what_is_not_there_answers_404,
    restored_and_removed_at_once_it_is_one_of_both,
);

async fn restore(client: &Client, file: &Value) -> Value {
    let answer = send(client.post(&format!("{}/restore", path(file)))).await;
    let restored = answer.json(200);
    assert_eq!(
        answer.header("etag"),
        format!("\"{}\"", restored["revision"])
    );
    restored
}

async fn a_trashed_file_comes_back_as_it_was(service: &Service) {
    let client = service.client("acme");
    let mut file = client.upload("a", "content").await;
    service.clock.advance(Duration::from_secs(5));
    trash(&client, &file).await;
    service.clock.advance(Duration::from_secs(5));
    let restored = restore(&client, &file).await;
    file["revision"] = json!(3);
    file["updated_at"] = json!("2026-01-31T12:00:10.123456Z");
    assert_eq!(restored, file);
    assert_eq!(shown(&client, &file).await, file);
    assert_eq!(client.content(id(&file)).await, b"content");
    let listed = send(client.get("/v1/files")).await.json(200);
    assert_eq!(listed["items"], json!([file]));
    let trashed = send(client.get("/v1/files?trashed=true")).await.json(200);
    assert_eq!(trashed["items"], json!([]));
    assert_eq!(
        events(service, &file).await,
        ["file.created", "file.trashed", "file.restored"]
    );
    service.assert_holds(1).await;
}

async fn restoring_what_is_live_changes_nothing(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    service.clock.advance(Duration::from_secs(5));
    for _ in 0..2 {
        assert_eq!(restore(&client, &file).await, file);
    }
    assert_eq!(events(service, &file).await, ["file.created"]);
    let path = format!("{}/restore?nonsense=1", path(&file));
    send(client.post(&path)).await.invalid(&["/nonsense"]);
}

async fn a_restored_file_is_kept_by_the_sweep(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    trash(&client, &file).await;
    let day = Duration::from_secs(86_400);
    service.clock.advance(day * 29);
    restore(&client, &file).await;
    service.clock.advance(day * 2);
    assert_eq!(service.domain().sweep().await.unwrap(), 0);
    // The thirty days begin anew.
    trash(&client, &file).await;
    service.clock.advance(day * 29);
    assert_eq!(service.domain().sweep().await.unwrap(), 0);
    assert_eq!(restore(&client, &file).await["revision"], 5);
    assert_eq!(client.content(id(&file)).await, b"content");
    service.assert_holds(1).await;
}

async fn what_is_not_there_answers_404(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    trash(&client, &file).await;
    let trashed = shown(&client, &file).await;
    let foreign = service
        .client("other")
        .post(&format!("{}/restore", path(&file)));
    send(foreign).await.problem(404, "not-found");
    assert_eq!(shown(&client, &file).await, trashed);
    remove(&client, &file).await;
    for id in [id(&file), NEVER, "x", "%00"] {
        let request = client.post(&format!("/v1/files/{id}/restore"));
        send(request).await.problem(404, "not-found");
    }
    // What expired in the trash is past help.
    let file = client.upload("b", "content").await;
    let soon = service
        .clock
        .now()
        .plus(Duration::from_secs(60))
        .to_string();
    let change = client
        .patch(&path(&file))
        .json(&json!({"expires_at": soon}));
    send(change).await.json(200);
    trash(&client, &file).await;
    service.clock.advance(Duration::from_secs(60));
    let request = client.post(&format!("{}/restore", path(&file)));
    send(request).await.problem(404, "not-found");
    service.domain().sweep().await.unwrap();
    service.assert_holds(0).await;
}

async fn restored_and_removed_at_once_it_is_one_of_both(service: &Service) {
    let client = service.client("acme");
    let mut left = 0;
    for _ in 0..10 {
        let file = client.upload("a", "content").await;
        trash(&client, &file).await;
        let restore = client.post(&format!("{}/restore", path(&file)));
        let remove = client.delete(&format!("{}?permanent=true", path(&file)));
        let again = client.delete(&path(&file));
        let (restored, removed, again) = tokio::join!(send(restore), send(remove), send(again));
        assert!(matches!(restored.status, 200 | 404), "{restored:?}");
        assert_eq!(removed.status, 204, "{removed:?}");
        assert!(matches!(again.status, 204 | 404), "{again:?}");
        left += u64::from(send(client.get(&path(&file))).await.status == 200);
    }
    assert_eq!(left, 0, "what was removed for good is there");
    service.assert_holds(0).await;
}
