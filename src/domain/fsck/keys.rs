//! Every name in the store has a row.

use futures::{FutureExt, TryStreamExt};

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ObjectId, Tenant};
use crate::metadata::Metadata;
use crate::objects::Listed;
use crate::objects::keys::Named;

use super::{Check, PAGE, Problem, ProblemKind};

/// A name that follows from an object's id.
struct Key {
    listed: Listed,
    id: ObjectId,
    /// None for a temporary name, which does not say whose it is.
    tenant: Option<Tenant>,
}

impl Check<'_> {
    pub(super) async fn keys(&mut self) -> Result<()> {
        let mut pages = self.domain.objects.list().try_chunks(PAGE as usize);
        while let Some(page) = pages.try_next().await.map_err(|error| error.1)? {
            let mut keys = Vec::new();
            for listed in page {
                let (id, tenant) = match self.domain.objects.root().parse(&listed.path) {
                    Named::Marker => continue,
                    Named::Object { tenant, id } => (id, Some(tenant)),
                    Named::Temporary { id } => (id, None),
                    Named::Foreign => {
                        self.looked.keys += 1;
                        let mut problem = Problem::new(
                            ProblemKind::ForeignKey,
                            "no key of this service has such a name",
                        );
                        problem.key = Some(listed.path);
                        self.tell(problem);
                        continue;
                    }
                };
                self.looked.keys += 1;
                keys.push(Key { listed, id, tenant });
            }
            let unknown = without_row(&self.domain.metadata, keys).await?;
            if unknown.is_empty() {
                continue;
            }
            // A row goes only after its key: what is still there, and still has none, never had one.
            let mut there = Vec::new();
            for key in unknown {
                if self.domain.objects.is_there(&key.listed).await? {
                    there.push(key);
                }
            }
            for key in without_row(&self.domain.metadata, there).await? {
                self.unknown_key(key).await?;
            }
        }
        Ok(())
    }

    async fn unknown_key(&mut self, key: Key) -> Result<()> {
        let mut problem = Problem::new(
            ProblemKind::UnknownKey,
            format!("{} bytes that no row vouches for", key.listed.size),
        );
        problem.object_id = Some(key.id);
        let now = self.domain.clock.now();
        if self.options.after_restore || self.options.repair {
            // After a restore the database is known to lack rows, however young their keys are.
            if !self.options.after_restore && self.is_young(&key, now) {
                problem
                    .detail
                    .push_str("; too young to be touched: see store.request_horizon");
            } else {
                let id = key.id;
                let tenant = key.tenant.unwrap_or_else(Tenant::unknown);
                let delete_at = now.plus(self.domain.quarantine(self.options));
                problem.repaired = self
                    .domain
                    .metadata
                    .write(tenant, move |tx, tenant| {
                        async move { tx.object_quarantine(id, tenant, now, delete_at).await }
                            .boxed()
                    })
                    .await?;
                if problem.repaired {
                    problem
                        .detail
                        .push_str(&format!("; quarantined, and deleted from {delete_at} on"));
                }
            }
        }
        problem.key = Some(key.listed.path);
        self.tell(problem);
        Ok(())
    }

    /// By the time of its id, and by that of its bytes: an upload may have taken long.
    fn is_young(&self, key: &Key, now: Timestamp) -> bool {
        let grace = self.domain.rules.request_horizon;
        let intended = key.id.unix_millis().unwrap_or(0).saturating_mul(1_000);
        let intended = Timestamp::from_micros(i64::try_from(intended).unwrap_or(i64::MAX));
        // A store whose clock is further ahead than that says nothing about an age.
        [intended, key.listed.modified]
            .into_iter()
            .any(|time| now.since(time) < grace && time.since(now) < grace)
    }
}

/// Those of the names that no row vouches for.
async fn without_row(metadata: &Metadata, keys: Vec<Key>) -> Result<Vec<Key>> {
    let ids: Vec<ObjectId> = keys.iter().map(|key| key.id).collect();
    let tenants = metadata.reader().await?.conn().object_tenants(&ids).await?;
    let vouched = |key: &Key| {
        let owner = tenants.get(&key.id);
        owner.is_some_and(|owner| key.tenant.as_ref().is_none_or(|tenant| tenant == owner))
    };
    Ok(keys.into_iter().filter(|key| !vouched(key)).collect())
}
