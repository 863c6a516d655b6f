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
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanContext, Status, TraceContextExt};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::app::App;
use crate::clock::{Clock, Timestamp};
use crate::id::EventId;
use crate::metrics::{self, Active, Metrics};
use crate::trace;

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
    /// Whether spans are handed over to somebody.
    traced: bool,
}

impl Observer {
    pub(super) fn new(app: &App, routes: &[super::Route]) -> Self {
        let metrics = app.domain.metrics.clone();
        Self {
            clock: app.domain.clock.clone(),
            measures: Arc::new(Measures::new(&metrics.http, routes)),
            metrics,
            proxies: Arc::new(Proxies::new(&app.config)),
            traced: app.config.telemetry.endpoint.is_some(),
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
    let traced = observer.traced && route.as_ref().is_none_or(|route| is_worth(route.as_str()));
    let (span, trace_id) = span(request.headers(), &id, traced);
    let mut line = Line {
        method: request.method().clone(),
        route,
        measures: measures.clone(),
        _active: Active::count(&observer.metrics.http.active),
        trace_id,
        traced,
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

/// What asks every few seconds, for the sake of the process and not of anybody's, makes no traces.
fn is_worth(route: &str) -> bool {
    !route.starts_with("/health") && route != "/metrics"
}

/// The request's span, and the id of the trace that it is a part of: of one that the caller names (W3C Trace
/// Context), or of a new one, where traces are made here.
fn span(headers: &HeaderMap, id: &str, traced: bool) -> (tracing::Span, Option<String>) {
    let caller = caller(headers);
    let named = |caller: SpanContext| caller.trace_id().to_string();
    if !traced {
        let span = tracing::info_span!("request", request_id = %id);
        return (span, caller.map(named));
    }
    let span = tracing::info_span!(target: trace::ROOT, "request", request_id = %id);
    if let Some(caller) = caller.clone() {
        trace::follow(&span, caller);
    }
    let trace_id = trace::id(&span).or_else(|| caller.map(named));
    (span, trace_id)
}

fn caller(headers: &HeaderMap) -> Option<SpanContext> {
    let parent = headers.get(trace::TRACEPARENT)?.to_str().ok()?;
    let states = headers.get_all("tracestate").iter();
    let states: Vec<&str> = states.filter_map(|value| value.to_str().ok()).collect();
    trace::caller(parent, &states.join(","))
}

/// The log line and the metrics of a request, written when its answer has been sent or given up.
struct Line {
    method: Method,
    route: Option<MatchedPath>,
    measures: metrics::Route,
    _active: Active,
    trace_id: Option<String>,
    traced: bool,
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

impl Line {
    /// Gives the span what a span of a server has (OpenTelemetry's semantic conventions for HTTP), but for paths and
    /// queries, which hold names and seals.
    fn describe(&self, route: &str) {
        let context = self.span.context();
        let span = context.span();
        if !span.is_recording() {
            return;
        }
        let method = self.method.as_str().to_owned();
        span.update_name(format!("{method} {route}"));
        let mut attributes = vec![
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", route.to_owned()),
            KeyValue::new("http.response.body.size", saturated(self.bytes)),
        ];
        // None where the client was gone before there was one.
        if self.status > 0 {
            let status = i64::from(self.status);
            attributes.push(KeyValue::new("http.response.status_code", status));
        }
        if self.status >= 500 {
            attributes.push(KeyValue::new("error.type", self.status.to_string()));
            span.set_status(Status::error(""));
        }
        if let Some(tenant) = &self.tenant {
            attributes.push(KeyValue::new("box.tenant", tenant.clone()));
        }
        if let Some(address) = self.address {
            attributes.push(KeyValue::new("client.address", address.to_string()));
        }
        span.set_attributes(attributes);
    }
}

fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
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
        if self.traced {
            self.describe(route);
        }
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
