//! Files that expire: unseen from that moment on, and removed by the sweep.

use std::time::Duration;

use serde_json::Value;

use super::deletes::events;
use crate::harness::client::{Client, id, send};
use crate::harness::content::escape;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    an_expired_file_is_unseen_before_it_is_swept,
    the_sweep_removes_what_expired_and_nothing_else,
    a_trashed_file_expires_too,
    more_files_expire_than_one_batch_holds,
);

const HOUR: Duration = Duration::from_secs(3600);

async fn upload(service: &Service, client: &Client, lifetime: Duration) -> Value {
    let time = escape(&(service.clock.now().plus(lifetime)).to_string());
    let request = client.post(&format!("/v1/files?name=a&expires_at={time}"));
    send(request.body("content")).await.json(201)
}

async fn listed(client: &Client) -> usize {
    let mut count = 0;
    for trashed in ["false", "true"] {
        for sort in ["name", "-created_at"] {
            let path = format!("/v1/files?limit=1000&trashed={trashed}&sort={sort}");
            let page = send(client.get(&path)).await.json(200);
            count += page["items"].as_array().unwrap().len();
        }
    }
    count / 2
}

async fn an_expired_file_is_unseen_before_it_is_swept(service: &Service) {
    let client = service.client("acme");
    let file = upload(service, &client, HOUR).await;
    let path = format!("/v1/files/{}", id(&file));
    let moment = Duration::from_micros(1);
    service.clock.advance(HOUR - moment);
    assert_eq!(send(client.get(&path)).await.json(200), file);
    assert_eq!(listed(&client).await, 1);

    service.clock.advance(moment);
    assert_eq!(listed(&client).await, 0);
    for request in [
        client.get(&path),
        client.get(&path).header("if-none-match", "\"1\""),
        client.get(&format!("{path}/content")),
        client.get(&format!("{path}/content?redirect=true")),
        client.delete(&path),
        client.delete(&format!("{path}?permanent=true")),
        client.delete(&path).header("if-match", "\"1\""),
    ] {
        send(request).await.problem(404, "not-found");
    }
    assert_eq!(events(service, &file).await, ["file.created"]);
    service.assert_holds(1).await;
}

async fn the_sweep_removes_what_expired_and_nothing_else(service: &Service) {
    let client = service.client("acme");
    let file = upload(service, &client, HOUR).await;
    let later = upload(service, &client, 1000 * HOUR).await;
    let forever = client.upload("b", "content").await;
    assert_eq!(service.app.domain.sweep().await.unwrap(), 0);
    service.clock.advance(HOUR);
    assert_eq!(service.app.domain.sweep().await.unwrap(), 1);
    assert_eq!(service.app.domain.sweep().await.unwrap(), 0);
    assert_eq!(
        events(service, &file).await,
        ["file.created", "file.expired"]
    );
    service.assert_holds(2).await;
    for kept in [&later, &forever] {
        assert_eq!(client.content(id(kept)).await, b"content");
        assert_eq!(events(service, kept).await, ["file.created"]);
    }
}

async fn a_trashed_file_expires_too(service: &Service) {
    let client = service.client("acme");
    let file = upload(service, &client, HOUR).await;
    let path = format!("/v1/files/{}", id(&file));
    service.clock.advance(HOUR / 2);
    assert_eq!(send(client.delete(&path)).await.status, 204);
    assert_eq!(listed(&client).await, 1);
    service.clock.advance(HOUR / 2);
    assert_eq!(listed(&client).await, 0);
    for path in [path.clone(), format!("{path}/content")] {
        send(client.get(&path)).await.problem(404, "not-found");
    }
    assert_eq!(service.app.domain.sweep().await.unwrap(), 1);
    let actions = events(service, &file).await;
    assert_eq!(actions, ["file.created", "file.trashed", "file.expired"]);
    service.assert_holds(0).await;
}

async fn more_files_expire_than_one_batch_holds(service: &Service) {
    let client = service.client("acme");
    for _ in 0..120 {
        upload(service, &client, HOUR).await;
    }
    client.upload("kept", "content").await;
    service.clock.advance(HOUR);
    assert_eq!(listed(&client).await, 1);
    assert_eq!(service.app.domain.sweep().await.unwrap(), 120);
    service.assert_holds(1).await;
}
