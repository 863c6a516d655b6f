//! Spans and log records, handed over to a collector by OTLP (http/protobuf).
//!
//! Each signal has a bounded queue and one task that empties it. Whoever has something for it never waits: what finds the
//! queue full is counted and forgotten, and so is what the collector does not take in the end.

use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use opentelemetry_sdk::trace::SpanData;
use prost::Message;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::metadata::LevelFilter;
use url::Url;

use crate::error::{Error, Kind};
use crate::metrics::{HandedOver, Signal, handed_over};

/// How many are handed over at once, and how long the first of them waits for others.
const BATCH: usize = 512;
const GATHER: Duration = Duration::from_secs(1);

/// How often a batch is offered to a collector that does not answer or asks for patience, and how long it
/// is left alone in between: at first, and at most.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Of an answer, in bytes: it says how much was refused, and why.
const ANSWER: usize = 64 * 1024;

#[derive(Clone, Debug)]
pub struct Settings {
    /// A base: `v1/traces` and `v1/logs` are joined to it.
    pub endpoint: Url,
    /// Their values are secrets.
    pub headers: HeaderMap,
    pub service_name: String,
    pub environment: String,
    /// Of this process, among those of the service.
    pub instance: String,
    /// Of traces that begin here, from 0 to 1. Others are recorded if their caller's are.
    pub sampling: f64,
    /// Up to which level log lines are handed over.
    pub logs: LevelFilter,
    /// For one request, and for all that is left at the end.
    pub timeout: Duration,
    /// How many spans, and how many log records, may wait.
    pub queue: usize,
}

/// The end of a queue that is written to.
#[derive(Debug)]
pub(super) struct Queue<T> {
    sender: mpsc::Sender<T>,
    counts: HandedOver,
}

impl<T> Queue<T> {
    pub(super) fn put(&self, item: T) {
        if self.sender.try_send(item).is_err() {
            self.counts.dropped.inc();
        }
    }
}

/// What is handed over, as OTLP has it.
pub(super) trait Exported: Send + Sized + 'static {
    const SIGNAL: Signal;
    const PATH: &'static str;

    fn request(items: Vec<Self>, resource: Resource, scope: InstrumentationScope) -> Vec<u8>;
}

impl Exported for SpanData {
    const SIGNAL: Signal = Signal::Spans;
    const PATH: &'static str = "v1/traces";

    fn request(items: Vec<Self>, resource: Resource, scope: InstrumentationScope) -> Vec<u8> {
        let scope_spans = ScopeSpans {
            scope: Some(scope),
            spans: items.into_iter().map(Into::into).collect(),
            ..ScopeSpans::default()
        };
        let resource_spans = ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![scope_spans],
            ..ResourceSpans::default()
        };
        ExportTraceServiceRequest {
            resource_spans: vec![resource_spans],
        }
        .encode_to_vec()
    }
}

impl Exported for LogRecord {
    const SIGNAL: Signal = Signal::Logs;
    const PATH: &'static str = "v1/logs";

    fn request(items: Vec<Self>, resource: Resource, scope: InstrumentationScope) -> Vec<u8> {
        let scope_logs = ScopeLogs {
            scope: Some(scope),
            log_records: items,
            ..ScopeLogs::default()
        };
        let resource_logs = ResourceLogs {
            resource: Some(resource),
            scope_logs: vec![scope_logs],
            ..ResourceLogs::default()
        };
        ExportLogsServiceRequest {
            resource_logs: vec![resource_logs],
        }
        .encode_to_vec()
    }
}

/// The ends of both queues that are read from. Nothing is handed over before [`Exporter::start`].
pub struct Exporter {
    settings: Settings,
    spans: mpsc::Receiver<SpanData>,
    records: mpsc::Receiver<LogRecord>,
}

impl Exporter {
    pub(super) fn new(settings: Settings) -> (Self, Queue<SpanData>, Queue<LogRecord>) {
        let (to_spans, spans) = queue(settings.queue);
        let (to_records, records) = queue(settings.queue);
        let exporter = Self {
            settings,
            spans,
            records,
        };
        (exporter, to_spans, to_records)
    }

    /// Hands over from now on, on this runtime.
    ///
    /// # Errors
    /// A client that can't be made.
    pub fn start(self) -> Result<Exporting, reqwest::Error> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("box-service/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(self.settings.timeout)
            .default_headers(self.settings.headers.clone())
            .build()?;
        let stopping = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let settings = &self.settings;
        tasks.spawn(Worker::new(settings, &http, &stopping).work(self.spans));
        tasks.spawn(Worker::new(settings, &http, &stopping).work(self.records));
        Ok(Exporting {
            stopping,
            tasks,
            timeout: settings.timeout,
        })
    }
}

fn queue<T: Exported>(length: usize) -> (Queue<T>, mpsc::Receiver<T>) {
    let (sender, receiver) = mpsc::channel(length);
    let counts = handed_over(T::SIGNAL);
    (Queue { sender, counts }, receiver)
}

/// The tasks that hand over.
pub struct Exporting {
    stopping: CancellationToken,
    tasks: JoinSet<()>,
    timeout: Duration,
}

