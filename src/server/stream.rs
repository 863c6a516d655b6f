//! A connection that can't stand still for ever: not before a request's head is complete, not
//! between requests, not while its client reads nothing, not at its end. (A request's body that
//! stands still is the body's own affair: `http::extract`.)

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::http::head_timeout_answer;

/// How long a closed connection's last bytes may take to be taken in: closing while bytes of the
/// client's are unread resets the connection, and it would never read the answer (RFC 9112,
/// section 9.6).
const LINGER: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// From the first byte of a request's head to its last, and from the connection to its first byte.
    pub head: Duration,
    /// Between requests, and for a client that reads nothing of its answer.
    pub idle: Duration,
}

/// What a connection is at, known to its stream and to its service.
pub(super) struct Activity {
    state: Mutex<State>,
    timeouts: Timeouts,
}

struct State {
    phase: Phase,
    /// Who found nothing to read while a request was answered. Hyper does not look again when the
    /// answer is sent, and nobody would keep the time of the idle connection.
    reader: Option<Waker>,
}

#[derive(Clone, Copy)]
enum Phase {
    Idle { until: Instant },
    Head { until: Instant },
    Answering,
}

/// A request is being answered for as long as this lives.
pub(super) struct Answering(Arc<Activity>);

impl Activity {
    pub(super) fn new(timeouts: &Timeouts) -> Arc<Self> {
        let until = Instant::now() + timeouts.head;
        Arc::new(Self {
            state: Mutex::new(State {
                phase: Phase::Idle { until },
                reader: None,
            }),
            timeouts: *timeouts,
        })
    }

    pub(super) fn begin(self: &Arc<Self>) -> Answering {
        self.state().phase = Phase::Answering;
        Answering(self.clone())
    }

    fn received(&self) {
        let mut state = self.state();
        if let Phase::Idle { .. } = state.phase {
            let until = Instant::now() + self.timeouts.head;
            state.phase = Phase::Head { until };
        }
    }

    /// The last of an answer may be on its way for long after it was handed over.
    fn sent(&self) {
        let mut state = self.state();
        if let Phase::Idle { until } = &mut state.phase {
            *until = Instant::now() + self.timeouts.idle;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let until = Instant::now() + self.0.timeouts.idle;
        let mut state = self.0.state();
        state.phase = Phase::Idle { until };
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

pub(super) struct Stream {
    tcp: TcpStream,
    activity: Arc<Activity>,
    timeouts: Timeouts,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
    lingering: Option<Pin<Box<Sleep>>>,
    /// The client has sent its last byte.
    ended: bool,
}

impl Stream {
    pub(super) fn new(tcp: TcpStream, activity: Arc<Activity>, timeouts: Timeouts) -> Self {
        Self {
            tcp,
            activity,
            timeouts,
            reading: None,
            writing: None,
            lingering: None,
            ended: false,
        }
    }

    /// Ready when the time for what the connection is at is over.
    fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let until = {
            let mut state = self.activity.state();
            match state.phase {
                Phase::Idle { until } | Phase::Head { until } => until,
                Phase::Answering => {
                    state.reader = Some(context.waker().clone());
                    return Poll::Pending;
                }
            }
        };
        let timer = self
            .reading
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(context)
    }

    /// Bounds how long the client may take nothing of what is written.
    fn poll_written<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing = None;
            self.activity.sent();
            return written;
        }
        let idle = self.timeouts.idle;
        let timer = self
            .writing
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.tcp).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                if buffer.filled().len() > before {
                    this.activity.received();
                } else {
                    this.ended = true;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                ready!(this.poll_overdue(context));
                if let Phase::Head { .. } = this.activity.state().phase {
                    // As far as it can be sent at once: the client has shown what it is like.
                    let _ = this.tcp.try_write(head_timeout_answer());
                }
                // As if the client had closed the connection.
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.tcp).poll_write(context, bytes);
        this.poll_written(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.tcp).poll_write_vectored(context, slices);
        this.poll_written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.tcp).poll_shutdown(context))?;
        }
        let timer = this
            .lingering
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut scratch = [0; 4096];
        while !this.ended && timer.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut this.tcp).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => this.ended = true,
            }
        }
        Poll::Ready(Ok(()))
    }
}
