//! Transactions: whole or not at all, whatever else goes on at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use box_service::error::{Error, Kind as ErrorKind, Result};
use box_service::id::{EventId, ObjectId};
use box_service::metadata::events::Event;
use box_service::metadata::{Conn, Metadata, Settings};
use futures::future::join_all;
use futures::{FutureExt, poll};
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Barrier, Notify, Semaphore};
use tokio::task::{JoinHandle, unconstrained};

use super::{Fixture, at, tenant};
use crate::harness::database::Kind;

conformance!(
    a_write_is_committed_before_it_is_answered,
    a_write_that_fails_leaves_nothing,
    a_statement_that_fails_leaves_nothing,
    a_panic_ends_its_own_write_only,
    many_writes_at_once_all_count,
    one_that_fails_among_many_leaves_the_others,
    a_write_reads_what_it_wrote,
    statements_that_nobody_waits_for_all_count,
    a_statement_that_had_to_change_a_row_fails_its_write_only,
    closing_waits_for_what_is_under_way,
);

fn event(action: &'static str) -> Event {
    Event {
        id: EventId::new(at(0)),
        tenant: tenant("acme"),
        at: at(0),
        subject: "somebody".to_owned(),
        action,
        target: "one".to_owned(),
        request_id: None,
        remote_ip: None,
        detail: json!({}),
    }
}

async fn record(metadata: &Metadata, action: &'static str) -> Result<()> {
    change!(metadata, event(action), |tx, event| tx.event_insert(event)).await
}

impl Fixture {
    async fn recorded(&self) -> Vec<String> {
        let mut reader = self.reader().await;
        reader
            .conn()
            .event_actions(&self.tenant, "one")
            .await
            .unwrap()
    }
}

/// A write that is under way and goes on when told to.
struct Held {
    gate: Arc<Semaphore>,
    write: JoinHandle<Result<()>>,
}

impl Held {
    async fn new(metadata: &Metadata) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let begun = Arc::new(Notify::new());
        let write = {
            let metadata = metadata.clone();
            let input = (event("held"), gate.clone(), begun.clone());
            tokio::spawn(async move {
                metadata
                    .write(input, |tx, (event, gate, begun)| {
                        async move {
                            tx.event_insert(event).await?;
                            begun.notify_one();
                            gate.acquire().await.unwrap().forget();
                            Ok(())
                        }
                        .boxed()
                    })
                    .await
            })
        };
        begun.notified().await;
        Self { gate, write }
    }

    fn release(&self) {
        self.gate.add_permits(1);
    }

    async fn end(self) -> Result<()> {
        self.write.await.unwrap()
    }
}

async fn a_write_is_committed_before_it_is_answered(fixture: Fixture) {
    let answer = fixture.metadata.write(event("done"), |tx, event| {
        async move {
            tx.event_insert(event).await?;
            Ok("an answer".to_owned())
        }
        .boxed()
    });
    assert_eq!(answer.await.unwrap(), "an answer");
    assert_eq!(fixture.recorded().await, ["done"]);
    // To everybody else too.
    let other = Metadata::open(&fixture.settings()).await.unwrap();
    let mut reader = other.reader().await.unwrap();
    let seen = reader
        .conn()
        .event_actions(&fixture.tenant, "one")
        .await
        .unwrap();
    assert_eq!(seen, ["done"]);
}

async fn a_write_that_fails_leaves_nothing(fixture: Fixture) {
    let answer: Result<()> = fixture
        .metadata
        .write(event("undone"), |tx, event| {
            async move {
                tx.event_insert(event).await?;
                Err(Error::new(ErrorKind::PreconditionFailed, "It was not so."))
            }
            .boxed()
        })
        .await;
    // As the body put it.
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed);
    assert_eq!(error.detail(), "It was not so.");
    assert!(fixture.recorded().await.is_empty());
    record(&fixture.metadata, "next").await.unwrap();
    assert_eq!(fixture.recorded().await, ["next"]);
}

