//! Changes of files that move no bytes: properties, the way out of the trash, copies.

use futures::FutureExt;
use serde_json::json;

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::id::FileId;
use crate::metadata::usage::{Amount, Change};

use super::files::{File, Metadata, NewFile, Precondition, in_trash};
use super::once::{self, Key, Once};
use super::properties::merge;
use super::{Caller, Domain, holds, quota};

/// What a caller wants to be different. None: stays as it is.
#[derive(Clone, Debug, Default)]
pub struct FilePatch {
    pub name: Option<String>,
    /// As it will be stored.
    pub content_type: Option<String>,
    pub metadata: Option<MetadataPatch>,
    /// None within: never.
    pub expires_at: Option<Option<Timestamp>>,
    /// None within: not at all.
    pub retention_until: Option<Option<Timestamp>>,
    pub legal_hold: Option<bool>,
    /// Whether whoever asks may lift a hold that is in force, or have it end sooner.
    pub may_lift: bool,
}

#[derive(Clone, Debug)]
pub enum MetadataPatch {
    /// As a JSON Merge Patch (RFC 7396).
    Merge(Metadata),
    Clear,
}

/// What is different in a copy. None: as in the source.
#[derive(Clone, Debug, Default)]
pub struct FileCopy {
    pub name: Option<String>,
    pub metadata: Option<Metadata>,
    pub expires_at: Option<Option<Timestamp>>,
}

impl FilePatch {
    fn apply(&self, file: &mut File) {
        if let Some(name) = &self.name {
            file.name.clone_from(name);
        }
        if let Some(content_type) = &self.content_type {
            file.content_type.clone_from(content_type);
        }
        match &self.metadata {
            None => {}
            Some(MetadataPatch::Clear) => file.metadata.clear(),
            Some(MetadataPatch::Merge(patch)) => merge(&mut file.metadata, patch.clone()),
        }
        if let Some(expires_at) = self.expires_at {
            file.expires_at = expires_at;
        }
        if let Some(retention_until) = self.retention_until {
            file.retention_until = retention_until;
        }
        if let Some(legal_hold) = self.legal_hold {
            file.legal_hold = legal_hold;
        }
    }
}

impl Domain {
    /// Changes what is said of a file. A patch that changes nothing makes no new revision.
    ///
    /// # Errors
    /// `NotFound`; what `precondition` answers; `Conflict` in the trash; `InvalidRequest` and
    /// `UnsupportedMediaType` for what the file must not become; `Forbidden` for who may not lift a hold.
    pub async fn file_patch(
        &self,
        caller: &Caller,
        id: FileId,
        patch: FilePatch,
        precondition: Precondition,
    ) -> Result<File> {
        let now = self.clock.now();
        let event = self.event(caller, "file.updated", id, patch.told());
        let domain = self.clone();
        let input = (event, patch, precondition);
        self.metadata
            .write(input, move |tx, (event, patch, precondition)| {
                let domain = domain.clone();
                async move {
                    let file = tx.file_lock(&event.tenant, id).await?;
                    let file = file
                        .filter(|file| !file.has_expired(now))
                        .ok_or_else(Error::not_found)?;
                    precondition(&file)?;
                    if file.trashed_at.is_some() {
                        return Err(in_trash());
                    }
                    let mut changed = file.clone();
                    patch.apply(&mut changed);
                    domain.file_check(&NewFile {
                        name: patch.name.clone(),
                        content_type: patch.content_type.clone(),
                        metadata: changed.metadata.clone(),
                        expires_at: patch.expires_at.flatten(),
                        retention_until: patch.retention_until.flatten(),
                        ..NewFile::default()
                    })?;
                    if !patch.may_lift && holds::is_lifted(&file, &changed, now) {
                        return Err(Error::new(
                            Kind::Forbidden,
                            "Only the scope admin lifts a hold or has it end sooner.",
                        ));
                    }
                    if changed == file {
                        return Ok(file);
                    }
                    changed.touch(now);
                    tx.file_update(&changed).await?;
                    tx.event_insert(event).await?;
                    Ok(changed)
                }
                .boxed()
            })
            .await
    }

