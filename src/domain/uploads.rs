//! Uploads that take more than one request: begun, continued by whoever comes next, and ended as a
//! file or as nothing.
//!
//! All that is known of one is its row and what the row names, so that any process can go on with it.
//! One writes at a time: it holds a lease, and ends it with the transaction that records what came. Who
//! finds a lease that ran out counts the epoch up; what the writer before may still do then goes where
//! nobody looks.

use futures::FutureExt;
use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};
use crate::id::{ObjectId, Tenant, UploadId};
use crate::metadata::Conn;
use crate::metadata::events::Event;
use crate::metadata::objects::{FIRST_EPOCH, Intent};
use crate::metadata::uploads::Abandoned;
use crate::metadata::usage::Change;

use super::content::Claim;
use super::files::{NewFile, UNNAMED};
use super::once::{self, Key, Once};
use super::{Caller, Domain, quota};

mod bodies;
pub mod direct;
mod ending;
mod hashing;
mod holding;
mod parts;
mod receiving;

pub use crate::metadata::uploads::{State, Strategy, Upload};
pub use bodies::Check;
pub use holding::Append;

/// Uploads removed in one look.
const BATCH: u32 = 100;

impl Domain {
    /// Begins an upload that is to become a file; of unknown length where `new` has no size. With `once`,
    /// whose fingerprint must cover all of the request, the upload that an equal request began: as it is
    /// now, or as it was where it has gone since.
    ///
    /// # Errors
    /// As [`Domain::file_check`]; `QuotaExceeded`; as with every key.
    pub async fn upload_create(
        &self,
        caller: &Caller,
        new: NewFile,
        tus_metadata: Option<String>,
        once: Option<Once>,
    ) -> Result<Upload> {
        self.file_check(&new)?;
        let Some(once) = once else {
            let begun = self.upload_insert(caller, new, tus_metadata, None).await?;
            return begun.ok_or_else(|| Error::internal("an upload without a key lost it"));
        };
        let key = once.key(caller);
        loop {
            let abandoned = match self.once_look(&once, &key).await? {
                Key::Free => None,
                Key::Abandoned(since) => Some(since),
                Key::Done(done) => {
                    let then: Upload = once::made(&done, &once.fingerprint)?;
                    let now = self.upload_get(&caller.tenant, then.id).await?;
                    return Ok(now.unwrap_or(then));
                }
            };
            let claim = Some((key.clone(), once.fingerprint, abandoned));
            let (new, said) = (new.clone(), tus_metadata.clone());
            if let Some(upload) = self.upload_insert(caller, new, said, claim).await? {
                return Ok(upload);
            }
        }
    }

    /// None: another request has the key.
    async fn upload_insert(
        &self,
        caller: &Caller,
        new: NewFile,
        tus_metadata: Option<String>,
        claim: Option<Claim>,
    ) -> Result<Option<Upload>> {
        let now = self.clock.now();
        let expires_at = now.plus(self.rules.uploads_expiry);
        let upload = Upload {
            id: UploadId::new(now),
            tenant: caller.tenant.clone(),
            strategy: Strategy::Tus,
            state: State::Open,
            object_id: ObjectId::new(now),
            file_id: None,
            name: new.name.unwrap_or_else(|| UNNAMED.to_owned()),
            content_type: new.content_type,
            metadata: new.metadata,
            file_expires_at: new.expires_at,
            tus_metadata,
            size: new.size,
            sha256: new.sha256,
            crc64nvme: None,
            received: 0,
            hash_state: None,
            epoch: FIRST_EPOCH,
            writer_until: None,
            asked_at: None,
            held_epoch: None,
            store_upload: None,
            part_size: None,
            created_at: now,
            created_by: caller.subject.clone(),
            expires_at,
        };
        let intent = Intent {
            id: upload.object_id,
            tenant: upload.tenant.clone(),
            lease_until: expires_at,
            quiet_at: now,
            now,
            reserved: self.reserved_at_first(&caller.tenant, upload.size, 1)?,
        };
        let event = self.event(caller, "upload.created", upload.id, Value::Null);
        let quota = self.quota(&caller.tenant);
        let expired = self.once_expired();
        let ours = self
            .metadata
            .write(
                (intent, upload.clone(), event, claim),
                move |tx, (intent, upload, event, claim)| {
                    async move {
                        if !once::record(tx, claim.as_ref(), upload, now, expired).await? {
                            return Ok(false);
                        }
                        tx.object_intend(intent).await?;
                        tx.upload_insert(upload).await?;
                        tx.event_insert(event).await?;
                        let change = Change {
                            reserved: intent.reserved,
                            ..Change::default()
                        };
                        quota::take(tx, &upload.tenant, change, quota).await?;
                        Ok(true)
                    }
                    .boxed()
                },
            )
            .await?;
        Ok(ours.then_some(upload))
    }

