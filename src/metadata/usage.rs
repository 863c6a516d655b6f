//! The `usage` table: what each tenant takes, kept in step by every transaction that changes it.
//!
//! A tenant's usage is the sum of its rows, so that those who write for one tenant at the same time
//! need not wait for each other's commits. A tenant with a quota has its changes in row 0 alone,
//! where they wait, and where each is compared with the quota before it is made.

use sqlx::FromRow;

use crate::error::Result;
use crate::id::Tenant;

use super::Conn;

/// Rows of a tenant on PostgreSQL. SQLite has one writer, and needs one row.
const SHARDS: i64 = 16;

/// Bytes and files; below zero where they are taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct Amount {
    pub bytes: i64,
    pub files: i64,
}

impl Amount {
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.files += other.files;
    }
}

impl std::ops::Neg for Amount {
    type Output = Self;

    fn neg(self) -> Self {
        Self {
            bytes: -self.bytes,
            files: -self.files,
        }
    }
}

/// How a tenant's usage changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub used: Amount,
    /// By writing objects.
    pub reserved: Amount,
}

/// What a tenant may use at most; None: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    pub bytes: Option<u64>,
    pub files: Option<u64>,
}

impl Quota {
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// By how much what is recorded falls short of what the rows of files, versions and writing
/// objects add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    pub tenant: Tenant,
    pub short: Change,
}

type DriftRow = (Tenant, i64, i64, i64, i64);

/// All that is counted, and minus all that is recorded. One statement sees one state of the database.
macro_rules! drift {
    ($of:literal) => {
        concat!(
            "SELECT tenant, CAST(SUM(bytes) AS BIGINT), CAST(SUM(files) AS BIGINT),
                    CAST(SUM(reserved_bytes) AS BIGINT), CAST(SUM(reserved_files) AS BIGINT)
             FROM (SELECT tenant, size AS bytes, 1 AS files, 0 AS reserved_bytes, 0 AS reserved_files FROM files
                   UNION ALL
                   SELECT tenant, size, 0, 0, 0 FROM versions
                   UNION ALL
                   SELECT tenant, 0, 0, reserved_bytes, reserved_files FROM objects WHERE state = 'writing'
                   UNION ALL
                   SELECT tenant, -bytes, -files, -reserved_bytes, -reserved_files FROM usage) counted ",
            $of,
            " GROUP BY tenant
             HAVING SUM(bytes) <> 0 OR SUM(files) <> 0 OR SUM(reserved_bytes) <> 0 OR SUM(reserved_files) <> 0
             ORDER BY tenant"
        )
    };
}

