//! Seals events, writes accesses that were noted, and removes what is too old.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::Domain;
use crate::error::Result;

use super::HOUR;

/// Between two batches of noted accesses: with their size, the most that is written.
const NOTED: Duration = Duration::from_secs(1);

/// Every `interval`, until `stop`; then writes what was noted last.
pub async fn auditor(domain: Domain, interval: Duration, stop: CancellationToken) {
    // Sealing what has gathered for long may take its time: nobody else waits for it, and a stop ends it. A batch of notes is
    // written to its end, for they are in no other place.
    tokio::join!(
        note(&domain, &stop),
        stop.run_until_cancelled(seal(&domain, interval)),
    );
    loop {
        match domain.access_write().await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return told(&domain, Err(error)),
        }
    }
}

async fn note(domain: &Domain, stop: &CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(NOTED))
        .await
        .is_some()
    {
        told(domain, domain.access_write().await.map(drop));
    }
}

async fn seal(domain: &Domain, interval: Duration) {
    let mut swept = Instant::now();
    loop {
        tokio::time::sleep(interval).await;
        told(domain, domain.audit_seal().await.map(drop));
        if swept.elapsed() >= HOUR {
            swept = Instant::now();
            told(domain, domain.audit_sweep().await.map(drop));
            let since = domain.clock.now().minus(HOUR);
            told(domain, domain.audit_heads_log(since).await);
        }
    }
}

fn told(domain: &Domain, outcome: Result<()>) {
    if let Err(error) = outcome {
        domain.metrics.audit.failures.inc();
        tracing::warn!(%error, "a round of the audit failed; the next one tries again");
    }
}
