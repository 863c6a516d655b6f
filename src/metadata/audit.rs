//! The chain of a tenant's events: their places in it, where it ends, and up to where it was removed.
//!
//! An event comes unsealed. Whoever seals it gives it the place behind the head of its tenant, which is
//! locked meanwhile: so a chain can't fork, however many seal.

use futures::TryFutureExt;
use serde::Serialize;
use sqlx::{FromRow, QueryBuilder};

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::id::{ClaimId, EventId, Tenant};

use super::Conn;
use super::objects::digest;
use super::postgres::in_time;

pub type Hash = [u8; 32];

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub id: EventId,
    pub tenant: Tenant,
    pub at: Timestamp,
    pub subject: String,
    pub action: String,
    pub target: String,
    pub request_id: Option<String>,
    pub remote_ip: Option<String>,
    /// JSON.
    pub detail: String,
    /// Its place from 1, and its hash. None while it is not sealed.
    pub place: Option<(i64, Hash)>,
}

#[derive(FromRow)]
struct Row {
    id: EventId,
    tenant: Tenant,
    at: Timestamp,
    subject: String,
    action: String,
    target: String,
    request_id: Option<String>,
    remote_ip: Option<String>,
    detail: String,
    seq: Option<i64>,
    hash: Option<Vec<u8>>,
}

impl TryFrom<Row> for Stored {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            place: match (row.seq, row.hash) {
                (Some(seq), Some(hash)) => Some((seq, digest(hash)?)),
                _ => None,
            },
            id: row.id,
            tenant: row.tenant,
            at: row.at,
            subject: row.subject,
            action: row.action,
            target: row.target,
            request_id: row.request_id,
            remote_ip: row.remote_ip,
            detail: row.detail,
        })
    }
}

macro_rules! columns {
    () => {
        "id, tenant, at, subject, action, target, request_id, remote_ip, detail, seq, hash"
    };
}

/// A place in a chain that somebody vouches for: its head, or the checkpoint before its first event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub tenant: Tenant,
    pub seq: i64,
    pub hash: Hash,
    pub at: Timestamp,
    /// The key's id, and what was signed with it.
    pub signed: Option<(String, String)>,
}

#[derive(FromRow)]
struct MarkRow {
    tenant: Tenant,
    seq: i64,
    hash: Vec<u8>,
    at: Timestamp,
    key_id: Option<String>,
    signature: Option<String>,
}

impl TryFrom<MarkRow> for Mark {
    type Error = Error;

    fn try_from(row: MarkRow) -> Result<Self> {
        Ok(Self {
            tenant: row.tenant,
            seq: row.seq,
            hash: digest(row.hash)?,
            at: row.at,
            signed: row.key_id.zip(row.signature),
        })
    }
}

/// Which events are asked for.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub subject: Option<String>,
    pub action: Option<String>,
    pub target: Option<String>,
    /// Inclusive.
    pub after: Option<Timestamp>,
    /// Exclusive.
    pub before: Option<Timestamp>,
}

/// One event and the place that it gets.
#[derive(Clone, Debug)]
pub struct Sealed {
    pub id: EventId,
    pub seq: i64,
    pub hash: Hash,
}

/// As it goes to the database, in hexadecimal digits.
#[derive(Serialize)]
struct SealedJson {
    id: String,
    seq: i64,
    hash: String,
}

/// Two sealed the same: the later one tries again, and finds them sealed.
fn sealed_by_another() -> Error {
    Error::new(Kind::Conflict, "The events were sealed by another process.")
}

