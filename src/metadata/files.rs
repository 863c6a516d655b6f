//! The `files` table: what users see. Every statement names the tenant.

use sqlx::types::Json;
use sqlx::{Database, FromRow, QueryBuilder};

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{FileId, ObjectId, Tenant};

use super::Conn;
use super::objects::{digest, signed, unsigned};

pub type Metadata = serde_json::Map<String, serde_json::Value>;

#[derive(Clone, Debug, PartialEq)]
pub struct File {
    pub id: FileId,
    pub tenant: Tenant,
    pub name: String,
    pub content_type: String,
    /// In bytes.
    pub size: u64,
    pub sha256: Option<[u8; 32]>,
    pub metadata: Metadata,
    /// Counts the contents.
    pub version: i64,
    /// Counts every change.
    pub revision: i64,
    pub object_id: ObjectId,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub trashed_at: Option<Timestamp>,
    pub created_by: String,
}

impl File {
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// What a list is sorted by; the id decides between equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    CreatedAt,
    Name,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    pub by: SortBy,
    pub descending: bool,
}

/// Where a page begins: behind this row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    CreatedAt(Timestamp, FileId),
    Name(String, FileId),
}

#[derive(Clone, Debug)]
pub struct Filter {
    pub tenant: Tenant,
    /// Only the trash, or only what is not in it.
    pub trashed: bool,
    /// What has expired by then is left out, though it may not be removed yet.
    pub now: Timestamp,
    /// The first bytes of the name.
    pub prefix: Option<String>,
    pub sort: Sort,
    pub after: Option<After>,
    pub limit: u32,
}

#[derive(FromRow)]
struct Row {
    id: FileId,
    tenant: Tenant,
    name: String,
    content_type: String,
    size: i64,
    sha256: Option<Vec<u8>>,
    metadata: Json<Metadata>,
    version: i64,
    revision: i64,
    object_id: ObjectId,
    created_at: Timestamp,
    updated_at: Timestamp,
    expires_at: Option<Timestamp>,
    trashed_at: Option<Timestamp>,
    created_by: String,
}

macro_rules! columns {
    () => {
        "id, tenant, name, content_type, size, sha256, metadata, version, revision, object_id, \
         created_at, updated_at, expires_at, trashed_at, created_by"
    };
}

