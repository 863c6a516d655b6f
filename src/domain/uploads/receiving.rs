//! Bytes that are added to an upload.

use std::future::ready;

use bytes::Bytes;
use futures::{FutureExt, Stream};
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::id::UploadId;
use crate::metadata::uploads::{Abandoned, Part, Piece, Upload};
use crate::metrics::Active;

use super::super::content::{Sink, pour};
use super::super::files::Sniff;
use super::super::quota::Reservation;
use super::super::{Caller, Domain};
use super::bodies::{Bodies, meanwhile};
use super::hashing::{frozen, thawed};
use super::holding::{Append, Begun, Held, holds};
use super::{Check, lost};

/// The bytes after which what came is recorded, so that a crash loses no more.
pub(super) const SEGMENT: u64 = 64 * 1024 * 1024;

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
    /// where the check does not hold; `PayloadTooLarge`; `QuotaExceeded`; what `source` failed with; and
    /// where the file could not be made, what forbids it.
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
        // Each in a box: together they would take a tenth of a thread's stack, and be moved about there.
        let begun = self.upload_begin(&caller.tenant, id, append).boxed();
        let (begun, source) = if append.waits {
            meanwhile(ready(begun.await), source).await
        } else {
            meanwhile(begun, source).await
        };
        let held = match begun? {
            Ok(held) => held,
            Err(done) => return Ok(done),
        };
        let _active = Active::count(&self.metrics.uploads.active);
        let (epoch, watch) = (held.upload.epoch, held.watch.clone());
        let room = held
            .upload
            .size
            .map_or(u64::MAX, |size| size - append.offset);
        let mut bytes = Bodies::new(source, check, watch, room);
        match self.upload_receive(held, &mut bytes).boxed().await {
            Ok(held) if held.upload.is_complete() => {
                let made = self.upload_finish(caller, held, sniff).boxed().await;
                self.upload_left(caller, id, epoch, made).await
            }
            Ok(held) => match bytes.failed {
                Some(error) => Err(error),
                None => Ok(held.upload),
            },
            failed => {
                let failed = failed.map(|held| held.upload);
                self.upload_left(caller, id, epoch, failed).await
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
                let (id, epoch) = (upload.id, upload.epoch);
                let held = self.held(upload, reserved)?;
                let made = self.upload_finish(caller, held, sniff).await;
                self.upload_left(caller, id, epoch, made).await
            }
        }
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
            Some(multipart) => {
                let received = self.upload_receive_parts(held, multipart, bytes);
                received.boxed().await
            }
            None => self.upload_receive_growing(held, bytes).boxed().await,
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
