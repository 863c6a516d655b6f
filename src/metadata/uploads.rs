//! The table `uploads`: uploads that take more than one request. `pieces` has where the bytes of tus are.
//!
//! An upload is changed as a whole row that is locked, so that what may be done with it is decided in
//! one place, `domain::uploads`. Whoever locks an upload locks objects only afterwards.

use futures::TryFutureExt;
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use sqlx::types::Json;

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{FileId, ObjectId, Tenant, UploadId};

use super::Conn;
use super::files::Metadata;
use super::objects::{digest, signed, unsigned};
use super::postgres::in_time;

mod pieces;

pub use pieces::{Abandoned, Part, Piece};

/// How the bytes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strategy {
    /// Through the service, in any number of pieces.
    Tus,
    /// Straight to the store, in one request.
    Single,
    /// Straight to the store, in parts.
    Multipart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Open,
    Done,
}

impl Strategy {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tus => "tus",
            Self::Single => "single",
            Self::Multipart => "multipart",
        }
    }

    fn read(text: &str) -> Result<Self> {
        [Self::Tus, Self::Single, Self::Multipart]
            .into_iter()
            .find(|strategy| strategy.as_str() == text)
            .ok_or_else(|| Error::internal(format!("an upload's strategy is {text:?}")))
    }
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
        }
    }

    fn read(text: &str) -> Result<Self> {
        [Self::Open, Self::Done]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| Error::internal(format!("an upload's state is {text:?}")))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upload {
    pub id: UploadId,
    pub tenant: Tenant,
    pub strategy: Strategy,
    pub state: State,
    pub object_id: ObjectId,
    pub file_id: Option<FileId>,
    pub name: String,
    /// None: the first bytes decide.
    pub content_type: Option<String>,
    pub metadata: Metadata,
    /// Of the file.
    pub file_expires_at: Option<Timestamp>,
    /// What tus calls metadata, as it was sent.
    pub tus_metadata: Option<String>,
    /// Declared, in bytes.
    pub size: Option<u64>,
    /// Declared.
    pub sha256: Option<[u8; 32]>,
    /// Declared, as S3 computes it: big-endian.
    pub crc64nvme: Option<[u8; 8]>,
    /// Bytes that are durable, from the first on.
    pub received: u64,
    /// Of the SHA-256 of what was received.
    pub hash_state: Option<Vec<u8>>,
    pub epoch: i64,
    pub writer_until: Option<Timestamp>,
    pub asked_at: Option<Timestamp>,
    pub held_epoch: Option<i64>,
    /// What the store calls it, where the bytes go straight there.
    pub store_upload: Option<String>,
    /// In bytes.
    pub part_size: Option<u64>,
    pub created_at: Timestamp,
    pub created_by: String,
    pub expires_at: Timestamp,
}

impl Upload {
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }

    /// All bytes are there, and the file is not yet.
    pub fn is_complete(&self) -> bool {
        self.state == State::Open && self.size == Some(self.received)
    }
}

#[derive(FromRow)]
struct Row {
    id: UploadId,
    tenant: Tenant,
    strategy: String,
    state: String,
    object_id: ObjectId,
    file_id: Option<FileId>,
    name: String,
    content_type: Option<String>,
    metadata: Json<Metadata>,
    file_expires_at: Option<Timestamp>,
    tus_metadata: Option<String>,
    size: Option<i64>,
    sha256: Option<Vec<u8>>,
    crc64nvme: Option<Vec<u8>>,
    received: i64,
    hash_state: Option<Vec<u8>>,
    epoch: i64,
    writer_until: Option<Timestamp>,
    asked_at: Option<Timestamp>,
    held_epoch: Option<i64>,
    store_upload: Option<String>,
    part_size: Option<i64>,
    created_at: Timestamp,
    created_by: String,
    expires_at: Timestamp,
}

macro_rules! columns {
    () => {
        "id, tenant, strategy, state, object_id, file_id, name, content_type, metadata, file_expires_at,
         tus_metadata, size, sha256, crc64nvme, received, hash_state, epoch, writer_until, asked_at, held_epoch,
         store_upload, part_size, created_at, created_by, expires_at"
    };
}

