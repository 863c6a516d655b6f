//! Lets files go by the rules of the configuration.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::Domain;

/// A round every `interval`. A stop breaks it off: each file goes on its own.
pub async fn lifecycle(domain: Domain, interval: Duration, stop: CancellationToken) {
    let rounds = async {
        loop {
            tokio::time::sleep(interval).await;
            match domain.lifecycle_round().await {
                Ok(gone) => {
                    let seconds = domain.clock.now().as_unix_millis() as f64 / 1_000.0;
                    domain.metrics.lifecycle.last_run.set(seconds);
                    if gone > 0 {
                        tracing::info!(files = gone, "files went by the rules of their lifecycle");
                    }
                }
                Err(error) => {
                    domain.metrics.lifecycle.failures.inc();
                    tracing::warn!(%error, "a round of the lifecycle failed; the next one tries again");
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = rounds => {}
    }
}
