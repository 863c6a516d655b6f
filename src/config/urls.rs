//! `[urls]`: URLs that let their holder do one thing with one file.

use serde::{Deserialize, Serialize};

use super::leaf;
use super::secret::SigningSecrets;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Urls {
    /// What they are signed with; unset, what tokens by HS256 are.
    #[serde(with = "leaf")]
    pub secret: Option<SigningSecrets>,
}
