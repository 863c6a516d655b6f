//! Imports: lists of URLs, against origins that behave and origins that don't.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::client::{Client, send};
use crate::harness::service::Service;

mod guard;
mod keeping;
mod kill;
mod origins;
mod queue;
mod receiving;
mod tls;
mod watching;

/// Origins of tests are on this machine.
pub const OPEN: [(&str, &str); 1] = [("BOX_FETCH__ALLOW_NETWORKS", "127.0.0.0/8")];

/// Longer than anything here takes on a busy machine: who waits as long waits for ever.
const PATIENCE: Duration = Duration::from_secs(120);

/// An import of these URLs.
pub async fn start(client: &Client, urls: &[String]) -> Value {
    let items: Vec<Value> = urls.iter().map(|url| json!({"url": url})).collect();
    let body = json!({"items": items});
    send(client.post("/v1/imports").json(&body)).await.json(202)
}

pub async fn get(client: &Client, import: &Value) -> Value {
    let path = format!("/v1/imports/{}", import["id"].as_str().unwrap());
    send(client.get(&path)).await.json(200)
}

/// `cancel` or `retry`; the import as it is then.
pub async fn act(client: &Client, import: &Value, what: &str) -> Value {
    let path = format!("/v1/imports/{}/{what}", import["id"].as_str().unwrap());
    send(client.post(&path)).await.json(200)
}

/// Waits until the import is as it should be. What it waits for must come by itself.
pub async fn until(client: &Client, import: &Value, is: impl Fn(&Value) -> bool) -> Value {
    let wait = async {
        loop {
            let now = get(client, import).await;
            if is(&now) {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(now) => now,
        Err(_) => panic!("{} does not become so", get(client, import).await),
    }
}

/// The import once it has ended. Time passes meanwhile, so that pauses are over.
pub async fn done(service: &Service, client: &Client, import: &Value) -> Value {
    let now = until(client, import, |now| {
        // Not past the leases of what is being fetched.
        if now["state"] == "running" && now["counts"]["fetching"] == 0 {
            service.clock.advance(Duration::from_millis(500));
        }
        now["state"] != "running"
    })
    .await;
    assert_exact(service, &now).await;
    now
}

/// Whether the counts are what there is.
pub async fn assert_exact(service: &Service, import: &Value) {
    let id = import["id"].as_str().unwrap();
    let id = match service.pair {
        crate::harness::service::Pair::SqliteLocal => format!("x'{}'", id.replace('-', "")),
        _ => format!("'{id}'"),
    };
    let mut total = 0;
    for state in ["pending", "fetching", "done", "failed", "cancelled"] {
        let rows = service
            .count(&format!(
                "import_items WHERE import_id = {id} AND state = '{state}'"
            ))
            .await;
        assert_eq!(import["counts"][state], rows, "{state} of {import}");
        total += rows;
    }
    assert_eq!(import["counts"]["total"], total);
}

/// All items of an import.
pub async fn items(client: &Client, import: &Value) -> Vec<Value> {
    let path = format!("/v1/imports/{}/items", import["id"].as_str().unwrap());
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = send(client.get(&format!("{path}?limit=1000{cursor}")))
            .await
            .json(200);
        all.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}
