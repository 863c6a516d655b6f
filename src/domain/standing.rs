//! How things stand, for who watches over the service.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::metrics::{OfDatabase, Standing};

use super::Domain;

/// Who asks gives up in not much more.
const TIMEOUT: Duration = Duration::from_secs(3);

impl Domain {
    /// What only the database and its pool know. Answers in any case, and soon.
    pub async fn standing(&self) -> Standing {
        let connections = self.metadata.connections();
        let of_database = tokio::time::timeout(TIMEOUT, self.of_database())
            .await
            .unwrap_or_else(|_| Err(Error::unavailable("no answer in time")));
        Standing {
            connections,
            of_database: of_database
                .inspect_err(|error| tracing::warn!(%error, "some metrics can't be had"))
                .ok(),
        }
    }

    async fn of_database(&self) -> Result<OfDatabase> {
        let mut reader = self.metadata.reader().await?;
        let mut conn = reader.conn();
        let (imports_running, items_pending, items_fetching, first) =
            conn.import_standing().await?;
        let now = self.clock.now();
        let age = |since: Option<Timestamp>| since.map_or(0.0, |at| now.since(at).as_secs_f64());
        let pending = conn.import_oldest_pending().await?;
        let (reaper_due, overdue) = conn.objects_due(now).await?;
        let (unhashed, unhashed_since) = conn.objects_unhashed().await?;
        let unsealed = conn.audit_oldest_unsealed().await?;
        let oldest = first.map_or(Duration::ZERO, |until| {
            // It was made, or renewed, a lease before it runs out.
            now.plus(self.rules.lease).since(until)
        });
        Ok(OfDatabase {
            imports_running,
            items_pending,
            items_fetching,
            oldest_claim_s: oldest.as_secs_f64(),
            oldest_pending_s: age(pending),
            unhashed,
            unhashed_lag_s: age(unhashed_since),
            audit_lag_s: age(unsealed),
            reaper_due,
            reaper_lag_s: age(overdue),
        })
    }
}
