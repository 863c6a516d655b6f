//! The tables `imports`, `import_items` and `import_counts`: batches of URLs, and the queue of what is
//! to be fetched.
//!
//! An item is `pending`, `fetching` under a claim and a lease, or at its end. Each step is guarded by
//! the state it starts from, so that an item ends once however many try. What changes the number of
//! items in a state records it with [`Conn::import_count`] in the same transaction.
//!
//! Whoever makes items pending, or ends all that are not at their end, has the import locked: so a
//! cancelled import gets no new ones.

use serde::Serialize;
use sqlx::FromRow;
use sqlx::types::Json;

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{ClaimId, FileId, ImportId, Tenant};

use super::Conn;
use super::files::Metadata;
use super::objects::{signed, unsigned};
use super::postgres::in_time;

/// Rows of counts that an import has on PostgreSQL, so that those who end its items at the same time
/// need not wait for each other's commits. SQLite has one writer, and needs one row.
const SHARDS: i64 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Receiving,
    Running,
    Done,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ItemState {
    Pending,
    Fetching,
    Done,
    Failed,
    Cancelled,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    fn read(text: &str) -> Result<Self> {
        [Self::Receiving, Self::Running, Self::Done, Self::Cancelled]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| Error::internal(format!("an import's state is {text:?}")))
    }
}

impl ItemState {
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Fetching,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Fetching => "fetching",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// How many items are in each state, or by how much that changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct Counts {
    pub pending: i64,
    pub fetching: i64,
    pub done: i64,
    pub failed: i64,
    pub cancelled: i64,
    /// Of the files that were made.
    pub bytes: i64,
}

impl Counts {
    pub fn total(&self) -> i64 {
        self.pending + self.fetching + self.finished()
    }

    pub fn finished(&self) -> i64 {
        self.done + self.failed + self.cancelled
    }

    /// The change when `items` of them go from one state to another.
    pub fn moved(from: ItemState, to: ItemState, items: i64) -> Self {
        let mut counts = Self::default();
        *counts.of(from) -= items;
        *counts.of(to) += items;
        counts
    }

    pub fn of(&mut self, state: ItemState) -> &mut i64 {
        match state {
            ItemState::Pending => &mut self.pending,
            ItemState::Fetching => &mut self.fetching,
            ItemState::Done => &mut self.done,
            ItemState::Failed => &mut self.failed,
            ItemState::Cancelled => &mut self.cancelled,
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.pending += other.pending;
        self.fetching += other.fetching;
        self.done += other.done;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.bytes += other.bytes;
    }
}

#[derive(Clone, Debug)]
pub struct Import {
    pub id: ImportId,
    pub tenant: Tenant,
    pub state: State,
    /// JSON of the domain's.
    pub options: String,
    pub created_at: Timestamp,
    pub created_by: String,
    pub finished_at: Option<Timestamp>,
    pub counts: Counts,
}

#[derive(FromRow)]
struct Row {
    id: ImportId,
    tenant: Tenant,
    state: String,
    options: String,
    created_at: Timestamp,
    created_by: String,
    finished_at: Option<Timestamp>,
    #[sqlx(flatten)]
    counts: Counts,
}

/// An item as it comes in. It goes to the database as JSON, a chunk in one statement.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewItem {
    pub number: u32,
    pub url: String,
    pub host: String,
    pub name: Option<String>,
    pub metadata: Option<Metadata>,
    /// In bytes.
    pub size: Option<u64>,
    /// In hexadecimal digits.
    pub sha256: Option<String>,
    pub md5: Option<String>,
    /// Names and values, as JSON.
    pub headers: Option<String>,
    /// Why it can't be fetched: it has failed already.
    pub fault: Option<String>,
}

/// An item as it is reported.
#[derive(Clone, Debug, FromRow)]
pub struct Item {
    pub number: i64,
    pub url: String,
    #[sqlx(try_from = "String")]
    pub state: ItemState,
    pub attempts: i64,
    pub http_status: Option<i64>,
    pub error_type: Option<String>,
    pub error_detail: Option<String>,
    pub file_id: Option<FileId>,
    pub bytes: Option<i64>,
}

impl TryFrom<String> for ItemState {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::read(&text).ok_or_else(|| Error::internal(format!("an item's state is {text:?}")))
    }
}

/// Which attempt at an item somebody has: nobody else may end it, and it ends once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub import: ImportId,
    pub tenant: Tenant,
    pub number: i64,
    pub claim: ClaimId,
    pub attempts: i64,
}

/// An item that was claimed.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub held: Held,
    /// Attempts that have failed before.
    pub failures: i64,
    pub url: String,
    pub host: String,
    pub name: Option<String>,
    pub metadata: Metadata,
    /// In bytes.
    pub size: Option<u64>,
    pub sha256: Option<String>,
    pub md5: Option<String>,
    pub headers: Option<String>,
}

#[derive(FromRow)]
struct ClaimedRow {
    number: i64,
    attempts: i64,
    failures: i64,
    url: String,
    host: String,
    name: Option<String>,
    metadata: Option<Json<Metadata>>,
    size: Option<i64>,
    sha256: Option<String>,
    md5: Option<String>,
    headers: Option<String>,
}

