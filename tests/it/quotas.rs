//! How much a tenant may keep, and how much it is said to keep.

mod accounts;
mod bytes;
mod contention;
mod counts;
mod history;

use serde_json::{Value, json};

use crate::harness::client::{Client, id, send};
use crate::harness::connection::until;
use crate::harness::service::Service;

fn path(file: &Value) -> String {
    format!("/v1/files/{}", id(file))
}

/// The tenant's usage is this many bytes in this many files.
async fn assert_usage(client: &Client, bytes: u64, files: u64) {
    let usage = send(client.get("/v1/usage")).await.json(200);
    assert_eq!(
        (&usage["bytes"], &usage["files"]),
        (&json!(bytes), &json!(files)),
        "{usage}"
    );
    assert_eq!(usage.as_object().unwrap().len(), 4, "{usage}");
}

async fn upload(client: &Client, size: usize) -> Value {
    client.upload("a", vec![b'x'; size]).await
}

/// An upload of so many bytes, which there is no room for.
async fn refused(client: &Client, size: usize) {
    let request = client.post("/v1/files?name=a").body(vec![b'x'; size]);
    send(request).await.problem(403, "quota-exceeded");
}

async fn trash(client: &Client, file: &Value) {
    assert_eq!(send(client.delete(&path(file))).await.status, 204);
}

async fn remove(client: &Client, file: &Value) {
    let path = format!("{}?permanent=true", path(file));
    assert_eq!(send(client.delete(&path)).await.status, 204);
}

async fn until_written(service: &Service, objects: i64) {
    until("as many uploads run", || async {
        service.count("objects WHERE state = 'writing'").await == objects
    })
    .await;
}
