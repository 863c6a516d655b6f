//! `Idempotency-Key`: who asks again gets the answer that was given, and nothing is made twice.

mod failures;
mod keys;
mod lifetimes;
mod replays;
mod simultaneous;

use reqwest::RequestBuilder;
use serde_json::Value;

use crate::harness::client::{Answer, Client, send};
use crate::harness::service::Service;

const KEY: &str = "idempotency-key";

/// An upload under this key.
fn upload(client: &Client, key: &str, name: &str, content: &str) -> RequestBuilder {
    let request = client.post(&format!("/v1/files?name={name}"));
    request.header(KEY, key).body(content.to_owned())
}

/// All that a replay must repeat.
fn told(answer: &Answer) -> (u16, String, String, String, Value) {
    (
        answer.status,
        answer.header("location").to_owned(),
        answer.header("etag").to_owned(),
        answer.header("content-type").to_owned(),
        answer.json(201),
    )
}

/// Sends the same again, which must be answered the same.
async fn replay(request: RequestBuilder, first: &Answer) {
    let again = send(request).await;
    assert_eq!(told(&again), told(first));
    assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
}

async fn files(client: &Client) -> usize {
    let page = send(client.get("/v1/files?limit=1000")).await.json(200);
    page["items"].as_array().unwrap().len()
}

/// A client of the tenant `acme` with every scope, under a name of its own.
fn named(service: &Service, subject: &str) -> Client {
    let month = std::time::Duration::from_secs(30 * 86_400);
    let tenant = "acme".parse().unwrap();
    let scopes = box_service::auth::Scope::ALL;
    let tokens = &service.app.tokens;
    let token = tokens.issue(&tenant, subject, scopes, month).unwrap();
    Client::new(&service.url, Some(token))
}