async fn a_statement_that_fails_leaves_nothing(fixture: Fixture) {
    let input = (event("undone"), event("again"));
    let answer = fixture.metadata.write(input, |tx, (first, second)| {
        async move {
            tx.event_insert(first).await?;
            tx.event_insert(second).await?;
            tx.event_insert(second).await
        }
        .boxed()
    });
    let error = answer.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    assert!(fixture.recorded().await.is_empty());
    record(&fixture.metadata, "next").await.unwrap();
    assert_eq!(fixture.recorded().await, ["next"]);
}

async fn a_panic_ends_its_own_write_only(fixture: Fixture) {
    // PostgreSQL's transactions run in the caller's task, which the panic then ends; SQLite's run
    // in the writer's, which it must not end.
    let ended = |outcome: std::result::Result<Result<()>, tokio::task::JoinError>| match outcome {
        Ok(answer) => assert_eq!(answer.unwrap_err().kind(), ErrorKind::Internal),
        Err(error) => assert!(error.is_panic()),
    };
    let metadata = fixture.metadata.clone();
    let within = tokio::spawn(async move {
        metadata
            .write(event("undone"), |tx, event| {
                async move {
                    tx.event_insert(event).await?;
                    panic!("a test's, within the transaction")
                }
                .boxed()
            })
            .await
    });
    ended(within.await);
    record(&fixture.metadata, "first").await.unwrap();

    let metadata = fixture.metadata.clone();
    let before = tokio::spawn(async move {
        metadata
            .write((), |_, ()| {
                panic!("a test's, before the transaction's first await")
            })
            .await
    });
    ended(before.await);
    record(&fixture.metadata, "second").await.unwrap();
    assert_eq!(fixture.recorded().await.len(), 2);
}

async fn many_writes_at_once_all_count(fixture: Fixture) {
    const MANY: i64 = 600;
    let id = fixture.live().await;
    let more = change!(fixture.metadata, |tx| tx.object_mend_refs(
        id,
        1,
        MANY + 1,
        at(20)
    ));
    assert!(more.await.unwrap());
    let writes = (0..MANY).map(|number| {
        fixture.metadata.write(event("released"), move |tx, event| {
            async move {
                tx.object_release(id, at(30)).await?;
                tx.event_insert(event).await?;
                Ok(number)
            }
            .boxed()
        })
    });
    let answers: Vec<i64> = join_all(writes)
        .await
        .into_iter()
        .map(|answer| answer.unwrap())
        .collect();
    // Each caller has its own answer.
    assert_eq!(answers, (0..MANY).collect::<Vec<_>>());
    assert_eq!(fixture.object(id).await.refs, 1);
    assert_eq!(fixture.recorded().await.len(), 600);
}

async fn one_that_fails_among_many_leaves_the_others(fixture: Fixture) {
    // On SQLite all that come meanwhile share one commit.
    let held = Held::new(&fixture.metadata).await;
    let writes = (0..100).map(|number| {
        fixture
            .metadata
            .write(event("one of many"), move |tx, event| {
                async move {
                    tx.event_insert(event).await?;
                    match number % 4 {
                        1 => Err(Error::not_found()),
                        // The statement itself: a second event of one id.
                        2 => tx.event_insert(event).await,
                        _ => Ok(()),
                    }
                }
                .boxed()
            })
    });
    let mut writes = Box::pin(unconstrained(join_all(writes)));
    let _ = poll!(&mut writes);
    held.release();
    for (number, answer) in writes.await.into_iter().enumerate() {
        let kind = answer.err().map(|error| error.kind());
        let wanted = match number % 4 {
            1 => Some(ErrorKind::NotFound),
            2 => Some(ErrorKind::Internal),
            _ => None,
        };
        assert_eq!(kind, wanted, "write {number}");
    }
    held.end().await.unwrap();
    assert_eq!(fixture.recorded().await.len(), 51);
}

async fn a_write_reads_what_it_wrote(fixture: Fixture) {
    let read = fixture.metadata.write(event("mine"), |tx, event| {
        async move {
            tx.event_insert(event).await?;
            tx.event_actions(&event.tenant, "one").await
        }
        .boxed()
    });
    assert_eq!(read.await.unwrap(), ["mine"]);
}

