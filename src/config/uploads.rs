//! `[uploads]`: uploads that take more than one request.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units::Size;
use super::{Violation, leaf, positive};

/// What S3 takes in one request.
const LARGEST_SINGLE: u64 = 5 << 30;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uploads {
    /// How long an upload waits for its next bytes, and how long one that has ended can be asked
    /// about; above 0.
    #[serde(with = "leaf")]
    pub expiry: Duration,
    /// Up to how many bytes a direct upload is one request to the store; above, it comes in parts. At
    /// most 5 GiB.
    #[serde(with = "leaf")]
    pub single_max: Size,
}

impl Default for Uploads {
    fn default() -> Self {
        Self {
            expiry: Duration::from_secs(86_400),
            single_max: Size::from_bytes(100 << 20),
        }
    }
}

impl Uploads {
    pub(super) fn check(&self) -> Result<(), Violation> {
        positive("uploads.expiry", self.expiry)?;
        if self.single_max.bytes() > LARGEST_SINGLE {
            return Err(Violation::new("uploads.single_max", "must be at most 5GiB"));
        }
        Ok(())
    }
}
