//! The reaper: the one place that deletes keys. It takes no input but the rows, is idempotent,
//! and may run on every replica at once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{FutureExt, StreamExt};

use crate::error::Result;
use crate::id::Tenant;
use crate::metadata::objects::Object;
use crate::metadata::usage::Amount;

use super::{Domain, quota};

/// Rows in one step, and keys deleted at once.
const BATCH: u32 = 100;
const AT_ONCE: usize = 8;

/// How long a row whose key could not be deleted is left alone.
const RETRY: Duration = Duration::from_secs(60);

impl Domain {
    /// Goes on until nothing is due now; how many rows it removed. Does nothing while the database is
    /// older than the store: what it says to delete may be all that is left of a file.
    pub async fn reap(&self) -> Result<u64> {
        if self.is_older() {
            return Ok(0);
        }
        let _round = self.reaping.lock().await;
        self.intents_tidy().await;
        // Before the leases of their objects, which end at the same time.
        self.uploads_expire().await?;
        self.expire_leases(Duration::ZERO).await?;
        let mut forgotten = 0;
        loop {
            let now = self.clock.now();
            let due = self
                .metadata
                .write((), move |tx, ()| {
                    async move { tx.object_claim_dead(now, now.plus(RETRY), BATCH).await }.boxed()
                })
                .await?;
            if due.is_empty() {
                let seconds = self.clock.now().as_unix_millis() as f64 / 1_000.0;
                self.metrics.reaper.last_run.set(seconds);
                return Ok(forgotten);
            }
            let outcomes: Vec<_> = futures::stream::iter(due)
                .map(|object| async move { (object.id, self.reap_one(&object).await) })
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            for (id, outcome) in outcomes {
                match outcome {
                    Ok(gone) => {
                        forgotten += u64::from(gone);
                        self.metrics.reaper.deleted.inc_by(u64::from(gone));
                    }
                    Err(error) => {
                        self.metrics.reaper.failures.inc();
                        tracing::warn!(object = %id, %error, "a key could not be deleted; it is tried again")
                    }
                }
            }
        }
    }

    /// Makes writing objects whose lease ran out dead, to be deleted after `delay`.
    pub(super) async fn expire_leases(&self, delay: Duration) -> Result<()> {
        loop {
            let now = self.clock.now();
            let delete_at = now.plus(delay);
            let expired = self
                .metadata
                .write((), move |tx, ()| {
                    async move {
                        let expired = tx.object_expire_leases(now, delete_at, BATCH).await?;
                        let count = expired.len();
                        // In one order, so that two who do the same don't wait for each other.
                        let mut reserved = BTreeMap::<Tenant, Amount>::new();
                        for (tenant, amount) in expired {
                            *reserved.entry(tenant).or_default() += amount;
                        }
                        for (tenant, amount) in reserved {
                            quota::record(tx, &tenant, quota::unreserved(amount)).await?;
                        }
                        Ok(count)
                    }
                    .boxed()
                })
                .await?;
            if expired < BATCH as usize {
                return Ok(());
            }
        }
    }

    /// Deletes what is at the key; true when the row could go too.
    async fn reap_one(&self, object: &Object) -> Result<bool> {
        let key = self.objects.root().object(&object.tenant, object.id);
        let id = object.id;
        // Asked before the look, not behind it: what arrives between the two would stay.
        let now = self.clock.now();
        let found = self.objects.erase(&key, object.epoch).await?;
        match object.forget_at {
            Some(forget_at) if forget_at > now => {
                self.metadata
                    .write((), move |tx, ()| {
                        async move { tx.object_delete_at(id, forget_at).await }.boxed()
                    })
                    .await?;
                Ok(false)
            }
            _ => {
                // Nothing can arrive any more; the row goes once a look finds nothing.
                if found && self.objects.erase(&key, object.epoch).await? {
                    return Ok(false);
                }
                self.metadata
                    .write((), move |tx, ()| {
                        async move { tx.object_forget(id, now).await }.boxed()
                    })
                    .await
            }
        }
    }
}
