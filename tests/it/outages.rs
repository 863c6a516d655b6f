//! The database or the store is away: requests fail in time and say so, the process stays, and once it
//! is back all goes on by itself.

use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use serde_json::json;
use url::Url;

use crate::harness::client::{Client, id, send};
use crate::harness::connection::until;
use crate::harness::proxy::{Proxy, Way};
use crate::harness::service::{Pair, Service, on_every_pair};

on_every_pair!(
    requests_fail_in_time_while_the_database_is_away,
    requests_fail_in_time_while_the_store_is_away,
    a_database_that_is_gone_for_good_is_replaced,
);

/// A wait for a connection, a statement that is given up, and as much again for giving up what was
/// begun; and some, for a busy machine.
const DATABASE_GIVES_UP: Duration = Duration::from_secs(15);

/// The same for the store, a call of which takes 15 s at most: one that fails, and one that cleans up.
const STORE_GIVES_UP: Duration = Duration::from_secs(50);

/// A service over the same parts, whose database is behind the proxy. None on SQLite.
async fn behind_proxy(service: &Service) -> Option<(Service, Proxy)> {
    if service.pair == Pair::SqliteLocal {
        return None;
    }
    let mut url: Url = service.variable("BOX_DATABASE__URL").parse().unwrap();
    // A socket in the file system is not the way here.
    let host = url.host_str()?.to_owned();
    let port = url.port().unwrap_or(5432);
    let proxy = Proxy::to(format!("{host}:{port}")).await;
    let (host, port) = proxy.address.split_once(':').unwrap();
    url.set_host(Some(host)).unwrap();
    url.set_port(port.parse().ok()).unwrap();
    let changes = [
        ("BOX_DATABASE__URL", url.as_str()),
        ("BOX_DATABASE__TIMEOUT", "1s"),
    ];
    Some((service.another_with(&changes).await, proxy))
}

async fn until_ready_is(service: &Service, status: u16) {
    until(&format!("ready is {status}"), || async {
        send(service.stranger().get("/health/ready")).await.status == status
    })
    .await;
}

async fn fails(request: RequestBuilder, within: Duration) {
    let began = Instant::now();
    let answer = send(request).await;
    let took = began.elapsed();
    answer.problem(503, "unavailable");
    let retry_after: u64 = answer.header("retry-after").parse().unwrap();
    assert!(retry_after > 0);
    assert!(took < within, "it took {took:?}");
}

fn content(client: &Client, file: &str) -> RequestBuilder {
    client.get(&format!("/v1/files/{file}/content"))
}

async fn requests_fail_in_time_while_the_database_is_away(service: &Service) {
    let Some((behind, proxy)) = behind_proxy(service).await else {
        return;
    };
    let client = behind.client("acme");
    let file = client.upload("a", "content").await;
    let path = format!("/v1/files/{}", id(&file));
    until_ready_is(&behind, 200).await;
    for way in [Way::Closed, Way::Silent] {
        proxy.is(way);
        for request in [
            client.get("/v1/files"),
            client.get(&path),
            content(&client, id(&file)),
            client.post("/v1/files?name=lost").body("lost"),
            client.patch(&path).json(&json!({"name": "b"})),
            client.delete(&path),
        ] {
            fails(request, DATABASE_GIVES_UP).await;
        }
        until_ready_is(&behind, 503).await;
        send(behind.stranger().get("/health/live")).await.json(200);
        let health = send(behind.stranger().get("/health")).await.json(503);
        assert_eq!(health["parts"]["store"]["status"], "ok");
        assert_ne!(health["parts"]["database"]["status"], "ok");

        proxy.is(Way::Open);
        until_ready_is(&behind, 200).await;
        assert_eq!(client.content(id(&file)).await, b"content");
        client.upload("again", "again").await;
    }
    behind.stop().await;
    service.assert_holds(3).await;
}

async fn requests_fail_in_time_while_the_store_is_away(service: &Service) {
    let Some(endpoint) = service
        .variables
        .iter()
        .find(|(name, _)| name == "BOX_STORE__ENDPOINT")
    else {
        return;
    };
    let proxy = Proxy::to(endpoint.1.trim_start_matches("http://").to_owned()).await;
    let endpoint = format!("http://{}", proxy.address);
    let behind = service
        .another_with(&[("BOX_STORE__ENDPOINT", &endpoint)])
        .await;
    let client = behind.client("acme");
    let file = client.upload("a", "content").await;
    let large = client.upload("large", vec![7; 9 << 20]).await;
    until_ready_is(&behind, 200).await;
    for way in [Way::Closed, Way::Silent] {
        proxy.is(way);
        let upload = client.post("/v1/files?name=lost").body("lost");
        let parts = client.post("/v1/files?name=lost").body(vec![1; 20 << 20]);
        tokio::join!(
            fails(upload, STORE_GIVES_UP),
            fails(parts, STORE_GIVES_UP),
            fails(content(&client, id(&file)), STORE_GIVES_UP),
        );
        // What needs no bytes is not disturbed.
        send(client.get("/v1/files")).await.json(200);
        until_ready_is(&behind, 503).await;
        send(behind.stranger().get("/health/live")).await.json(200);
        let health = send(behind.stranger().get("/health")).await.json(503);
        assert_eq!(health["parts"]["database"]["status"], "ok");
        assert_ne!(health["parts"]["store"]["status"], "ok");

        proxy.is(Way::Open);
        until_ready_is(&behind, 200).await;
        assert_eq!(client.content(id(&large)).await, vec![7; 9 << 20]);
        client.upload("again", "again").await;
    }
    behind.stop().await;
    service.assert_holds(4).await;
}

/// What was under way is given up like what comes later, and keeps no place.
async fn a_database_that_is_gone_for_good_is_replaced(service: &Service) {
    let Some((behind, proxy)) = behind_proxy(service).await else {
        return;
    };
    let client = behind.client("acme");
    client.upload("a", "content").await;
    // More than there are connections, so that some wait, some ask, and some give theirs back.
    let callers = (0..20).map(|_| async {
        loop {
            let began = Instant::now();
            let answer = send(client.get("/v1/files")).await;
            if answer.status != 200 {
                answer.problem(503, "unavailable");
                let took = began.elapsed();
                assert!(took < DATABASE_GIVES_UP, "it took {took:?}");
                return;
            }
        }
    });
    let end = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.is(Way::Silent);
    };
    tokio::join!(futures::future::join_all(callers), end);
    proxy.is_replaced();
    until_ready_is(&behind, 200).await;
    let requests = (0..100).map(|_| async { send(client.get("/v1/files")).await.json(200) });
    futures::future::join_all(requests).await;
    behind.stop().await;
    service.assert_holds(1).await;
}
