//! The service is killed in the middle of a thousand items, again and again: each ends exactly once.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::{OPEN, get, items};
use crate::harness::binary::Binary;
use crate::harness::client::send;
use crate::harness::origin::{Act, Origin, ok};
use crate::harness::service::Pair;

const ITEMS: usize = 1_000;
const KILLS: usize = 3;

async fn kills(pair: Pair) {
    let settings = [OPEN[0], ("BOX_REAPER__INTERVAL", "1s")];
    let Some(binary) = Binary::over(pair, &settings).await else {
        return;
    };
    let origin = Origin::start().await;
    let urls: Vec<Value> = (0..ITEMS)
        .map(|number| {
            let content = format!("content of {number}");
            let answer = vec![
                Act::Wait(Duration::from_millis(20)),
                ok("", content.as_bytes()),
            ];
            json!({"url": origin.answers(&format!("/{number}"), vec![answer])})
        })
        .collect();
    let mut running = binary.start().await;
    let client = binary.client("files:read imports:read imports:write");
    let body = json!({"items": urls});
    let import = send(client.post("/v1/imports").json(&body)).await.json(202);
    for kill in 1..=KILLS {
        // Somewhere within: not before some are done, nor after all.
        let enough = i64::try_from(ITEMS * kill / (KILLS + 2)).unwrap();
        while get(&client, &import).await["counts"]["done"]
            .as_i64()
            .unwrap()
            < enough
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        running.kill();
        running = binary.start().await;
        assert_eq!(get(&client, &import).await["state"], "running");
    }
    let mut now = Value::Null;
    for _ in 0..1_500 {
        now = get(&client, &import).await;
        if now["state"] != "running" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(
        (&now["state"], &now["counts"]["done"]),
        (&json!("done"), &json!(ITEMS)),
        "{now}"
    );

    let found = items(&client, &import).await;
    let files: BTreeSet<&str> = found
        .iter()
        .map(|item| item["file_id"].as_str().unwrap())
        .collect();
    assert_eq!(files.len(), ITEMS);
    let page = send(client.get("/v1/files?limit=1000")).await.json(200);
    let listed: BTreeSet<&str> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["id"].as_str().unwrap())
        .collect();
    assert!(listed == files && page["next_cursor"].is_null());
    for item in found.iter().step_by(97) {
        let wanted = format!("content of {}", item["index"]);
        assert_eq!(
            client.content(item["file_id"].as_str().unwrap()).await,
            wanted.as_bytes()
        );
    }
    running.kill();
    binary.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_local() {
    kills(Pair::SqliteLocal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_local() {
    kills(Pair::PostgresLocal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_s3() {
    kills(Pair::PostgresS3).await;
}
