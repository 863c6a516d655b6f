//! `[uploads]`: uploads that take more than one request.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Violation, leaf, positive};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uploads {
    /// How long an upload waits for its next bytes, and how long one that has ended can be asked
    /// about; above 0.
    #[serde(with = "leaf")]
    pub expiry: Duration,
}

impl Default for Uploads {
    fn default() -> Self {
        Self {
            expiry: Duration::from_secs(86_400),
        }
    }
}

impl Uploads {
    pub(super) fn check(&self) -> Result<(), Violation> {
        positive("uploads.expiry", self.expiry)
    }
}
