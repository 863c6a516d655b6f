//! Contents of a file that come one after another: replaced, kept, restored.

use bytes::Bytes;
use futures::{FutureExt, Stream};
use serde_json::json;

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::id::{FileId, ObjectId, Tenant};
use crate::metadata::Conn;
use crate::metadata::objects::FIRST_EPOCH;
use crate::metadata::usage::{Amount, Change};

pub use crate::metadata::versions::Version;

use super::content::Planned;
use super::files::{
    Content, File, NewFile, Precondition, Sniff, in_trash, lease_ran_out, matches_declared,
};
use super::removal::Released;
use super::{Caller, Domain, holds, quota};

/// What a caller says of a file's new bytes.
#[derive(Clone, Debug, Default)]
pub struct NewContent {
    /// As it will be stored; None: the first bytes decide.
    pub content_type: Option<String>,
    /// What the bytes must hash to.
    pub sha256: Option<[u8; 32]>,
    /// How many bytes there must be.
    pub size: Option<u64>,
}

/// One content of a file, as a list of them has it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub version: i64,
    pub content: Content,
    pub created_by: String,
    pub current: bool,
}

impl From<&Version> for Content {
    fn from(version: &Version) -> Self {
        Self {
            tenant: version.tenant.clone(),
            object_id: version.object_id,
            content_type: version.content_type.clone(),
            size: version.size,
            sha256: version.sha256,
            version: version.version,
            created_at: version.created_at,
        }
    }
}

impl From<&File> for Listed {
    fn from(file: &File) -> Self {
        Self {
            version: file.version,
            content: file.into(),
            created_by: file.content_by.as_ref().unwrap_or(&file.created_by).clone(),
            current: true,
        }
    }
}

impl From<&Version> for Listed {
    fn from(version: &Version) -> Self {
        Self {
            version: version.version,
            content: version.into(),
            created_by: version.created_by.clone(),
            current: false,
        }
    }
}

/// Content that becomes a file's current one.
struct Current {
    object_id: ObjectId,
    content_type: String,
    size: u64,
    sha256: Option<[u8; 32]>,
    created_by: String,
}

impl Domain {
    /// Gives a file new bytes, all or nothing, and keeps the old ones as far as `versions.keep` says.
    ///
    /// Must run to its end: a caller that may be dropped spawns it.
    ///
    /// # Errors
    /// `NotFound`; `Gone` in the trash; `Conflict` for what is held, and what `precondition` answers, before
    /// the bytes and after them.
    pub async fn file_replace<S>(
        &self,
        caller: &Caller,
        id: FileId,
        new: NewContent,
        source: S,
        sniff: Sniff,
        precondition: Precondition,
    ) -> Result<File>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
    {
        let file = self.file_get(&caller.tenant, id).await?;
        let file = file.ok_or_else(Error::not_found)?;
        may_replace(&file, &precondition, self.clock.now())?;
        self.file_check(&NewFile {
            content_type: new.content_type.clone(),
            size: new.size,
            ..NewFile::default()
        })?;
        let planned = Planned {
            tenant: &caller.tenant,
            declared: new.size,
            files: 0,
            claim: None,
        };
        let intended = self
            .content_intend(planned)
            .await?
            .ok_or_else(|| Error::internal("a request without a key lost it"))?;
        let sniffed = self
            .sniffed(new.content_type, &file.name, source, sniff)
            .await;
        let (source, content_type) = match sniffed {
            Ok(sniffed) => sniffed,
            Err(error) => {
                self.intended_abandon(intended).await;
                return Err(error);
            }
        };
        let written = self.content_write(intended, source).await?;
        if let Err(error) = matches_declared(new.size, new.sha256, &written) {
            self.written_abandon(written).await;
            return Err(error);
        }

        let current = Current {
            object_id: written.id,
            content_type,
            size: written.size,
            sha256: Some(written.sha256),
            created_by: caller.subject.clone(),
        };
        let event = self.event(caller, "file.content_replaced", id, json!({}));
        let (clock, sha256, settled) = (self.clock.clone(), written.sha256, written.settled);
        let swap = self.swap();
        let committed = self
            .metadata
            .write(
                (event, current, precondition),
                move |tx, (event, current, precondition)| {
                    // Read again at each attempt: the lease must hold when the transaction ends.
                    let now = clock.now();
                    async move {
                        let file = tx.file_lock(&event.tenant, id).await?;
                        let file = file
                            .filter(|file| !file.has_expired(now))
                            .ok_or_else(Error::not_found)?;
                        may_replace(&file, precondition, now)?;
                        let reserved = tx
                            .object_publish(
                                current.object_id,
                                FIRST_EPOCH,
                                now,
                                current.size,
                                Some(&sha256),
                                settled,
                            )
                            .await?
                            .ok_or_else(lease_ran_out)?;
                        let (file, used) = swap.content(tx, file, current, now).await?;
                        tx.event_insert(event).await?;
                        let change = Change {
                            used,
                            reserved: -reserved,
                        };
                        quota::record(tx, &file.tenant, change).await?;
                        Ok(file)
                    }
                    .boxed()
                },
            )
            .await;
        if committed.is_err() {
            self.written_abandon(written).await;
        } else {
            self.died.notify_one();
        }
        committed
    }

