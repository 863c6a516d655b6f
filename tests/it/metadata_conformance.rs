//! One suite over both databases: what [`Metadata`] and [`Conn`] promise, SQLite and PostgreSQL keep.
//!
//! Where each runs: see [`Database`].

use std::time::Duration;

use box_service::clock::Timestamp;
use box_service::id::{FileId, ObjectId, Tenant};
use box_service::metadata::files::File;
use box_service::metadata::objects::{FIRST_EPOCH, Intent, Object};
use box_service::metadata::usage::Amount;
use box_service::metadata::{Metadata, Reader, Settings};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use uuid::Uuid;

use crate::harness::database::{Database, Kind};

const SIZE: u64 = 5;
const SHA256: [u8; 32] = [7; 32];

/// Runs one method in a transaction of its own. What the method borrows goes in as the input.
macro_rules! change {
    ($metadata:expr, |$tx:ident| $body:expr) => {
        change!($metadata, (), |$tx, _nothing| $body)
    };
    ($metadata:expr, $input:expr, |$tx:ident, $borrowed:ident| $body:expr) => {
        $metadata.write($input, move |$tx, $borrowed| {
            futures::FutureExt::boxed(async move { $body.await })
        })
    };
}

macro_rules! conformance {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let database = crate::harness::database::Kind::Sqlite;
                if let Some(fixture) = crate::metadata_conformance::Fixture::new(database).await {
                    super::$name(fixture).await;
                }
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let database = crate::harness::database::Kind::Postgres;
                if let Some(fixture) = crate::metadata_conformance::Fixture::new(database).await {
                    super::$name(fixture).await;
                }
            })+
        }
    };
}

mod containment;
mod crossing;
mod drifts;
mod files;
mod folders;
mod hashes;
mod idempotency;
mod lists;
mod migrations;
mod objects;
mod opening;
mod others;
mod reservations;
mod search;
mod times;
mod usage;
mod versions;
mod writes;

struct Fixture {
    metadata: Metadata,
    tenant: Tenant,
    kind: Kind,
    /// Behind what is connected to it: the last to go.
    database: Database,
}

impl Fixture {
    async fn new(kind: Kind) -> Option<Self> {
        let database = Database::create(kind).await?;
        Some(Self {
            metadata: Metadata::open(&settings(&database)).await.unwrap(),
            tenant: tenant("acme"),
            kind,
            database,
        })
    }

    fn settings(&self) -> Settings {
        settings(&self.database)
    }

    async fn reader(&self) -> Reader {
        self.metadata.reader().await.unwrap()
    }

    /// Statements past the store, with foreign keys left unchecked: what no method would do.
    async fn tamper(&self, sql: &'static str) {
        match self.kind {
            Kind::Sqlite => {
                let options: SqliteConnectOptions = self.database.url().parse().unwrap();
                let mut conn = options.foreign_keys(false).connect().await.unwrap();
                sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
                conn.close().await.unwrap();
            }
            Kind::Postgres => {
                let mut conn = PgConnection::connect(self.database.url()).await.unwrap();
                sqlx::raw_sql("SET session_replication_role = replica")
                    .execute(&mut conn)
                    .await
                    .unwrap();
                sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
                conn.close().await.unwrap();
            }
        }
    }

    /// A new object, intended at second 0.
    async fn writing(&self, lease_until: Timestamp, quiet_at: Timestamp) -> ObjectId {
        let intent = Intent {
            id: ObjectId::new(at(0)),
            tenant: self.tenant.clone(),
            lease_until,
            quiet_at,
            now: at(0),
            reserved: Amount::default(),
        };
        let id = intent.id;
        change!(self.metadata, intent, |tx, intent| tx.object_intend(intent))
            .await
            .unwrap();
        id
    }

    async fn publish(&self, id: ObjectId, epoch: i64, now: Timestamp) -> bool {
        change!(self.metadata, |tx| tx.object_publish(
            id,
            epoch,
            now,
            SIZE,
            Some(&SHA256),
            true
        ))
        .await
        .unwrap()
        .is_some()
    }

    /// A live object with one reference, published at second 10.
    async fn live(&self) -> ObjectId {
        let id = self.writing(at(100), at(200)).await;
        assert!(self.publish(id, FIRST_EPOCH, at(10)).await);
        id
    }

    /// An object that died at once: its key may be deleted from `delete_at` on.
    async fn dead(&self, delete_at: Timestamp) -> ObjectId {
        let id = self.writing(at(100), at(200)).await;
        let abandoned = change!(self.metadata, |tx| tx.object_abandon(
            id,
            FIRST_EPOCH,
            delete_at,
            true
        ));
        assert!(abandoned.await.unwrap().is_some());
        id
    }

    async fn find(&self, id: ObjectId) -> Option<Object> {
        self.reader().await.conn().object_get(id).await.unwrap()
    }

    async fn object(&self, id: ObjectId) -> Object {
        self.find(id).await.unwrap()
    }

    /// A file that fits the object, as [`Fixture::live`] makes it.
    fn file(&self, number: u128, object_id: ObjectId) -> File {
        File {
            id: file_id(number),
            tenant: self.tenant.clone(),
            name: format!("file {number}"),
            content_type: "text/plain".to_owned(),
            size: SIZE,
            sha256: Some(SHA256),
            metadata: serde_json::Map::new(),
            version: 1,
            revision: 1,
            object_id,
            created_at: at(20),
            updated_at: at(20),
            expires_at: None,
            trashed_at: None,
            created_by: "somebody".to_owned(),
            content_at: None,
            content_by: None,
            retention_until: None,
            legal_hold: false,
        }
    }

    async fn insert(&self, file: &File) {
        change!(self.metadata, file.clone(), |tx, file| tx.file_insert(file))
            .await
            .unwrap();
    }

    /// In one transaction.
    async fn insert_all(&self, files: &[File]) {
        let inserted = self.metadata.write(files.to_vec(), |tx, files| {
            futures::FutureExt::boxed(async move {
                for file in files {
                    tx.file_insert(file).await?;
                }
                Ok(())
            })
        });
        inserted.await.unwrap();
    }

    /// The files that disagree with their objects, looked for in pages of so many.
    async fn broken_files(&self, limit: u32) -> Vec<(FileId, ObjectId)> {
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let mut reader = self.reader().await;
            let page = reader.conn().file_broken_page(after, limit).await.unwrap();
            let Some((last, broken)) = page else {
                return found;
            };
            assert!(after < Some(last));
            after = Some(last);
            found.extend(broken);
        }
    }

    async fn get(&self, id: FileId) -> Option<File> {
        let mut reader = self.reader().await;
        reader.conn().file_get(&self.tenant, id).await.unwrap()
    }
}

fn settings(database: &Database) -> Settings {
    Settings {
        url: database.url().to_owned(),
        max_connections: 8,
        timeout: Duration::from_secs(20),
        migrate: true,
    }
}

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

/// So many seconds into the test.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros((1_700_000_000 + seconds) * 1_000_000)
}

const MICROSECOND: Duration = Duration::from_micros(1);

/// Ids whose order is known.
fn file_id(number: u128) -> FileId {
    FileId::from_uuid(Uuid::from_u128(number))
}
