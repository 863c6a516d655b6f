//! Links: slugs that lead to files and to external URLs.

use serde_json::{Value, json};

use crate::harness::client::{Answer, Client, send};
use crate::harness::service::Service;

mod batches;
mod counting;
mod managing;
mod passwords;

const ELSEWHERE: &str = "https://example.com/a?b=c";

async fn create(client: &Client, body: Value) -> Answer {
    send(client.post("/v1/links").json(&body)).await
}

async fn made(client: &Client, body: Value) -> Value {
    create(client, body).await.json(201)
}

/// A link to an external URL.
async fn elsewhere(client: &Client, slug: &str) -> Value {
    made(client, json!({"slug": slug, "url": ELSEWHERE})).await
}

fn path(slug: &str) -> String {
    format!("/v1/links/{}", slug.replace('/', "%2F"))
}

async fn get(client: &Client, slug: &str) -> Value {
    send(client.get(&path(slug))).await.json(200)
}

async fn patch(client: &Client, slug: &str, body: Value) -> Answer {
    send(client.patch(&path(slug)).json(&body)).await
}

/// What a link answers to who has nothing but its slug.
async fn follow(service: &Service, slug: &str) -> Answer {
    send(service.stranger().get(&format!("/l/{slug}"))).await
}
