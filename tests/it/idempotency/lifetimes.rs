//! How long an answer is remembered.

use std::time::Duration;

use super::{files, replay, upload};
use crate::harness::client::{id, send};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    an_answer_is_remembered_for_24_hours,
    a_sweep_forgets_no_answer_too_early,
    what_is_forgotten_may_be_asked_anew,
);

const DAY: Duration = Duration::from_secs(86_400);
const MOMENT: Duration = Duration::from_micros(1);

async fn an_answer_is_remembered_for_24_hours(service: &Service) {
    let client = service.client("acme");
    let request = || upload(&client, "k1", "a", "content");
    let first = send(request()).await;
    service.clock.advance(DAY - MOMENT);
    replay(request(), &first).await;
    // A replay makes it last no longer.
    service.clock.advance(MOMENT);
    let second = send(request()).await;
    assert_ne!(id(&second.json(201)), id(&first.json(201)));
    replay(request(), &second).await;
    assert_eq!(files(&client).await, 2);
    service.assert_holds(2).await;
}

async fn a_sweep_forgets_no_answer_too_early(service: &Service) {
    let client = service.client("acme");
    let request = || upload(&client, "k1", "a", "content");
    let first = send(request()).await;
    for _ in 0..3 {
        service.clock.advance(DAY / 4);
        service.domain().sweep().await.unwrap();
        service.domain().reap().await.unwrap();
        replay(request(), &first).await;
    }
    service.clock.advance(DAY / 4);
    service.domain().sweep().await.unwrap();
    let second = send(request()).await;
    assert_ne!(id(&second.json(201)), id(&first.json(201)));
    service.assert_holds(2).await;
}

async fn what_is_forgotten_may_be_asked_anew(service: &Service) {
    let client = service.client("acme");
    let first = send(upload(&client, "k1", "a", "content")).await;
    first.json(201);
    service.clock.advance(DAY);
    let other = send(upload(&client, "k1", "b", "other")).await;
    assert_eq!(other.json(201)["name"], "b");
    replay(upload(&client, "k1", "b", "other"), &other).await;
    let old = send(upload(&client, "k1", "a", "content")).await;
    old.invalid(&["/Idempotency-Key"]);
    service.assert_holds(2).await;
}
