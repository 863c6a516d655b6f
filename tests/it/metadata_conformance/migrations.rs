//! Migrations: a database that an older binary filled, and goes on filling beside a newer one.

use box_service::id::{ObjectId, Tenant};
use box_service::metadata::files::{File, Metadata as Json};
use box_service::metadata::objects::{FIRST_EPOCH, State};
use box_service::metadata::search::{Filter, Page, Sort, SortBy};
use box_service::metadata::usage::{Amount, Change, Drift, Quota};
use box_service::metadata::{Metadata, Settings};
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, SqliteConnection};
use uuid::Uuid;

use super::{Fixture, SHA256, SIZE, at, file_id, settings, tenant};
use crate::harness::database::{Database, Kind};

conformance!(
    an_empty_database_of_the_first_schema_is_migrated,
    usage_is_counted_when_it_is_introduced,
    what_was_there_before_a_migration_is_kept,
    terms_are_made_of_what_was_there_before_them,
    an_older_binary_goes_on_working,
    a_lower_number_is_applied_after_a_higher_one,
    a_database_that_contracted_refuses_what_is_too_old,
);

static SQLITE: Migrator = sqlx::migrate!("./migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("./migrations/postgres");

/// The migrations with these numbers.
fn only(migrations: &Migrator, is: impl Fn(i64) -> bool) -> Migrator {
    let first = (migrations.iter())
        .filter(|migration| is(migration.version))
        .cloned()
        .collect();
    Migrator::with_migrations(first)
}

/// A database with the first schema, to be opened by whoever wants it migrated.
async fn first_schema(kind: Kind) -> Database {
    schema(kind, |version| version == 1).await
}

async fn schema(kind: Kind, is: impl Fn(i64) -> bool) -> Database {
    let database = Database::create(kind).await.unwrap();
    match kind {
        Kind::Sqlite => {
            let options: SqliteConnectOptions = database.url().parse().unwrap();
            let mut conn = options.create_if_missing(true).connect().await.unwrap();
            only(&SQLITE, is).run(&mut conn).await.unwrap();
            conn.close().await.unwrap();
        }
        Kind::Postgres => {
            let mut conn = PgConnection::connect(database.url()).await.unwrap();
            only(&POSTGRES, is).run(&mut conn).await.unwrap();
            conn.close().await.unwrap();
        }
    }
    database
}

/// Statements as an older binary sends them.
async fn execute(kind: Kind, database: &Database, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    match kind {
        Kind::Sqlite => {
            let options: SqliteConnectOptions = database.url().parse().unwrap();
            let mut conn = options.connect().await.unwrap();
            sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
            conn.close().await.unwrap();
        }
        Kind::Postgres => {
            let mut conn = PgConnection::connect(database.url()).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
            conn.close().await.unwrap();
        }
    }
}

fn object_id(number: u128) -> ObjectId {
    ObjectId::from_uuid(Uuid::from_u128(number))
}

/// The rows of an object, of a file over it, and so on, with none but the first schema's columns.
struct Sql(Kind);

impl Sql {
    fn id(&self, number: u128) -> String {
        match self.0 {
            Kind::Sqlite => format!("x'{number:032x}'"),
            Kind::Postgres => format!("'{}'", Uuid::from_u128(number)),
        }
    }

    fn time(&self, seconds: i64) -> String {
        match self.0 {
            Kind::Sqlite => at(seconds).as_micros().to_string(),
            Kind::Postgres => format!("'{}'", at(seconds)),
        }
    }

    fn digest(&self) -> String {
        let hex = hex::encode(SHA256);
        match self.0 {
            Kind::Sqlite => format!("x'{hex}'"),
            Kind::Postgres => format!("'\\x{hex}'"),
        }
    }

    fn live(&self, number: u128, tenant: &str, size: u64, refs: u32) -> String {
        let (id, time, digest) = (self.id(number), self.time(10), self.digest());
        format!(
            "INSERT INTO objects (id, tenant, state, epoch, refs, size, sha256, quiet_at, created_at)
             VALUES ({id}, '{tenant}', 'live', 1, {refs}, {size}, {digest}, {time}, {time});"
        )
    }

    fn writing(&self, number: u128, tenant: &str) -> String {
        let (id, lease, quiet) = (self.id(number), self.time(100), self.time(200));
        let time = self.time(10);
        format!(
            "INSERT INTO objects (id, tenant, state, epoch, refs, lease_until, quiet_at, created_at)
             VALUES ({id}, '{tenant}', 'writing', 1, 0, {lease}, {quiet}, {time});"
        )
    }

    fn dead(&self, number: u128, tenant: &str, size: u64) -> String {
        let (id, time) = (self.id(number), self.time(10));
        format!(
            "INSERT INTO objects (id, tenant, state, epoch, refs, size, quiet_at, delete_at, forget_at, created_at)
             VALUES ({id}, '{tenant}', 'dead', 1, 0, {size}, {time}, {time}, {time}, {time});"
        )
    }

    fn file(&self, number: u128, tenant: &str, size: u64, object: u128, trashed: bool) -> String {
        let (id, object, time, digest) = (
            self.id(number),
            self.id(object),
            self.time(20),
            self.digest(),
        );
        let trashed_at = if trashed { &time } else { "NULL" };
        format!(
            r#"INSERT INTO files (id, tenant, name, content_type, size, sha256, metadata, version, revision,
                                  object_id, created_at, updated_at, expires_at, trashed_at, created_by)
             VALUES ({id}, '{tenant}', 'file {number}', 'text/plain', {size}, {digest}, '{{"a":[1]}}', 1, 1,
                     {object}, {time}, {time}, NULL, {trashed_at}, 'somebody');"#
        )
    }
}

