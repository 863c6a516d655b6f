//! Bytes that did not come through the service are hashed afterwards: one object after the other, by
//! whichever process has the time.
//!
//! Who does it holds no right that it could lose: two who hash the same bytes find the same. A crash
//! leaves an object that somebody takes up again.

use futures::{FutureExt, StreamExt};
use sha2::{Digest, Sha256};

use crate::error::{Kind, Result};
use crate::id::ObjectId;
use crate::metadata::hashes::Unhashed;

use super::Domain;
use super::content::hash;

impl Domain {
    /// Hashes the object that has waited for longest, and tells the files and versions of it. False where
    /// none waits.
    ///
    /// # Errors
    /// Where its bytes can't be read now; it is looked at again once a lease is over.
    pub async fn hash_next(&self) -> Result<bool> {
        // A database that is older than the store may not know that the bytes are gone.
        if self.is_older() {
            return Ok(false);
        }
        let now = self.clock.now();
        let mut reader = self.metadata.reader().await?;
        if !reader.conn().object_unhashed_waits(now).await? {
            return Ok(false);
        }
        drop(reader);
        let again_at = now.plus(self.rules.lease);
        let claimed = self
            .metadata
            .write((), move |tx, ()| {
                async move { tx.object_unhashed_claim(now, again_at).await }.boxed()
            })
            .await?;
        let Some(object) = claimed else {
            return Ok(false);
        };
        let sha256 = match object.sha256 {
            Some(sha256) => sha256,
            None => match self.hash_read(&object).await {
                Ok(Some(sha256)) => sha256,
                // Deleted meanwhile.
                Ok(None) => return Ok(true),
                Err(error) if error.kind() == Kind::NotFound => return Ok(true),
                Err(error) => return Err(error),
            },
        };
        self.hash_tell(object.id, sha256).await?;
        Ok(true)
    }

    /// Reads all bytes, and says now and then that it is still at it. None where nobody needs it any more.
    async fn hash_read(&self, object: &Unhashed) -> Result<Option<[u8; 32]>> {
        let mut hasher = Sha256::new();
        if object.size == 0 {
            return Ok(Some(hasher.finalize().into()));
        }
        let mut bytes = self
            .object_read(&object.tenant, object.id, 0..object.size)
            .await?;
        let mut kept = self.clock.now();
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk?;
            hasher = hash(hasher, vec![chunk]).await?;
            let now = self.clock.now();
            if now.since(kept) < self.rules.lease / 3 {
                continue;
            }
            kept = now;
            let (id, again_at) = (object.id, now.plus(self.rules.lease));
            let wanted = self
                .metadata
                .write((), move |tx, ()| {
                    async move { tx.object_unhashed_keep(id, again_at).await }.boxed()
                })
                .await?;
            if !wanted {
                return Ok(None);
            }
        }
        Ok(Some(hasher.finalize().into()))
    }

    async fn hash_tell(&self, id: ObjectId, sha256: [u8; 32]) -> Result<()> {
        let recorded = self
            .metadata
            .write((), move |tx, ()| {
                async move { tx.object_hashed(id, &sha256).await }.boxed()
            })
            .await?;
        if !recorded {
            return Ok(());
        }
        self.metadata
            .write((), move |tx, ()| {
                async move { tx.object_hash_told(id, &sha256).await }.boxed()
            })
            .await
    }
}
