//! Whose database and whose store this is: each records the other, and a service that was
//! configured for another one refuses to start. And whether they are of one time: a database that was
//! restored from a backup is behind the generation that the store's marker says.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::FutureExt;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::id::{ObjectId, Tenant};
use crate::objects::Marked;

use super::Domain;

/// How often a marker that others raise at the same time is written.
const ATTEMPTS: u32 = 10;

#[derive(Clone, Serialize, Deserialize, PartialEq, Eq, Debug)]
struct Marker {
    environment: String,
    database_id: Uuid,
    /// Missing in what an earlier version wrote.
    #[serde(default)]
    generation: i64,
}

impl Marker {
    fn read(marked: &Marked) -> Option<Self> {
        serde_json::from_slice(&marked.content).ok()
    }

    fn text(&self) -> Result<Bytes> {
        serde_json::to_vec(self)
            .map(Bytes::from)
            .map_err(Error::internal)
    }
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
            generation: 0,
        };
        let mut found = self.objects.marker_get().await?;
        if found.is_none() {
            if deployment.marked {
                return Err(Error::internal(
                    "the store has no marker of this database: it is another store, or was emptied",
                ));
            }
            self.marker_write(None, &ours).await?;
            // Read back: another replica may have been first.
            found = self.objects.marker_get().await?;
        }
        let marker = found.as_ref().and_then(Marker::read);
        let Some(marker) = marker.filter(|marker| {
            marker.environment == ours.environment && marker.database_id == ours.database_id
        }) else {
            let found = found.map(|found| String::from_utf8_lossy(&found.content).into_owned());
            return Err(Error::internal(format!(
                "the store belongs to another database or environment: it says {found:?}, this is {ours:?}"
            )));
        };
        if !deployment.marked {
            self.metadata
                .write((), |tx, ()| {
                    async move { tx.deployment_mark().await }.boxed()
                })
                .await?;
        }
        if marker.generation > deployment.raising {
            self.generation_compare().await?;
        }
        Ok(())
    }

    /// Whether the database is older than the store: restored from a backup. Its rows name keys that
    /// are gone, and know nothing of newer ones, so that until `box fsck --after-restore` nothing is
    /// deleted for their sake.
    pub fn is_older(&self) -> bool {
        self.older.load(Ordering::SeqCst)
    }

    /// Compares the database with the store's marker; the marker's generation.
    pub(super) async fn generation_compare(&self) -> Result<i64> {
        let stored = self.marker().await?.1.generation;
        // Asked behind the marker: meanwhile others may raise both, this one first.
        let raising = self
            .metadata
            .reader()
            .await?
            .conn()
            .deployment_raising()
            .await?;
        self.set_older(stored > raising);
        Ok(stored)
    }

    fn set_older(&self, older: bool) {
        match (self.older.swap(older, Ordering::SeqCst), older) {
            (false, true) => tracing::error!(
                "the database is older than the store: nothing is deleted, and the service is not ready, until `box fsck --after-restore` was run"
            ),
            (true, false) => tracing::info!("the database is as old as the store again"),
            _ => {}
        }
    }

    /// Raises the generation, unless the database is behind it: in the store first, then in the
    /// database, which has said before what it is about to do. See `docs/consistency.md`.
    pub async fn generation_raise(&self) -> Result<()> {
        let (mut marked, mut marker) = self.marker().await?;
        let stored = marker.generation;
        let next = self
            .metadata
            .write((), move |tx, ()| {
                async move { tx.deployment_raise(stored).await }.boxed()
            })
            .await?;
        self.set_older(next.is_none());
        let Some(next) = next else {
            return Ok(());
        };
        let mut attempts = 0..ATTEMPTS;
        while marker.generation < next {
            if attempts.next().is_none() {
                return Err(Error::unavailable("the store's marker can't be raised"));
            }
            let raised = Marker {
                generation: next,
                ..marker
            };
            self.marker_write(Some(marked), &raised).await?;
            // Read back: another replica may have been first.
            (marked, marker) = self.marker().await?;
        }
        self.metadata
            .write((), move |tx, ()| {
                async move { tx.deployment_raised(next).await }.boxed()
            })
            .await
    }

    /// The database is as old as the store's marker from here on.
    pub(super) async fn generation_catch_up(&self, stored: i64) -> Result<()> {
        self.metadata
            .write((), move |tx, ()| {
                async move { tx.deployment_catch_up(stored).await }.boxed()
            })
            .await?;
        self.set_older(false);
        Ok(())
    }

    async fn marker(&self) -> Result<(Marked, Marker)> {
        let marked = self.objects.marker_get().await?;
        marked
            .and_then(|marked| {
                let marker = Marker::read(&marked)?;
                Some((marked, marker))
            })
            .ok_or_else(|| Error::unavailable("the store has no marker that can be read"))
    }

    /// Writes the marker where it is still as it was found: nothing, or this.
    async fn marker_write(&self, found: Option<Marked>, marker: &Marker) -> Result<()> {
        // The local store writes it aside first, under this id: who dies there leaves a name like
        // any other, and a row by which the reaper finds it.
        let aside = ObjectId::new(self.clock.now());
        let now = self.clock.now();
        let delete_at = now.plus(self.rules.request_horizon);
        self.metadata
            .write(Tenant::unknown(), move |tx, tenant| {
                async move { tx.object_quarantine(aside, tenant, now, delete_at).await }.boxed()
            })
            .await?;
        self.objects
            .marker_write(aside, found.as_ref(), marker.text()?)
            .await?;
        self.metadata
            .write((), move |tx, ()| {
                async move { tx.object_forget(aside, delete_at).await }.boxed()
            })
            .await?;
        Ok(())
    }
}
