//! The database: SQLite on one machine, PostgreSQL past it.
//!
//! One struct for both. SQL is written once wherever the two agree and expanded for both drivers
//! by [`on!`]; the few statements that must differ stand in [`dialect`].
//!
//! Reads take a connection ([`Metadata::reader`]); every change goes through [`Metadata::write`],
//! one transaction that either happened as a whole or not at all.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use sqlx::PgConnection;

use crate::error::{Error, Result};
use crate::faults::Faults;
use crate::metrics::Histogram;
use crate::trace::{self, span_within};

/// Expands one body for both drivers: `$c` is the driver's own connection in each.
macro_rules! on {
    ($conn:expr, |$c:ident| $body:expr) => {
        match $conn {
            $crate::metadata::Conn::Sqlite(conn) => {
                let $c: &mut sqlx::SqliteConnection = conn.ready().await?;
                $body
            }
            $crate::metadata::Conn::Postgres(conn, patience) => {
                let $c: &mut sqlx::PgConnection = conn;
                let statement = async {
                    let value = $body;
                    Ok::<_, $crate::error::Error>(value)
                };
                $crate::metadata::postgres::in_time(*patience, statement).await?
            }
        }
    };
}

/// Runs a statement that tells nothing but that it failed. SQLite may run it later, together with those
/// behind it, but before the next one that is asked for its outcome, and before the commit.
macro_rules! run {
    ($conn:expr, $sql:expr, [$($value:expr),+ $(,)?]) => {
        match $conn {
            $crate::metadata::Conn::Sqlite(conn) => {
                let mut statement = conn.later($sql);
                $(statement.bind($value)?;)+
                conn.taken().await?;
            }
            $crate::metadata::Conn::Postgres(conn, patience) => {
                let statement = async {
                    sqlx::query($sql)$(.bind($value))+.execute(&mut **conn).await?;
                    Ok(())
                };
                $crate::metadata::postgres::in_time(*patience, statement).await?;
            }
        }
    };
}

/// Like `run!`, for a statement that has to change one row: where it changes none, the transaction fails
/// with the error that `$otherwise` makes, at once or when SQLite runs it.
macro_rules! run_one {
    ($conn:expr, $sql:expr, [$($value:expr),+ $(,)?], $otherwise:expr) => {
        match $conn {
            $crate::metadata::Conn::Sqlite(conn) => {
                let mut statement = conn.later_one($sql, $otherwise);
                $(statement.bind($value)?;)+
                conn.taken().await?;
            }
            $crate::metadata::Conn::Postgres(conn, patience) => {
                let statement = async {
                    let done = sqlx::query($sql)$(.bind($value))+.execute(&mut **conn).await?;
                    Ok(done.rows_affected())
                };
                if $crate::metadata::postgres::in_time(*patience, statement).await? != 1 {
                    return Err($otherwise());
                }
            }
        }
    };
}

pub mod audit;
mod containment;
pub mod deployment;
mod dialect;
pub mod direct_parts;
pub mod events;
pub mod files;
pub mod hashes;
pub mod idempotency;
pub mod imports;
pub mod links;
pub mod objects;
mod postgres;
pub mod search;
mod sqlite;
pub mod uploads;
pub mod usage;
pub mod versions;

static POSTGRES_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations/postgres");
static SQLITE_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations/sqlite");

#[derive(Clone, Debug)]
pub struct Settings {
    /// `sqlite:PATH` or `postgres://…`.
    pub url: String,
    pub max_connections: u32,
    /// How long to wait for a connection, and how long PostgreSQL may take for one statement.
    pub timeout: Duration,
    /// Whether to bring the schema up to date; else it is only checked.
    pub migrate: bool,
}

#[derive(Clone)]
pub struct Metadata {
    db: Db,
    faults: Faults,
    /// For connections of a pool.
    waits: Histogram,
}

/// The fault points: before and behind a transaction, before its commit, and before a look.
const BEGIN: &str = "metadata.begin";
const COMMIT: &str = "metadata.commit";
const COMMITTED: &str = "metadata.committed";
const READ: &str = "metadata.read";

