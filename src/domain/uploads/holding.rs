//! The right to write to an upload: one has it at a time, for as long as its lease.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::id::{Tenant, UploadId};
use crate::metadata::Conn;
use crate::metadata::uploads::{Abandoned, State, Strategy, Upload};
use crate::metadata::usage::{Amount, Change};
use crate::objects::Lease;

use super::super::content::too_large;
use super::super::{Caller, Domain, quota};
use super::bodies::{Watch, longer};
use super::{locked, lost};

/// A writer that was sent nothing for so long gives way to who asks for it.
const SILENCE: Duration = Duration::from_secs(2);

/// How often a writer looks whether somebody asks, and how often, and for how long, who asks looks
/// whether it has given way.
const LOOK: Duration = Duration::from_secs(1);
const ASK: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(5);

/// What a request says of the bytes that it brings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Append {
    /// How many bytes the sender takes for received.
    pub offset: u64,
    /// Of the whole upload, where it was not declared before.
    pub length: Option<u64>,
    /// How many bytes come, where that is known.
    pub brings: Option<u64>,
    /// The sender waits to be told that they are wanted: none is taken in before that is known.
    pub waits: bool,
}

/// The right to write to an upload.
pub(super) struct Held {
    pub upload: Upload,
    pub lease: Lease,
    /// In bytes.
    pub reserved: u64,
    /// Whether every call to the store has ended that was made with it.
    pub settled: bool,
    pub watch: Arc<Watch>,
    _keeper: Keeper,
}

struct Keeper(tokio::task::JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) enum Begun {
    Held(Upload, u64),
    /// Somebody else has it.
    Busy,
    /// There is nothing to be done any more.
    Done(Upload),
}

impl Domain {
    /// The right to write, once nobody else has it; or the upload where it has ended.
    pub(super) async fn upload_begin(
        &self,
        tenant: &Tenant,
        id: UploadId,
        append: Append,
    ) -> Result<Result<Held, Upload>> {
        let patience = Instant::now() + PATIENCE;
        loop {
            match self.upload_try(tenant, id, append).await? {
                Begun::Held(upload, reserved) => return self.held(upload, reserved).map(Ok),
                Begun::Done(upload) => return Ok(Err(upload)),
                Begun::Busy if Instant::now() < patience => tokio::time::sleep(ASK).await,
                Begun::Busy => return Err(locked()),
            }
        }
    }

    pub(super) async fn upload_try(
        &self,
        tenant: &Tenant,
        id: UploadId,
        append: Append,
    ) -> Result<Begun> {
        let most = self.rules.limits.max_file_size.bytes();
        let declared = append.length.unwrap_or(0);
        let brought = append.offset.saturating_add(append.brings.unwrap_or(0));
        if declared.max(brought) > most {
            return Err(too_large(most));
        }
        let domain = self.clone();
        self.metadata
            .write(tenant.clone(), move |tx, tenant| {
                let domain = domain.clone();
                async move { domain.begin(tx, tenant, id, append).await }.boxed()
            })
            .await
    }

    async fn begin(
        &self,
        tx: &mut Conn<'_>,
        tenant: &Tenant,
        id: UploadId,
        append: Append,
    ) -> Result<Begun> {
        let now = self.clock.now();
        let locked = tx.upload_lock(tenant, id).await?;
        let mut upload = locked
            .filter(|upload| !upload.has_expired(now))
            .ok_or_else(Error::not_found)?;
        if upload.strategy != Strategy::Tus {
            return Err(Error::new(
                Kind::Conflict,
                "The bytes of this upload go straight to the store.",
            ));
        }
        if upload.state == State::Open && upload.writer_until.is_some_and(|until| until > now) {
            if upload.asked_at.is_none() {
                upload.asked_at = Some(now);
                tx.upload_update(&upload).await?;
            }
            return Ok(Begun::Busy);
        }
        if upload.received != append.offset {
            return Err(Error::new(
                Kind::Conflict,
                format!("The upload's offset is {}.", upload.received),
            ));
        }
        let mut reserve = 0;
        match (append.length, upload.size) {
            (Some(length), Some(size)) if length != size => {
                return Err(Error::new(
                    Kind::BadRequest,
                    format!("The upload's length is {size}, and can't be changed."),
                ));
            }
            (Some(length), None) if length < upload.received => {
                return Err(Error::new(
                    Kind::BadRequest,
                    "The upload's length can't be less than its offset.",
                ));
            }
            (Some(length), None) => {
                upload.size = Some(length);
                reserve = length;
            }
            _ => {}
        }
        let brought = append.offset.saturating_add(append.brings.unwrap_or(0));
        if upload.size.is_some_and(|size| brought > size) {
            return Err(longer());
        }
        if upload.state == State::Done {
            return Ok(Begun::Done(upload));
        }
        if upload.writer_until.is_some() {
            upload.epoch += 1;
            tx.upload_pieces_abandon(id, now, Abandoned::Unwritten)
                .await?;
        }
        let until = now.plus(self.rules.lease);
        upload.writer_until = Some(until);
        upload.asked_at = None;
        upload.expires_at = now.plus(self.rules.uploads_expiry);
        tx.upload_update(&upload).await?;
        if !tx.upload_object_keep(&upload, self.quiet_at(until)).await? {
            return Err(lost());
        }
        // Not at each request: there may be thousands.
        let old = now.plus(self.rules.uploads_expiry / 2);
        tx.upload_pieces_keep(&upload, old).await?;
        let quota = self.quota(tenant);
        let mut reserved = 0;
        if quota.bytes.is_some() {
            reserved = tx.object_reserved(upload.object_id).await?;
            let more = quota::amount(reserve.saturating_sub(reserved))?;
            if more > 0 {
                tx.object_reserve(upload.object_id, upload.epoch, more)
                    .await?;
                let change = Change {
                    reserved: Amount {
                        bytes: more,
                        files: 0,
                    },
                    ..Change::default()
                };
                quota::take(tx, tenant, change, quota).await?;
                reserved = reserve;
            }
        }
        Ok(Begun::Held(upload, reserved))
    }

