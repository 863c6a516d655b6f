//! The bytes of direct uploads where the service takes them itself.
//!
//! Parts come in any order and at the same time. Each has a row before its first byte, and its place in
//! one sparse file, which one writer alone ever has; so that what a writer that stood still may yet do
//! touches nothing that another one wrote (`docs/adr/0010-each-part-has-one-writer.md`).

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use futures::{FutureExt, Stream, StreamExt};
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::id::{Tenant, UploadId};
use crate::metadata::Conn;
use crate::metadata::direct_parts::{Part, Written};
use crate::metadata::uploads::{State, Strategy, Upload};
use crate::metrics::Active;
use crate::objects::{Lease, Writer};

use super::super::super::Domain;
use super::super::super::content::{Sink, pour};
use super::super::super::quota::Reservation;
use super::open;

/// One request's part of an upload.
#[derive(Clone, Debug)]
pub struct Presented {
    pub tenant: Tenant,
    pub id: UploadId,
    /// From 1 on.
    pub number: u32,
}

impl Domain {
    /// Takes a part of an upload; its ETag. One that came before is replaced, but for that of an upload in a
    /// single request.
    ///
    /// Must run to its end: a caller that may be dropped spawns it.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` once it has ended; `Locked` while it is being completed; `PreconditionFailed`
    /// where a single one has its bytes; `InvalidRequest` for another length; `ChecksumMismatch`; what
    /// `source` fails with.
    pub async fn upload_part_take<S>(&self, presented: &Presented, source: S) -> Result<String>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
    {
        let (upload, part, lease_until) = self.part_begin(presented).await?;
        let _active = Active::count(&self.metrics.uploads.active);
        let received = self.part_receive(&upload, &part, lease_until, source).await;
        let taken = match received {
            Ok(written) => self.part_record(presented, &part, written).await,
            Err(error) => Err(error),
        };
        if taken.is_err() {
            self.part_leave(presented, &upload, &part).await;
        }
        taken
    }

    /// Commits the row of a part.
    async fn part_begin(&self, presented: &Presented) -> Result<(Upload, Part, Timestamp)> {
        let domain = self.clone();
        self.metadata
            .write(presented.clone(), move |tx, presented| {
                let domain = domain.clone();
                async move {
                    let now = domain.clock.now();
                    let mut upload = open(tx, &presented.tenant, presented.id, now).await?;
                    let number = presented.number;
                    let place = upload.parts().and_then(|parts| parts.position(number));
                    let place = place.ok_or_else(Error::not_found)?;
                    let others = tx.direct_parts_numbered(upload.id, number).await?;
                    is_wanted(&upload, &others)?;
                    let shared = *upload.held_epoch.get_or_insert(upload.epoch);
                    let (epoch, position) = if others.iter().any(|part| part.epoch == shared) {
                        upload.epoch += 1;
                        (upload.epoch, 0)
                    } else {
                        (shared, place)
                    };
                    let part = Part {
                        number,
                        epoch,
                        position,
                        written: None,
                    };
                    tx.direct_part_intend(upload.id, &part).await?;
                    tx.upload_update(&upload).await?;
                    let until = now.plus(domain.rules.lease);
                    let kept = tx.upload_object_keep(&upload, domain.quiet_at(until));
                    if !kept.await? {
                        return Err(Error::not_found());
                    }
                    Ok((upload, part, until))
                }
                .boxed()
            })
            .await
    }

    async fn part_receive<S>(
        &self,
        upload: &Upload,
        part: &Part,
        lease_until: Timestamp,
        source: S,
    ) -> Result<Written>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
    {
        let key = self.objects.root().object(&upload.tenant, upload.object_id);
        let length = upload.parts().and_then(|parts| parts.length(part.number));
        let length = length.ok_or_else(Error::not_found)?;
        let lease = Lease::new(lease_until, self.clock.clone());
        let writer: Option<Writer> = self
            .objects
            .part_write(&key, part.epoch, part.position, lease)
            .await?;
        let mut sink = Sink {
            writer: writer.ok_or_else(|| Error::internal("the store takes parts itself"))?,
            hasher: Sha256::new(),
            reservation: Reservation {
                domain: self.clone(),
                tenant: upload.tenant.clone(),
                object: upload.object_id,
                epoch: upload.epoch,
                // When the upload was created.
                reserved: u64::MAX,
            },
            size: 0,
            declared: Some(length),
        };
        let crc = Arc::new(Mutex::new(Crc::new(CrcAlgorithm::Crc64Nvme)));
        let counted = crc.clone();
        let source = source.inspect(move |chunk| {
            if let Ok(bytes) = chunk {
                let mut crc = counted.lock().unwrap_or_else(PoisonError::into_inner);
                crc.update(bytes);
            }
        });
        pour(&mut sink, source, length).await?;
        if sink.size != length {
            let detail = format!(
                "part {} has {length} bytes, and {} came",
                part.number, sink.size
            );
            return Err(Error::invalid("/size", detail));
        }
        self.metrics.uploads.bytes.inc_by(sink.size);
        let crc = crc
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .finalize();
        let written = Written {
            size: length,
            sha256: sink.hasher.finalize().into(),
            crc64nvme: crc.to_be_bytes(),
        };
        if upload.strategy == Strategy::Single {
            matches_declared(upload, Some(&written.sha256), Some(&written.crc64nvme))?;
        }
        Ok(written)
    }

