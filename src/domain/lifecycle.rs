//! Files that go by the rules of the configuration, so long after they were last changed.
//!
//! A round pages through what a rule finds, by `updated_at`, and moves each file to the trash or removes it in
//! a transaction of its own, as a client's request would. What has changed since it was found stays, and the
//! next round looks at it anew: so a round may be broken off anywhere, and two may run at once.

use std::time::Duration;

use futures::FutureExt;
use serde_json::json;

use crate::clock::Timestamp;
use crate::config::LifecycleRule;
use crate::error::{Error, Kind, Result};
use crate::id::Tenant;

use super::Domain;
use super::files::{After, ContentTypes, File, Filter, Page, Sort, SortBy, SortKey};

pub mod bucket;

/// Files found in one look.
const BATCH: u32 = 100;

/// `updated_at` has no finer steps.
const STEP: Duration = Duration::from_micros(1);

/// What becomes of a file by a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Trash,
    /// For good.
    Expire,
}

/// A file that a rule wants to go.
#[derive(Debug)]
pub struct Due<'a> {
    pub rule: &'a str,
    pub action: Action,
    pub file: &'a File,
}

/// Who is told of each file that goes, or would.
pub type Told<'a> = &'a mut (dyn FnMut(&Due<'_>) + Send);

impl Domain {
    /// Lets go what the rules say, unless another process is at it; how many files. Does nothing while the
    /// database is older than the store.
    pub async fn lifecycle_round(&self) -> Result<u64> {
        if self.is_older() || self.rules.lifecycle.rules.is_empty() {
            return Ok(0);
        }
        let mut gone = 0;
        self.lifecycle_walk(false, true, &mut |_| gone += 1).await?;
        Ok(gone)
    }

    /// The same at once, whoever else is at it. With `dry_run` nothing goes: of two rules that want a file,
    /// both are told.
    ///
    /// # Errors
    /// `Conflict` where the database is older than the store.
    pub async fn lifecycle_run(&self, dry_run: bool, told: Told<'_>) -> Result<()> {
        if self.is_older() && !dry_run {
            return Err(Error::new(
                Kind::Conflict,
                "The database is older than the store: see `box fsck --after-restore`.",
            ));
        }
        self.lifecycle_walk(dry_run, false, told).await
    }

    async fn lifecycle_walk(&self, dry_run: bool, leased: bool, told: Told<'_>) -> Result<()> {
        for rule in &self.rules.lifecycle.rules {
            let mut tenant = match &rule.tenant {
                Some(tenant) => Some(tenant.clone()),
                None => self.tenant_behind(None).await?,
            };
            while let Some(current) = tenant {
                if !self
                    .lifecycle_apply(rule, &current, dry_run, leased, told)
                    .await?
                {
                    return Ok(());
                }
                tenant = match &rule.tenant {
                    Some(_) => None,
                    None => self.tenant_behind(Some(&current)).await?,
                };
            }
        }
        Ok(())
    }

    async fn tenant_behind(&self, tenant: Option<&Tenant>) -> Result<Option<Tenant>> {
        let mut reader = self.metadata.reader().await?;
        reader.conn().usage_tenant_behind(tenant).await
    }

    /// One rule for one tenant; false where another process has the lease.
    async fn lifecycle_apply(
        &self,
        rule: &LifecycleRule,
        tenant: &Tenant,
        dry_run: bool,
        leased: bool,
        told: Told<'_>,
    ) -> Result<bool> {
        let now = self.clock.now();
        let (action, after) = match (rule.trash_after, rule.expire_after) {
            (Some(after), _) => (Action::Trash, after),
            (None, Some(after)) => (Action::Expire, after),
            (None, None) => return Ok(true),
        };
        let filter = filter(rule, tenant, now.minus(after), now);
        let mut behind = None;
        loop {
            if leased && !self.lifecycle_lease().await? {
                return Ok(false);
            }
            let page = Page {
                sort: Sort {
                    by: SortBy::UpdatedAt,
                    descending: false,
                },
                after: behind,
                limit: BATCH,
            };
            let found = self.file_list(&filter, &page).await?;
            behind = found.last().map(|file| After {
                key: SortKey::Time(file.updated_at),
                id: file.id,
            });
            for file in &found {
                if file.is_held(now)
                    || !(dry_run || self.lifecycle_let_go(rule, action, file).await?)
                {
                    continue;
                }
                told(&Due {
                    rule: &rule.name,
                    action,
                    file,
                });
            }
            if found.len() < BATCH as usize {
                return Ok(true);
            }
        }
    }

    /// Whether the file went: not where it has changed since it was found.
    async fn lifecycle_let_go(
        &self,
        rule: &LifecycleRule,
        action: Action,
        file: &File,
    ) -> Result<bool> {
        let detail = json!({"rule": rule.name});
        let (permanent, event) = match action {
            Action::Trash => (false, "file.trashed"),
            Action::Expire => (true, "file.expired"),
        };
        let gone = self
            .file_remove_as_seen(file, permanent, event, detail)
            .await?;
        if gone {
            self.metrics.lifecycle.of(permanent).inc();
        }
        Ok(gone)
    }

    /// It keeps two processes from the same work. That they do no harm is for the locked files to see to.
    async fn lifecycle_lease(&self) -> Result<bool> {
        let (holder, now) = (self.process, self.clock.now());
        let until = now.plus(self.rules.lease);
        self.metadata
            .write((), move |tx, ()| {
                async move { tx.lease_take("lifecycle", holder, now, until).await }.boxed()
            })
            .await
    }
}

/// What a rule finds: last changed by `by`.
fn filter(rule: &LifecycleRule, tenant: &Tenant, by: Timestamp, now: Timestamp) -> Filter {
    let content_type = rule.content_type.as_ref();
    Filter {
        prefix: rule.prefix.clone(),
        content_type: content_type.map(|text| match text.strip_suffix("/*") {
            Some(kind) => ContentTypes::Kind(kind.to_owned()),
            None => ContentTypes::Exactly(text.clone()),
        }),
        metadata: Some(rule.metadata.clone()).filter(|wanted| !wanted.is_empty()),
        updated_before: Some(by.plus(STEP)),
        ..Filter::new(tenant.clone(), now)
    }
}
