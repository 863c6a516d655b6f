//! Whose database and whose store this is: each records the other, and a service that was
//! configured for another one refuses to start.

use bytes::Bytes;
use futures::FutureExt;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::id::{ObjectId, Tenant};

use super::Domain;

#[derive(Serialize, Deserialize, PartialEq, Eq, Debug)]
struct Marker {
    environment: String,
    database_id: Uuid,
}

impl Domain {
    /// Claims a new database and a new store for `environment`; checks those that were claimed.
    ///
    /// # Errors
    /// A text for the operator that says what belongs to whom.
    pub async fn deployment_claim(&self, environment: &str) -> Result<()> {
        let fresh = ObjectId::new(self.clock.now());
        let input = (environment.to_owned(), *fresh.as_uuid());
        let deployment = self
            .metadata
            .write(input, |tx, (environment, id)| {
                async move { tx.deployment_claim(environment, *id).await }.boxed()
            })
            .await?;
        if deployment.environment != environment {
            return Err(Error::internal(format!(
                "the database belongs to the environment {:?}, and the configuration says {environment:?}",
                deployment.environment
            )));
        }
        let ours = Marker {
            environment: environment.to_owned(),
            database_id: deployment.database_id,
        };
        let text = serde_json::to_vec(&ours).map_err(Error::internal)?;
        let mut found = self.objects.marker_get().await?;
        if found.is_none() {
            if deployment.marked {
                return Err(Error::internal(
                    "the store has no marker of this database: it is another store, or was emptied",
                ));
            }
            // The local store writes it aside first, under this id: a start that dies there leaves a
            // name like any other, and a row by which the reaper finds it.
            let now = self.clock.now();
            let delete_at = now.plus(self.rules.request_horizon);
            self.metadata
                .write(Tenant::unknown(), move |tx, tenant| {
                    async move { tx.object_quarantine(fresh, tenant, now, delete_at).await }.boxed()
                })
                .await?;
            self.objects.marker_create(fresh, Bytes::from(text)).await?;
            self.metadata
                .write((), move |tx, ()| {
                    async move { tx.object_forget(fresh, delete_at).await }.boxed()
                })
                .await?;
            // Read back: another replica may have been first.
            found = self.objects.marker_get().await?;
        }
        let marker: Option<Marker> = found.and_then(|text| serde_json::from_slice(&text).ok());
        if marker.as_ref() != Some(&ours) {
            return Err(Error::internal(format!(
                "the store belongs to another database or environment: it says {marker:?}, this is {ours:?}"
            )));
        }
        if !deployment.marked {
            self.metadata
                .write((), |tx, ()| {
                    async move { tx.deployment_mark().await }.boxed()
                })
                .await?;
        }
        Ok(())
    }
}
