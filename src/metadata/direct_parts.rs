//! The table `direct_parts`: parts of an upload whose bytes lie in temporary files of the local store.
//! What may be written where is decided in `domain::uploads`, with the upload locked.

use crate::error::{Error, Result};
use crate::id::UploadId;

use super::Conn;
use super::objects::{digest, signed, unsigned};

/// A part that one request writes, or has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 1 on.
    pub number: u32,
    /// Of the temporary file that its bytes lie in.
    pub epoch: i64,
    /// Where in it, in bytes.
    pub position: u64,
    /// None while it is being written, or was when its writer died.
    pub written: Option<Written>,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// In bytes.
    pub size: u64,
    pub sha256: [u8; 32],
    pub crc64nvme: [u8; 8],
}

type Row = (i32, i64, i64, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>);

impl Conn<'_> {
    /// The row of a part that is about to be written.
    pub async fn direct_part_intend(&mut self, upload: UploadId, part: &Part) -> Result<()> {
        run!(
            self,
            "INSERT INTO direct_parts (upload_id, number, epoch, position) VALUES ($1, $2, $3, $4)",
            [
                upload,
                numbered(part.number)?,
                part.epoch,
                signed(part.position)?
            ]
        );
        Ok(())
    }

    /// A part whose bytes are durable, and whose writer has ended.
    pub async fn direct_part_written(
        &mut self,
        upload: UploadId,
        number: u32,
        epoch: i64,
        written: &Written,
    ) -> Result<()> {
        run_one!(
            self,
            "UPDATE direct_parts SET size = $4, sha256 = $5, crc64nvme = $6
             WHERE upload_id = $1 AND number = $2 AND epoch = $3",
            [
                upload,
                numbered(number)?,
                epoch,
                signed(written.size)?,
                &written.sha256[..],
                &written.crc64nvme[..]
            ],
            || Error::unavailable("a part went while it was written")
        );
        Ok(())
    }

    /// Takes a part away whose writer has ended: nobody writes there any more.
    pub async fn direct_part_delete(
        &mut self,
        upload: UploadId,
        number: u32,
        epoch: i64,
    ) -> Result<()> {
        run!(
            self,
            "DELETE FROM direct_parts WHERE upload_id = $1 AND number = $2 AND epoch = $3",
            [upload, numbered(number)?, epoch]
        );
        Ok(())
    }

    /// All that has this number, in the order of their files.
    pub async fn direct_parts_numbered(
        &mut self,
        upload: UploadId,
        number: u32,
    ) -> Result<Vec<Part>> {
        let rows: Vec<Row> = on!(self, |c| {
            sqlx::query_as(
                "SELECT number, epoch, position, size, sha256, crc64nvme FROM direct_parts
                 WHERE upload_id = $1 AND number = $2 ORDER BY epoch",
            )
            .bind(upload)
            .bind(numbered(number)?)
            .fetch_all(c)
            .await?
        });
        rows.into_iter().map(read).collect()
    }

    /// All parts of an upload, by their numbers.
    pub async fn direct_parts(&mut self, upload: UploadId) -> Result<Vec<Part>> {
        let rows: Vec<Row> = on!(self, |c| {
            sqlx::query_as(
                "SELECT number, epoch, position, size, sha256, crc64nvme FROM direct_parts
                 WHERE upload_id = $1 ORDER BY number, epoch",
            )
            .bind(upload)
            .fetch_all(c)
            .await?
        });
        rows.into_iter().map(read).collect()
    }

    /// Takes all parts of an upload away.
    pub async fn direct_parts_delete(&mut self, upload: UploadId) -> Result<()> {
        run!(
            self,
            "DELETE FROM direct_parts WHERE upload_id = $1",
            [upload]
        );
        Ok(())
    }
}

fn read((number, epoch, position, size, sha256, crc64nvme): Row) -> Result<Part> {
    let written = match (size, sha256, crc64nvme) {
        (Some(size), Some(sha256), Some(crc64nvme)) => Some(Written {
            size: unsigned(size)?,
            sha256: digest(sha256)?,
            crc64nvme: checksum(crc64nvme)?,
        }),
        _ => None,
    };
    Ok(Part {
        number: u32::try_from(number).map_err(Error::internal)?,
        epoch,
        position: unsigned(position)?,
        written,
    })
}

fn numbered(number: u32) -> Result<i32> {
    i32::try_from(number).map_err(Error::internal)
}

pub(super) fn checksum(bytes: Vec<u8>) -> Result<[u8; 8]> {
    bytes
        .try_into()
        .map_err(|bytes: Vec<u8>| Error::internal(format!("a CRC-64 of {} bytes", bytes.len())))
}
