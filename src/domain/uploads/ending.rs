//! The end of an upload: its bytes become a file.

use futures::{FutureExt, TryStreamExt};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result};
use crate::id::FileId;
use crate::metadata::uploads::{Abandoned, State, Upload};
use crate::metadata::usage::{Amount, Change};
use crate::objects::ByteStream;

use super::super::files::{File, Sniff, lease_ran_out};
use super::super::{Caller, Domain, quota};
use super::hashing::thawed;
use super::lost;
use super::receiving::{Held, holds};

/// How many first bytes decide a content type that was not declared.
const SNIFFED: u64 = 4096;

impl Domain {
    /// Makes the file of an upload all of whose bytes are there; the upload then. One whose bytes are not
    /// what they were to be is given up.
    ///
    /// May be done again wherever it broke off.
    pub(super) async fn upload_finish(
        &self,
        caller: &Caller,
        held: Held,
        sniff: Sniff,
    ) -> Result<Upload> {
        let upload = &held.upload;
        let sha256: [u8; 32] = match &upload.hash_state {
            Some(state) => thawed(state)?.finalize().into(),
            None => Sha256::new().finalize().into(),
        };
        if let Some(declared) = upload.sha256.filter(|declared| *declared != sha256) {
            let detail = format!(
                "The bytes that came have the SHA-256 {}, and {} was declared.",
                hex::encode(sha256),
                hex::encode(declared)
            );
            let error = Error::new(Kind::PieceMismatch, detail);
            self.upload_fail(caller, upload, &error).await?;
            return Err(error);
        }
        let settled = self.upload_assemble(&held).await?;
        let content_type = match &upload.content_type {
            Some(content_type) => content_type.clone(),
            None => {
                let sniffed = self.upload_sniff(upload, sniff).await?;
                if let Err(error) = self.content_type_check(&sniffed) {
                    self.upload_fail(caller, upload, &error).await?;
                    return Err(error);
                }
                sniffed
            }
        };
        let now = self.clock.now();
        let file = File {
            id: FileId::new(now),
            tenant: upload.tenant.clone(),
            name: upload.name.clone(),
            content_type,
            size: upload.received,
            sha256: Some(sha256),
            metadata: upload.metadata.clone(),
            version: 1,
            revision: 1,
            object_id: upload.object_id,
            created_at: now,
            updated_at: now,
            expires_at: upload.file_expires_at,
            trashed_at: None,
            created_by: upload.created_by.clone(),
            content_at: None,
            content_by: None,
        };
        let detail = json!({"upload": upload.id});
        let event = self.event(caller, "file.created", file.id, detail);
        let bytes = quota::amount(file.size)?;
        let (id, epoch) = (upload.id, upload.epoch);
        let domain = self.clone();
        let done = self
            .metadata
            .write((file, event), move |tx, (file, event)| {
                let domain = domain.clone();
                async move {
                    // Read again at each attempt: the lease must hold when the transaction ends.
                    let now = domain.clock.now();
                    let locked = tx.upload_lock(&file.tenant, id).await?;
                    let mut upload = locked
                        .filter(|upload| holds(upload, epoch, now))
                        .ok_or_else(lost)?;
                    let reserved = tx
                        .object_publish(file.object_id, epoch, now, file.size, &sha256, settled)
                        .await?
                        .ok_or_else(lease_ran_out)?;
                    tx.file_insert(file).await?;
                    tx.event_insert(event).await?;
                    tx.upload_pieces_abandon(id, now, Abandoned::All).await?;
                    tx.tus_parts_delete(id).await?;
                    upload.state = State::Done;
                    upload.file_id = Some(file.id);
                    upload.writer_until = None;
                    upload.asked_at = None;
                    upload.hash_state = None;
                    upload.expires_at = now.plus(domain.rules.uploads_expiry);
                    tx.upload_update(&upload).await?;
                    let used = Amount { bytes, files: 1 };
                    let change = Change {
                        used,
                        reserved: -reserved,
                    };
                    quota::record(tx, &file.tenant, change).await?;
                    Ok(upload)
                }
                .boxed()
            })
            .await?;
        self.metrics.uploads.stored.inc();
        if done.epoch > 1 || done.held_epoch.is_none() {
            // The pieces have died.
            self.died.notify_one();
        }
        Ok(done)
    }

    /// Puts all bytes at the upload's key; whether every call to the store has ended.
    async fn upload_assemble(&self, held: &Held) -> Result<bool> {
        let upload = &held.upload;
        let key = self.objects.root().object(&upload.tenant, upload.object_id);
        if let Some(last) = upload.held_epoch {
            self.objects
                .append_end(&key, upload.epoch, last, upload.received, &held.lease)
                .await?;
            return Ok(true);
        }
        let multipart = self.objects.multipart(&key, held.lease.clone());
        if let Some(multipart) = multipart
            && upload.received > 0
        {
            return self.upload_join_parts(held, multipart).await;
        }
        if upload.received > 0 {
            return Err(Error::internal("nobody has written the bytes of an upload"));
        }
        let lease = held.lease.clone();
        let mut writer = self.objects.write(&key, upload.epoch, Some(0), lease);
        if let Err(error) = writer.finish().await {
            writer.abort().await;
            return Err(error);
        }
        Ok(writer.settled())
    }

    async fn upload_sniff(&self, upload: &Upload, sniff: Sniff) -> Result<String> {
        let mut first = Vec::new();
        if upload.received > 0 {
            let key = self.objects.root().object(&upload.tenant, upload.object_id);
            let range = 0..upload.received.min(SNIFFED);
            let bytes: ByteStream = self.objects.read(&key, range).await?;
            first = bytes.try_collect::<Vec<_>>().await?.concat();
        }
        Ok(sniff(&first, &upload.name).to_owned())
    }
}
