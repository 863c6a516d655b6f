//! Objects whose bytes did not come through the service, and their hashes.

use prometheus_client::metrics::counter::Counter;

use super::{Level, Register};

pub struct Hasher {
    /// Looks, and objects, that failed; they are tried again.
    pub failures: Counter,
    pub(super) waiting: Level,
    pub(super) lag: Level,
}

impl Hasher {
    pub(super) fn register(at: &mut Register<'_>) -> Self {
        Self {
            failures: at.add(
                "box_hasher_failures",
                "Objects that could not be hashed, and looks for them that failed",
            ),
            waiting: at.add("box_hasher_waiting", "Objects that are not hashed yet"),
            lag: at.add(
                "box_hasher_lag_seconds",
                "Since the longest waiting of them may be hashed",
            ),
        }
    }
}