/// Two tenants' files: two of `acme` over one object, one of them in the trash, and an empty one.
fn rows(sql: &Sql) -> String {
    [
        sql.live(1, "acme", SIZE, 2),
        sql.file(1, "acme", SIZE, 1, false),
        sql.file(2, "acme", SIZE, 1, true),
        sql.live(2, "acme", 0, 1),
        sql.file(3, "acme", 0, 2, false),
        sql.live(3, "Acme", 1 << 60, 1),
        sql.file(4, "Acme", 1 << 60, 3, false),
        sql.writing(4, "acme"),
        sql.dead(5, "acme", 99),
        sql.dead(6, "gone", 99),
    ]
    .concat()
}

async fn usage(metadata: &Metadata, tenant: &Tenant) -> Amount {
    let mut reader = metadata.reader().await.unwrap();
    reader.conn().usage_get(tenant).await.unwrap()
}

async fn drifts(metadata: &Metadata) -> Vec<Drift> {
    let mut reader = metadata.reader().await.unwrap();
    reader.conn().usage_drifts().await.unwrap()
}

async fn an_empty_database_of_the_first_schema_is_migrated(fixture: Fixture) {
    let database = first_schema(fixture.kind).await;
    let checked = Settings {
        migrate: false,
        ..settings(&database)
    };
    let error = Metadata::open(&checked).await.err().unwrap();
    assert!(error.to_string().contains("box migrate"), "{error}");
    let metadata = Metadata::open(&settings(&database)).await.unwrap();
    assert_eq!(drifts(&metadata).await, []);
    Metadata::open(&checked).await.unwrap();
}

async fn usage_is_counted_when_it_is_introduced(fixture: Fixture) {
    let database = first_schema(fixture.kind).await;
    execute(fixture.kind, &database, &rows(&Sql(fixture.kind))).await;
    // Opened twice, it counts once.
    for _ in 0..2 {
        let metadata = Metadata::open(&settings(&database)).await.unwrap();
        let acme = Amount {
            bytes: 2 * SIZE as i64,
            files: 3,
        };
        assert_eq!(usage(&metadata, &tenant("acme")).await, acme);
        let other = Amount {
            bytes: 1 << 60,
            files: 1,
        };
        assert_eq!(usage(&metadata, &tenant("Acme")).await, other);
        assert_eq!(usage(&metadata, &tenant("gone")).await, Amount::default());
        assert_eq!(drifts(&metadata).await, []);

        // A quota counts on from there.
        let quota = Quota {
            bytes: Some(2 * SIZE + 1),
            files: Some(4),
        };
        for (bytes, fits) in [(2, false), (1, true), (-1, true)] {
            let change = Change {
                used: Amount { bytes, files: 0 },
                ..Change::default()
            };
            let changed = change!(metadata, tenant("acme"), |tx, tenant| tx
                .usage_change(tenant, change, quota));
            assert_eq!(changed.await.unwrap(), fits);
        }
        metadata.close().await;
    }
}

async fn terms_are_made_of_what_was_there_before_them(fixture: Fixture) {
    let database = schema(fixture.kind, |version| version < 15).await;
    execute(fixture.kind, &database, &rows(&Sql(fixture.kind))).await;
    Metadata::open(&settings(&database)).await.unwrap();
    let sql = "SELECT COUNT(*) FROM file_terms t JOIN files f ON f.id = t.file_id AND f.created_at = t.created_at";
    let terms: i64 = match fixture.kind {
        Kind::Sqlite => {
            let mut conn = SqliteConnection::connect(database.url()).await.unwrap();
            sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap()
        }
        Kind::Postgres => {
            let mut conn = PgConnection::connect(database.url()).await.unwrap();
            sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap()
        }
    };
    assert_eq!(terms, 4);
}

