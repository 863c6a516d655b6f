//! A key's upload in parts, which come in any order, from anybody, and are put together at the end.
//!
//! S3 has uploads for that of its own, and requests that are signed for others to make. In a directory, the
//! service takes the bytes of each part itself, and puts them into temporary files.

use std::time::Duration;

use bytes::Bytes;

use super::keys::ObjectKey;
use super::{Backend, Lease, Objects, Operation, Writer, measured, s3};
use crate::clock::Timestamp;
use crate::error::{Error, Result};

/// A part that the store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPart {
    /// From 1 to 10,000.
    pub number: u32,
    /// In bytes.
    pub size: u64,
    /// As the store writes it, with its quotes.
    pub etag: String,
    pub modified: Timestamp,
}

/// Some of an upload's parts, in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartPage {
    pub parts: Vec<StoredPart>,
    /// The last part's number, where there are more.
    pub next: Option<u32>,
}

/// What came of a Complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The object is at its key, whichever try put it there.
    Done,
    /// There is no such upload, and what is at the key, if anything, is not what it would have become.
    Gone,
    /// These parts make no object; the upload is still there. What the store calls the reason:
    /// `InvalidPart`, `InvalidPartOrder`, `EntityTooSmall`, `BadDigest`.
    Refused(String),
}

/// Where the bytes of a part lie, in the local store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Of the temporary file.
    pub epoch: i64,
    /// Within it, in bytes.
    pub position: u64,
    /// In bytes.
    pub size: u64,
}

/// What the store says of the bytes at a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// In bytes.
    pub size: u64,
    /// Of all bytes, where the store knows it.
    pub sha256: Option<[u8; 32]>,
    pub crc64nvme: Option<[u8; 8]>,
}

/// A request that whoever holds the URL can make to the store itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRequest {
    pub url: String,
    /// That must be sent as they are, but for the body's length; they are signed.
    pub headers: Vec<(String, String)>,
    /// By the system's clock, as the store knows no other.
    pub expires_in: Duration,
}

/// The uploads in parts of one key. Every call ends within [`super::CALL_TIMEOUT`], and those that
/// could write are not begun with less lease left than that.
pub struct Multipart(s3::Multipart);

impl Objects {
    /// None where the store has no such uploads.
    pub fn multipart(&self, key: &ObjectKey, lease: Lease) -> Option<Multipart> {
        match &self.backend {
            Backend::Local(_) => None,
            Backend::S3(s3) => Some(Multipart(s3.multipart(key.path(), lease))),
        }
    }

