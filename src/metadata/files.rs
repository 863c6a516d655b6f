//! The `files` table: what users see. Every statement names the tenant. Lists are in `search`.

use futures::TryFutureExt;
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use sqlx::types::Json;

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{FileId, ObjectId, Tenant};

use super::Conn;
use super::objects::{digest, signed, unsigned};
use super::postgres::in_time;

pub type Metadata = serde_json::Map<String, serde_json::Value>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// When the content came and who sent it; None: with the file.
    pub content_at: Option<Timestamp>,
    pub content_by: Option<String>,
    /// Until then it can be neither deleted nor replaced. (Both are missing in what an earlier version kept
    /// as the answer to a request.)
    #[serde(default)]
    pub retention_until: Option<Timestamp>,
    /// The same until the hold is lifted.
    #[serde(default)]
    pub legal_hold: bool,
}

impl File {
    /// Makes it another revision.
    pub fn touch(&mut self, now: Timestamp) {
        self.revision += 1;
        self.updated_at = now;
    }

    /// What is held does not expire before the hold ends.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now) && !self.is_held(now)
    }

    /// Whether it must stay as it is: neither deleted nor replaced.
    pub fn is_held(&self, now: Timestamp) -> bool {
        self.legal_hold || self.retention_until.is_some_and(|until| until > now)
    }
}

#[derive(FromRow)]
pub(super) struct Row {
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
    content_at: Option<Timestamp>,
    content_by: Option<String>,
    retention_until: Option<Timestamp>,
    legal_hold: bool,
}

/// The columns of a [`Row`], each behind the table's name where one is given.
macro_rules! columns {
    () => {
        $crate::metadata::files::columns!("")
    };
    ($table:literal) => {
        $crate::metadata::files::columns!(
            $table: id tenant name content_type size sha256 metadata version revision object_id
            created_at updated_at expires_at trashed_at created_by content_at content_by
            retention_until legal_hold
        )
    };
    ($table:literal: $first:ident $($other:ident)+) => {
        concat!($table, stringify!($first), $(", ", $table, stringify!($other)),+)
    };
}
pub(super) use columns;

/// When a file expires that has no legal hold: as the index `files_due` has it.
macro_rules! due {
    () => {
        "CASE WHEN retention_until > expires_at THEN retention_until ELSE expires_at END"
    };
}

