//! Imports: batches of URLs that are received, fetched one by one, and end each as a file or as an error.
//!
//! The items are a queue in the database. A process claims some of them (`queue`), fetches each into an
//! object as an upload would, and ends it in the transaction that makes the file (`items`). A claim
//! is a lease: what a dead process had is claimed again.

use futures::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::ContentTypePattern;
use crate::error::{Error, Invalid, Result};
use crate::id::{ImportId, Tenant};
use crate::metadata::Conn;
use crate::metadata::events::Event;

pub use crate::metadata::imports::{Claimed, Counts, Import, Item, ItemState, State};

use super::{Caller, Domain};

mod ends;
mod items;
mod queue;
mod receiving;

pub use ends::Ends;
pub use items::Work;
pub use queue::{Candidates, Grant, Running};
pub use receiving::{Offered, Receiving};

/// The most often that an item can be tried.
const MOST_ATTEMPTS: u32 = 20;

/// The longest list of content types.
const MOST_TYPES: usize = 100;

/// How the items of an import are fetched, as its sender wants it. None: as is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub concurrency: Option<u32>,
    pub per_host: Option<u32>,
    pub attempts: Option<u32>,
    pub timeout_s: Option<u64>,
    pub on_duplicate: Option<OnDuplicate>,
    pub allow_content_types: Option<Vec<String>>,
}

/// How the items of an import are fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// At the same time, by each process.
    pub concurrency: u32,
    /// Of them, from one host.
    pub per_host: u32,
    pub attempts: u32,
    /// For a whole attempt.
    pub timeout_s: u64,
    pub on_duplicate: OnDuplicate,
    /// Empty: all.
    pub allow_content_types: Vec<String>,
}

/// What becomes of an item whose URL an earlier one of the same import has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDuplicate {
    #[default]
    Keep,
    /// It is cancelled.
    Skip,
}

impl Options {
    pub fn read(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(Error::internal)
    }

    fn allows(&self, content_type: &str) -> bool {
        self.allow_content_types.is_empty()
            || self
                .allow_content_types
                .iter()
                .filter_map(|pattern| ContentTypePattern::read(pattern))
                .any(|pattern| pattern.matches(content_type))
    }
}

impl Domain {
    /// What is wanted, within what is configured.
    ///
    /// # Errors
    /// `InvalidRequest` with every option that is out of bounds.
    pub fn import_options(&self, wanted: Wanted) -> Result<Options> {
        let mut invalid = Vec::new();
        let mut within = |name: &str, wanted: Option<u64>, most: u64| {
            let value = wanted.unwrap_or(most);
            if !(1..=most).contains(&value) {
                invalid.push(Invalid {
                    pointer: format!("/options/{name}"),
                    detail: format!("must be 1 to {most}"),
                });
            }
            value
        };
        let rules = &self.rules.imports;
        let concurrency = within(
            "concurrency",
            wanted.concurrency.map(u64::from),
            rules.concurrency.into(),
        );
        let per_host = within(
            "per_host",
            wanted.per_host.map(u64::from),
            rules.per_host.into(),
        );
        let attempts = wanted.attempts.unwrap_or(rules.attempts);
        within(
            "attempts",
            Some(attempts.into()),
            rules.attempts.max(MOST_ATTEMPTS).into(),
        );
        let longest = self.rules.fetch_timeout.as_secs().max(1);
        let timeout_s = within("timeout_s", wanted.timeout_s, longest);
        let allow_content_types = wanted.allow_content_types.unwrap_or_default();
        let unreadable = |pattern: &String| ContentTypePattern::read(pattern).is_none();
        if allow_content_types.len() > MOST_TYPES || allow_content_types.iter().any(unreadable) {
            invalid.push(Invalid {
                pointer: "/options/allow_content_types".to_owned(),
                detail: "must be at most 100 types such as image/png or image/*".to_owned(),
            });
        }
        if !invalid.is_empty() {
            return Err(Error::invalid_many(invalid));
        }
        let bounded = |number: u64| u32::try_from(number).map_err(Error::internal);
        Ok(Options {
            concurrency: bounded(concurrency)?,
            per_host: bounded(per_host)?,
            attempts,
            timeout_s,
            on_duplicate: wanted.on_duplicate.unwrap_or_default(),
            allow_content_types,
        })
    }

