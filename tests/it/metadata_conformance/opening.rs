//! Opening, migrating and closing.

use std::time::Duration;

use box_service::error::Kind as ErrorKind;
use box_service::metadata::{Conn, Metadata, Settings};
use sqlx::{Connection, PgConnection};

use super::{Fixture, at, settings};
use crate::harness::database::{Database, Kind};

conformance!(
    an_empty_database_is_refused_unless_migrated,
    a_schema_that_is_too_old_is_refused,
    a_newer_schema_is_no_obstacle,
    a_database_is_opened_again,
    it_answers_until_it_is_closed,
);

impl Fixture {
    async fn open(&self, migrate: bool) -> box_service::error::Result<Metadata> {
        Metadata::open(&Settings {
            migrate,
            ..self.settings()
        })
        .await
    }
}

async fn an_empty_database_is_refused_unless_migrated(fixture: Fixture) {
    let database = Database::create(fixture.kind).await.unwrap();
    let checked = Settings {
        migrate: false,
        ..settings(&database)
    };
    assert!(Metadata::open(&checked).await.is_err());
    // Nothing was made of it meanwhile.
    assert!(Metadata::open(&checked).await.is_err());
    Metadata::open(&settings(&database)).await.unwrap();
    Metadata::open(&checked).await.unwrap();
}

async fn a_schema_that_is_too_old_is_refused(fixture: Fixture) {
    fixture.open(false).await.unwrap();
    fixture.tamper("DELETE FROM _sqlx_migrations").await;
    let refused = |error: box_service::error::Error| {
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
        assert!(error.to_string().contains("box migrate"), "{error}");
    };
    refused(fixture.open(false).await.err().unwrap());
    fixture.tamper("DROP TABLE _sqlx_migrations").await;
    refused(fixture.open(false).await.err().unwrap());
}

async fn a_newer_schema_is_no_obstacle(fixture: Fixture) {
    fixture
        .tamper(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             SELECT 999999, 'of a newer binary', success, checksum, 1 FROM _sqlx_migrations LIMIT 1",
        )
        .await;
    fixture.open(true).await.unwrap();
    fixture.open(false).await.unwrap();
}

async fn a_database_is_opened_again(fixture: Fixture) {
    let id = fixture.live().await;
    for migrate in [true, false] {
        let other = fixture.open(migrate).await.unwrap();
        let mut reader = other.reader().await.unwrap();
        assert!(reader.conn().object_get(id).await.unwrap().is_some());
        // Both may write.
        change!(other, |tx| tx.object_mend_refs(id, 1, 2, at(30)))
            .await
            .unwrap();
        assert_eq!(fixture.object(id).await.refs, 2);
        change!(fixture.metadata, |tx| tx.object_mend_refs(id, 2, 1, at(30)))
            .await
            .unwrap();
        drop(reader);
        other.close().await;
    }
    fixture.metadata.close().await;
    let again = fixture.open(true).await.unwrap();
    let mut reader = again.reader().await.unwrap();
    assert_eq!(reader.conn().object_get(id).await.unwrap().unwrap().refs, 1);
}

async fn it_answers_until_it_is_closed(fixture: Fixture) {
    let twin = fixture.metadata.clone();
    fixture.metadata.ping().await.unwrap();
    twin.ping().await.unwrap();
    // Whoever closes twice, or at once, waits for the same end.
    tokio::join!(fixture.metadata.close(), twin.close());
    twin.close().await;
    for metadata in [&fixture.metadata, &twin] {
        let error = metadata.ping().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let error = metadata.reader().await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let written = change!(metadata, |tx| tx.deployment_mark());
        let error = written.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
}

#[tokio::test]
async fn an_url_that_is_none_is_refused() {
    for url in [
        "",
        "box.db",
        "mysql://127.0.0.1/box",
        "postgres://[",
        "sqlite:box.db?mode=odd",
    ] {
        let settings = Settings {
            url: url.to_owned(),
            max_connections: 1,
            timeout: Duration::from_secs(1),
            migrate: true,
        };
        let error = Metadata::open(&settings).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let settings = Settings {
        url: format!("postgres://postgres@127.0.0.1:{port}/postgres"),
        max_connections: 1,
        timeout: Duration::from_millis(100),
        migrate: true,
    };
    let error = Metadata::open(&settings).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn sqlite_is_not_made_unless_migrated() {
    let database = Database::create(Kind::Sqlite).await.unwrap();
    let settings = Settings {
        migrate: false,
        ..settings(&database)
    };
    let error = Metadata::open(&settings).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let file = database.url().strip_prefix("sqlite:").unwrap();
    assert!(!std::path::Path::new(file).exists());
}

#[tokio::test]
async fn sqlite_survives_a_power_cut() {
    let fixture = Fixture::new(Kind::Sqlite).await.unwrap();
    let written = fixture.metadata.write((), |tx, ()| {
        futures::FutureExt::boxed(async move {
            let Conn::Sqlite(c) = tx else { unreachable!() };
            let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
                .fetch_one(c.ready().await?)
                .await?;
            let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
                .fetch_one(c.ready().await?)
                .await?;
            Ok((journal, synchronous))
        })
    });
    // 2 is FULL: the log is flushed before a commit is answered.
    assert_eq!(written.await.unwrap(), ("wal".to_owned(), 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_is_migrated_by_one_of_many() {
    let Some(database) = Database::create(Kind::Postgres).await else {
        return;
    };
    let settings = settings(&database);
    let opened = futures::future::join_all((0..4).map(|_| Metadata::open(&settings))).await;
    for metadata in opened {
        metadata.unwrap().ping().await.unwrap();
    }
}

/// A database that answers late is not one whose schema is old: an operator would migrate in vain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_is_slow_is_not_taken_for_old() {
    let Some(fixture) = Fixture::new(Kind::Postgres).await else {
        return;
    };
    let mut conn = PgConnection::connect(fixture.database.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE _sqlx_migrations IN ACCESS EXCLUSIVE MODE")
        .execute(&mut conn)
        .await
        .unwrap();
    let settings = Settings {
        migrate: false,
        timeout: Duration::from_millis(300),
        ..fixture.settings()
    };
    let error = Metadata::open(&settings).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

/// The configuration takes time-outs longer than PostgreSQL can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_takes_the_longest_time_out() {
    let Some(fixture) = Fixture::new(Kind::Postgres).await else {
        return;
    };
    let patient = Settings {
        timeout: Duration::from_secs(36_500 * 86_400),
        ..fixture.settings()
    };
    let metadata = Metadata::open(&patient).await.unwrap();
    metadata.ping().await.unwrap();
}
