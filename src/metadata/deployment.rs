//! The `deployment` table: one row that says whose database this is.

use sqlx::FromRow;
use uuid::Uuid;

use crate::error::Result;

use super::Conn;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    pub environment: String,
    pub database_id: Uuid,
    /// Whether the store's marker has been written.
    pub marked: bool,
}

#[derive(FromRow)]
struct Row {
    environment: String,
    database_id: Uuid,
    marked: bool,
}

impl Conn<'_> {
    /// The row; when there was none, the one given is written first.
    pub async fn deployment_claim(
        &mut self,
        environment: &str,
        database_id: Uuid,
    ) -> Result<Deployment> {
        on!(self, |c| {
            sqlx::query("INSERT INTO deployment (environment, database_id) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(environment)
                .bind(database_id)
                .execute(c)
                .await?;
        });
        let row: Row = on!(self, |c| {
            sqlx::query_as("SELECT environment, database_id, marked FROM deployment")
                .fetch_one(c)
                .await?
        });
        Ok(Deployment {
            environment: row.environment,
            database_id: row.database_id,
            marked: row.marked,
        })
    }

    pub async fn deployment_mark(&mut self) -> Result<()> {
        on!(self, |c| {
            sqlx::query("UPDATE deployment SET marked = (1 = 1)")
                .execute(c)
                .await?;
        });
        Ok(())
    }
}
