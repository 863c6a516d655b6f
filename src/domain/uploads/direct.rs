//! Uploads whose bytes go straight to the store, by requests that are signed here: all in one, or in
//! parts. A store that can't be reached by others leads back to the service, which takes them itself.
//!
//! No URL is signed before the row of its key says until when its bytes may come, so that nothing
//! outlives it: `objects.quiet_at` is the last URL's end, and the horizon behind it.

use std::ops::RangeInclusive;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt;
use serde_json::Value;

use crate::clock::Timestamp;
use crate::error::{Error, Invalid, Kind, Result};
use crate::id::{ObjectId, Tenant, UploadId};
use crate::metadata::Conn;
use crate::metadata::events::Event;
use crate::metadata::objects::{FIRST_EPOCH, Intent};
use crate::metadata::uploads::{State, Strategy, Upload};
use crate::metadata::usage::Change;
use crate::objects::{Lease, Parts, SignedRequest};

use super::super::content::Claim;
use super::super::files::{NewFile, UNNAMED};
use super::super::once::{self, Key, Once};
use super::super::{Caller, Domain, quota};
use super::locked;

mod comparing;
mod completing;
mod parts;
mod probing;

pub use comparing::NamedPart;
pub use completing::Completed;
pub use parts::Presented;

/// URLs in one answer.
pub const MOST_URLS: u32 = 1_000;

/// A request that brings some of an upload's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Of the part, from 1 on.
    pub number: u32,
    pub expires_at: Timestamp,
    /// Of the store itself; None: the service is to be sent them.
    pub request: Option<SignedRequest>,
}

impl Upload {
    /// How its bytes are divided. None where they come by tus.
    pub fn parts(&self) -> Option<Parts> {
        let size = self.size?;
        match self.strategy {
            Strategy::Tus => None,
            Strategy::Single => Some(Parts::whole(size)),
            Strategy::Multipart => Some(Parts::sized(size, self.part_size?)),
        }
    }
}

/// What a creation commits.
struct Creation {
    intent: Intent,
    upload: Upload,
    event: Event,
    claim: Option<Claim>,
}

impl Domain {
    /// Begins a direct upload of `new`, which has a size; and where its bytes come in one request, that one.
    /// An equal request that came before is answered with its upload, and a URL that is signed anew.
    ///
    /// # Errors
    /// As [`Domain::file_check`]; `QuotaExceeded`; `Gone` where an equal request's upload is gone.
    pub async fn upload_create_direct(
        &self,
        caller: &Caller,
        new: NewFile,
        crc64nvme: Option<[u8; 8]>,
        once: Option<Once>,
    ) -> Result<(Upload, Option<Target>)> {
        self.file_check(&new)?;
        let size = new
            .size
            .ok_or_else(|| Error::internal("a direct upload without a size"))?;
        let single_max = self.rules.uploads_single_max;
        if new.sha256.is_some() && size > single_max {
            let detail = format!("only of up to {single_max} bytes: send crc64nvme");
            return Err(Error::invalid("/sha256", detail));
        }
        let single = size <= single_max && self.takes_signed_puts().await?;
        let longest = self.objects.longest_signature().await?;
        let once = once.map(|once| (once.key(caller), once));
        loop {
            let mut claim = None;
            if let Some((key, once)) = &once {
                let abandoned = match self.once_look(once, key).await? {
                    Key::Free => None,
                    Key::Abandoned(since) => Some(since),
                    Key::Done(done) => {
                        let id: UploadId = once::made(&done, &once.fingerprint)?;
                        return self.upload_created(caller, id).await;
                    }
                };
                claim = Some((key.clone(), once.fingerprint, abandoned));
            }
            let mut creation = self.creation(caller, new.clone(), size, crc64nvme, single)?;
            creation.claim = claim;
            let urls_end = earlier(creation.upload.expires_at, creation.intent.now, longest);
            creation.intent.quiet_at = urls_end.plus(self.rules.request_horizon);
            let upload = creation.upload.clone();
            if !self.upload_intend(creation).await? {
                continue;
            }
            let target = match upload.strategy {
                Strategy::Single => Some(self.target(&upload, None, 1, urls_end).await?),
                _ => None,
            };
            return Ok((upload, target));
        }
    }

