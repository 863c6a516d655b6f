//! `[imports]`: what bulk ingestion may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::leaf;
use super::units::Size;
use super::{Violation, at_least_one};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Imports {
    /// Fetches of one process at the same time; 1 to 1,000.
    #[serde(with = "leaf")]
    pub concurrency: u32,
    /// Of them, from one host; at least 1.
    #[serde(with = "leaf")]
    pub per_host: u32,
    /// Of one import; at least 1.
    #[serde(with = "leaf")]
    pub max_items: u32,
    /// Of one item, decoded; `limits.max_file_size` holds as well.
    #[serde(with = "leaf")]
    pub max_file_size: Size,
    /// How often an item is tried whose failure may pass; at least 1.
    #[serde(with = "leaf")]
    pub attempts: u32,
    /// How long an import can be looked at after it has ended; at least a day, for as long an
    /// `Idempotency-Key` leads to it.
    #[serde(with = "leaf")]
    pub keep: Duration,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for Imports {
    fn default() -> Self {
        Self {
            concurrency: 100,
            per_host: 16,
            max_items: 100_000,
            max_file_size: Size::from_bytes(5 << 30),
            attempts: 5,
            keep: DAY * 30,
        }
    }
}

impl Imports {
    pub(super) fn check(&self) -> Result<(), Violation> {
        if !(1..=1_000).contains(&self.concurrency) {
            return Err(Violation::new("imports.concurrency", "must be 1 to 1000"));
        }
        at_least_one("imports.per_host", self.per_host)?;
        at_least_one("imports.max_items", self.max_items)?;
        at_least_one("imports.attempts", self.attempts)?;
        if self.keep < DAY {
            return Err(Violation::new("imports.keep", "must be at least 1d"));
        }
        Ok(())
    }
}