/// How an attempt ended without a file.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    pub http_status: Option<u16>,
    /// Its type and what it was.
    pub error: Option<(&'static str, String)>,
}

/// An import that has items to claim.
#[derive(Clone, Debug, FromRow)]
pub struct Claimable {
    pub id: ImportId,
    pub tenant: Tenant,
    pub options: String,
    pub created_by: String,
}

/// Imports with the sums of their counts.
macro_rules! select {
    ($which:literal) => {
        concat!(
            "SELECT i.id, i.tenant, i.state, i.options, i.created_at, i.created_by, i.finished_at,
                    CAST(SUM(c.pending) AS BIGINT) AS pending, CAST(SUM(c.fetching) AS BIGINT) AS fetching,
                    CAST(SUM(c.done) AS BIGINT) AS done, CAST(SUM(c.failed) AS BIGINT) AS failed,
                    CAST(SUM(c.cancelled) AS BIGINT) AS cancelled, CAST(SUM(c.bytes) AS BIGINT) AS bytes
             FROM imports i JOIN import_counts c ON c.import_id = i.id
             WHERE i.tenant = $1 AND i.state <> 'receiving' AND ",
            $which
        )
    };
}

/// An import whose recorded counts are not what its items are.
#[derive(Clone, Debug)]
pub struct CountsDrift {
    pub import: ImportId,
    pub tenant: Tenant,
    /// What would have to be recorded in addition.
    pub short: Counts,
}

#[derive(FromRow)]
struct DriftRow {
    id: ImportId,
    tenant: Tenant,
    #[sqlx(flatten)]
    short: Counts,
}

impl From<DriftRow> for CountsDrift {
    fn from(row: DriftRow) -> Self {
        Self {
            import: row.id,
            tenant: row.tenant,
            short: row.short,
        }
    }
}

/// What the counts lack of what the items are. One statement sees one moment, and whoever moves an item
/// changes both in one transaction: so what is lacking is not what is under way.
macro_rules! drifts {
    ($which:literal) => {
        concat!(
            "SELECT * FROM (
                SELECT i.id, i.tenant,
                       COALESCE(t.pending, 0) - COALESCE(c.pending, 0) AS pending,
                       COALESCE(t.fetching, 0) - COALESCE(c.fetching, 0) AS fetching,
                       COALESCE(t.done, 0) - COALESCE(c.done, 0) AS done,
                       COALESCE(t.failed, 0) - COALESCE(c.failed, 0) AS failed,
                       COALESCE(t.cancelled, 0) - COALESCE(c.cancelled, 0) AS cancelled,
                       COALESCE(t.bytes, 0) - COALESCE(c.bytes, 0) AS bytes
                FROM imports i
                LEFT JOIN (
                    SELECT import_id,
                           CAST(SUM(CASE state WHEN 'pending' THEN 1 ELSE 0 END) AS BIGINT) AS pending,
                           CAST(SUM(CASE state WHEN 'fetching' THEN 1 ELSE 0 END) AS BIGINT) AS fetching,
                           CAST(SUM(CASE state WHEN 'done' THEN 1 ELSE 0 END) AS BIGINT) AS done,
                           CAST(SUM(CASE state WHEN 'failed' THEN 1 ELSE 0 END) AS BIGINT) AS failed,
                           CAST(SUM(CASE state WHEN 'cancelled' THEN 1 ELSE 0 END) AS BIGINT) AS cancelled,
                           CAST(SUM(CASE state WHEN 'done' THEN bytes ELSE 0 END) AS BIGINT) AS bytes
                    FROM import_items GROUP BY import_id
                ) t ON t.import_id = i.id
                LEFT JOIN (
                    SELECT import_id, CAST(SUM(pending) AS BIGINT) AS pending,
                           CAST(SUM(fetching) AS BIGINT) AS fetching, CAST(SUM(done) AS BIGINT) AS done,
                           CAST(SUM(failed) AS BIGINT) AS failed, CAST(SUM(cancelled) AS BIGINT) AS cancelled,
                           CAST(SUM(bytes) AS BIGINT) AS bytes
                    FROM import_counts GROUP BY import_id
                ) c ON c.import_id = i.id
                WHERE i.state <> 'receiving' ", $which, "
             ) drift
             WHERE pending <> 0 OR fetching <> 0 OR done <> 0 OR failed <> 0 OR cancelled <> 0 OR bytes <> 0
             ORDER BY id"
        )
    };
}

