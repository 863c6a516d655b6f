//! Clients that others wrote, against the binary: the connection breaks, and they go on where they were.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use super::head;
use crate::harness::binary::Binary;
use crate::harness::client::send;
use crate::harness::content::{MIB, noise, sha256};
use crate::harness::proxy::Proxy;
use crate::harness::service::Pair;

/// What scripts/test --install has put there.
fn tools() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    target.parent().unwrap().join("tools")
}

/// A client that uploads a file, as `tests/clients` has it.
struct Program {
    file: &'static str,
    interpreter: PathBuf,
    modules: Option<PathBuf>,
}

fn tus_js_client() -> Program {
    Program {
        file: "tus.cjs",
        interpreter: "node".into(),
        modules: Some(tools().join("clients/node_modules")),
    }
}

fn tuspy() -> Program {
    Program {
        file: "tus.py",
        interpreter: tools().join("tus/bin/python"),
        modules: None,
    }
}

impl Program {
    /// False where the test is to be skipped.
    fn is_there(&self) -> bool {
        let there = self.modules.as_ref().unwrap_or(&self.interpreter).exists();
        let required = std::env::var("BOXTEST_REQUIRE").is_ok_and(|value| value == "1");
        assert!(
            there || !required,
            "what {} needs is missing: run scripts/test --install",
            self.file
        );
        there
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.interpreter);
        command
            .arg(format!(
                "{}/tests/clients/{}",
                env!("CARGO_MANIFEST_DIR"),
                self.file
            ))
            .args(arguments)
            .env("NO_PROXY", "*")
            .stdin(Stdio::null());
        if let Some(modules) = &self.modules {
            command.env("NODE_PATH", modules);
        }
        let run = tokio::task::spawn_blocking(move || command.output());
        run.await.unwrap().unwrap()
    }
}

async fn resumes(program: Program, pair: Pair) {
    if !program.is_there() {
        return;
    }
    let Some(binary) = Binary::over(pair, &[]).await else {
        return;
    };
    let _running = binary.start().await;
    let scopes = "files:read files:write";
    let (client, token) = (binary.client(scopes), binary.token(scopes));
    let proxy = Proxy::to(binary.address().to_owned()).await;
    let endpoint = format!("http://{}/v1/uploads/tus", proxy.address);
    let bytes = noise(9 * MIB + 17);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (file, store) = (path("file"), path("store"));
    std::fs::write(&file, &bytes).unwrap();

    // One that gives up: what came is kept.
    proxy.breaks_after(3 * MIB);
    let run = program
        .run(&[&endpoint, &token, &file, &store, "once"])
        .await;
    assert!(!run.status.success() && proxy.has_broken(), "{run:?}");
    let page = send(client.get("/v1/uploads")).await.json(200);
    let begun = &page["items"][0];
    let offset = begun["offset"].as_u64().unwrap();
    assert!(offset >= 2 * MIB as u64, "{begun}");

    // Another run goes on with it, and by itself where the connection breaks once more.
    proxy.breaks_after(3 * MIB);
    let run = program
        .run(&[&endpoint, &token, &file, &store, "patient"])
        .await;
    assert!(run.status.success() && proxy.has_broken(), "{run:?}");
    let url = String::from_utf8(run.stdout).unwrap();
    let id = begun["id"].as_str().unwrap();
    assert!(url.trim().ends_with(id), "{url} is not {id}");
    let ended = head(&client, &format!("/v1/uploads/tus/{id}")).await;
    let file = ended.header("box-file-id");
    let file = send(client.get(&format!("/v1/files/{file}")))
        .await
        .json(200);
    assert_eq!(file["sha256"], sha256(&bytes));
    assert_eq!(file["content_type"], "application/x-tus");
    assert!(client.content(file["id"].as_str().unwrap()).await == bytes);
    // Nothing was begun twice.
    let files = send(client.get("/v1/files")).await.json(200);
    assert_eq!(files["items"].as_array().unwrap().len(), 1);
    let page = send(client.get("/v1/uploads")).await.json(200);
    assert_eq!(page["items"], json!([]));
}

macro_rules! on_both_stores {
    ($($program:ident),+) => {
        $(mod $program {
            use super::{Pair, resumes};

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite_local() {
                resumes(super::$program(), Pair::SqliteLocal).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres_s3() {
                resumes(super::$program(), Pair::PostgresS3).await;
            }
        })+
    };
}

on_both_stores!(tus_js_client, tuspy);
