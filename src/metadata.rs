//! The database: SQLite on one machine, PostgreSQL past it.
//!
//! One struct for both. SQL is written once wherever the two agree and expanded for both drivers
//! by [`on!`]; the few statements that must differ stand in [`dialect`].
//!
//! Reads take a connection ([`Metadata::reader`]); every change goes through [`Metadata::write`],
//! one transaction that either happened as a whole or not at all.

use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection, PgPool, Postgres};

use crate::error::{Error, Result};
use crate::faults::Faults;

/// Expands one body for both drivers: `$c` is the driver's own connection in each.
macro_rules! on {
    ($conn:expr, |$c:ident| $body:expr) => {
        match $conn {
            $crate::metadata::Conn::Sqlite(conn) => {
                let $c: &mut sqlx::SqliteConnection = conn.ready().await?;
                $body
            }
            $crate::metadata::Conn::Postgres(conn) => {
                let $c: &mut sqlx::PgConnection = conn;
                $body
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
            $crate::metadata::Conn::Postgres(conn) => {
                sqlx::query($sql)$(.bind($value))+.execute(&mut **conn).await?;
            }
        }
    };
}

mod containment;
pub mod deployment;
mod dialect;
pub mod events;
pub mod files;
pub mod idempotency;
pub mod imports;
pub mod objects;
pub mod search;
mod sqlite;
pub mod usage;
pub mod versions;

static POSTGRES_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations/postgres");
static SQLITE_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations/sqlite");

/// How often a transaction that PostgreSQL gave up for another's sake is tried.
const ATTEMPTS: u32 = 8;

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
}

/// The fault points: before and behind a transaction, before its commit, and before a look.
const BEGIN: &str = "metadata.begin";
const COMMIT: &str = "metadata.commit";
const COMMITTED: &str = "metadata.committed";
const READ: &str = "metadata.read";

#[derive(Clone)]
enum Db {
    Sqlite(sqlite::Sqlite),
    Postgres(PgPool),
}

/// A connection that reads what was committed.
pub enum Reader {
    Sqlite(sqlx::pool::PoolConnection<sqlx::Sqlite>),
    Postgres(sqlx::pool::PoolConnection<Postgres>),
}

/// Where statements run: a reader's connection, or a transaction. Its methods stand by table, in
/// the modules of this folder.
pub enum Conn<'c> {
    Sqlite(sqlite::Connection<'c>),
    Postgres(&'c mut PgConnection),
}

impl Reader {
    pub fn conn(&mut self) -> Conn<'_> {
        match self {
            Self::Sqlite(conn) => Conn::Sqlite(sqlite::Connection::new(conn)),
            Self::Postgres(conn) => Conn::Postgres(conn),
        }
    }
}

impl Metadata {
    /// Connects, and migrates or checks the schema.
    ///
    /// # Errors
    /// An URL that can't be read, a database that can't be reached, a schema that is too old and may not be migrated.
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
            Some(("postgres" | "postgresql", _)) => Db::Postgres(postgres_open(settings).await?),
            // Not shown: it may hold a password.
            _ => {
                return Err(Error::internal(
                    "the database's URL begins with neither sqlite: nor postgres:",
                ));
            }
        };
        Ok(Self { db, faults })
    }

    pub async fn reader(&self) -> Result<Reader> {
        self.faults.step(READ).await?;
        Ok(match &self.db {
            Db::Sqlite(sqlite) => Reader::Sqlite(sqlite.readers().acquire().await?),
            Db::Postgres(pool) => Reader::Postgres(pool.acquire().await?),
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
        self.faults.step(BEGIN).await?;
        let value = match &self.db {
            Db::Sqlite(sqlite) => sqlite.write(input, body).await?,
            Db::Postgres(pool) => postgres_write(pool, &self.faults, &input, &body).await?,
        };
        self.faults.step(COMMITTED).await?;
        Ok(value)
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

async fn postgres_open(settings: &Settings) -> Result<PgPool> {
    // What PostgreSQL can take. Zero would be no limit at all.
    let millis = settings.timeout.as_millis().clamp(1, 0x7fff_ffff);
    let millis = millis.to_string();
    let options: PgConnectOptions = settings
        .url
        .parse()
        .map_err(|error: sqlx::Error| Error::internal(error))?;
    let options = options
        .application_name("box-service")
        .options([
            ("statement_timeout", millis.as_str()),
            ("lock_timeout", millis.as_str()),
            // A transaction of ours never waits for a client: one that does has lost its process.
            ("idle_in_transaction_session_timeout", millis.as_str()),
        ])
        .disable_statement_logging();
    let pool = PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .acquire_timeout(settings.timeout)
        .connect_with(options)
        .await?;
    if settings.migrate {
        // A migration may run longer than any statement of a request.
        let mut conn = pool.acquire().await?.detach();
        sqlx::query("SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false)")
            .execute(&mut conn)
            .await?;
        migrator(&POSTGRES_MIGRATIONS)
            .run(&mut conn)
            .await
            .map_err(Error::internal)?;
        sqlx::Connection::close(conn).await?;
    } else {
        let mut conn = pool.acquire().await?;
        schema_check(&mut Conn::Postgres(&mut conn), &POSTGRES_MIGRATIONS).await?;
    }
    Ok(pool)
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
    let newest = migrations
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0);
    let found: Result<Option<i64>, sqlx::Error> = on!(conn, |c| {
        sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations")
            .fetch_one(c)
            .await
    });
    match found {
        Ok(Some(version)) if version >= newest => Ok(()),
        Err(error) if !is_refusal(&error) => Err(error.into()),
        Ok(_) | Err(_) => Err(Error::internal(
            "the database's schema is too old: run `box migrate`",
        )),
    }
}

async fn postgres_write<I, T, F>(pool: &PgPool, faults: &Faults, input: &I, body: &F) -> Result<T>
where
    F: for<'a, 'c> Fn(&'a mut Conn<'c>, &'a I) -> BoxFuture<'a, Result<T>>,
{
    let mut attempt = 1;
    loop {
        match postgres_attempt(pool, faults, input, body).await {
            Err(error) if attempt < ATTEMPTS && gave_way(&error) => {
                // Two that met once would meet again if both waited equally long.
                let wait = rand::random_range(0..(10 << attempt));
                tokio::time::sleep(Duration::from_millis(wait)).await;
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

async fn postgres_attempt<I, T, F>(pool: &PgPool, faults: &Faults, input: &I, body: &F) -> Result<T>
where
    F: for<'a, 'c> Fn(&'a mut Conn<'c>, &'a I) -> BoxFuture<'a, Result<T>>,
{
    let mut transaction = pool.begin().await?;
    let mut conn = Conn::Postgres(&mut transaction);
    let value = body(&mut conn, input).await?;
    faults.step(COMMIT).await?;
    transaction.commit().await?;
    Ok(value)
}

/// PostgreSQL ended the transaction for another's sake, and says that trying again is right:
/// serialization_failure, deadlock_detected.
fn gave_way(error: &Error) -> bool {
    matches!(
        error.cause().and_then(|cause| cause.downcast_ref::<sqlx::Error>()),
        Some(sqlx::Error::Database(database))
            if matches!(database.code().as_deref(), Some("40001" | "40P01"))
    )
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
