//! SQLite: many connections that read, and one task that writes.
//!
//! A write is sent to the task as a closure. The task runs those that wait in one
//! `BEGIN IMMEDIATE` and answers only after the COMMIT, so that one flush to the disk serves all of
//! them (group commit). Where one of them fails they are run again, with a savepoint each.

use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use sqlx::sqlite::SqliteArguments;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{
    Arguments, AssertSqlSafe, ConnectOptions, Connection as _, Executor, SqliteConnection,
    SqlitePool,
};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::error::{Error, Result};
use crate::faults::Faults;

use super::{COMMIT, Conn, Settings};

/// Writes that may wait for the task, and writes that share one commit.
const QUEUE: usize = 1024;
const GROUP: usize = 256;

/// Statements that go to sqlx's thread at once. Each combination of them is prepared once.
const TOGETHER: usize = 4;

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
            super::schema_check(&mut Conn::Sqlite(Connection::new(&mut conn)), migrations).await?;
        }
        super::binary_check(&mut Conn::Sqlite(Connection::new(&mut conn)), migrations).await?;
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
        F: for<'a, 'c> Fn(&'a mut Conn<'c>, &'a I) -> BoxFuture<'a, Result<T>>
            + Send
            + Sync
            + 'static,
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

/// A connection, and statements that wait for the next one.
///
/// Each call is a hop to sqlx's thread and back, which costs more than most statements do: those
/// that nobody waits for go together.
pub struct Connection<'c> {
    conn: &'c mut SqliteConnection,
    sql: String,
    arguments: SqliteArguments,
    /// Those that wait, and how many may.
    statements: Vec<Expected>,
    most: usize,
}

/// None: it may change any number of rows. Else it has to change one, or this is what went wrong.
type Expected = Option<Box<dyn FnOnce() -> Error + Send>>;

/// One of the statements that wait; it is bound as others are.
pub(super) struct Later<'a>(&'a mut SqliteArguments);

impl Later<'_> {
    pub(super) fn bind<'q, T>(&mut self, value: T) -> Result<()>
    where
        T: sqlx::Encode<'q, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        self.0
            .add(value)
            .map_err(|error| sqlx::Error::Encode(error).into())
    }
}

impl<'c> Connection<'c> {
    /// On which each statement runs at once.
    pub(super) fn new(conn: &'c mut SqliteConnection) -> Self {
        Self {
            conn,
            sql: String::new(),
            arguments: SqliteArguments::default(),
            statements: Vec::new(),
            most: 0,
        }
    }

    /// Of a transaction, which runs what waits before it ends.
    fn of_transaction(conn: &'c mut SqliteConnection) -> Self {
        Self {
            most: TOGETHER,
            ..Self::new(conn)
        }
    }

    /// The connection, once nothing waits any more.
    ///
    /// # Errors
    /// What the statements that waited fail with.
    pub async fn ready(&mut self) -> Result<&mut SqliteConnection> {
        if !self.statements.is_empty() {
            let sql = std::mem::take(&mut self.sql);
            let arguments = std::mem::take(&mut self.arguments);
            let query = sqlx::query_with(AssertSqlSafe(sql), arguments);
            let mut outcomes = (&mut *self.conn).execute_many(query);
            for expected in self.statements.drain(..) {
                let outcome = outcomes.try_next().await?;
                let changed = outcome.map_or(0, |outcome| outcome.rows_affected());
                if let Some(otherwise) = expected
                    && changed != 1
                {
                    return Err(otherwise());
                }
            }
        }
        Ok(self.conn)
    }

    /// A statement whose parameters are called `$1`, `$2`, …. It is [`Connection::taken`] once it
    /// is bound.
    pub(super) fn later(&mut self, sql: &str) -> Later<'_> {
        self.add(sql, None)
    }

    /// One that has to change one row.
    pub(super) fn later_one(
        &mut self,
        sql: &str,
        otherwise: impl FnOnce() -> Error + Send + 'static,
    ) -> Later<'_> {
        self.add(sql, Some(Box::new(otherwise)))
    }

    fn add(&mut self, sql: &str, expected: Expected) -> Later<'_> {
        if !self.statements.is_empty() {
            self.sql.push(';');
        }
        self.statements.push(expected);
        renumber(sql, self.arguments.len(), &mut self.sql);
        Later(&mut self.arguments)
    }

    /// Runs what waits if it is enough.
    pub(super) async fn taken(&mut self) -> Result<()> {
        if self.statements.len() >= self.most {
            self.ready().await?;
        }
        Ok(())
    }
}

/// Appends `sql`, its parameters counted from `$first + 1` on.
fn renumber(sql: &str, first: usize, to: &mut String) {
    let mut parts = sql.split('$');
    to.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part
            .find(|char: char| !char.is_ascii_digit())
            .unwrap_or(part.len());
        let (number, rest) = part.split_at(digits);
        let number: usize = number.parse().unwrap_or(0);
        let _ = write!(to, "${}{rest}", first + number);
    }
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
    F: for<'a, 'c> Fn(&'a mut Conn<'c>, &'a I) -> BoxFuture<'a, Result<T>> + Send + Sync,
{
    fn run<'a>(&'a mut self, conn: &'a mut SqliteConnection) -> BoxFuture<'a, bool> {
        async move {
            let mut conn = Conn::Sqlite(Connection::of_transaction(conn));
            // A panic in one write must not end the task that all writes go through. The call
            // stands within the future: a body may panic before it has made its own.
            let call = async {
                let value = (self.body)(&mut conn, &self.input).await?;
                if let Conn::Sqlite(conn) = &mut conn {
                    conn.ready().await?;
                }
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
    // Most groups succeed as a whole. Where one does not, all of it is run again.
    let mut all = true;
    for job in &mut *group {
        all = job.run(conn).await;
        if !all {
            break;
        }
    }
    if !all {
        if group.len() == 1 {
            return Ok(false);
        }
        // Fails where SQLite was first.
        let _ = sqlx::query("ROLLBACK").execute(&mut *conn).await;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *conn).await?;
        one_by_one(conn, group).await?;
    }
    sqlx::query("COMMIT").execute(conn).await?;
    Ok(true)
}

/// Runs each write of a group so that it alone is undone when it fails.
async fn one_by_one(
    conn: &mut SqliteConnection,
    group: &mut [Box<dyn Job>],
) -> Result<(), sqlx::Error> {
    for job in group {
        // Each fails when the transaction was lost meanwhile, and with it the whole group.
        sqlx::query("SAVEPOINT write").execute(&mut *conn).await?;
        if !job.run(conn).await {
            sqlx::query("ROLLBACK TO write").execute(&mut *conn).await?;
        }
        sqlx::query("RELEASE write").execute(&mut *conn).await?;
    }
    Ok(())
}
