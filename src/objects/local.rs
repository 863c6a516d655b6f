//! Objects in a local directory.
//!
//! Our own, because what is not at its key yet must be listable: bytes on their way lie in
//! `tmp/`, reach their key by rename, and a crash in between leaves a name that the reaper and
//! `box fsck` can see. With `fsync`, an answer means that a power cut can't take it back.

use std::collections::HashSet;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::task::JoinHandle;

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::faults::Faults;
use crate::id::ObjectId;

use super::keys::{ObjectKey, Root};
use super::{ByteStream, CALL_TIMEOUT, Found, Lease, Listed, Marked};

mod disk;
mod parts;
mod shared;

use disk::{Direct, Disk, is_absent};
use shared::Flushes;

/// The bytes read in one hop to the blocking pool: the first read is small, so that a small
/// file costs little, then they double. What fits it and is in the kernel's cache takes no hop. Two of the largest are all that a download holds.
const FIRST_READ: u64 = 64 * 1024;
const LARGEST_READ: u64 = 512 * 1024;

/// The bytes after which a flush runs beside the writing, so that the disk works while the bytes
/// still come, and the flush at the end has little left to do.
const FLUSH: u64 = 32 * 1024 * 1024;

/// The same, where each request ends with a flush that its sender waits for.
const FLUSH_GROWING: u64 = 4 * 1024 * 1024;

/// There, what comes at once and has so many bytes goes past the page cache.
const DIRECT: u64 = 256 * 1024;

#[derive(Clone)]
pub(super) struct Local {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Disk,
    directory: PathBuf,
    fsync: bool,
    flushes: Flushes,
    /// Directories that exist and whose entries are durable. Nobody else removes directories here.
    made: Mutex<HashSet<PathBuf>>,
}

impl Local {
    pub(super) fn open(directory: &Path, root: &Root, fsync: bool, faults: Faults) -> Result<Self> {
        let local = Self {
            inner: Arc::new(Inner {
                disk: Disk::new(faults),
                directory: directory.to_owned(),
                fsync,
                flushes: Flushes::default(),
                made: Mutex::new(HashSet::new()),
            }),
        };
        local
            .inner
            .make_directory(&local.path(&root.tmp_dir()))
            .map_err(Error::unavailable)?;
        Ok(local)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.inner.directory.join(path)
    }

    pub(super) fn write(&self, root: &Root, key: &ObjectKey, epoch: i64, lease: Lease) -> Writer {
        Writer {
            store: self.inner.clone(),
            temporary: self.path(&root.temporary(key.id(), epoch)),
            destination: self.path(key.path()),
            lease,
            progress: Progress::Writing(None),
            running: false,
            unflushed: 0,
            flush: None,
            growing: None,
            is_new: true,
        }
    }

    pub(super) async fn append(
        &self,
        root: &Root,
        key: &ObjectKey,
        epoch: i64,
        held: Option<i64>,
        offset: u64,
        lease: Lease,
    ) -> Result<Writer> {
        let mut writer = self.write(root, key, epoch, lease.clone());
        writer.growing = Some(Growing::from(offset));
        let Some(held) = held else {
            return Ok(writer);
        };
        let from = self.path(&root.temporary(key.id(), held));
        let to = writer.temporary.clone();
        let store = self.inner.clone();
        writer.is_new = held != epoch;
        let file = blocking(move || {
            if held == epoch {
                // What lies behind came from a request that was refused.
                return store.disk.open_at(&to, offset).map_err(growing_error);
            }
            let source = store.disk.open(&from).map_err(growing_error)?;
            let file = store.open_once(None, &to, &lease)?;
            let copied = store
                .disk
                .copy(&source, &file, offset)
                .map_err(storage_error)?;
            drop(file);
            if copied < offset {
                return Err(Error::internal("bytes of an upload are gone"));
            }
            store.disk.open_at(&to, offset).map_err(growing_error)
        })
        .await?;
        writer.progress = Progress::Writing(Some(Arc::new(file)));
        Ok(writer)
    }

