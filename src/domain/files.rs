//! Files: what users see.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::error::{Error, Invalid, Kind, Result};
use crate::id::{EventId, FileId, ObjectId, Tenant};
use crate::metadata::Conn;
use crate::metadata::events::Event;
use crate::metadata::idempotency::RequestKey;
use crate::metadata::objects::{FIRST_EPOCH, State};
use crate::metadata::usage::{Amount, Change};
use crate::objects::ByteStream;

pub use crate::metadata::files::{File, Metadata};
pub use crate::metadata::search::{
    After, ContentTypes, Entry, Filter, Page, Sort, SortBy, SortKey, What,
};

use super::content::{Planned, Written};
use super::once::{self, Key, Once};
use super::properties::{metadata_fault, name_fault};
use super::{Caller, Domain, holds, quota};

/// The name of an upload that has none.
pub const UNNAMED: &str = "unnamed";

/// How many first bytes decide a content type that was not declared.
const SNIFFED: usize = 4096;

/// What a caller says of a file before its bytes.
#[derive(Clone, Debug, Default)]
pub struct NewFile {
    pub name: Option<String>,
    /// As it will be stored; None: the first bytes decide.
    pub content_type: Option<String>,
    pub metadata: Metadata,
    pub expires_at: Option<Timestamp>,
    /// Until when it is to be neither deleted nor replaced, and whether until that is lifted.
    pub retention_until: Option<Timestamp>,
    pub legal_hold: bool,
    /// What the bytes must hash to.
    pub sha256: Option<[u8; 32]>,
    /// How many bytes there must be.
    pub size: Option<u64>,
}

/// The bytes of a file, now or earlier.
#[derive(Clone, Debug)]
pub struct Content {
    pub tenant: Tenant,
    pub object_id: ObjectId,
    pub content_type: String,
    /// In bytes.
    pub size: u64,
    pub sha256: Option<[u8; 32]>,
    /// Its number among the file's contents.
    pub version: i64,
    pub created_at: Timestamp,
}

impl From<&File> for Content {
    fn from(file: &File) -> Self {
        Self {
            tenant: file.tenant.clone(),
            object_id: file.object_id,
            content_type: file.content_type.clone(),
            size: file.size,
            sha256: file.sha256,
            version: file.version,
            created_at: file.content_at.unwrap_or(file.created_at),
        }
    }
}

/// Whether a caller who named a state may change a file that is in this one.
pub type Precondition = Arc<dyn Fn(&File) -> Result<()> + Send + Sync>;

/// Chooses a content type from the first bytes and the name.
pub type Sniff = fn(&[u8], &str) -> &'static str;

impl Domain {
    /// Checks what can be checked before the bytes are read.
    ///
    /// # Errors
    /// `InvalidRequest` with every part that is wrong; `PayloadTooLarge`; `UnsupportedMediaType`.
    pub fn file_check(&self, new: &NewFile) -> Result<()> {
        let most = self.rules.limits.max_file_size.bytes();
        if new.size.is_some_and(|size| size > most) {
            return Err(super::content::too_large(most));
        }
        let mut invalid = Vec::new();
        let mut refuse = |pointer: &str, detail: &str| {
            invalid.push(Invalid {
                pointer: pointer.to_owned(),
                detail: detail.to_owned(),
            });
        };
        if let Some(detail) = new.name.as_deref().and_then(name_fault) {
            refuse("/name", detail);
        }
        if let Some(detail) = metadata_fault(&new.metadata) {
            refuse("/metadata", detail);
        }
        let now = self.clock.now();
        for (pointer, at) in [
            ("/expires_at", new.expires_at),
            ("/retention_until", new.retention_until),
        ] {
            if at.is_some_and(|at| at <= now) {
                refuse(pointer, "must lie in the future");
            }
        }
        if !invalid.is_empty() {
            return Err(Error::invalid_many(invalid));
        }
        match &new.content_type {
            Some(content_type) => self.content_type_check(content_type),
            None => Ok(()),
        }
    }

    pub(super) fn content_type_check(&self, content_type: &str) -> Result<()> {
        if self.rules.limits.allows_content_type(content_type) {
            return Ok(());
        }
        Err(Error::new(
            Kind::UnsupportedMediaType,
            format!("Files of the type {content_type} are not accepted here."),
        ))
    }

