//! The `links` table: slugs that lead to a file or to an external URL.
//!
//! A slug is unique in the deployment. A deleted link's row stays until its reservation is over. Uses
//! of a link with `max_uses` are counted one by one ([`Conn::link_spend`]); the others' come in batches.

use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{FileId, Tenant};

use super::postgres::in_time;
use super::{Conn, Db, Metadata};

/// Where PostgreSQL tells of links that have changed, by their slugs.
const CHANNEL: &str = "box_links";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    pub slug: String,
    pub tenant: Tenant,
    /// One of the two.
    pub url: Option<String>,
    pub file_id: Option<FileId>,
    /// Its hash, in the PHC format. It goes nowhere but to the table.
    #[serde(skip)]
    pub password: Option<String>,
    pub has_password: bool,
    pub disposition: Option<String>,
    pub disabled: bool,
    pub expires_at: Option<Timestamp>,
    pub max_uses: Option<i64>,
    pub uses: i64,
    pub last_used_at: Option<Timestamp>,
    /// Counts every change by its tenant, from 1.
    pub revision: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub created_by: String,
    pub deleted_at: Option<Timestamp>,
}

/// Uses of a link that are to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uses {
    pub slug: String,
    /// Which link of this slug: it may have been made anew.
    pub created_at: Timestamp,
    pub uses: i64,
    pub last_used_at: Timestamp,
}

#[derive(FromRow)]
struct Row {
    slug: String,
    tenant: Tenant,
    url: Option<String>,
    file_id: Option<FileId>,
    password: Option<String>,
    disposition: Option<String>,
    disabled: bool,
    expires_at: Option<Timestamp>,
    max_uses: Option<i64>,
    uses: i64,
    last_used_at: Option<Timestamp>,
    revision: i64,
    created_at: Timestamp,
    updated_at: Timestamp,
    created_by: String,
    deleted_at: Option<Timestamp>,
}

impl From<Row> for Link {
    fn from(row: Row) -> Self {
        Self {
            slug: row.slug,
            tenant: row.tenant,
            url: row.url,
            file_id: row.file_id,
            has_password: row.password.is_some(),
            password: row.password,
            disposition: row.disposition,
            disabled: row.disabled,
            expires_at: row.expires_at,
            max_uses: row.max_uses,
            uses: row.uses,
            last_used_at: row.last_used_at,
            revision: row.revision,
            created_at: row.created_at,
            updated_at: row.updated_at,
            created_by: row.created_by,
            deleted_at: row.deleted_at,
        }
    }
}

/// What is different in each of many, as JSON.
#[derive(Serialize)]
struct Many<'l> {
    slug: &'l str,
    url: Option<&'l str>,
    file_id: Option<FileId>,
    password: Option<&'l str>,
    disposition: Option<&'l str>,
    expires_at: Option<Timestamp>,
    /// The same, as SQLite has it.
    expires_us: Option<i64>,
    max_uses: Option<i64>,
}

impl<'l> From<&'l Link> for Many<'l> {
    fn from(link: &'l Link) -> Self {
        Self {
            slug: &link.slug,
            url: link.url.as_deref(),
            file_id: link.file_id,
            password: link.password.as_deref(),
            disposition: link.disposition.as_deref(),
            expires_at: link.expires_at,
            expires_us: link.expires_at.map(Timestamp::as_micros),
            max_uses: link.max_uses,
        }
    }
}

macro_rules! columns {
    () => {
        "slug, tenant, url, file_id, password, disposition, disabled, expires_at, max_uses, uses, last_used_at,
         revision, created_at, updated_at, created_by, deleted_at"
    };
}

