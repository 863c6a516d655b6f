//! Audit: what was sealed, what waits for it, and what was not noted.

use prometheus_client::metrics::counter::Counter;

use super::{Gauge, Level, Register};

pub struct Audit {
    pub sealed: Counter,
    /// Rounds of the sealer, of retention and of writing what was noted, that failed.
    pub failures: Counter,
    /// Accesses that were not noted.
    pub dropped: Counter,
    /// Accesses that were noted and are not written yet.
    pub noted: Gauge,
    pub(super) lag: Level,
}

impl Audit {
    pub(super) fn register(at: &mut Register<'_>) -> Self {
        Self {
            sealed: at.add("box_audit_events_sealed", "Events that this process sealed"),
            failures: at.add("box_audit_failures", "Rounds that failed"),
            dropped: at.add(
                "box_audit_access_dropped",
                "Refused and signed accesses that were not noted",
            ),
            noted: at.add(
                "box_audit_access_waiting",
                "Accesses that were noted and are not written yet",
            ),
            lag: at.add(
                "box_audit_lag_seconds",
                "The age of the oldest event that is not sealed",
            ),
        }
    }
}