    /// Records a part whose bytes are durable; its ETag.
    async fn part_record(
        &self,
        presented: &Presented,
        part: &Part,
        written: Written,
    ) -> Result<String> {
        let domain = self.clone();
        let part = *part;
        self.metadata
            .write(presented.clone(), move |tx, presented| {
                let domain = domain.clone();
                async move {
                    let now = domain.clock.now();
                    let upload = open(tx, &presented.tenant, presented.id, now).await?;
                    let others = tx.direct_parts_numbered(upload.id, part.number).await?;
                    is_wanted(&upload, &others)?;
                    record(tx, &upload, &others, &part, &written).await?;
                    Ok(etag(&written))
                }
                .boxed()
            })
            .await
    }

    /// Takes the row of a part away whose writer has given up: its place is free.
    async fn part_leave(&self, presented: &Presented, upload: &Upload, part: &Part) {
        let part = *part;
        let left = self
            .metadata
            .write(presented.clone(), move |tx, presented| {
                async move {
                    let upload = tx.upload_lock(&presented.tenant, presented.id).await?;
                    let done = upload.is_some_and(|upload| upload.state == State::Done);
                    if done {
                        return Ok(true);
                    }
                    let parts = tx.direct_parts_numbered(presented.id, part.number).await?;
                    // What was recorded after all, by a commit without an answer, stays.
                    let is_left =
                        |other: &Part| other.epoch == part.epoch && other.written.is_none();
                    if parts.iter().any(is_left) {
                        tx.direct_part_delete(presented.id, part.number, part.epoch)
                            .await?;
                    }
                    Ok(false)
                }
                .boxed()
            })
            .await;
        let tidied = match left {
            // Who stood still before it made its file, and wakes up after the end, has made it anew.
            Ok(true) => {
                let key = self.objects.root().object(&upload.tenant, upload.object_id);
                self.objects.part_discard(&key, part.epoch).await
            }
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = tidied {
            // The parts are copied in the end, as after a crash; a name goes with the object.
            tracing::warn!(upload = %presented.id, %error, "what is left of a part stays for now");
        }
    }
}

/// A single request is for bytes that are not there yet, as `If-None-Match: *` says.
fn is_wanted(upload: &Upload, others: &[Part]) -> Result<()> {
    if upload.strategy == Strategy::Single && others.iter().any(|part| part.written.is_some()) {
        return Err(Error::new(
            Kind::PreconditionFailed,
            "The upload has its bytes: they are written once.",
        ));
    }
    Ok(())
}

/// The last one of a number wins, save where it has the bytes that are there: those are at their place.
async fn record(
    tx: &mut Conn<'_>,
    upload: &Upload,
    others: &[Part],
    part: &Part,
    written: &Written,
) -> Result<()> {
    for other in others {
        if other.epoch == part.epoch {
            continue;
        }
        match &other.written {
            Some(before) if before == written => {
                return tx
                    .direct_part_delete(upload.id, part.number, part.epoch)
                    .await;
            }
            Some(_) => {
                tx.direct_part_delete(upload.id, other.number, other.epoch)
                    .await?
            }
            None => {}
        }
    }
    tx.direct_part_written(upload.id, part.number, part.epoch, written)
        .await
}

pub(super) fn etag(written: &Written) -> String {
    format!("\"{}\"", hex::encode(written.sha256))
}

/// Whether bytes with these checksums, as far as they are known, are those that were declared.
pub(super) fn matches_declared(
    upload: &Upload,
    sha256: Option<&[u8; 32]>,
    crc64nvme: Option<&[u8; 8]>,
) -> Result<()> {
    if let (Some(declared), Some(came)) = (&upload.sha256, sha256)
        && declared != came
    {
        return Err(differs("SHA-256", came, declared));
    }
    if let (Some(declared), Some(came)) = (&upload.crc64nvme, crc64nvme)
        && declared != came
    {
        return Err(differs("CRC-64/NVME", came, declared));
    }
    Ok(())
}

fn differs(name: &str, came: &[u8], declared: &[u8]) -> Error {
    let detail = format!(
        "The bytes that came have the {name} {}, and {} was declared.",
        hex::encode(came),
        hex::encode(declared)
    );
    Error::new(Kind::ChecksumMismatch, detail)
}