/// An insert takes a deleted link's place where its tenant makes it anew, or its reservation is over.
macro_rules! taking_over {
    ($by:literal) => {
        concat!(
            " ON CONFLICT (slug) DO UPDATE SET tenant = excluded.tenant, url = excluded.url, file_id = excluded.file_id,
                 password = excluded.password, disposition = excluded.disposition, disabled = excluded.disabled,
                 expires_at = excluded.expires_at, max_uses = excluded.max_uses, uses = 0, last_used_at = NULL,
                 revision = links.revision + 1, created_at = excluded.created_at, updated_at = excluded.updated_at,
                 created_by = excluded.created_by, deleted_at = NULL
             WHERE links.deleted_at IS NOT NULL AND (links.tenant = excluded.tenant OR links.deleted_at <= ",
            $by,
            ")"
        )
    };
}

impl Conn<'_> {
    /// False where the slug is taken, or reserved to another tenant since after `reserved`.
    pub async fn link_insert(&mut self, link: &Link, reserved: Timestamp) -> Result<bool> {
        let inserted = on!(self, |c| {
            sqlx::query(concat!(
                "INSERT INTO links (",
                columns!(),
                ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, NULL, 1, $10, $10, $11, NULL)",
                taking_over!("$12")
            ))
            .bind(&link.slug)
            .bind(&link.tenant)
            .bind(&link.url)
            .bind(link.file_id)
            .bind(&link.password)
            .bind(&link.disposition)
            .bind(link.disabled)
            .bind(link.expires_at)
            .bind(link.max_uses)
            .bind(link.created_at)
            .bind(&link.created_by)
            .bind(reserved)
            .execute(c)
            .await?
            .rows_affected()
        });
        Ok(inserted == 1)
    }

    /// The same for links that differ in no more than slug, target, disposition, expiry and most uses; the
    /// slugs of those that were made.
    pub async fn link_insert_many(
        &mut self,
        links: &[Link],
        reserved: Timestamp,
    ) -> Result<Vec<String>> {
        let Some(first) = links.first() else {
            return Ok(Vec::new());
        };
        macro_rules! insert {
            ($from:literal) => {
                concat!(
                    "INSERT INTO links (",
                    columns!(),
                    ") ",
                    $from,
                    taking_over!("$5"),
                    " RETURNING slug"
                )
            };
        }
        let rows: Vec<_> = links.iter().map(Many::from).collect();
        let json = serde_json::to_string(&rows).map_err(Error::internal)?;
        match self {
            Self::Postgres(c, patience) => {
                let statement = async {
                    let slugs = sqlx::query_scalar(insert!(
                        "SELECT slug, $1, url, file_id, password, disposition, FALSE, expires_at, max_uses, 0, NULL,
                                1, $2, $2, $3, NULL
                         FROM json_to_recordset(CAST($4 AS JSON)) AS t (slug TEXT, url TEXT, file_id UUID,
                              password TEXT, disposition TEXT, expires_at TIMESTAMPTZ, max_uses BIGINT)"
                    ))
                    .bind(&first.tenant)
                    .bind(first.created_at)
                    .bind(&first.created_by)
                    .bind(json)
                    .bind(reserved)
                    .fetch_all(&mut **c)
                    .await?;
                    Ok(slugs)
                };
                in_time(*patience, statement).await
            }
            Self::Sqlite(c) => Ok(sqlx::query_scalar(insert!(
                // Without a WHERE, SQLite would take the ON for a join's.
                "SELECT value ->> 'slug', $1, value ->> 'url', unhex(value ->> 'file_id', '-'),
                        value ->> 'password', value ->> 'disposition', FALSE, value ->> 'expires_us', value ->> 'max_uses', 0, NULL,
                        1, $2, $2, $3, NULL
                 FROM json_each($4) WHERE TRUE"
            ))
            .bind(&first.tenant)
            .bind(first.created_at)
            .bind(&first.created_by)
            .bind(json)
            .bind(reserved)
            .fetch_all(c.ready().await?)
            .await?),
        }
    }

    /// The link of a slug, whoever's it is, a deleted one too.
    pub async fn link_find(&mut self, slug: &str) -> Result<Option<Link>> {
        let row: Option<Row> = on!(self, |c| {
            sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                " FROM links WHERE slug = $1"
            ))
            .bind(slug)
            .fetch_optional(c)
            .await?
        });
        Ok(row.map(Link::from))
    }

    pub async fn link_get(&mut self, tenant: &Tenant, slug: &str) -> Result<Option<Link>> {
        let row: Option<Row> = on!(self, |c| {
            sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                " FROM links WHERE slug = $2 AND tenant = $1 AND deleted_at IS NULL"
            ))
            .bind(tenant)
            .bind(slug)
            .fetch_optional(c)
            .await?
        });
        Ok(row.map(Link::from))
    }

    /// The same, kept from changing until the transaction ends.
    pub async fn link_lock(&mut self, tenant: &Tenant, slug: &str) -> Result<Option<Link>> {
        if let Self::Postgres(c, patience) = self {
            let statement = async {
                let row: Option<Row> = sqlx::query_as(concat!(
                    "SELECT ",
                    columns!(),
                    " FROM links WHERE slug = $2 AND tenant = $1 AND deleted_at IS NULL FOR UPDATE"
                ))
                .bind(tenant)
                .bind(slug)
                .fetch_optional(&mut **c)
                .await?;
                Ok(row.map(Link::from))
            };
            return in_time(*patience, statement).await;
        }
        self.link_get(tenant, slug).await
    }

    /// Writes what its tenant may change, and that it is deleted.
    pub async fn link_update(&mut self, link: &Link) -> Result<()> {
        run!(
            self,
            "UPDATE links SET url = $3, file_id = $4, password = $5, disposition = $6, disabled = $7,
                 expires_at = $8, max_uses = $9, revision = $10, updated_at = $11, deleted_at = $12
             WHERE slug = $2 AND tenant = $1 AND deleted_at IS NULL",
            [
                &link.tenant,
                &link.slug,
                &link.url,
                link.file_id,
                &link.password,
                &link.disposition,
                link.disabled,
                link.expires_at,
                link.max_uses,
                link.revision,
                link.updated_at,
                link.deleted_at
            ]
        );
        self.link_tell(&link.slug).await
    }

    /// Tells the other replicas, once the transaction is committed, that a link has changed.
    async fn link_tell(&mut self, slug: &str) -> Result<()> {
        if let Self::Postgres(c, patience) = self {
            let statement = async {
                sqlx::query("SELECT pg_notify($1, $2)")
                    .bind(CHANNEL)
                    .bind(slug)
                    .execute(&mut **c)
                    .await?;
                Ok(())
            };
            in_time(*patience, statement).await?;
        }
        Ok(())
    }

    /// Counts one use of a link that has a most. False where it has none left, or is not any more as it
    /// was looked at.
    pub async fn link_spend(&mut self, link: &Link, now: Timestamp) -> Result<bool> {
        let spent = on!(self, |c| {
            sqlx::query(
                "UPDATE links SET uses = uses + 1, last_used_at = $3
                 WHERE slug = $1 AND revision = $2 AND deleted_at IS NULL AND uses < max_uses",
            )
            .bind(&link.slug)
            .bind(link.revision)
            .bind(now)
            .execute(c)
            .await?
            .rows_affected()
        });
        Ok(spent == 1)
    }

    /// Adds uses that were gathered.
    pub async fn link_uses_add(&mut self, uses: &[Uses]) -> Result<()> {
        match self {
            Self::Postgres(c, patience) => {
                let slugs: Vec<&str> = uses.iter().map(|one| one.slug.as_str()).collect();
                let made: Vec<_> = uses
                    .iter()
                    .map(|one| one.created_at.to_datetime())
                    .collect();
                let counts: Vec<i64> = uses.iter().map(|one| one.uses).collect();
                let last: Vec<_> = uses
                    .iter()
                    .map(|one| one.last_used_at.to_datetime())
                    .collect();
                let statement = async {
                    sqlx::query(
                        "UPDATE links SET uses = links.uses + t.uses, last_used_at = GREATEST(links.last_used_at, t.last)
                         FROM UNNEST($1, $2, $3, $4) AS t (slug, made, uses, last)
                         WHERE links.slug = t.slug AND links.created_at = t.made",
                    )
                    .bind(slugs)
                    .bind(made)
                    .bind(counts)
                    .bind(last)
                    .execute(&mut **c)
                    .await?;
                    Ok(())
                };
                in_time(*patience, statement).await
            }
            Self::Sqlite(c) => {
                let rows: Vec<_> = (uses.iter())
                    .map(|one| {
                        let last = one.last_used_at.as_micros();
                        (&one.slug, one.created_at.as_micros(), one.uses, last)
                    })
                    .collect();
                let json = serde_json::to_string(&rows).map_err(Error::internal)?;
                sqlx::query(
                    "UPDATE links SET uses = links.uses + (t.value ->> 2),
                         last_used_at = MAX(COALESCE(links.last_used_at, 0), t.value ->> 3)
                     FROM json_each($1) AS t
                     WHERE links.slug = t.value ->> 0 AND links.created_at = t.value ->> 1",
                )
                .bind(json)
                .execute(c.ready().await?)
                .await?;
                Ok(())
            }
        }
    }

    /// Links behind `after` by their slugs, which begin with `prefix`.
    pub async fn link_list(
        &mut self,
        tenant: &Tenant,
        prefix: &str,
        file_id: Option<FileId>,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Link>> {
        // Behind every character that a slug may have.
        let end = format!("{prefix}~");
        macro_rules! page {
            ($file:literal) => {
                concat!(
                    "SELECT ",
                    columns!(),
                    " FROM links WHERE tenant = $1 AND deleted_at IS NULL AND slug >= $2 AND slug < $3 AND slug > $4",
                    $file,
                    " ORDER BY slug LIMIT $5"
                )
            };
        }
        let rows: Vec<Row> = on!(self, |c| {
            let query = match file_id {
                None => sqlx::query_as(page!("")),
                Some(_) => sqlx::query_as(page!(" AND file_id = $6")),
            };
            let query = query
                .bind(tenant)
                .bind(prefix)
                .bind(&end)
                .bind(after)
                .bind(i64::from(limit));
            match file_id {
                None => query,
                Some(id) => query.bind(id),
            }
            .fetch_all(c)
            .await?
        });
        Ok(rows.into_iter().map(Link::from).collect())
    }

    /// Frees up to `limit` slugs of links that were deleted by `before`; how many.
    pub async fn link_sweep(&mut self, before: Timestamp, limit: u32) -> Result<u64> {
        Ok(on!(self, |c| {
            sqlx::query(
                "DELETE FROM links WHERE slug IN (
                    SELECT slug FROM links WHERE deleted_at <= $1 ORDER BY deleted_at LIMIT $2)
                 AND deleted_at <= $1",
            )
            .bind(before)
            .bind(i64::from(limit))
            .execute(c)
            .await?
            .rows_affected()
        }))
    }
}

/// What other replicas tell of links that they have changed.
pub struct Changes(sqlx::postgres::PgListener);

impl Metadata {
    /// None where there are no others: on SQLite.
    pub async fn link_changes(&self) -> Result<Option<Changes>> {
        match &self.db {
            Db::Sqlite(_) => Ok(None),
            Db::Postgres(pool) => Ok(Some(Changes(pool.listen(CHANNEL).await?))),
        }
    }
}

impl Changes {
    /// The slug of the next one; None when some may have been missed.
    pub async fn next(&mut self) -> Result<Option<String>> {
        let told = self.0.try_recv().await?;
        Ok(told.map(|told| told.payload().to_owned()))
    }
}