impl Exporting {
    /// Hands over what is left, within the time-out of one request.
    pub async fn end(mut self) {
        self.stopping.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.timeout, all).await.is_err() {
            tracing::warn!("the last spans and log records could not be handed over in time");
        }
    }
}

struct Worker {
    http: reqwest::Client,
    endpoint: Url,
    resource: Resource,
    stopping: CancellationToken,
    /// Whether the last try failed: it is told once.
    failing: bool,
}

/// Why a batch was not taken.
struct Refusal {
    problem: String,
    /// Whether it may be taken later, and after how long.
    again: Option<Duration>,
}

impl Worker {
    fn new(settings: &Settings, http: &reqwest::Client, stopping: &CancellationToken) -> Self {
        Self {
            http: http.clone(),
            endpoint: settings.endpoint.clone(),
            resource: resource(settings),
            stopping: stopping.clone(),
            failing: false,
        }
    }

    /// Until the stop, and then until the queue is empty.
    async fn work<T: Exported>(mut self, mut queue: mpsc::Receiver<T>) {
        let stopping = self.stopping.clone();
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                got = queue.recv_many(&mut batch, BATCH) => if got == 0 { break },
            }
            let gathered = sleep(GATHER);
            tokio::pin!(gathered);
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                tokio::select! {
                    biased;
                    () = stopping.cancelled() => break,
                    () = &mut gathered => break,
                    got = queue.recv_many(&mut batch, room) => if got == 0 { break },
                }
            }
            self.hand_over(std::mem::take(&mut batch)).await;
        }
        queue.close();
        loop {
            let room = BATCH.saturating_sub(batch.len());
            if room > 0 && queue.recv_many(&mut batch, room).await > 0 {
                continue;
            }
            if batch.is_empty() {
                return;
            }
            self.hand_over(std::mem::take(&mut batch)).await;
        }
    }

    async fn hand_over<T: Exported>(&mut self, batch: Vec<T>) {
        let counts = handed_over(T::SIGNAL);
        let count = batch.len() as u64;
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let body = Bytes::from(T::request(batch, self.resource.clone(), scope));
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS {
            match self.send(T::PATH, body.clone()).await {
                Ok(refused) => {
                    let refused = refused.min(count);
                    counts.exported.inc_by(count - refused);
                    counts.dropped.inc_by(refused);
                    if std::mem::take(&mut self.failing) {
                        tracing::info!(path = T::PATH, "the collector takes what it is sent again");
                    }
                    return;
                }
                Err(refusal) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(
                            path = T::PATH,
                            problem = refusal.problem,
                            "the collector does not take what it is sent: what does not wait is lost, and counted"
                        );
                    }
                    let Some(asked) = refusal.again else { break };
                    if attempt == ATTEMPTS || self.stopping.is_cancelled() {
                        break;
                    }
                    let wait = pause.mul_f64(rand::random_range(0.5..=1.0)).max(asked);
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = self.stopping.cancelled() => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        counts.dropped.inc_by(count);
    }

    /// How many of them the collector refused.
    async fn send(&self, path: &str, body: Bytes) -> Result<u64, Refusal> {
        let unreachable = |error: reqwest::Error| Refusal {
            problem: Error::new(Kind::Unavailable, "It gave no answer.")
                .because(error.without_url())
                .story(),
            again: Some(Duration::ZERO),
        };
        let url = self.endpoint.join(path).map_err(|error| Refusal {
            problem: error.to_string(),
            again: None,
        })?;
        let request = self.http.post(url);
        let request = request.header(CONTENT_TYPE, "application/x-protobuf");
        let mut response = request.body(body).send().await.map_err(unreachable)?;
        let status = response.status();
        if !status.is_success() {
            return Err(Refusal {
                problem: format!("the answer was {status}"),
                again: is_passing(status).then(|| retry_after(response.headers())),
            });
        }
        let mut answer = Vec::new();
        // It has them: what it says of them is not worth another try.
        while let Ok(Some(bytes)) = response.chunk().await {
            if answer.len() + bytes.len() > ANSWER {
                return Ok(0);
            }
            answer.extend_from_slice(&bytes);
        }
        // Both signals' answers have the same form.
        let answer = ExportTraceServiceResponse::decode(answer.as_slice()).unwrap_or_default();
        let refused = answer.partial_success.map_or(0, |part| part.rejected_spans);
        Ok(u64::try_from(refused).unwrap_or(0))
    }
}

/// Those that OTLP has tried again (1.3, "OTLP/HTTP Response").
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(0)).min(LONGEST_PAUSE)
}

/// Whose spans and log records they are, by OpenTelemetry's semantic conventions.
fn resource(settings: &Settings) -> Resource {
    let attributes = [
        ("service.name", settings.service_name.as_str()),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", settings.instance.as_str()),
        ("deployment.environment.name", settings.environment.as_str()),
    ];
    Resource {
        attributes: attributes
            .map(|(key, value)| attribute(key, any_value::Value::StringValue(value.to_owned())))
            .to_vec(),
        ..Resource::default()
    }
}

pub(super) fn attribute(key: impl Into<String>, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