    /// Stores a new file. All or nothing: when it answers, the file is durable; when it fails,
    /// there is no file, and the reaper removes what was written. With `once`, an equal request that
    /// came before is answered again instead.
    ///
    /// Must run to its end: a caller that may be dropped spawns it.
    pub async fn file_upload<S>(
        &self,
        caller: &Caller,
        new: NewFile,
        source: S,
        sniff: Sniff,
        once: Option<Once>,
    ) -> Result<File>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
    {
        self.file_check(&new)?;
        let once = once.map(|once| (once.key(caller), once));
        let name = new.name.as_deref().unwrap_or(UNNAMED);
        let intended = loop {
            let mut claim = None;
            if let Some((key, once)) = &once {
                let abandoned = match self.once_look(once, key).await? {
                    Key::Free => None,
                    Key::Abandoned(since) => Some(since),
                    Key::Done(done) => return self.once_replay(&done, source).await,
                };
                claim = Some((key.clone(), once.fingerprint, abandoned));
            }
            let planned = Planned {
                tenant: &caller.tenant,
                declared: new.size,
                files: 1,
                claim,
            };
            if let Some(intended) = self.content_intend(planned).await? {
                break intended;
            }
        };
        let sniffed = self.sniffed(new.content_type, name, source, sniff).await;
        let (source, content_type) = match sniffed {
            Ok(sniffed) => sniffed,
            Err(error) => {
                self.intended_abandon(intended).await;
                return Err(error);
            }
        };
        let written = self.content_write(intended, source).await?;
        if let Err(error) = matches_declared(new.size, new.sha256, &written) {
            self.written_abandon(written).await;
            return Err(error);
        }
        let now = self.clock.now();
        let file = File {
            id: FileId::new(now),
            tenant: caller.tenant.clone(),
            name: name.to_owned(),
            content_type,
            size: written.size,
            sha256: Some(written.sha256),
            metadata: new.metadata,
            version: 1,
            revision: 1,
            object_id: written.id,
            created_at: now,
            updated_at: now,
            expires_at: new.expires_at,
            trashed_at: None,
            created_by: caller.subject.clone(),
            content_at: None,
            content_by: None,
            retention_until: new.retention_until,
            legal_hold: new.legal_hold,
        };
        match self.file_create(caller, &file, &written).await {
            Ok(true) => Ok(file),
            // Another request with the same key was taken for the only one.
            Ok(false) => {
                let sha256 = written.sha256;
                self.written_abandon(written).await;
                self.once_made(once.as_ref(), &sha256).await
            }
            Err(error) => {
                self.written_abandon(written).await;
                Err(error)
            }
        }
    }

    /// False where another request has taken over the key of this one.
    async fn file_create(&self, caller: &Caller, file: &File, written: &Written) -> Result<bool> {
        let event = self.event(caller, "file.created", file.id, holds::told(file));
        let size = quota::amount(file.size)?;
        let (sha256, settled, unreserved) = (written.sha256, written.settled, written.unreserved);
        let claimed = match &written.claimed {
            Some(key) => Some((key.clone(), once::done(sha256, file)?)),
            None => None,
        };
        let clock = self.clock.clone();
        self.metadata
            .write(
                (file.clone(), event, claimed),
                move |tx, (file, event, claimed)| {
                    // Read again at each attempt: the lease must hold when the transaction ends.
                    let now = clock.now();
                    async move {
                        if let Some((key, done)) = claimed
                            && !tx.idempotency_finish(key, file.object_id, done).await?
                        {
                            return Ok(false);
                        }
                        let reserved =
                            publish(tx, file, event, &sha256, settled, unreserved, now).await?;
                        let used = Amount {
                            bytes: size,
                            files: 1,
                        };
                        let change = Change {
                            used,
                            reserved: -reserved,
                        };
                        quota::record(tx, &file.tenant, change).await?;
                        Ok(true)
                    }
                    .boxed()
                },
            )
            .await
    }

    async fn once_made(
        &self,
        once: Option<&(RequestKey, Once)>,
        body_sha256: &[u8; 32],
    ) -> Result<File> {
        if let Some((key, once)) = once
            && let Key::Done(done) = self.once_look(once, key).await?
        {
            return once::made(&done, body_sha256);
        }
        Err(Error::unavailable("the request's key was taken over"))
    }