    /// Takes a file out of the trash. One that is not in it stays as it is.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn file_restore(&self, caller: &Caller, id: FileId) -> Result<File> {
        let now = self.clock.now();
        let event = self.event(caller, "file.restored", id, json!({}));
        self.metadata
            .write(event, move |tx, event| {
                async move {
                    let file = tx.file_lock(&event.tenant, id).await?;
                    let mut file = file
                        .filter(|file| !file.has_expired(now))
                        .ok_or_else(Error::not_found)?;
                    if file.trashed_at.take().is_none() {
                        return Ok(file);
                    }
                    file.touch(now);
                    tx.file_update(&file).await?;
                    tx.event_insert(event).await?;
                    Ok(file)
                }
                .boxed()
            })
            .await
    }

    /// Makes a new file over the bytes of another one; none of them move.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` in the trash; `InvalidRequest`; `QuotaExceeded`.
    pub async fn file_copy(
        &self,
        caller: &Caller,
        id: FileId,
        copy: FileCopy,
        once: Option<Once>,
    ) -> Result<File> {
        self.file_check(&NewFile {
            name: copy.name.clone(),
            metadata: copy.metadata.clone().unwrap_or_default(),
            expires_at: copy.expires_at.flatten(),
            ..NewFile::default()
        })?;
        let Some(once) = once else {
            return self
                .file_copy_made(caller, id, copy, None)
                .await?
                .ok_or_else(|| Error::internal("a copy without a key lost it"));
        };
        let key = once.key(caller);
        loop {
            let abandoned = match self.once_look(&once, &key).await? {
                Key::Free => None,
                Key::Abandoned(since) => Some(since),
                // The fingerprint covers all of the request.
                Key::Done(done) => return once::made(&done, &once.fingerprint),
            };
            let claim = (key.clone(), once.fingerprint, abandoned);
            let copied = self
                .file_copy_made(caller, id, copy.clone(), Some(claim))
                .await?;
            if let Some(file) = copied {
                return Ok(file);
            }
        }
    }

    /// None: another request has the key.
    async fn file_copy_made(
        &self,
        caller: &Caller,
        id: FileId,
        copy: FileCopy,
        claim: Option<super::content::Claim>,
    ) -> Result<Option<File>> {
        let now = self.clock.now();
        let new = FileId::new(now);
        let event = self.event(caller, "file.copied", new, json!({"source": id}));
        let quota = self.quota(&caller.tenant);
        let expired = self.once_expired();
        let input = (event, copy, claim);
        self.metadata
            .write(input, move |tx, (event, copy, claim)| {
                async move {
                    let source = tx.file_lock(&event.tenant, id).await?;
                    let source = source
                        .filter(|file| !file.has_expired(now))
                        .ok_or_else(Error::not_found)?;
                    if source.trashed_at.is_some() {
                        return Err(in_trash());
                    }
                    let file = File {
                        id: new,
                        name: copy.name.clone().unwrap_or(source.name),
                        metadata: copy.metadata.clone().unwrap_or(source.metadata),
                        expires_at: copy.expires_at.unwrap_or(source.expires_at),
                        version: 1,
                        revision: 1,
                        created_at: now,
                        updated_at: now,
                        created_by: event.subject.clone(),
                        content_at: None,
                        content_by: None,
                        // The original is what is held.
                        retention_until: None,
                        legal_hold: false,
                        ..source
                    };
                    if !once::record(tx, claim.as_ref(), &file, now, expired).await? {
                        return Ok(None);
                    }
                    let retained = tx.object_retain(file.object_id).await?;
                    let sha256 = retained.ok_or_else(Error::not_found)?;
                    let file = File { sha256, ..file };
                    tx.file_insert(&file).await?;
                    tx.event_insert(event).await?;
                    let used = Amount {
                        bytes: quota::amount(file.size)?,
                        files: 1,
                    };
                    let change = Change {
                        used,
                        ..Change::default()
                    };
                    quota::take(tx, &file.tenant, change, quota).await?;
                    Ok(Some(file))
                }
                .boxed()
            })
            .await
    }
}

impl FilePatch {
    /// The names of what it sets, for the event, and what it says of holds.
    fn told(&self) -> serde_json::Value {
        let set = [
            ("name", self.name.is_some()),
            ("content_type", self.content_type.is_some()),
            ("metadata", self.metadata.is_some()),
            ("expires_at", self.expires_at.is_some()),
            ("retention_until", self.retention_until.is_some()),
            ("legal_hold", self.legal_hold.is_some()),
        ];
        let names: Vec<&str> = set
            .iter()
            .filter(|(_, is_set)| *is_set)
            .map(|(name, _)| *name)
            .collect();
        let mut told = json!({ "changed": names });
        if let Some(until) = self.retention_until {
            told["retention_until"] = json!(until);
        }
        if let Some(legal_hold) = self.legal_hold {
            told["legal_hold"] = json!(legal_hold);
        }
        told
    }
}
