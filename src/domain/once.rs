//! Requests that are done once, however often they are sent (the `Idempotency-Key` header).
//!
//! A request claims its key in the transaction that records its intent, and records what it made in
//! the one that makes it. Who comes meanwhile waits; who comes later is told the same. A claim lasts
//! as long as the lease of the object that is being written for it, so that a crash frees it.

use std::time::Duration;

use futures::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::metadata::Conn;
use crate::metadata::idempotency::{Done, Record, RequestKey};

use super::content::{Claim, too_large};
use super::{Caller, Domain};

/// How long a key is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 3_600);

/// How long the second of two equal requests waits for the first, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// A request that is to be done once.
#[derive(Clone, Debug)]
pub struct Once {
    /// Its `operationId`.
    pub route: &'static str,
    /// The caller's own.
    pub key: String,
    /// SHA-256 of all that was known of the request before its body.
    pub fingerprint: [u8; 32],
}

/// What is known of a key.
pub(super) enum Key {
    Free,
    /// Its request is done no more, or was forgotten: since when.
    Abandoned(Timestamp),
    Done(Done),
}

impl Once {
    pub(super) fn key(&self, caller: &Caller) -> RequestKey {
        RequestKey {
            tenant: caller.tenant.clone(),
            subject: caller.subject.clone(),
            route: self.route,
            key: self.key.clone(),
        }
    }
}

impl Domain {
    /// What became of the request with this key, once it does not run any more.
    ///
    /// # Errors
    /// `InvalidRequest` when the key was used for another request; `StillRunning` when the other
    /// one takes too long.
    pub(super) async fn once_look(&self, once: &Once, key: &RequestKey) -> Result<Key> {
        let until = self.clock.now().plus(PATIENCE);
        loop {
            let record = self
                .metadata
                .reader()
                .await?
                .conn()
                .idempotency_get(key)
                .await?;
            let now = self.clock.now();
            match record {
                None => return Ok(Key::Free),
                Some(record) if self.once_expired() >= record.created_at => {
                    return Ok(Key::Abandoned(record.created_at));
                }
                Some(Record { fingerprint, .. }) if fingerprint != once.fingerprint => {
                    return Err(another_request());
                }
                Some(Record {
                    done: Some(done), ..
                }) => return Ok(Key::Done(done)),
                Some(record) if record.lease_until.is_none_or(|until| until <= now) => {
                    return Ok(Key::Abandoned(record.created_at));
                }
                Some(_) if now >= until => {
                    return Err(Error::new(
                        Kind::StillRunning,
                        "The first request with this Idempotency-Key is still running.",
                    ));
                }
                Some(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Keys that were claimed by then are forgotten.
    pub(super) fn once_expired(&self) -> Timestamp {
        self.clock.now().minus(REMEMBERED)
    }

    /// What the first request made, for a second one whose body is still to come.
    ///
    /// # Errors
    /// `InvalidRequest` when its body is another one.
    pub(super) async fn once_replay<T: DeserializeOwned>(
        &self,
        done: &Done,
        mut source: impl Stream<Item = Result<Bytes>> + Send + Unpin,
    ) -> Result<T> {
        let most = self.rules.limits.max_file_size.bytes();
        let mut hasher = Sha256::new();
        let mut size = 0;
        while let Some(chunk) = source.next().await {
            let chunk = chunk?;
            size += chunk.len() as u64;
            if size > most {
                return Err(too_large(most));
            }
            hasher.update(&chunk);
        }
        made(done, &hasher.finalize().into())
    }
}

/// What the first request made, for a second one whose body is this.
pub(super) fn made<T: DeserializeOwned>(done: &Done, body_sha256: &[u8; 32]) -> Result<T> {
    if done.body_sha256 != *body_sha256 {
        return Err(another_request());
    }
    serde_json::from_str(&done.result).map_err(Error::internal)
}

/// Records, in the transaction that makes it, what a request with a key made; one without has nothing to
/// record. False where another request has the key: nothing may be made.
pub(super) async fn record(
    tx: &mut Conn<'_>,
    claim: Option<&Claim>,
    made: &(impl Serialize + Sync),
    now: Timestamp,
    expired: Timestamp,
) -> Result<bool> {
    let Some((key, fingerprint, abandoned)) = claim else {
        return Ok(true);
    };
    if let Some(since) = abandoned {
        tx.idempotency_forget(key, *since, expired).await?;
    }
    let done = done(*fingerprint, made)?;
    tx.idempotency_record(key, fingerprint, &done, now).await
}

pub(super) fn done(body_sha256: [u8; 32], result: &impl Serialize) -> Result<Done> {
    Ok(Done {
        body_sha256,
        result: serde_json::to_string(result).map_err(Error::internal)?,
    })
}

fn another_request() -> Error {
    Error::invalid(
        "/Idempotency-Key",
        "was used for another request within the last 24 hours",
    )
}
