//! Uses, exactly, and replicas that agree.

use futures::FutureExt;
use serde_json::json;

use super::{ELSEWHERE, elsewhere, follow, get, made, patch, path};
use crate::harness::client::{id, send};
use crate::harness::service::{Pair, Service, on_every_pair};

on_every_pair!(
    a_link_is_used_as_often_as_it_may_be,
    what_is_no_use_is_not_counted,
    uses_are_written_at_a_clean_stop,
    uses_outlive_who_was_to_write_them,
    a_link_that_is_made_anew_was_never_used,
    a_change_reaches_other_replicas,
);

async fn a_link_is_used_as_often_as_it_may_be(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("f", "content").await;
    made(
        &client,
        json!({"slug": "u", "url": ELSEWHERE, "max_uses": 10}),
    )
    .await;
    made(
        &client,
        json!({"slug": "f", "file_id": id(&file), "max_uses": 10}),
    )
    .await;
    // SQLite is one process's.
    let other = match service.pair {
        Pair::SqliteLocal => None,
        _ => Some(service.another().await),
    };
    // To make a client takes longer than a request may.
    let here = service.stranger();
    let there = other.as_ref().map_or(here.clone(), Service::stranger);
    for (slug, good) in [("u", 302), ("f", 200)] {
        let requests = (0..64).map(|n| {
            let client = if n % 2 == 0 { &here } else { &there };
            send(client.get(&format!("/l/{slug}")))
        });
        let answers = futures::future::join_all(requests).await;
        let with = |status| answers.iter().filter(|it| it.status == status).count();
        assert_eq!((with(good), with(410)), (10, 54), "{slug}");
        let link = get(&client, slug).await;
        assert_eq!(
            (&link["uses"], &link["state"]),
            (&json!(10), &json!("spent"))
        );
    }
    patch(&client, "u", json!({"max_uses": 11})).await.json(200);
    assert_eq!(follow(service, "u").await.status, 302);
    follow(service, "u").await.problem(410, "gone");
    if let Some(other) = other {
        other.stop().await;
    }
}

async fn what_is_no_use_is_not_counted(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("f", "content").await;
    made(
        &client,
        json!({"slug": "f", "file_id": id(&file), "max_uses": 3}),
    )
    .await;
    let stranger = service.stranger();
    let first = follow(service, "f").await;
    let tag = first.header("etag");
    for (request, status) in [
        (stranger.head("/l/f"), 200),
        (stranger.get("/l/f").header("if-none-match", tag), 304),
        (stranger.get("/l/f").header("range", "bytes=1-"), 206),
        (stranger.get("/l/f").header("range", "bytes=9-"), 416),
        (stranger.get("/l/f").header("if-match", "\"x\""), 412),
    ] {
        assert_eq!(send(request).await.status, status);
    }
    assert_eq!(get(&client, "f").await["uses"], 1);
    for range in ["bytes=0-2", "bytes=3-3,0-1"] {
        let answer = send(stranger.get("/l/f").header("range", range)).await;
        assert_eq!(answer.status, 206);
    }
    assert_eq!(get(&client, "f").await["uses"], 3);
    follow(service, "f").await.problem(410, "gone");
}

async fn uses_are_written_at_a_clean_stop(service: &Service) {
    let client = service.client("acme");
    elsewhere(&client, "x").await;
    for _ in 0..5 {
        assert_eq!(follow(service, "x").await.status, 302);
    }
    let used = service.clock.now();
    service.app.domain.link_uses_flush().await.unwrap();
    let link = get(&client, "x").await;
    assert_eq!(
        (&link["uses"], &link["last_used_at"]),
        (&json!(5), &json!(used.to_string()))
    );
    for _ in 0..3 {
        follow(service, "x").await;
    }
    service.stop().await;
    let config = &service.app.config;
    let domain = box_service::app::open_domain(config, false, service.clock.clone())
        .await
        .unwrap();
    let link = domain.link_get(&"acme".parse().unwrap(), "x").await;
    assert_eq!(link.unwrap().unwrap().uses, 8);
    domain.metadata.close().await;
}

/// A request that is cut off, or a worker that is stopped, in the middle of it.
async fn uses_outlive_who_was_to_write_them(service: &Service) {
    let client = service.client("acme");
    elsewhere(&client, "x").await;
    let domain = service.domain();
    for uses in 1..=20 {
        assert_eq!(follow(service, "x").await.status, 302);
        let _cut_off = domain.link_uses_flush().now_or_never();
        domain.link_uses_flush().await.unwrap();
        assert_eq!(get(&client, "x").await["uses"], uses);
    }
}

async fn a_link_that_is_made_anew_was_never_used(service: &Service) {
    let client = service.client("acme");
    elsewhere(&client, "x").await;
    follow(service, "x").await;
    assert_eq!(send(client.delete(&path("x"))).await.status, 204);
    service.clock.advance(std::time::Duration::from_secs(1));
    elsewhere(&client, "x").await;
    service.app.domain.link_uses_flush().await.unwrap();
    assert_eq!(get(&client, "x").await["uses"], 0);
}

/// What is told by the database comes by itself; without it, memory is believed for 5 s.
async fn a_change_reaches_other_replicas(service: &Service) {
    if service.pair == Pair::SqliteLocal {
        return;
    }
    let client = service.client("acme");
    elsewhere(&client, "x").await;
    let other = service.another().await;
    for disabled in [true, false, true] {
        let expected = if disabled { 410 } else { 302 };
        follow(&other, "x").await;
        patch(&client, "x", json!({"disabled": disabled}))
            .await
            .json(200);
        let reached = async {
            while follow(&other, "x").await.status != expected {
                tokio::task::yield_now().await;
            }
        };
        let patience = std::time::Duration::from_secs(60);
        tokio::time::timeout(patience, reached).await.unwrap();
    }
    other.stop().await;
}
