//! Whether the store keeps what a signed request wrote from being written over: else whoever holds the URL
//! could change a file after it was made.

use crate::error::Result;

use super::super::super::Domain;

impl Domain {
    /// Whether a direct upload may be one signed request: the store refuses a second one then. It is tried
    /// once in a process. Where it does not, all come in parts, which reach their key by the service alone.
    ///
    /// # Errors
    /// Where it can't be found out now.
    pub async fn takes_signed_puts(&self) -> Result<bool> {
        let known = self.signed_puts.get_or_try_init(|| async {
            // Where the service takes the bytes itself, it sees to it.
            let refused = self.probe_signed_puts().await?.unwrap_or(true);
            if !refused {
                tracing::warn!(
                    "the store lets a signed PUT write over what is there: all direct uploads come in parts"
                );
            }
            Ok(refused)
        });
        known.await.copied()
    }
}