impl Conn<'_> {
    pub async fn upload_insert(&mut self, upload: &Upload) -> Result<()> {
        run!(
            self,
            concat!(
                "INSERT INTO uploads (",
                columns!(),
                ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                           $19, $20, $21, $22, $23, $24, $25)"
            ),
            [
                upload.id,
                &upload.tenant,
                upload.strategy.as_str(),
                upload.state.as_str(),
                upload.object_id,
                upload.file_id,
                &upload.name,
                &upload.content_type,
                Json(&upload.metadata),
                upload.file_expires_at,
                &upload.tus_metadata,
                upload.size.map(signed).transpose()?,
                upload.sha256.as_ref().map(|digest| &digest[..]),
                upload.crc64nvme.as_ref().map(|checksum| &checksum[..]),
                signed(upload.received)?,
                &upload.hash_state,
                upload.epoch,
                upload.writer_until,
                upload.asked_at,
                upload.held_epoch,
                &upload.store_upload,
                upload.part_size.map(signed).transpose()?,
                upload.created_at,
                &upload.created_by,
                upload.expires_at
            ]
        );
        Ok(())
    }

    pub async fn upload_get(&mut self, tenant: &Tenant, id: UploadId) -> Result<Option<Upload>> {
        let row: Option<Row> = on!(self, |c| {
            sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                " FROM uploads WHERE tenant = $1 AND id = $2"
            ))
            .bind(tenant)
            .bind(id)
            .fetch_optional(c)
            .await?
        });
        row.map(Upload::try_from).transpose()
    }

    /// The upload, kept from changing until the transaction ends.
    pub async fn upload_lock(&mut self, tenant: &Tenant, id: UploadId) -> Result<Option<Upload>> {
        let row: Option<Row> = match self {
            // A transaction that writes has SQLite to itself.
            Self::Sqlite(_) => return self.upload_get(tenant, id).await,
            Self::Postgres(c, patience) => {
                let locked = sqlx::query_as(concat!(
                    "SELECT ",
                    columns!(),
                    " FROM uploads WHERE tenant = $1 AND id = $2 FOR UPDATE"
                ))
                .bind(tenant)
                .bind(id)
                .fetch_optional(&mut **c);
                in_time(*patience, locked.err_into()).await?
            }
        };
        row.map(Upload::try_from).transpose()
    }

    /// Writes all of an upload that can change. It must be locked.
    pub async fn upload_update(&mut self, upload: &Upload) -> Result<()> {
        let id = upload.id;
        run_one!(
            self,
            "UPDATE uploads SET state = $3, file_id = $4, size = $5, received = $6, hash_state = $7, epoch = $8,
                    writer_until = $9, asked_at = $10, held_epoch = $11, store_upload = $12, expires_at = $13
             WHERE tenant = $1 AND id = $2",
            [
                &upload.tenant,
                id,
                upload.state.as_str(),
                upload.file_id,
                upload.size.map(signed).transpose()?,
                signed(upload.received)?,
                &upload.hash_state,
                upload.epoch,
                upload.writer_until,
                upload.asked_at,
                upload.held_epoch,
                &upload.store_upload,
                upload.expires_at
            ],
            move || Error::internal(format!("upload {id} went while it was locked"))
        );
        Ok(())
    }

    /// Removes the row. It must be locked, and its pieces given up.
    pub async fn upload_delete(&mut self, tenant: &Tenant, id: UploadId) -> Result<()> {
        run!(
            self,
            "DELETE FROM uploads WHERE tenant = $1 AND id = $2",
            [tenant, id]
        );
        Ok(())
    }

    /// Open uploads that have not expired, the newest first, from behind `before` on.
    pub async fn upload_list(
        &mut self,
        tenant: &Tenant,
        now: Timestamp,
        before: Option<UploadId>,
        limit: u32,
    ) -> Result<Vec<Upload>> {
        let before = before.unwrap_or(UploadId::from_uuid(uuid::Uuid::max()));
        let rows: Vec<Row> = on!(self, |c| {
            sqlx::query_as(concat!(
                "SELECT ",
                columns!(),
                " FROM uploads
                  WHERE tenant = $1 AND state = 'open' AND id < $2 AND expires_at > $3
                  ORDER BY id DESC LIMIT $4"
            ))
            .bind(tenant)
            .bind(before)
            .bind(now)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        });
        rows.into_iter().map(Upload::try_from).collect()
    }

    /// Uploads whose time has come, the longest overdue first.
    pub async fn upload_expired(
        &mut self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(Tenant, UploadId)>> {
        Ok(on!(self, |c| {
            sqlx::query_as(
                "SELECT tenant, id FROM uploads WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2",
            )
            .bind(now)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        }))
    }

    /// Open uploads that expire after `now`, and whose object, or that of one of their pieces, is not
    /// being written. Those behind `after`, in id order.
    pub async fn upload_broken_page(
        &mut self,
        now: Timestamp,
        after: Option<UploadId>,
        limit: u32,
    ) -> Result<Vec<(UploadId, ObjectId)>> {
        let after = after.unwrap_or(UploadId::from_uuid(uuid::Uuid::nil()));
        Ok(on!(self, |c| {
            sqlx::query_as(
                "SELECT u.id, u.object_id FROM uploads u
                 WHERE u.state = 'open' AND u.expires_at > $1 AND u.id > $2
                   AND (NOT EXISTS (SELECT 1 FROM objects o
                                    WHERE o.id = u.object_id AND o.state = 'writing' AND o.tenant = u.tenant)
                        OR EXISTS (SELECT 1 FROM upload_pieces p LEFT JOIN objects o ON o.id = p.object_id
                                   WHERE p.upload_id = u.id
                                     AND (o.id IS NULL OR o.state <> 'writing' OR o.tenant <> u.tenant)))
                 ORDER BY u.id LIMIT $3",
            )
            .bind(now)
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(c)
            .await?
        }))
    }

    /// How many bytes of the quota a writing object holds.
    pub async fn object_reserved(&mut self, id: ObjectId) -> Result<u64> {
        let reserved: Option<i64> = on!(self, |c| {
            sqlx::query_scalar("SELECT reserved_bytes FROM objects WHERE id = $1")
                .bind(id)
                .fetch_optional(c)
                .await?
        });
        unsigned(reserved.unwrap_or(0))
    }

    /// Moves the lease of an open upload's object, and the end of what its writers may still do, which
    /// never comes earlier where URLs were signed. False when it is not being written any more.
    pub async fn upload_object_keep(
        &mut self,
        upload: &Upload,
        quiet_at: Timestamp,
    ) -> Result<bool> {
        let kept = on!(self, |c| {
            sqlx::query(
                "UPDATE objects SET epoch = $2, lease_until = $3,
                        quiet_at = CASE WHEN $5 AND quiet_at > $4 THEN quiet_at ELSE $4 END
                 WHERE id = $1 AND state = 'writing' AND epoch <= $2",
            )
            .bind(upload.object_id)
            .bind(upload.epoch)
            .bind(upload.expires_at)
            .bind(quiet_at)
            .bind(upload.strategy != Strategy::Tus)
            .execute(c)
            .await?
            .rows_affected()
        });
        Ok(kept == 1)
    }
}

impl TryFrom<Row> for Upload {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: row.id,
            tenant: row.tenant,
            strategy: Strategy::read(&row.strategy)?,
            state: State::read(&row.state)?,
            object_id: row.object_id,
            file_id: row.file_id,
            name: row.name,
            content_type: row.content_type,
            metadata: row.metadata.0,
            file_expires_at: row.file_expires_at,
            tus_metadata: row.tus_metadata,
            size: row.size.map(unsigned).transpose()?,
            sha256: row.sha256.map(digest).transpose()?,
            crc64nvme: row
                .crc64nvme
                .map(super::direct_parts::checksum)
                .transpose()?,
            received: unsigned(row.received)?,
            hash_state: row.hash_state,
            epoch: row.epoch,
            writer_until: row.writer_until,
            asked_at: row.asked_at,
            held_epoch: row.held_epoch,
            store_upload: row.store_upload,
            part_size: row.part_size.map(unsigned).transpose()?,
            created_at: row.created_at,
            created_by: row.created_by,
            expires_at: row.expires_at,
        })
    }
}
