//! Writes the next parts of an upload that somebody goes on with later. What doesn't fill a part is left over.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::keys::ObjectKey;
use super::parts::part_size;
use super::s3::{Part, Spare};
use super::{CALL_TIMEOUT, Multipart, Objects};
use crate::error::{Error, Kind, Result};
use crate::trace;

/// Together with the part that is being filled, a writer holds this many and one more.
const IN_FLIGHT: usize = 2;

/// Numbers that a writer asks for at once. The first time it asks for one: most requests bring no more.
const ALLOTTED: u32 = 8;

/// Gives a writer its next numbers, so many at most, of this upload of the store's: rows that name them are committed.
pub type Allot = Arc<dyn Fn(u32) -> BoxFuture<'static, Result<(String, Range<u32>)>> + Send + Sync>;

/// From where a writer goes on.
pub struct Before {
    /// In bytes, of the whole, where that is known: it chooses the size of parts.
    pub declared: Option<u64>,
    /// The highest number that a part ever had.
    pub last: u32,
    /// Objects with the bytes before the first that is written, which are part of the first part; and their sizes.
    pub front: Vec<(ObjectKey, u64)>,
}

/// A part that the store has taken.
pub struct SentPart {
    pub number: u32,
    /// In bytes.
    pub size: u64,
    /// As the store writes it, with its quotes.
    pub etag: String,
}

/// Writes parts in order. Nothing is visible at the key; dropping it leaves what it wrote to who goes on.
pub struct PartWriter {
    objects: Objects,
    multipart: Arc<Multipart>,
    allot: Allot,
    declared: Option<u64>,
    front: Vec<(ObjectKey, u64)>,
    upload: Option<String>,
    numbers: Range<u32>,
    filling: Part,
    sending: JoinSet<Result<(SentPart, Vec<Bytes>)>>,
    sent: Vec<SentPart>,
    spare: Spare,
    failed: bool,
}

impl Objects {
    pub fn write_parts(
        &self,
        multipart: Arc<Multipart>,
        before: Before,
        allot: Allot,
    ) -> PartWriter {
        PartWriter {
            spare: multipart.spare(),
            objects: self.clone(),
            multipart,
            allot,
            declared: before.declared,
            front: before.front,
            upload: None,
            numbers: before.last + 1..before.last + 1,
            filling: Part::default(),
            sending: JoinSet::new(),
            sent: Vec::new(),
            failed: false,
        }
    }
}

impl PartWriter {
    /// In bytes: what fills whole parts and comes to `least` or more, and the size of one part at least.
    pub fn stretch(&self, least: u64) -> u64 {
        let size = self.size();
        self.room() + least.saturating_sub(1) / size * size
    }

    pub(super) async fn write(&mut self, chunks: Vec<Bytes>) -> Result<()> {
        self.usable()?;
        // Dropped halfway, it has lost bytes.
        self.failed = true;
        for mut chunk in chunks {
            while !chunk.is_empty() {
                let room = usize::try_from(self.room()).unwrap_or(usize::MAX);
                let taken = chunk.split_to(chunk.len().min(room));
                self.filling.push(taken, &self.spare);
                if self.room() == 0 {
                    self.send().await?;
                }
            }
        }
        self.failed = false;
        Ok(())
    }

    /// Answers when the store has all parts that are full.
    pub(super) async fn finish(&mut self) -> Result<()> {
        self.usable()?;
        while !self.sending.is_empty() {
            self.one_sent().await?;
        }
        Ok(())
    }

    /// Sends what is left over, and all before it that is no part yet, as the last part.
    pub async fn last(&mut self) -> Result<()> {
        self.usable()?;
        self.failed = true;
        self.send().await?;
        self.failed = false;
        self.finish().await
    }

    /// Takes what is left over; with `front`, also all before it that is no part yet.
    pub async fn take_left_over(&mut self, front: bool) -> Result<Vec<Bytes>> {
        let mut bytes = Vec::new();
        if front {
            bytes = read(&self.objects, std::mem::take(&mut self.front)).await?;
        }
        bytes.extend(std::mem::take(&mut self.filling).into_pieces());
        Ok(bytes)
    }

