//! The `versions` table: contents of files that were replaced and are kept.

use sqlx::FromRow;

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{FileId, ObjectId, Tenant};

use super::Conn;
use super::objects::{digest, signed, unsigned};

#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    pub file_id: FileId,
    pub version: i64,
    pub tenant: Tenant,
    pub object_id: ObjectId,
    pub content_type: String,
    /// In bytes.
    pub size: u64,
    pub sha256: Option<[u8; 32]>,
    pub created_at: Timestamp,
    pub created_by: String,
    pub replaced_at: Timestamp,
}

/// What a version that was removed held: its object, and how many bytes.
pub type Removed = (ObjectId, u64);

#[derive(FromRow)]
struct Row {
    file_id: FileId,
    version: i64,
    tenant: Tenant,
    object_id: ObjectId,
    content_type: String,
    size: i64,
    sha256: Option<Vec<u8>>,
    created_at: Timestamp,
    created_by: String,
    replaced_at: Timestamp,
}

macro_rules! columns {
    () => {
        "file_id, version, tenant, object_id, content_type, size, sha256, created_at, created_by, replaced_at"
    };
}

impl Conn<'_> {
    pub async fn version_insert(&mut self, version: &Version) -> Result<()> {
        on!(self, |c| {
            sqlx::query(concat!(
                "INSERT INTO versions (",
                columns!(),
                ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
            ))
            .bind(version.file_id)
            .bind(version.version)
            .bind(&version.tenant)
            .bind(version.object_id)
            .bind(&version.content_type)
            .bind(signed(version.size)?)
            .bind(version.sha256.as_ref().map(|digest| &digest[..]))
            .bind(version.created_at)
            .bind(&version.created_by)
            .bind(version.replaced_at)
            .execute(c)
            .await?;
        });
        Ok(())
    }

    pub async fn version_get(
        &mut self,
        tenant: &Tenant,
        file_id: FileId,
        version: i64,
    ) -> Result<Option<Version>> {
        let row: Option<Row> = on!(self, |c| {
            sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                " FROM versions WHERE tenant = $1 AND file_id = $2 AND version = $3"
            ))
            .bind(tenant)
            .bind(file_id)
            .bind(version)
            .fetch_optional(c)
            .await?
        });
        row.map(Version::try_from).transpose()
    }

    /// The versions below `below`, the newest first.
    pub async fn version_list(
        &mut self,
        tenant: &Tenant,
        file_id: FileId,
        below: i64,
        limit: u32,
    ) -> Result<Vec<Version>> {
        let rows: Vec<Row> = on!(self, |c| {
            sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                " FROM versions WHERE tenant = $1 AND file_id = $2 AND version < $3
                  ORDER BY version DESC LIMIT $4"
            ))
            .bind(tenant)
            .bind(file_id)
            .bind(below)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        });
        rows.into_iter().map(Version::try_from).collect()
    }

    /// Removes all but the newest `keep` versions of a file.
    pub async fn version_trim(
        &mut self,
        tenant: &Tenant,
        file_id: FileId,
        keep: u32,
    ) -> Result<Vec<Removed>> {
        let rows: Vec<(ObjectId, i64)> = on!(self, |c| {
            sqlx::query_as(
                "DELETE FROM versions WHERE tenant = $1 AND file_id = $2 AND version NOT IN (
                    SELECT version FROM versions WHERE file_id = $2 ORDER BY version DESC LIMIT $3)
                 RETURNING object_id, size",
            )
            .bind(tenant)
            .bind(file_id)
            .bind(i64::from(keep))
            .fetch_all(c)
            .await?
        });
        rows.into_iter()
            .map(|(object, size)| Ok((object, unsigned(size)?)))
            .collect()
    }

    /// Removes one version; None when there was no such one.
    pub async fn version_delete(
        &mut self,
        tenant: &Tenant,
        file_id: FileId,
        version: i64,
    ) -> Result<Option<Removed>> {
        let row: Option<(ObjectId, i64)> = on!(self, |c| {
            sqlx::query_as(
                "DELETE FROM versions WHERE tenant = $1 AND file_id = $2 AND version = $3
                 RETURNING object_id, size",
            )
            .bind(tenant)
            .bind(file_id)
            .bind(version)
            .fetch_optional(c)
            .await?
        });
        row.map(|(object, size)| Ok((object, unsigned(size)?)))
            .transpose()
    }

    /// Versions that were replaced by `before`, of files that nothing holds, the oldest first.
    pub async fn version_replaced_before(
        &mut self,
        before: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(Tenant, FileId, i64)>> {
        Ok(on!(self, |c| {
            sqlx::query_as(
                "SELECT v.tenant, v.file_id, v.version FROM versions v JOIN files f ON f.id = v.file_id
                 WHERE v.replaced_at <= $1
                   AND NOT f.legal_hold AND (f.retention_until IS NULL OR f.retention_until <= $2)
                 ORDER BY v.replaced_at LIMIT $3",
            )
            .bind(before)
            .bind(now)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        }))
    }
}

impl TryFrom<Row> for Version {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            file_id: row.file_id,
            version: row.version,
            tenant: row.tenant,
            object_id: row.object_id,
            content_type: row.content_type,
            size: unsigned(row.size)?,
            sha256: row.sha256.map(digest).transpose()?,
            created_at: row.created_at,
            created_by: row.created_by,
            replaced_at: row.replaced_at,
        })
    }
}