async fn what_was_there_before_a_migration_is_kept(fixture: Fixture) {
    let database = first_schema(fixture.kind).await;
    execute(fixture.kind, &database, &rows(&Sql(fixture.kind))).await;
    let metadata = Metadata::open(&settings(&database)).await.unwrap();
    let json: Json = serde_json::from_str(r#"{"a":[1]}"#).unwrap();
    let wanted = File {
        metadata: json.clone(),
        ..fixture.file(1, object_id(1))
    };
    let mut reader = metadata.reader().await.unwrap();
    let found = reader.conn().file_get(&tenant("acme"), file_id(1)).await;
    assert_eq!(found.unwrap(), Some(wanted.clone()));

    // By what the migration brought.
    let filter = Filter {
        metadata: Some(json),
        min_size: Some(1),
        sha256: Some(SHA256),
        ..Filter::new(tenant("acme"), at(0))
    };
    for by in [SortBy::UpdatedAt, SortBy::Size] {
        let sort = Sort {
            by,
            descending: true,
        };
        let page = Page {
            sort,
            after: None,
            limit: 10,
        };
        let listed = reader.conn().file_list(&filter, &page).await.unwrap();
        assert_eq!(listed, std::slice::from_ref(&wanted));
    }
    let versions = reader
        .conn()
        .version_list(&tenant("acme"), file_id(1), 9, 9)
        .await;
    assert_eq!(versions.unwrap(), []);
    assert_eq!(
        reader.conn().object_count_refs(object_id(1)).await.unwrap(),
        2
    );
    let page = reader.conn().file_broken_page(None, 9).await.unwrap();
    assert_eq!(page.unwrap().1, []);
    drop(reader);

    // An upload that was under way is finished, and had reserved nothing.
    let published = change!(metadata, |tx| tx.object_publish(
        object_id(4),
        FIRST_EPOCH,
        at(50),
        SIZE,
        Some(&SHA256),
        true
    ));
    assert_eq!(published.await.unwrap(), Some(Amount::default()));
}

/// Numbers are given out when work begins, and land in another order.
async fn a_lower_number_is_applied_after_a_higher_one(fixture: Fixture) {
    let database = schema(fixture.kind, |version| version != 6).await;
    let checked = Settings {
        migrate: false,
        ..settings(&database)
    };
    let error = Metadata::open(&checked).await.err().unwrap();
    assert!(error.to_string().contains("box migrate"), "{error}");
    let metadata = Metadata::open(&settings(&database)).await.unwrap();
    let mut reader = metadata.reader().await.unwrap();
    assert_eq!(reader.conn().link_find("x").await.unwrap(), None);
    drop(reader);
    Metadata::open(&checked).await.unwrap();
}

/// As a migration that contracts does for binaries that know no other as new.
async fn a_database_that_contracted_refuses_what_is_too_old(fixture: Fixture) {
    let newest = (SQLITE.iter()).map(|one| one.version).max().unwrap();
    let database = schema(fixture.kind, |_| true).await;
    for migrate in [true, false] {
        let settings = Settings {
            migrate,
            ..settings(&database)
        };
        let raise = |to: i64| format!("UPDATE lowest_binary SET migration = {to}");
        execute(fixture.kind, &database, &raise(newest + 1)).await;
        let error = Metadata::open(&settings).await.err().unwrap();
        assert!(error.to_string().contains("newer version"), "{error}");
        execute(fixture.kind, &database, &raise(newest)).await;
        Metadata::open(&settings).await.unwrap().close().await;
    }
}

/// While replicas are replaced one by one.
async fn an_older_binary_goes_on_working(fixture: Fixture) {
    let database = first_schema(fixture.kind).await;
    let sql = Sql(fixture.kind);
    execute(fixture.kind, &database, &rows(&sql)).await;
    let metadata = Metadata::open(&settings(&database)).await.unwrap();
    let more = [
        sql.live(11, "acme", SIZE, 1),
        sql.file(11, "acme", SIZE, 11, false),
        sql.writing(12, "acme"),
    ];
    execute(fixture.kind, &database, &more.concat()).await;
    let mut reader = metadata.reader().await.unwrap();
    let found = reader.conn().file_get(&tenant("acme"), file_id(11)).await;
    let file = found.unwrap().unwrap();
    assert_eq!((file.content_at, file.content_by), (None, None));
    let object = reader.conn().object_get(object_id(12)).await.unwrap();
    assert_eq!(object.unwrap().state, State::Writing);
    drop(reader);

    // It knows nothing of usage: what it did is told, and mended.
    let short = Change {
        used: Amount {
            bytes: SIZE as i64,
            files: 1,
        },
        ..Change::default()
    };
    let drifts = drifts(&metadata).await;
    assert_eq!(drifts.len(), 1);
    assert_eq!(drifts[0].tenant, tenant("acme"));
    assert_eq!(drifts[0].short, short);
    let mended = change!(metadata, tenant("acme"), |tx, tenant| tx.usage_mend(tenant));
    assert!(mended.await.unwrap());
    let wanted = Amount {
        bytes: 3 * SIZE as i64,
        files: 4,
    };
    assert_eq!(usage(&metadata, &tenant("acme")).await, wanted);
}
