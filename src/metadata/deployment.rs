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
    /// The greatest generation that the store's marker may have.
    pub raising: i64,
}

#[derive(FromRow)]
struct Row {
    environment: String,
    database_id: Uuid,
    marked: bool,
    raising: i64,
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
            sqlx::query_as("SELECT environment, database_id, marked, raising FROM deployment")
                .fetch_one(c)
                .await?
        });
        Ok(Deployment {
            environment: row.environment,
            database_id: row.database_id,
            marked: row.marked,
            raising: row.raising,
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

    /// The greatest generation that the store's marker may have.
    pub async fn deployment_raising(&mut self) -> Result<i64> {
        Ok(on!(self, |c| {
            sqlx::query_scalar("SELECT raising FROM deployment")
                .fetch_one(c)
                .await?
        }))
    }

    /// Intends the next generation, which may then be written to the store; None where the marker,
    /// which says `stored`, is ahead.
    pub async fn deployment_raise(&mut self, stored: i64) -> Result<Option<i64>> {
        Ok(on!(self, |c| {
            sqlx::query_scalar(
                "UPDATE deployment SET raising = generation + 1 WHERE raising >= $1 RETURNING raising",
            )
            .bind(stored)
            .fetch_optional(c)
            .await?
        }))
    }

    /// The store has the generation.
    pub async fn deployment_raised(&mut self, generation: i64) -> Result<()> {
        on!(self, |c| {
            sqlx::query("UPDATE deployment SET generation = $1 WHERE generation < $1")
                .bind(generation)
                .execute(c)
                .await?;
        });
        Ok(())
    }

    /// Takes over the store's generation, from which this database was behind.
    pub async fn deployment_catch_up(&mut self, stored: i64) -> Result<()> {
        on!(self, |c| {
            sqlx::query("UPDATE deployment SET generation = $1, raising = $1 WHERE raising < $1")
                .bind(stored)
                .execute(c)
                .await?;
        });
        Ok(())
    }
}
