//! SQLite: many connections that read, and one task that writes.
//!
//! A write is sent to the task as a closure. The task runs those that wait in one
//! `BEGIN IMMEDIATE`, a savepoint each, and answers only after the COMMIT, so that one flush to
//! the disk serves all of them (group commit).

use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection, SqlitePool};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::error::{Error, Result};
use crate::faults::Faults;

use super::{COMMIT, Conn, Settings};

/// Writes that may wait for the task, and writes that share one commit.
const QUEUE: usize = 1024;
const GROUP: usize = 256;

/// Rows that a statement may be ahead of who reads them: a page and one.
const ROWS: usize = 1001;

/// Readers beyond this only wait for each other's cores.
const MOST_READERS: u32 = 16;

#[derive(Clone)]
pub(super) struct Sqlite {
    readers: SqlitePool,
    jobs: mpsc::Sender<Box<dyn Job>>,
    writer: Arc<Mutex<Option<tokio::task::JoinHandle<()>>>>,
    faults: Faults,
}

impl Sqlite {
    pub(super) async fn open(
        settings: &Settings,
        migrations: &'static sqlx::migrate::Migrator,
        faults: Faults,
    ) -> Result<Self> {
        let options = SqliteConnectOptions::from_str(&settings.url)?
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(settings.timeout)
            // Rows cross to another thread: a page of them should not wait for each other's turn.
            .row_buffer_size(ROWS)
            .create_if_missing(settings.migrate)
            .disable_statement_logging();
        let mut conn = options.clone().connect().await.map_err(|error| {
            if !settings.migrate && !options.get_filename().exists() {
                Error::unavailable("there is no database yet: run `box migrate`")
            } else {
                error.into()
            }
        })?;
        if settings.migrate {
            // The lock under which the others that start now wait: sqlx has none for SQLite.
            let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await?;
            super::migrator(migrations)
                .run(&mut *transaction)
                .await
                .map_err(Error::internal)?;
            transaction.commit().await?;
        } else {
            super::schema_check(&mut Conn::Sqlite(&mut conn), migrations).await?;
        }
        let readers = SqlitePoolOptions::new()
            .max_connections(settings.max_connections.clamp(1, MOST_READERS))
            .acquire_timeout(settings.timeout)
            .connect_with(options.create_if_missing(false).pragma("query_only", "ON"))
            .await?;
        let (jobs, receiver) = mpsc::channel(QUEUE);
        let writer = tokio::spawn(run(conn, receiver));
        Ok(Self {
            readers,
            jobs,
            writer: Arc::new(Mutex::new(Some(writer))),
            faults,
        })
    }

    pub(super) fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    pub(super) async fn write<I, T, F>(&self, input: I, body: F) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + 'static,
        F: for<'a> Fn(&'a mut Conn<'a>, &'a I) -> BoxFuture<'a, Result<T>> + Send + Sync + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Write {
            input,
            body,
            outcome: None,
            answer,
            faults: self.faults.clone(),
        };
        self.jobs.send(Box::new(job)).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    pub(super) async fn close(&self) {
        // Held meanwhile, so that one who closes at the same time does not return before the end.
        let mut writer = self.writer.lock().await;
        if let Some(task) = writer.as_mut() {
            // Queued behind all that waits: the task ends when it comes to it.
            let _ = self.jobs.send(Box::new(Last)).await;
            let _ = task.await;
            *writer = None;
        }
        self.readers.close().await;
    }
}

fn closed() -> Error {
    Error::unavailable("the database is closed")
}

/// A write on its way through the task.
trait Job: Send {
    /// Runs the statements; true when their effects are to stay.
    fn run<'a>(&'a mut self, conn: &'a mut SqliteConnection) -> BoxFuture<'a, bool>;

    /// Tells the caller, once the commit has succeeded or failed.
    fn answer(self: Box<Self>, committed: Result<()>);

