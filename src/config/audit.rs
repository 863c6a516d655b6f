//! `[audit]`: what happened, for how long it can be told, and what vouches for it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::leaf;
use super::secret::SigningSecrets;
use super::{Violation, positive};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// What the ends of the chains are signed with; unset, what tokens by HS256 are.
    #[serde(with = "leaf")]
    pub key: Option<SigningSecrets>,
    /// For how long events are kept, at least a day; None: for ever.
    #[serde(with = "leaf")]
    pub keep: Option<Duration>,
    /// Whether access that was refused and access by signed URLs is noted.
    #[serde(with = "leaf")]
    pub access: bool,
    /// The time between two looks for what is to be sealed; above 0.
    #[serde(with = "leaf")]
    pub interval: Duration,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            key: None,
            keep: None,
            access: true,
            interval: Duration::from_secs(1),
        }
    }
}

const DAY: Duration = Duration::from_secs(86_400);

impl Audit {
    pub(super) fn check(&self) -> Result<(), Violation> {
        positive("audit.interval", self.interval)?;
        if self.keep.is_some_and(|keep| keep < DAY) {
            return Err(Violation::new("audit.keep", "must be at least 1d"));
        }
        Ok(())
    }
}
