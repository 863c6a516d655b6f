//! Claims: which items this process fetches next, and that it is still there.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::FutureExt;

use crate::error::Result;
use crate::id::{ClaimId, ImportId, Tenant};
use crate::metadata::imports::State;

use super::super::{Caller, Domain};
use super::{Options, Work};

/// An import that has items to claim.
#[derive(Clone, Debug)]
pub struct Running {
    pub id: ImportId,
    pub tenant: Tenant,
    pub options: Arc<Options>,
    created_by: String,
}

/// Items that may be claimed, each with its host, the next one first.
pub type Candidates = Vec<(i64, String)>;

/// Items of an import that are to be claimed.
#[derive(Clone, Debug)]
pub struct Grant {
    pub import: Running,
    pub numbers: Vec<i64>,
}

impl Domain {
    /// Up to `limit` imports behind `after` that have items to claim, by id.
    pub async fn import_claimable(
        &self,
        after: Option<ImportId>,
        limit: u32,
    ) -> Result<Vec<Running>> {
        let now = self.clock.now();
        let mut reader = self.metadata.reader().await?;
        let found = reader.conn().import_claimable(now, after, limit).await?;
        found
            .into_iter()
            .map(|import| {
                Ok(Running {
                    id: import.id,
                    tenant: import.tenant,
                    options: Arc::new(Options::read(&import.options)?),
                    created_by: import.created_by,
                })
            })
            .collect()
    }

    pub async fn import_candidates(&self, import: &Running, limit: u32) -> Result<Candidates> {
        let now = self.clock.now();
        let mut reader = self.metadata.reader().await?;
        reader
            .conn()
            .import_candidates(&import.tenant, import.id, now, limit)
            .await
    }

    /// Claims what is granted, as far as nobody else was faster.
    pub async fn import_claim(&self, claim: ClaimId, grants: Vec<Grant>) -> Result<Vec<Work>> {
        let lease_until = self.clock.now().plus(self.rules.lease);
        self.metadata
            .write(grants, move |tx, grants| {
                async move {
                    let mut all = Vec::new();
                    for Grant { import, numbers } in grants {
                        let claimed = tx
                            .import_claim(&import.tenant, import.id, numbers, claim, lease_until)
                            .await?;
                        let caller = Caller {
                            subject: import.created_by.clone(),
                            ..Caller::service(import.tenant.clone())
                        };
                        all.extend(claimed.into_iter().map(|item| Work {
                            item,
                            options: import.options.clone(),
                            caller: caller.clone(),
                        }));
                    }
                    Ok(all)
                }
                .boxed()
            })
            .await
    }

    /// Says that this process still works on these; those that are still its own.
    ///
    /// What it holds and does not name runs out: its claim was made, or its end failed, without an
    /// answer.
    pub async fn import_renew(
        &self,
        claim: ClaimId,
        items: BTreeMap<ImportId, Vec<i64>>,
    ) -> Result<HashSet<(ImportId, i64)>> {
        let lease_until = self.clock.now().plus(self.rules.lease);
        self.metadata
            .write(items, move |tx, items| {
                async move {
                    let mut held = HashSet::new();
                    for (import, numbers) in items.iter() {
                        let renewed = tx
                            .import_renew(*import, numbers, claim, lease_until)
                            .await?;
                        held.extend(renewed.into_iter().map(|number| (*import, number)));
                    }
                    Ok(held)
                }
                .boxed()
            })
            .await
    }

    /// Those of `imports` that run no more.
    pub async fn import_ended(
        &self,
        imports: &BTreeMap<ImportId, Tenant>,
    ) -> Result<HashSet<ImportId>> {
        let mut ended = HashSet::new();
        let mut reader = self.metadata.reader().await?;
        for (id, tenant) in imports {
            let import = reader.conn().import_get(tenant, *id).await?;
            if import.is_none_or(|import| import.state != State::Running) {
                ended.insert(*id);
            }
        }
        Ok(ended)
    }
}
