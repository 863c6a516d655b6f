//! How files go: to the trash, for good, and when their time has come.

use std::sync::Arc;

use futures::FutureExt;
use serde_json::Value;

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::id::{FileId, ObjectId, Tenant};
use crate::metadata::Conn;
use crate::metadata::events::Event;
use crate::metadata::usage::{Amount, Change};

use super::files::{File, Precondition};
use super::holds::Hold;
use super::{Caller, Domain, quota};

/// Rows in one step of a sweep, and files removed in one transaction.
const BATCH: u32 = 100;

/// What became of a file that was to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    Removed,
    /// There was no such file.
    Absent,
    /// It has to stay.
    Held(Hold),
}

impl Domain {
    /// Moves a file to the trash, or removes it where `permanent` says so or there is no trash.
    /// Trashing what is in the trash changes nothing.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` for what is held; what `precondition` answers.
    pub async fn file_delete(
        &self,
        caller: &Caller,
        id: FileId,
        permanent: bool,
        precondition: Precondition,
    ) -> Result<()> {
        let (permanent, action) = self.removal(permanent);
        let removed = self
            .file_remove(caller, vec![id], permanent, action, precondition)
            .await?;
        match removed.as_slice() {
            [Removal::Removed] => Ok(()),
            [Removal::Held(hold)] => Err(hold.refusal()),
            _ => Err(Error::not_found()),
        }
    }

    /// The same for many files, each on its own: what became of each, in the order given.
    pub async fn file_delete_many(
        &self,
        caller: &Caller,
        ids: &[FileId],
        permanent: bool,
    ) -> Result<Vec<Removal>> {
        let (permanent, action) = self.removal(permanent);
        let mut outcomes = Vec::with_capacity(ids.len());
        for ids in ids.chunks(BATCH as usize) {
            let anyone: Precondition = Arc::new(|_| Ok(()));
            let removed = self
                .file_remove(caller, ids.to_vec(), permanent, action, anyone)
                .await?;
            outcomes.extend(removed);
        }
        Ok(outcomes)
    }

    fn removal(&self, permanent: bool) -> (bool, &'static str) {
        if permanent || self.rules.trash_keep.is_zero() {
            (true, "file.deleted")
        } else {
            (false, "file.trashed")
        }
    }

    /// All of it in one transaction. An expired file is absent.
    async fn file_remove(
        &self,
        caller: &Caller,
        ids: Vec<FileId>,
        permanent: bool,
        action: &'static str,
        precondition: Precondition,
    ) -> Result<Vec<Removal>> {
        let now = self.clock.now();
        let there: Precondition = Arc::new(move |file| {
            if file.has_expired(now) {
                return Err(Error::not_found());
            }
            precondition(file)
        });
        let plan = Plan {
            events: ids
                .iter()
                .map(|id| self.event(caller, action, *id, Value::Null))
                .collect(),
            tenant: caller.tenant.clone(),
            ids,
            permanent,
            precondition: there,
            now,
            delete_at: now.plus(self.rules.reaper_delay),
        };
        self.file_remove_planned(plan).await
    }

    /// Removes a file, or moves it to the trash, in its tenant's name; false where it is not as it was
    /// seen any more.
    pub(super) async fn file_remove_as_seen(
        &self,
        seen: &File,
        permanent: bool,
        action: &'static str,
        detail: Value,
    ) -> Result<bool> {
        let now = self.clock.now();
        let caller = Caller::service(seen.tenant.clone());
        let revision = seen.revision;
        let as_seen: Precondition = Arc::new(move |file| {
            if file.revision == revision && !file.has_expired(now) {
                Ok(())
            } else {
                Err(Error::not_found())
            }
        });
        let plan = Plan {
            events: vec![self.event(&caller, action, seen.id, detail)],
            tenant: caller.tenant,
            ids: vec![seen.id],
            permanent,
            precondition: as_seen,
            now,
            delete_at: now.plus(self.rules.reaper_delay),
        };
        Ok(self.file_remove_planned(plan).await? == [Removal::Removed])
    }

    async fn file_remove_planned(&self, plan: Plan) -> Result<Vec<Removal>> {
        let permanent = plan.permanent;
        let removed = self
            .metadata
            .write(plan, |tx, plan| plan.run(tx).boxed())
            .await?;
        if permanent {
            self.died.notify_one();
        }
        Ok(removed)
    }

    /// Removes what is due: files whose time has come, those that were in the trash for long enough,
    /// versions that are too old, slugs that are not reserved any more, and forgotten requests; how many files. Does nothing while the
    /// database is older than the store.
    pub async fn sweep(&self) -> Result<u64> {
        if self.is_older() {
            return Ok(0);
        }
        let swept = self.file_sweep().await?;
        self.version_sweep().await?;
        self.link_sweep().await?;
        loop {
            let before = self.once_expired();
            let gone = self
                .metadata
                .write((), move |tx, ()| {
                    async move { tx.idempotency_sweep(before, BATCH).await }.boxed()
                })
                .await?;
            if gone < u64::from(BATCH) {
                return Ok(swept);
            }
        }
    }

