//! Live objects whose bytes did not come through the service, until they are hashed and all that refers
//! to them says so.
//!
//! The object has its hash first, in a transaction of its own. Whoever adds a reference from then on is
//! told of it ([`Conn::object_retain`]), and whoever did before has committed, for both change the
//! object's row: so one look finds every file and version without it.

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ObjectId, Tenant};

use super::Conn;
use super::objects::{digest, unsigned};

/// An object that is to be hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unhashed {
    pub id: ObjectId,
    pub tenant: Tenant,
    /// In bytes.
    pub size: u64,
    /// Where it is done, and only not told everywhere.
    pub sha256: Option<[u8; 32]>,
}

type Row = (ObjectId, Tenant, Option<i64>, Option<Vec<u8>>);

impl Conn<'_> {
    /// Whether an object waits for its hash.
    pub async fn object_unhashed_waits(&mut self, now: Timestamp) -> Result<bool> {
        Ok(on!(self, |c| {
            sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM objects WHERE state = 'live' AND hash_after <= $1)",
            )
            .bind(now)
            .fetch_one(c)
            .await?
        }))
    }

    /// How many objects have no hash yet, and from when on the first of them may be taken up: in the future
    /// where all are being hashed.
    pub async fn objects_unhashed(&mut self) -> Result<(i64, Option<Timestamp>)> {
        Ok(on!(self, |c| {
            sqlx::query_as(
                "SELECT COUNT(*), MIN(hash_after) FROM objects WHERE state = 'live' AND hash_after IS NOT NULL",
            )
            .fetch_one(c)
            .await?
        }))
    }

    /// Takes the object that has waited for its hash for longest, and puts the next look at it off until
    /// `again_at`: another process leaves it alone meanwhile, and a crash loses nothing.
    pub async fn object_unhashed_claim(
        &mut self,
        now: Timestamp,
        again_at: Timestamp,
    ) -> Result<Option<Unhashed>> {
        let row: Option<Row> = on!(self, |c| {
            sqlx::query_as(
                "UPDATE objects SET hash_after = $2
                 WHERE state = 'live' AND hash_after <= $1 AND id = (
                    SELECT id FROM objects WHERE state = 'live' AND hash_after <= $1
                    ORDER BY hash_after LIMIT 1)
                 RETURNING id, tenant, size, sha256",
            )
            .bind(now)
            .bind(again_at)
            .fetch_optional(c)
            .await?
        });
        row.map(|(id, tenant, size, sha256)| {
            Ok(Unhashed {
                id,
                tenant,
                size: unsigned(size.unwrap_or(0))?,
                sha256: sha256.map(digest).transpose()?,
            })
        })
        .transpose()
    }

    /// Puts the next look off further. False where the object is gone, or is hashed by now.
    pub async fn object_unhashed_keep(
        &mut self,
        id: ObjectId,
        again_at: Timestamp,
    ) -> Result<bool> {
        Ok(on!(self, |c| {
            sqlx::query(
                "UPDATE objects SET hash_after = $2
                 WHERE id = $1 AND state = 'live' AND hash_after IS NOT NULL",
            )
            .bind(id)
            .bind(again_at)
            .execute(c)
            .await?
            .rows_affected()
        }) == 1)
    }

    /// The first of two steps, in transactions of their own. False where the object is gone.
    pub async fn object_hashed(&mut self, id: ObjectId, sha256: &[u8; 32]) -> Result<bool> {
        Ok(on!(self, |c| {
            sqlx::query("UPDATE objects SET sha256 = $2 WHERE id = $1 AND state = 'live'")
                .bind(id)
                .bind(&sha256[..])
                .execute(c)
                .await?
                .rows_affected()
        }) == 1)
    }

    /// The second: files, versions, and then the object, in the order in which all lock them.
    pub async fn object_hash_told(&mut self, id: ObjectId, sha256: &[u8; 32]) -> Result<()> {
        run!(
            self,
            "UPDATE files SET sha256 = $2 WHERE object_id = $1 AND sha256 IS NULL",
            [id, &sha256[..]]
        );
        run!(
            self,
            "UPDATE versions SET sha256 = $2 WHERE object_id = $1 AND sha256 IS NULL",
            [id, &sha256[..]]
        );
        run!(
            self,
            "UPDATE objects SET hash_after = NULL WHERE id = $1 AND state = 'live'",
            [id]
        );
        Ok(())
    }
}
