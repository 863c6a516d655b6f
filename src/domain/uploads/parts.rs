//! Where the store has parts: the bytes of an upload become those of its object. What does not fill a part is a
//! fragment, an object of its own, until what comes next fills one with it.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, Stream};
use sha2::Sha256;

use crate::error::{Error, Result};
use crate::id::ObjectId;
use crate::metadata::objects::{FIRST_EPOCH, Intent};
use crate::metadata::uploads::{Part, Piece, Upload};
use crate::metadata::usage::Amount;
use crate::objects::{Before, Completion, Lease, Multipart, PartWriter, SentPart, Writer, ended};

use super::super::Domain;
use super::super::content::{Sink, pour};
use super::super::quota::Reservation;
use super::bodies::Bodies;
use super::hashing::{frozen, thawed};
use super::holding::{Held, holds};
use super::lost;
use super::receiving::{Leave, Recorded, SEGMENT};

/// Fragments that the next one takes in: who sends single bytes would leave millions.
const MOST_FRAGMENTS: usize = 32;

/// What was received and is no part yet.
struct Kept {
    /// The highest number that a part ever had.
    last: u32,
    fragments: Vec<Piece>,
}

/// Bytes at the end of a request that fill no part.
struct Fragment {
    piece: Piece,
    /// Whether those before it are in it.
    merged: bool,
    settled: bool,
}

impl Domain {
    /// Takes all bytes of a request that brings some, and records them.
    pub(super) async fn upload_receive_parts<S>(
        &self,
        mut held: Held,
        multipart: Multipart,
        bytes: &mut Bodies<S>,
    ) -> Result<Held>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        let multipart = Arc::new(multipart);
        let mut hasher = match &held.upload.hash_state {
            Some(state) => thawed(state)?,
            None => Sha256::default(),
        };
        let mut more = true;
        while more {
            let upload = &held.upload;
            let kept = self.upload_kept(upload).await?;
            let writer = self.upload_part_writer(upload, &kept, &multipart);
            let stretch = match &bytes.check {
                Some(_) => u64::MAX,
                None => writer.stretch(SEGMENT),
            };
            let mut sink = Sink {
                writer: Writer::Parts(Box::new(writer)),
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
            if let Err(error) = pour(&mut sink, bytes.segment(stretch), most).await {
                sink.writer.abort().await;
                return Err(error);
            }
            let Writer::Parts(mut writer) = sink.writer else {
                return Err(Error::internal("parts became something else"));
            };
            more = bytes.more().await;
            if !more && bytes.mismatches() {
                let refused = Recorded {
                    unused: Some(writer.unused()),
                    settled: multipart.settled(),
                    ..Recorded::nothing(Leave::InOrder)
                };
                self.upload_record(upload, refused).await?;
                return Err(bytes.refusal());
            }
            let whole = upload.size == Some(sink.size);
            let mut fragment = None;
            if whole && writer.left_over() > 0 {
                writer.last().await?;
            } else if writer.left_over() > 0 {
                let written =
                    self.upload_fragment(upload, &mut writer, &kept, sink.size, &held.lease);
                fragment = Some(written.await?);
            }
            let parts = recorded(writer.sent());
            let merged = !parts.is_empty() || fragment.as_ref().is_some_and(|new| new.merged);
            let size = sink.size - upload.received;
            let came = Recorded {
                hash_state: Some(frozen(&sink.hasher)),
                received: sink.size,
                parts,
                unused: Some(writer.unused()),
                merged,
                settled: multipart.settled() && fragment.as_ref().is_none_or(|new| new.settled),
                piece: fragment.map(|new| new.piece),
                leave: if more || whole {
                    Leave::Stay
                } else {
                    Leave::InOrder
                },
            };
            held.settled &= came.settled;
            held.upload = self.upload_record(upload, came).await?;
            self.metrics.uploads.bytes.inc_by(size);
            if merged && !kept.fragments.is_empty() {
                self.died.notify_one();
            }
            hasher = sink.hasher;
            held.reserved = sink.reservation.reserved;
        }
        Ok(held)
    }

