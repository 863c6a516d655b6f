//! The tables `upload_pieces` and `tus_parts`: where the bytes of an open upload are, where they are not all
//! in one place. First come its parts, by their numbers, then its pieces.

use std::ops::Range;

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{ObjectId, UploadId};

use super::super::Conn;
use super::super::objects::{signed, unsigned};
use super::Upload;

/// S3's own limit.
const LAST_PART: u32 = 10_000;

/// Bytes of an upload that lie in an object of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins, in bytes.
    pub position: u64,
    /// In bytes.
    pub size: u64,
    pub object_id: ObjectId,
}

/// Bytes of an upload that the store holds as a part of its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 1 to 10,000.
    pub number: u32,
    /// In bytes.
    pub size: u64,
    /// As the store wrote it.
    pub etag: String,
}

/// Which pieces are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    All,
    /// Those that were not written to their end.
    Unwritten,
    /// Those whose bytes are elsewhere now.
    Written,
}

impl Conn<'_> {
    /// The row of a piece that is about to be written.
    pub async fn upload_piece_intend(
        &mut self,
        upload: UploadId,
        position: u64,
        object_id: ObjectId,
    ) -> Result<()> {
        run!(
            self,
            "INSERT INTO upload_pieces (upload_id, position, object_id) VALUES ($1, $2, $3)",
            [upload, signed(position)?, object_id]
        );
        Ok(())
    }

    /// A piece that is durable; `quiet_at`: from when on no call can write it any more.
    pub async fn upload_piece_written(
        &mut self,
        upload: UploadId,
        piece: &Piece,
        quiet_at: Option<Timestamp>,
    ) -> Result<()> {
        run_one!(
            self,
            "UPDATE upload_pieces SET size = $3 WHERE upload_id = $1 AND object_id = $2",
            [upload, piece.object_id, signed(piece.size)?],
            || Error::unavailable("a piece went while it was written")
        );
        run!(
            self,
            "UPDATE objects SET quiet_at = COALESCE($2, quiet_at) WHERE id = $1 AND state = 'writing'",
            [piece.object_id, quiet_at]
        );
        Ok(())
    }

    /// Gives the objects of an upload's pieces up.
    pub async fn upload_pieces_abandon(
        &mut self,
        upload: UploadId,
        now: Timestamp,
        which: Abandoned,
    ) -> Result<()> {
        let written = which != Abandoned::Unwritten;
        let unwritten = which != Abandoned::Written;
        run!(
            self,
            "UPDATE objects SET state = 'dead', lease_until = NULL, delete_at = $2,
                    forget_at = CASE WHEN quiet_at > $2 THEN quiet_at ELSE $2 END
             WHERE state = 'writing' AND id IN (
                SELECT object_id FROM upload_pieces
                WHERE upload_id = $1 AND CASE WHEN size IS NULL THEN $3 ELSE $4 END)",
            [upload, now, unwritten, written]
        );
        run!(
            self,
            "DELETE FROM upload_pieces WHERE upload_id = $1 AND CASE WHEN size IS NULL THEN $2 ELSE $3 END",
            [upload, unwritten, written]
        );
        Ok(())
    }

    /// The written pieces of an upload, in order.
    pub async fn upload_pieces(&mut self, upload: UploadId) -> Result<Vec<Piece>> {
        let rows: Vec<(i64, i64, ObjectId)> = on!(self, |c| {
            sqlx::query_as(
                "SELECT position, size, object_id FROM upload_pieces WHERE upload_id = $1 AND size IS NOT NULL ORDER BY position",
            )
            .bind(upload)
            .fetch_all(c)
            .await?
        });
        rows.into_iter()
            .map(|(position, size, object_id)| {
                Ok(Piece {
                    position: unsigned(position)?,
                    size: unsigned(size)?,
                    object_id,
                })
            })
            .collect()
    }

    /// Moves the leases of an upload's pieces to its expiry, those that end before `before`.
    pub async fn upload_pieces_keep(&mut self, upload: &Upload, before: Timestamp) -> Result<()> {
        run!(
            self,
            "UPDATE objects SET lease_until = $2
             WHERE state = 'writing' AND lease_until < $3
               AND id IN (SELECT object_id FROM upload_pieces WHERE upload_id = $1)",
            [upload.id, upload.expires_at, before]
        );
        Ok(())
    }

    /// Rows of parts that are about to be sent by the writer of this epoch: `most` at most, with the numbers
    /// behind all that there ever were. None where the store takes no more.
    pub async fn tus_parts_intend(
        &mut self,
        upload: UploadId,
        epoch: i64,
        most: u32,
    ) -> Result<Range<u32>> {
        let first = self.tus_parts_last(upload).await? + 1;
        let numbers = first..(first + most).min(LAST_PART + 1);
        for number in numbers.clone() {
            run!(
                self,
                "INSERT INTO tus_parts (upload_id, number, epoch) VALUES ($1, $2, $3)",
                [upload, small(number)?, epoch]
            );
        }
        Ok(numbers)
    }

    /// The highest number that a part ever had; 0: none.
    pub async fn tus_parts_last(&mut self, upload: UploadId) -> Result<u32> {
        let last: Option<i32> = on!(self, |c| {
            sqlx::query_scalar("SELECT MAX(number) FROM tus_parts WHERE upload_id = $1")
                .bind(upload)
                .fetch_one(c)
                .await?
        });
        u32::try_from(last.unwrap_or(0)).map_err(Error::internal)
    }

    /// Parts that the writer of this epoch has sent.
    pub async fn tus_parts_written(
        &mut self,
        upload: UploadId,
        epoch: i64,
        parts: &[Part],
    ) -> Result<()> {
        for part in parts {
            run_one!(
                self,
                "UPDATE tus_parts SET size = $4, etag = $5
                 WHERE upload_id = $1 AND number = $2 AND epoch = $3 AND size IS NULL",
                [
                    upload,
                    small(part.number)?,
                    epoch,
                    signed(part.size)?,
                    &part.etag
                ],
                || Error::unavailable("a part went while it was written")
            );
        }
        Ok(())
    }

    /// Gives numbers back, from `first` on, under which nothing was sent.
    pub async fn tus_parts_give_back(&mut self, upload: UploadId, first: u32) -> Result<()> {
        run!(
            self,
            "DELETE FROM tus_parts WHERE upload_id = $1 AND number >= $2 AND size IS NULL",
            [upload, small(first)?]
        );
        Ok(())
    }

    /// Forgets all parts: of an upload that has ended.
    pub async fn tus_parts_delete(&mut self, upload: UploadId) -> Result<()> {
        run!(self, "DELETE FROM tus_parts WHERE upload_id = $1", [upload]);
        Ok(())
    }

    /// The written parts of an upload, in order.
    pub async fn tus_parts(&mut self, upload: UploadId) -> Result<Vec<Part>> {
        let rows: Vec<(i32, i64, String)> = on!(self, |c| {
            sqlx::query_as(
                "SELECT number, size, etag FROM tus_parts
                 WHERE upload_id = $1 AND size IS NOT NULL ORDER BY number",
            )
            .bind(upload)
            .fetch_all(c)
            .await?
        });
        rows.into_iter()
            .map(|(number, size, etag)| {
                Ok(Part {
                    number: u32::try_from(number).map_err(Error::internal)?,
                    size: unsigned(size)?,
                    etag,
                })
            })
            .collect()
    }
}

/// As the column has it.
fn small(number: u32) -> Result<i32> {
    i32::try_from(number).map_err(Error::internal)
}