    /// The import; None where there is none, and where it is another tenant's.
    pub async fn import_get(&self, tenant: &Tenant, id: ImportId) -> Result<Option<Import>> {
        let mut reader = self.metadata.reader().await?;
        reader.conn().import_get(tenant, id).await
    }

    /// The imports before `before`, the newest first.
    pub async fn import_list(
        &self,
        tenant: &Tenant,
        before: Option<ImportId>,
        limit: u32,
    ) -> Result<Vec<Import>> {
        let mut reader = self.metadata.reader().await?;
        reader.conn().import_list(tenant, before, limit).await
    }

    /// Items behind `after`, in the order in which they were sent.
    pub async fn import_items(
        &self,
        tenant: &Tenant,
        id: ImportId,
        state: Option<ItemState>,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Item>> {
        let mut reader = self.metadata.reader().await?;
        reader
            .conn()
            .import_items_page(tenant, id, state, after, limit)
            .await
    }

    /// Ends all items that have not ended. An import that has ended stays as it is.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn import_cancel(&self, caller: &Caller, id: ImportId) -> Result<Import> {
        let now = self.clock.now();
        let event = self.event(caller, "import.cancelled", id, json!({}));
        let (import, cancelled) = self
            .metadata
            .write(event, move |tx, event| {
                async move {
                    let (state, _) = tx
                        .import_lock(&event.tenant, id)
                        .await?
                        .ok_or_else(Error::not_found)?;
                    let mut cancelled = 0;
                    if state == State::Running {
                        tx.import_update(&event.tenant, id, State::Cancelled, Some(now))
                            .await?;
                        tx.event_insert(event).await?;
                        cancelled = tx.import_items_cancel(&event.tenant, id).await?;
                    }
                    Ok((seen(tx, &event.tenant, id).await?, cancelled))
                }
                .boxed()
            })
            .await?;
        self.metrics.imports.cancelled.inc_by(cancelled);
        self.queued.notify_one();
        Ok(import)
    }

    /// Fetches once more what failed, but for items that can't be fetched at all.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn import_retry(&self, caller: &Caller, id: ImportId) -> Result<Import> {
        let now = self.clock.now();
        let event = self.event(caller, "import.retried", id, json!({}));
        let import = self
            .metadata
            .write(event, move |tx, event| {
                async move {
                    tx.import_lock(&event.tenant, id)
                        .await?
                        .ok_or_else(Error::not_found)?;
                    if tx.import_items_retry(&event.tenant, id, now).await? > 0 {
                        tx.import_update(&event.tenant, id, State::Running, None)
                            .await?;
                        tx.event_insert(event).await?;
                    }
                    seen(tx, &event.tenant, id).await
                }
                .boxed()
            })
            .await?;
        self.queued.notify_one();
        Ok(import)
    }

    /// Ends running imports in which nothing is left to do; how many.
    pub async fn import_finish(&self) -> Result<usize> {
        const AT_ONCE: u32 = 100;
        let mut reader = self.metadata.reader().await?;
        let finished = reader.conn().import_finished(AT_ONCE).await?;
        drop(reader);
        let count = finished.len();
        for (id, tenant) in finished {
            let caller = Caller::service(tenant);
            let now = self.clock.now();
            let event = self.event(&caller, "import.done", id, json!({}));
            self.metadata
                .write(event, move |tx, event: &Event| {
                    async move {
                        // Somebody may have had it tried again meanwhile.
                        let locked = tx.import_lock(&event.tenant, id).await?;
                        let running = matches!(locked, Some((State::Running, _)));
                        if running && !tx.import_is_open(&event.tenant, id).await? {
                            tx.import_update(&event.tenant, id, State::Done, Some(now))
                                .await?;
                            tx.event_insert(event).await?;
                        }
                        Ok(())
                    }
                    .boxed()
                })
                .await?;
        }
        Ok(count)
    }
}

async fn seen(tx: &mut Conn<'_>, tenant: &Tenant, id: ImportId) -> Result<Import> {
    tx.import_get(tenant, id)
        .await?
        .ok_or_else(Error::not_found)
}
