//! Bytes that are added to an upload.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, Stream};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::id::{Tenant, UploadId};
use crate::metadata::Conn;
use crate::metadata::uploads::{Abandoned, Part, Piece, State, Strategy, Upload};
use crate::metadata::usage::{Amount, Change};
use crate::metrics::Active;
use crate::objects::Lease;

use super::super::content::{Sink, pour, too_large};
use super::super::files::Sniff;
use super::super::quota::{self, Reservation};
use super::super::{Caller, Domain};
use super::bodies::{Bodies, Watch, longer};
use super::hashing::{frozen, thawed};
use super::{Check, locked, lost};

/// The bytes after which what came is recorded, so that a crash loses no more.
pub(super) const SEGMENT: u64 = 64 * 1024 * 1024;

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
}

/// The right to write to an upload.
pub(super) struct Held {
    pub upload: Upload,
    pub lease: Lease,
    /// In bytes.
    pub reserved: u64,
    /// Whether every call to the store has ended that was made with it.
    pub settled: bool,
    watch: Arc<Watch>,
    _keeper: Keeper,
}

struct Keeper(tokio::task::JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Begun {
    Held(Upload, u64),
    /// Somebody else has it.
    Busy,
    /// There is nothing to be done any more.
    Done(Upload),
}

/// How a writer leaves an upload.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Leave {
    /// It goes on.
    Stay,
    /// It has nothing more to do: the next one may go on in the same place, if all calls have ended.
    InOrder,
}

impl Domain {
    /// Adds the bytes of one request to an upload, and makes the file when they were the last; the
    /// upload then. What came before `source` failed is kept, unless there is a `check`.
    ///
    /// Must run to its end: a caller that may be dropped spawns it.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` for another offset; `Locked` while another request writes; `PieceMismatch`
    /// where the check does not hold; `PayloadTooLarge`; `QuotaExceeded`; `Gone` where the store has ended the
    /// upload by itself; what `source` failed with; and where the file could not be made, what forbids it.
    pub async fn upload_append<S>(
        &self,
        caller: &Caller,
        id: UploadId,
        append: Append,
        check: Option<Box<dyn Check>>,
        source: S,
        sniff: Sniff,
    ) -> Result<Upload>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
    {
        let held = match self.upload_begin(&caller.tenant, id, append).await? {
            Ok(held) => held,
            Err(done) => return Ok(done),
        };
        let _active = Active::count(&self.metrics.uploads.active);
        let (begun, watch) = (held.upload.clone(), held.watch.clone());
        let room = held
            .upload
            .size
            .map_or(u64::MAX, |size| size - append.offset);
        let mut bytes = Bodies::new(source, check, watch, room);
        match self.upload_receive(held, &mut bytes).await {
            Ok(held) if held.upload.is_complete() => {
                let made = self.upload_finish(caller, held, sniff).await;
                self.upload_broken(caller, &begun, made).await
            }
            Ok(held) => match bytes.failed {
                Some(error) => Err(error),
                None => Ok(held.upload),
            },
            failed => {
                let failed = failed.map(|held| held.upload);
                self.upload_broken(caller, &begun, failed).await
            }
        }
    }

    /// Makes the file of an upload all of whose bytes are there, where whoever brought the last of them
    /// did not come so far; the upload as it is now.
    ///
    /// # Errors
    /// As [`Domain::upload_append`].
    pub async fn upload_end(
        &self,
        caller: &Caller,
        upload: &Upload,
        sniff: Sniff,
    ) -> Result<Upload> {
        let append = Append {
            offset: upload.received,
            ..Append::default()
        };
        match self.upload_try(&caller.tenant, upload.id, append).await? {
            Begun::Done(done) => Ok(done),
            // It is being done.
            Begun::Busy => Ok(upload.clone()),
            Begun::Held(upload, reserved) => {
                let begun = upload.clone();
                let held = self.held(upload, reserved)?;
                let made = self.upload_finish(caller, held, sniff).await;
                self.upload_broken(caller, &begun, made).await
            }
        }
    }

