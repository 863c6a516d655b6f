//! Spans of this process, as the SDK has them, on their way to the collector.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::{SpanBuilder, SpanKind, Tracer, TracerProvider};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanProcessor,
};
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, dynamic_filter_fn};
use tracing_subscriber::registry::LookupSpan;

use crate::trace;

use super::otlp::Queue;

/// Takes the spans of [`trace`], and no events: errors go where log records go.
pub(super) fn layer<S>(queue: Queue<SpanData>, sampling: f64) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let root = Sampler::TraceIdRatioBased(sampling);
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder_empty().build())
        .with_sampler(Sampler::ParentBased(Box::new(root)))
        .with_span_processor(Queued(queue))
        .build();
    OpenTelemetryLayer::new(Kinded(provider.tracer(env!("CARGO_PKG_NAME"))))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(
            dynamic_filter_fn(|metadata, _| is_wanted(metadata))
                .with_callsite_filter(interest)
                .with_max_level_hint(LevelFilter::INFO),
        )
}

fn interest(metadata: &'static Metadata<'static>) -> Interest {
    match metadata.target() {
        trace::ROOT if metadata.is_span() => Interest::always(),
        trace::WITHIN if metadata.is_span() => Interest::sometimes(),
        _ => Interest::never(),
    }
}

fn is_wanted(metadata: &Metadata<'_>) -> bool {
    match metadata.target() {
        trace::ROOT => metadata.is_span(),
        // What no trace asks for, such as the rounds of the reaper, would be traces of one span.
        trace::WITHIN => metadata.is_span() && trace::is_recorded(),
        _ => false,
    }
}

#[derive(Debug)]
struct Queued(Queue<SpanData>);

impl SpanProcessor for Queued {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.0.put(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// A kind is a field of a span elsewhere; those that log lines know of must not have such a field.
struct Kinded(SdkTracer);

impl Tracer for Kinded {
    type Span = Span;

    fn build_with_context(&self, mut builder: SpanBuilder, parent: &Context) -> Span {
        if builder.span_kind.is_none() {
            builder.span_kind = match &*builder.name {
                "request" => Some(SpanKind::Server),
                "import item" => Some(SpanKind::Consumer),
                _ => None,
            };
        }
        self.0.build_with_context(builder, parent)
    }
}
