//! Calls that could write: made again where that does no harm, and counted until their end is known.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use object_store::client::{HttpError, HttpErrorKind};
use tokio::time::{Instant, timeout_at};

use super::late;
use super::retries::Retries;
use crate::error::{Error, Result};
use crate::objects::{CALL_TIMEOUT, Lease};

/// Counts the calls that could write and whose end is not known: those under way, and those that
/// were cut off, timed out, or broke off without an answer.
#[derive(Clone, Default)]
pub(super) struct OpenCalls(Arc<AtomicUsize>);

/// Dropped without [`OpenCall::end`], the call stays open for ever.
pub(super) struct OpenCall(Arc<AtomicUsize>);

impl OpenCalls {
    pub(super) fn begin(&self) -> OpenCall {
        self.0.fetch_add(1, Ordering::SeqCst);
        OpenCall(self.0.clone())
    }

    pub(super) fn none(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }
}

impl OpenCall {
    pub(super) fn end(self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Why a call that could write gave nothing.
pub(super) enum Failed {
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
pub(super) async fn call<T, F>(
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

pub(super) fn http_error(error: &object_store::Error) -> Option<&HttpError> {
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
    use super::*;

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
