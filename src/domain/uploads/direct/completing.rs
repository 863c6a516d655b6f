//! The end of a direct upload: what the store says of its bytes is compared with what was declared, and
//! then there is a file.

use std::collections::BTreeMap;

use crc_fast::{CrcAlgorithm, Digest as Crc};
use futures::{FutureExt, StreamExt};
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result};
use crate::id::{FileId, Tenant, UploadId};
use crate::metadata::direct_parts::{Part, Written};
use crate::metadata::uploads::{State, Strategy, Upload};
use crate::objects::keys::ObjectKey;
use crate::objects::{Completion, Extent, Multipart, StoredPart};

use super::super::super::content::hash;
use super::super::super::files::{File, Sniff};
use super::super::super::{Caller, Domain};
use super::super::ending::Bytes;
use super::super::holding::{Held, holds};
use super::super::{locked, lost};
use super::by_tus;
use super::comparing::{
    NamedPart, There, are_all_there, checksums, chosen, that_count, without_etags,
};
use super::parts::{etag, matches_declared};

/// What completing came to.
#[derive(Clone, Debug)]
pub enum Completed {
    Made(File),
    /// It was made before.
    Before(File),
}

impl Domain {
    /// Makes the file of a direct upload whose bytes are all there. `named`: the parts as their sender has
    /// them; None: those that are there. It may be done again wherever it broke off.
    ///
    /// Must run to its end: a caller that may be dropped spawns it.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` where bytes are missing, or its parts are others; `Locked` while another request
    /// completes it; `Gone` where it was completed and its file is gone; `InvalidRequest`; and what gives the
    /// upload up: `ChecksumMismatch`, `UnsupportedMediaType`.
    pub async fn upload_complete(
        &self,
        caller: &Caller,
        id: UploadId,
        named: Option<Vec<NamedPart>>,
        sniff: Sniff,
    ) -> Result<Completed> {
        let held = match self.upload_take_up(&caller.tenant, id).await? {
            Ok(held) => held,
            Err(done) => return self.completed_before(&done).await,
        };
        let epoch = held.upload.epoch;
        let made = self.upload_completed(caller, held, named, sniff).await;
        self.upload_left(caller, id, epoch, made)
            .await
            .map(Completed::Made)
    }

    async fn completed_before(&self, done: &Upload) -> Result<Completed> {
        let gone = || Error::new(Kind::Gone, "The file that the upload became is gone.");
        let id: FileId = done.file_id.ok_or_else(gone)?;
        let file = self.file_get(&done.tenant, id).await?;
        file.map(Completed::Before).ok_or_else(gone)
    }

    /// The right to complete an upload, which nobody else has then; or the upload where it has ended.
    async fn upload_take_up(&self, tenant: &Tenant, id: UploadId) -> Result<Result<Held, Upload>> {
        let domain = self.clone();
        let taken = self
            .metadata
            .write(tenant.clone(), move |tx, tenant| {
                let domain = domain.clone();
                async move {
                    let now = domain.clock.now();
                    let locked_row = tx.upload_lock(tenant, id).await?;
                    let mut upload = locked_row
                        .filter(|upload| !upload.has_expired(now))
                        .ok_or_else(Error::not_found)?;
                    if upload.strategy == Strategy::Tus {
                        return Err(by_tus());
                    }
                    if upload.state == State::Done {
                        return Ok(Err(upload));
                    }
                    if upload.writer_until.is_some_and(|until| until > now) {
                        return Err(locked());
                    }
                    // A file that it makes has a name that no writer before it had.
                    upload.epoch += 1;
                    let until = now.plus(domain.rules.lease);
                    upload.writer_until = Some(until);
                    upload.expires_at = now.plus(domain.rules.uploads_expiry);
                    tx.upload_update(&upload).await?;
                    let kept = tx.upload_object_keep(&upload, domain.quiet_at(until));
                    if !kept.await? {
                        return Err(lost());
                    }
                    Ok(Ok(upload))
                }
                .boxed()
            })
            .await?;
        match taken {
            Ok(upload) => self.held(upload, 0).map(Ok),
            Err(done) => Ok(Err(done)),
        }
    }