    /// Puts the object at its key, of its parts; whether every call to the store has ended. Done again, once
    /// that is done, it does nothing.
    pub(super) async fn upload_put_together(
        &self,
        held: &Held,
        multipart: Multipart,
    ) -> Result<bool> {
        let multipart = Arc::new(multipart);
        let mut upload = held.upload.clone();
        let key = self.objects.root().object(&upload.tenant, upload.object_id);
        let kept = self.upload_kept(&upload).await?;
        if !kept.fragments.is_empty() {
            // The length came last, and no bytes with it.
            let mut writer = self.upload_part_writer(&upload, &kept, &multipart);
            writer.last().await?;
            let ends = Recorded {
                hash_state: upload.hash_state.clone(),
                received: upload.received,
                parts: recorded(writer.sent()),
                unused: Some(writer.unused()),
                merged: true,
                ..Recorded::nothing(Leave::Stay)
            };
            upload = self.upload_record(&upload, ends).await?;
        }
        let mut reader = self.metadata.reader().await?;
        let parts = reader.conn().tus_parts(upload.id).await?;
        drop(reader);
        if parts.iter().map(|part| part.size).sum::<u64>() != upload.received {
            return Err(Error::internal("a part of an upload is missing"));
        }
        let name = upload
            .store_upload
            .as_deref()
            .ok_or_else(|| Error::internal("parts of no upload"))?;
        let mut parts: Vec<(u32, String)> = parts
            .into_iter()
            .map(|part| (part.number, part.etag))
            .collect();
        let mut completion = multipart.complete(name, &parts, upload.received).await?;
        if completion == Completion::Refused("InvalidPart".to_owned()) {
            // One was sent twice, and the store has another ETag for the second time. A number has one content.
            self.upload_parts_look(&multipart, name, &mut parts).await?;
            completion = multipart.complete(name, &parts, upload.received).await?;
        }
        match completion {
            Completion::Done => {}
            Completion::Gone => return Err(ended()),
            Completion::Refused(why) => {
                return Err(Error::internal(format!("the store refused parts: {why}")));
            }
        }
        if let Err(error) = self.objects.uploads_abort(&key).await {
            // They have no parts, and go with the object.
            tracing::warn!(upload = %upload.id, %error, "uploads that were begun twice may be left open");
        }
        // Who wrote in an earlier epoch may yet begin another one.
        Ok(held.settled && multipart.settled() && upload.epoch == FIRST_EPOCH)
    }

    /// Takes the ETags of parts from the store.
    async fn upload_parts_look(
        &self,
        multipart: &Multipart,
        name: &str,
        parts: &mut [(u32, String)],
    ) -> Result<()> {
        let mut after = Some(0);
        while let Some(number) = after {
            let page = multipart.list_parts(name, number).await?;
            let page = page.ok_or_else(ended)?;
            for found in page.parts {
                let at = parts.binary_search_by_key(&found.number, |(number, _)| *number);
                if let Ok(at) = at {
                    parts[at].1 = found.etag;
                }
            }
            after = page.next;
        }
        Ok(())
    }

    async fn upload_kept(&self, upload: &Upload) -> Result<Kept> {
        let mut reader = self.metadata.reader().await?;
        let mut conn = reader.conn();
        let last = conn.tus_parts_last(upload.id).await?;
        let fragments = conn.upload_pieces(upload.id).await?;
        Ok(Kept { last, fragments })
    }

    fn upload_part_writer(
        &self,
        upload: &Upload,
        kept: &Kept,
        multipart: &Arc<Multipart>,
    ) -> PartWriter {
        let key = |piece: &Piece| self.objects.root().object(&upload.tenant, piece.object_id);
        let before = Before {
            declared: upload.size,
            last: kept.last,
            front: kept
                .fragments
                .iter()
                .map(|piece| (key(piece), piece.size))
                .collect(),
        };
        let (domain, upload, calls) = (self.clone(), upload.clone(), multipart.clone());
        let allot = move |most| {
            let (domain, upload, calls) = (domain.clone(), upload.clone(), calls.clone());
            async move { domain.upload_allot(&upload, &calls, most).await }.boxed()
        };
        self.objects
            .write_parts(multipart.clone(), before, Arc::new(allot))
    }