impl Conn<'_> {
    /// Changes a tenant's usage. Last in its transaction, for others wait for the row from here on.
    ///
    /// False, and nothing is changed, where what is used and reserved would exceed the quota.
    /// Taking away is never refused.
    pub async fn usage_change(
        &mut self,
        tenant: &Tenant,
        change: Change,
        quota: Quota,
    ) -> Result<bool> {
        if change == Change::default() {
            return Ok(true);
        }
        let grows = |used: i64, reserved: i64| used + reserved > 0;
        let quota = Quota {
            bytes: quota
                .bytes
                .filter(|_| grows(change.used.bytes, change.reserved.bytes)),
            files: quota
                .files
                .filter(|_| grows(change.used.files, change.reserved.files)),
        };
        if quota.is_none() {
            self.usage_add(tenant, change, change.reserved.is_zero())
                .await?;
            return Ok(true);
        }
        if self.usage_add_within(tenant, change, quota).await? {
            return Ok(true);
        }
        self.usage_begin(tenant).await?;
        self.usage_add_within(tenant, change, quota).await
    }

    /// Makes the row that changes wait for, where there is none yet.
    async fn usage_begin(&mut self, tenant: &Tenant) -> Result<()> {
        on!(self, |c| {
            sqlx::query(
                "INSERT INTO usage (tenant, shard, bytes, files, reserved_bytes, reserved_files)
                 VALUES ($1, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING",
            )
            .bind(tenant)
            .execute(c)
            .await?;
        });
        Ok(())
    }

    async fn usage_add(&mut self, tenant: &Tenant, change: Change, any_row: bool) -> Result<()> {
        let shard = match self {
            Self::Postgres(..) if any_row => rand::random_range(0..SHARDS),
            _ => 0,
        };
        run!(
            self,
            "INSERT INTO usage (tenant, shard, bytes, files, reserved_bytes, reserved_files)
                 VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (tenant, shard) DO UPDATE SET
                    bytes = usage.bytes + excluded.bytes,
                    files = usage.files + excluded.files,
                    reserved_bytes = usage.reserved_bytes + excluded.reserved_bytes,
                    reserved_files = usage.reserved_files + excluded.reserved_files",
            [
                tenant,
                shard,
                change.used.bytes,
                change.used.files,
                change.reserved.bytes,
                change.reserved.files
            ]
        );
        Ok(())
    }

    async fn usage_add_within(
        &mut self,
        tenant: &Tenant,
        change: Change,
        quota: Quota,
    ) -> Result<bool> {
        let most = |limit: Option<u64>| {
            limit.map_or(i64::MAX, |limit| i64::try_from(limit).unwrap_or(i64::MAX))
        };
        let changed = on!(self, |c| {
            sqlx::query(
                "UPDATE usage SET bytes = bytes + $2, files = files + $3,
                        reserved_bytes = reserved_bytes + $4, reserved_files = reserved_files + $5
                 WHERE tenant = $1 AND shard = 0
                   AND bytes + reserved_bytes + $2 + $4 + (
                        SELECT COALESCE(CAST(SUM(o.bytes + o.reserved_bytes) AS BIGINT), 0)
                        FROM usage o WHERE o.tenant = $1 AND o.shard <> 0) <= $6
                   AND files + reserved_files + $3 + $5 + (
                        SELECT COALESCE(CAST(SUM(o.files + o.reserved_files) AS BIGINT), 0)
                        FROM usage o WHERE o.tenant = $1 AND o.shard <> 0) <= $7",
            )
            .bind(tenant)
            .bind(change.used.bytes)
            .bind(change.used.files)
            .bind(change.reserved.bytes)
            .bind(change.reserved.files)
            .bind(most(quota.bytes))
            .bind(most(quota.files))
            .execute(c)
            .await?
            .rows_affected()
        });
        Ok(changed == 1)
    }

    /// What a tenant uses; what is reserved is not used yet.
    pub async fn usage_get(&mut self, tenant: &Tenant) -> Result<Amount> {
        Ok(on!(self, |c| {
            sqlx::query_as(
                "SELECT COALESCE(CAST(SUM(bytes) AS BIGINT), 0) AS bytes,
                        COALESCE(CAST(SUM(files) AS BIGINT), 0) AS files
                 FROM usage WHERE tenant = $1",
            )
            .bind(tenant)
            .fetch_one(c)
            .await?
        }))
    }

    /// The next tenant by name that has, or had, a file; of all where `tenant` is none.
    pub async fn usage_tenant_behind(&mut self, tenant: Option<&Tenant>) -> Result<Option<Tenant>> {
        let behind = tenant.map_or("", Tenant::as_str);
        Ok(on!(self, |c| {
            sqlx::query_scalar("SELECT MIN(tenant) FROM usage WHERE tenant > $1")
                .bind(behind)
                .fetch_one(c)
                .await?
        }))
    }

    /// The tenants whose recorded usage is not what there is. Reads every row, at one moment: on a
    /// reader's connection, so that no writer waits.
    pub async fn usage_drifts(&mut self) -> Result<Vec<Drift>> {
        let rows: Vec<DriftRow> = match self {
            Self::Sqlite(c) => {
                sqlx::query_as(drift!(""))
                    .fetch_all(c.ready().await?)
                    .await?
            }
            Self::Postgres(c, patience) => {
                let mut transaction = sqlx::Connection::begin(&mut **c).await?;
                let mut conn = Conn::Postgres(&mut transaction, *patience);
                conn.without_time_limit().await?;
                let rows = sqlx::query_as(drift!(""))
                    .fetch_all(&mut *transaction)
                    .await?;
                transaction.commit().await?;
                rows
            }
        };
        Ok(rows.into_iter().map(Drift::from).collect())
    }

    /// Records what there is for one tenant; whether anything had to be changed.
    pub async fn usage_mend(&mut self, tenant: &Tenant) -> Result<bool> {
        self.without_time_limit().await?;
        // Without a row to wait for, two who mend at once would both add what is missing.
        self.usage_begin(tenant).await?;
        // Whoever changes the usage now has changed the rows that are counted, unseen: it must come
        // after this.
        if let Self::Postgres(c, _) = self {
            sqlx::query("SELECT shard FROM usage WHERE tenant = $1 ORDER BY shard FOR UPDATE")
                .bind(tenant)
                .fetch_all(&mut **c)
                .await?;
        }
        let mine = drift!("WHERE tenant = $1");
        let row: Option<DriftRow> = match self {
            Self::Sqlite(c) => {
                sqlx::query_as(mine)
                    .bind(tenant)
                    .fetch_optional(c.ready().await?)
                    .await?
            }
            Self::Postgres(c, _) => {
                sqlx::query_as(mine)
                    .bind(tenant)
                    .fetch_optional(&mut **c)
                    .await?
            }
        };
        match row.map(Drift::from) {
            None => Ok(false),
            Some(drift) => {
                self.usage_add(tenant, drift.short, false).await?;
                Ok(true)
            }
        }
    }

    /// For the rest of the transaction: a look at every row takes longer than any request may. So it
    /// is not made by `on!`, which would give it up.
    pub(super) async fn without_time_limit(&mut self) -> Result<()> {
        if let Self::Postgres(c, _) = self {
            sqlx::query("SELECT set_config('statement_timeout', '0', true)")
                .execute(&mut **c)
                .await?;
        }
        Ok(())
    }
}

impl From<DriftRow> for Drift {
    fn from((tenant, bytes, files, reserved_bytes, reserved_files): DriftRow) -> Self {
        Self {
            tenant,
            short: Change {
                used: Amount { bytes, files },
                reserved: Amount {
                    bytes: reserved_bytes,
                    files: reserved_files,
                },
            },
        }
    }
}