    /// The right to write, once nobody else has it; or the upload where it has ended.
    async fn upload_begin(
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

    async fn upload_try(&self, tenant: &Tenant, id: UploadId, append: Append) -> Result<Begun> {
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

    fn held(&self, upload: Upload, reserved: u64) -> Result<Held> {
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

    /// Takes all bytes, and records them. The right to write is given back, unless they were the last.
    async fn upload_receive<S>(&self, mut held: Held, bytes: &mut Bodies<S>) -> Result<Held>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        if !bytes.more().await {
            let refused = bytes.mismatches();
            if refused || !held.upload.is_complete() {
                let nothing = Recorded::nothing(Leave::InOrder);
                held.upload = self.upload_record(&held.upload, nothing).await?;
            }
            return if refused {
                Err(bytes.refusal())
            } else {
                Ok(held)
            };
        }
        let upload = &held.upload;
        let key = self.objects.root().object(&upload.tenant, upload.object_id);
        match self.objects.multipart(&key, held.lease.clone()) {
            Some(multipart) => self.upload_receive_parts(held, multipart, bytes).await,
            None => self.upload_receive_growing(held, bytes).await,
        }
    }

    /// The same, of some bytes, where one file grows.
    async fn upload_receive_growing<S>(&self, mut held: Held, bytes: &mut Bodies<S>) -> Result<Held>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        let upload = &held.upload;
        let key = self.objects.root().object(&upload.tenant, upload.object_id);
        let mut hasher = match &upload.hash_state {
            Some(state) => thawed(state)?,
            None => Sha256::new(),
        };
        let mut growing = None;
        let segment = match &bytes.check {
            Some(_) => u64::MAX,
            None => SEGMENT,
        };
        let mut more = true;
        while more {
            let upload = &mut held.upload;
            let writer = match growing.take() {
                Some(writer) => writer,
                None => {
                    let (epoch, last, at) = (upload.epoch, upload.held_epoch, upload.received);
                    let lease = held.lease.clone();
                    self.objects.append(&key, epoch, last, at, lease).await?
                }
            };
            // The next writer cuts off what is not recorded.
            upload.held_epoch = Some(upload.epoch);
            let mut sink = Sink {
                writer,
                hasher,
                reservation: Reservation {
                    domain: self.clone(),
                    tenant: upload.tenant.clone(),
                    object: upload.object_id,
                    epoch: upload.epoch,
                    reserved: held.reserved,
                },
                size: upload.received,
                declared: None,
            };
            let most = self.rules.limits.max_file_size.bytes() - upload.received;
            pour(&mut sink, bytes.segment(segment), most).await?;
            more = bytes.more().await;
            if !more && bytes.mismatches() {
                let refused = Recorded::nothing(Leave::InOrder);
                self.upload_record(upload, refused).await?;
                return Err(bytes.refusal());
            }
            let size = sink.size - upload.received;
            let came = Recorded {
                hash_state: Some(frozen(&sink.hasher)),
                received: sink.size,
                settled: sink.writer.settled(),
                ..Recorded::nothing(if more || upload.size == Some(sink.size) {
                    Leave::Stay
                } else {
                    Leave::InOrder
                })
            };
            *upload = self.upload_record(upload, came).await?;
            self.metrics.uploads.bytes.inc_by(size);
            hasher = sink.hasher;
            held.reserved = sink.reservation.reserved;
            growing = Some(sink.writer);
        }
        Ok(held)
    }

    /// Records what came, if the right to write is still there; the upload then.
    pub(super) async fn upload_record(
        &self,
        upload: &Upload,
        recorded: Recorded,
    ) -> Result<Upload> {
        let domain = self.clone();
        let input = (upload.tenant.clone(), upload.held_epoch, recorded);
        let (id, epoch) = (upload.id, upload.epoch);
        self.metadata
            .write(input, move |tx, (tenant, held_epoch, recorded)| {
                let domain = domain.clone();
                async move {
                    // Read again at each attempt: the lease must hold when the transaction ends.
                    let now = domain.clock.now();
                    let locked = tx.upload_lock(tenant, id).await?;
                    let mut upload = locked
                        .filter(|upload| holds(upload, epoch, now))
                        .ok_or_else(lost)?;
                    upload.held_epoch = *held_epoch;
                    if let Some(state) = &recorded.hash_state {
                        upload.hash_state = Some(state.clone());
                        upload.received = recorded.received;
                    }
                    upload.expires_at = now.plus(domain.rules.uploads_expiry);
                    let mut quiet_at = upload.writer_until.map(|until| domain.quiet_at(until));
                    if recorded.leave == Leave::InOrder {
                        // A call whose end is not known may yet have an effect: the next writer counts the epoch up.
                        upload.writer_until = (!recorded.settled).then_some(now);
                        upload.asked_at = None;
                        quiet_at = Some(now).filter(|_| recorded.settled).or(quiet_at);
                    }
                    tx.upload_update(&upload).await?;
                    tx.tus_parts_written(id, epoch, &recorded.parts).await?;
                    if let Some(first) = recorded.unused {
                        tx.tus_parts_give_back(id, first).await?;
                    }
                    if recorded.merged {
                        tx.upload_pieces_abandon(id, now, Abandoned::Written)
                            .await?;
                    }
                    if let Some(piece) = &recorded.piece {
                        let quiet_at = recorded.settled.then_some(now);
                        tx.upload_piece_written(id, piece, quiet_at).await?;
                    }
                    if !tx
                        .upload_object_keep(&upload, quiet_at.unwrap_or(now))
                        .await?
                    {
                        return Err(lost());
                    }
                    Ok(upload)
                }
                .boxed()
            })
            .await
    }

    /// As [`Domain::upload_left`]; an upload whose bytes the store has no more is given up.
    async fn upload_broken<T>(
        &self,
        caller: &Caller,
        begun: &Upload,
        outcome: Result<T>,
    ) -> Result<T> {
        match outcome {
            Err(error) if error.kind() == Kind::Gone => {
                let ours = self.upload_fail(caller, begun, &error).await?;
                Err(if ours { error } else { lost() })
            }
            outcome => {
                self.upload_left(&begun.tenant, begun.id, begun.epoch, outcome)
                    .await
            }
        }
    }

    /// Ends the lease of a writer that failed, so that the next one need not wait for it; what it may
    /// still be doing is left behind with its epoch.
    async fn upload_left<T>(
        &self,
        tenant: &Tenant,
        id: UploadId,
        epoch: i64,
        outcome: Result<T>,
    ) -> Result<T> {
        let Err(error) = outcome else {
            return outcome;
        };
        let now = self.clock.now();
        let left = self
            .metadata
            .write(tenant.clone(), move |tx, tenant| {
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

/// What one transaction records.
pub(super) struct Recorded {
    /// None: nothing came.
    pub hash_state: Option<Vec<u8>>,
    pub received: u64,
    pub parts: Vec<Part>,
    /// The first number of a part under which nothing was sent.
    pub unused: Option<u32>,
    /// All pieces that were there are in what is recorded.
    pub merged: bool,
    pub piece: Option<Piece>,
    /// Whether every call to the store has ended.
    pub settled: bool,
    pub leave: Leave,
}

impl Recorded {
    pub(super) fn nothing(leave: Leave) -> Self {
        Self {
            hash_state: None,
            received: 0,
            parts: Vec::new(),
            unused: None,
            merged: false,
            piece: None,
            settled: true,
            leave,
        }
    }
}

/// Whether the writer of this epoch still has the right to write.
pub(super) fn holds(upload: &Upload, epoch: i64, now: Timestamp) -> bool {
    upload.state == State::Open
        && upload.epoch == epoch
        && upload.writer_until.is_some_and(|until| until > now)
}