impl Conn<'_> {
    /// Begins to receive an import.
    pub async fn import_insert(
        &mut self,
        id: ImportId,
        tenant: &Tenant,
        created_by: &str,
        now: Timestamp,
        lease_until: Timestamp,
    ) -> Result<()> {
        on!(self, |c| {
            sqlx::query(
                "INSERT INTO imports (id, tenant, state, options, created_at, created_by, lease_until)
                 VALUES ($1, $2, 'receiving', '{}', $3, $4, $5)",
            )
            .bind(id)
            .bind(tenant)
            .bind(now)
            .bind(created_by)
            .bind(lease_until)
            .execute(c)
            .await?;
        });
        // A sum of no rows is none.
        self.import_count(id, Counts::default()).await
    }

    /// Adds items to an import that is being received, and moves its lease forward. False when the
    /// lease ran out.
    pub async fn import_items_insert(
        &mut self,
        id: ImportId,
        tenant: &Tenant,
        items: &[NewItem],
        now: Timestamp,
        lease_until: Timestamp,
    ) -> Result<bool> {
        let renewed = on!(self, |c| {
            sqlx::query(
                "UPDATE imports SET lease_until = $4
                 WHERE id = $1 AND tenant = $2 AND state = 'receiving' AND lease_until > $3",
            )
            .bind(id)
            .bind(tenant)
            .bind(now)
            .bind(lease_until)
            .execute(c)
            .await?
            .rows_affected()
        });
        if renewed != 1 {
            return Ok(false);
        }
        macro_rules! insert {
            ($from:literal) => {
                concat!(
                    "INSERT INTO import_items (import_id, tenant, not_before, attempts, failures, number, url, host,
                        name, metadata, size, sha256, md5, headers, state, error_type, error_detail) ",
                    $from
                )
            };
        }
        let json = serde_json::to_string(items).map_err(Error::internal)?;
        match self {
            Self::Postgres(c, patience) => {
                let statement = async {
                    sqlx::query(insert!(
                    "SELECT $1, $2, $3, 0, 0, number, url, host, name, metadata, size, sha256, md5,
                            CASE WHEN fault IS NULL THEN headers END,
                            CASE WHEN fault IS NULL THEN 'pending' ELSE 'failed' END,
                            CASE WHEN fault IS NOT NULL THEN 'bad-url' END, fault
                     FROM json_to_recordset(CAST($4 AS JSON)) AS t (number BIGINT, url TEXT, host TEXT, name TEXT,
                          metadata JSONB, size BIGINT, sha256 TEXT, md5 TEXT, headers TEXT, fault TEXT)"
                ))
                .bind(id)
                .bind(tenant)
                .bind(now)
                .bind(json)
                .execute(&mut **c)
                .await?;
                    Ok(())
                };
                in_time(*patience, statement).await?;
            }
            Self::Sqlite(c) => {
                sqlx::query(insert!(
                    "SELECT $1, $2, $3, 0, 0, value ->> 'number', value ->> 'url', value ->> 'host',
                            value ->> 'name', value ->> 'metadata', value ->> 'size', value ->> 'sha256',
                            value ->> 'md5',
                            CASE WHEN value ->> 'fault' IS NULL THEN value ->> 'headers' END,
                            CASE WHEN value ->> 'fault' IS NULL THEN 'pending' ELSE 'failed' END,
                            CASE WHEN value ->> 'fault' IS NOT NULL THEN 'bad-url' END, value ->> 'fault'
                     FROM json_each($4)"
                ))
                .bind(id)
                .bind(tenant)
                .bind(now)
                .bind(json)
                .execute(c.ready().await?)
                .await?;
            }
        }
        let failed = items.iter().filter(|item| item.fault.is_some()).count();
        let (all, failed) = (count(items.len())?, count(failed)?);
        let counts = Counts {
            pending: all - failed,
            failed,
            ..Counts::default()
        };
        self.import_count(id, counts).await?;
        Ok(true)
    }

    /// Ends those of `numbers` that are pending.
    pub async fn import_items_drop(
        &mut self,
        id: ImportId,
        tenant: &Tenant,
        numbers: &[i64],
        ended: &Ended,
    ) -> Result<()> {
        let dropped = match self {
            Self::Postgres(c, patience) => {let statement = async { Ok(sqlx::query(
                    "UPDATE import_items SET state = 'cancelled', headers = NULL, error_type = $4, error_detail = $5
                     WHERE import_id = $1 AND tenant = $2 AND state = 'pending' AND number = ANY($3)",
                )
                .bind(id)
                .bind(tenant)
                .bind(numbers)
                .bind(ended.error_type())
                .bind(ended.error_detail())
                .execute(&mut **c)
                .await?
                .rows_affected()) };
 in_time(*patience, statement).await?
}
            Self::Sqlite(c) => {
                sqlx::query(
                    "UPDATE import_items SET state = 'cancelled', headers = NULL, error_type = $4, error_detail = $5
                     WHERE import_id = $1 AND tenant = $2 AND state = 'pending'
                       AND number IN (SELECT value FROM json_each($3))",
                )
                .bind(id)
                .bind(tenant)
                .bind(json_list(numbers)?)
                .bind(ended.error_type())
                .bind(ended.error_detail())
                .execute(c.ready().await?)
                .await?
                .rows_affected()
            }
        };
        let moved = Counts::moved(ItemState::Pending, ItemState::Cancelled, rows(dropped)?);
        self.import_count(id, moved).await
    }

    /// Makes a received import seen. False when its lease ran out.
    pub async fn import_begin(
        &mut self,
        id: ImportId,
        tenant: &Tenant,
        options: &str,
        now: Timestamp,
    ) -> Result<bool> {
        let begun = on!(self, |c| {
            sqlx::query(
                "UPDATE imports SET state = 'running', options = $3, lease_until = NULL
                 WHERE id = $1 AND tenant = $2 AND state = 'receiving' AND lease_until > $4",
            )
            .bind(id)
            .bind(tenant)
            .bind(options)
            .bind(now)
            .execute(c)
            .await?
            .rows_affected()
        });
        Ok(begun == 1)
    }

    /// Lets the lease of an import that is being received run out.
    pub async fn import_abandon(&mut self, id: ImportId, now: Timestamp) -> Result<()> {
        on!(self, |c| {
            sqlx::query(
                "UPDATE imports SET lease_until = $2 WHERE id = $1 AND state = 'receiving'",
            )
            .bind(id)
            .bind(now)
            .execute(c)
            .await?;
        });
        Ok(())
    }

    /// Imports that had ended by `ended`, the earliest first.
    pub async fn import_kept(
        &mut self,
        ended: Timestamp,
        limit: u32,
    ) -> Result<Vec<(ImportId, Tenant)>> {
        Ok(on!(self, |c| {
            sqlx::query_as(
                "SELECT id, tenant FROM imports
                 WHERE finished_at <= $1 AND state IN ('done', 'cancelled') ORDER BY finished_at LIMIT $2",
            )
            .bind(ended)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        }))
    }

    /// Makes an import that had ended by `ended` one whose sender is gone: it is not seen any more, and
    /// removed as such. False when it has not, or when that was done already.
    pub async fn import_expire(
        &mut self,
        tenant: &Tenant,
        id: ImportId,
        ended: Timestamp,
        now: Timestamp,
    ) -> Result<bool> {
        let expired = on!(self, |c| {
            sqlx::query(
                "UPDATE imports SET state = 'receiving', finished_at = NULL, lease_until = $4
                 WHERE tenant = $1 AND id = $2 AND finished_at <= $3 AND state IN ('done', 'cancelled')",
            )
            .bind(tenant)
            .bind(id)
            .bind(ended)
            .bind(now)
            .execute(c)
            .await?
            .rows_affected()
        });
        Ok(expired == 1)
    }

    /// Imports whose recorded counts are not what their items are, with what is missing. Those that are
    /// received or removed are on their way. Reads every item, at one moment.
    pub async fn import_drifts(&mut self) -> Result<Vec<CountsDrift>> {
        let rows: Vec<DriftRow> = match self {
            Self::Sqlite(c) => {
                sqlx::query_as(drifts!(""))
                    .fetch_all(c.ready().await?)
                    .await?
            }
            Self::Postgres(c, patience) => {
                let mut transaction = sqlx::Connection::begin(&mut **c).await?;
                let mut conn = Conn::Postgres(&mut transaction, *patience);
                conn.without_time_limit().await?;
                let rows = sqlx::query_as(drifts!(""))
                    .fetch_all(&mut *transaction)
                    .await?;
                transaction.commit().await?;
                rows
            }
        };
        Ok(rows.into_iter().map(CountsDrift::from).collect())
    }

    /// Records what the items of an import are; whether anything had to be changed.
    pub async fn import_counts_mend(&mut self, tenant: &Tenant, id: ImportId) -> Result<bool> {
        self.without_time_limit().await?;
        // Two who mend at once would both add what is missing.
        if self.import_lock(tenant, id).await?.is_none() {
            return Ok(false);
        }
        let mine = drifts!("AND i.id = $1");
        let row: Option<DriftRow> = match self {
            Self::Sqlite(c) => {
                sqlx::query_as(mine)
                    .bind(id)
                    .fetch_optional(c.ready().await?)
                    .await?
            }
            Self::Postgres(c, _) => {
                sqlx::query_as(mine)
                    .bind(id)
                    .fetch_optional(&mut **c)
                    .await?
            }
        };
        match row.map(CountsDrift::from) {
            None => Ok(false),
            Some(drift) => {
                self.import_count(id, drift.short).await?;
                Ok(true)
            }
        }
    }

    /// An import whose sender is gone, if there is one.
    pub async fn import_abandoned(&mut self, now: Timestamp) -> Result<Option<ImportId>> {
        Ok(on!(self, |c| {
            sqlx::query_scalar(
                "SELECT id FROM imports WHERE state = 'receiving' AND lease_until <= $1
                 ORDER BY lease_until LIMIT 1",
            )
            .bind(now)
            .fetch_optional(c)
            .await?
        }))
    }

    /// Removes up to `limit` items of an import whose sender is gone, and the import once it has none.
    /// True when all of it is gone.
    pub async fn import_remove(
        &mut self,
        id: ImportId,
        now: Timestamp,
        limit: u32,
    ) -> Result<bool> {
        let items = on!(self, |c| {
            sqlx::query(
                "DELETE FROM import_items WHERE import_id = $1 AND number IN (
                    SELECT number FROM import_items WHERE import_id = $1 ORDER BY number LIMIT $2)
                 AND EXISTS (SELECT 1 FROM imports WHERE id = $1 AND state = 'receiving' AND lease_until <= $3)",
            )
            .bind(id)
            .bind(i64::from(limit))
            .bind(now)
            .execute(c)
            .await?
            .rows_affected()
        });
        if items >= u64::from(limit) {
            return Ok(false);
        }
        let gone = on!(self, |c| {
            sqlx::query(
                "DELETE FROM imports WHERE id = $1 AND state = 'receiving' AND lease_until <= $2
                   AND NOT EXISTS (SELECT 1 FROM import_items WHERE import_id = $1)",
            )
            .bind(id)
            .bind(now)
            .execute(c)
            .await?
            .rows_affected()
        });
        if gone == 1 {
            on!(self, |c| {
                sqlx::query("DELETE FROM import_counts WHERE import_id = $1")
                    .bind(id)
                    .execute(c)
                    .await?;
            });
        }
        Ok(true)
    }

    pub async fn import_get(&mut self, tenant: &Tenant, id: ImportId) -> Result<Option<Import>> {
        let row: Option<Row> = on!(self, |c| {
            sqlx::query_as(select!("i.id = $2 GROUP BY i.id"))
                .bind(tenant)
                .bind(id)
                .fetch_optional(c)
                .await?
        });
        row.map(Import::try_from).transpose()
    }

    /// The imports before `before`, the newest first.
    pub async fn import_list(
        &mut self,
        tenant: &Tenant,
        before: Option<ImportId>,
        limit: u32,
    ) -> Result<Vec<Import>> {
        let before = before.unwrap_or(ImportId::from_uuid(uuid::Uuid::max()));
        let rows: Vec<Row> = on!(self, |c| {
            sqlx::query_as(select!(
                "i.id < $2 GROUP BY i.id ORDER BY i.id DESC LIMIT $3"
            ))
            .bind(tenant)
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        });
        rows.into_iter().map(Import::try_from).collect()
    }

    /// The state and the options of an import that is seen, kept from changing until the transaction ends.
    pub async fn import_lock(
        &mut self,
        tenant: &Tenant,
        id: ImportId,
    ) -> Result<Option<(State, String)>> {
        let found: Option<(String, String)> = match self {
            // A transaction that writes has SQLite to itself.
            Self::Sqlite(c) => {
                sqlx::query_as(
                    "SELECT state, options FROM imports WHERE tenant = $1 AND id = $2 AND state <> 'receiving'",
                )
                .bind(tenant)
                .bind(id)
                .fetch_optional(c.ready().await?)
                .await?
            }
            Self::Postgres(c, patience) => {let statement = async { Ok(sqlx::query_as(
                    "SELECT state, options FROM imports
                     WHERE tenant = $1 AND id = $2 AND state <> 'receiving' FOR UPDATE",
                )
                .bind(tenant)
                .bind(id)
                .fetch_optional(&mut **c)
                .await?) };
 in_time(*patience, statement).await?
}
        };
        found
            .map(|(state, options)| Ok((State::read(&state)?, options)))
            .transpose()
    }

    /// Changes the state of a locked import.
    pub async fn import_update(
        &mut self,
        tenant: &Tenant,
        id: ImportId,
        state: State,
        finished_at: Option<Timestamp>,
    ) -> Result<()> {
        on!(self, |c| {
            sqlx::query(
                "UPDATE imports SET state = $3, finished_at = $4 WHERE tenant = $1 AND id = $2",
            )
            .bind(tenant)
            .bind(id)
            .bind(state.as_str())
            .bind(finished_at)
            .execute(c)
            .await?;
        });
        Ok(())
    }

    /// Ends all items of a locked import that have not ended.
    pub async fn import_items_cancel(&mut self, tenant: &Tenant, id: ImportId) -> Result<u64> {
        // In this order: what is claimed meanwhile is met by the second.
        let mut moved = Counts::default();
        for from in [ItemState::Pending, ItemState::Fetching] {
            let cancelled = on!(self, |c| {
                sqlx::query(
                    "UPDATE import_items SET state = 'cancelled', headers = NULL, claim = NULL, lease_until = NULL
                     WHERE import_id = $1 AND tenant = $2 AND state = $3",
                )
                .bind(id)
                .bind(tenant)
                .bind(from.as_str())
                .execute(c)
                .await?
                .rows_affected()
            });
            moved += Counts::moved(from, ItemState::Cancelled, rows(cancelled)?);
        }
        self.import_count(id, moved).await?;
        unsigned(moved.cancelled)
    }

    /// Makes the items of a locked import that failed pending again, but for those that can't be
    /// fetched at all; how many.
    pub async fn import_items_retry(
        &mut self,
        tenant: &Tenant,
        id: ImportId,
        now: Timestamp,
    ) -> Result<i64> {
        let retried = on!(self, |c| {
            sqlx::query(
                "UPDATE import_items SET state = 'pending', failures = 0, not_before = $3,
                        http_status = NULL, error_type = NULL, error_detail = NULL
                 WHERE import_id = $1 AND tenant = $2 AND state = 'failed' AND error_type <> 'bad-url'",
            )
            .bind(id)
            .bind(tenant)
            .bind(now)
            .execute(c)
            .await?
            .rows_affected()
        });
        let retried = rows(retried)?;
        let moved = Counts::moved(ItemState::Failed, ItemState::Pending, retried);
        self.import_count(id, moved).await?;
        Ok(retried)
    }

    /// Whether an import has items that have not ended.
    pub async fn import_is_open(&mut self, tenant: &Tenant, id: ImportId) -> Result<bool> {
        Ok(on!(self, |c| {
            sqlx::query_scalar::<_, i64>(
                "SELECT COUNT(*) FROM (
                    SELECT 1 FROM (SELECT 1 FROM import_items
                                   WHERE import_id = $1 AND tenant = $2 AND state = 'pending' LIMIT 1) p
                    UNION ALL
                    SELECT 1 FROM (SELECT 1 FROM import_items
                                   WHERE import_id = $1 AND tenant = $2 AND state = 'fetching' LIMIT 1) f) o",
            )
            .bind(id)
            .bind(tenant)
            .fetch_one(c)
            .await?
        }) > 0)
    }

    /// Some of the running imports in which nothing is left to do.
    pub async fn import_finished(&mut self, limit: u32) -> Result<Vec<(ImportId, Tenant)>> {
        Ok(on!(self, |c| {
            sqlx::query_as(
                "SELECT i.id, i.tenant FROM imports i
                 WHERE i.state = 'running'
                   AND NOT EXISTS (SELECT 1 FROM import_items t WHERE t.import_id = i.id AND t.state = 'pending')
                   AND NOT EXISTS (SELECT 1 FROM import_items t WHERE t.import_id = i.id AND t.state = 'fetching')
                 ORDER BY i.id LIMIT $1",
            )
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        }))
    }

    /// Items behind `after`, by number; of one state where one is given.
    pub async fn import_items_page(
        &mut self,
        tenant: &Tenant,
        id: ImportId,
        state: Option<ItemState>,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Item>> {
        Ok(on!(self, |c| {
            let sql = if state.is_some() {
                "SELECT number, url, state, attempts, http_status, error_type, error_detail, file_id, bytes
                 FROM import_items WHERE import_id = $1 AND tenant = $2 AND number > $3 AND state = $5
                 ORDER BY number LIMIT $4"
            } else {
                "SELECT number, url, state, attempts, http_status, error_type, error_detail, file_id, bytes
                 FROM import_items WHERE import_id = $1 AND tenant = $2 AND number > $3 AND $5 = ''
                 ORDER BY number LIMIT $4"
            };
            sqlx::query_as(sql)
                .bind(id)
                .bind(tenant)
                .bind(after.unwrap_or(-1))
                .bind(i64::from(limit))
                .bind(state.map_or("", ItemState::as_str))
                .fetch_all(c)
                .await?
        }))
    }

    /// Running imports behind `after` that have items to claim now, by id.
    pub async fn import_claimable(
        &mut self,
        now: Timestamp,
        after: Option<ImportId>,
        limit: u32,
    ) -> Result<Vec<Claimable>> {
        let after = after.unwrap_or(ImportId::from_uuid(uuid::Uuid::nil()));
        Ok(on!(self, |c| {
            sqlx::query_as(
                "SELECT i.id, i.tenant, i.options, i.created_by FROM imports i
                 WHERE i.state = 'running' AND i.id > $2 AND EXISTS (
                    SELECT 1 FROM import_items t
                    WHERE t.import_id = i.id AND t.state = 'pending' AND t.not_before <= $1)
                 ORDER BY i.id LIMIT $3",
            )
            .bind(now)
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        }))
    }

    /// How many imports run, how many of their items wait and are claimed, and when the first lease runs out.
    pub async fn import_standing(&mut self) -> Result<(i64, i64, i64, Option<Timestamp>)> {
        let (running, pending, fetching) = on!(self, |c| {
            sqlx::query_as(
                "SELECT COUNT(DISTINCT i.id), CAST(COALESCE(SUM(c.pending), 0) AS BIGINT),
                        CAST(COALESCE(SUM(c.fetching), 0) AS BIGINT)
                 FROM imports i JOIN import_counts c ON c.import_id = i.id WHERE i.state = 'running'",
            )
            .fetch_one(c)
            .await?
        });
        let first = on!(self, |c| {
            sqlx::query_scalar("SELECT MIN(lease_until) FROM import_items WHERE state = 'fetching'")
                .fetch_one(c)
                .await?
        });
        Ok((running, pending, fetching, first))
    }

    /// From when on the item of a running import may be claimed that waits the longest.
    pub async fn import_oldest_pending(&mut self) -> Result<Option<Timestamp>> {
        Ok(on!(self, |c| {
            sqlx::query_scalar(
                "SELECT MIN((SELECT MIN(p.not_before) FROM import_items p
                             WHERE p.import_id = i.id AND p.state = 'pending'))
                 FROM imports i WHERE i.state = 'running'",
            )
            .fetch_one(c)
            .await?
        }))
    }

    /// The next items of an import that may be claimed now, each with its host.
    pub async fn import_candidates(
        &mut self,
        tenant: &Tenant,
        id: ImportId,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(i64, String)>> {
        Ok(on!(self, |c| {
            sqlx::query_as(
                "SELECT number, host FROM import_items
                 WHERE import_id = $1 AND tenant = $2 AND state = 'pending' AND not_before <= $3
                 ORDER BY not_before, number LIMIT $4",
            )
            .bind(id)
            .bind(tenant)
            .bind(now)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        }))
    }

    /// Claims those of `numbers` that are still pending, and that nobody else is claiming now.
    pub async fn import_claim(
        &mut self,
        tenant: &Tenant,
        id: ImportId,
        numbers: &[i64],
        claim: ClaimId,
        lease_until: Timestamp,
    ) -> Result<Vec<Claimed>> {
        let mut found: Vec<ClaimedRow> = match self {
            // One look by the primary key for each number, whatever the planner believes of how many are
            // pending: it learns that late, and the pending ones once for each number is 10 s for 100,000.
            Self::Postgres(c, patience) => {
                let statement = async {
                    Ok(sqlx::query_as(
                        "WITH free AS MATERIALIZED (
                             SELECT locked.number FROM unnest($3::bigint[]) AS asked(number) CROSS JOIN LATERAL (
                                 SELECT number FROM import_items
                                 WHERE import_id = $1 AND number = asked.number AND tenant = $2 AND state = 'pending'
                                 FOR UPDATE SKIP LOCKED
                             ) AS locked
                         )
                         UPDATE import_items AS i
                         SET state = 'fetching', attempts = attempts + 1, claim = $4, lease_until = $5
                         FROM free WHERE i.import_id = $1 AND i.number = free.number
                         RETURNING i.number, attempts, failures, url, host, name, metadata, size, sha256, md5, headers",
                    )
                    .bind(id)
                    .bind(tenant)
                    .bind(numbers)
                    .bind(claim)
                    .bind(lease_until)
                    .fetch_all(&mut **c)
                    .await?)
                };
                in_time(*patience, statement).await?
            }
            Self::Sqlite(c) => {
                sqlx::query_as(
                    "UPDATE import_items SET state = 'fetching', attempts = attempts + 1, claim = $4, lease_until = $5
                     WHERE import_id = $1 AND tenant = $2 AND state = 'pending'
                       AND number IN (SELECT value FROM json_each($3))
                     RETURNING number, attempts, failures, url, host, name, metadata, size, sha256, md5, headers",
                )
                .bind(id)
                .bind(tenant)
                .bind(json_list(numbers)?)
                .bind(claim)
                .bind(lease_until)
                .fetch_all(c.ready().await?)
                .await?
            }
        };
        let moved = Counts::moved(ItemState::Pending, ItemState::Fetching, count(found.len())?);
        self.import_count(id, moved).await?;
        // An update returns its rows in any order; the items of a host wait for each other in this one.
        found.sort_unstable_by_key(|row| row.number);
        let mut claimed = Vec::with_capacity(found.len());
        for row in found {
            claimed.push(Claimed {
                held: Held {
                    import: id,
                    tenant: tenant.clone(),
                    number: row.number,
                    claim,
                    attempts: row.attempts,
                },
                failures: row.failures,
                url: row.url,
                host: row.host,
                name: row.name,
                metadata: row.metadata.map(|json| json.0).unwrap_or_default(),
                size: row.size.map(unsigned).transpose()?,
                sha256: row.sha256,
                md5: row.md5,
                headers: row.headers,
            });
        }
        Ok(claimed)
    }

    /// Moves the leases of those of `numbers` forward that are still held under the claim; which these are.
    pub async fn import_renew(
        &mut self,
        id: ImportId,
        numbers: &[i64],
        claim: ClaimId,
        lease_until: Timestamp,
    ) -> Result<Vec<i64>> {
        match self {
            Self::Postgres(c, patience) => {
                let statement = async {
                    Ok(sqlx::query_scalar(
                        "UPDATE import_items SET lease_until = $4
                         WHERE import_id = $1 AND number = ANY($2) AND state = 'fetching' AND claim = $3
                         RETURNING number",
                    )
                    .bind(id)
                    .bind(numbers)
                    .bind(claim)
                    .bind(lease_until)
                    .fetch_all(&mut **c)
                    .await?)
                };
                in_time(*patience, statement).await
            }
            Self::Sqlite(c) => Ok(sqlx::query_scalar(
                "UPDATE import_items SET lease_until = $4
                 WHERE import_id = $1 AND number IN (SELECT value FROM json_each($2))
                   AND state = 'fetching' AND claim = $3
                 RETURNING number",
            )
            .bind(id)
            .bind(json_list(numbers)?)
            .bind(claim)
            .bind(lease_until)
            .fetch_all(c.ready().await?)
            .await?),
        }
    }

    /// Up to `limit` items whose lease ran out, with the attempts that failed before.
    pub async fn import_expired(&mut self, now: Timestamp, limit: u32) -> Result<Vec<(Held, i64)>> {
        let found: Vec<(ImportId, Tenant, i64, ClaimId, i64, i64)> = on!(self, |c| {
            sqlx::query_as(
                "SELECT import_id, tenant, number, claim, attempts, failures FROM import_items
                 WHERE state = 'fetching' AND lease_until <= $1 ORDER BY import_id, number LIMIT $2",
            )
            .bind(now)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        });
        let held = |(import, tenant, number, claim, attempts, failures)| {
            let held = Held {
                import,
                tenant,
                number,
                claim,
                attempts,
            };
            (held, failures)
        };
        Ok(found.into_iter().map(held).collect())
    }

    /// Ends an item with the file that was made of it, and leaves the counts to the caller, who has more
    /// to do before others have to wait. False when it is not held any more.
    pub async fn import_item_done(
        &mut self,
        held: &Held,
        http_status: u16,
        file: FileId,
        bytes: u64,
    ) -> Result<bool> {
        let bytes = signed(bytes)?;
        let done = on!(self, |c| {
            sqlx::query(
                "UPDATE import_items SET state = 'done', http_status = $6, file_id = $7, bytes = $8, headers = NULL,
                        claim = NULL, lease_until = NULL, error_type = NULL, error_detail = NULL
                 WHERE import_id = $1 AND number = $2 AND tenant = $3 AND state = 'fetching'
                   AND claim = $4 AND attempts = $5",
            )
            .bind(held.import)
            .bind(held.number)
            .bind(&held.tenant)
            .bind(held.claim)
            .bind(held.attempts)
            .bind(i64::from(http_status))
            .bind(file)
            .bind(bytes)
            .execute(c)
            .await?
            .rows_affected()
        });
        Ok(done == 1)
    }

    /// Ends an item without a file, or lets it be claimed again from `not_before` on, in a locked
    /// import. `failures`: attempts that have failed by now. False when it is not held any more.
    pub async fn import_item_end(
        &mut self,
        held: &Held,
        to: ItemState,
        failures: i64,
        not_before: Timestamp,
        ended: &Ended,
    ) -> Result<bool> {
        let changed = on!(self, |c| {
            sqlx::query(
                "UPDATE import_items SET state = $6, failures = $7, not_before = $8, http_status = $9,
                        error_type = $10, error_detail = $11, claim = NULL, lease_until = NULL,
                        headers = CASE WHEN $6 = 'pending' THEN headers END
                 WHERE import_id = $1 AND number = $2 AND tenant = $3 AND state = 'fetching'
                   AND claim = $4 AND attempts = $5",
            )
            .bind(held.import)
            .bind(held.number)
            .bind(&held.tenant)
            .bind(held.claim)
            .bind(held.attempts)
            .bind(to.as_str())
            .bind(failures)
            .bind(not_before)
            .bind(ended.http_status.map(i64::from))
            .bind(ended.error_type())
            .bind(ended.error_detail())
            .execute(c)
            .await?
            .rows_affected()
        });
        if changed != 1 {
            return Ok(false);
        }
        let moved = Counts::moved(ItemState::Fetching, to, 1);
        self.import_count(held.import, moved).await?;
        Ok(true)
    }

    /// Records a change of the counts. Late in its transaction, for others wait for the row from here on.
    pub async fn import_count(&mut self, id: ImportId, change: Counts) -> Result<()> {
        let shard = match self {
            Self::Postgres(..) => rand::random_range(0..SHARDS),
            Self::Sqlite(_) => 0,
        };
        run!(
            self,
            "INSERT INTO import_counts (import_id, shard, pending, fetching, done, failed, cancelled, bytes)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (import_id, shard) DO UPDATE SET
                pending = import_counts.pending + excluded.pending,
                fetching = import_counts.fetching + excluded.fetching,
                done = import_counts.done + excluded.done,
                failed = import_counts.failed + excluded.failed,
                cancelled = import_counts.cancelled + excluded.cancelled,
                bytes = import_counts.bytes + excluded.bytes",
            [
                id,
                shard,
                change.pending,
                change.fetching,
                change.done,
                change.failed,
                change.cancelled,
                change.bytes,
            ]
        );
        Ok(())
    }
}

impl Ended {
    fn error_type(&self) -> Option<&'static str> {
        self.error.as_ref().map(|(name, _)| *name)
    }

    fn error_detail(&self) -> Option<&str> {
        self.error.as_ref().map(|(_, detail)| detail.as_str())
    }
}

impl TryFrom<Row> for Import {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: row.id,
            tenant: row.tenant,
            state: State::read(&row.state)?,
            options: row.options,
            created_at: row.created_at,
            created_by: row.created_by,
            finished_at: row.finished_at,
            counts: row.counts,
        })
    }
}

fn json_list(numbers: &[i64]) -> Result<String> {
    serde_json::to_string(numbers).map_err(Error::internal)
}

fn count(items: usize) -> Result<i64> {
    i64::try_from(items).map_err(Error::internal)
}

fn rows(affected: u64) -> Result<i64> {
    i64::try_from(affected).map_err(Error::internal)
}