    /// Makes an earlier content the current one again, as a new version. The current one stays as it is.
    ///
    /// # Errors
    /// `NotFound` for the file and for the version; `Conflict` in the trash and for what is held;
    /// `QuotaExceeded`.
    pub async fn version_restore(&self, caller: &Caller, id: FileId, version: i64) -> Result<File> {
        let now = self.clock.now();
        let detail = json!({"restored_version": version});
        let event = self.event(caller, "file.content_replaced", id, detail);
        let quota = self.quota(&caller.tenant);
        let swap = self.swap();
        let file = self
            .metadata
            .write(event, move |tx, event| {
                async move {
                    let file = tx.file_lock(&event.tenant, id).await?;
                    let file = file
                        .filter(|file| !file.has_expired(now))
                        .ok_or_else(Error::not_found)?;
                    if file.trashed_at.is_some() {
                        return Err(in_trash());
                    }
                    if file.version == version {
                        return Ok(file);
                    }
                    holds::may_go(&file, now)?;
                    let found = tx.version_get(&event.tenant, id, version).await?;
                    let found = found.ok_or_else(Error::not_found)?;
                    let retained = tx.object_retain(found.object_id).await?;
                    let sha256 = retained.ok_or_else(Error::not_found)?;
                    let current = Current {
                        object_id: found.object_id,
                        content_type: found.content_type,
                        size: found.size,
                        sha256,
                        created_by: event.subject.clone(),
                    };
                    let (file, used) = swap.content(tx, file, &current, now).await?;
                    tx.event_insert(event).await?;
                    let change = Change {
                        used,
                        ..Change::default()
                    };
                    quota::take(tx, &file.tenant, change, quota).await?;
                    Ok(file)
                }
                .boxed()
            })
            .await?;
        self.died.notify_one();
        Ok(file)
    }

    /// The contents of a file with versions below `below`, the newest first; None: there is no such file.
    pub async fn version_list(
        &self,
        tenant: &Tenant,
        id: FileId,
        below: Option<i64>,
        limit: u32,
    ) -> Result<Option<Vec<Listed>>> {
        let Some(file) = self.file_get(tenant, id).await? else {
            return Ok(None);
        };
        let below = below.unwrap_or(i64::MAX);
        let mut listed = Vec::new();
        if file.version < below {
            listed.push(Listed::from(&file));
        }
        let mut reader = self.metadata.reader().await?;
        let earlier = reader
            .conn()
            .version_list(tenant, id, below.min(file.version), limit)
            .await?;
        listed.extend(earlier.iter().map(Listed::from));
        listed.truncate(limit as usize);
        Ok(Some(listed))
    }