    pub(super) fn held(&self, upload: Upload, reserved: u64) -> Result<Held> {
        let until = upload
            .writer_until
            .ok_or_else(|| Error::internal("a writer without a lease"))?;
        let lease = Lease::new(until, self.clock.clone());
        let watch = Arc::new(Watch {
            last: Mutex::new(Instant::now()),
            give_way: CancellationToken::new(),
        });
        Ok(Held {
            _keeper: self.upload_keep(&upload, lease.clone(), watch.clone()),
            upload,
            lease,
            reserved,
            settled: true,
            watch,
        })
    }

    /// Renews the lease of a writer, and has it give way where it is sent nothing and somebody asks.
    fn upload_keep(&self, upload: &Upload, lease: Lease, watch: Arc<Watch>) -> Keeper {
        let (tenant, id, epoch) = (upload.tenant.clone(), upload.id, upload.epoch);
        let domain = self.clone();
        Keeper(tokio::spawn(async move {
            let mut renewed = Instant::now();
            loop {
                tokio::time::sleep(LOOK).await;
                let looked = if renewed.elapsed() >= domain.rules.lease / 3 {
                    let kept = domain.upload_renew(&tenant, id, epoch).await;
                    if let Ok(Some(upload)) = &kept {
                        renewed = Instant::now();
                        lease.renew(upload.writer_until.unwrap_or(lease.until()));
                    }
                    kept
                } else {
                    domain.upload_look(&tenant, id, epoch).await
                };
                match looked {
                    // Lost: the writer notices before its next call, and so does its commit.
                    Ok(None) => return watch.give_way.cancel(),
                    Ok(Some(upload)) => {
                        let silent = watch.last().elapsed() >= SILENCE;
                        if upload.asked_at.is_some() && silent {
                            return watch.give_way.cancel();
                        }
                    }
                    Err(error) => {
                        tracing::warn!(upload = %id, %error, "a lease could not be renewed");
                    }
                }
            }
        }))
    }

    async fn upload_look(
        &self,
        tenant: &Tenant,
        id: UploadId,
        epoch: i64,
    ) -> Result<Option<Upload>> {
        let mut reader = self.metadata.reader().await?;
        let upload = reader.conn().upload_get(tenant, id).await?;
        Ok(upload.filter(|upload| upload.epoch == epoch))
    }

    async fn upload_renew(
        &self,
        tenant: &Tenant,
        id: UploadId,
        epoch: i64,
    ) -> Result<Option<Upload>> {
        let domain = self.clone();
        self.metadata
            .write(tenant.clone(), move |tx, tenant| {
                let domain = domain.clone();
                async move {
                    let now = domain.clock.now();
                    let locked = tx.upload_lock(tenant, id).await?;
                    let Some(mut upload) = locked.filter(|upload| holds(upload, epoch, now)) else {
                        return Ok(None);
                    };
                    let until = now.plus(domain.rules.lease);
                    upload.writer_until = Some(until);
                    upload.expires_at = now.plus(domain.rules.uploads_expiry);
                    tx.upload_update(&upload).await?;
                    let kept = tx
                        .upload_object_keep(&upload, domain.quiet_at(until))
                        .await?;
                    Ok(kept.then_some(upload))
                }
                .boxed()
            })
            .await
    }

    /// Ends the lease of a writer that failed, so that the next one need not wait for it; what it may
    /// still be doing is left behind with its epoch. An upload whose bytes have gone is given up.
    pub(super) async fn upload_left<T>(
        &self,
        caller: &Caller,
        id: UploadId,
        epoch: i64,
        outcome: Result<T>,
    ) -> Result<T> {
        let Err(error) = outcome else {
            return outcome;
        };
        if error.kind() == Kind::Gone {
            let ours = self.upload_fail(caller, id, epoch, &error).await?;
            return Err(if ours { error } else { lost() });
        }
        let now = self.clock.now();
        let left = self
            .metadata
            .write(caller.tenant.clone(), move |tx, tenant| {
                async move {
                    let locked = tx.upload_lock(tenant, id).await?;
                    let Some(mut upload) = locked.filter(|upload| holds(upload, epoch, now)) else {
                        return Ok(());
                    };
                    upload.writer_until = Some(now);
                    tx.upload_update(&upload).await
                }
                .boxed()
            })
            .await;
        if let Err(error) = left {
            // It runs out.
            tracing::warn!(upload = %id, %error, "a lease could not be ended");
        }
        Err(error)
    }
}

/// Whether the writer of this epoch still has the right to write.
pub(super) fn holds(upload: &Upload, epoch: i64, now: Timestamp) -> bool {
    upload.state == State::Open
        && upload.epoch == epoch
        && upload.writer_until.is_some_and(|until| until > now)
}