    /// The body, and its content type: the declared one, or what its first bytes look like.
    pub(super) async fn sniffed<S>(
        &self,
        declared: Option<String>,
        name: &str,
        source: S,
        sniff: Sniff,
    ) -> Result<(BoxStream<'static, Result<Bytes>>, String)>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
    {
        if let Some(content_type) = declared {
            return Ok((source.boxed(), content_type));
        }
        // A body shorter than what is sniffed is asked again after its end.
        let mut source = source.fuse();
        let mut first = Vec::new();
        let mut prefix = Vec::new();
        while prefix.len() < SNIFFED
            && let Some(chunk) = source.next().await
        {
            let chunk = chunk?;
            prefix.extend_from_slice(&chunk[..chunk.len().min(SNIFFED - prefix.len())]);
            first.push(Ok(chunk));
        }
        let content_type = sniff(&prefix, name).to_owned();
        self.content_type_check(&content_type)?;
        let source = futures::stream::iter(first).chain(source).boxed();
        Ok((source, content_type))
    }

    /// The file; None where there is none, where it is another tenant's, and once it has expired.
    pub async fn file_get(&self, tenant: &Tenant, id: FileId) -> Result<Option<File>> {
        let mut reader = self.metadata.reader().await?;
        let file = reader.conn().file_get(tenant, id).await?;
        let now = self.clock.now();
        Ok(file.filter(|file| !file.has_expired(now)))
    }

    /// One page of files.
    pub async fn file_list(&self, filter: &Filter, page: &Page) -> Result<Vec<File>> {
        let mut reader = self.metadata.reader().await?;
        reader.conn().file_list(filter, page).await
    }

    /// One page of what lies directly below the filter's prefix, by name.
    pub async fn file_list_folder(
        &self,
        filter: &Filter,
        descending: bool,
        after: Option<&After>,
        limit: u32,
    ) -> Result<Vec<Entry>> {
        let mut reader = self.metadata.reader().await?;
        reader
            .conn()
            .file_list_folder(filter, descending, after, limit)
            .await
    }

    /// The bytes of `range` of a content. It must lie within the content and not be empty.
    ///
    /// # Errors
    /// `NotFound` when it was removed meanwhile; `Internal` when its row is there without its bytes.
    pub async fn content_read(&self, content: &Content, range: Range<u64>) -> Result<ByteStream> {
        self.object_read(&content.tenant, content.object_id, range)
            .await
    }

    pub(super) async fn object_read(
        &self,
        tenant: &Tenant,
        id: ObjectId,
        range: Range<u64>,
    ) -> Result<ByteStream> {
        let key = self.objects.root().object(tenant, id);
        match self.objects.read(&key, range).await {
            Err(error) if error.kind() == Kind::NotFound => {
                let mut reader = self.metadata.reader().await?;
                let object = reader.conn().object_get(id).await?;
                if object.is_some_and(|object| object.state == State::Live) {
                    Err(Error::internal(format!("the bytes at {key} are gone")))
                } else {
                    Err(Error::not_found())
                }
            }
            outcome => outcome,
        }
    }

    /// A URL at which the store itself serves the content for `ttl`; None where it can't.
    pub async fn content_presign(
        &self,
        content: &Content,
        disposition: &str,
        ttl: Duration,
    ) -> Result<Option<String>> {
        let key = self
            .objects
            .root()
            .object(&content.tenant, content.object_id);
        self.objects
            .presign_get(&key, ttl, &content.content_type, disposition)
            .await
    }

    /// What happened to a file or an import; `detail` is an object, or null for nothing to add.
    pub(super) fn event(
        &self,
        caller: &Caller,
        action: &'static str,
        target: impl ToString,
        detail: Value,
    ) -> Event {
        let at = self.clock.now();
        Event {
            id: EventId::new(at),
            tenant: caller.tenant.clone(),
            at,
            subject: caller.subject.clone(),
            action,
            target: target.to_string(),
            request_id: caller.request_id.clone(),
            remote_ip: caller.remote_ip.clone(),
            detail: if detail.is_null() {
                serde_json::json!({})
            } else {
                detail
            },
        }
    }
}

/// The rows of a new file over an object that was written; what that had reserved. The tenant's usage is
/// left to the caller.
pub(super) async fn publish(
    tx: &mut Conn<'_>,
    file: &File,
    event: &Event,
    sha256: &[u8; 32],
    settled: bool,
    unreserved: bool,
    now: Timestamp,
) -> Result<Amount> {
    let (object, size) = (file.object_id, file.size);
    let reserved = if unreserved {
        // Nothing to be told, so that SQLite may run it together with the rest.
        tx.object_publish_unreserved(object, now, size, sha256, settled, lease_ran_out)
            .await?;
        Amount::default()
    } else {
        tx.object_publish(object, FIRST_EPOCH, now, size, Some(sha256), settled)
            .await?
            .ok_or_else(lease_ran_out)?
    };
    tx.file_insert(file).await?;
    tx.event_insert(event).await?;
    Ok(reserved)
}

pub(super) fn lease_ran_out() -> Error {
    Error::unavailable("the lease on the object ran out before the commit")
}

/// What can't be changed while it is in the trash.
pub(super) fn in_trash() -> Error {
    Error::new(
        Kind::Conflict,
        "The file is in the trash: restore it first.",
    )
}

/// Whether what came is what was declared.
pub(super) fn matches_declared(
    size: Option<u64>,
    sha256: Option<[u8; 32]>,
    written: &Written,
) -> Result<()> {
    let (got, hashed) = (written.size, &written.sha256);
    if let Some(size) = size.filter(|size| *size != got) {
        return Err(Error::invalid(
            "/size",
            format!("{size} bytes were declared and {got} came"),
        ));
    }
    match sha256 {
        Some(declared) if declared != *hashed => Err(Error::new(
            Kind::ChecksumMismatch,
            format!(
                "The bytes that came have the SHA-256 {}.",
                hex::encode(hashed)
            ),
        )),
        _ => Ok(()),
    }
}
