//! Seals events, writes accesses that were noted, and removes what is too old.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::domain::Domain;
use crate::error::Result;

use super::HOUR;

/// Between two batches of noted accesses: with their size, the most that is written.
const NOTED: Duration = Duration::from_secs(1);

/// Every `interval`, until `stop`; then writes what was noted last.
pub async fn auditor(domain: Domain, interval: Duration, stop: CancellationToken) {
    let mut seal = tokio::time::interval(interval);
    let mut noted = tokio::time::interval(NOTED);
    let mut hourly = tokio::time::interval_at(Instant::now() + HOUR, HOUR);
    for ticks in [&mut seal, &mut noted, &mut hourly] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = noted.tick() => told(&domain, domain.access_write().await.map(drop)),
            _ = seal.tick() => told(&domain, domain.audit_seal().await.map(drop)),
            _ = hourly.tick() => {
                told(&domain, domain.audit_sweep().await.map(drop));
                let since = domain.clock.now().minus(HOUR);
                told(&domain, domain.audit_heads_log(since).await);
            }
        }
    }
    told(&domain, domain.access_write().await.map(drop));
}

fn told(domain: &Domain, outcome: Result<()>) {
    if let Err(error) = outcome {
        domain.metrics.audit.failures.inc();
        tracing::warn!(%error, "a round of the audit failed; the next one tries again");
    }
}