#[derive(Clone)]
enum Db {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Pool),
}

impl Db {
    /// As OpenTelemetry calls it.
    fn name(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgresql",
        }
    }
}

/// A connection that reads what was committed.
pub struct Reader {
    lent: Lent,
    /// For as long as it is lent.
    _span: tracing::Span,
}

enum Lent {
    Sqlite(sqlx::pool::PoolConnection<sqlx::Sqlite>),
    Postgres(postgres::Lease),
}

/// Where statements run: a reader's connection, or a transaction. Its methods stand by table, in
/// the modules of this folder.
pub enum Conn<'c> {
    Sqlite(sqlite::Connection<'c>),
    /// And how long a statement is waited for.
    Postgres(&'c mut PgConnection, Duration),
}

impl Reader {
    pub fn conn(&mut self) -> Conn<'_> {
        match &mut self.lent {
            Lent::Sqlite(conn) => Conn::Sqlite(sqlite::Connection::new(conn)),
            Lent::Postgres(lease) => lease.conn(),
        }
    }
}

impl Metadata {
    /// Connects, and migrates or checks the schema.
    ///
    /// # Errors
    /// An URL that can't be read, a database that can't be reached, a schema that is too old and may not be migrated,
    /// or one that needs a newer binary.
    pub async fn open(settings: &Settings) -> Result<Self> {
        Self::open_with(settings, Faults::none()).await
    }

    /// The same, with fault points.
    ///
    /// # Errors
    /// As [`Metadata::open`].
    pub async fn open_with(settings: &Settings, faults: Faults) -> Result<Self> {
        let db = match settings.url.split_once(':') {
            Some(("sqlite", _)) => Db::Sqlite(
                sqlite::Sqlite::open(settings, &SQLITE_MIGRATIONS, faults.clone()).await?,
            ),
            Some(("postgres" | "postgresql", _)) => Db::Postgres(
                postgres::Pool::open(settings, &POSTGRES_MIGRATIONS, faults.clone()).await?,
            ),
            // Not shown: it may hold a password.
            _ => {
                return Err(Error::internal(
                    "the database's URL begins with neither sqlite: nor postgres:",
                ));
            }
        };
        Ok(Self {
            db,
            faults,
            waits: Histogram::default(),
        })
    }

    /// Has all waits for connections counted from now on.
    #[must_use]
    pub fn measured_by(mut self, waits: Histogram) -> Self {
        if let Db::Postgres(pool) = &mut self.db {
            pool.waits = waits.clone();
        }
        self.waits = waits;
        self
    }

    pub async fn reader(&self) -> Result<Reader> {
        let span = span_within!(
            "database read",
            otel.kind = "client",
            db.system.name = self.db.name(),
            db.operation.name = "read",
        );
        let lent = self
            .lend()
            .await
            .inspect_err(|error| trace::failed(&span, error))?;
        Ok(Reader { lent, _span: span })
    }

    async fn lend(&self) -> Result<Lent> {
        self.faults.step(READ).await?;
        Ok(match &self.db {
            Db::Sqlite(sqlite) => {
                Lent::Sqlite(waited(&self.waits, sqlite.readers().acquire()).await?)
            }
            Db::Postgres(pool) => Lent::Postgres(pool.lease().await?),
        })
    }

