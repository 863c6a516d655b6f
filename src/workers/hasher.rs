//! Hashes objects whose bytes did not come through the service.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::Domain;

/// Between two looks where nothing waited, and after a failure.
const LOOK: Duration = Duration::from_secs(2);

/// One object after the other, until `stop`.
pub async fn hasher(domain: Domain, stop: CancellationToken) {
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return,
            next = domain.hash_next() => next,
        };
        match next {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => {
                domain.metrics.hasher.failures.inc();
                tracing::warn!(%error, "an object could not be hashed; it is tried again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
            () = domain.unhashed.notified() => {}
        }
    }
}
