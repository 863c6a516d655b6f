//! New contents under the same id, and the earlier ones that are kept.

mod ages;
mod earlier;
mod in_flight;
mod refusals;
mod replacing;
mod restoring;

use serde_json::Value;

use crate::harness::client::{Answer, Client, id, send};
use crate::harness::service::Service;

const NEVER: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn path(file: &Value) -> String {
    format!("/v1/files/{}", id(file))
}

fn content_path(file: &Value) -> String {
    format!("{}/content", path(file))
}

/// The File as it is now.
async fn shown(client: &Client, file: &Value) -> Value {
    send(client.get(&path(file))).await.json(200)
}

/// The content's tag as it is now.
async fn tag(client: &Client, file: &Value) -> String {
    let head = send(client.head(&content_path(file))).await;
    assert_eq!(head.status, 200);
    head.header("etag").to_owned()
}

async fn put(client: &Client, file: &Value, content: impl Into<Vec<u8>>) -> Answer {
    send(client.put(&content_path(file)).body(content.into())).await
}

/// The File after its content was replaced.
async fn replace(client: &Client, file: &Value, content: impl Into<Vec<u8>>) -> Value {
    put(client, file, content).await.json(200)
}

/// The list of versions, whole.
async fn versions(client: &Client, file: &Value) -> Vec<Value> {
    let page = send(client.get(&format!("{}/versions", path(file))));
    let page = page.await.json(200);
    assert_eq!(page["next_cursor"], Value::Null);
    page["items"].as_array().unwrap().clone()
}

fn numbers(versions: &[Value]) -> Vec<u64> {
    let number = |version: &Value| version["version"].as_u64().unwrap();
    versions.iter().map(number).collect()
}

/// What is answered for the content of a version.
async fn earlier(client: &Client, file: &Value, version: impl std::fmt::Display) -> Answer {
    let path = format!("{}/versions/{version}/content", path(file));
    send(client.get(&path)).await
}

async fn remove(client: &Client, file: &Value) {
    let path = format!("{}?permanent=true", path(file));
    assert_eq!(send(client.delete(&path)).await.status, 204);
}

/// A client of the tenant `acme` with every scope, under a name of its own.
fn named(service: &Service, subject: &str) -> Client {
    let hour = std::time::Duration::from_secs(3600);
    let tenant = "acme".parse().unwrap();
    let scopes = box_service::auth::Scope::ALL;
    let tokens = &service.app.tokens;
    let token = tokens.issue(&tenant, subject, scopes, hour).unwrap();
    Client::new(&service.url, Some(token))
}