    /// One content of a file, with the file; None: there is no such file or no such version.
    pub async fn version_get(
        &self,
        tenant: &Tenant,
        id: FileId,
        version: i64,
    ) -> Result<Option<(File, Content)>> {
        let Some(file) = self.file_get(tenant, id).await? else {
            return Ok(None);
        };
        if file.version == version {
            let content = Content::from(&file);
            return Ok(Some((file, content)));
        }
        let mut reader = self.metadata.reader().await?;
        let found = reader.conn().version_get(tenant, id, version).await?;
        Ok(found.map(|version| (file, Content::from(&version))))
    }

    /// Removes versions that were replaced too long ago, but for those of files that are held.
    pub(super) async fn version_sweep(&self) -> Result<()> {
        const BATCH: u32 = 100;
        let Some(age) = self.rules.versions_max_age else {
            return Ok(());
        };
        loop {
            let now = self.clock.now();
            let mut reader = self.metadata.reader().await?;
            let due = reader
                .conn()
                .version_replaced_before(now.minus(age), now, BATCH)
                .await?;
            drop(reader);
            if due.is_empty() {
                return Ok(());
            }
            let delete_at = now.plus(self.rules.reaper_delay);
            for (tenant, id, version) in due {
                self.metadata
                    .write(tenant, move |tx, tenant| {
                        async move {
                            // As everybody does who takes one away.
                            let file = tx.file_lock(tenant, id).await?;
                            if file.is_none_or(|file| file.is_held(now)) {
                                return Ok(());
                            }
                            let mut released = Released::default();
                            if let Some((object, size)) =
                                tx.version_delete(tenant, id, version).await?
                            {
                                released.content(object, size)?;
                            }
                            released.commit(tx, tenant, delete_at).await
                        }
                        .boxed()
                    })
                    .await?;
            }
            self.died.notify_one();
        }
    }

    fn swap(&self) -> Swap {
        Swap {
            keep: self.rules.versions_keep,
            reaper_delay: self.rules.reaper_delay,
        }
    }
}

fn may_replace(file: &File, precondition: &Precondition, now: Timestamp) -> Result<()> {
    if file.trashed_at.is_some() {
        return Err(Error::new(Kind::Gone, "The file is in the trash."));
    }
    holds::may_go(file, now)?;
    precondition(file)
}

/// What becomes of the content that was current.
#[derive(Clone, Copy)]
struct Swap {
    keep: u32,
    reaper_delay: std::time::Duration,
}

impl Swap {
    /// Makes a content with a reference of its own the current one of a locked file; the file as it
    /// is then, and what it uses more.
    async fn content(
        self,
        tx: &mut Conn<'_>,
        file: File,
        current: &Current,
        now: Timestamp,
    ) -> Result<(File, Amount)> {
        let mut released = Released::default();
        if self.keep == 0 {
            released.content(file.object_id, file.size)?;
        } else {
            let old = Listed::from(&file);
            tx.version_insert(&Version {
                file_id: file.id,
                version: file.version,
                tenant: file.tenant.clone(),
                object_id: file.object_id,
                content_type: file.content_type.clone(),
                size: file.size,
                sha256: file.sha256,
                created_at: old.content.created_at,
                created_by: old.created_by,
                replaced_at: now,
            })
            .await?;
        }
        for (object, size) in tx.version_trim(&file.tenant, file.id, self.keep).await? {
            released.content(object, size)?;
        }
        released
            .drop_references(tx, now.plus(self.reaper_delay))
            .await?;
        let mut file = File {
            object_id: current.object_id,
            content_type: current.content_type.clone(),
            size: current.size,
            sha256: current.sha256,
            version: file.version + 1,
            content_at: Some(now),
            content_by: Some(current.created_by.clone()),
            ..file
        };
        file.touch(now);
        tx.file_update(&file).await?;
        let used = Amount {
            bytes: quota::amount(current.size)? - released.freed(),
            files: 0,
        };
        Ok((file, used))
    }
}