    fn creation(
        &self,
        caller: &Caller,
        new: NewFile,
        size: u64,
        crc64nvme: Option<[u8; 8]>,
        single: bool,
    ) -> Result<Creation> {
        let now = self.clock.now();
        let strategy = if single {
            Strategy::Single
        } else {
            Strategy::Multipart
        };
        let upload = Upload {
            id: UploadId::new(now),
            tenant: caller.tenant.clone(),
            strategy,
            state: State::Open,
            object_id: ObjectId::new(now),
            file_id: None,
            name: new.name.unwrap_or_else(|| UNNAMED.to_owned()),
            content_type: new.content_type,
            metadata: new.metadata,
            file_expires_at: new.expires_at,
            tus_metadata: None,
            size: Some(size),
            sha256: new.sha256,
            crc64nvme,
            received: 0,
            hash_state: None,
            epoch: FIRST_EPOCH,
            writer_until: None,
            asked_at: None,
            held_epoch: None,
            store_upload: None,
            part_size: (!single).then(|| Parts::of(size).part_size()),
            created_at: now,
            created_by: caller.subject.clone(),
            expires_at: now.plus(self.rules.uploads_expiry),
        };
        let intent = Intent {
            id: upload.object_id,
            tenant: upload.tenant.clone(),
            lease_until: upload.expires_at,
            quiet_at: now,
            now,
            reserved: self.reserved_at_first(&caller.tenant, upload.size, 1)?,
        };
        let event = self.event(caller, "upload.created", upload.id, Value::Null);
        Ok(Creation {
            intent,
            upload,
            event,
            claim: None,
        })
    }