/// More of them than go together, each with parameters of its own, and the last one fails or not.
async fn statements_that_nobody_waits_for_all_count(fixture: Fixture) {
    const ACTIONS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let write = |twice: bool| {
        let mut events = ACTIONS.map(event);
        for (second, event) in events.iter_mut().enumerate() {
            event.at = at(second as i64);
        }
        fixture.metadata.write(events, move |tx, events| {
            async move {
                for event in events {
                    tx.event_insert(event).await?;
                }
                if twice {
                    tx.event_insert(&events[0]).await?;
                }
                Ok(())
            }
            .boxed()
        })
    };
    write(true).await.unwrap_err();
    assert_eq!(fixture.recorded().await, [""; 0]);
    write(false).await.unwrap();
    assert_eq!(fixture.recorded().await, ACTIONS);
}

/// At each place among those that run together, and beside writes that succeed.
async fn a_statement_that_had_to_change_a_row_fails_its_write_only(fixture: Fixture) {
    let absent = ObjectId::new(at(0));
    for place in 0..6 {
        let objects = join_all((0..3).map(|_| fixture.live())).await;
        let writes = [objects[0], absent, objects[1], objects[2]].map(|object| {
            let action = if object == absent { "bad" } else { "good" };
            fixture
                .metadata
                .write((event(action), object), move |tx, (event, object)| {
                    async move {
                        for at_place in 0..6 {
                            let mut event = event.clone();
                            event.id = EventId::new(at(1));
                            tx.event_insert(&event).await?;
                            if at_place == place {
                                tx.object_release(*object, at(9)).await?;
                            }
                        }
                        Ok(())
                    }
                    .boxed()
                })
        });
        let outcomes = join_all(writes).await;
        let failed: Vec<bool> = outcomes.iter().map(Result::is_err).collect();
        assert_eq!(failed, [false, true, false, false]);
        let error = outcomes.into_iter().find_map(Result::err).unwrap();
        assert!(error.to_string().contains("no reference"), "{error:?}");
        for object in objects {
            assert_eq!(fixture.object(object).await.refs, 0);
        }
        let recorded = fixture.recorded().await;
        assert_eq!(recorded, vec!["good"; 18 * (place + 1)]);
    }
}

