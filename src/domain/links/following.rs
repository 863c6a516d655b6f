//! How links are followed and counted, and what other replicas change about them.

use std::sync::Arc;

use futures::FutureExt;

use crate::error::{Error, Result};

use super::super::Domain;
use super::{Link, State, gone, slug_fault};

impl Domain {
    /// The link that a slug leads through, whoever's it is.
    ///
    /// # Errors
    /// `NotFound` where there never was one; `Gone` where it is not to be used any more.
    pub async fn link_resolve(&self, slug: &str) -> Result<Arc<Link>> {
        if slug_fault(slug).is_some() {
            return Err(Error::not_found());
        }
        let hot = &self.links.0.hot;
        let link = match hot.get(slug) {
            Some(link) => {
                self.metrics.links.hot.inc();
                link
            }
            None => {
                self.metrics.links.looked_up.inc();
                let before = hot.moment();
                let mut reader = self.metadata.reader().await?;
                let found = reader.conn().link_find(slug).await?;
                let link = Arc::new(found.ok_or_else(Error::not_found)?);
                // One that has a most is counted in the database, and looked up there.
                if link.max_uses.is_none() {
                    hot.keep(link.clone(), before);
                }
                link
            }
        };
        if link.deleted_at.is_some() {
            return Err(gone("The link was deleted."));
        }
        match State::of(&link, self.clock.now()) {
            State::Active => Ok(link),
            State::Expired => Err(gone("The link has expired.")),
            State::Spent => Err(gone("The link was used as often as it may be.")),
            State::Disabled => Err(gone("The link is disabled.")),
        }
    }

    /// Counts a use. False where the link is not any more as it was looked at: it is to be looked up again.
    pub async fn link_use(&self, link: &Link) -> Result<bool> {
        let now = self.clock.now();
        if link.max_uses.is_none() {
            if self.links.0.gathered.add(link, now) {
                return Ok(true);
            }
            // There is no room for it.
            self.link_uses_flush().await?;
            self.links.0.gathered.add(link, now);
            return Ok(true);
        }
        self.metadata
            .write(link.clone(), move |tx, link| {
                async move { tx.link_spend(link, now).await }.boxed()
            })
            .await
    }

    /// Writes the uses that were gathered. Those that could not be written are kept for the next time.
    pub async fn link_uses_flush(&self) -> Result<()> {
        let (links, metadata) = (self.links.clone(), self.metadata.clone());
        // A task of its own, for who waits for it may be cut off: what was taken to be written would be lost.
        let flush = tokio::spawn(async move { links.0.gathered.flush(&metadata).await });
        flush.await.map_err(Error::internal)?
    }

    /// Follows what other replicas change, until the connection is lost.
    pub async fn link_changes_watch(&self) -> Result<()> {
        let Some(mut changes) = self.metadata.link_changes().await? else {
            // There are no others.
            return std::future::pending().await;
        };
        // What was told before is not known.
        self.links.0.hot.drop_all();
        loop {
            match changes.next().await? {
                Some(slug) => self.links.0.hot.drop_one(&slug),
                None => self.links.0.hot.drop_all(),
            }
        }
    }
}