    /// A request that writes the whole of the key, if nothing is there (`If-None-Match: *`): so many bytes
    /// exactly, where `length` says so. `headers`, such as checksums, are signed too. None where the store can't be reached by URL.
    ///
    /// It can't be taken back: until `expires_in` has passed, its bytes may arrive.
    pub async fn presign_put(
        &self,
        key: &ObjectKey,
        length: Option<u64>,
        expires_in: Duration,
        headers: &[(&'static str, String)],
    ) -> Result<Option<SignedRequest>> {
        match &self.backend {
            Backend::Local(_) => Ok(None),
            Backend::S3(s3) => s3
                .presign_put(key.path(), length, expires_in, headers)
                .await
                .map(Some),
        }
    }

    /// Whether others can be sent to the store itself.
    pub fn is_reachable(&self) -> bool {
        matches!(self.backend, Backend::S3(_))
    }

    /// The size of what is at a key, and its checksums. None where nothing is there.
    pub async fn head_checked(&self, key: &ObjectKey) -> Result<Option<Checked>> {
        match &self.backend {
            Backend::Local(_) => Ok(self.head(key).await?.map(|found| Checked {
                size: found.size,
                ..Checked::default()
            })),
            Backend::S3(s3) => s3.head_checked(key.path()).await,
        }
    }

    /// Whether the store refuses a second PUT by [`Objects::presign_put`], after one of `bytes`; None where it
    /// can't be reached by URL.
    ///
    /// # Errors
    /// Also where it refuses the first.
    pub async fn signed_put_is_refused(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
    ) -> Result<Option<bool>> {
        match &self.backend {
            Backend::Local(_) => Ok(None),
            Backend::S3(s3) => s3.signed_put_is_refused(key.path(), bytes).await.map(Some),
        }
    }

    /// Ends all uploads in parts of exactly this key.
    pub async fn uploads_abort(&self, key: &ObjectKey) -> Result<()> {
        match &self.backend {
            Backend::Local(_) => Ok(()),
            Backend::S3(s3) => s3.abort_uploads(key.path()).await.map(drop),
        }
    }

    /// Writes a part of what becomes `key` later, from `position` on, in the temporary file of that epoch,
    /// beside others that do the same. What it finishes is durable. None where the store takes parts itself.
    pub async fn part_write(
        &self,
        key: &ObjectKey,
        epoch: i64,
        position: u64,
        lease: Lease,
    ) -> Result<Option<Writer>> {
        match &self.backend {
            Backend::Local(local) => {
                let writer = local.part_write(&self.root, key, epoch, position, lease);
                Ok(Some(Writer::Local(writer.await?, self.metrics.clone())))
            }
            Backend::S3(_) => Ok(None),
        }
    }

    /// Removes the temporary file of that epoch, which nothing is made of any more.
    pub async fn part_discard(&self, key: &ObjectKey, epoch: i64) -> Result<()> {
        match &self.backend {
            Backend::Local(local) => {
                let discard = local.part_discard(&self.root, key, epoch);
                measured(&self.metrics, Operation::Delete, discard).await
            }
            Backend::S3(_) => Ok(()),
        }
    }

    /// Copies parts, one behind the other, into the temporary file of the epoch `into`, which must be new.
    /// [`Objects::append_end`] puts it at its key.
    pub async fn parts_join(
        &self,
        key: &ObjectKey,
        into: i64,
        extents: &[Extent],
        lease: &Lease,
    ) -> Result<()> {
        match &self.backend {
            Backend::Local(local) => {
                let join = local.parts_join(&self.root, key, into, extents, lease);
                measured(&self.metrics, Operation::Put, join).await
            }
            Backend::S3(_) => Err(Error::internal("S3 joins parts itself")),
        }
    }

    /// How long a URL that is signed now is good for at most: credentials that are not for ever may end
    /// before what was signed with them.
    pub async fn longest_signature(&self) -> Result<Duration> {
        match &self.backend {
            Backend::Local(_) => Ok(s3::LONGEST_SIGNATURE),
            Backend::S3(s3) => s3.longest_signature().await,
        }
    }
}

impl Multipart {
    /// Begins an upload; what the store calls it. An upload whose answer was lost is ended with the key,
    /// by [`Objects::erase`].
    ///
    /// `checked`: each part comes with its CRC-64/NVME, as [`Multipart::put_part`] sends it. Leave it out
    /// for parts that others send.
    pub async fn create(&self, checked: bool) -> Result<String> {
        self.0.create(checked).await
    }

    /// Sends a part, in the place of one of the same number; its ETag.
    ///
    /// # Errors
    /// `NotFound` where there is no such upload (any more).
    pub async fn put_part(&self, upload: &str, number: u32, bytes: Vec<Bytes>) -> Result<String> {
        self.0.put_part(upload, number, bytes).await
    }

    /// The parts behind number `after` (0: all), up to a thousand of them. None: no such upload.
    ///
    /// A store may list a part that another of its number has replaced as well (SeaweedFS does), and let it be
    /// completed with: the one that counts is the last by its time, or the one whose ETag is known.
    pub async fn list_parts(&self, upload: &str, after: u32) -> Result<Option<PartPage>> {
        self.0.list_parts(upload, after).await
    }

    /// Puts the object of `size` bytes at its key, if nothing is there, from parts in the order of their
    /// numbers, which may have gaps. Again, once that is done, answers the same.
    pub async fn complete(
        &self,
        upload: &str,
        parts: &[(u32, String)],
        size: u64,
    ) -> Result<Completion> {
        self.0.complete(upload, parts, size).await
    }

    /// Ends the upload; nothing where there is none. Parts that are on their way may still arrive.
    pub async fn abort(&self, upload: &str) -> Result<()> {
        self.0.abort(upload).await
    }

    /// A request that sends a part, as [`Multipart::put_part`] does: of so many bytes, where `length` says so.
    ///
    /// It can't be taken back, but is good for nothing once the upload has ended.
    pub async fn presign_part(
        &self,
        upload: &str,
        number: u32,
        length: Option<u64>,
        expires_in: Duration,
    ) -> Result<SignedRequest> {
        self.0
            .presign_part(upload, number, length, expires_in)
            .await
    }

    pub(super) fn spare(&self) -> s3::Spare {
        self.0.spare()
    }

    /// Whether every call that was made here has ended with an answer that is known: if not, it may yet
    /// have an effect.
    pub fn settled(&self) -> bool {
        self.0.settled()
    }
}
