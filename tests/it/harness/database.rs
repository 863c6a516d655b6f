//! A fresh database for each test, gone when the test ends.
//!
//! SQLite always runs. PostgreSQL runs where `BOXTEST_POSTGRES_URL` names a server, by a role that
//! may create databases; `BOXTEST_REQUIRE=1` turns its absence from a skip into a failure.

use box_service::clock::Clock;
use box_service::id::ObjectId;
use sqlx::{Connection, PgConnection};
use url::Url;

use super::scratch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

pub struct Database {
    url: String,
    home: Home,
}

enum Home {
    /// Removed with all that is in it.
    Directory {
        _directory: tempfile::TempDir,
    },
    Server {
        url: Url,
        name: String,
    },
}

impl Database {
    /// An empty database, without a schema. None where this kind is to be skipped.
    pub async fn create(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Sqlite => {
                let directory = scratch();
                let file = directory.path().join("box.db");
                Some(Self {
                    url: format!("sqlite:{}", file.display()),
                    home: Home::Directory {
                        _directory: directory,
                    },
                })
            }
            Kind::Postgres => {
                // Not the default template: a session that happens to look at it would be in the way.
                Some(Self::create_on(postgres_server()?, "template0").await)
            }
        }
    }

    async fn create_on(server: Url, template: &str) -> Self {
        // The id tells when it was made, should a killed test leave it behind.
        let id = ObjectId::new(Clock::system().now());
        let name = format!("boxtest_{}", id.as_uuid().simple());
        let sql = format!("CREATE DATABASE {name} TEMPLATE {template}");
        execute(&server, sql).await.unwrap();
        let mut url = server.clone();
        url.set_path(&name);
        Self {
            url: url.into(),
            home: Home::Server { url: server, name },
        }
    }

    /// A copy of another one that nothing is connected to, as a backup has it.
    pub async fn copy_of(url: &str) -> Self {
        if let Some(file) = url.strip_prefix("sqlite:") {
            let copy = Self::create(Kind::Sqlite).await.unwrap();
            std::fs::copy(file, copy.url.strip_prefix("sqlite:").unwrap()).unwrap();
            return copy;
        }
        let source: Url = url.parse().unwrap();
        let source = source.path().trim_start_matches('/');
        let server = postgres_server().unwrap();
        Self::create_on(server, source).await
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Home::Server { url, name } = &self.home else {
            return;
        };
        let url = url.clone();
        let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        // The test's own runtime may be on its way out, and `drop` can't wait on it.
        let dropped = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(sqlx::Error::Io)?
                .block_on(execute(&url, sql))
        })
        .join();
        // A panic here would hide the one that may have ended the test.
        if !matches!(dropped, Ok(Ok(()))) {
            eprintln!("the database {name} was left behind: {dropped:?}");
        }
    }
}

fn postgres_server() -> Option<Url> {
    let Ok(url) = std::env::var("BOXTEST_POSTGRES_URL") else {
        let required = std::env::var("BOXTEST_REQUIRE").is_ok_and(|value| value == "1");
        assert!(
            !required,
            "BOXTEST_POSTGRES_URL is not set, and BOXTEST_REQUIRE is"
        );
        eprintln!("skipped: BOXTEST_POSTGRES_URL is not set");
        return None;
    };
    Some(url.parse().unwrap())
}

async fn execute(server: &Url, sql: String) -> Result<(), sqlx::Error> {
    let mut conn = PgConnection::connect(server.as_str()).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut conn)
        .await?;
    conn.close().await
}