async fn closing_waits_for_what_is_under_way(fixture: Fixture) {
    let held = Held::new(&fixture.metadata).await;
    let twin = fixture.metadata.clone();
    let mut closing = Box::pin(fixture.metadata.close());
    let mut closing_too = Box::pin(twin.close());
    assert!(poll!(&mut closing).is_pending());
    assert!(poll!(&mut closing_too).is_pending());
    held.release();
    let (ended, ..) = tokio::join!(held.end(), closing, closing_too);
    ended.unwrap();
    let again = Metadata::open(&fixture.settings()).await.unwrap();
    let mut reader = again.reader().await.unwrap();
    let seen = reader
        .conn()
        .event_actions(&fixture.tenant, "one")
        .await
        .unwrap();
    assert_eq!(seen, ["held"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_finishes_what_waits_before_it_closes() {
    let fixture = Fixture::new(Kind::Sqlite).await.unwrap();
    let held = Held::new(&fixture.metadata).await;
    // More than share one commit.
    let writes = (0..600).map(|_| record(&fixture.metadata, "waited"));
    let mut writes = Box::pin(unconstrained(join_all(writes)));
    assert!(poll!(&mut writes).is_pending());
    let mut closing = Box::pin(fixture.metadata.close());
    assert!(poll!(&mut closing).is_pending());
    let late = record(&fixture.metadata, "late");
    let mut late = Box::pin(late);
    assert!(poll!(&mut late).is_pending());
    held.release();
    closing.await;
    for answer in writes.await {
        answer.unwrap();
    }
    held.end().await.unwrap();
    // Whether it came in time or not, its answer is true.
    let late = usize::from(late.await.is_ok());
    let again = Metadata::open(&fixture.settings()).await.unwrap();
    let mut reader = again.reader().await.unwrap();
    let seen = reader
        .conn()
        .event_actions(&fixture.tenant, "one")
        .await
        .unwrap();
    assert_eq!(seen.len(), 601 + late);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_finishes_a_write_whose_caller_went_away() {
    let fixture = Fixture::new(Kind::Sqlite).await.unwrap();
    let held = Held::new(&fixture.metadata).await;
    let mut abandoned = Box::pin(record(&fixture.metadata, "abandoned"));
    assert!(poll!(&mut abandoned).is_pending());
    drop(abandoned);
    held.release();
    held.end().await.unwrap();
    // Behind it in the queue.
    record(&fixture.metadata, "next").await.unwrap();
    let mut recorded = fixture.recorded().await;
    recorded.sort();
    assert_eq!(recorded, ["abandoned", "held", "next"]);
}

#[tokio::test]
async fn sqlite_readers_cannot_write() {
    let fixture = Fixture::new(Kind::Sqlite).await.unwrap();
    let mut reader = fixture.reader().await;
    assert!(
        reader
            .conn()
            .event_insert(&event("smuggled"))
            .await
            .is_err()
    );
    drop(reader);
    assert!(fixture.recorded().await.is_empty());
}

#[tokio::test]
async fn sqlite_readers_see_what_was_committed_only() {
    let fixture = Fixture::new(Kind::Sqlite).await.unwrap();
    record(&fixture.metadata, "before").await.unwrap();
    let held = Held::new(&fixture.metadata).await;
    assert_eq!(fixture.recorded().await, ["before"]);
    held.release();
    held.end().await.unwrap();
    assert_eq!(fixture.recorded().await.len(), 2);
}

/// What SQLite does on its own when the disk is full or fails: the whole transaction is gone.
fn lose_transaction<'a>(tx: &'a mut Conn<'_>) -> futures::future::BoxFuture<'a, Result<()>> {
    async move {
        let Conn::Sqlite(c) = tx else { unreachable!() };
        sqlx::raw_sql(
            "INSERT OR ROLLBACK INTO deployment (environment, database_id) VALUES ('a', x'00'), ('b', x'00')",
        )
        .execute(c.ready().await?)
        .await?;
        Ok(())
    }
    .boxed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_goes_on_after_a_lost_transaction() {
    let fixture = Fixture::new(Kind::Sqlite).await.unwrap();
    let lost = fixture
        .metadata
        .write((), |tx, ()| lose_transaction(tx))
        .await;
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::Internal);
    record(&fixture.metadata, "alone").await.unwrap();

    // With others in one commit: those whose effects are gone must not be told otherwise.
    let held = Held::new(&fixture.metadata).await;
    let mut before = Box::pin(record(&fixture.metadata, "before"));
    assert!(poll!(&mut before).is_pending());
    let mut losing = Box::pin(fixture.metadata.write((), |tx, ()| lose_transaction(tx)));
    assert!(poll!(&mut losing).is_pending());
    let mut behind = Box::pin(record(&fixture.metadata, "behind"));
    assert!(poll!(&mut behind).is_pending());
    held.release();
    losing.await.unwrap_err();
    let mut told = vec!["alone"];
    for (answer, action) in [
        (held.end().await, "held"),
        (before.await, "before"),
        (behind.await, "behind"),
    ] {
        match answer {
            Ok(()) => told.push(action),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
    }
    let mut recorded = fixture.recorded().await;
    recorded.sort();
    told.sort_unstable();
    assert_eq!(recorded, told);
    record(&fixture.metadata, "after").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_that_is_locked_by_another_is_unavailable() {
    let fixture = Fixture::new(Kind::Sqlite).await.unwrap();
    let impatient = Settings {
        timeout: Duration::from_millis(50),
        ..fixture.settings()
    };
    let metadata = Metadata::open(&impatient).await.unwrap();
    let options: SqliteConnectOptions = fixture.database.url().parse().unwrap();
    let mut other = options.connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let error = record(&metadata, "refused").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    record(&metadata, "taken").await.unwrap();
    assert_eq!(fixture.recorded().await, ["taken"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_that_is_full_is_unavailable_until_there_is_room() {
    let fixture = Fixture::new(Kind::Sqlite).await.unwrap();
    let pages = |most: &'static str| {
        fixture.metadata.write((), move |tx, ()| {
            async move {
                let Conn::Sqlite(c) = tx else { unreachable!() };
                sqlx::raw_sql(most).execute(c.ready().await?).await?;
                Ok(())
            }
            .boxed()
        })
    };
    // SQLite takes the pages that there are for the least.
    pages("PRAGMA max_page_count = 1").await.unwrap();
    let large = || {
        let mut event = event("large");
        event.detail = json!("x".repeat(1024 * 1024));
        change!(fixture.metadata, event, |tx, event| tx.event_insert(event))
    };
    for _ in 0..2 {
        let error = large().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    pages("PRAGMA max_page_count = 1000000").await.unwrap();
    large().await.unwrap();
    assert_eq!(fixture.recorded().await, ["large"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_tries_again_after_a_deadlock() {
    let Some(fixture) = Fixture::new(Kind::Postgres).await else {
        return;
    };
    let one = fixture.dead(at(5)).await;
    let two = fixture.dead(at(5)).await;
    let barrier = Arc::new(Barrier::new(2));
    let tries = Arc::new(AtomicU32::new(0));
    let crossing = |first, second, delete_at| {
        let input = (barrier.clone(), tries.clone(), AtomicU32::new(0));
        fixture
            .metadata
            .write(input, move |tx, (barrier, tries, own)| {
                async move {
                    tries.fetch_add(1, Ordering::SeqCst);
                    tx.object_delete_at(first, delete_at).await?;
                    // The first time, each holds what the other one wants.
                    if own.fetch_add(1, Ordering::SeqCst) == 0 {
                        barrier.wait().await;
                    }
                    tx.object_delete_at(second, delete_at).await
                }
                .boxed()
            })
    };
    let (there, back) = tokio::join!(crossing(one, two, at(70)), crossing(two, one, at(80)));
    there.unwrap();
    back.unwrap();
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    // One whole transaction came last.
    assert_eq!(
        fixture.object(one).await.delete_at,
        fixture.object(two).await.delete_at
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_tries_again_after_a_serialisation_failure_but_not_for_ever() {
    let Some(fixture) = Fixture::new(Kind::Postgres).await else {
        return;
    };
    for (failures, wanted) in [(2, None), (u32::MAX, Some(ErrorKind::Unavailable))] {
        let tries = Arc::new(AtomicU32::new(0));
        let input = (event("once"), tries.clone());
        let answer = fixture.metadata.write(input, move |tx, (event, tries)| {
            async move {
                tx.event_insert(event).await?;
                if tries.fetch_add(1, Ordering::SeqCst) < failures {
                    let Conn::Postgres(c, _) = tx else {
                        unreachable!()
                    };
                    sqlx::raw_sql(
                        "DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$",
                    )
                    .execute(&mut **c)
                    .await?;
                }
                Ok(())
            }
            .boxed()
        });
        assert_eq!(answer.await.err().map(|error| error.kind()), wanted);
        assert_eq!(
            tries.load(Ordering::SeqCst),
            failures.saturating_add(1).min(8)
        );
    }
    assert_eq!(fixture.recorded().await, ["once"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_ends_a_statement_that_takes_too_long() {
    let Some(fixture) = Fixture::new(Kind::Postgres).await else {
        return;
    };
    let impatient = Settings {
        timeout: Duration::from_millis(300),
        ..fixture.settings()
    };
    let metadata = Metadata::open(&impatient).await.unwrap();
    let slept = metadata.write((), |tx, ()| {
        async move {
            let Conn::Postgres(c, _) = tx else {
                unreachable!()
            };
            sqlx::raw_sql("SELECT pg_sleep(60)")
                .execute(&mut **c)
                .await?;
            Ok(())
        }
        .boxed()
    });
    let error = slept.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    record(&metadata, "next").await.unwrap();
}
