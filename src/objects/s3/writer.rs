//! Writes an object: in one PUT when it fits into one part, and in parts when it doesn't.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::multipart::{MultipartStore, PartId};
use object_store::{MultipartId, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::pieces::{LARGEST_PIECE, Shared};
use super::retries::Retries;
use super::{S3, in_time, is_absent, late, path};
use crate::error::{Error, Result};
use crate::objects::{CALL_TIMEOUT, Found, Lease};

const MIB: u64 = 1024 * 1024;

/// The size of parts as long as nothing asks for larger ones: S3's least is 5 MiB.
const SMALLEST_PART: u64 = 8 * MIB;
/// S3's own limit is 10,000; what is left over is for uploads that outgrow what they declared.
const PLANNED_PARTS: u64 = 9_000;
const MOST_PARTS: u64 = 10_000;
/// S3's own limit on a part.
const LARGEST_PART: u64 = 5 * 1024 * MIB;
/// Without a declared size: so many parts of the smallest size (17.5 GiB), and then twice the size
/// each time that so many more were written.
const PARTS_BEFORE_GROWTH: u64 = 2_250;
const PARTS_UNTIL_DOUBLE: u64 = 750;

/// Together with the part that is being filled, a writer holds this many and one more.
const PARTS_IN_FLIGHT: usize = 2;

const SMALLEST_PIECE: usize = 16 * 1024;

pub struct Writer {
    store: S3,
    key: String,
    declared: Option<u64>,
    lease: Lease,
    filling: Part,
    /// In bytes: all that was taken.
    written: u64,
    /// Known from the moment that a second part begins.
    upload: Option<MultipartId>,
    /// The store may have begun another upload, whose id was lost on its way.
    stray_upload: bool,
    /// By their number from 0; None while it is being sent.
    parts: Vec<Option<PartId>>,
    sending: JoinSet<Result<Sent>>,
    spare: Shared,
    open_calls: OpenCalls,
    state: State,
}

/// A part that the store has.
struct Sent {
    index: usize,
    id: PartId,
    pieces: Vec<Bytes>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// All that was taken is here or on its way.
    Whole,
    /// Bytes were lost: a call failed, or the future of a `write` was dropped halfway.
    Broken,
    Finished,
}

impl Writer {
    pub(super) fn new(store: S3, key: &str, declared: Option<u64>, lease: Lease) -> Self {
        Self {
            spare: store.inner.pieces.join(),
            store,
            key: key.to_owned(),
            declared,
            lease,
            filling: Part::default(),
            written: 0,
            upload: None,
            stray_upload: false,
            parts: Vec::new(),
            sending: JoinSet::new(),
            open_calls: OpenCalls::default(),
            state: State::Whole,
        }
    }

    pub(in crate::objects) async fn write(&mut self, chunks: Vec<Bytes>) -> Result<()> {
        self.usable()?;
        self.state = State::Broken;
        for mut chunk in chunks {
            while !chunk.is_empty() {
                if self.room() == 0 {
                    self.send_part().await?;
                }
                let taken = chunk
                    .len()
                    .min(usize::try_from(self.room()).unwrap_or(usize::MAX));
                self.filling.push(chunk.split_to(taken), &self.spare);
                self.written += taken as u64;
            }
        }
        self.state = State::Whole;
        Ok(())
    }

    /// Can be called again after it failed in a call to the store.
    pub(in crate::objects) async fn finish(&mut self) -> Result<()> {
        if self.state == State::Finished {
            return Ok(());
        }
        self.usable()?;
        let path = path(&self.key)?;
        let store = self.store.inner.clone();
        match &self.upload {
            None => {
                let payload = self.filling.payload();
                let path = &path;
                let put = || store.strict.put(path, payload.clone());
                call(&self.lease, &self.open_calls, &store.retries, put).await?;
            }
            Some(upload) => {
                let upload = upload.clone();
                if self.filling.length > 0 {
                    self.send_part().await?;
                }
                while !self.sending.is_empty() {
                    self.part_sent().await?;
                }
                let parts: Option<Vec<PartId>> = self.parts.iter().cloned().collect();
                let parts = parts.ok_or_else(|| Error::internal("a part has no id"))?;
                let complete = || {
                    store
                        .strict
                        .complete_multipart(&path, &upload, parts.clone())
                };
                match call(&self.lease, &self.open_calls, &store.retries, complete).await {
                    Ok(_) => {}
                    // An earlier try may have completed it.
                    Err(Failed::Answered(error)) if is_absent(&error) => {
                        let found = self.store.head(&self.key).await?;
                        if found != Some(Found { size: self.written }) {
                            return Err(Error::unavailable(error));
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
                if self.stray_upload
                    && let Err(error) = self.store.abort_uploads(&self.key).await
                {
                    // It has no parts, and goes with the object.
                    tracing::warn!(key = self.key, %error, "another upload of a key may be left open");
                }
            }
        }
        self.state = State::Finished;
        self.filling = Part::default();
        Ok(())
    }

    pub(in crate::objects) async fn abort(&mut self) {
        if self.state == State::Finished {
            return;
        }
        self.state = State::Broken;
        self.filling = Part::default();
        // Parts that are cut off might arrive after the upload is gone; their end is worth a wait.
        let ended = timeout(CALL_TIMEOUT, async {
            while self.sending.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            self.sending.abort_all();
        }
        let (Some(upload), Ok(path)) = (&self.upload, path(&self.key)) else {
            return;
        };
        let open = self.open_calls.begin();
        match in_time(self.store.inner.patient.abort_multipart(&path, upload)).await {
            Ok(Ok(())) => open.end(),
            Ok(Err(error)) if is_absent(&error) => open.end(),
            // The reaper aborts it.
            _ => {}
        }
    }

    pub(in crate::objects) fn settled(&self) -> bool {
        self.open_calls.none()
    }

    fn usable(&self) -> Result<()> {
        match self.state {
            State::Whole => Ok(()),
            State::Broken => Err(Error::unavailable("an earlier call of this writer failed")),
            State::Finished => Err(Error::internal("a writer was used after it had finished")),
        }
    }

    /// In bytes, in the part that is being filled.
    fn room(&self) -> u64 {
        part_size(self.parts.len() as u64 + 1, self.declared).saturating_sub(self.filling.length)
    }

    /// Sends the part that was filled, once there is room for another one on its way.
    async fn send_part(&mut self) -> Result<()> {
        if self.parts.len() as u64 >= MOST_PARTS {
            return Err(Error::unavailable(
                "the object has more parts than the store takes",
            ));
        }
        let path = path(&self.key)?;
        let store = self.store.inner.clone();
        let upload = match &self.upload {
            Some(upload) => upload.clone(),
            None => {
                let create = || store.strict.create_multipart(&path);
                let upload = call(&self.lease, &self.open_calls, &store.retries, create).await?;
                self.stray_upload = !self.settled();
                self.upload.insert(upload).clone()
            }
        };
        while self.sending.len() >= PARTS_IN_FLIGHT {
            self.part_sent().await?;
        }
        let index = self.parts.len();
        let pieces = std::mem::take(&mut self.filling).into_pieces();
        self.parts.push(None);
        let lease = self.lease.clone();
        let open_calls = self.open_calls.clone();
        self.sending.spawn(async move {
            let put = || {
                let payload = pieces.iter().cloned().collect();
                store.strict.put_part(&path, &upload, index, payload)
            };
            let id = call(&lease, &open_calls, &store.retries, put).await?;
            Ok(Sent { index, id, pieces })
        });
        Ok(())
    }

    async fn part_sent(&mut self) -> Result<()> {
        let Some(sent) = self.sending.join_next().await else {
            return Ok(());
        };
        let recorded =
            sent.map_err(Error::internal)
                .flatten()
                .and_then(|Sent { index, id, pieces }| {
                    let slot = self
                        .parts
                        .get_mut(index)
                        .ok_or_else(|| Error::internal("a part that was not sent"))?;
                    *slot = Some(id);
                    self.spare.give(pieces);
                    Ok(())
                });
        if recorded.is_err() {
            self.state = State::Broken;
        }
        recorded
    }
}

/// The bytes of one part.
#[derive(Default)]
struct Part {
    pieces: Vec<Bytes>,
    filling: BytesMut,
    /// In bytes.
    length: u64,
}

impl Part {
    fn push(&mut self, mut chunk: Bytes, spare: &Shared) {
        while !chunk.is_empty() {
            if self.filling.len() == self.filling.capacity() {
                self.seal();
                self.filling = spare.take().unwrap_or_else(|| {
                    // As long as all before it, so that a small object takes little.
                    let grown = usize::try_from(self.length).unwrap_or(LARGEST_PIECE);
                    let capacity = grown.max(chunk.len()).clamp(SMALLEST_PIECE, LARGEST_PIECE);
                    BytesMut::with_capacity(capacity)
                });
            }
            let room = self.filling.capacity() - self.filling.len();
            let taken = chunk.split_to(chunk.len().min(room));
            self.filling.extend_from_slice(&taken);
            self.length += taken.len() as u64;
        }
    }

    fn seal(&mut self) {
        let filled = std::mem::take(&mut self.filling);
        if !filled.is_empty() {
            self.pieces.push(filled.freeze());
        }
    }

    /// Shares the bytes, and stays as it is.
    fn payload(&mut self) -> PutPayload {
        self.seal();
        self.pieces.iter().cloned().collect()
    }

    fn into_pieces(mut self) -> Vec<Bytes> {
        self.seal();
        self.pieces
    }
}

/// The size in bytes of a part, by its number from 1: every part before the last one has it.
///
/// All of a part is held in memory until it is sent. So parts stay at 8 MiB for as long as they can
/// and 9,000 of them still hold 5 TiB: with a declared size, all have the least size that
/// suffices for it; without, they grow (and with them the memory that a writer takes) in steps.
fn part_size(number: u64, declared: Option<u64>) -> u64 {
    let size = match declared {
        Some(declared) => declared.div_ceil(PLANNED_PARTS).next_multiple_of(MIB),
        None => {
            let grown = number
                .saturating_sub(PARTS_BEFORE_GROWTH)
                .div_ceil(PARTS_UNTIL_DOUBLE);
            SMALLEST_PART << grown.min(10)
        }
    };
    size.clamp(SMALLEST_PART, LARGEST_PART)
}

/// Counts the calls that could write and whose end is not known: those under way, and those that
/// were cut off, timed out, or broke off without an answer.
#[derive(Clone, Default)]
struct OpenCalls(Arc<AtomicUsize>);

/// Dropped without [`OpenCall::end`], the call stays open for ever.
struct OpenCall(Arc<AtomicUsize>);

impl OpenCalls {
    fn begin(&self) -> OpenCall {
        self.0.fetch_add(1, Ordering::SeqCst);
        OpenCall(self.0.clone())
    }

    fn none(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }
}

impl OpenCall {
    fn end(self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Why a call that could write gave nothing.
enum Failed {
    /// It was not made, or no answer came in time.
    Unanswered(Error),
    /// What the last try came to.
    Answered(object_store::Error),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unanswered(error) => error,
            Failed::Answered(error) => Self::unavailable(error),
        }
    }
}

/// Makes a call that could write, a few times if it must, all within one [`CALL_TIMEOUT`].
///
/// Each may be made twice: parts and objects have one content, and of an upload that was created
/// twice, one stays without parts until the writer has finished.
async fn call<T, F>(
    lease: &Lease,
    open_calls: &OpenCalls,
    retries: &Retries,
    attempt: impl Fn() -> F,
) -> Result<T, Failed>
where
    F: Future<Output = object_store::Result<T>>,
{
    lease.outlasts(CALL_TIMEOUT).map_err(Failed::Unanswered)?;
    let deadline = Instant::now() + CALL_TIMEOUT;
    let mut tries = 0;
    loop {
        tries += 1;
        let open = open_calls.begin();
        let error = match timeout_at(deadline, attempt()).await {
            Ok(Ok(done)) => {
                open.end();
                return Ok(done);
            }
            Ok(Err(error)) => error,
            Err(_) => return Err(Failed::Unanswered(late())),
        };
        let retry = match outcome(&error) {
            Outcome::Refused => {
                open.end();
                false
            }
            Outcome::NotSent => {
                open.end();
                true
            }
            Outcome::Unknown => true,
        };
        let pause = retries.pause(tries).filter(|_| retry);
        match pause.filter(|pause| Instant::now() + *pause < deadline) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(Failed::Answered(error)),
        }
    }
}

enum Outcome {
    /// The store understood, and won't.
    Refused,
    NotSent,
    /// Also what the store or a proxy before it answers with 5xx: behind that, it may yet be done.
    Unknown,
}

fn outcome(error: &object_store::Error) -> Outcome {
    match error {
        object_store::Error::NotFound { .. }
        | object_store::Error::AlreadyExists { .. }
        | object_store::Error::Precondition { .. }
        | object_store::Error::NotModified { .. }
        | object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => Outcome::Refused,
        _ => match http_error(error).map(HttpError::kind) {
            Some(HttpErrorKind::Connect) => Outcome::NotSent,
            _ => Outcome::Unknown,
        },
    }
}

fn http_error(error: &object_store::Error) -> Option<&HttpError> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::pieces::Pieces;
    use super::*;

    const TIB: u64 = 1024 * 1024 * MIB;

    #[test]
    fn parts_of_unknown_uploads_start_small_and_reach_5_tib() {
        let sizes: Vec<u64> = (1..=PLANNED_PARTS)
            .map(|number| part_size(number, None))
            .collect();
        assert!(sizes.iter().sum::<u64>() >= 5 * TIB);
        assert!(sizes.is_sorted());
        assert!(
            sizes
                .iter()
                .all(|size| (5 * MIB..=5 * 1024 * MIB).contains(size))
        );
        assert!(sizes[..2_250].iter().all(|size| *size == 8 * MIB));
        assert_eq!(sizes[2_250], 16 * MIB);
        assert_eq!(sizes[8_999], 4_096 * MIB);
        for number in [MOST_PARTS, u64::MAX] {
            assert!(part_size(number, None) <= 5 * 1024 * MIB);
        }
        // What a writer holds stays in proportion to what it was sent: three parts are at most
        // a 250th of that.
        let mut before = 0;
        for size in sizes {
            assert!(size == 8 * MIB || size * 750 <= before);
            before += size;
        }
    }

    #[test]
    fn parts_of_declared_uploads_have_one_size_that_suffices() {
        for declared in [
            0,
            1,
            8 * MIB,
            8 * MIB * 9_000,
            8 * MIB * 9_000 + 1,
            TIB,
            5 * TIB - 1,
            5 * TIB,
        ] {
            let size = part_size(1, Some(declared));
            assert!((8 * MIB..=5 * 1024 * MIB).contains(&size), "{declared}");
            assert!(size * PLANNED_PARTS >= declared, "{declared}");
            assert_eq!(size, part_size(9_999, Some(declared)));
            assert!(
                size == 8 * MIB || (size - MIB) * PLANNED_PARTS < declared,
                "{declared}"
            );
        }
        assert_eq!(part_size(1, Some(5 * TIB)), 583 * MIB);
        assert_eq!(part_size(1, Some(u64::MAX)), 5 * 1024 * MIB);
    }

    #[test]
    fn a_part_holds_its_own_bytes_and_no_more() {
        let bytes: Vec<u8> = (0..5_000_000_u32).map(|i| i as u8).collect();
        for size in [5, 70_000, bytes.len()] {
            let mut part = Part::default();
            let spare = Arc::<Pieces>::default().join();
            for chunk in bytes.chunks(size) {
                part.push(Bytes::copy_from_slice(chunk), &spare);
            }
            assert_eq!(part.length, bytes.len() as u64);
            let first = part.payload();
            // A second try sends the same.
            assert_eq!(part.payload().content_length(), first.content_length());
            let pieces = part.into_pieces();
            assert!(pieces.iter().all(|piece| piece.len() <= LARGEST_PIECE));
            assert!(pieces.concat() == bytes);
        }
    }

    #[test]
    fn a_call_without_a_known_end_stays_open() {
        let calls = OpenCalls::default();
        calls.begin().end();
        assert!(calls.none());
        let open = calls.begin();
        assert!(!calls.none());
        drop(open);
        assert!(!calls.none());
    }
}
