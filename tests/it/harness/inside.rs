//! What tests see and do behind a service's back: its local directory, and its database in SQL.

use std::path::PathBuf;

use box_service::domain::Domain;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, SqliteConnection};

use super::service::Service;

impl Service {
    /// A setting that the service was started with.
    pub fn variable(&self, name: &str) -> &str {
        let found = self.variables.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("{name} is not set")).1
    }

    /// Where the local store keeps its objects. None on S3.
    pub fn local_store(&self) -> Option<PathBuf> {
        let path = self.variable("BOX_STORE__URL").strip_prefix("file:")?;
        Some(PathBuf::from(path))
    }

    /// Runs SQL that both databases understand.
    pub async fn execute(&self, sql: &str) {
        let url = self.variable("BOX_DATABASE__URL");
        let sql = AssertSqlSafe(sql.to_owned());
        if url.starts_with("sqlite:") {
            let mut conn = SqliteConnection::connect(url).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
            conn.close().await.unwrap();
        } else {
            let mut conn = PgConnection::connect(url).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
            conn.close().await.unwrap();
        }
    }

    /// How many rows of `FROM …` there are.
    pub async fn count(&self, from: &str) -> i64 {
        let url = self.variable("BOX_DATABASE__URL");
        let sql = AssertSqlSafe(format!("SELECT count(*) FROM {from}"));
        if url.starts_with("sqlite:") {
            let mut conn = SqliteConnection::connect(url).await.unwrap();
            let row = sqlx::query(sql).fetch_one(&mut conn).await.unwrap();
            conn.close().await.unwrap();
            row.get(0)
        } else {
            let mut conn = PgConnection::connect(url).await.unwrap();
            let row = sqlx::query(sql).fetch_one(&mut conn).await.unwrap();
            conn.close().await.unwrap();
            row.get(0)
        }
    }

    pub fn domain(&self) -> &Domain {
        &self.app.domain
    }
}