impl Conn<'_> {
    pub async fn file_insert(&mut self, file: &File) -> Result<()> {
        on!(self, |c| {
            sqlx::query(concat!(
                "INSERT INTO files (",
                columns!(),
                ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
            ))
            .bind(file.id)
            .bind(&file.tenant)
            .bind(&file.name)
            .bind(&file.content_type)
            .bind(signed(file.size)?)
            .bind(file.sha256.as_ref().map(|digest| &digest[..]))
            .bind(Json(&file.metadata))
            .bind(file.version)
            .bind(file.revision)
            .bind(file.object_id)
            .bind(file.created_at)
            .bind(file.updated_at)
            .bind(file.expires_at)
            .bind(file.trashed_at)
            .bind(&file.created_by)
            .execute(c)
            .await?;
        });
        Ok(())
    }

    pub async fn file_get(&mut self, tenant: &Tenant, id: FileId) -> Result<Option<File>> {
        let row: Option<Row> = on!(self, |c| {
            sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                " FROM files WHERE tenant = $1 AND id = $2"
            ))
            .bind(tenant)
            .bind(id)
            .fetch_optional(c)
            .await?
        });
        row.map(File::try_from).transpose()
    }

    /// The file, kept from changing until the transaction ends.
    pub async fn file_lock(&mut self, tenant: &Tenant, id: FileId) -> Result<Option<File>> {
        let row: Option<Row> = match self {
            // A transaction that writes has SQLite to itself.
            Self::Sqlite(_) => return self.file_get(tenant, id).await,
            Self::Postgres(c) => {
                sqlx::query_as(concat!(
                    "SELECT ",
                    columns!(),
                    " FROM files WHERE tenant = $1 AND id = $2 FOR UPDATE"
                ))
                .bind(tenant)
                .bind(id)
                .fetch_optional(&mut **c)
                .await?
            }
        };
        row.map(File::try_from).transpose()
    }

    pub async fn file_trash(&mut self, tenant: &Tenant, id: FileId, now: Timestamp) -> Result<()> {
        on!(self, |c| {
            sqlx::query(
                "UPDATE files SET trashed_at = $3, updated_at = $3, revision = revision + 1
                 WHERE tenant = $1 AND id = $2 AND trashed_at IS NULL",
            )
            .bind(tenant)
            .bind(id)
            .bind(now)
            .execute(c)
            .await?;
        });
        Ok(())
    }

    /// Removes the row; the object it referred to, None when there was no such file.
    pub async fn file_delete(&mut self, tenant: &Tenant, id: FileId) -> Result<Option<ObjectId>> {
        Ok(on!(self, |c| {
            sqlx::query_scalar(
                "DELETE FROM files WHERE tenant = $1 AND id = $2 RETURNING object_id",
            )
            .bind(tenant)
            .bind(id)
            .fetch_optional(c)
            .await?
        }))
    }

    /// One page, in the order asked for.
    pub async fn file_list(&mut self, filter: &Filter) -> Result<Vec<File>> {
        let rows: Vec<Row> = on!(self, |c| {
            list_query(filter).build_query_as().fetch_all(c).await?
        });
        rows.into_iter().map(File::try_from).collect()
    }

    /// Files in the trash since `before`, the oldest first.
    pub async fn file_trashed_before(
        &mut self,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<(Tenant, FileId)>> {
        Ok(on!(self, |c| {
            sqlx::query_as("SELECT tenant, id FROM files WHERE trashed_at IS NOT NULL AND trashed_at <= $1 ORDER BY trashed_at LIMIT $2")
                .bind(before)
                .bind(i64::from(limit))
                .fetch_all(c)
                .await?
        }))
    }

    /// Files whose time has come, the longest overdue first.
    pub async fn file_expired(
        &mut self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(Tenant, FileId)>> {
        Ok(on!(self, |c| {
            sqlx::query_as("SELECT tenant, id FROM files WHERE expires_at IS NOT NULL AND expires_at <= $1 ORDER BY expires_at LIMIT $2")
                .bind(now)
                .bind(i64::from(limit))
                .fetch_all(c)
                .await?
        }))
    }

    /// Some of the files that refer to an object, of whatever tenant: for reports.
    pub async fn file_of_object(&mut self, id: ObjectId) -> Result<Option<FileId>> {
        Ok(on!(self, |c| {
            sqlx::query_scalar("SELECT id FROM files WHERE object_id = $1 ORDER BY id LIMIT 1")
                .bind(id)
                .fetch_optional(c)
                .await?
        }))
    }

    /// Files behind `after` in id order whose object is not live, is missing, or differs in size or checksum.
    pub async fn file_broken_page(
        &mut self,
        after: Option<FileId>,
        limit: u32,
    ) -> Result<Vec<(FileId, ObjectId)>> {
        let after = after.unwrap_or(FileId::from_uuid(uuid::Uuid::nil()));
        Ok(on!(self, |c| {
            sqlx::query_as(
                "SELECT f.id, f.object_id FROM files f LEFT JOIN objects o ON o.id = f.object_id
                 WHERE f.id > $1
                   AND (o.id IS NULL OR o.state <> 'live' OR o.tenant <> f.tenant OR o.size <> f.size
                        OR (f.sha256 IS NOT NULL AND o.sha256 <> f.sha256))
                 ORDER BY f.id LIMIT $2",
            )
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        }))
    }
}

fn list_query<DB>(filter: &Filter) -> QueryBuilder<DB>
where
    DB: Database,
    for<'q> Tenant: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> String: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> Timestamp: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> FileId: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> i64: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
{
    let column = match filter.sort.by {
        SortBy::CreatedAt => "created_at",
        SortBy::Name => "name",
    };
    let (beyond, direction) = if filter.sort.descending {
        ("<", "DESC")
    } else {
        (">", "ASC")
    };

    let mut query = QueryBuilder::new(concat!(
        "SELECT ",
        columns!(),
        " FROM files WHERE tenant = "
    ));
    query.push_bind(filter.tenant.clone());
    query.push(if filter.trashed {
        " AND trashed_at IS NOT NULL"
    } else {
        " AND trashed_at IS NULL"
    });
    query.push(" AND (expires_at IS NULL OR expires_at > ");
    query.push_bind(filter.now).push(")");
    if let Some(prefix) = filter.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
        query.push(" AND name >= ").push_bind(prefix.to_owned());
        if let Some(end) = after_prefix(prefix) {
            query.push(" AND name < ").push_bind(end);
        }
    }
    match &filter.after {
        None => {}
        Some(After::CreatedAt(at, id)) => {
            query.push(format_args!(" AND (created_at, id) {beyond} ("));
            query.push_bind(*at).push(", ").push_bind(*id).push(")");
        }
        Some(After::Name(name, id)) => {
            query.push(format_args!(" AND (name, id) {beyond} ("));
            query
                .push_bind(name.clone())
                .push(", ")
                .push_bind(*id)
                .push(")");
        }
    }
    query.push(format_args!(
        " ORDER BY {column} {direction}, id {direction} LIMIT "
    ));
    query.push_bind(i64::from(filter.limit));
    query
}

/// The first text that sorts behind everything that begins with `prefix`, by bytes of UTF-8 (which
/// is the order of code points); None when nothing does.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            char::MAX => continue,
            // The surrogates in between are no characters.
            '\u{d7ff}' => '\u{e000}',
            other => char::from_u32(u32::from(other) + 1)?,
        };
        chars.push(next);
        return Some(chars.into_iter().collect());
    }
    None
}

impl TryFrom<Row> for File {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: row.id,
            tenant: row.tenant,
            name: row.name,
            content_type: row.content_type,
            size: unsigned(row.size)?,
            sha256: row.sha256.map(digest).transpose()?,
            metadata: row.metadata.0,
            version: row.version,
            revision: row.revision,
            object_id: row.object_id,
            created_at: row.created_at,
            updated_at: row.updated_at,
            expires_at: row.expires_at,
            trashed_at: row.trashed_at,
            created_by: row.created_by,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::after_prefix;

    #[test]
    fn the_end_of_a_prefix_sorts_behind_all_that_begins_with_it() {
        assert_eq!(after_prefix("a/"), Some("a0".to_owned()));
        assert_eq!(after_prefix("a\u{10ffff}"), Some("b".to_owned()));
        assert_eq!(after_prefix("\u{d7ff}"), Some("\u{e000}".to_owned()));
        assert_eq!(after_prefix("\u{10ffff}"), None);
    }
}