    /// Commits the rows of the next parts; what the store calls the upload, and their numbers.
    async fn upload_allot(
        &self,
        upload: &Upload,
        multipart: &Multipart,
        most: u32,
    ) -> Result<(String, std::ops::Range<u32>)> {
        let mut reader = self.metadata.reader().await?;
        let known = reader.conn().upload_get(&upload.tenant, upload.id).await?;
        drop(reader);
        let known = known.and_then(|known| known.store_upload);
        let begun = known.is_none();
        // The object's row vouches for it, whatever becomes of the answer.
        let name = match known {
            Some(name) => name,
            None => multipart.create(true).await?,
        };
        let domain = self.clone();
        let (id, epoch) = (upload.id, upload.epoch);
        let input = (upload.tenant.clone(), name.clone());
        let numbers = self
            .metadata
            .write(input, move |tx, (tenant, name)| {
                let domain = domain.clone();
                async move {
                    let now = domain.clock.now();
                    let locked = tx.upload_lock(tenant, id).await?;
                    let Some(mut upload) = locked.filter(|upload| holds(upload, epoch, now)) else {
                        return Ok(None);
                    };
                    if upload.store_upload.is_none() {
                        upload.store_upload = Some(name.clone());
                        tx.upload_update(&upload).await?;
                    }
                    tx.tus_parts_intend(id, epoch, most).await.map(Some)
                }
                .boxed()
            })
            .await?;
        match numbers {
            Some(numbers) if !numbers.is_empty() => Ok((name, numbers)),
            Some(_) => Err(Error::unavailable(
                "the upload has more parts than the store takes",
            )),
            None => {
                // Who took the upload over may have ended all that there was before.
                if begun && let Err(error) = multipart.abort(&name).await {
                    tracing::warn!(upload = %id, %error, "an upload that nobody goes on with is left open");
                }
                Err(lost())
            }
        }
    }

    /// Writes what is left over as an object of its own, with a row before its bytes.
    async fn upload_fragment(
        &self,
        upload: &Upload,
        writer: &mut PartWriter,
        kept: &Kept,
        end: u64,
        lease: &Lease,
    ) -> Result<Fragment> {
        let merged = writer.has_front() && kept.fragments.len() >= MOST_FRAGMENTS;
        let bytes = writer.take_left_over(merged).await?;
        let size = bytes.iter().map(|chunk| chunk.len() as u64).sum();
        let now = self.clock.now();
        let object_id = ObjectId::new(now);
        let intent = Intent {
            id: object_id,
            tenant: upload.tenant.clone(),
            lease_until: upload.expires_at,
            quiet_at: self.quiet_at(lease.until()),
            now,
            reserved: Amount::default(),
        };
        let position = end - size;
        let (id, epoch) = (upload.id, upload.epoch);
        self.metadata
            .write(intent, move |tx, intent| {
                async move {
                    let locked = tx.upload_lock(&intent.tenant, id).await?;
                    locked
                        .filter(|upload| holds(upload, epoch, now))
                        .ok_or_else(lost)?;
                    tx.object_intend(intent).await?;
                    tx.upload_piece_intend(id, position, intent.id).await
                }
                .boxed()
            })
            .await?;
        let key = self.objects.root().object(&upload.tenant, object_id);
        let mut writer = self
            .objects
            .write(&key, FIRST_EPOCH, Some(size), lease.clone());
        if let Err(error) = writer.finish_with(bytes).await {
            writer.abort().await;
            return Err(error);
        }
        Ok(Fragment {
            piece: Piece {
                position,
                size,
                object_id,
            },
            merged,
            settled: writer.settled(),
        })
    }
}

fn recorded(sent: Vec<SentPart>) -> Vec<Part> {
    sent.into_iter()
        .map(|SentPart { number, size, etag }| Part { number, size, etag })
        .collect()
}
