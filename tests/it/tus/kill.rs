//! The service is killed in the middle of a PATCH: what was recorded is there, and the upload goes on.

use std::time::Duration;

use reqwest::RequestBuilder;

use super::{BYTES, begun, head, patch, tus};
use crate::harness::binary::Binary;
use crate::harness::client::{Client, send};
use crate::harness::connection::{Raw, request};
use crate::harness::content::{MIB, noise, sha256};
use crate::harness::service::Pair;

/// More than is recorded at a time, so that a kill finds some that is and some that is not.
const SIZE: usize = 80 * MIB;

const SCOPES: &str = "files:read files:write";

/// Longer than the lease of a writer that was killed.
const PATIENCE: Duration = Duration::from_secs(90);

async fn offset(client: &Client, path: &str) -> usize {
    let answer = head(client, path).await;
    assert_eq!(answer.status, 200);
    answer.header("upload-offset").parse().unwrap()
}

/// Sends it again until the writer before has lost its lease.
async fn once_free(make: impl Fn() -> RequestBuilder) -> String {
    let patience = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = send(make()).await;
        if answer.status == 204 {
            return answer.header("upload-offset").to_owned();
        }
        assert_eq!(answer.status, 423, "{}", answer.text());
        assert!(tokio::time::Instant::now() < patience, "it stays locked");
    }
}

/// Begins a PATCH of all that is left, and sends `sent` bytes of it.
async fn begin(binary: &Binary, path: &str, bytes: &[u8], at: usize, sent: usize) -> Raw {
    let lines = format!(
        "tus-resumable: 1.0.0\r\ncontent-type: {BYTES}\r\nupload-offset: {at}\r\ncontent-length: {}\r\n",
        bytes.len() - at
    );
    let mut connection = Raw::open(binary.address()).await;
    let token = binary.token(SCOPES);
    connection
        .send(request("PATCH", path, &token, &lines))
        .await;
    connection.send(&bytes[at..at + sent]).await;
    connection
}

async fn killed(pair: Pair) {
    let settings = [("BOX_STORE__LEASE", "30s"), ("BOX_REAPER__INTERVAL", "1s")];
    let Some(binary) = Binary::over(pair, &settings).await else {
        return;
    };
    let mut running = binary.start().await;
    let client = binary.client(SCOPES);
    let bytes = noise(SIZE);
    let request = tus(client.post("/v1/uploads/tus")).header("upload-length", SIZE);
    let path = begun(send(request).await);
    let first = MIB + 1;
    let answer = send(patch(&client, &path, 0, &bytes[..first])).await;
    assert_eq!(answer.status, 204, "{}", answer.text());

    // Before anything of the second request is recorded.
    let connection = begin(&binary, &path, &bytes, first, 5 * MIB).await;
    running.kill();
    drop(connection);
    running = binary.start().await;
    assert_eq!(offset(&client, &path).await, first);
    let second = 6 * MIB;
    let now = once_free(|| patch(&client, &path, first, &bytes[first..second])).await;
    assert_eq!(now, second.to_string());

    // Once some of the next one is.
    let connection = begin(&binary, &path, &bytes, second, SIZE - second - 1).await;
    let patience = tokio::time::Instant::now() + PATIENCE;
    while offset(&client, &path).await == second {
        assert!(
            tokio::time::Instant::now() < patience,
            "nothing is recorded"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.kill();
    drop(connection);
    // Where there are replicas, another one goes on.
    let other = (pair != Pair::SqliteLocal).then(|| binary.another());
    let binary = other.as_ref().unwrap_or(&binary);
    running = binary.start().await;
    let client = binary.client(SCOPES);
    let third = offset(&client, &path).await;
    assert!(third > second && third < SIZE, "{third}");
    let now = once_free(|| patch(&client, &path, third, &bytes[third..])).await;
    assert_eq!(now, SIZE.to_string());

    let ended = head(&client, &path).await;
    let id = ended.header("box-file-id");
    let file = send(client.get(&format!("/v1/files/{id}"))).await.json(200);
    assert_eq!(file["sha256"], sha256(&bytes));
    assert!(client.content(id).await == bytes);
    running.kill();
    binary.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_local() {
    killed(Pair::SqliteLocal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_local() {
    killed(Pair::PostgresLocal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_s3() {
    killed(Pair::PostgresS3).await;
}