    /// In bytes.
    pub fn left_over(&self) -> u64 {
        self.filling.length()
    }

    /// Whether there are bytes before those that were written which are no part yet.
    pub fn has_front(&self) -> bool {
        !self.front.is_empty()
    }

    /// The parts that the store has, in order.
    pub fn sent(&mut self) -> Vec<SentPart> {
        let mut sent = std::mem::take(&mut self.sent);
        sent.sort_unstable_by_key(|part| part.number);
        sent
    }

    /// The first number under which nothing was sent.
    pub fn unused(&self) -> u32 {
        self.numbers.start
    }

    pub(super) async fn abort(&mut self) {
        self.failed = true;
        self.filling = Part::default();
        // Their end is worth a wait: it is known then.
        let ended = timeout(CALL_TIMEOUT + Duration::from_secs(1), async {
            while self.sending.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            self.sending.abort_all();
        }
    }

    pub(super) fn settled(&self) -> bool {
        self.multipart.settled()
    }

    fn usable(&self) -> Result<()> {
        if self.failed {
            return Err(Error::unavailable("an earlier call of this writer failed"));
        }
        Ok(())
    }

    /// In bytes, of the part that is being filled.
    fn size(&self) -> u64 {
        part_size(self.numbers.start.into(), self.declared)
    }

    /// In bytes, in it; never 0 before a byte has come, however much lies before it.
    fn room(&self) -> u64 {
        let front: u64 = self.front.iter().map(|(_, size)| size).sum();
        let wanted = self.size().saturating_sub(front).max(1);
        wanted.saturating_sub(self.filling.length())
    }

    async fn send(&mut self) -> Result<()> {
        if self.numbers.is_empty() {
            let most = if self.upload.is_none() { 1 } else { ALLOTTED };
            let (upload, numbers) = (self.allot)(most).await?;
            self.upload = Some(upload);
            self.numbers = numbers;
        }
        let upload = self.upload.clone();
        let (Some(number), Some(upload)) = (self.numbers.next(), upload) else {
            return Err(Error::internal("a part without a number"));
        };
        while self.sending.len() >= IN_FLIGHT {
            self.one_sent().await?;
        }
        let front = std::mem::take(&mut self.front);
        let pieces = std::mem::take(&mut self.filling).into_pieces();
        let (objects, multipart) = (self.objects.clone(), self.multipart.clone());
        self.sending.spawn(trace::carried(async move {
            let mut bytes = read(&objects, front).await?;
            bytes.extend(pieces.iter().cloned());
            let size = bytes.iter().map(|piece| piece.len() as u64).sum();
            let etag =
                multipart
                    .put_part(&upload, number, bytes)
                    .await
                    .map_err(|error| match error.kind() {
                        Kind::NotFound => ended().because(error),
                        _ => error,
                    })?;
            let part = SentPart { number, size, etag };
            Ok((part, pieces))
        }));
        Ok(())
    }

    async fn one_sent(&mut self) -> Result<()> {
        let Some(sent) = self.sending.join_next().await else {
            return Ok(());
        };
        match sent.map_err(Error::internal).flatten() {
            Ok((part, pieces)) => {
                self.sent.push(part);
                self.spare.give(pieces);
                Ok(())
            }
            Err(error) => {
                self.failed = true;
                Err(error)
            }
        }
    }
}

/// What a store answers of an upload that somebody else has ended: a rule of the bucket's own, say.
pub fn ended() -> Error {
    Error::new(
        Kind::Gone,
        "The store has this upload no more: begin another one.",
    )
}

async fn read(objects: &Objects, front: Vec<(ObjectKey, u64)>) -> Result<Vec<Bytes>> {
    let mut bytes = Vec::new();
    for (key, size) in front {
        let read = objects.read(&key, 0..size).await?;
        bytes.extend(read.try_collect::<Vec<_>>().await?);
    }
    Ok(bytes)
}
