//! Files that went by rules.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::{Labels, Level, Register};

pub struct Lifecycle {
    trashed: Counter,
    expired: Counter,
    /// Rounds that failed.
    pub failures: Counter,
    /// Of the last round that went through, in seconds since 1970; 0: there was none yet.
    pub last_run: Level,
}

impl Lifecycle {
    pub(super) fn register(at: &mut Register<'_>) -> Self {
        let files: Family<Labels<1>, Counter> = at.add(
            "box_lifecycle_files",
            "Files that this process let go by a rule",
        );
        Self {
            trashed: files.get_or_create_owned(&[("action", "trashed")]),
            expired: files.get_or_create_owned(&[("action", "expired")]),
            failures: at.add("box_lifecycle_failures", "Rounds that failed"),
            last_run: at.add(
                "box_lifecycle_last_run_timestamp_seconds",
                "When the last round of this process went through",
            ),
        }
    }

    /// Those that went for good, or to the trash.
    pub fn of(&self, permanent: bool) -> &Counter {
        if permanent {
            &self.expired
        } else {
            &self.trashed
        }
    }
}