    /// False where another request has the key.
    async fn upload_intend(&self, creation: Creation) -> Result<bool> {
        let expired = self.once_expired();
        let quota = self.quota(&creation.upload.tenant);
        self.metadata
            .write(creation, move |tx, creation| {
                async move {
                    let Creation {
                        intent,
                        upload,
                        event,
                        claim,
                    } = creation;
                    // Its URL is a secret, and is not kept.
                    if !once::record(tx, claim.as_ref(), &upload.id, intent.now, expired).await? {
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
            })
            .await
    }

    /// What an equal request is told of the upload that the first one made.
    async fn upload_created(
        &self,
        caller: &Caller,
        id: UploadId,
    ) -> Result<(Upload, Option<Target>)> {
        let upload = self.upload_get(&caller.tenant, id).await?;
        let upload = upload.ok_or_else(|| {
            Error::new(
                Kind::Gone,
                "The upload that this Idempotency-Key made is gone.",
            )
        })?;
        if upload.state == State::Done || upload.strategy != Strategy::Single {
            return Ok((upload, None));
        }
        let (upload, targets) = self.upload_sign(caller, id, 1..=1).await?;
        Ok((upload, targets.into_iter().next()))
    }

    /// Signs the requests for some of an upload's parts. The one of an upload in one request is its part 1.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` where its bytes come by tus, and where it has ended; `InvalidRequest` for parts
    /// that it does not have.
    pub async fn upload_sign(
        &self,
        caller: &Caller,
        id: UploadId,
        numbers: RangeInclusive<u32>,
    ) -> Result<(Upload, Vec<Target>)> {
        let longest = self.objects.longest_signature().await?;
        let domain = self.clone();
        let wanted = numbers.clone();
        let (upload, urls_end) = self
            .metadata
            .write(caller.tenant.clone(), move |tx, tenant| {
                let (domain, wanted) = (domain.clone(), wanted.clone());
                async move {
                    let now = domain.clock.now();
                    let mut upload = open(tx, tenant, id, now).await?;
                    let parts = upload.parts().ok_or_else(by_tus)?;
                    are_there(&parts, &wanted)?;
                    upload.expires_at = now.plus(domain.rules.uploads_expiry);
                    tx.upload_update(&upload).await?;
                    let urls_end = earlier(upload.expires_at, now, longest);
                    let quiet_at = urls_end.plus(domain.rules.request_horizon);
                    if !tx.upload_object_keep(&upload, quiet_at).await? {
                        return Err(Error::not_found());
                    }
                    Ok((upload, urls_end))
                }
                .boxed()
            })
            .await?;
        let store_upload = self.store_upload(&upload).await?;
        let mut targets = Vec::new();
        for number in numbers {
            let target = self.target(&upload, store_upload.as_deref(), number, urls_end);
            targets.push(target.await?);
        }
        Ok((upload, targets))
    }

    /// What the store calls an upload in parts, which is begun there where that was not done. None where
    /// the service takes them, and where there are none.
    async fn store_upload(&self, upload: &Upload) -> Result<Option<String>> {
        if upload.strategy != Strategy::Multipart || upload.store_upload.is_some() {
            return Ok(upload.store_upload.clone());
        }
        let key = self.objects.root().object(&upload.tenant, upload.object_id);
        let lease = Lease::new(upload.expires_at, self.clock.clone());
        let Some(store) = self.objects.multipart(&key, lease) else {
            return Ok(None);
        };
        let begun = store.create(false).await?;
        let id = upload.id;
        let domain = self.clone();
        let input = (upload.tenant.clone(), begun.clone());
        let recorded = self
            .metadata
            .write(input, move |tx, (tenant, begun)| {
                let domain = domain.clone();
                async move {
                    let mut upload = open(tx, tenant, id, domain.clock.now()).await?;
                    if upload.store_upload.is_none() {
                        upload.store_upload = Some(begun.clone());
                        tx.upload_update(&upload).await?;
                    }
                    Ok(upload.store_upload)
                }
                .boxed()
            })
            .await?;
        if recorded.as_ref() != Some(&begun) {
            // Another request was first. What is left of this one goes when the upload ends.
            if let Err(error) = store.abort(&begun).await {
                tracing::debug!(upload = %id, %error, "a second upload of a key is left open");
            }
        }
        Ok(recorded)
    }

    async fn target(
        &self,
        upload: &Upload,
        store_upload: Option<&str>,
        number: u32,
        expires_at: Timestamp,
    ) -> Result<Target> {
        let key = self.objects.root().object(&upload.tenant, upload.object_id);
        // Whole seconds, not one too many.
        let left = Duration::from_secs(expires_at.since(self.clock.now()).as_secs());
        let length = upload.parts().and_then(|parts| parts.length(number));
        let request = match store_upload {
            Some(store_upload) => {
                let lease = Lease::new(expires_at, self.clock.clone());
                let store = self.objects.multipart(&key, lease);
                let store = store.ok_or_else(|| Error::internal("the store takes no parts"))?;
                let part = store.presign_part(store_upload, number, length, left);
                Some(part.await?)
            }
            None => {
                let checksums = checksums(upload);
                let put = self.objects.presign_put(&key, length, left, &checksums);
                put.await?
            }
        };
        Ok(Target {
            number,
            expires_at,
            request,
        })
    }
}

/// The upload, kept from changing, where its bytes may still come.
async fn open(tx: &mut Conn<'_>, tenant: &Tenant, id: UploadId, now: Timestamp) -> Result<Upload> {
    let locked_row = tx.upload_lock(tenant, id).await?;
    let upload = locked_row
        .filter(|upload| !upload.has_expired(now))
        .ok_or_else(Error::not_found)?;
    if upload.strategy == Strategy::Tus {
        return Err(by_tus());
    }
    if upload.state == State::Done {
        return Err(Error::new(
            Kind::Conflict,
            "The upload has ended: it is a file.",
        ));
    }
    if upload.writer_until.is_some_and(|until| until > now) {
        return Err(locked());
    }
    if is_frozen(&upload) {
        return Err(Error::new(
            Kind::Conflict,
            "The upload has all its bytes: complete it.",
        ));
    }
    Ok(upload)
}

/// Whether its parts are those that it is put together from. Without bytes there is nothing to choose from.
fn is_frozen(upload: &Upload) -> bool {
    upload.received > 0
}

/// The end of URLs that are signed now: that of the upload, but for what a signature lasts.
fn earlier(expires_at: Timestamp, now: Timestamp, longest: Duration) -> Timestamp {
    expires_at.min(now.plus(longest))
}

/// What the store is to compare the bytes of a single request with.
fn checksums(upload: &Upload) -> Vec<(&'static str, String)> {
    let sha256 = upload.sha256.map(|digest| STANDARD.encode(digest));
    let crc64nvme = upload.crc64nvme.map(|checksum| STANDARD.encode(checksum));
    // S3 takes one of them with a request.
    match (sha256, crc64nvme) {
        (Some(sha256), _) => vec![("x-amz-checksum-sha256", sha256)],
        (None, Some(crc64nvme)) => vec![("x-amz-checksum-crc64nvme", crc64nvme)],
        (None, None) => Vec::new(),
    }
}

fn are_there(parts: &Parts, numbers: &RangeInclusive<u32>) -> Result<()> {
    let count = parts.count();
    let (from, to) = (*numbers.start(), *numbers.end());
    let mut invalid = Vec::new();
    let mut refuse = |pointer: &str, detail: String| {
        invalid.push(Invalid {
            pointer: pointer.to_owned(),
            detail,
        });
    };
    if !(1..=count).contains(&from) {
        refuse("/from", format!("must be 1 to {count}"));
    }
    if !(from..=count).contains(&to) {
        refuse("/to", format!("must be {from} to {count}"));
    } else if to - from >= MOST_URLS {
        refuse("/to", format!("at most {MOST_URLS} parts at a time"));
    }
    if invalid.is_empty() {
        Ok(())
    } else {
        Err(Error::invalid_many(invalid))
    }
}

fn by_tus() -> Error {
    Error::new(Kind::Conflict, "The bytes of this upload come by tus.")
}
