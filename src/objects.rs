//! The object store: bytes at keys, in a local directory or in S3 and what speaks its protocol.
//!
//! One type, [`Objects`], is all that the layers above see. It knows nothing of the database:
//! who may write which key, and when a key may go, is decided above (`domain::content`, `domain::reaper`).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::faults::Faults;
use crate::id::ObjectId;
use crate::metrics::{Metrics, Operation, Outcome, Store};
use crate::trace::{self, span_within};

pub mod keys;
pub mod lifecycle;
mod local;
mod multipart;
mod part_writer;
mod parts;
mod s3;

use keys::{ObjectKey, Root};
use lifecycle::{BucketPlan, BucketRule};

pub use multipart::{Checked, Completion, Extent, Multipart, PartPage, SignedRequest, StoredPart};
pub use part_writer::{Allot, Before, PartWriter, SentPart, ended};
pub use parts::Parts;
pub use s3::S3Settings;

/// Bytes as they come, in order. An `Err` ends it.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// How long one call to the store may take, so that a writer can tell whether its lease outlasts it.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Where the bytes go.
#[derive(Clone, Debug)]
pub enum Settings {
    Local {
        /// The directory below which everything is kept; made when absent.
        directory: std::path::PathBuf,
        /// Whether an answered write has reached the disk.
        fsync: bool,
    },
    S3(S3Settings),
}

#[derive(Clone)]
pub struct Objects {
    root: Root,
    backend: Backend,
    /// What a directory counts here, S3 counts by its requests.
    metrics: Store,
}

#[derive(Clone)]
enum Backend {
    Local(local::Local),
    S3(s3::S3),
}

/// What the store says of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// In bytes.
    pub size: u64,
}

/// One thing that the store holds below our root: a key, a temporary name, or an open multipart upload of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub path: String,
    /// In bytes; 0 for a multipart upload.
    pub size: u64,
    pub modified: Timestamp,
    /// An open multipart upload: `path` is the key that it would become.
    pub multipart: bool,
}

/// The marker, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    pub content: Bytes,
    /// What S3 calls this content of it.
    etag: Option<String>,
}

/// A writer's right to its key, as a point in time that whoever holds the lease moves forward.
/// A writer starts no call that could outlast it.
#[derive(Clone, Debug)]
pub struct Lease {
    until: Arc<AtomicI64>,
    clock: Clock,
}

impl Lease {
    pub fn new(until: Timestamp, clock: Clock) -> Self {
        Self {
            until: Arc::new(AtomicI64::new(until.as_micros())),
            clock,
        }
    }

    pub fn renew(&self, until: Timestamp) {
        self.until.store(until.as_micros(), Ordering::SeqCst);
    }

    pub fn until(&self) -> Timestamp {
        Timestamp::from_micros(self.until.load(Ordering::SeqCst))
    }

    /// 503 unless the lease outlasts a call that may take `call`.
    pub fn outlasts(&self, call: Duration) -> Result<()> {
        if self.until() >= self.clock.now().plus(call) {
            Ok(())
        } else {
            Err(Error::unavailable(
                "the lease on the object is too short for another call to the store",
            ))
        }
    }
}

/// Writes one object in order. Nothing is visible at the key before `finish` answers; dropping a
/// writer leaves what it wrote to the reaper.
pub enum Writer {
    Local(local::Writer, Store),
    S3(s3::Writer),
    /// What becomes parts of an object that others go on with.
    Parts(Box<PartWriter>),
}

impl Objects {
    /// Connects; makes the local directory. Does not touch the marker.
    ///
    /// # Errors
    /// A directory that can't be made, a bucket that is not named, credentials that can't be read.
    pub fn open(settings: &Settings, environment: &str) -> Result<Self> {
        Self::open_with(
            settings,
            environment,
            Faults::none(),
            Metrics::default().store.clone(),
        )
    }

