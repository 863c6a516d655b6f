//! Log lines of the higher levels as OTLP's log records, with the trace that they belong to.

use opentelemetry::Context as Current;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use serde_json::{Map, Value};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::clock::Clock;
use crate::trace;

use super::FieldsVisitor;
use super::otlp::{Queue, attribute};

/// Of a text that is handed over, in bytes.
const LONGEST: usize = 4_096;

/// What hands over does not tell of itself there.
const OWN: &str = "box_service::telemetry";

/// Takes what this program itself says, up to a level.
pub(super) fn layer<S>(queue: Queue<LogRecord>, most: LevelFilter) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    // For the spans whose fields records have, too.
    let hint = most.max(LevelFilter::INFO);
    let wanted = move |metadata: &Metadata<'_>| {
        if metadata.is_span() {
            metadata.target() == trace::ROOT
        } else {
            let target = metadata.target();
            *metadata.level() <= most
                && target.starts_with("box_service")
                && !target.starts_with(OWN)
        }
    };
    Records(queue).with_filter(filter_fn(wanted).with_max_level_hint(hint))
}

struct Records(Queue<LogRecord>);

/// The fields of a span.
struct Fields(Map<String, Value>);

impl<S> Layer<S> for Records
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Map::new();
            attributes.record(&mut FieldsVisitor(&mut fields));
            span.extensions_mut().insert(Fields(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Map::new();
        let spans = context.event_scope(event).into_iter();
        for span in spans.flat_map(|scope| scope.from_root()) {
            if let Some(Fields(of_span)) = span.extensions().get() {
                fields.extend(of_span.clone());
            }
        }
        event.record(&mut FieldsVisitor(&mut fields));
        let message = fields.remove("message").unwrap_or_default();
        let metadata = event.metadata();
        let (severity_number, severity_text) = severity(*metadata.level());
        let now = nanos();
        let mut record = LogRecord {
            time_unix_nano: now,
            observed_time_unix_nano: now,
            severity_number: severity_number.into(),
            severity_text: severity_text.to_owned(),
            body: Some(AnyValue {
                value: Some(value(message)),
            }),
            attributes: attributes(metadata.target(), fields),
            ..LogRecord::default()
        };
        Current::map_current(|current| {
            let span = current.span();
            let context = span.span_context();
            if context.is_valid() {
                record.trace_id = context.trace_id().to_bytes().to_vec();
                record.span_id = context.span_id().to_bytes().to_vec();
                record.flags = context.trace_flags().to_u8().into();
            }
        });
        self.0.put(record);
    }
}

fn attributes(target: &str, fields: Map<String, Value>) -> Vec<KeyValue> {
    let target = ("target".to_owned(), Value::String(target.to_owned()));
    std::iter::once(target)
        .chain(fields)
        .map(|(name, field)| attribute(name, value(field)))
        .collect()
}

fn value(value: Value) -> any_value::Value {
    use any_value::Value::{BoolValue, DoubleValue, IntValue, StringValue};
    match value {
        Value::Bool(value) => BoolValue(value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => IntValue(number),
            None => DoubleValue(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => StringValue(cut(text)),
        other => StringValue(cut(other.to_string())),
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(LONGEST));
    text
}

fn severity(level: Level) -> (SeverityNumber, &'static str) {
    match level {
        Level::ERROR => (SeverityNumber::Error, "ERROR"),
        Level::WARN => (SeverityNumber::Warn, "WARN"),
        Level::INFO => (SeverityNumber::Info, "INFO"),
        Level::DEBUG => (SeverityNumber::Debug, "DEBUG"),
        Level::TRACE => (SeverityNumber::Trace, "TRACE"),
    }
}

fn nanos() -> u64 {
    u64::try_from(Clock::system().now().as_micros()).unwrap_or(0) * 1_000
}
