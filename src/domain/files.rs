//! Files: what users see.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};

use crate::clock::Timestamp;
use crate::error::{Error, Invalid, Kind, Result};
use crate::id::{EventId, FileId, Tenant};
use crate::metadata::events::Event;
use crate::metadata::objects::FIRST_EPOCH;
use crate::objects::ByteStream;

pub use crate::metadata::files::{After, File, Filter, Metadata, Sort, SortBy};

use super::{Caller, Domain};

/// Limits of what a caller may say of a file.
pub const NAME_BYTES: usize = 1024;
pub const METADATA_BYTES: usize = 64 * 1024;
pub const METADATA_DEPTH: usize = 16;

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
    /// What the bytes must hash to.
    pub sha256: Option<[u8; 32]>,
    /// How many bytes there must be.
    pub size: Option<u64>,
}

/// Whether a caller who named a revision may change this file.
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
        if new.expires_at.is_some_and(|at| at <= self.clock.now()) {
            refuse("/expires_at", "must lie in the future");
        }
        if !invalid.is_empty() {
            return Err(Error::invalid_many(invalid));
        }
        match &new.content_type {
            Some(content_type) => self.content_type_check(content_type),
            None => Ok(()),
        }
    }

    fn content_type_check(&self, content_type: &str) -> Result<()> {
        if self.rules.limits.allows_content_type(content_type) {
            return Ok(());
        }
        Err(Error::new(
            Kind::UnsupportedMediaType,
            format!("Files of the type {content_type} are not accepted here."),
        ))
    }

    /// Stores a new file. All or nothing: when it answers, the file is durable; when it fails,
    /// there is no file, and the reaper removes what was written.
    ///
    /// Must run to its end: a caller that may be dropped spawns it.
    pub async fn file_upload<S>(
        &self,
        caller: &Caller,
        new: NewFile,
        source: S,
        sniff: Sniff,
    ) -> Result<File>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        self.file_check(&new)?;
        // A body shorter than what is sniffed is asked again after its end.
        let mut source = source.fuse();
        let name = new.name.unwrap_or_else(|| UNNAMED.to_owned());
        let mut first = Vec::new();
        let content_type = match new.content_type {
            Some(content_type) => content_type,
            None => {
                let mut prefix = Vec::new();
                while prefix.len() < SNIFFED
                    && let Some(chunk) = source.next().await
                {
                    let chunk = chunk?;
                    prefix.extend_from_slice(&chunk[..chunk.len().min(SNIFFED - prefix.len())]);
                    first.push(Ok(chunk));
                }
                let content_type = sniff(&prefix, &name).to_owned();
                self.content_type_check(&content_type)?;
                content_type
            }
        };
        let source = futures::stream::iter(first).chain(source);
        let written = self.content_write(&caller.tenant, new.size, source).await?;
        if let Err(error) = matches_declared(new.size, new.sha256, written.size, &written.sha256) {
            self.written_abandon(written).await;
            return Err(error);
        }
        let now = self.clock.now();
        let file = File {
            id: FileId::new(now),
            tenant: caller.tenant.clone(),
            name,
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
        };
        let event = self.event(caller, "file.created", file.id);
        let clock = self.clock.clone();
        let sha256 = written.sha256;
        let committed = self
            .metadata
            .write((file, event), move |tx, (file, event)| {
                // Read again at each attempt: the lease must hold when the transaction ends.
                let now = clock.now();
                async move {
                    if !tx
                        .object_publish(file.object_id, FIRST_EPOCH, now, file.size, &sha256)
                        .await?
                    {
                        return Err(Error::unavailable(
                            "the lease on the object ran out before the commit",
                        ));
                    }
                    tx.file_insert(file).await?;
                    tx.event_insert(event).await?;
                    Ok(file.clone())
                }
                .boxed()
            })
            .await;
        if committed.is_err() {
            self.written_abandon(written).await;
        }
        committed
    }

    /// The file; None where there is none, where it is another tenant's, and once it has expired.
    pub async fn file_get(&self, tenant: &Tenant, id: FileId) -> Result<Option<File>> {
        let mut reader = self.metadata.reader().await?;
        let file = reader.conn().file_get(tenant, id).await?;
        let now = self.clock.now();
        Ok(file.filter(|file| !file.has_expired(now)))
    }

    /// One page of files.
    pub async fn file_list(&self, filter: &Filter) -> Result<Vec<File>> {
        self.metadata.reader().await?.conn().file_list(filter).await
    }

    /// The bytes of `range` of a file's content. It must lie within the file and not be empty.
    ///
    /// # Errors
    /// `NotFound` when the file was removed meanwhile; `Internal` when it is there without its bytes.
    pub async fn file_read(&self, file: &File, range: Range<u64>) -> Result<ByteStream> {
        let key = self.objects.root().object(&file.tenant, file.object_id);
        match self.objects.read(&key, range).await {
            Err(error) if error.kind() == Kind::NotFound => {
                match self.file_get(&file.tenant, file.id).await? {
                    Some(now) if now.object_id == file.object_id => {
                        Err(Error::internal(format!("the bytes at {key} are gone")))
                    }
                    _ => Err(Error::not_found()),
                }
            }
            outcome => outcome,
        }
    }

    /// A URL at which the store itself serves the content; None where it can't.
    pub async fn file_presign(&self, file: &File, disposition: &str) -> Result<Option<String>> {
        const TTL: std::time::Duration = std::time::Duration::from_secs(15 * 60);
        let key = self.objects.root().object(&file.tenant, file.object_id);
        self.objects
            .presign_get(&key, TTL, &file.content_type, disposition)
            .await
    }

    /// Moves a file to the trash, or removes it where `permanent` says so or there is no trash.
    /// Trashing what is in the trash changes nothing.
    ///
    /// # Errors
    /// `NotFound`; what `precondition` answers.
    pub async fn file_delete(
        &self,
        caller: &Caller,
        id: FileId,
        permanent: bool,
        precondition: Precondition,
    ) -> Result<()> {
        let permanent = permanent || self.rules.trash_keep.is_zero();
        let action = if permanent {
            "file.deleted"
        } else {
            "file.trashed"
        };
        let now = self.clock.now();
        let there: Precondition = Arc::new(move |file| {
            if file.has_expired(now) {
                return Err(Error::not_found());
            }
            precondition(file)
        });
        self.file_remove(caller, id, permanent, action, there).await
    }

    async fn file_remove(
        &self,
        caller: &Caller,
        id: FileId,
        permanent: bool,
        action: &'static str,
        precondition: Precondition,
    ) -> Result<()> {
        let now = self.clock.now();
        let delete_at = now.plus(self.rules.reaper_delay);
        let event = self.event(caller, action, id);
        self.metadata
            .write((event, precondition), move |tx, (event, precondition)| {
                async move {
                    let tenant = &event.tenant;
                    let Some(file) = tx.file_lock(tenant, id).await? else {
                        return Err(Error::not_found());
                    };
                    precondition(&file)?;
                    if permanent {
                        tx.file_delete(tenant, id).await?;
                        tx.object_release(file.object_id, delete_at).await?;
                    } else if file.trashed_at.is_some() {
                        return Ok(());
                    } else {
                        tx.file_trash(tenant, id, now).await?;
                    }
                    tx.event_insert(event).await
                }
                .boxed()
            })
            .await?;
        if permanent {
            self.died.notify_one();
        }
        Ok(())
    }

    /// Removes files whose time has come and those that were in the trash for long enough; how many.
    pub async fn file_sweep(&self) -> Result<u64> {
        const BATCH: u32 = 100;
        let mut swept = 0;
        loop {
            let now = self.clock.now();
            let mut reader = self.metadata.reader().await?;
            let expired = reader.conn().file_expired(now, BATCH).await?;
            let trashed = reader
                .conn()
                .file_trashed_before(now.minus(self.rules.trash_keep), BATCH)
                .await?;
            drop(reader);
            if expired.is_empty() && trashed.is_empty() {
                return Ok(swept);
            }
            let due = expired
                .into_iter()
                .map(|found| (found, "file.expired"))
                .chain(trashed.into_iter().map(|found| (found, "file.deleted")));
            for ((tenant, id), action) in due {
                // Decided again under the row's lock: it may have been restored or removed meanwhile.
                let keep = self.rules.trash_keep;
                let still_due: Precondition = Arc::new(move |file| {
                    let due = file.has_expired(now)
                        || file.trashed_at.is_some_and(|at| at <= now.minus(keep));
                    if due { Ok(()) } else { Err(Error::not_found()) }
                });
                match self
                    .file_remove(&Caller::service(tenant), id, true, action, still_due)
                    .await
                {
                    Ok(()) => swept += 1,
                    Err(error) if error.kind() == Kind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn event(&self, caller: &Caller, action: &'static str, target: FileId) -> Event {
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
            detail: serde_json::json!({}),
        }
    }
}

fn matches_declared(
    size: Option<u64>,
    sha256: Option<[u8; 32]>,
    got: u64,
    hashed: &[u8; 32],
) -> Result<()> {
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

/// What is wrong with a name, if anything.
pub fn name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > NAME_BYTES {
        Some("must have 1 to 1,024 bytes")
    } else if name.chars().any(char::is_control) {
        Some("must have no control character")
    } else if name
        .split('/')
        .any(|segment| matches!(segment, "" | "." | ".."))
    {
        Some("must have no empty, . or .. segment between slashes")
    } else {
        None
    }
}

/// What makes a text one that no stored text can be equal to, if anything: PostgreSQL has no U+0000.
pub fn text_fault(text: &str) -> Option<&'static str> {
    text.contains('\0').then_some("must have no U+0000")
}

/// What is wrong with metadata, if anything.
pub fn metadata_fault(metadata: &Metadata) -> Option<&'static str> {
    fn depth(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
            serde_json::Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
    fn has_nul(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::String(text) => text_fault(text).is_some(),
            serde_json::Value::Array(items) => items.iter().any(has_nul),
            serde_json::Value::Object(fields) => fields
                .iter()
                .any(|(name, value)| text_fault(name).is_some() || has_nul(value)),
            _ => false,
        }
    }
    let nested = 1 + metadata.values().map(depth).max().unwrap_or(0);
    let length = serde_json::to_vec(metadata).map_or(usize::MAX, |text| text.len());
    if length > METADATA_BYTES {
        Some("must have at most 64 KiB as JSON")
    } else if nested > METADATA_DEPTH {
        Some("must be nested at most 16 deep")
    } else if metadata
        .iter()
        .any(|(name, value)| text_fault(name).is_some() || has_nul(value))
    {
        Some("must have no U+0000")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_path_without_tricks() {
        for good in ["a", "a/b.txt", "Ünï/名前", "...", "a b"] {
            assert_eq!(name_fault(good), None, "{good}");
        }
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "a/../b",
            ".",
            "a\nb",
            &"x".repeat(1025),
        ] {
            assert!(name_fault(bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn metadata_has_bounds() {
        let nest = |depth: usize| {
            let mut value = serde_json::json!(1);
            for _ in 1..depth {
                value = serde_json::json!({ "a": value });
            }
            serde_json::from_value::<Metadata>(serde_json::json!({ "a": value })).unwrap()
        };
        assert_eq!(metadata_fault(&nest(16)), None);
        assert!(metadata_fault(&nest(17)).is_some());
        let nul: Metadata = serde_json::from_value(serde_json::json!({"a": ["\u{0}"]})).unwrap();
        assert!(metadata_fault(&nul).is_some());
    }
}
