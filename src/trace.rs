//! Spans of traces: what begins one, what belongs to it, and how it is carried on.
//!
//! Where traces are not handed over, nobody takes these spans, and to ask for one is to look at a flag.
//! What is recorded is words of this program, numbers and ids: no names of files, no slugs, no queries, nothing of
//! what a statement or a request holds.

use opentelemetry::Context;
use opentelemetry::trace::{
    FutureExt, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::error::{Error, Kind};

/// The target of spans that may begin a trace: a request, an item of an import. Log lines have their fields.
pub const ROOT: &str = "box_service::trace";

/// The target of those that are made only within one that is recorded. Log lines don't know of them.
pub const WITHIN: &str = "box_service::trace::within";

/// What stands in `traceparent` (W3C Trace Context, section 3.2).
pub const TRACEPARENT: &str = "traceparent";

/// The longest `tracestate` that is passed on: what the specification wants to be passed on at least (section 3.3.1.5).
const TRACESTATE: usize = 512;

/// A span of what is done within another one. It ends when it is dropped.
macro_rules! span_within {
    ($name:expr, $($field:tt)*) => {
        tracing::info_span!(
            target: $crate::trace::WITHIN,
            $name,
            otel.status_code = tracing::field::Empty,
            "error.type" = tracing::field::Empty,
            $($field)*
        )
    };
}
pub(crate) use span_within;

/// Whether what is done now belongs to a trace that is recorded.
pub fn is_recorded() -> bool {
    Context::map_current(|current| current.span().span_context().is_sampled())
}

/// What a request says of the trace that it is a part of: version, trace id, parent id and flags, in
/// lower-case hexadecimal digits.
pub fn caller(traceparent: &str, tracestate: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let sound = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && hex(parent, 16)
        && hex(flags, 2)
        && (version != "00" || parts.next().is_none());
    if !sound {
        return None;
    }
    let state = (tracestate.len() <= TRACESTATE)
        .then(|| tracestate.parse::<TraceState>().ok())
        .flatten();
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(parent).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        state.unwrap_or_default(),
    );
    context.is_valid().then_some(context)
}

/// Makes a span that has only just been made a part of the caller's trace.
pub fn follow(span: &Span, caller: SpanContext) {
    // There is no one to tell where traces are not handed over.
    let _ = span.set_parent(Context::new().with_remote_span_context(caller));
}

/// The id of the trace that a span belongs to.
pub fn id(span: &Span) -> Option<String> {
    let context = span.context();
    let id = context.span().span_context().trace_id();
    (id != TraceId::INVALID).then(|| id.to_string())
}

/// What tells the one that is asked which span asks; None where that is not recorded.
pub fn traceparent(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_sampled().then(|| {
        let (trace, span) = (context.trace_id(), context.span_id());
        format!("00-{trace}-{span}-{:02x}", context.trace_flags().to_u8())
    })
}

/// Records what went wrong: the kind of it, and nothing that it says. What the caller did wrong is no error of the span.
pub fn failed(span: &Span, error: &Error) {
    if span.is_disabled() {
        return;
    }
    let kind = error.kind();
    span.record("error.type", tracing::field::debug(kind));
    if matches!(kind, Kind::Internal | Kind::Unavailable) {
        span.record("otel.status_code", "ERROR");
    }
}

/// Does the work as a part of what is done now, on another task too.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    work.with_current_context().in_current_span()
}

/// Does the work within a span that log lines don't know of.
pub async fn within<F: Future>(span: Span, work: F) -> F::Output {
    if span.is_disabled() {
        return work.await;
    }
    let context = span.context();
    work.with_context(context).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_caller_is_known_by_a_sound_traceparent() {
        let of = |text: &str| caller(text, "");
        let sound = of(&format!("00-{TRACE}-00f067aa0ba902b7-01")).unwrap();
        assert_eq!(sound.trace_id().to_string(), TRACE);
        assert_eq!(sound.span_id().to_string(), "00f067aa0ba902b7");
        assert!(sound.is_remote() && sound.is_sampled());
        assert!(
            !of(&format!("00-{TRACE}-00f067aa0ba902b7-00"))
                .unwrap()
                .is_sampled()
        );
        // Of a version to come, more may follow.
        assert!(of(&format!("01-{TRACE}-00f067aa0ba902b7-01-more")).is_some());
        for odd in [
            String::new(),
            "00".into(),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}0-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-é"),
        ] {
            assert_eq!(of(&odd), None, "{odd}");
        }
    }

    #[test]
    fn a_state_is_passed_on_unless_it_is_odd_or_long() {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let state = |text: &str| caller(&parent, text).unwrap().trace_state().header();
        assert_eq!(state("vendor=1,other=2"), "vendor=1,other=2");
        assert_eq!(state("no pair"), "");
        assert_eq!(state(&format!("vendor={}", "x".repeat(600))), "");
    }

    #[test]
    fn without_a_collector_there_are_no_spans() {
        let span = span_within!("anything", otel.kind = "client");
        assert!(span.is_disabled() && !is_recorded());
        assert_eq!((id(&span), traceparent(&span)), (None, None));
    }
}
