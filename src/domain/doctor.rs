//! What `box doctor` tries on the store, under the one rule: the row before the bytes, and nothing is left.

use bytes::Bytes;
use futures::{FutureExt, TryStreamExt};

use crate::error::{Error, Kind, Result};
use crate::id::{ObjectId, Tenant};
use crate::metadata::objects::{FIRST_EPOCH, Intent};
use crate::metadata::usage::Amount;
use crate::objects::Lease;
use crate::objects::keys::ObjectKey;

use super::Domain;
use super::content::Keeper;

/// An object that no file refers to, or will. Who lets go of it without [`Domain::probe_end`] leaves what a crash of
/// an upload leaves: a row whose lease runs out.
pub struct Probe {
    id: ObjectId,
    key: ObjectKey,
    content: Bytes,
    /// Whether every call to the store has ended with a known answer.
    settled: bool,
    _keeper: Keeper,
}

impl Domain {
    /// Writes `content` as an upload of that length is written.
    pub async fn probe_write(&self, content: Bytes) -> Result<Probe> {
        let (mut probe, lease) = self.probe_intend(content).await?;
        let size = u64::try_from(probe.content.len()).ok();
        let mut writer = self.objects.write(&probe.key, FIRST_EPOCH, size, lease);
        let outcome = writer.finish_with(vec![probe.content.clone()]).await;
        if outcome.is_err() {
            writer.abort().await;
        }
        probe.settled = writer.settled();
        match outcome {
            Ok(()) => Ok(probe),
            Err(error) => {
                if let Err(error) = self.probe_end(probe).await {
                    tracing::debug!(%error, "what was tried is left to the reaper");
                }
                Err(error)
            }
        }
    }

    /// Commits the row of what is to be tried, and nothing yet.
    async fn probe_intend(&self, content: Bytes) -> Result<(Probe, Lease)> {
        let now = self.clock.now();
        let lease_until = now.plus(self.rules.lease);
        let intent = Intent {
            id: ObjectId::new(now),
            tenant: Tenant::unknown(),
            lease_until,
            quiet_at: self.quiet_at(lease_until),
            now,
            reserved: Amount::default(),
        };
        let id = intent.id;
        let key = self.objects.root().object(&intent.tenant, id);
        self.metadata
            .write(intent, |tx, intent| {
                async move { tx.object_intend(intent).await }.boxed()
            })
            .await?;
        let lease = Lease::new(lease_until, self.clock.clone());
        let probe = Probe {
            id,
            key,
            content,
            settled: true,
            _keeper: self.keep(id, lease.clone()),
        };
        Ok((probe, lease))
    }

    /// Whether the store refuses the second of two signed PUTs; None where it can't be reached by URL. Nothing
    /// of it stays.
    pub async fn probe_signed_puts(&self) -> Result<Option<bool>> {
        if !self.objects.is_reachable() {
            return Ok(None);
        }
        let (mut probe, _) = self
            .probe_intend(Bytes::from_static(b"box-service"))
            .await?;
        let content = probe.content.clone();
        let refused = self
            .objects
            .signed_put_is_refused(&probe.key, content)
            .await;
        // Without an answer it may be written yet; with one, its URL is nobody else's.
        probe.settled = refused.is_ok();
        let ended = self.probe_end(probe).await;
        let refused = refused?;
        ended?;
        Ok(refused)
    }

    /// Whether all of it comes back.
    ///
    /// # Errors
    /// Other bytes, or fewer, are `Internal`.
    pub async fn probe_read(&self, probe: &Probe) -> Result<()> {
        let size = u64::try_from(probe.content.len()).map_err(Error::internal)?;
        let found = self.objects.head(&probe.key).await?;
        // Also where this stood still for so long that the reaper took it for a crash's.
        let gone = || Error::unavailable("what was written is not there");
        let found = found.ok_or_else(gone)?;
        if found.size != size {
            return Err(Error::internal("the store gives it another length"));
        }
        let read: Result<Vec<Bytes>> = async {
            let stream = self.objects.read(&probe.key, 0..size).await?;
            stream.try_collect().await
        }
        .await;
        let read = read.map_err(|error| match error.kind() {
            Kind::NotFound => gone(),
            _ => error,
        })?;
        if read.concat() != probe.content {
            return Err(Error::internal("other bytes came back than were written"));
        }
        Ok(())
    }

    /// Whether the store refuses to write over it where it is told not to. Where it does not, the bytes are
    /// others from here on. None where no condition is the store's to keep.
    pub async fn probe_again(&self, probe: &mut Probe) -> Result<Option<bool>> {
        let refused = self.objects.refuses_second(&probe.key).await;
        // Without an answer it may be written yet.
        probe.settled &= refused.is_ok();
        refused
    }

    /// A URL by which the store itself gives it out; None where the store has none.
    pub async fn probe_url(&self, probe: &Probe) -> Result<Option<String>> {
        let ttl = std::time::Duration::from_secs(60);
        self.objects
            .presign_get(&probe.key, ttl, "application/octet-stream", "attachment")
            .await
    }

    /// Deletes it, and the row once nothing can arrive any more; what can't be done now is the reaper's.
    pub async fn probe_end(&self, probe: Probe) -> Result<()> {
        let Probe {
            id,
            key,
            settled,
            _keeper: keeper,
            ..
        } = probe;
        drop(keeper);
        let now = self.clock.now();
        self.metadata
            .write((), move |tx, ()| {
                async move {
                    tx.object_abandon(id, FIRST_EPOCH, now, settled)
                        .await
                        .map(drop)
                }
                .boxed()
            })
            .await?;
        self.objects.erase(&key, FIRST_EPOCH).await?;
        if self.objects.head(&key).await?.is_some() {
            return Err(Error::internal("it is there after it was deleted"));
        }
        self.metadata
            .write((), move |tx, ()| {
                async move { tx.object_forget(id, now).await.map(drop) }.boxed()
            })
            .await
    }
}
