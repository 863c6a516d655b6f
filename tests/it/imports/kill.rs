//! The service is killed in the middle of a thousand items, again and again: each ends exactly once.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{OPEN, get, items};
use crate::harness::client::{Client, send};
use crate::harness::origin::{Act, Origin, ok};
use crate::harness::service::{Pair, Parts};

const ITEMS: usize = 1_000;
const KILLS: usize = 3;

/// The binary, over one database and one store.
struct Binary {
    variables: Vec<(String, String)>,
    url: String,
    _parts: Parts,
}

impl Binary {
    async fn over(pair: Pair) -> Option<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = port.local_addr().unwrap().to_string();
        drop(port);
        let settings = [
            OPEN[0],
            ("BOX_LISTEN", address.as_str()),
            ("BOX_REAPER__INTERVAL", "1s"),
            ("BOX_DATABASE__MAX_CONNECTIONS", "20"),
            ("BOX_LOG__LEVEL", "warn"),
        ];
        let (parts, variables) = Parts::create(pair, &settings).await?;
        Some(Self {
            url: format!("http://{address}"),
            variables,
            _parts: parts,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_box"));
        command
            .args(arguments)
            .env_clear()
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    fn token(&self) -> String {
        let scopes = "files:read imports:read imports:write";
        let arguments = [
            "token",
            "--tenant",
            "acme",
            "--subject",
            "tester",
            "--scopes",
            scopes,
            "--ttl",
            "1h",
        ];
        let output = self.command(&arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().last().unwrap().to_owned()
    }

    async fn start(&self) -> Child {
        let mut child = self
            .command(&["serve"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let stranger = Client::new(&self.url, None);
        for _ in 0..600 {
            let ready = stranger.get("/health/ready").send().await;
            if ready.is_ok_and(|answer| answer.status() == 200) {
                return child;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("the service is not ready");
    }
}

async fn kills(pair: Pair) {
    let Some(binary) = Binary::over(pair).await else {
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
    let mut child = binary.start().await;
    let client = Client::new(&binary.url, Some(binary.token()));
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
        child.kill().unwrap();
        child.wait().unwrap();
        child = binary.start().await;
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
    child.kill().unwrap();
    child.wait().unwrap();
    let fsck = binary
        .command(&["fsck", "--verify-checksums"])
        .output()
        .unwrap();
    assert!(fsck.status.success(), "{fsck:?}");
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