impl Conn<'_> {
    pub async fn file_insert(&mut self, file: &File) -> Result<()> {
        run!(
            self,
            concat!(
                "INSERT INTO files (",
                columns!(),
                ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)"
            ),
            [
                file.id,
                &file.tenant,
                &file.name,
                &file.content_type,
                signed(file.size)?,
                file.sha256.as_ref().map(|digest| &digest[..]),
                Json(&file.metadata),
                file.version,
                file.revision,
                file.object_id,
                file.created_at,
                file.updated_at,
                file.expires_at,
                file.trashed_at,
                &file.created_by,
                file.content_at,
                &file.content_by,
                file.retention_until,
                file.legal_hold
            ]
        );
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

    /// Those of `ids` that are there, in no promised order.
    pub async fn file_get_many(&mut self, tenant: &Tenant, ids: &[FileId]) -> Result<Vec<File>> {
        macro_rules! select {
            ($ids:literal) => {
                concat!(
                    "SELECT ",
                    columns!(),
                    " FROM files WHERE tenant = $1 AND id ",
                    $ids
                )
            };
        }
        let ids = ids.iter().map(FileId::as_uuid);
        let rows: Vec<Row> = match self {
            Self::Postgres(c, patience) => {
                let ids: Vec<uuid::Uuid> = ids.copied().collect();
                let rows = sqlx::query_as(select!("= ANY($2)"))
                    .bind(tenant)
                    .bind(ids)
                    .fetch_all(&mut **c);
                in_time(*patience, rows.err_into()).await?
            }
            Self::Sqlite(c) => {
                let ids: Vec<String> = ids.map(|id| id.simple().to_string()).collect();
                sqlx::query_as(select!("IN (SELECT unhex(value) FROM json_each($2))"))
                    .bind(tenant)
                    .bind(Json(ids))
                    .fetch_all(c.ready().await?)
                    .await?
            }
        };
        rows.into_iter().map(File::try_from).collect()
    }

    /// The file, kept from changing until the transaction ends.
    pub async fn file_lock(&mut self, tenant: &Tenant, id: FileId) -> Result<Option<File>> {
        let row: Option<Row> = match self {
            // A transaction that writes has SQLite to itself.
            Self::Sqlite(_) => return self.file_get(tenant, id).await,
            Self::Postgres(c, patience) => {
                let locked = sqlx::query_as(concat!(
                    "SELECT ",
                    columns!(),
                    " FROM files WHERE tenant = $1 AND id = $2 FOR UPDATE"
                ))
                .bind(tenant)
                .bind(id)
                .fetch_optional(&mut **c);
                in_time(*patience, locked.err_into()).await?
            }
        };
        row.map(File::try_from).transpose()
    }

    /// Writes all of a file that can change. It must be locked.
    pub async fn file_update(&mut self, file: &File) -> Result<()> {
        let id = file.id;
        run_one!(
            self,
            "UPDATE files SET name = $3, content_type = $4, size = $5, sha256 = $6, metadata = $7,
                    version = $8, revision = $9, object_id = $10, updated_at = $11, expires_at = $12,
                    trashed_at = $13, content_at = $14, content_by = $15, retention_until = $16,
                    legal_hold = $17
             WHERE tenant = $1 AND id = $2",
            [
                &file.tenant,
                id,
                &file.name,
                &file.content_type,
                signed(file.size)?,
                file.sha256.as_ref().map(|digest| &digest[..]),
                Json(&file.metadata),
                file.version,
                file.revision,
                file.object_id,
                file.updated_at,
                file.expires_at,
                file.trashed_at,
                file.content_at,
                &file.content_by,
                file.retention_until,
                file.legal_hold
            ],
            move || not_there(id)
        );
        Ok(())
    }

    /// Removes the row. It must be locked.
    pub async fn file_delete(&mut self, tenant: &Tenant, id: FileId) -> Result<()> {
        run_one!(
            self,
            "DELETE FROM files WHERE tenant = $1 AND id = $2",
            [tenant, id],
            move || not_there(id)
        );
        Ok(())
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

    /// Files whose time has come and that nothing holds, the longest overdue first.
    pub async fn file_expired(
        &mut self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(Tenant, FileId)>> {
        Ok(on!(self, |c| {
            sqlx::query_as(concat!(
                "SELECT tenant, id FROM files WHERE expires_at IS NOT NULL AND NOT legal_hold AND ",
                due!(),
                " <= $1 ORDER BY ",
                due!(),
                " LIMIT $2"
            ))
            .bind(now)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        }))
    }

    /// The files that refer to an object, of whatever tenant, some of them by an earlier version.
    /// Those behind `after`, in id order.
    pub async fn file_of_object_page(
        &mut self,
        id: ObjectId,
        after: Option<FileId>,
        limit: u32,
    ) -> Result<Vec<FileId>> {
        let after = after.unwrap_or(FileId::from_uuid(uuid::Uuid::nil()));
        Ok(on!(self, |c| {
            sqlx::query_scalar(
                "SELECT id FROM files WHERE object_id = $1 AND id > $2
                 UNION
                 SELECT file_id FROM versions WHERE object_id = $1 AND file_id > $2
                 ORDER BY 1 LIMIT $3",
            )
            .bind(id)
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        }))
    }

    /// Looks at the next `limit` files behind `after`, in id order: the last one's id, and those
    /// whose object, or that of one of their versions, is not live, is missing, or differs in size or
    /// checksum, each with that object. None where there are no more.
    pub async fn file_broken_page(
        &mut self,
        after: Option<FileId>,
        limit: u32,
    ) -> Result<Option<(FileId, Vec<(FileId, ObjectId)>)>> {
        let after = after.unwrap_or(FileId::from_uuid(uuid::Uuid::nil()));
        let ids: Vec<FileId> = on!(self, |c| {
            sqlx::query_scalar("SELECT id FROM files WHERE id > $1 ORDER BY id LIMIT $2")
                .bind(after)
                .bind(i64::from(limit))
                .fetch_all(c)
                .await?
        });
        let Some(last) = ids.last() else {
            return Ok(None);
        };
        let broken = on!(self, |c| {
            sqlx::query_as(
                "SELECT DISTINCT f.id, f.object_id
                 FROM (SELECT id, tenant, object_id, size, sha256 FROM files WHERE id > $1 AND id <= $2
                       UNION ALL
                       SELECT file_id, tenant, object_id, size, sha256 FROM versions
                       WHERE file_id > $1 AND file_id <= $2) f
                 LEFT JOIN objects o ON o.id = f.object_id
                 WHERE o.id IS NULL OR o.state <> 'live' OR o.tenant <> f.tenant OR o.size <> f.size
                    OR (f.sha256 IS NOT NULL AND o.sha256 <> f.sha256)
                 ORDER BY f.id, f.object_id",
            )
            .bind(after)
            .bind(last)
            .fetch_all(c)
            .await?
        });
        Ok(Some((*last, broken)))
    }
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
            content_at: row.content_at,
            content_by: row.content_by,
            retention_until: row.retention_until,
            legal_hold: row.legal_hold,
        })
    }
}

fn not_there(id: FileId) -> Error {
    Error::internal(format!("file {id} went while it was locked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers to requests with a key are kept for a day, past an upgrade.
    #[test]
    fn a_file_that_an_earlier_version_kept_is_read() {
        let kept = r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","tenant":"acme","name":"a","content_type":"text/plain",
            "size":1,"sha256":null,"metadata":{},"version":1,"revision":1,"object_id":"01890a5d-ac96-774b-bcce-b302099a8057",
            "created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z","expires_at":null,"trashed_at":null,
            "created_by":"me","content_at":null,"content_by":null}"#;
        let file: File = serde_json::from_str(kept).unwrap();
        assert!(!file.legal_hold && file.retention_until.is_none());
        let again: File = serde_json::from_str(&serde_json::to_string(&file).unwrap()).unwrap();
        assert_eq!(again, file);
    }
}
