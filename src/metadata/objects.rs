//! The `objects` table: the rows that vouch for keys.
//!
//! `writing` → `live` → `dead` → gone. Each method is one step, guarded by the state it starts
//! from, so that two who try the same step can't both succeed. What the steps mean stands in
//! `domain::content`, `domain::reaper`.

use std::collections::HashMap;

use sqlx::{FromRow, QueryBuilder};

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{ObjectId, Tenant};

use super::Conn;
use super::usage::Amount;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Writing,
    Live,
    Dead,
}

/// A row, as `box fsck` and the reaper see it.
#[derive(Clone, Debug)]
pub struct Object {
    pub id: ObjectId,
    pub tenant: Tenant,
    pub state: State,
    pub epoch: i64,
    pub refs: i64,
    /// In bytes; None until the object is live.
    pub size: Option<u64>,
    pub sha256: Option<[u8; 32]>,
    pub lease_until: Option<Timestamp>,
    pub delete_at: Option<Timestamp>,
    pub forget_at: Option<Timestamp>,
}

/// A row, and how many files and versions refer to it, counted at the same moment.
#[derive(Clone, Debug)]
pub struct Referred {
    pub object: Object,
    pub counted: i64,
}

/// The row of a key that is about to be written.
#[derive(Clone, Debug)]
pub struct Intent {
    pub id: ObjectId,
    pub tenant: Tenant,
    pub lease_until: Timestamp,
    pub quiet_at: Timestamp,
    pub now: Timestamp,
    /// What it holds of the tenant's quota until it is live or dead.
    pub reserved: Amount,
}

#[derive(FromRow)]
struct Row {
    id: ObjectId,
    tenant: Tenant,
    state: String,
    epoch: i64,
    refs: i64,
    size: Option<i64>,
    sha256: Option<Vec<u8>>,
    lease_until: Option<Timestamp>,
    delete_at: Option<Timestamp>,
    forget_at: Option<Timestamp>,
}

#[derive(FromRow)]
struct ReferredRow {
    #[sqlx(flatten)]
    row: Row,
    counted: i64,
}

/// The first epoch: a row's only one until uploads can be taken over by another writer.
pub const FIRST_EPOCH: i64 = 1;

macro_rules! columns {
    () => {
        "id, tenant, state, epoch, refs, size, sha256, lease_until, delete_at, forget_at"
    };
}

macro_rules! publish {
    () => {
        "UPDATE objects SET state = 'live', refs = 1, size = $4, sha256 = $5, lease_until = NULL,
                quiet_at = COALESCE($6, quiet_at), hash_after = $7
         WHERE id = $1 AND state = 'writing' AND epoch = $2 AND lease_until > $3"
    };
}

macro_rules! counted {
    () => {
        "(SELECT COUNT(*) FROM files WHERE object_id = objects.id)
         + (SELECT COUNT(*) FROM versions WHERE object_id = objects.id) AS counted"
    };
}

