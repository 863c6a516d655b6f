//! Whether a request's body was read to its end when the answer begins.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::http::header::CONNECTION;
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

#[derive(Clone)]
pub(super) struct Read(Arc<AtomicBool>);

impl Read {
    pub(super) fn new(body: &Incoming) -> Self {
        Self(Arc::new(AtomicBool::new(body.is_end_stream())))
    }

    pub(super) fn watching(self, body: Incoming) -> Watched {
        Watched { body, read: self }
    }

    /// A connection on which a part of a body is still to come can't be used for another request: the
    /// answer says so (RFC 9112, 9.6), and the client does not try.
    pub(super) fn close_unless_whole(&self, headers: &mut HeaderMap) {
        if !self.0.load(Ordering::Relaxed) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

pub(super) struct Watched {
    body: Incoming,
    read: Read,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let ended = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => self.body.is_end_stream(),
            _ => false,
        };
        if ended {
            self.read.0.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
