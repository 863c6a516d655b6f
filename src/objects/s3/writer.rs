//! Writes an object: in one PUT when it fits into one part, and in parts when it doesn't.

use bytes::{Bytes, BytesMut};
use object_store::multipart::{MultipartStore, PartId};
use object_store::{MultipartId, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::calls::{Failed, OpenCalls, call};
use super::pieces::{LARGEST_PIECE, Shared};
use super::{S3, in_time, is_absent, path};
use crate::error::{Error, Result};
use crate::objects::parts::{MOST_PARTS, part_size};
use crate::objects::{CALL_TIMEOUT, Found, Lease};
use crate::trace;

/// Together with the part that is being filled, a writer holds this many and one more.
const PARTS_IN_FLIGHT: usize = 2;

const SMALLEST_PIECE: usize = 16 * 1024;

pub struct Writer {
    store: S3,
    key: String,
    declared: Option<u64>,
    lease: Lease,
    filling: Part,
    /// In bytes: all that was taken.
    written: u64,
    /// Known from the moment that a second part begins.
    upload: Option<MultipartId>,
    /// The store may have begun another upload, whose id was lost on its way.
    stray_upload: bool,
    /// By their number from 0; None while it is being sent.
    parts: Vec<Option<PartId>>,
    sending: JoinSet<Result<Sent>>,
    spare: Shared,
    open_calls: OpenCalls,
    state: State,
}

/// A part that the store has.
struct Sent {
    index: usize,
    id: PartId,
    pieces: Vec<Bytes>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// All that was taken is here or on its way.
    Whole,
    /// Bytes were lost: a call failed, or the future of a `write` was dropped halfway.
    Broken,
    Finished,
}

impl Writer {
    pub(super) fn new(store: S3, key: &str, declared: Option<u64>, lease: Lease) -> Self {
        Self {
            spare: store.inner.pieces.join(),
            store,
            key: key.to_owned(),
            declared,
            lease,
            filling: Part::default(),
            written: 0,
            upload: None,
            stray_upload: false,
            parts: Vec::new(),
            sending: JoinSet::new(),
            open_calls: OpenCalls::default(),
            state: State::Whole,
        }
    }

    pub(in crate::objects) async fn write(&mut self, chunks: Vec<Bytes>) -> Result<()> {
        self.usable()?;
        self.state = State::Broken;
        for mut chunk in chunks {
            while !chunk.is_empty() {
                if self.room() == 0 {
                    self.send_part().await?;
                }
                let taken = chunk
                    .len()
                    .min(usize::try_from(self.room()).unwrap_or(usize::MAX));
                self.filling.push(chunk.split_to(taken), &self.spare);
                self.written += taken as u64;
            }
        }
        self.state = State::Whole;
        Ok(())
    }

    /// Can be called again after it failed in a call to the store.
    pub(in crate::objects) async fn finish(&mut self) -> Result<()> {
        if self.state == State::Finished {
            return Ok(());
        }
        self.usable()?;
        let path = path(&self.key)?;
        let store = self.store.inner.clone();
        match &self.upload {
            None => {
                let payload = self.filling.payload();
                let path = &path;
                let put = || store.strict.put(path, payload.clone());
                call(&self.lease, &self.open_calls, &store.retries, put).await?;
            }
            Some(upload) => {
                let upload = upload.clone();
                if self.filling.length > 0 {
                    self.send_part().await?;
                }
                while !self.sending.is_empty() {
                    self.part_sent().await?;
                }
                let parts: Option<Vec<PartId>> = self.parts.iter().cloned().collect();
                let parts = parts.ok_or_else(|| Error::internal("a part has no id"))?;
                let complete = || {
                    store
                        .strict
                        .complete_multipart(&path, &upload, parts.clone())
                };
                match call(&self.lease, &self.open_calls, &store.retries, complete).await {
                    Ok(_) => {}
                    // An earlier try may have completed it.
                    Err(Failed::Answered(error)) if is_absent(&error) => {
                        let found = self.store.head(&self.key).await?;
                        if found != Some(Found { size: self.written }) {
                            return Err(Error::unavailable(error));
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
                if self.stray_upload
                    && let Err(error) = self.store.abort_uploads(&self.key).await
                {
                    // It has no parts, and goes with the object.
                    tracing::warn!(key = self.key, %error, "another upload of a key may be left open");
                }
            }
        }
        self.state = State::Finished;
        self.filling = Part::default();
        Ok(())
    }

    pub(in crate::objects) async fn abort(&mut self) {
        if self.state == State::Finished {
            return;
        }
        self.state = State::Broken;
        self.filling = Part::default();
        // Parts that are cut off might arrive after the upload is gone; their end is worth a wait.
        let ended = timeout(CALL_TIMEOUT, async {
            while self.sending.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            self.sending.abort_all();
        }
        let (Some(upload), Ok(path)) = (&self.upload, path(&self.key)) else {
            return;
        };
        let open = self.open_calls.begin();
        match in_time(self.store.inner.patient.abort_multipart(&path, upload)).await {
            Ok(Ok(())) => open.end(),
            Ok(Err(error)) if is_absent(&error) => open.end(),
            // The reaper aborts it.
            _ => {}
        }
    }

    pub(in crate::objects) fn settled(&self) -> bool {
        self.open_calls.none()
    }

    fn usable(&self) -> Result<()> {
        match self.state {
            State::Whole => Ok(()),
            State::Broken => Err(Error::unavailable("an earlier call of this writer failed")),
            State::Finished => Err(Error::internal("a writer was used after it had finished")),
        }
    }

    /// In bytes, in the part that is being filled.
    fn room(&self) -> u64 {
        part_size(self.parts.len() as u64 + 1, self.declared).saturating_sub(self.filling.length)
    }

    /// Sends the part that was filled, once there is room for another one on its way.
    async fn send_part(&mut self) -> Result<()> {
        if self.parts.len() as u64 >= MOST_PARTS {
            return Err(Error::unavailable(
                "the object has more parts than the store takes",
            ));
        }
        let path = path(&self.key)?;
        let store = self.store.inner.clone();
        let upload = match &self.upload {
            Some(upload) => upload.clone(),
            None => {
                let create = || store.strict.create_multipart(&path);
                let upload = call(&self.lease, &self.open_calls, &store.retries, create).await?;
                self.stray_upload = !self.settled();
                self.upload.insert(upload).clone()
            }
        };
        while self.sending.len() >= PARTS_IN_FLIGHT {
            self.part_sent().await?;
        }
        let index = self.parts.len();
        let pieces = std::mem::take(&mut self.filling).into_pieces();
        self.parts.push(None);
        let lease = self.lease.clone();
        let open_calls = self.open_calls.clone();
        self.sending.spawn(trace::carried(async move {
            let put = || {
                let payload = pieces.iter().cloned().collect();
                store.strict.put_part(&path, &upload, index, payload)
            };
            let id = call(&lease, &open_calls, &store.retries, put).await?;
            Ok(Sent { index, id, pieces })
        }));
        Ok(())
    }

    async fn part_sent(&mut self) -> Result<()> {
        let Some(sent) = self.sending.join_next().await else {
            return Ok(());
        };
        let recorded =
            sent.map_err(Error::internal)
                .flatten()
                .and_then(|Sent { index, id, pieces }| {
                    let slot = self
                        .parts
                        .get_mut(index)
                        .ok_or_else(|| Error::internal("a part that was not sent"))?;
                    *slot = Some(id);
                    self.spare.give(pieces);
                    Ok(())
                });
        if recorded.is_err() {
            self.state = State::Broken;
        }
        recorded
    }
}

/// The bytes of one part.
#[derive(Default)]
pub(in crate::objects) struct Part {
    pieces: Vec<Bytes>,
    filling: BytesMut,
    /// In bytes.
    length: u64,
}

impl Part {
    pub(in crate::objects) fn push(&mut self, mut chunk: Bytes, spare: &Shared) {
        while !chunk.is_empty() {
            if self.filling.len() == self.filling.capacity() {
                self.seal();
                self.filling = spare.take().unwrap_or_else(|| {
                    // As long as all before it, so that a small object takes little.
                    let grown = usize::try_from(self.length).unwrap_or(LARGEST_PIECE);
                    let capacity = grown.max(chunk.len()).clamp(SMALLEST_PIECE, LARGEST_PIECE);
                    BytesMut::with_capacity(capacity)
                });
            }
            let room = self.filling.capacity() - self.filling.len();
            let taken = chunk.split_to(chunk.len().min(room));
            self.filling.extend_from_slice(&taken);
            self.length += taken.len() as u64;
        }
    }

    fn seal(&mut self) {
        let filled = std::mem::take(&mut self.filling);
        if !filled.is_empty() {
            self.pieces.push(filled.freeze());
        }
    }

    /// Shares the bytes, and stays as it is.
    fn payload(&mut self) -> PutPayload {
        self.seal();
        self.pieces.iter().cloned().collect()
    }

    /// In bytes.
    pub(in crate::objects) fn length(&self) -> u64 {
        self.length
    }

    pub(in crate::objects) fn into_pieces(mut self) -> Vec<Bytes> {
        self.seal();
        self.pieces
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::pieces::Pieces;
    use super::*;

    #[test]
    fn a_part_holds_its_own_bytes_and_no_more() {
        let bytes: Vec<u8> = (0..5_000_000_u32).map(|i| i as u8).collect();
        for size in [5, 70_000, bytes.len()] {
            let mut part = Part::default();
            let spare = Arc::<Pieces>::default().join();
            for chunk in bytes.chunks(size) {
                part.push(Bytes::copy_from_slice(chunk), &spare);
            }
            assert_eq!(part.length, bytes.len() as u64);
            let first = part.payload();
            // A second try sends the same.
            assert_eq!(part.payload().content_length(), first.content_length());
            let pieces = part.into_pieces();
            assert!(pieces.iter().all(|piece| piece.len() <= LARGEST_PIECE));
            assert!(pieces.concat() == bytes);
        }
    }
}
