//! A collector of OTLP over HTTP, which keeps what it is sent, and answers as a test has said.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Ends with its test.
pub struct Collector {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    kept: Arc<Kept>,
    task: tokio::task::JoinHandle<()>,
}

struct Kept {
    received: Mutex<Received>,
    /// What is answered; None: nothing, until the test ends.
    answer: Mutex<Option<StatusCode>>,
    silence: CancellationToken,
}

#[derive(Clone, Default)]
pub struct Received {
    pub spans: Vec<Span>,
    pub records: Vec<LogRecord>,
    /// Of the process, as it was told last.
    pub resource: Map<String, Value>,
    /// Of requests.
    pub headers: Vec<HeaderMap>,
    /// As they came: texts in them are as they are.
    pub bodies: Vec<Bytes>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.kept.silence.cancel();
        self.task.abort();
    }
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let kept = Arc::new(Kept {
            received: Mutex::default(),
            answer: Mutex::new(Some(StatusCode::OK)),
            silence: CancellationToken::new(),
        });
        let router = Router::new()
            .route("/v1/traces", post(take))
            .route("/v1/logs", post(take))
            .layer(DefaultBodyLimit::disable())
            .with_state(kept.clone());
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { url, kept, task }
    }

    /// None: it takes requests and says nothing.
    pub fn answers(&self, status: Option<u16>) {
        let status = status.map(|status| StatusCode::from_u16(status).unwrap());
        *self.kept.answer.lock().unwrap() = status;
    }

    pub fn received(&self) -> Received {
        self.kept.received.lock().unwrap().clone()
    }
}

async fn take(
    State(kept): State<Arc<Kept>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let answer = *kept.answer.lock().unwrap();
    let Some(answer) = answer else {
        kept.silence.cancelled().await;
        return StatusCode::OK;
    };
    let mut received = kept.received.lock().unwrap();
    received.headers.push(headers);
    received.bodies.push(body.clone());
    if !answer.is_success() {
        return answer;
    }
    if uri.path() == "/v1/traces" {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        for resource in request.resource_spans {
            received.resource = attributes(&resource.resource.unwrap().attributes);
            let scopes = resource.scope_spans.into_iter();
            received.spans.extend(scopes.flat_map(|scope| scope.spans));
        }
    } else {
        let request = ExportLogsServiceRequest::decode(body).unwrap();
        for resource in request.resource_logs {
            let scopes = resource.scope_logs.into_iter();
            let records = scopes.flat_map(|scope| scope.log_records);
            received.records.extend(records);
        }
    }
    answer
}

impl Received {
    /// The spans of a name within a trace.
    pub fn named(&self, trace: &str, name: &str) -> Vec<&Span> {
        let of = |span: &&Span| hex::encode(&span.trace_id) == trace && span.name == name;
        self.spans.iter().filter(of).collect()
    }

    /// The one that there is.
    #[track_caller]
    pub fn one(&self, trace: &str, name: &str) -> &Span {
        match self.named(trace, name).as_slice() {
            [span] => span,
            found => panic!("{} of {name} in {:#?}", found.len(), self.tree(trace)),
        }
    }

    /// Whether a span is one of those below another one.
    pub fn is_below(&self, span: &Span, above: &Span) -> bool {
        let mut parent = span.parent_span_id.clone();
        while parent != above.span_id {
            match self.spans.iter().find(|span| span.span_id == parent) {
                Some(span) => parent.clone_from(&span.parent_span_id),
                None => return false,
            }
        }
        true
    }

    /// For who reads what went wrong.
    pub fn tree(&self, trace: &str) -> Vec<String> {
        let spans = self.spans.iter();
        let spans = spans.filter(|span| hex::encode(&span.trace_id) == trace);
        let shown = |span: &Span| {
            let (id, parent) = (
                hex::encode(&span.span_id),
                hex::encode(&span.parent_span_id),
            );
            format!(
                "{} {id} below {parent} {:?}",
                span.name,
                attributes(&span.attributes)
            )
        };
        spans.map(shown).collect()
    }
}

pub fn attributes(pairs: &[KeyValue]) -> Map<String, Value> {
    let value = |pair: &KeyValue| match pair.value.clone().unwrap().value.unwrap() {
        any_value::Value::StringValue(text) => Value::from(text),
        any_value::Value::BoolValue(value) => Value::from(value),
        any_value::Value::IntValue(number) => Value::from(number),
        any_value::Value::DoubleValue(number) => Value::from(number),
        other => panic!("{other:?}"),
    };
    let pairs = pairs.iter();
    pairs.map(|pair| (pair.key.clone(), value(pair))).collect()
}

/// The text of a record.
pub fn text(record: &LogRecord) -> &str {
    match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    }
}