impl Conn<'_> {
    /// How many dead objects are due, and since when the first of them is.
    pub async fn objects_due(&mut self, now: Timestamp) -> Result<(i64, Option<Timestamp>)> {
        Ok(on!(self, |c| {
            sqlx::query_as(
                "SELECT COUNT(*), MIN(delete_at) FROM objects WHERE state = 'dead' AND delete_at <= $1",
            )
            .bind(now)
            .fetch_one(c)
            .await?
        }))
    }

    pub async fn object_intend(&mut self, intent: &Intent) -> Result<()> {
        run!(self, "INSERT INTO objects (id, tenant, state, epoch, refs, lease_until, quiet_at, created_at,
                                      reserved_bytes, reserved_files)
                 VALUES ($1, $2, 'writing', $3, 0, $4, $5, $6, $7, $8)", [intent.id, &intent.tenant, FIRST_EPOCH, intent.lease_until, intent.quiet_at, intent.now, intent.reserved.bytes, intent.reserved.files]);
        Ok(())
    }

    /// Many of them, in one statement.
    pub async fn objects_intend(&mut self, intents: &[Intent]) -> Result<()> {
        if let [intent] = intents {
            return self.object_intend(intent).await;
        }
        on!(self, |c| {
            QueryBuilder::new(
                "INSERT INTO objects (id, tenant, state, epoch, refs, lease_until, quiet_at, created_at,
                                      reserved_bytes, reserved_files) ",
            )
            .push_values(intents, |mut row, intent| {
                row.push_bind(intent.id)
                    .push_bind(&intent.tenant)
                    .push("'writing'")
                    .push_bind(FIRST_EPOCH)
                    .push("0")
                    .push_bind(intent.lease_until)
                    .push_bind(intent.quiet_at)
                    .push_bind(intent.now)
                    .push_bind(intent.reserved.bytes)
                    .push_bind(intent.reserved.files);
            })
            .build()
            // There are as many texts as numbers of rows.
            .persistent(false)
            .execute(c)
            .await?;
        });
        Ok(())
    }

    /// Removes intents that nobody has begun to write.
    pub async fn objects_withdraw(&mut self, ids: &[ObjectId]) -> Result<()> {
        for id in ids {
            run!(
                self,
                "DELETE FROM objects WHERE id = $1 AND state = 'writing' AND epoch = $2",
                [*id, FIRST_EPOCH]
            );
        }
        Ok(())
    }

    /// Moves a lease that still runs forward. False when it ran out or the object is not being written.
    pub async fn object_renew(
        &mut self,
        id: ObjectId,
        epoch: i64,
        now: Timestamp,
        lease_until: Timestamp,
        quiet_at: Timestamp,
    ) -> Result<bool> {
        let renewed = on!(self, |c| {
            sqlx::query(
                "UPDATE objects SET lease_until = $4, quiet_at = $5
                 WHERE id = $1 AND state = 'writing' AND epoch = $2 AND lease_until > $3",
            )
            .bind(id)
            .bind(epoch)
            .bind(now)
            .bind(lease_until)
            .bind(quiet_at)
            .execute(c)
            .await?
            .rows_affected()
        });
        Ok(renewed == 1)
    }

    /// Adds to what a writing object holds of the quota. False when it is not being written any more.
    pub async fn object_reserve(&mut self, id: ObjectId, epoch: i64, bytes: i64) -> Result<bool> {
        let reserved = on!(self, |c| {
            sqlx::query(
                "UPDATE objects SET reserved_bytes = reserved_bytes + $3
                 WHERE id = $1 AND state = 'writing' AND epoch = $2",
            )
            .bind(id)
            .bind(epoch)
            .bind(bytes)
            .execute(c)
            .await?
            .rows_affected()
        });
        Ok(reserved == 1)
    }

    /// Makes a written object live, with one reference; what it had reserved. None when its writer's
    /// lease ran out. Without a hash it is to be hashed afterwards. `settled`: every call to the store has
    /// ended, so that nothing can arrive at the key any more.
    pub async fn object_publish(
        &mut self,
        id: ObjectId,
        epoch: i64,
        now: Timestamp,
        size: u64,
        sha256: Option<&[u8; 32]>,
        settled: bool,
    ) -> Result<Option<Amount>> {
        Ok(on!(self, |c| {
            sqlx::query_as(concat!(
                publish!(),
                " RETURNING reserved_bytes AS bytes, reserved_files AS files"
            ))
            .bind(id)
            .bind(epoch)
            .bind(now)
            .bind(signed(size)?)
            .bind(sha256.map(|digest| &digest[..]))
            .bind(settled.then_some(now))
            .bind(sha256.is_none().then_some(now))
            .fetch_optional(c)
            .await?
        }))
    }

    /// The same for an object that reserved nothing; fails with `otherwise` where the other tells None.
    pub async fn object_publish_unreserved(
        &mut self,
        id: ObjectId,
        now: Timestamp,
        size: u64,
        sha256: &[u8; 32],
        settled: bool,
        otherwise: fn() -> Error,
    ) -> Result<()> {
        run_one!(
            self,
            concat!(publish!(), " AND reserved_bytes = 0 AND reserved_files = 0"),
            [
                id,
                FIRST_EPOCH,
                now,
                signed(size)?,
                &sha256[..],
                settled.then_some(now),
                None::<Timestamp>
            ],
            otherwise
        );
        Ok(())
    }

    /// Adds a reference to an object; the hash of its bytes, where there is one by now: what else refers to
    /// them may not have been told yet. None when it is not live.
    pub async fn object_retain(&mut self, id: ObjectId) -> Result<Option<Option<[u8; 32]>>> {
        let retained: Option<Option<Vec<u8>>> = on!(self, |c| {
            sqlx::query_scalar(
                "UPDATE objects SET refs = refs + 1 WHERE id = $1 AND state = 'live' RETURNING sha256",
            )
            .bind(id)
            .fetch_optional(c)
            .await?
        });
        retained
            .map(|sha256| sha256.map(digest).transpose())
            .transpose()
    }

    /// Gives a writing object up. `settled`: every call to the store has ended, so that nothing can
    /// arrive at the key any more. What it had reserved; None when it is not being written any more.
    pub async fn object_abandon(
        &mut self,
        id: ObjectId,
        epoch: i64,
        now: Timestamp,
        settled: bool,
    ) -> Result<Option<Amount>> {
        Ok(on!(self, |c| {
            let sql = if settled {
                "UPDATE objects SET state = 'dead', lease_until = NULL, delete_at = $3, forget_at = $3, quiet_at = $3
                 WHERE id = $1 AND state = 'writing' AND epoch = $2
                 RETURNING reserved_bytes AS bytes, reserved_files AS files"
            } else {
                "UPDATE objects SET state = 'dead', lease_until = NULL, delete_at = $3, forget_at = quiet_at
                 WHERE id = $1 AND state = 'writing' AND epoch = $2
                 RETURNING reserved_bytes AS bytes, reserved_files AS files"
            };
            sqlx::query_as(sql)
                .bind(id)
                .bind(epoch)
                .bind(now)
                .fetch_optional(c)
                .await?
        }))
    }

    /// Drops one reference; the last one makes the object dead, to be deleted from `delete_at` on.
    pub async fn object_release(&mut self, id: ObjectId, delete_at: Timestamp) -> Result<()> {
        run_one!(
            self,
            "UPDATE objects SET
                    refs = refs - 1,
                    state = CASE WHEN refs = 1 THEN 'dead' ELSE 'live' END,
                    delete_at = CASE WHEN refs = 1 THEN $2 END,
                    forget_at = CASE WHEN refs > 1 THEN NULL WHEN quiet_at > $2 THEN quiet_at ELSE $2 END
                 WHERE id = $1 AND state = 'live'",
            [id, delete_at],
            move || Error::internal(format!("object {id} has no reference to drop"))
        );
        Ok(())
    }

    pub async fn object_get(&mut self, id: ObjectId) -> Result<Option<Object>> {
        let row: Option<Row> = on!(self, |c| {
            sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                " FROM objects WHERE id = $1"
            ))
            .bind(id)
            .fetch_optional(c)
            .await?
        });
        row.map(Object::try_from).transpose()
    }

    /// Whose the objects are that there is a row for.
    pub async fn object_tenants(&mut self, ids: &[ObjectId]) -> Result<HashMap<ObjectId, Tenant>> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let rows: Vec<(ObjectId, Tenant)> = on!(self, |c| {
            let mut query = QueryBuilder::new("SELECT id, tenant FROM objects WHERE id IN (");
            let mut list = query.separated(", ");
            for id in ids {
                list.push_bind(*id);
            }
            query.push(")");
            query.build_query_as().fetch_all(c).await?
        });
        Ok(rows.into_iter().collect())
    }

    pub async fn object_referred(&mut self, id: ObjectId) -> Result<Option<Referred>> {
        let row: Option<ReferredRow> = on!(self, |c| {
            sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                ", ",
                counted!(),
                " FROM objects WHERE id = $1"
            ))
            .bind(id)
            .fetch_optional(c)
            .await?
        });
        row.map(Referred::try_from).transpose()
    }

    /// The rows behind `after` in id order.
    pub async fn object_page(
        &mut self,
        after: Option<ObjectId>,
        limit: u32,
    ) -> Result<Vec<Referred>> {
        let after = after.unwrap_or(ObjectId::from_uuid(uuid::Uuid::nil()));
        let rows: Vec<ReferredRow> = on!(self, |c| {
            sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                ", ",
                counted!(),
                " FROM objects WHERE id > $1 ORDER BY id LIMIT $2"
            ))
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        });
        rows.into_iter().map(Referred::try_from).collect()
    }

    /// Makes up to `limit` writing objects whose lease ran out dead, to be deleted from `delete_at`
    /// on; whose they were, and what each had reserved.
    pub async fn object_expire_leases(
        &mut self,
        now: Timestamp,
        delete_at: Timestamp,
        limit: u32,
    ) -> Result<Vec<(Tenant, Amount)>> {
        let rows: Vec<(Tenant, i64, i64)> = on!(self, |c| {
            sqlx::query_as(
                "UPDATE objects SET state = 'dead', lease_until = NULL, delete_at = $2,
                        forget_at = CASE WHEN quiet_at > $2 THEN quiet_at ELSE $2 END
                 WHERE state = 'writing' AND id IN (
                    SELECT id FROM objects WHERE state = 'writing' AND lease_until <= $1 ORDER BY lease_until LIMIT $3)
                 AND lease_until <= $1
                 RETURNING tenant, reserved_bytes, reserved_files",
            )
            .bind(now)
            .bind(delete_at)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        });
        Ok(rows
            .into_iter()
            .map(|(tenant, bytes, files)| (tenant, Amount { bytes, files }))
            .collect())
    }

    /// Takes up to `limit` dead objects that are due, and puts the next look at them off until
    /// `again_at`: another replica leaves them alone meanwhile, and a crash loses nothing.
    pub async fn object_claim_dead(
        &mut self,
        now: Timestamp,
        again_at: Timestamp,
        limit: u32,
    ) -> Result<Vec<Object>> {
        let rows: Vec<Row> = on!(self, |c| {
            sqlx::query_as(concat!(
                "UPDATE objects SET delete_at = $2
                 WHERE state = 'dead' AND delete_at <= $1 AND id IN (
                    SELECT id FROM objects WHERE state = 'dead' AND delete_at <= $1 ORDER BY delete_at LIMIT $3)
                 RETURNING ",
                columns!()
            ))
            .bind(now)
            .bind(again_at)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        });
        rows.into_iter().map(Object::try_from).collect()
    }

    /// When to look at a dead object again.
    pub async fn object_delete_at(&mut self, id: ObjectId, delete_at: Timestamp) -> Result<()> {
        on!(self, |c| {
            sqlx::query("UPDATE objects SET delete_at = $2 WHERE id = $1 AND state = 'dead'")
                .bind(id)
                .bind(delete_at)
                .execute(c)
                .await?;
        });
        Ok(())
    }

    /// Removes the row of a dead object, which has no key any more and can get none.
    pub async fn object_forget(&mut self, id: ObjectId, now: Timestamp) -> Result<bool> {
        Ok(on!(self, |c| {
            sqlx::query("DELETE FROM objects WHERE id = $1 AND state = 'dead' AND forget_at <= $2")
                .bind(id)
                .bind(now)
                .execute(c)
                .await?
                .rows_affected()
        }) == 1)
    }

    /// Vouches for a key that was found without a row: dead, to be deleted from `delete_at` on.
    /// False when there is a row by now.
    pub async fn object_quarantine(
        &mut self,
        id: ObjectId,
        tenant: &Tenant,
        now: Timestamp,
        delete_at: Timestamp,
    ) -> Result<bool> {
        Ok(on!(self, |c| {
            sqlx::query(
                "INSERT INTO objects (id, tenant, state, epoch, refs, quiet_at, delete_at, forget_at, created_at)
                 VALUES ($1, $2, 'dead', $3, 0, $5, $5, $5, $4) ON CONFLICT (id) DO NOTHING",
            )
            .bind(id)
            .bind(tenant)
            .bind(FIRST_EPOCH)
            .bind(now)
            .bind(delete_at)
            .execute(c)
            .await?
            .rows_affected()
        }) == 1)
    }

    /// How many files and versions refer to the object, by counting them.
    pub async fn object_count_refs(&mut self, id: ObjectId) -> Result<i64> {
        Ok(on!(self, |c| {
            sqlx::query_scalar(
                "SELECT (SELECT COUNT(*) FROM files WHERE object_id = $1)
                      + (SELECT COUNT(*) FROM versions WHERE object_id = $1)",
            )
            .bind(id)
            .fetch_one(c)
            .await?
        }))
    }

    /// Corrects the references of a live object from `from` to `to`; none left makes it dead.
    pub async fn object_mend_refs(
        &mut self,
        id: ObjectId,
        from: i64,
        to: i64,
        delete_at: Timestamp,
    ) -> Result<bool> {
        Ok(on!(self, |c| {
            let sql = if to > 0 {
                "UPDATE objects SET refs = $3 WHERE id = $1 AND state = 'live' AND refs = $2 AND $4 = $4"
            } else {
                "UPDATE objects SET state = 'dead', refs = $3, delete_at = $4,
                        forget_at = CASE WHEN quiet_at > $4 THEN quiet_at ELSE $4 END
                 WHERE id = $1 AND state = 'live' AND refs = $2"
            };
            sqlx::query(sql)
                .bind(id)
                .bind(from)
                .bind(to)
                .bind(delete_at)
                .execute(c)
                .await?
                .rows_affected()
        }) == 1)
    }
}

