//! `[archive]`: what may be fetched as one ZIP.

use serde::{Deserialize, Serialize};

use super::leaf;
use super::units::Size;
use super::{Violation, at_least_one};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Archive {
    /// Of one archive; 1 to 1,000,000.
    #[serde(with = "leaf")]
    pub max_files: u32,
    /// The contents of one archive together.
    #[serde(with = "leaf")]
    pub max_bytes: Size,
    /// How many one tenant is sent by one process at the same time; at least 1.
    #[serde(with = "leaf")]
    pub per_tenant: u32,
}

/// Names and places of all files are in memory while they are sent.
const MOST_FILES: u32 = 1_000_000;

impl Default for Archive {
    fn default() -> Self {
        Self {
            max_files: 10_000,
            max_bytes: Size::from_bytes(1 << 40),
            per_tenant: 2,
        }
    }
}

impl Archive {
    pub(super) fn check(&self) -> Result<(), Violation> {
        if !(1..=MOST_FILES).contains(&self.max_files) {
            let problem = format!("must be 1 to {MOST_FILES}");
            return Err(Violation::new("archive.max_files", problem));
        }
        if self.max_bytes.bytes() > 1 << 60 {
            return Err(Violation::new("archive.max_bytes", "must be at most 1 EiB"));
        }
        at_least_one("archive.per_tenant", self.per_tenant)
    }
}
