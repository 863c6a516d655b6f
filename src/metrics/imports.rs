//! Imports: what became of items, and what waits.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::{Gauge, Labels, Level, Register};

/// Every reason why an attempt at an item fails, as reports name them.
const ERRORS: [&str; 14] = [
    "blocked-address",
    "dns",
    "connect",
    "tls",
    "timeout",
    "http-status",
    "too-large",
    "size-mismatch",
    "checksum-mismatch",
    "content-type",
    "redirects",
    "bad-url",
    "quota",
    "storage",
];

pub struct Imports {
    /// Items that this process is fetching.
    pub active: Gauge,
    pub done: Counter,
    pub failed: Counter,
    pub cancelled: Counter,
    /// Attempts that failed and are made again.
    pub retries: Counter,
    /// Of the files that were made.
    pub bytes: Counter,
    errors: [Counter; ERRORS.len()],
    pub(super) running: Level,
    pub(super) pending: Level,
    pub(super) fetching: Level,
    pub(super) oldest_claim: Level,
    pub(super) oldest_pending: Level,
}

impl Imports {
    pub(super) fn register(at: &mut Register<'_>) -> Self {
        let ended: Family<Labels<1>, Counter> =
            at.add("box_import_items", "Items that have ended in this process");
        let ended = |outcome| ended.get_or_create_owned(&[("outcome", outcome)]);
        let errors: Family<Labels<1>, Counter> =
            at.add("box_import_errors", "Attempts at items that failed");
        let queue: Family<Labels<1>, Level> =
            at.add("box_import_queue_items", "Items of running imports");
        let queue = |state| queue.get_or_create_owned(&[("state", state)]);
        Self {
            active: at.add("box_import_items_active", "Items at work in this process"),
            done: ended("done"),
            failed: ended("failed"),
            cancelled: ended("cancelled"),
            retries: at.add(
                "box_import_retries",
                "Attempts at items that failed and are made again",
            ),
            bytes: at.add("box_import_bytes", "Bytes of items that became files"),
            errors: ERRORS.map(|error| errors.get_or_create_owned(&[("error", error)])),
            running: at.add("box_imports_running", "Imports that are running"),
            pending: queue("pending"),
            fetching: queue("fetching"),
            oldest_claim: at.add(
                "box_import_oldest_claim_age_seconds",
                "Since the oldest claim of an item was made or renewed",
            ),
            oldest_pending: at.add(
                "box_import_oldest_pending_age_seconds",
                "Since the item that waits the longest may be claimed",
            ),
        }
    }

    /// Counts a failed attempt by its reason.
    pub fn error(&self, name: &str) {
        if let Some(index) = ERRORS.iter().position(|error| *error == name) {
            self.errors[index].inc();
        }
    }
}
