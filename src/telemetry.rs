//! Log lines on standard error: JSON for machines, a compact form for people. Traces, and lines of the higher
//! levels, also to a collector, where there is one.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::metadata::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::trace;

mod otlp;
mod records;
mod spans;

pub use otlp::{Exporter, Exporting, Settings};

/// What a log line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Pretty on a terminal, else JSON.
    #[default]
    Auto,
    /// One flat object a line: `timestamp` (RFC 3339, UTC), `level`, `target`, `message`, the
    /// event's fields, and those of the spans around it; the innermost wins.
    Json,
    /// For people; coloured on a terminal.
    Pretty,
}

impl Format {
    const ALL: [Self; 3] = [Self::Auto, Self::Json, Self::Pretty];

    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Json => "json",
            Self::Pretty => "pretty",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("{text:?} is no log filter: {reason}")]
    Filter { text: String, reason: String },
    #[error("logging was set up before")]
    AlreadySet,
}

/// Sends the events of this process that pass the filter `level` to standard error, also those
/// of libraries that use `log`. With a collector, what is for it waits until the answer is started. Once in a process.
///
/// # Errors
/// A filter that [`filter`] refuses; a second call.
pub fn init(
    format: Format,
    level: &str,
    stderr_is_terminal: bool,
    collector: Option<Settings>,
) -> Result<Option<Exporter>, TelemetryError> {
    let (subscriber, exporter) = subscriber(
        format,
        filter(level)?,
        stderr_is_terminal,
        std::io::stderr,
        collector,
    );
    subscriber
        .try_init()
        .map_err(|_| TelemetryError::AlreadySet)?;
    Ok(exporter)
}

/// What [`init`] sets up, for any writer.
pub fn subscriber<W>(
    format: Format,
    filter: EnvFilter,
    terminal: bool,
    writer: W,
    collector: Option<Settings>,
) -> (Box<dyn Subscriber + Send + Sync>, Option<Exporter>)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let registry = tracing_subscriber::registry();
    let Some(settings) = collector else {
        return (lines(registry, format, filter, terminal, writer), None);
    };
    let (sampling, level) = (settings.sampling, settings.logs);
    let (exporter, spans, records) = Exporter::new(settings);
    let registry = registry
        .with(spans::layer(spans, sampling))
        .with(records::layer(records, level));
    let subscriber = lines(registry, format, filter, terminal, writer);
    (subscriber, Some(exporter))
}

/// Log lines, beside what the registry has already.
fn lines<S, W>(
    registry: S,
    format: Format,
    filter: EnvFilter,
    terminal: bool,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = filter.and(
        filter_fn(|metadata| metadata.target() != trace::WITHIN)
            .with_max_level_hint(LevelFilter::TRACE),
    );
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let json = match format {
        Format::Json => true,
        Format::Pretty => false,
        Format::Auto => !terminal,
    };
    if json {
        let layer = layer
            .with_ansi(false)
            .fmt_fields(JsonFields::new())
            .event_format(FlatJson);
        Box::new(registry.with(layer.with_filter(filter)))
    } else {
        let layer = layer.compact().with_ansi(terminal);
        Box::new(registry.with(layer.with_filter(filter)))
    }
}

/// Reads a filter: `info`, `warn,box_service=debug`, `[request{tenant=acme}]=trace`.
///
/// # Errors
/// What can't be parsed; also a bare word that is no level, which would otherwise pass as the
/// name of a target and silence everything else.
pub fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    let refuse = |reason: String| {
        Err(TelemetryError::Filter {
            text: text.to_owned(),
            reason,
        })
    };
    let directives: Vec<&str> = text.split(',').map(str::trim).collect();
    for directive in &directives {
        let bare = !directive.contains(['=', '[', ']', '{', '}']);
        if bare && !is_level(directive) {
            return refuse(format!(
                "{directive:?} is none of off, error, warn, info, debug and trace (a target needs its level, as in sqlx=debug)"
            ));
        }
    }
    EnvFilter::builder()
        .parse(directives.join(","))
        .or_else(|problem| refuse(problem.to_string()))
}

fn is_level(word: &str) -> bool {
    // An empty word would be read as a level too: as `error`.
    !word.is_empty() && word.parse::<LevelFilter>().is_ok()
}

/// tracing-subscriber's own JSON nests spans, and writes a key twice where a field has its name.
struct FlatJson;

