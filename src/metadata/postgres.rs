//! PostgreSQL: a pool of connections, and transactions that are tried again where they gave way.

use std::time::Duration;

use futures::TryFutureExt;
use futures::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool, Postgres};

use crate::error::{Error, Result};
use crate::faults::Faults;
use crate::metrics::Histogram;

use super::{COMMIT, Conn, Settings, waited};

/// How often a transaction that PostgreSQL gave up for another's sake is tried.
const ATTEMPTS: u32 = 8;

/// How long an idle connection is taken to be alive.
const TRUSTED: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Pool {
    pool: PgPool,
    patience: Duration,
    faults: Faults,
    pub(super) waits: Histogram,
}

/// A connection of the pool, for a while.
pub struct Lease {
    conn: PoolConnection<Postgres>,
    patience: Duration,
}

impl Pool {
    pub(super) async fn open(
        settings: &Settings,
        migrations: &'static sqlx::migrate::Migrator,
        faults: Faults,
    ) -> Result<Self> {
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
                // No statement of ours runs so long that compiling it first, or starting others to help
                // with it, would be repaid; and those that help read on behind the end of a budget.
                ("jit", "off"),
                ("max_parallel_workers_per_gather", "0"),
            ])
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections)
            .acquire_timeout(settings.timeout)
            // Each is tested when it is given back, and again only where that is a while ago: a test
            // is a round trip, as long as most of what connections are lent for.
            .test_before_acquire(false)
            .before_acquire(|conn, lent| {
                Box::pin(async move {
                    if lent.idle_for >= TRUSTED {
                        conn.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_with(options)
            .await?;
        let pool = Self {
            pool,
            patience: settings.timeout * 2,
            faults,
            waits: Histogram::default(),
        };
        if settings.migrate {
            // A migration may run longer than any statement of a request.
            let mut conn = pool.pool.acquire().await?.detach();
            sqlx::query("SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false)")
                .execute(&mut conn)
                .await?;
            super::migrator(migrations)
                .run(&mut conn)
                .await
                .map_err(Error::internal)?;
            conn.close().await?;
        }
        let mut lease = pool.lease().await?;
        if !settings.migrate {
            super::schema_check(&mut lease.conn(), migrations).await?;
        }
        super::binary_check(&mut lease.conn(), migrations).await?;
        drop(lease);
        Ok(pool)
    }

    /// What is told on a channel, on a connection of its own, so that no request lacks one.
    pub(super) async fn listen(&self, channel: &str) -> Result<PgListener> {
        let options = (*self.pool.connect_options()).clone();
        let own = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.patience)
            .connect_with(options)
            .await?;
        let mut listener = PgListener::connect_with(&own).await?;
        listener.listen(channel).await?;
        Ok(listener)
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(super) async fn lease(&self) -> Result<Lease> {
        Ok(Lease {
            conn: waited(&self.waits, self.pool.acquire()).await?,
            patience: self.patience,
        })
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    pub(super) async fn write<I, T, F>(&self, input: &I, body: &F) -> Result<T>
    where
        F: for<'a, 'c> Fn(&'a mut Conn<'c>, &'a I) -> BoxFuture<'a, Result<T>>,
    {
        let mut attempt = 1;
        loop {
            match self.attempt(input, body).await {
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

    async fn attempt<I, T, F>(&self, input: &I, body: &F) -> Result<T>
    where
        F: for<'a, 'c> Fn(&'a mut Conn<'c>, &'a I) -> BoxFuture<'a, Result<T>>,
    {
        let mut lease = self.lease().await?;
        let begin = lease.conn.begin().err_into();
        let mut transaction = in_time(self.patience, begin).await?;
        let mut conn = Conn::Postgres(&mut transaction, self.patience);
        let value = body(&mut conn, input).await?;
        self.faults.step(COMMIT).await?;
        in_time(self.patience, transaction.commit().err_into()).await?;
        Ok(value)
    }
}

impl Lease {
    pub(super) fn conn(&mut self) -> Conn<'_> {
        Conn::Postgres(&mut self.conn, self.patience)
    }
}

/// Given back by hand: the pool waits without an end for what a connection was left in the middle of,
/// and from a server that is gone nothing comes.
impl Drop for Lease {
    fn drop(&mut self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let returned = self.conn.return_to_pool();
            runtime.spawn(tokio::time::timeout(self.patience, returned));
        }
    }
}

/// The server itself ends a statement that takes too long. One that can't, because it stands still or
/// its machine is gone, is given up a while later.
pub(super) async fn in_time<T>(
    patience: Duration,
    statement: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout(patience, statement)
        .await
        .unwrap_or_else(|_| Err(Error::unavailable("the database did not answer in time")))
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
