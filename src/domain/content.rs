//! Bytes on their way into an object: intent, lease, hash, and the store.

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::id::{ObjectId, Tenant};
use crate::metadata::idempotency::RequestKey;
use crate::metadata::objects::{FIRST_EPOCH, Intent};
use crate::metadata::usage::Change;
use crate::metrics::Active;
use crate::objects::{Lease, Writer};

use super::Domain;
use super::ahead::{Ready, UnderWay};
use super::quota::{self, Reservation};

/// Bytes gathered while the ones before them are hashed and written: an upload holds two such batches at most.
pub(super) const BATCH: usize = 1024 * 1024;

/// In bytes: a chunk below that is small.
const SMALL: usize = 16 * 1024;

/// Below this a hop to another thread costs more than the hash.
const HASH_INLINE: u64 = 16 * 1024;

/// A key that a request claims, its fingerprint, and since when an abandoned request has had it.
pub(super) type Claim = (RequestKey, [u8; 32], Option<Timestamp>);

/// What is about to be written.
pub(super) struct Planned<'a> {
    pub tenant: &'a Tenant,
    /// In bytes, where the caller said so.
    pub declared: Option<u64>,
    /// Files that it adds: 1, or 0 for another content of one that is there.
    pub files: i64,
    pub claim: Option<Claim>,
}

/// An object whose row says `writing`, and that has no bytes yet.
pub(super) struct Intended {
    id: ObjectId,
    tenant: Tenant,
    declared: Option<u64>,
    claimed: Option<RequestKey>,
    /// In bytes.
    reserved: u64,
    lease: Lease,
    keeper: Keeper,
    under_way: Option<UnderWay>,
}

/// An object whose bytes are durable at its key, and whose row still says `writing`.
pub(super) struct Written {
    pub id: ObjectId,
    /// In bytes.
    pub size: u64,
    pub sha256: [u8; 32],
    pub claimed: Option<RequestKey>,
    /// Whether every call to the store has ended: if not, its bytes may arrive once more.
    pub settled: bool,
    /// Nothing of the quota is held for it.
    pub unreserved: bool,
    tenant: Tenant,
    keeper: Keeper,
}