impl<S> FormatEvent<S, JsonFields> for FlatJson
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Map::new();
        for span in context
            .event_scope()
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            let extensions = span.extensions();
            let written = extensions
                .get::<FormattedFields<JsonFields>>()
                .and_then(|written| serde_json::from_str(&written.fields).ok());
            if let Some(Value::Object(mut of_span)) = written {
                fields.append(&mut of_span);
            }
        }
        event.record(&mut FieldsVisitor(&mut fields));

        // An event that came by way of `log` has its own target in a field.
        let target = match fields.remove("log.target") {
            Some(Value::String(target)) => target,
            _ => event.metadata().target().to_owned(),
        };
        for detail in ["log.module_path", "log.file", "log.line"] {
            fields.remove(detail);
        }

        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        write!(
            writer,
            r#"{{"timestamp":{},"level":"{}","target":{}"#,
            Value::String(timestamp),
            event.metadata().level(),
            Value::String(target),
        )?;
        let message = fields.remove("message");
        let message = message.map(|message| ("message".to_owned(), message));
        for (name, value) in message.into_iter().chain(fields) {
            if !matches!(name.as_str(), "timestamp" | "level" | "target") {
                write!(writer, ",{}:{value}", Value::String(name))?;
            }
        }
        writer.write_str("}\n")
    }
}

struct FieldsVisitor<'a>(&'a mut Map<String, Value>);

impl FieldsVisitor<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let name = field.name();
        let name = name.strip_prefix("r#").unwrap_or(name);
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for FieldsVisitor<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, level: &str, terminal: bool, events: impl FnOnce()) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let filter = filter(level).unwrap();
        let (subscriber, exporter) =
            subscriber(format, filter, terminal, move || writer.clone(), None);
        assert!(exporter.is_none());
        tracing::subscriber::with_default(subscriber, events);
        String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn log_lines_know_the_root_of_a_trace_and_nothing_within() {
        for format in [Format::Json, Format::Pretty] {
            let text = logged(format, "trace", false, || {
                let request =
                    tracing::info_span!(target: trace::ROOT, "request", request_id = "r-1");
                let _entered = request.enter();
                let within = trace::span_within!("database read", db.operation.name = "read");
                assert!(within.is_disabled());
                let _inside = within.enter();
                tracing::info!("told");
            });
            assert!(text.contains("r-1") && !text.contains("read"), "{text}");
        }
    }

    #[test]
    fn a_json_line_is_one_flat_object() {
        let text = logged(Format::Json, "info", true, || {
            let request = tracing::info_span!(
                "request",
                request_id = "r-1",
                status = tracing::field::Empty
            );
            let _entered = request.enter();
            request.record("status", 201);
            let object = tracing::info_span!("object", id = 7);
            let _inside = object.enter();
            tracing::warn!(level = "mine", bytes = 12_u64, late = true, id = 8, cause = %"a \"quoted\"\nline", "stored {}", "it");
            tracing::debug!("not this");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(text.matches("\"level\"").count(), 1, "{text}");
        let line: Map<String, Value> = serde_json::from_str(&text).unwrap();
        assert!(
            line.values()
                .all(|value| !value.is_object() && !value.is_array())
        );
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["target"], "box_service::telemetry::tests");
        assert_eq!(line["message"], "stored it");
        assert_eq!(line["request_id"], "r-1");
        assert_eq!(line["status"], 201);
        assert_eq!(line["id"], 8);
        assert_eq!(line["bytes"], 12);
        assert_eq!(line["late"], true);
        assert_eq!(line["cause"], "a \"quoted\"\nline");
        let timestamp = line["timestamp"].as_str().unwrap();
        assert!(timestamp.ends_with('Z'), "{timestamp}");
        assert!(
            crate::clock::Timestamp::parse(timestamp).is_some(),
            "{timestamp}"
        );
    }

    #[test]
    fn the_automatic_form_depends_on_the_terminal_and_so_do_colours() {
        let event = || tracing::info!(bytes = 12, "stored");
        let plain = logged(Format::Pretty, "info", false, event);
        assert!(
            plain.contains("stored") && plain.contains("bytes=12"),
            "{plain}"
        );
        assert!(!plain.contains('\u{1b}'), "{plain}");
        assert!(logged(Format::Pretty, "info", true, event).contains('\u{1b}'));
        assert!(logged(Format::Auto, "info", true, event).contains('\u{1b}'));
        assert!(logged(Format::Auto, "info", false, event).starts_with('{'));
    }

    #[test]
    fn a_filter_by_target_and_span_is_obeyed() {
        let text = logged(Format::Json, "error,box_service=debug", false, || {
            tracing::debug!("ours");
            tracing::info!(target: "sqlx", "theirs");
        });
        assert!(text.contains("ours") && !text.contains("theirs"), "{text}");
        assert!(filter("[request{tenant=a}]=trace,warn").is_ok());
        let spaced = logged(Format::Json, "error, sqlx=debug", false, || {
            tracing::debug!(target: "sqlx", "theirs");
        });
        assert!(spaced.contains("theirs"), "{spaced}");
    }

    #[test]
    fn what_is_no_filter_is_refused_and_named() {
        for text in ["", "verbose", "info,", "info,sqlx", "sqlx=loud", "inf0"] {
            let error = filter(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
        let error = filter("info,verbose").unwrap_err().to_string();
        assert!(error.contains("\"verbose\" is none of"), "{error}");
    }

    #[test]
    fn formats_are_called_by_their_names() {
        for format in Format::ALL {
            assert_eq!(Format::from_name(format.name()), Some(format));
        }
        assert_eq!(Format::from_name("JSON"), None);
    }
}