    async fn file_sweep(&self) -> Result<u64> {
        let mut swept = 0;
        loop {
            let now = self.clock.now();
            let mut reader = self.metadata.reader().await?;
            let expired = reader.conn().file_expired(now, BATCH).await?;
            let trashed = reader
                .conn()
                .file_trashed_before(now.minus(self.rules.trash_keep), BATCH)
                .await?;
            drop(reader);
            if expired.is_empty() && trashed.is_empty() {
                return Ok(swept);
            }
            let due = expired
                .into_iter()
                .map(|found| (found, "file.expired"))
                .chain(trashed.into_iter().map(|found| (found, "file.deleted")));
            for ((tenant, id), action) in due {
                // Decided again under the row's lock: it may have been restored or removed meanwhile.
                let keep = self.rules.trash_keep;
                let still_due: Precondition = Arc::new(move |file| {
                    let due = file.has_expired(now)
                        || file.trashed_at.is_some_and(|at| at <= now.minus(keep));
                    if due { Ok(()) } else { Err(Error::not_found()) }
                });
                let caller = Caller::service(tenant);
                let plan = Plan {
                    events: vec![self.event(&caller, action, id, Value::Null)],
                    tenant: caller.tenant,
                    ids: vec![id],
                    permanent: true,
                    precondition: still_due,
                    now,
                    delete_at: now.plus(self.rules.reaper_delay),
                };
                if self.file_remove_planned(plan).await? == [Removal::Removed] {
                    swept += 1;
                }
            }
        }
    }
}

/// Files of one tenant that are to go, and how.
struct Plan {
    tenant: Tenant,
    ids: Vec<FileId>,
    /// One for each id.
    events: Vec<Event>,
    permanent: bool,
    /// `NotFound` from it means that a file counts as absent.
    precondition: Precondition,
    now: Timestamp,
    delete_at: Timestamp,
}

impl Plan {
    async fn run(&self, tx: &mut Conn<'_>) -> Result<Vec<Removal>> {
        let mut outcomes = vec![Removal::Absent; self.ids.len()];
        // Everybody locks files in the order of their ids, then objects in that of theirs.
        let mut order: Vec<usize> = (0..self.ids.len()).collect();
        order.sort_by_key(|index| self.ids[*index]);
        let mut released = Released::default();
        for index in order {
            let (id, event) = (self.ids[index], &self.events[index]);
            let Some(file) = tx.file_lock(&self.tenant, id).await? else {
                continue;
            };
            if let Some(hold) = Hold::of(&file, self.now) {
                outcomes[index] = Removal::Held(hold);
                continue;
            }
            match (self.precondition)(&file) {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::NotFound => continue,
                Err(error) => return Err(error),
            }
            outcomes[index] = Removal::Removed;
            if self.permanent {
                released.file(tx, &file).await?;
            } else if file.trashed_at.is_some() {
                continue;
            } else {
                let mut trashed = file;
                trashed.trashed_at = Some(self.now);
                trashed.touch(self.now);
                tx.file_update(&trashed).await?;
            }
            tx.event_insert(event).await?;
        }
        released.commit(tx, &self.tenant, self.delete_at).await?;
        Ok(outcomes)
    }
}

/// References that a transaction drops, at its end and in the order of the objects' ids.
#[derive(Default)]
pub(super) struct Released {
    objects: Vec<ObjectId>,
    freed: Amount,
}

impl Released {
    /// Removes a file with all its versions.
    async fn file(&mut self, tx: &mut Conn<'_>, file: &File) -> Result<()> {
        // The first version has none before it, and most files have no other.
        if file.version > 1 {
            for (object, size) in tx.version_trim(&file.tenant, file.id, 0).await? {
                self.content(object, size)?;
            }
        }
        tx.file_delete(&file.tenant, file.id).await?;
        self.content(file.object_id, file.size)?;
        self.freed.files += 1;
        Ok(())
    }

    /// Takes note of one content that nothing refers to any more.
    pub(super) fn content(&mut self, object: ObjectId, size: u64) -> Result<()> {
        self.objects.push(object);
        self.freed.bytes += quota::amount(size)?;
        Ok(())
    }

    /// In bytes.
    pub(super) fn freed(&self) -> i64 {
        self.freed.bytes
    }

    /// Drops the references, and leaves the tenant's usage to the caller.
    pub(super) async fn drop_references(
        &mut self,
        tx: &mut Conn<'_>,
        delete_at: Timestamp,
    ) -> Result<()> {
        self.objects.sort_unstable();
        for object in self.objects.drain(..) {
            tx.object_release(object, delete_at).await?;
        }
        Ok(())
    }

    pub(super) async fn commit(
        mut self,
        tx: &mut Conn<'_>,
        tenant: &Tenant,
        delete_at: Timestamp,
    ) -> Result<()> {
        self.drop_references(tx, delete_at).await?;
        let change = Change {
            used: -self.freed,
            ..Change::default()
        };
        quota::record(tx, tenant, change).await
    }
}