    /// The same, with fault points, and what it counts.
    ///
    /// # Errors
    /// As [`Objects::open`].
    pub fn open_with(
        settings: &Settings,
        environment: &str,
        faults: Faults,
        metrics: Store,
    ) -> Result<Self> {
        let (root, backend) = match settings {
            Settings::Local { directory, fsync } => {
                let root = Root::new("", environment);
                let local = local::Local::open(directory, &root, *fsync, faults)?;
                (root, Backend::Local(local))
            }
            Settings::S3(settings) => {
                let root = Root::new(&settings.prefix, environment);
                (
                    root,
                    Backend::S3(s3::S3::open(settings, faults, metrics.clone())?),
                )
            }
        };
        Ok(Self {
            root,
            backend,
            metrics,
        })
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Starts to write `key`. `size` is the declared length, if any: it chooses the size of parts.
    /// `epoch` keeps the temporary names of successive writers of one object apart.
    pub fn write(&self, key: &ObjectKey, epoch: i64, size: Option<u64>, lease: Lease) -> Writer {
        match &self.backend {
            Backend::Local(local) => {
                let writer = local.write(&self.root, key, epoch, lease);
                Writer::Local(writer, self.metrics.clone())
            }
            Backend::S3(s3) => Writer::S3(s3.write(key.path(), size, lease)),
        }
    }

    /// Goes on writing what becomes `key` later: behind the `offset` bytes that the writer of the epoch
    /// `held` has left, if any. Each `finish` makes durable what was written so far, and the writer can
    /// go on. Only where nothing has parts ([`Objects::multipart`]).
    ///
    /// A writer of another epoch may still be at work: its bytes are copied rather than gone on with.
    ///
    /// # Errors
    /// `Unavailable`; `Internal` where fewer bytes are left than that.
    pub async fn append(
        &self,
        key: &ObjectKey,
        epoch: i64,
        held: Option<i64>,
        offset: u64,
        lease: Lease,
    ) -> Result<Writer> {
        match &self.backend {
            Backend::Local(local) => {
                let writer = local.append(&self.root, key, epoch, held, offset, lease);
                Ok(Writer::Local(writer.await?, self.metrics.clone()))
            }
            Backend::S3(_) => Err(Error::internal("nothing grows in S3")),
        }
    }

    /// Puts the `size` bytes that writers of `append` have left at the key, the last of them that of the
    /// epoch `held`, and removes what those up to `epoch` have left else. Once that is done, again does nothing.
    ///
    /// # Errors
    /// `Unavailable`; `Internal` where the bytes are not there.
    pub async fn append_end(
        &self,
        key: &ObjectKey,
        epoch: i64,
        held: i64,
        size: u64,
        lease: &Lease,
    ) -> Result<()> {
        match &self.backend {
            Backend::Local(local) => {
                let end = local.append_end(&self.root, key, epoch, held, size, lease);
                measured(&self.metrics, Operation::Put, end).await
            }
            Backend::S3(_) => Err(Error::internal("nothing grows in S3")),
        }
    }

    /// About how many bytes of an object of any size are in memory while it is being written.
    pub fn held_by_writer(&self) -> usize {
        const MIB: usize = 1024 * 1024;
        match &self.backend {
            // A batch that is written, one that gathers, and what connections hold.
            Backend::Local(_) => 4 * MIB,
            // The parts in flight, and the one that is being filled.
            Backend::S3(_) => 32 * MIB,
        }
    }

    /// The bytes of `range` (end exclusive; it must lie within the object and must not be empty),
    /// with backpressure. The stream ends with an error, never cleanly, when bytes are missing.
    ///
    /// Once it answered, the whole stream is of the object as it was: a key is never written twice.
    ///
    /// # Errors
    /// `NotFound` when nothing is at the key.
    pub async fn read(&self, key: &ObjectKey, range: Range<u64>) -> Result<ByteStream> {
        match &self.backend {
            Backend::Local(local) => {
                measured(&self.metrics, Operation::Get, local.read(key.path(), range)).await
            }
            Backend::S3(s3) => s3.read(key.path(), range).await,
        }
    }

    pub async fn head(&self, key: &ObjectKey) -> Result<Option<Found>> {
        match &self.backend {
            Backend::Local(local) => {
                measured(&self.metrics, Operation::Head, local.head(key.path())).await
            }
            Backend::S3(s3) => s3.head(key.path()).await,
        }
    }

    /// Whether what was listed is still there.
    pub async fn is_there(&self, listed: &Listed) -> Result<bool> {
        match &self.backend {
            Backend::Local(local) => Ok(local.head(&listed.path).await?.is_some()),
            Backend::S3(s3) if listed.multipart => s3.has_upload(&listed.path).await,
            Backend::S3(s3) => Ok(s3.head(&listed.path).await?.is_some()),
        }
    }

    /// Removes all that exists for `key`: temporary names (first, so that a paused writer's rename
    /// fails), open multipart uploads for exactly this key, and the key. True when there was anything.
    /// `last_epoch` is the highest epoch that a writer of this key can have had.
    pub async fn erase(&self, key: &ObjectKey, last_epoch: i64) -> Result<bool> {
        match &self.backend {
            Backend::Local(local) => {
                let erase = local.erase(&self.root, key, last_epoch);
                measured(&self.metrics, Operation::Delete, erase).await
            }
            Backend::S3(s3) => s3.erase(key.path()).await,
        }
    }

    /// Everything below our root, the marker too, in no promised order, with constant memory.
    pub fn list(&self) -> BoxStream<'static, Result<Listed>> {
        match &self.backend {
            Backend::Local(local) => local.list(&self.root),
            Backend::S3(s3) => s3.list(self.root.listing_prefix()),
        }
    }

    /// A URL that lets its holder GET the key from the store itself for `ttl`, with the given
    /// response headers; None where the store can't be reached by URL.
    pub async fn presign_get(
        &self,
        key: &ObjectKey,
        ttl: Duration,
        content_type: &str,
        content_disposition: &str,
    ) -> Result<Option<String>> {
        match &self.backend {
            Backend::Local(_) => Ok(None),
            Backend::S3(s3) => s3
                .presign_get(key.path(), ttl, content_type, content_disposition)
                .await
                .map(Some),
        }
    }