    /// The upload, until it expires; None where there is none, and where it is another tenant's.
    pub async fn upload_get(&self, tenant: &Tenant, id: UploadId) -> Result<Option<Upload>> {
        let mut reader = self.metadata.reader().await?;
        let upload = reader.conn().upload_get(tenant, id).await?;
        let now = self.clock.now();
        Ok(upload.filter(|upload| !upload.has_expired(now)))
    }

    /// Open uploads, the newest first.
    pub async fn upload_list(
        &self,
        tenant: &Tenant,
        before: Option<UploadId>,
        limit: u32,
    ) -> Result<Vec<Upload>> {
        let now = self.clock.now();
        let mut reader = self.metadata.reader().await?;
        reader.conn().upload_list(tenant, now, before, limit).await
    }

    /// Gives an upload up, whoever writes to it; of one that has ended, what is known of it. The file stays.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn upload_abort(&self, caller: &Caller, id: UploadId) -> Result<()> {
        let now = self.clock.now();
        let event = self.event(caller, "upload.aborted", id, Value::Null);
        let gone = self
            .metadata
            .write(event, move |tx, event| {
                async move {
                    let locked = tx.upload_lock(&event.tenant, id).await?;
                    let Some(upload) = locked.filter(|upload| !upload.has_expired(now)) else {
                        return Ok(false);
                    };
                    remove(tx, &upload, event, now).await?;
                    Ok(true)
                }
                .boxed()
            })
            .await?;
        if !gone {
            return Err(Error::not_found());
        }
        self.died.notify_one();
        Ok(())
    }

    /// Removes the uploads whose time has come; how many.
    pub(super) async fn uploads_expire(&self) -> Result<usize> {
        let mut removed = 0;
        loop {
            let now = self.clock.now();
            let mut reader = self.metadata.reader().await?;
            let due = reader.conn().upload_expired(now, BATCH).await?;
            drop(reader);
            let found = due.len();
            for (tenant, id) in due {
                let caller = Caller::service(tenant);
                let event = self.event(&caller, "upload.expired", id, Value::Null);
                self.metadata
                    .write(event, move |tx, event| {
                        async move {
                            let locked = tx.upload_lock(&event.tenant, id).await?;
                            match locked.filter(|upload| upload.has_expired(now)) {
                                Some(upload) => remove(tx, &upload, event, now).await,
                                None => Ok(()),
                            }
                        }
                        .boxed()
                    })
                    .await?;
            }
            removed += found;
            if found < BATCH as usize {
                return Ok(removed);
            }
        }
    }

    /// Gives an upload up whose bytes are not what they were to be; false where another writer has taken it over.
    async fn upload_fail(
        &self,
        caller: &Caller,
        id: UploadId,
        epoch: i64,
        why: &Error,
    ) -> Result<bool> {
        let now = self.clock.now();
        let detail = json!({"error": why.detail()});
        let event = self.event(caller, "upload.failed", id, detail);
        let failed = self
            .metadata
            .write(event, move |tx, event| {
                async move {
                    let locked = tx.upload_lock(&event.tenant, id).await?;
                    let Some(upload) = locked.filter(|upload| upload.epoch == epoch) else {
                        return Ok(false);
                    };
                    remove(tx, &upload, event, now).await?;
                    Ok(true)
                }
                .boxed()
            })
            .await?;
        self.died.notify_one();
        Ok(failed)
    }
}

/// Removes a locked upload, and with it all that is not a file.
async fn remove(
    tx: &mut Conn<'_>,
    upload: &Upload,
    event: &Event,
    now: crate::clock::Timestamp,
) -> Result<()> {
    let mut reserved = None;
    if upload.state == State::Open {
        // How late its writers may still be is known by the object's row alone.
        reserved = tx
            .object_abandon(upload.object_id, upload.epoch, now, false)
            .await?;
        tx.upload_pieces_abandon(upload.id, now, Abandoned::All)
            .await?;
        tx.event_insert(event).await?;
    }
    tx.upload_delete(&upload.tenant, upload.id).await?;
    match reserved {
        Some(reserved) => quota::record(tx, &upload.tenant, quota::unreserved(reserved)).await,
        None => Ok(()),
    }
}

fn lost() -> Error {
    Error::unavailable("another writer has taken the upload over, or it is gone")
}

fn locked() -> Error {
    Error::new(
        Kind::Locked,
        "Another request is writing to this upload; try again.",
    )
}