    fn is_last(&self) -> bool {
        false
    }
}

struct Write<I, T, F> {
    input: I,
    body: F,
    outcome: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
    faults: Faults,
}

impl<I, T, F> Job for Write<I, T, F>
where
    I: Send + Sync,
    T: Send,
    F: for<'a> Fn(&'a mut Conn<'a>, &'a I) -> BoxFuture<'a, Result<T>> + Send + Sync,
{
    fn run<'a>(&'a mut self, conn: &'a mut SqliteConnection) -> BoxFuture<'a, bool> {
        async move {
            let mut conn = Conn::Sqlite(conn);
            // A panic in one write must not end the task that all writes go through. The call
            // stands within the future: a body may panic before it has made its own.
            let call = async {
                let value = (self.body)(&mut conn, &self.input).await?;
                self.faults.step(COMMIT).await?;
                Ok(value)
            };
            let outcome = AssertUnwindSafe(call)
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(Error::internal("a transaction panicked")));
            let stays = outcome.is_ok();
            self.outcome = Some(outcome);
            stays
        }
        .boxed()
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let outcome = match (self.outcome, committed) {
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(Error::internal(
                "a transaction was committed without having run",
            )),
        };
        // A caller who went away is told by nobody.
        let _ = self.answer.send(outcome);
    }
}

/// Tells the task to end.
struct Last;

impl Job for Last {
    fn run<'a>(&'a mut self, _: &'a mut SqliteConnection) -> BoxFuture<'a, bool> {
        std::future::ready(true).boxed()
    }

    fn answer(self: Box<Self>, _: Result<()>) {}

    fn is_last(&self) -> bool {
        true
    }
}

async fn run(mut conn: SqliteConnection, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
    let mut last = false;
    while !last && let Some(first) = jobs.recv().await {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(next) = jobs.try_recv()
        {
            group.push(next);
        }
        last = group.iter().any(|job| job.is_last());
        let committed = commit(&mut conn, &mut group).await;
        for job in group {
            let committed = match &committed {
                Ok(()) => Ok(()),
                Err(error) => Err(Error::unavailable(format!(
                    "the transaction was not committed: {error}"
                ))),
            };
            job.answer(committed);
        }
    }
    let _ = conn.close().await;
}

async fn commit(
    conn: &mut SqliteConnection,
    group: &mut [Box<dyn Job>],
) -> Result<(), sqlx::Error> {
    // No transaction of sqlx's: it counts what it began, and SQLite ends a transaction on its own
    // when the disk is full or fails. The count would be wrong then, and every later write refused.
    let outcome = transact(conn, group).await;
    if !matches!(outcome, Ok(true)) {
        // Fails where SQLite was first.
        let _ = sqlx::query("ROLLBACK").execute(conn).await;
    }
    outcome.map(drop)
}

/// True when the group was committed, false when there is nothing of it to commit.
async fn transact(
    conn: &mut SqliteConnection,
    group: &mut [Box<dyn Job>],
) -> Result<bool, sqlx::Error> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *conn).await?;
    if let [job] = group {
        if !job.run(conn).await {
            return Ok(false);
        }
    } else {
        // Each statement is a hop to sqlx's thread and back: the end of one savepoint and the start
        // of the next go together.
        let mut between = "SAVEPOINT write";
        for job in group {
            // Either fails when the transaction was lost meanwhile, and with it the whole group.
            sqlx::raw_sql(between).execute(&mut *conn).await?;
            between = if job.run(conn).await {
                "RELEASE write; SAVEPOINT write"
            } else {
                "ROLLBACK TO write; RELEASE write; SAVEPOINT write"
            };
        }
        // What is left of the last one ends with the transaction, or is undone first.
        if between.starts_with("ROLLBACK") {
            sqlx::query("ROLLBACK TO write").execute(&mut *conn).await?;
        }
    }
    sqlx::query("COMMIT").execute(conn).await?;
    Ok(true)
}