impl TryFrom<Row> for Object {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let state = match row.state.as_str() {
            "writing" => State::Writing,
            "live" => State::Live,
            "dead" => State::Dead,
            other => return Err(Error::internal(format!("an object's state is {other:?}"))),
        };
        Ok(Self {
            id: row.id,
            tenant: row.tenant,
            state,
            epoch: row.epoch,
            refs: row.refs,
            size: row.size.map(unsigned).transpose()?,
            sha256: row.sha256.map(digest).transpose()?,
            lease_until: row.lease_until,
            delete_at: row.delete_at,
            forget_at: row.forget_at,
        })
    }
}

impl TryFrom<ReferredRow> for Referred {
    type Error = Error;

    fn try_from(row: ReferredRow) -> Result<Self> {
        Ok(Self {
            object: row.row.try_into()?,
            counted: row.counted,
        })
    }
}

/// Sizes are 64-bit signed in both databases.
pub(super) fn signed(size: u64) -> Result<i64> {
    i64::try_from(size).map_err(Error::internal)
}

pub(super) fn unsigned(size: i64) -> Result<u64> {
    u64::try_from(size).map_err(Error::internal)
}

pub(super) fn digest(bytes: Vec<u8>) -> Result<[u8; 32]> {
    bytes
        .try_into()
        .map_err(|bytes: Vec<u8>| Error::internal(format!("a SHA-256 of {} bytes", bytes.len())))
}