impl Conn<'_> {
    /// Takes or renews a lease. False while somebody else has it.
    pub async fn lease_take(
        &mut self,
        name: &str,
        holder: ClaimId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool> {
        let taken = on!(self, |c| {
            sqlx::query(
                "INSERT INTO leases (name, holder, lease_until) VALUES ($1, $2, $4)
                 ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until
                 WHERE leases.holder = excluded.holder OR leases.lease_until <= $3",
            )
            .bind(name)
            .bind(holder)
            .bind(now)
            .bind(until)
            .execute(c)
            .await?
            .rows_affected()
        });
        Ok(taken == 1)
    }

    /// When the oldest event that is not sealed happened.
    pub async fn audit_oldest_unsealed(&mut self) -> Result<Option<Timestamp>> {
        Ok(on!(self, |c| {
            sqlx::query_scalar("SELECT at FROM events WHERE seq IS NULL ORDER BY at, id LIMIT 1")
                .fetch_optional(c)
                .await?
        }))
    }

    /// Events that are not sealed, of all tenants, the oldest first.
    pub async fn audit_unsealed(&mut self, limit: u32) -> Result<Vec<Stored>> {
        let rows: Vec<Row> = on!(self, |c| {
            sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                " FROM events WHERE seq IS NULL ORDER BY at, id LIMIT $1"
            ))
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        });
        rows.into_iter().map(Stored::try_from).collect()
    }

    /// The head of a tenant's chain, locked until the end of the transaction; made where there is none.
    pub async fn audit_head_lock(&mut self, tenant: &Tenant, now: Timestamp) -> Result<Mark> {
        on!(self, |c| {
            sqlx::query(
                "INSERT INTO audit_heads (tenant, seq, hash, at) VALUES ($1, 0, $2, $3)
                 ON CONFLICT (tenant) DO NOTHING",
            )
            .bind(tenant)
            .bind(&[0_u8; 32][..])
            .bind(now)
            .execute(c)
            .await?;
        });
        let row: Option<MarkRow> = match self {
            // A transaction that writes has SQLite to itself.
            Self::Sqlite(_) => return self.audit_head(tenant).await?.ok_or_else(sealed_by_another),
            Self::Postgres(c, patience) => {
                let locked =
                    sqlx::query_as("SELECT * FROM audit_heads WHERE tenant = $1 FOR UPDATE")
                        .bind(tenant)
                        .fetch_optional(&mut **c);
                in_time(*patience, locked.err_into()).await?
            }
        };
        row.ok_or_else(sealed_by_another)?.try_into()
    }

    pub async fn audit_head(&mut self, tenant: &Tenant) -> Result<Option<Mark>> {
        let row: Option<MarkRow> = on!(self, |c| {
            sqlx::query_as("SELECT tenant, seq, hash, at, key_id, signature FROM audit_heads WHERE tenant = $1")
                .bind(tenant)
                .fetch_optional(c)
                .await?
        });
        row.map(Mark::try_from).transpose()
    }

    pub async fn audit_checkpoint(&mut self, tenant: &Tenant) -> Result<Option<Mark>> {
        let row: Option<MarkRow> = on!(self, |c| {
            sqlx::query_as("SELECT tenant, seq, hash, at, key_id, signature FROM audit_checkpoints WHERE tenant = $1")
                .bind(tenant)
                .fetch_optional(c)
                .await?
        });
        row.map(Mark::try_from).transpose()
    }

    /// Heads by tenant, behind one.
    pub async fn audit_heads(&mut self, after: Option<&Tenant>, limit: u32) -> Result<Vec<Mark>> {
        let rows: Vec<MarkRow> = on!(self, |c| {
            sqlx::query_as(
                "SELECT tenant, seq, hash, at, key_id, signature FROM audit_heads
                 WHERE tenant > $1 ORDER BY tenant LIMIT $2",
            )
            .bind(after.map_or("", |tenant| tenant.as_str()))
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        });
        rows.into_iter().map(Mark::try_from).collect()
    }

    /// Tenants that have sealed events or a checkpoint, and no head.
    pub async fn audit_headless(&mut self, limit: u32) -> Result<Vec<Tenant>> {
        Ok(on!(self, |c| {
            sqlx::query_scalar(
                "SELECT DISTINCT s.tenant FROM (
                    SELECT tenant FROM events WHERE seq IS NOT NULL
                    UNION SELECT tenant FROM audit_checkpoints
                 ) s LEFT JOIN audit_heads h ON h.tenant = s.tenant
                 WHERE h.tenant IS NULL ORDER BY 1 LIMIT $1",
            )
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        }))
    }

    /// Gives events their places.
    ///
    /// # Errors
    /// `Conflict`: one of them has a place already.
    pub async fn audit_place(&mut self, sealed: &[Sealed]) -> Result<()> {
        let json: Vec<_> = sealed
            .iter()
            .map(|sealed| SealedJson {
                id: hex::encode(sealed.id.as_uuid()),
                seq: sealed.seq,
                hash: hex::encode(sealed.hash),
            })
            .collect();
        let json = serde_json::to_string(&json).map_err(Error::internal)?;
        let placed = match self {
            Self::Sqlite(c) => sqlx::query(
                "UPDATE events SET seq = s.seq, hash = s.hash
                 FROM (SELECT unhex(value ->> 'id') AS id, value ->> 'seq' AS seq, unhex(value ->> 'hash') AS hash
                       FROM json_each($1)) s
                 WHERE events.id = s.id AND events.seq IS NULL",
            )
            .bind(json)
            .execute(c.ready().await?)
            .await?
            .rows_affected(),
            Self::Postgres(c, patience) => {
                let placed = sqlx::query(
                    "UPDATE events SET seq = s.seq, hash = decode(s.hash, 'hex')
                     FROM json_to_recordset(CAST($1 AS JSON)) AS s (id UUID, seq BIGINT, hash TEXT)
                     WHERE events.id = s.id AND events.seq IS NULL",
                )
                .bind(json)
                .execute(&mut **c);
                in_time(*patience, placed.err_into()).await?.rows_affected()
            }
        };
        if placed != sealed.len() as u64 {
            return Err(sealed_by_another());
        }
        Ok(())
    }

    /// Moves the head of a chain from `from`.
    pub async fn audit_head_advance(&mut self, from: i64, to: &Mark) -> Result<()> {
        let (key_id, signature) = to.signed.clone().unzip();
        run_one!(
            self,
            "UPDATE audit_heads SET seq = $3, hash = $4, at = $5, key_id = $6, signature = $7
             WHERE tenant = $1 AND seq = $2",
            [
                &to.tenant,
                from,
                to.seq,
                &to.hash[..],
                to.at,
                key_id,
                signature
            ],
            sealed_by_another
        );
        Ok(())
    }

    /// Removes events up to a place that lies before that of the head, which is locked.
    pub async fn audit_remove_through(&mut self, checkpoint: &Mark) -> Result<()> {
        let (key_id, signature) = checkpoint.signed.clone().unzip();
        run!(
            self,
            "INSERT INTO audit_checkpoints (tenant, seq, hash, at, key_id, signature)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (tenant) DO UPDATE SET seq = excluded.seq, hash = excluded.hash,
                at = excluded.at, key_id = excluded.key_id, signature = excluded.signature",
            [
                &checkpoint.tenant,
                checkpoint.seq,
                &checkpoint.hash[..],
                checkpoint.at,
                key_id,
                signature
            ]
        );
        run!(
            self,
            "DELETE FROM events WHERE tenant = $1 AND seq <= $2",
            [&checkpoint.tenant, checkpoint.seq]
        );
        Ok(())
    }

    /// Sealed events behind a place, in their order.
    pub async fn audit_events(
        &mut self,
        tenant: &Tenant,
        filter: &EventFilter,
        behind: i64,
        limit: u32,
    ) -> Result<Vec<Stored>> {
        macro_rules! query {
            () => {{
                let mut query = QueryBuilder::new(concat!(
                    "SELECT ",
                    columns!(),
                    " FROM events WHERE seq IS NOT NULL AND tenant = "
                ));
                query.push_bind(tenant.clone());
                query.push(" AND seq > ").push_bind(behind);
                for (condition, value) in [
                    (" AND subject = ", &filter.subject),
                    (" AND action = ", &filter.action),
                    (" AND target = ", &filter.target),
                ] {
                    if let Some(value) = value {
                        query.push(condition).push_bind(value.clone());
                    }
                }
                for (condition, value) in
                    [(" AND at >= ", filter.after), (" AND at < ", filter.before)]
                {
                    if let Some(value) = value {
                        query.push(condition).push_bind(value);
                    }
                }
                query
                    .push(" ORDER BY seq LIMIT ")
                    .push_bind(i64::from(limit));
                query
            }};
        }
        let rows: Vec<Row> = match self {
            Self::Sqlite(c) => {
                let mut query = query!();
                query.build_query_as().fetch_all(c.ready().await?).await?
            }
            Self::Postgres(c, patience) => {
                let mut query = query!();
                let rows = query.build_query_as().fetch_all(&mut **c);
                in_time(*patience, rows.err_into()).await?
            }
        };
        rows.into_iter().map(Stored::try_from).collect()
    }
}