    pub(super) async fn append_end(
        &self,
        root: &Root,
        key: &ObjectKey,
        epoch: i64,
        held: i64,
        size: u64,
        lease: &Lease,
    ) -> Result<()> {
        let from = self.path(&root.temporary(key.id(), held));
        let others: Vec<PathBuf> = (1..=epoch)
            .filter(|other| *other != held)
            .map(|other| self.path(&root.temporary(key.id(), other)))
            .collect();
        let to = self.path(key.path());
        let store = self.inner.clone();
        let lease = lease.clone();
        blocking(move || {
            match store.disk.open_at(&from, size) {
                Ok(file) => {
                    if let Some(parent) = to.parent() {
                        store.make_directory(parent).map_err(storage_error)?;
                    }
                    lease.outlasts(CALL_TIMEOUT)?;
                    store.disk.rename(&from, &to).map_err(storage_error)?;
                    if store.fsync {
                        // Its length, where it was longer.
                        store.disk.sync(&file).map_err(storage_error)?;
                    }
                }
                // An earlier try has come as far.
                Err(error) if is_absent(&error) => {
                    let there = store.disk.metadata(&to).map_err(growing_error)?;
                    if there.len() != size {
                        return Err(Error::internal("bytes of an upload are gone"));
                    }
                }
                Err(error) => return Err(growing_error(error)),
            }
            store.sync_parent(&to).map_err(storage_error)?;
            for other in &others {
                store.unlink(other)?;
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn read(&self, path: &str, range: Range<u64>) -> Result<ByteStream> {
        let path = self.path(path);
        let first_end = range.end.min(range.start.saturating_add(FIRST_READ));
        let first = range.start..first_end;
        let store = self.inner.clone();
        if first_end == range.end
            && let Some(bytes) = store.read_cached(&path, &first)
        {
            return Ok(futures::stream::iter([Ok(bytes)]).boxed());
        }
        let (file, bytes) = blocking(move || {
            let file = match store.disk.open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(Error::not_found());
                }
                Err(error) => return Err(Error::unavailable(error)),
            };
            let bytes = store.read_exactly(&file, first)?;
            Ok((Arc::new(file), bytes))
        })
        .await?;
        if first_end == range.end {
            return Ok(futures::stream::iter([Ok(bytes)]).boxed());
        }
        let store = self.inner.clone();
        Ok(read_ahead(store, file, bytes, first_end..range.end).boxed())
    }

    pub(super) async fn head(&self, path: &str) -> Result<Option<Found>> {
        let path = self.path(path);
        let store = self.inner.clone();
        blocking(move || match store.disk.metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(Found {
                size: metadata.len(),
            })),
            Ok(_) => Ok(None),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::unavailable(error)),
        })
        .await
    }

    pub(super) async fn erase(
        &self,
        root: &Root,
        key: &ObjectKey,
        last_epoch: i64,
    ) -> Result<bool> {
        // 0 is a marker's on its way.
        let temporaries: Vec<PathBuf> = (0..=last_epoch)
            .map(|epoch| self.path(&root.temporary(key.id(), epoch)))
            .collect();
        let destination = self.path(key.path());
        let tmp = self.path(&root.tmp_dir());
        let store = self.inner.clone();
        blocking(move || {
            // Made at start and never removed: without it the disk is not mounted, and what is not
            // found on it is not gone.
            match store.disk.metadata(&tmp) {
                Ok(metadata) if metadata.is_dir() => {}
                Err(error) if !is_absent(&error) => return Err(Error::unavailable(error)),
                _ => return Err(Error::unavailable("the store's directory is not there")),
            }
            let mut found = false;
            // The temporary names go first: a writer that wakes up late then has nothing to rename.
            for path in &temporaries {
                found |= store.unlink(path)?;
            }
            found |= store.unlink(&destination)?;
            Ok(found)
        })
        .await
    }

    pub(super) fn list(&self, root: &Root) -> BoxStream<'static, Result<Listed>> {
        let store = self.inner.clone();
        let top = self.path(root.listing_prefix().trim_end_matches('/'));
        let (send, mut receive) = tokio::sync::mpsc::channel(256);
        tokio::task::spawn_blocking(move || {
            let mut pending = vec![top];
            while let Some(next) = pending.pop() {
                if let Err(error) = list_directory(&store, &next, &mut pending, &send) {
                    // A directory that went away meanwhile has nothing to list.
                    if !is_absent(&error)
                        && send.blocking_send(Err(Error::unavailable(error))).is_err()
                    {
                        return;
                    }
                }
                if send.is_closed() {
                    return;
                }
            }
        });
        futures::stream::poll_fn(move |context| receive.poll_recv(context)).boxed()
    }

    pub(super) async fn marker_get(&self, path: &str) -> Result<Option<Marked>> {
        let path = self.path(path);
        let store = self.inner.clone();
        blocking(move || store.marker_get(&path).map_err(Error::unavailable)).await
    }

    /// Whole or not at all: written aside, then linked to its name, which fails when that is taken, or
    /// renamed over what is there.
    pub(super) async fn marker_write(
        &self,
        root: &Root,
        aside: ObjectId,
        found: Option<&Marked>,
        content: Bytes,
    ) -> Result<bool> {
        let aside = self.path(&root.temporary(aside, 0));
        let path = self.path(&root.marker());
        let store = self.inner.clone();
        let found = found.cloned();
        blocking(move || {
            let write = || -> std::io::Result<bool> {
                let disk = &store.disk;
                let file = disk.create_new(&aside)?;
                disk.write(&file, &[content])?;
                disk.sync(&file)?;
                let written = match &found {
                    None => disk.link(&aside, &path)?,
                    Some(_) if store.marker_get(&path)? == found => {
                        disk.rename(&aside, &path)?;
                        true
                    }
                    Some(_) => false,
                };
                disk.remove(&aside)?;
                store.sync_parent(&path)?;
                Ok(written)
            };
            write().map_err(Error::unavailable)
        })
        .await
    }
}

