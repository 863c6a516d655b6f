//! The bytes that one request brings, looked at as they come.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};

use super::super::content::{BATCH, Batch};
use super::locked;

/// Looks at the bytes of one request, and says at their end whether they are what was sent.
pub trait Check: Send {
    fn update(&mut self, bytes: &[u8]);
    fn holds(self: Box<Self>) -> bool;
}

/// What a writer and the keeper of its lease tell each other.
pub(super) struct Watch {
    /// When the last bytes came.
    pub(super) last: Mutex<Instant>,
    pub(super) give_way: CancellationToken,
}

impl Watch {
    pub(super) fn last(&self) -> MutexGuard<'_, Instant> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn longer() -> Error {
    Error::new(
        Kind::PayloadTooLarge,
        "There are more bytes than the upload's length says.",
    )
}

/// A body of which the first bytes are here.
type Whole<S> = stream::Chain<stream::Iter<std::vec::IntoIter<Result<Bytes>>>, stream::Fuse<S>>;

/// Takes in the first bytes of `source`, as many as a writer gathers, while `begun` is on its way; what came of
/// that, and all of the source.
pub(super) async fn meanwhile<S, T>(begun: impl Future<Output = T>, source: S) -> (T, Whole<S>)
where
    S: Stream<Item = Result<Bytes>> + Send + Unpin,
{
    let (mut begun, mut source) = (pin!(begun), source.fuse());
    let mut batch = Batch::default();
    let mut failed = None;
    let begun = loop {
        let more = batch.held() < BATCH && failed.is_none() && !source.is_done();
        tokio::select! {
            biased;
            begun = &mut begun => break begun,
            chunk = source.next(), if more => match chunk {
                Some(Ok(chunk)) => batch.push(chunk),
                Some(Err(error)) => failed = Some(error),
                None => {}
            },
        }
    };
    let mut came: Vec<Result<Bytes>> = batch.take().into_iter().map(Ok).collect();
    came.extend(failed.map(Err));
    (begun, stream::iter(came).chain(source))
}

/// The body of one request, a segment at a time. It ends where its source fails: what came is kept, and
/// the failure told later.
pub(super) struct Bodies<S> {
    source: S,
    pub(super) check: Option<Box<dyn Check>>,
    watch: Arc<Watch>,
    /// In bytes, of the upload.
    room: u64,
    next: Option<Bytes>,
    ended: bool,
    /// Why it ended, where it was not to end there.
    pub(super) failed: Option<Error>,
    refused: Option<Error>,
}

impl<S: Stream<Item = Result<Bytes>> + Send + Unpin> Bodies<S> {
    pub(super) fn new(
        source: S,
        check: Option<Box<dyn Check>>,
        watch: Arc<Watch>,
        room: u64,
    ) -> Self {
        Self {
            source,
            check,
            watch,
            room,
            next: None,
            ended: false,
            failed: None,
            refused: None,
        }
    }

    /// Waits for the next bytes; false at the end.
    pub(super) async fn more(&mut self) -> bool {
        if self.next.is_none() && !self.ended {
            let next = tokio::select! {
                biased;
                next = self.source.next() => next,
                () = self.watch.give_way.cancelled() => Some(Err(locked())),
            };
            *self.watch.last() = Instant::now();
            self.take(next);
        }
        self.next.is_some()
    }

    fn take(&mut self, next: Option<Result<Bytes>>) {
        match next {
            None => self.ended = true,
            Some(Err(error)) => {
                self.ended = true;
                self.failed = Some(error);
            }
            Some(Ok(bytes)) if bytes.len() as u64 > self.room => {
                self.ended = true;
                self.failed = Some(longer());
            }
            Some(Ok(bytes)) => {
                self.room -= bytes.len() as u64;
                if let Some(check) = &mut self.check {
                    check.update(&bytes);
                }
                self.next = Some(bytes);
            }
        }
    }

    /// Up to `most` of the bytes that come.
    pub(super) fn segment(
        &mut self,
        most: u64,
    ) -> impl Stream<Item = Result<Bytes>> + Send + Unpin {
        let left = most;
        futures::stream::unfold((self, left), |(bodies, left)| async move {
            if left == 0 || !bodies.more().await {
                return None;
            }
            let mut next = bodies.next.take()?;
            let taken = usize::try_from(left).unwrap_or(usize::MAX).min(next.len());
            let now = next.split_to(taken);
            if !next.is_empty() {
                bodies.next = Some(next);
            }
            Some((Ok(now), (bodies, left - taken as u64)))
        })
        .boxed()
    }

    /// At the end: whether the bytes must not be kept.
    pub(super) fn mismatches(&mut self) -> bool {
        let Some(check) = self.check.take() else {
            return false;
        };
        if let Some(failed) = self.failed.take() {
            self.refused = Some(failed);
        } else if !check.holds() {
            self.refused = Some(Error::new(
                Kind::PieceMismatch,
                "The bytes that came have another checksum.",
            ));
        }
        self.refused.is_some()
    }

    pub(super) fn refusal(&mut self) -> Error {
        self.refused
            .take()
            .unwrap_or_else(|| Error::internal("nothing was refused"))
    }
}
