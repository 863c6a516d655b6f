//! Events and the deployment.

use box_service::clock::Timestamp;
use box_service::id::EventId;
use box_service::metadata::Conn;
use box_service::metadata::deployment::Deployment;
use box_service::metadata::events::Event;
use futures::future::join_all;
use serde_json::json;
use uuid::Uuid;

use super::{Fixture, MICROSECOND, at, tenant};

conformance!(
    events_are_told_in_order,
    an_event_belongs_to_its_tenant_and_target,
    an_event_is_recorded_once,
    a_deployment_is_claimed_once,
    one_of_many_claims_the_deployment,
    a_deployment_is_marked,
);

fn event(number: u128, at: Timestamp, action: &'static str) -> Event {
    Event {
        id: EventId::from_uuid(Uuid::from_u128(number)),
        tenant: tenant("acme"),
        at,
        subject: "somebody".to_owned(),
        action,
        target: "one".to_owned(),
        request_id: None,
        remote_ip: None,
        detail: json!({}),
    }
}

async fn record(fixture: &Fixture, event: Event) {
    change!(fixture.metadata, event, |tx, event| tx.event_insert(event))
        .await
        .unwrap();
}

async fn actions(fixture: &Fixture, name: &str, target: &str) -> Vec<String> {
    let mut reader = fixture.reader().await;
    reader
        .conn()
        .event_actions(&tenant(name), target)
        .await
        .unwrap()
}

async fn events_are_told_in_order(fixture: Fixture) {
    assert!(actions(&fixture, "acme", "one").await.is_empty());
    record(&fixture, event(1, at(30), "last")).await;
    record(&fixture, event(4, at(10), "second")).await;
    record(&fixture, event(3, at(10), "first")).await;
    record(&fixture, event(2, at(10).plus(MICROSECOND), "third")).await;
    let told = actions(&fixture, "acme", "one").await;
    assert_eq!(told, ["first", "second", "third", "last"]);
}

async fn an_event_belongs_to_its_tenant_and_target(fixture: Fixture) {
    record(&fixture, event(1, at(10), "mine")).await;
    let mut strange = event(2, at(10), "another's");
    strange.tenant = tenant("other");
    strange.request_id = Some("request".to_owned());
    strange.remote_ip = Some("2001:db8::1".to_owned());
    strange.detail = json!([{ "é": [1, null, "\u{10ffff}"] }, 1.5]);
    record(&fixture, strange).await;
    let mut elsewhere = event(3, at(10), "elsewhere");
    elsewhere.target = "two".to_owned();
    elsewhere.detail = json!(null);
    record(&fixture, elsewhere).await;
    assert_eq!(actions(&fixture, "acme", "one").await, ["mine"]);
    assert_eq!(actions(&fixture, "other", "one").await, ["another's"]);
    assert_eq!(actions(&fixture, "acme", "two").await, ["elsewhere"]);
}

async fn an_event_is_recorded_once(fixture: Fixture) {
    record(&fixture, event(1, at(10), "first")).await;
    let again = event(1, at(11), "second");
    let recorded = change!(fixture.metadata, again, |tx, event| tx.event_insert(event));
    assert!(recorded.await.is_err());
    assert_eq!(actions(&fixture, "acme", "one").await, ["first"]);
}

async fn a_deployment_is_claimed_once(fixture: Fixture) {
    let claim = |environment, number| {
        change!(fixture.metadata, |tx| tx
            .deployment_claim(environment, Uuid::from_u128(number)))
    };
    let first = Deployment {
        environment: "production".to_owned(),
        database_id: Uuid::from_u128(1),
        marked: false,
        raising: 0,
    };
    assert_eq!(claim("production", 1).await.unwrap(), first);
    // Who comes later is told whose it is.
    assert_eq!(claim("staging", 2).await.unwrap(), first);
    const COUNT: &str = "SELECT COUNT(*) FROM deployment";
    let rows: i64 = match fixture.reader().await.conn() {
        Conn::Sqlite(mut c) => sqlx::query_scalar(COUNT)
            .fetch_one(c.ready().await.unwrap())
            .await
            .unwrap(),
        Conn::Postgres(c, _) => sqlx::query_scalar(COUNT).fetch_one(c).await.unwrap(),
    };
    assert_eq!(rows, 1);
}

async fn one_of_many_claims_the_deployment(fixture: Fixture) {
    let claims = (1..=8).map(|number| {
        change!(fixture.metadata, |tx| tx
            .deployment_claim("production", Uuid::from_u128(number)))
    });
    let claims = join_all(claims).await;
    let mut claimed = claims.into_iter().map(|claim| claim.unwrap());
    let first = claimed.next().unwrap();
    assert!(claimed.all(|other| other == first));
}

async fn a_deployment_is_marked(fixture: Fixture) {
    let claim = || {
        change!(fixture.metadata, |tx| tx
            .deployment_claim("production", Uuid::from_u128(1)))
    };
    assert!(!claim().await.unwrap().marked);
    for _ in 0..2 {
        change!(fixture.metadata, |tx| tx.deployment_mark())
            .await
            .unwrap();
        assert!(claim().await.unwrap().marked);
    }
}