impl Inner {
    /// Makes a directory and those above it, each durable in its parent before it is used.
    fn make_directory(&self, directory: &Path) -> std::io::Result<()> {
        if self
            .made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(directory)
        {
            return Ok(());
        }
        if let Some(parent) = directory
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            // The directory above our own is the operator's: `create_dir_all` makes what is missing of it.
            if directory.starts_with(&self.directory) && directory != self.directory {
                self.make_directory(parent)?;
            } else {
                self.disk.create_directories(parent)?;
            }
        }
        self.disk.create_directory(directory)?;
        self.sync_parent(directory)?;
        self.made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(directory.to_owned());
        Ok(())
    }

    /// Makes the names in the directory of `path` durable.
    fn sync_parent(&self, path: &Path) -> std::io::Result<()> {
        match path.parent().filter(|_| self.fsync) {
            Some(parent) if !parent.as_os_str().is_empty() => self
                .flushes
                .share(parent, || self.disk.sync_directory(parent)),
            _ => Ok(()),
        }
    }

    fn open_once(
        &self,
        file: Option<Arc<File>>,
        temporary: &Path,
        lease: &Lease,
    ) -> Result<Arc<File>> {
        if let Some(file) = file {
            return Ok(file);
        }
        lease.outlasts(CALL_TIMEOUT)?;
        // A name holds the object's id and the writer's epoch: nobody else's bytes can be there.
        let file = self.disk.create_new(temporary).map_err(storage_error)?;
        Ok(Arc::new(file))
    }

    /// Writes to a file that grows, where `growing` says so, and else behind what was written last.
    fn put(
        &self,
        file: &File,
        path: &Path,
        mut growing: Option<Growing>,
        chunks: &[Bytes],
    ) -> Result<Option<Growing>> {
        let Some(to) = &mut growing else {
            self.disk.write(file, chunks).map_err(storage_error)?;
            return Ok(None);
        };
        let length = chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        // Without flushes, the page cache is where bytes are to be.
        let is_direct = self.fsync && length >= DIRECT;
        if is_direct && to.direct.is_none() {
            to.direct = Some(self.disk.open_direct(path).map_err(storage_error)?);
        }
        let direct = to.direct.as_mut().filter(|_| is_direct);
        self.disk
            .write_at(file, direct, to.at, chunks)
            .map_err(storage_error)?;
        to.at += length;
        Ok(growing)
    }

    fn marker_get(&self, path: &Path) -> std::io::Result<Option<Marked>> {
        match self.disk.read(path) {
            Ok(content) => Ok(Some(Marked {
                content: Bytes::from(content),
                etag: None,
            })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// True when there was something to remove. Durable, for the row that vouches for it goes next.
    fn unlink(&self, path: &Path) -> Result<bool> {
        let removed = self.disk.remove(path).map_err(Error::unavailable)?;
        if removed {
            self.sync_parent(path).map_err(Error::unavailable)?;
        }
        Ok(removed)
    }

    fn read_cached(&self, path: &Path, range: &Range<u64>) -> Option<Bytes> {
        let length = usize::try_from(range.end - range.start).ok()?;
        self.disk.read_cached(path, range.start, length)
    }

    fn read_exactly(&self, file: &File, range: Range<u64>) -> Result<Bytes> {
        let length = usize::try_from(range.end - range.start).map_err(Error::internal)?;
        self.disk
            .read_exactly(file, range.start, length)
            .map_err(Error::unavailable)
    }
}

pub struct Writer {
    store: Arc<Inner>,
    temporary: PathBuf,
    destination: PathBuf,
    lease: Lease,
    progress: Progress,
    /// A call is under way, or was when the future that made it was dropped.
    running: bool,
    /// In bytes: what was written since the last flush began.
    unflushed: u64,
    /// A file tells of a failed write-back once: to whoever flushes it next.
    flush: Option<JoinHandle<Result<()>>>,
    /// What it finishes is to be gone on with: it keeps the temporary name.
    growing: Option<Growing>,
    /// The temporary name is not known to be durable.
    is_new: bool,
}

struct Growing {
    /// Where the next bytes belong.
    at: u64,
    direct: Option<Direct>,
}

impl Growing {
    fn from(at: u64) -> Self {
        Self { at, direct: None }
    }

    /// Whether so many bytes that were written at once went past the page cache, but for less than two pages.
    fn is_past_cache(&self, length: u64) -> bool {
        length >= DIRECT && self.direct.as_ref().is_some_and(Direct::works)
    }
}

enum Progress {
    /// The temporary file, once there is one.
    Writing(Option<Arc<File>>),
    Finished,
    /// A call failed or was given up: what the temporary file holds is not known.
    Failed,
}

impl Writer {
    pub(super) async fn write(&mut self, chunks: Vec<Bytes>) -> Result<()> {
        let file = self.take_file()?;
        let length = chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        let temporary = self.temporary.clone();
        let store = self.store.clone();
        let lease = self.lease.clone();
        let growing = self.growing.take();
        let (file, growing) = self
            .run(move || {
                let file = store.open_once(file, &temporary, &lease)?;
                let growing = store.put(&file, &temporary, growing, &chunks)?;
                Ok((file, growing))
            })
            .await?;
        let (most, is_cached) = match &growing {
            Some(growing) => (FLUSH_GROWING, !growing.is_past_cache(length)),
            None => (FLUSH, true),
        };
        self.growing = growing;
        if is_cached {
            self.unflushed += length;
        }
        if self.store.fsync && self.unflushed >= most {
            self.flush(file.clone()).await?;
        }
        self.progress = Progress::Writing(Some(file));
        Ok(())
    }

    /// Has what was written so far flushed, unless the flush before is not done.
    async fn flush(&mut self, file: Arc<File>) -> Result<()> {
        if self
            .flush
            .as_ref()
            .is_some_and(|flush| !flush.is_finished())
        {
            return Ok(());
        }
        self.flushed().await?;
        self.unflushed = 0;
        let store = self.store.clone();
        self.flush = Some(tokio::task::spawn_blocking(move || {
            store.disk.sync_data(&file).map_err(storage_error)
        }));
        Ok(())
    }

    /// Waits for the flush that was begun.
    async fn flushed(&mut self) -> Result<()> {
        match self.flush.take() {
            Some(flush) => flush.await.map_err(Error::internal)?,
            None => Ok(()),
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        matches!(self.progress, Progress::Finished)
    }

    pub(super) async fn finish(&mut self) -> Result<()> {
        self.finish_with(Vec::new()).await
    }

    /// Writes the last bytes and finishes, in one hop to the blocking pool.
    pub(super) async fn finish_with(&mut self, chunks: Vec<Bytes>) -> Result<()> {
        if self.is_finished() && chunks.is_empty() {
            return Ok(());
        }
        let file = self.take_file()?;
        let growing = self.growing.take();
        if growing.is_none() {
            self.flushed().await?;
        }
        let temporary = self.temporary.clone();
        let destination = self.destination.clone();
        let store = self.store.clone();
        let lease = self.lease.clone();
        if growing.is_some() {
            let is_new = self.is_new;
            let (file, growing) = self
                .run(move || {
                    let file = store.open_once(file, &temporary, &lease)?;
                    let growing = store.put(&file, &temporary, growing, &chunks)?;
                    if store.fsync {
                        store.disk.sync_data(&file).map_err(storage_error)?;
                    }
                    if is_new {
                        store.sync_parent(&temporary).map_err(storage_error)?;
                    }
                    Ok((file, growing))
                })
                .await?;
            self.growing = growing;
            // Beside that one, and waited for all the same: it may be the one that is told of a failure.
            self.flushed().await?;
            self.is_new = false;
            self.unflushed = 0;
            self.progress = Progress::Writing(Some(file));
            return Ok(());
        }
        self.run(move || {
            let file = store.open_once(file, &temporary, &lease)?;
            if !chunks.is_empty() {
                store.disk.write(&file, &chunks).map_err(storage_error)?;
            }
            if let Some(parent) = destination.parent() {
                store.make_directory(parent).map_err(storage_error)?;
            }
            lease.outlasts(CALL_TIMEOUT)?;
            let renamed = store.disk.rename(&temporary, &destination);
            renamed.map_err(storage_error)?;
            // After the rename: a journal then commits both in one go. Until the row is live, nobody is told
            // of a key whose bytes a power cut took.
            if store.fsync {
                store.disk.sync(&file).map_err(storage_error)?;
            }
            store.sync_parent(&destination).map_err(storage_error)
        })
        .await?;
        self.progress = Progress::Finished;
        Ok(())
    }

    /// The file so far; from here on the writer has failed, until the call that took it has succeeded.
    fn take_file(&mut self) -> Result<Option<Arc<File>>> {
        match std::mem::replace(&mut self.progress, Progress::Failed) {
            Progress::Writing(file) => Ok(file),
            Progress::Finished => {
                self.progress = Progress::Finished;
                Err(Error::internal("bytes came after the end of an object"))
            }
            Progress::Failed => Err(Error::unavailable("an earlier call of this writer failed")),
        }
    }

    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.running = true;
        let outcome = blocking(work).await;
        self.running = false;
        outcome
    }

    pub(super) async fn abort(&mut self) {
        if !matches!(self.progress, Progress::Finished) {
            self.progress = Progress::Failed;
        }
        let temporary = self.temporary.clone();
        let store = self.store.clone();
        // What fails here is left to the reaper.
        let _ = blocking(move || store.unlink(&temporary)).await;
    }

    pub(super) fn settled(&self) -> bool {
        !self.running
    }
}

/// The rest of a file, one read ahead of the reader.
fn read_ahead(
    store: Arc<Inner>,
    file: Arc<File>,
    first: Bytes,
    rest: Range<u64>,
) -> impl futures::Stream<Item = Result<Bytes>> {
    async_stream::try_stream! {
        let mut at = rest.start;
        let mut length = FIRST_READ;
        let mut ready = first;
        while at < rest.end {
            length = (length * 2).min(LARGEST_READ);
            let next = at..rest.end.min(at + length);
            at = next.end;
            let (store, file) = (store.clone(), file.clone());
            let reading = tokio::task::spawn_blocking(move || store.read_exactly(&file, next));
            yield ready;
            ready = reading.await.map_err(Error::internal)??;
        }
        yield ready;
    }
}

fn list_directory(
    store: &Inner,
    directory: &Path,
    pending: &mut Vec<PathBuf>,
    send: &tokio::sync::mpsc::Sender<Result<Listed>>,
) -> std::io::Result<()> {
    for entry in store.disk.list(directory)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(error),
        };
        let path = entry.path();
        if metadata.is_dir() {
            pending.push(path);
            continue;
        }
        let relative = path.strip_prefix(&store.directory).unwrap_or(&path);
        let listed = Listed {
            path: relative.to_string_lossy().into_owned(),
            size: metadata.len(),
            modified: metadata
                .modified()
                .map_or(Timestamp::from_micros(0), |modified| {
                    Timestamp::from_datetime(modified.into())
                }),
            multipart: false,
        };
        if send.blocking_send(Ok(listed)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Where a file that must be there can't be opened.
fn growing_error(error: std::io::Error) -> Error {
    if is_absent(&error) {
        Error::internal("the file of an upload is gone")
    } else {
        storage_error(error)
    }
}

/// A full disk is told apart: the operator must act on it, and the caller may come back later.
fn storage_error(error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::new(Kind::Unavailable, "The store is full.").because(error)
        }
        _ => Error::unavailable(error),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::internal)?
}