    /// Whether the store refuses to write over what is at a key, where it is told not to; None where that
    /// is not the store's to do.
    pub async fn refuses_second(&self, key: &ObjectKey) -> Result<Option<bool>> {
        match &self.backend {
            Backend::Local(_) => Ok(None),
            Backend::S3(s3) => {
                let written = s3.marker_write(key.path(), None, Bytes::new()).await?;
                Ok(Some(!written))
            }
        }
    }

    /// What is to change so that the bucket has just these rules of ours, under ids that begin with `owner`;
    /// None where the store has none to give.
    ///
    /// # Errors
    /// `Unavailable`, also for rules that can't be read.
    pub async fn lifecycle_plan(
        &self,
        owner: &str,
        wanted: &[BucketRule],
    ) -> Result<Option<BucketPlan>> {
        match &self.backend {
            Backend::Local(_) => Ok(None),
            Backend::S3(s3) => {
                let root = self.root.listing_prefix();
                s3.lifecycle_plan(owner, &root, wanted).await.map(Some)
            }
        }
    }

    /// Makes the bucket's rules those of the plan, all of them, whatever they are by now.
    pub async fn lifecycle_write(&self, plan: &BucketPlan) -> Result<()> {
        match &self.backend {
            Backend::Local(_) => Err(Error::internal("a directory has no lifecycle")),
            Backend::S3(s3) => s3.lifecycle_write(&plan.document).await,
        }
    }

    pub async fn marker_get(&self) -> Result<Option<Marked>> {
        let path = self.root.marker();
        match &self.backend {
            Backend::Local(local) => local.marker_get(&path).await,
            Backend::S3(s3) => s3.marker_get(&path).await,
        }
    }

    /// Writes the marker, whole or not at all, unless it is another than was found by now; false then.
    /// `aside` is a fresh id, for the name under which the local store writes it first.
    ///
    /// Between two processes over one local directory, what replaces a marker may replace one that was
    /// written a moment ago.
    pub async fn marker_write(
        &self,
        aside: ObjectId,
        found: Option<&Marked>,
        content: Bytes,
    ) -> Result<bool> {
        match &self.backend {
            Backend::Local(local) => local.marker_write(&self.root, aside, found, content).await,
            Backend::S3(s3) => s3.marker_write(&self.root.marker(), found, content).await,
        }
    }
}

impl Writer {
    /// Takes the next bytes, and answers when it can take more: what it holds is bounded.
    pub async fn write(&mut self, chunks: Vec<Bytes>) -> Result<()> {
        match self {
            Self::Local(writer, _) => writer.write(chunks).await,
            Self::S3(writer) => writer.write(chunks).await,
            Self::Parts(writer) => writer.write(chunks).await,
        }
    }

    /// Takes the last bytes, and makes the object durable and visible at its key: what `write` and
    /// `finish` do, with less between them.
    pub async fn finish_with(&mut self, chunks: Vec<Bytes>) -> Result<()> {
        match self {
            Self::Local(writer, metrics) => {
                measured(metrics, Operation::Put, writer.finish_with(chunks)).await
            }
            Self::S3(writer) => {
                writer.write(chunks).await?;
                writer.finish().await
            }
            Self::Parts(writer) => {
                writer.write(chunks).await?;
                writer.finish().await
            }
        }
    }

    /// Makes the object durable and visible at its key. Once that is done, again does nothing.
    pub async fn finish(&mut self) -> Result<()> {
        match self {
            // Else it would count as another call, that took no time.
            Self::Local(writer, _) if writer.is_finished() => Ok(()),
            Self::Local(writer, metrics) => {
                measured(metrics, Operation::Put, writer.finish()).await
            }
            Self::S3(writer) => writer.finish().await,
            Self::Parts(writer) => writer.finish().await,
        }
    }

    /// Gives up, and removes what was written as far as that can be done at once.
    pub async fn abort(&mut self) {
        match self {
            Self::Local(writer, _) => writer.abort().await,
            Self::S3(writer) => writer.abort().await,
            Self::Parts(writer) => writer.abort().await,
        }
    }

    /// Whether every call that this writer made has ended with an answer that is known: if not, bytes may still arrive.
    pub fn settled(&self) -> bool {
        match self {
            Self::Local(writer, _) => writer.settled(),
            Self::S3(writer) => writer.settled(),
            Self::Parts(writer) => writer.settled(),
        }
    }
}

/// Counts and times what a directory does, and has it seen in traces.
async fn measured<T>(
    metrics: &Store,
    operation: Operation,
    what: impl Future<Output = Result<T>>,
) -> Result<T> {
    let call = metrics.call(operation);
    let span = span_within!("store", otel.name = %format_args!("store {}", operation.name()), "box.store" = "directory");
    let outcome = what.await.inspect_err(|error| trace::failed(&span, error));
    call.ended(match &outcome {
        Ok(_) => Outcome::Ok,
        Err(error) if error.kind() == Kind::NotFound => Outcome::NotFound,
        Err(_) => Outcome::Failed,
    });
    outcome
}
