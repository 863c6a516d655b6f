//! Intents committed ahead: uploads that come together share a transaction, and what nobody takes goes.

use std::time::Duration;

use box_service::app;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::client::send;
use crate::harness::connection::until;
use crate::harness::raw;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    what_nobody_took_goes_with_a_clean_stop,
    what_nobody_took_for_long_is_withdrawn,
    what_a_crash_leaves_is_reaped,
    what_was_committed_long_ago_is_not_taken,
);

/// Four uploads that have begun, and three intents that are left: for each that finds none, one for
/// every upload is committed.
async fn begin_four(service: &Service) -> Vec<TcpStream> {
    let mut begun = Vec::new();
    for writing in [1, 3, 3, 7] {
        begun.push(raw::send(service, "POST /v1/files", &["content-length: 2"], b"a").await);
        until("the upload has begun", async || {
            writing_objects(service).await == writing
        })
        .await;
    }
    begun
}

async fn writing_objects(service: &Service) -> i64 {
    service.count("objects WHERE state = 'writing'").await
}

async fn finish(service: &Service, uploads: Vec<TcpStream>) {
    for mut upload in uploads {
        upload.write_all(b"b").await.unwrap();
        // Kept open, so that it is not taken for broken off.
        std::mem::forget(upload);
    }
    until("the uploads have ended", async || {
        service.count("files").await == 4
    })
    .await;
}

async fn what_nobody_took_goes_with_a_clean_stop(service: &Service) {
    let uploads = begin_four(service).await;
    finish(service, uploads).await;
    assert_eq!(writing_objects(service).await, 3);
    service.stop().await;
    assert_eq!(service.count("objects").await, 4);
}

async fn what_nobody_took_for_long_is_withdrawn(service: &Service) {
    let uploads = begin_four(service).await;
    finish(service, uploads).await;
    service.app.domain.reap().await.unwrap();
    assert_eq!(writing_objects(service).await, 3);
    // A third of the lease.
    service.clock.advance(Duration::from_secs(10));
    service.app.domain.reap().await.unwrap();
    assert_eq!(service.count("objects").await, 4);
}

async fn what_a_crash_leaves_is_reaped(service: &Service) {
    let uploads = begin_four(service).await;
    finish(service, uploads).await;
    assert_eq!(service.fsck().await.problems.len(), 0);
    // Another process knows nothing of them.
    let domain = app::open_domain(&service.app.config, false, service.clock.clone())
        .await
        .unwrap();
    service.clock.advance(Duration::from_secs(86_400));
    domain.reap().await.unwrap();
    assert_eq!(service.count("objects").await, 4);
    domain.metadata.close().await;
}

async fn what_was_committed_long_ago_is_not_taken(service: &Service) {
    let uploads = begin_four(service).await;
    finish(service, uploads).await;
    service.clock.advance(Duration::from_secs(25));
    let client = service.client("acme");
    let answer = send(client.post("/v1/files").body("fresh")).await;
    answer.json(201);
    // Its own; those that are left are the reaper's.
    assert_eq!(service.count("objects").await, 8);
    service.assert_holds(5).await;
}