/// Renews the lease of an object for as long as it lives.
pub(super) struct Keeper(tokio::task::JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Domain {
    /// Commits the row of a new object, and with it what it reserves and the key that the request
    /// claims. None: another request has the key.
    pub(super) async fn content_intend(&self, planned: Planned<'_>) -> Result<Option<Intended>> {
        let Planned {
            tenant,
            declared,
            files,
            claim,
        } = planned;
        let quota = self.quota(tenant);
        if claim.is_none() && quota.is_none() {
            let (Ready { id, lease_until }, under_way) = self.intent_take(tenant).await?;
            let lease = Lease::new(lease_until, self.clock.clone());
            return Ok(Some(Intended {
                id,
                tenant: tenant.clone(),
                declared,
                claimed: None,
                reserved: 0,
                keeper: self.keep(id, lease.clone()),
                lease,
                under_way: Some(under_way),
            }));
        }
        let now = self.clock.now();
        let id = ObjectId::new(now);
        let lease_until = now.plus(self.rules.lease);
        let intent = Intent {
            id,
            tenant: tenant.clone(),
            lease_until,
            quiet_at: self.quiet_at(lease_until),
            now,
            reserved: self.reserved_at_first(tenant, declared, files)?,
        };
        let reserved = intent.reserved;
        let claimed = claim.as_ref().map(|(key, ..)| key.clone());
        let expired = self.once_expired();
        let ours = self
            .metadata
            .write((intent, claim), move |tx, (intent, claim)| {
                async move {
                    if let Some((key, fingerprint, abandoned)) = claim {
                        if let Some(since) = abandoned {
                            tx.idempotency_forget(key, *since, expired).await?;
                        }
                        if !tx.idempotency_claim(key, fingerprint, id, now).await? {
                            return Ok(false);
                        }
                    }
                    tx.object_intend(intent).await?;
                    let change = Change {
                        reserved,
                        ..Change::default()
                    };
                    quota::take(tx, &intent.tenant, change, quota).await?;
                    Ok(true)
                }
                .boxed()
            })
            .await?;
        if !ours {
            return Ok(None);
        }
        let lease = Lease::new(lease_until, self.clock.clone());
        Ok(Some(Intended {
            id,
            tenant: tenant.clone(),
            declared,
            claimed,
            reserved: u64::try_from(reserved.bytes).unwrap_or(0),
            keeper: self.keep(id, lease.clone()),
            lease,
            under_way: None,
        }))
    }

    /// Writes the bytes of an object. Its row is left `writing`; whoever called makes it live in the
    /// transaction that refers to it, or abandons it. On an error the object has been abandoned already.
    pub(super) async fn content_write<S>(&self, intended: Intended, source: S) -> Result<Written>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        let Intended {
            id,
            tenant,
            declared,
            claimed,
            reserved,
            lease,
            keeper,
            under_way,
        } = intended;
        let _active = Active::count(&self.metrics.uploads.active);
        let key = self.objects.root().object(&tenant, id);
        let mut sink = Sink {
            writer: self.objects.write(&key, FIRST_EPOCH, declared, lease),
            hasher: Sha256::new(),
            reservation: Reservation {
                domain: self.clone(),
                tenant: tenant.clone(),
                object: id,
                epoch: FIRST_EPOCH,
                reserved,
            },
            size: 0,
            declared,
        };
        match pour(&mut sink, source, self.rules.limits.max_file_size.bytes()).await {
            Ok(()) => {
                self.metrics.uploads.stored.inc();
                self.metrics.uploads.bytes.inc_by(sink.size);
                Ok(Written {
                    id,
                    size: sink.size,
                    sha256: sink.hasher.finalize().into(),
                    claimed,
                    settled: sink.writer.settled(),
                    // One that was committed ahead is a tenant's without a quota.
                    unreserved: under_way.is_some(),
                    tenant,
                    keeper,
                })
            }
            Err(error) => {
                self.metrics.uploads.failed.inc();
                sink.writer.abort().await;
                drop(keeper);
                let settled = sink.writer.settled();
                self.content_abandon(id, tenant, claimed, settled).await;
                Err(error)
            }
        }
    }

    /// Gives an object up of which nothing was written.
    pub(super) async fn intended_abandon(&self, intended: Intended) {
        drop(intended.keeper);
        self.content_abandon(intended.id, intended.tenant, intended.claimed, true)
            .await;
    }

    /// Gives a written object up whose transaction failed. Nothing happens when it was committed
    /// after all: the row decides.
    pub(super) async fn written_abandon(&self, written: Written) {
        drop(written.keeper);
        self.content_abandon(written.id, written.tenant, written.claimed, written.settled)
            .await;
    }

    async fn content_abandon(
        &self,
        id: ObjectId,
        tenant: Tenant,
        claimed: Option<RequestKey>,
        settled: bool,
    ) {
        let now = self.clock.now();
        let abandoned = self
            .metadata
            .write((tenant, claimed), move |tx, (tenant, claimed)| {
                async move {
                    let Some(reserved) = tx.object_abandon(id, FIRST_EPOCH, now, settled).await?
                    else {
                        return Ok(());
                    };
                    if let Some(key) = claimed {
                        tx.idempotency_release(key, id).await?;
                    }
                    quota::record(tx, tenant, quota::unreserved(reserved)).await
                }
                .boxed()
            })
            .await;
        match abandoned {
            Ok(()) => self.died.notify_one(),
            // Its lease runs out, and the reaper does the rest.
            Err(error) => tracing::warn!(object = %id, %error, "an object could not be abandoned"),
        }
    }

    pub(super) fn quiet_at(&self, lease_until: Timestamp) -> Timestamp {
        lease_until.plus(self.rules.request_horizon)
    }

    pub(super) fn keep(&self, id: ObjectId, lease: Lease) -> Keeper {
        let domain = self.clone();
        Keeper(tokio::spawn(async move {
            loop {
                tokio::time::sleep(domain.rules.lease / 3).await;
                let now = domain.clock.now();
                let until = now.plus(domain.rules.lease);
                let quiet_at = domain.quiet_at(until);
                let renewed = domain
                    .metadata
                    .write((), move |tx, ()| {
                        async move { tx.object_renew(id, FIRST_EPOCH, now, until, quiet_at).await }
                            .boxed()
                    })
                    .await;
                match renewed {
                    Ok(true) => lease.renew(until),
                    // Lost: the writer notices before its next call, and so does its commit.
                    Ok(false) => return,
                    Err(error) => {
                        tracing::warn!(object = %id, %error, "a lease could not be renewed")
                    }
                }
            }
        }))
    }
}

pub(super) struct Sink {
    pub writer: Writer,
    pub hasher: Sha256,
    pub reservation: Reservation,
    /// In bytes: what was taken, and what is to come in all where the caller said so.
    pub size: u64,
    pub declared: Option<u64>,
}