    /// Runs `body` in one transaction: committed when it answers `Ok`, rolled back when it
    /// answers `Err`. The answer comes after the commit.
    ///
    /// `input` is what the body works on. The body may run more than once (a deadlock, a
    /// serialisation failure), so it must have no effect but on the database.
    ///
    /// On SQLite the transaction is finished even when the caller goes away meanwhile.
    ///
    /// # Errors
    /// What the body answers; `Unavailable` when the database can't be reached. Then, and only
    /// then, it is not known whether the transaction was committed.
    pub async fn write<I, T, F>(&self, input: I, body: F) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
        F: for<'a, 'c> Fn(&'a mut Conn<'c>, &'a I) -> BoxFuture<'a, Result<T>>
            + Send
            + Sync
            + 'static,
    {
        // Whose transaction it is, which says more than its statements, and nothing of their values.
        let span = span_within!(
            "database write",
            otel.kind = "client",
            db.system.name = self.db.name(),
            db.operation.name = "transaction",
            code.function.name = std::any::type_name::<F>().trim_end_matches("::{{closure}}"),
        );
        let transaction = async {
            self.faults.step(BEGIN).await?;
            let value = match &self.db {
                Db::Sqlite(sqlite) => sqlite.write(input, body).await?,
                Db::Postgres(pool) => pool.write(&input, &body).await?,
            };
            self.faults.step(COMMITTED).await?;
            Ok(value)
        };
        transaction
            .await
            .inspect_err(|error| trace::failed(&span, error))
    }

    /// Connections of this process that are lent, that are idle, and the most there may be: on SQLite, of
    /// readers.
    pub fn connections(&self) -> (u32, u32, u32) {
        macro_rules! of {
            ($pool:expr) => {{
                let idle = u32::try_from($pool.num_idle()).unwrap_or(u32::MAX);
                let most = $pool.options().get_max_connections();
                ($pool.size().saturating_sub(idle), idle, most)
            }};
        }
        match &self.db {
            Db::Sqlite(sqlite) => of!(sqlite.readers()),
            Db::Postgres(pool) => of!(pool.pool()),
        }
    }

    /// Whether transactions that come together share a commit by themselves.
    pub fn groups_commits(&self) -> bool {
        matches!(self.db, Db::Sqlite(_))
    }

    /// Answers when the database does.
    pub async fn ping(&self) -> Result<()> {
        let mut reader = self.reader().await?;
        on!(&mut reader.conn(), |c| {
            sqlx::query("SELECT 1").execute(c).await?;
        });
        Ok(())
    }

    /// Finishes what is under way and closes every connection.
    pub async fn close(&self) {
        match &self.db {
            Db::Sqlite(sqlite) => sqlite.close().await,
            Db::Postgres(pool) => pool.close().await,
        }
    }
}

/// Counts how long it took, whatever came of it.
async fn waited<T>(waits: &Histogram, lent: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let outcome = lent.await;
    waits.observe(began.elapsed());
    outcome
}

/// A database that a newer binary has migrated is no obstacle: migrations expand before they
/// contract, so an old replica may restart during a rolling upgrade.
fn migrator(migrations: &'static sqlx::migrate::Migrator) -> sqlx::migrate::Migrator {
    let mut migrator =
        sqlx::migrate::Migrator::with_migrations(migrations.iter().cloned().collect());
    migrator.set_ignore_missing(true);
    migrator
}

async fn schema_check(conn: &mut Conn<'_>, migrations: &sqlx::migrate::Migrator) -> Result<()> {
    let found: Result<Vec<i64>, sqlx::Error> = on!(conn, |c| {
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
            .fetch_all(c)
            .await
    });
    match found {
        // Each of them: a lower number may have come after a higher one.
        Ok(found) if migrations.iter().all(|one| found.contains(&one.version)) => Ok(()),
        Err(error) if !is_refusal(&error) => Err(error.into()),
        Ok(_) | Err(_) => Err(Error::internal(
            "the database's schema is too old: run `box migrate`",
        )),
    }
}

/// Whether this binary is new enough: a migration that contracts raises what is needed.
async fn binary_check(conn: &mut Conn<'_>, migrations: &sqlx::migrate::Migrator) -> Result<()> {
    let needed: i64 = on!(conn, |c| {
        sqlx::query_scalar("SELECT migration FROM lowest_binary")
            .fetch_one(c)
            .await?
    });
    let known = migrations.iter().map(|one| one.version).max().unwrap_or(0);
    if needed > known {
        return Err(Error::internal(format!(
            "the database needs a newer version of the service: one that knows migration {needed}, and this one knows {known}"
        )));
    }
    Ok(())
}

/// The database was there, and found the statement wrong.
fn is_refusal(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(_)) && !is_away(error)
}

fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(database) => {
            database.code().is_some_and(|code| dialect::is_away(&code))
        }
        _ => false,
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if is_away(&error) {
            Self::unavailable(error)
        } else {
            Self::internal(error)
        }
    }
}
