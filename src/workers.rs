//! Loops that call the domain. Each tick is a whole, idempotent round; a failed one is left to the next.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::Domain;

mod audit;
mod hasher;
mod importer;
mod lifecycle;

pub use audit::auditor;
pub use hasher::hasher;
pub use importer::importer;
pub use lifecycle::lifecycle;

/// Sweeps expired files and the trash, and reaps dead objects, every `interval` and whenever an object died.
pub async fn reaper(domain: Domain, interval: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {
                if let Err(error) = domain.sweep().await {
                    tracing::warn!(%error, "files that are due could not be removed; the next round tries again");
                }
            }
            () = domain.died.notified() => {}
        }
        if let Err(error) = domain.reap().await {
            domain.metrics.reaper.failures.inc();
            tracing::warn!(%error, "the reaper's round failed; the next one tries again");
        }
    }
}

/// How often uses of links are written: what a crash may lose. A second's worth at once would keep the
/// look-ups of other links waiting.
const USES: Duration = Duration::from_millis(100);

/// How long after it broke off the watch of other replicas' changes is begun again.
const WATCH: Duration = Duration::from_secs(1);

/// Writes the uses of links, and follows what other replicas change.
pub async fn links(domain: Domain, stop: CancellationToken) {
    let write = async {
        loop {
            tokio::time::sleep(USES).await;
            if let Err(error) = domain.link_uses_flush().await {
                tracing::warn!(%error, "uses of links could not be written; the next round tries again");
            }
        }
    };
    let follow = async {
        loop {
            if let Err(error) = domain.link_changes_watch().await {
                tracing::warn!(%error, "what other replicas change of links is not told now; links are believed for 5 s");
            }
            tokio::time::sleep(WATCH).await;
        }
    };
    let both = async { tokio::join!(write, follow) };
    tokio::select! {
        () = stop.cancelled() => {}
        _ = both => {}
    }
}

/// Between two generations: how old a restored backup may be at least and be told from the store.
const HOUR: Duration = Duration::from_secs(3_600);

/// How often a service whose database is older than the store looks whether that was put right.
const LOOK: Duration = Duration::from_secs(10);

/// Raises the generation every hour.
pub async fn generation(domain: Domain, stop: CancellationToken) {
    loop {
        let wait = if domain.is_older() { LOOK } else { HOUR };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        if let Err(error) = domain.generation_raise().await {
            tracing::warn!(%error, "the generation could not be raised; the next round tries again");
        }
    }
}