/// Moves all bytes of `source` into the sink and finishes it.
///
/// While one batch is hashed and written, on other threads, the next one gathers: a fast sender
/// fills large batches, and the bytes of a slow one are not held back.
pub(super) async fn pour<S>(sink: &mut Sink, mut source: S, most: u64) -> Result<()>
where
    S: Stream<Item = Result<Bytes>> + Send + Unpin,
{
    let mut size: u64 = 0;
    let mut batch = Batch::default();
    let mut ended = false;
    let mut failed: Option<Error> = None;
    {
        let mut idle = Some(&mut *sink);
        let mut work: Option<BoxFuture<'_, (&mut Sink, Result<()>)>> = None;
        loop {
            if batch.held > 0
                && failed.is_none()
                && let Some(sink) = idle.take()
            {
                work = Some(absorb(sink, batch.take()).boxed());
            }
            if work.is_none() && (ended || failed.is_some()) {
                break;
            }
            tokio::select! {
                (sink, outcome) = async { work.as_mut().expect("the branch is on only while there is work").await },
                    if work.is_some() =>
                {
                    work = None;
                    idle = Some(sink);
                    if let Err(error) = outcome {
                        failed.get_or_insert(error);
                    }
                }
                chunk = source.next(), if !ended && failed.is_none() && batch.held < BATCH => match chunk {
                    None => ended = true,
                    Some(Err(error)) => failed = Some(error),
                    Some(Ok(chunk)) => {
                        size += chunk.len() as u64;
                        batch.push(chunk);
                        if size > most {
                            failed = Some(too_large(most));
                        }
                    }
                },
            }
        }
    }
    match failed {
        Some(error) => Err(error),
        None => sink.writer.finish().await,
    }
}

/// What gathers. Small chunks are copied together: each is a view of a buffer that may be far larger,
/// and would keep all of it, so that a sender of tiny ones took forty times what it sent.
#[derive(Default)]
pub(super) struct Batch {
    chunks: Vec<Bytes>,
    small: BytesMut,
    /// In bytes.
    held: usize,
}

impl Batch {
    /// In bytes.
    pub fn held(&self) -> usize {
        self.held
    }

    pub fn push(&mut self, chunk: Bytes) {
        // The first one needs no copy: often there is no other.
        let first = self.held == 0;
        self.held += chunk.len();
        if first || chunk.len() >= SMALL {
            self.seal();
            self.chunks.push(chunk);
        } else {
            self.small.extend_from_slice(&chunk);
        }
    }

    pub fn take(&mut self) -> Vec<Bytes> {
        self.seal();
        self.held = 0;
        std::mem::take(&mut self.chunks)
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push(std::mem::take(&mut self.small).freeze());
        }
    }
}

async fn absorb(sink: &mut Sink, batch: Vec<Bytes>) -> (&mut Sink, Result<()>) {
    sink.size += length(&batch);
    if let Some(declared) = sink.declared.filter(|declared| sink.size > *declared) {
        let detail = format!("{declared} bytes were declared and more came");
        return (sink, Err(Error::invalid("/size", detail)));
    }
    if let Err(error) = sink.reservation.cover(sink.size).await {
        return (sink, Err(error));
    }
    let hashing = hash(std::mem::take(&mut sink.hasher), batch.clone());
    let last = sink.declared == Some(sink.size);
    let writing = async {
        if last {
            sink.writer.finish_with(batch).await
        } else {
            sink.writer.write(batch).await
        }
    };
    let (hasher, written) = tokio::join!(hashing, writing);
    let outcome = match hasher {
        Ok(hasher) => {
            sink.hasher = hasher;
            written
        }
        Err(error) => Err(error),
    };
    (sink, outcome)
}

pub(super) async fn hash(mut hasher: Sha256, batch: Vec<Bytes>) -> Result<Sha256> {
    let inline = length(&batch) <= HASH_INLINE;
    let work = move || {
        for chunk in &batch {
            hasher.update(chunk);
        }
        hasher
    };
    if inline {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::internal)
}

fn length(batch: &[Bytes]) -> u64 {
    batch.iter().map(|chunk| chunk.len() as u64).sum()
}

pub(super) fn too_large(most: u64) -> Error {
    Error::new(
        Kind::PayloadTooLarge,
        format!("A file may have at most {most} bytes."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_chunks_are_copied_together_and_stay_in_order() {
        let buffer = Bytes::from((0..100_000_u32).map(|i| i as u8).collect::<Vec<_>>());
        let mut batch = Batch::default();
        let mut at = 0;
        for length in [1, 1, 1, SMALL, 5, SMALL - 1, SMALL + 1, 3] {
            batch.push(buffer.slice(at..at + length));
            at += length;
        }
        assert_eq!(batch.held, at);
        let chunks = batch.take();
        assert_eq!(batch.held, 0);
        let lengths: Vec<usize> = chunks.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [1, 2, SMALL, SMALL + 4, SMALL + 1, 3]);
        assert!(chunks.concat() == buffer[..at]);
        // The first one of each batch is taken as it is.
        batch.push(buffer.slice(..1));
        assert_eq!(batch.take()[0].as_ptr(), buffer.as_ptr());
        assert!(batch.take().is_empty());
    }
}
