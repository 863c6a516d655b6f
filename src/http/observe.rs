//! What every request has, whatever becomes of it: an id, a log line, and problems that name the id.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    CONTENT_LENGTH, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Body as _, Frame, SizeHint};
use tracing::Instrument;

use crate::app::App;
use crate::clock::{Clock, Timestamp};
use crate::id::EventId;
use crate::metrics::{self, Active, Metrics};

use super::address::{Address, Proxies};
use super::extract::Peer;
use super::guard::Who;
use super::measure::{self, Measures};
use super::problem;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of the request that is being answered.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

#[derive(Clone)]
pub(super) struct Observer {
    clock: Clock,
    metrics: Metrics,
    measures: Arc<Measures>,
    proxies: Arc<Proxies>,
}

impl Observer {
    pub(super) fn new(app: &App, routes: &[super::Route]) -> Self {
        let metrics = app.domain.metrics.clone();
        Self {
            clock: app.domain.clock.clone(),
            measures: Arc::new(Measures::new(&metrics.http, routes)),
            metrics,
            proxies: Arc::new(Proxies::new(&app.config)),
        }
    }
}

pub(super) async fn observe(
    State(observer): State<Observer>,
    mut request: Request,
    next: Next,
) -> Response {
    let clock = observer.clock;
    let began = clock.now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let measures = observer.measures.of(route.as_ref(), request.method());
    let id = request_id(request.headers(), began);
    let peer = request.extensions().get::<Peer>();
    let address = peer.map(|peer| observer.proxies.client(peer.0.ip(), request.headers()));
    let span = tracing::info_span!("request", request_id = %id);
    let mut line = Line {
        method: request.method().clone(),
        route,
        measures: measures.clone(),
        _active: Active::count(&observer.metrics.http.active),
        trace_id: trace_id(request.headers()).map(str::to_owned),
        began,
        clock,
        status: 0,
        bytes: 0,
        tenant: None,
        address,
        error: None,
        expected: None,
        ended: false,
        span: span.clone(),
    };
    let head_only = request.method() == Method::HEAD;
    request.extensions_mut().insert(RequestId(id.clone()));
    if let Some(address) = address {
        request.extensions_mut().insert(Address(address));
    }
    let request = request.map(|body| measure::received(body, &line.measures));

    let response = next.run(request).instrument(span).await;
    let (mut response, error) = problem::render(response, &id);
    line.status = response.status().as_u16();
    line.error = error;
    line.tenant = response
        .extensions()
        .get::<Who>()
        .map(|who| who.0.tenant.to_string());
    // The server asks for no byte more than the answer's length, and for none where it has no body.
    line.expected = if head_only || response.body().is_end_stream() {
        Some(0)
    } else {
        response
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .or(response.body().size_hint().exact())
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(&id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
    response.map(|body| Body::new(Observed { body, line }))
}

/// The caller's own id where it is a plain word; else a new one.
fn request_id(headers: &HeaderMap, now: Timestamp) -> String {
    let plain = |text: &&str| {
        (1..=128).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(plain)
        .map_or_else(|| EventId::new(now).to_string(), str::to_owned)
}

/// The trace that the request is a part of (W3C Trace Context, section 3.2: version, trace id,
/// parent id and flags, in lower-case hexadecimal digits).
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let sound = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && trace.bytes().any(|b| b != b'0')
        && hex(parent, 16);
    sound.then_some(trace)
}

/// The log line and the metrics of a request, written when its answer has been sent or given up.
struct Line {
    method: Method,
    route: Option<MatchedPath>,
    measures: metrics::Route,
    _active: Active,
    trace_id: Option<String>,
    began: Timestamp,
    clock: Clock,
    status: u16,
    /// Of the answer's body, as far as it was sent.
    bytes: u64,
    tenant: Option<String>,
    /// The client's.
    address: Option<IpAddr>,
    error: Option<String>,
    /// How many there are, where that is known before they are sent.
    expected: Option<u64>,
    ended: bool,
    span: tracing::Span,
}

impl Drop for Line {
    fn drop(&mut self) {
        let _entered = self.span.enter();
        let took = self.clock.now().since(self.began);
        self.measures.answered(self.status, took);
        self.measures.sent.inc_by(self.bytes);
        let ms = took.as_micros() as f64 / 1_000.0;
        let complete = self.ended || self.expected.is_some_and(|all| self.bytes >= all);
        let cut_off = (!complete).then_some(true);
        let route = self.route.as_ref().map_or("none", MatchedPath::as_str);
        let error = self.error.as_deref();
        let tenant = self.tenant.as_deref();
        let trace_id = self.trace_id.as_deref();
        let remote_ip = self.address.map(tracing::field::display);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    method = self.method.as_str(),
                    route,
                    status = self.status,
                    bytes = self.bytes,
                    ms,
                    cut_off,
                    tenant,
                    remote_ip,
                    trace_id,
                    error,
                    "request"
                )
            };
        }
        if self.status >= 500 {
            line!(error)
        } else if self.status < 400 && error.is_some() {
            line!(warn)
        } else {
            line!(info)
        }
    }
}

/// A body that counts itself for the log line.
struct Observed {
    body: Body,
    line: Line,
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                self.line.bytes += length as u64;
            }
            Poll::Ready(Some(Err(error))) => self.line.error = Some(error.to_string()),
            Poll::Ready(None) => self.line.ended = true,
            Poll::Pending => {}
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