    async fn upload_completed(
        &self,
        caller: &Caller,
        held: Held,
        named: Option<Vec<NamedPart>>,
        sniff: Sniff,
    ) -> Result<File> {
        let key = self
            .objects
            .root()
            .object(&held.upload.tenant, held.upload.object_id);
        let put_together = if self.objects.is_reachable() {
            self.store_puts_together(&held, &key, named).await
        } else {
            self.put_together(&held, &key, named).await
        };
        let sha256 = match put_together {
            Ok(sha256) => sha256,
            Err(error) if error.kind() == Kind::ChecksumMismatch => {
                self.upload_fail(caller, held.upload.id, held.upload.epoch, &error)
                    .await?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let bytes = Bytes {
            size: held.upload.size.unwrap_or(0),
            sha256,
            // By URLs that were signed, more may come.
            settled: false,
        };
        let (_, file) = self.upload_publish(caller, held, bytes, sniff).await?;
        if file.sha256.is_none() {
            self.unhashed.notify_one();
        }
        Ok(file)
    }

    /// Has the store put the parts at the key, if they come in parts, and compares. The SHA-256, where it
    /// is known.
    async fn store_puts_together(
        &self,
        held: &Held,
        key: &ObjectKey,
        named: Option<Vec<NamedPart>>,
    ) -> Result<Option<[u8; 32]>> {
        let upload = &held.upload;
        let size = upload.size.unwrap_or(0);
        if upload.strategy == Strategy::Multipart {
            let store = self.objects.multipart(key, held.lease.clone());
            let store = store.ok_or_else(|| Error::internal("the store takes no parts"))?;
            self.store_completes(held, key, &store, named.as_deref())
                .await?;
            // Of creations that met, or whose answer was lost.
            self.objects.uploads_abort(key).await?;
        }
        let checked = self.objects.head_checked(key).await?;
        let checked = checked.ok_or_else(|| nothing_came(upload))?;
        if upload.strategy == Strategy::Single {
            let there = There {
                number: 1,
                size: checked.size,
                etag: String::new(),
            };
            are_all_there(upload, &[there], named.map(without_etags).as_deref())?;
        } else if checked.size != size {
            return Err(Error::internal(
                "parts of the right sizes became an object of another one",
            ));
        }
        let (mut sha256, mut crc64nvme) = (checked.sha256, checked.crc64nvme);
        let unknown = upload.sha256.is_some() && sha256.is_none()
            || upload.crc64nvme.is_some() && crc64nvme.is_none();
        if unknown {
            let read = self.upload_read(key, size).await?;
            (sha256, crc64nvme) = (Some(read.0), Some(read.1));
        }
        matches_declared(upload, sha256.as_ref(), crc64nvme.as_ref())?;
        Ok(sha256)
    }

    /// Where a store keeps no checksum, what was declared is compared with the bytes themselves.
    async fn upload_read(&self, key: &ObjectKey, size: u64) -> Result<([u8; 32], [u8; 8])> {
        let (mut sha256, mut crc) = (Sha256::new(), Crc::new(CrcAlgorithm::Crc64Nvme));
        if size > 0 {
            let mut bytes = self.objects.read(key, 0..size).await?;
            while let Some(chunk) = bytes.next().await {
                let chunk = chunk?;
                crc.update(&chunk);
                sha256 = hash(sha256, vec![chunk]).await?;
            }
        }
        Ok((sha256.finalize().into(), crc.finalize().to_be_bytes()))
    }

    async fn store_completes(
        &self,
        held: &Held,
        key: &ObjectKey,
        store: &Multipart,
        named: Option<&[NamedPart]>,
    ) -> Result<()> {
        let upload = &held.upload;
        let size = upload.size.unwrap_or(0);
        let store_upload = upload.store_upload.as_deref();
        let store_upload = store_upload.ok_or_else(|| nothing_came(upload))?;
        let Some(there) = stored_parts(store, store_upload).await? else {
            // An earlier try may have come as far.
            let found = self.objects.head(key).await?;
            return match found {
                Some(found) if found.size == size => Ok(()),
                _ => Err(gone()),
            };
        };
        let there = that_count(there, named)?;
        are_all_there(upload, &there, named)?;
        let parts: Vec<(u32, String)> = there
            .into_iter()
            .map(|part| (part.number, part.etag))
            .collect();
        match store.complete(store_upload, &parts, size).await? {
            Completion::Done => Ok(()),
            Completion::Gone => Err(gone()),
            Completion::Refused(code) => Err(Error::new(
                Kind::Conflict,
                format!("The store does not put these parts together: {code}."),
            )),
        }
    }

    /// Puts the parts that the service took at the key. The SHA-256, where it is known.
    async fn put_together(
        &self,
        held: &Held,
        key: &ObjectKey,
        named: Option<Vec<NamedPart>>,
    ) -> Result<Option<[u8; 32]>> {
        let upload = &held.upload;
        let size = upload.size.unwrap_or(0);
        let mut reader = self.metadata.reader().await?;
        let parts = reader.conn().direct_parts(upload.id).await?;
        drop(reader);
        let chosen = chosen(&parts);
        let there: Vec<There> = chosen.iter().map(There::of).collect();
        are_all_there(upload, &there, named.as_deref())?;
        let (sha256, crc64nvme) = checksums(&chosen);
        matches_declared(upload, sha256.as_ref(), Some(&crc64nvme))?;
        // From here on they are these: who comes after a crash makes the same of them.
        let upload = self.upload_freeze(upload).await?;
        let shared = upload.held_epoch.ok_or_else(|| nothing_came(&upload))?;
        let at_its_place = |part: &(Part, Written)| part.0.epoch == shared;
        // Who has not ended may yet write there.
        let ended = |part: &Part| part.epoch != shared || part.written.is_some();
        let file = if chosen.iter().all(at_its_place) && parts.iter().all(ended) {
            shared
        } else {
            if self.objects.head(key).await?.is_none() {
                let extents: Vec<Extent> = chosen
                    .iter()
                    .map(|(part, written)| Extent {
                        epoch: part.epoch,
                        position: part.position,
                        size: written.size,
                    })
                    .collect();
                self.objects
                    .parts_join(key, upload.epoch, &extents, &held.lease)
                    .await?;
            }
            upload.epoch
        };
        self.objects
            .append_end(key, upload.epoch, file, size, &held.lease)
            .await?;
        Ok(sha256)
    }

    /// Records that all bytes are there, so that no more are taken.
    async fn upload_freeze(&self, upload: &Upload) -> Result<Upload> {
        let (id, epoch) = (upload.id, upload.epoch);
        let domain = self.clone();
        self.metadata
            .write(upload.tenant.clone(), move |tx, tenant| {
                let domain = domain.clone();
                async move {
                    let now = domain.clock.now();
                    let locked_row = tx.upload_lock(tenant, id).await?;
                    let mut upload = locked_row
                        .filter(|upload| holds(upload, epoch, now))
                        .ok_or_else(lost)?;
                    upload.received = upload.size.unwrap_or(0);
                    tx.upload_update(&upload).await?;
                    Ok(upload)
                }
                .boxed()
            })
            .await
    }

    /// The parts of an upload that are there, as a client sees them.
    pub async fn upload_parts_there(&self, upload: &Upload) -> Result<Vec<StoredPart>> {
        if upload.state == State::Done || upload.parts().is_none() {
            return Ok(Vec::new());
        }
        let key = self.objects.root().object(&upload.tenant, upload.object_id);
        if !self.objects.is_reachable() {
            let mut reader = self.metadata.reader().await?;
            let parts = reader.conn().direct_parts(upload.id).await?;
            let chosen = chosen(&parts);
            let there = chosen.iter().map(|(part, written)| StoredPart {
                number: part.number,
                size: written.size,
                etag: etag(written),
                modified: upload.created_at,
            });
            return Ok(there.collect());
        }
        let lease = crate::objects::Lease::new(upload.expires_at, self.clock.clone());
        match (&upload.store_upload, self.objects.multipart(&key, lease)) {
            (Some(store_upload), Some(store)) => {
                let parts = stored_parts(&store, store_upload)
                    .await?
                    .unwrap_or_default();
                let mut by_number: BTreeMap<u32, StoredPart> = BTreeMap::new();
                for part in parts {
                    let known = by_number.entry(part.number).or_insert_with(|| part.clone());
                    if known.modified <= part.modified {
                        *known = part;
                    }
                }
                Ok(by_number.into_values().collect())
            }
            _ => Ok(Vec::new()),
        }
    }
}

/// All parts that the store has. None: it knows of no such upload.
async fn stored_parts(store: &Multipart, upload: &str) -> Result<Option<Vec<StoredPart>>> {
    let mut parts = Vec::new();
    let mut after = 0;
    loop {
        let Some(page) = store.list_parts(upload, after).await? else {
            return Ok(None);
        };
        parts.extend(page.parts);
        match page.next {
            Some(next) => after = next,
            None => return Ok(Some(parts)),
        }
    }
}

fn nothing_came(upload: &Upload) -> Error {
    let what = match upload.strategy {
        Strategy::Single => "its bytes",
        _ => "any of its parts",
    };
    Error::new(
        Kind::Conflict,
        format!("The store does not have {what} yet."),
    )
}

fn gone() -> Error {
    Error::new(
        Kind::Conflict,
        "The store does not know of the upload any more: begin another one.",
    )
}
