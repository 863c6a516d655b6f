//! Intents committed ahead: one transaction for the uploads of a tenant that come together.
//!
//! An upload that finds none to take commits one for each upload that is under way, and those behind
//! it take theirs from memory. They are rows like any other, with a lease: what a crash leaves is
//! reaped, and what nobody takes is withdrawn while its lease still runs. An upload that reserves
//! or claims something has an intent of its own, for it needs that transaction anyway.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ObjectId, Tenant};
use crate::metadata::objects::Intent;
use crate::metadata::usage::Amount;

use super::Domain;

/// The most that one transaction commits.
const MOST: usize = 32;

/// What is ready, by tenant.
#[derive(Clone, Default)]
pub struct Ahead {
    tenants: Arc<Mutex<HashMap<Tenant, Entry>>>,
}

#[derive(Default)]
struct Entry {
    /// That are under way.
    uploads: usize,
    /// Locked while more are committed, so that those who come meanwhile wait for these.
    ready: Arc<tokio::sync::Mutex<Vec<Ready>>>,
}

/// An intent that nobody has taken.
#[derive(Clone, Copy)]
pub(super) struct Ready {
    pub id: ObjectId,
    pub lease_until: Timestamp,
}

/// An upload of the tenant is under way for as long as this lives.
pub(super) struct UnderWay {
    ahead: Ahead,
    tenant: Tenant,
}

impl Ahead {
    fn tenants(&self) -> MutexGuard<'_, HashMap<Tenant, Entry>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, tenant: &Tenant) -> UnderWay {
        self.tenants().entry(tenant.clone()).or_default().uploads += 1;
        UnderWay {
            ahead: self.clone(),
            tenant: tenant.clone(),
        }
    }

    /// Removes the tenant's entry when nobody needs it any more.
    fn tidy(&self, tenant: &Tenant, ended: usize) {
        let mut tenants = self.tenants();
        let Some(entry) = tenants.get_mut(tenant) else {
            return;
        };
        entry.uploads -= ended;
        let is_empty = entry.ready.try_lock().is_ok_and(|ready| ready.is_empty());
        if entry.uploads == 0 && is_empty {
            tenants.remove(tenant);
        }
    }

    fn all(&self) -> Vec<(Tenant, Arc<tokio::sync::Mutex<Vec<Ready>>>)> {
        self.tenants()
            .iter()
            .map(|(tenant, entry)| (tenant.clone(), entry.ready.clone()))
            .collect()
    }
}

impl UnderWay {
    fn ready(&self) -> Arc<tokio::sync::Mutex<Vec<Ready>>> {
        let mut tenants = self.ahead.tenants();
        tenants
            .entry(self.tenant.clone())
            .or_default()
            .ready
            .clone()
    }

    fn uploads(&self) -> usize {
        let tenants = self.ahead.tenants();
        tenants.get(&self.tenant).map_or(1, |entry| entry.uploads)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.ahead.tidy(&self.tenant, 1);
    }
}

impl Domain {
    /// A committed intent that reserves nothing, the caller's own from here on.
    pub(super) async fn intent_take(&self, tenant: &Tenant) -> Result<(Ready, UnderWay)> {
        let under_way = self.ahead.begin(tenant);
        let ready = under_way.ready();
        let mut ready = ready.lock().await;
        // A process that was stopped for a while may find leases here that are over.
        let usable = self.clock.now().plus(self.rules.lease / 2);
        while let Some(next) = ready.pop() {
            if next.lease_until > usable {
                return Ok((next, under_way));
            }
        }
        let count = under_way.uploads().clamp(1, MOST);
        let (own, others) = self.intents_commit(tenant, count).await?;
        ready.extend(others);
        Ok((own, under_way))
    }

    async fn intents_commit(&self, tenant: &Tenant, count: usize) -> Result<(Ready, Vec<Ready>)> {
        let now = self.clock.now();
        let lease_until = now.plus(self.rules.lease);
        let intent = |_| Intent {
            id: ObjectId::new(now),
            tenant: tenant.clone(),
            lease_until,
            quiet_at: self.quiet_at(lease_until),
            now,
            reserved: Amount::default(),
        };
        let own = intent(0);
        let ready = |intent: &Intent| Ready {
            id: intent.id,
            lease_until,
        };
        let first = ready(&own);
        let intents: Vec<Intent> = std::iter::once(own).chain((1..count).map(intent)).collect();
        let others = intents[1..].iter().map(ready).collect();
        self.metadata
            .write(intents, |tx, intents| tx.objects_intend(intents).boxed())
            .await?;
        Ok((first, others))
    }

    /// Withdraws what nobody has taken for a third of its lease, so that it is never reaped.
    pub(super) async fn intents_tidy(&self) {
        let old = self.clock.now().plus(self.rules.lease / 3 * 2);
        self.intents_withdraw(|ready| ready.lease_until <= old)
            .await;
    }

    /// Withdraws all that nobody has taken: the service stops.
    pub async fn intents_give_back(&self) {
        self.intents_withdraw(|_| true).await;
    }

    /// Nobody has been told of these keys, so that nothing can be there: their rows just go.
    async fn intents_withdraw(&self, which: impl Fn(&Ready) -> bool) {
        for (tenant, ready) in self.ahead.all() {
            let ids: Vec<ObjectId> = {
                let mut ready = ready.lock().await;
                let left = ready.extract_if(.., |ready| which(ready));
                left.map(|ready| ready.id).collect()
            };
            self.ahead.tidy(&tenant, 0);
            if ids.is_empty() {
                continue;
            }
            let withdrawn = self
                .metadata
                .write(ids, |tx, ids| tx.objects_withdraw(ids).boxed())
                .await;
            if let Err(error) = withdrawn {
                // Their leases run out, and the reaper does it.
                tracing::warn!(%error, "intents that nobody took could not be withdrawn");
            }
        }
    }
}
