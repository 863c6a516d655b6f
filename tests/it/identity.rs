//! Tokens of issuers: which are taken, from whom, with which keys, and what becomes of requests when
//! keys change or the issuer can't be asked. What the database and the store are makes no difference
//! here, so the embedded pair stands for all.

use std::time::Duration;

use box_service::auth::{Scope, Tokens};
use box_service::clock::{Clock, Timestamp};
use serde_json::{Value, json};

use crate::harness::client::{Answer, Client, send};
use crate::harness::issuer::{Issuer, Key};
use crate::harness::service::{Pair, Service};

mod claims;
mod keys;
mod outages;

const HOUR: Duration = Duration::from_secs(3_600);
const NOT_VALID: &str = "The token is not valid.";

/// A service that takes tokens of these issuers, each an entry of `auth.issuers`, and its own.
async fn service(issuers: &[Value]) -> Service {
    service_with(issuers, &[]).await
}

async fn service_with(issuers: &[Value], variables: &[(&str, &str)]) -> Service {
    let issuers = json!(issuers).to_string();
    let variables = [&[("BOX_AUTH__ISSUERS", issuers.as_str())], variables].concat();
    let service = Service::start_with(Pair::SqliteLocal, &variables).await;
    service.expect("SQLite is always there")
}

/// A service with one issuer that has one key.
async fn one_of_each(kid: &str) -> (Service, Issuer, Key) {
    let key = Key::p256(kid);
    let issuer = Issuer::start(&[&key]).await;
    let service = service(&[issuer.settings(json!({}))]).await;
    (service, issuer, key)
}

async fn me(service: &Service, token: &str) -> Answer {
    let client = Client::new(&service.url, Some(token.to_owned()));
    send(client.get("/v1/me")).await
}

/// Refused, and told as little as every other.
async fn assert_refused(service: &Service, token: &str, why: &str) {
    let answer = me(service, token).await;
    assert_eq!(answer.status, 401, "{why}: {}", answer.text());
    let problem = answer.problem(401, "unauthenticated");
    assert_eq!(problem["detail"], NOT_VALID, "{why}");
    assert_eq!(answer.header("www-authenticate"), "Bearer");
}

async fn assert_taken(service: &Service, token: &str, why: &str) {
    let answer = me(service, token).await;
    assert_eq!(answer.status, 200, "{why}: {}", answer.text());
}

async fn assert_unavailable(service: &Service, token: &str) {
    let answer = me(service, token).await;
    answer.problem(503, "unavailable");
    assert!(!answer.header("retry-after").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_secrets_are_taken_and_the_first_signs() {
    let (old, new) = (
        "the secret that was before: 32 bytes and more",
        "the secret that comes behind: as long at least",
    );
    let clock = Clock::manual(Timestamp::parse("2026-01-31T12:00:00Z").unwrap());
    let signed_with = |secret: &str| {
        let secrets = secret.parse().unwrap();
        let tokens = Tokens::new(Some(&secrets), &[], clock.clone()).unwrap();
        let tenant = "acme".parse().unwrap();
        tokens.issue(&tenant, "ann", &[], HOUR).unwrap()
    };
    let both = format!("{new},{old}");
    let service = service_with(&[], &[("BOX_AUTH__SECRET", &both)]).await;
    assert_taken(&service, &signed_with(old), "the secret that goes").await;
    assert_taken(&service, &signed_with(new), "the secret that comes").await;
    let signed = service.token("acme", &[Scope::FilesRead]);
    assert_taken(&service, &signed, "the service's own").await;

    let later = service.another_with(&[("BOX_AUTH__SECRET", new)]).await;
    assert_taken(&later, &signed, "signed with the first").await;
    assert_refused(&later, &signed_with(old), "the secret that went").await;
    later.stop().await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_until_it_ends_however_often_it_was_used() {
    let (service, issuer, key) = one_of_each("a").await;
    let soon = 60 + service.clock.now().as_secs();
    let token = key.token(&issuer.claims(json!({ "exp": soon })));
    let own = service.token("acme", &[]);
    for seconds in [0, 30, 59] {
        service.clock.advance(Duration::from_secs(seconds));
        assert_taken(&service, &token, "before its end").await;
        assert_taken(&service, &own, "the service's own").await;
    }
    service.clock.advance(Duration::from_secs(1));
    let answer = me(&service, &token).await;
    let problem = answer.problem(401, "unauthenticated");
    assert_eq!(problem["detail"], "The token has expired.");
    assert_taken(&service, &own, "the service's own").await;
    service.clock.advance(Duration::from_secs(366 * 86_400));
    let late = me(&service, &own).await.problem(401, "unauthenticated");
    assert_eq!(late["detail"], "The token has expired.");
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_of_an_issuer_open_what_they_say() {
    let (service, issuer, key) = one_of_each("a").await;
    let writer = key.token(&issuer.claims(json!({"scope": "openid files:write"})));
    let client = Client::new(&service.url, Some(writer));
    client.upload("a", "x").await;
    let problem = send(client.get("/v1/files"))
        .await
        .problem(403, "forbidden");
    assert!(problem["detail"].as_str().unwrap().contains("files:read"));
    let reader = key.token(&issuer.claims(json!({})));
    let client = Client::new(&service.url, Some(reader));
    let page = send(client.get("/v1/files")).await.json(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    assert_eq!(page["items"][0]["created_by"], "ann");
    service.end().await;
}
