//! The `idempotency_keys` table: requests that must not be done twice, and what each made.

use sqlx::FromRow;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ObjectId, Tenant};

use super::Conn;
use super::objects::digest;

/// Whose request it is. A key means something only together with who sent it, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    pub tenant: Tenant,
    pub subject: String,
    pub route: &'static str,
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Of what was known of the request before its body.
    pub fingerprint: [u8; 32],
    pub created_at: Timestamp,
    /// While the request runs: until when it is believed to.
    pub lease_until: Option<Timestamp>,
    pub done: Option<Done>,
}

/// How a request ended that made something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub body_sha256: [u8; 32],
    /// What was made, as JSON of the domain's.
    pub result: String,
}

#[derive(FromRow)]
struct Row {
    fingerprint: Vec<u8>,
    created_at: Timestamp,
    lease_until: Option<Timestamp>,
    body_sha256: Option<Vec<u8>>,
    result: Option<String>,
}

impl Conn<'_> {
    pub async fn idempotency_get(&mut self, key: &RequestKey) -> Result<Option<Record>> {
        let row: Option<Row> = on!(self, |c| {
            sqlx::query_as(
                "SELECT k.fingerprint, k.created_at, k.body_sha256, k.result, o.lease_until
                 FROM idempotency_keys k
                 LEFT JOIN objects o ON o.id = k.object_id AND o.state = 'writing'
                 WHERE k.tenant = $1 AND k.subject = $2 AND k.route = $3 AND k.key = $4",
            )
            .bind(&key.tenant)
            .bind(&key.subject)
            .bind(key.route)
            .bind(&key.key)
            .fetch_optional(c)
            .await?
        });
        let Some(row) = row else { return Ok(None) };
        let done = match (row.body_sha256, row.result) {
            (Some(sha256), Some(result)) => Some(Done {
                body_sha256: digest(sha256)?,
                result,
            }),
            _ => None,
        };
        Ok(Some(Record {
            fingerprint: digest(row.fingerprint)?,
            created_at: row.created_at,
            lease_until: row.lease_until,
            done,
        }))
    }

    /// Records that a request runs, and is writing an object. False where another has the key.
    pub async fn idempotency_claim(
        &mut self,
        key: &RequestKey,
        fingerprint: &[u8; 32],
        object_id: ObjectId,
        now: Timestamp,
    ) -> Result<bool> {
        let claimed = on!(self, |c| {
            sqlx::query(
                "INSERT INTO idempotency_keys (tenant, subject, route, key, fingerprint, object_id, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
            )
            .bind(&key.tenant)
            .bind(&key.subject)
            .bind(key.route)
            .bind(&key.key)
            .bind(&fingerprint[..])
            .bind(object_id)
            .bind(now)
            .execute(c)
            .await?
            .rows_affected()
        });
        Ok(claimed == 1)
    }

    /// Records what a request made that had claimed its key. False where another has taken the key over.
    pub async fn idempotency_finish(
        &mut self,
        key: &RequestKey,
        object_id: ObjectId,
        done: &Done,
    ) -> Result<bool> {
        let finished = on!(self, |c| {
            sqlx::query(
                "UPDATE idempotency_keys SET object_id = NULL, body_sha256 = $6, result = $7
                 WHERE tenant = $1 AND subject = $2 AND route = $3 AND key = $4 AND object_id = $5",
            )
            .bind(&key.tenant)
            .bind(&key.subject)
            .bind(key.route)
            .bind(&key.key)
            .bind(object_id)
            .bind(&done.body_sha256[..])
            .bind(&done.result)
            .execute(c)
            .await?
            .rows_affected()
        });
        Ok(finished == 1)
    }

    /// Records a request and what it made in one step. False where another has the key: on PostgreSQL
    /// only once that one has ended.
    pub async fn idempotency_record(
        &mut self,
        key: &RequestKey,
        fingerprint: &[u8; 32],
        done: &Done,
        now: Timestamp,
    ) -> Result<bool> {
        let recorded = on!(self, |c| {
            sqlx::query(
                "INSERT INTO idempotency_keys (tenant, subject, route, key, fingerprint, body_sha256, result, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
            )
            .bind(&key.tenant)
            .bind(&key.subject)
            .bind(key.route)
            .bind(&key.key)
            .bind(&fingerprint[..])
            .bind(&done.body_sha256[..])
            .bind(&done.result)
            .bind(now)
            .execute(c)
            .await?
            .rows_affected()
        });
        Ok(recorded == 1)
    }

    /// Frees the key of a request that came to nothing.
    pub async fn idempotency_release(
        &mut self,
        key: &RequestKey,
        object_id: ObjectId,
    ) -> Result<()> {
        on!(self, |c| {
            sqlx::query(
                "DELETE FROM idempotency_keys
                 WHERE tenant = $1 AND subject = $2 AND route = $3 AND key = $4 AND object_id = $5",
            )
            .bind(&key.tenant)
            .bind(&key.subject)
            .bind(key.route)
            .bind(&key.key)
            .bind(object_id)
            .execute(c)
            .await?;
        });
        Ok(())
    }

    /// Frees a key that nobody holds any more: it was claimed at `created_at`, and its request is
    /// not done, or was claimed by `expired`.
    pub async fn idempotency_forget(
        &mut self,
        key: &RequestKey,
        created_at: Timestamp,
        expired: Timestamp,
    ) -> Result<()> {
        on!(self, |c| {
            sqlx::query(
                "DELETE FROM idempotency_keys
                 WHERE tenant = $1 AND subject = $2 AND route = $3 AND key = $4
                   AND created_at = $5 AND (result IS NULL OR created_at <= $6)",
            )
            .bind(&key.tenant)
            .bind(&key.subject)
            .bind(key.route)
            .bind(&key.key)
            .bind(created_at)
            .bind(expired)
            .execute(c)
            .await?;
        });
        Ok(())
    }

    /// Frees up to `limit` keys that were claimed by `before`; how many.
    pub async fn idempotency_sweep(&mut self, before: Timestamp, limit: u32) -> Result<u64> {
        Ok(on!(self, |c| {
            sqlx::query(
                "DELETE FROM idempotency_keys WHERE (tenant, subject, route, key) IN (
                    SELECT tenant, subject, route, key FROM idempotency_keys
                    WHERE created_at <= $1 ORDER BY created_at LIMIT $2)
                 AND created_at <= $1",
            )
            .bind(before)
            .bind(i64::from(limit))
            .execute(c)
            .await?
            .rows_affected()
        }))
    }
}
