//! Spans and log records for a collector: how many it took, and how many are lost.
//!
//! They are the process's, not a service's: logs and traces are set up before there is one.

use std::sync::LazyLock;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::{Labels, Register};

/// What is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Spans,
    Logs,
}

/// The two counters of a signal.
#[derive(Clone, Debug)]
pub struct HandedOver {
    pub exported: Counter,
    /// The queue was full, or the collector would not have them, or not for too long.
    pub dropped: Counter,
}

#[derive(Default)]
struct All {
    exported: Family<Labels<1>, Counter>,
    dropped: Family<Labels<1>, Counter>,
}

static ALL: LazyLock<All> = LazyLock::new(All::default);

pub fn handed_over(signal: Signal) -> HandedOver {
    let signal = match signal {
        Signal::Spans => "spans",
        Signal::Logs => "logs",
    };
    HandedOver {
        exported: ALL.exported.get_or_create_owned(&[("signal", signal)]),
        dropped: ALL.dropped.get_or_create_owned(&[("signal", signal)]),
    }
}

pub(super) fn register(at: &mut Register<'_>) {
    for signal in [Signal::Spans, Signal::Logs] {
        handed_over(signal);
    }
    at.put(
        "box_telemetry_exported",
        "Spans and log records that a collector took",
        &ALL.exported,
    );
    at.put(
        "box_telemetry_dropped",
        "Spans and log records that no collector has",
        &ALL.dropped,
    );
}
