//! Every row is true of its key.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use sha2::{Digest, Sha256};

use crate::error::{Kind, Result};
use crate::id::{FileId, ObjectId};
use crate::metadata::objects::{Object, Referred, State};

use super::{Check, Domain, PAGE, Problem, ProblemKind};

/// Keys that are looked at at once.
const AT_ONCE: usize = 16;

/// How late the reaper may be before that is a problem.
const OVERDUE: Duration = Duration::from_secs(60);

impl Check<'_> {
    pub(super) async fn objects(&mut self) -> Result<()> {
        let domain = self.domain;
        let mut after = None;
        loop {
            let page = domain
                .metadata
                .reader()
                .await?
                .conn()
                .object_page(after, PAGE)
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.object.id);
            // To the end of the page, before anything else is waited for: these looks have a time-out.
            let looks: Vec<_> = futures::stream::iter(page)
                .map(|row| async move {
                    let fault = domain.object_fault(&row).await;
                    (row.object, fault)
                })
                .buffered(AT_ONCE)
                .collect()
                .await;
            for (object, fault) in looks {
                self.looked.objects += 1;
                if fault?.is_some() || self.checksum_fault(&object).await?.is_some() {
                    self.object_again(object.id).await?;
                }
            }
        }
    }

    /// A second look, at a fresh row: what changed meanwhile is no problem.
    async fn object_again(&mut self, id: ObjectId) -> Result<()> {
        let mut reader = self.domain.metadata.reader().await?;
        let row = reader.conn().object_referred(id).await?;
        drop(reader);
        let Some(row) = row else {
            return Ok(());
        };
        let fault = match self.domain.object_fault(&row).await? {
            None => self.checksum_fault(&row.object).await?,
            fault => fault,
        };
        let Some(mut problem) = fault else {
            return Ok(());
        };
        let key = self.domain.objects.root().object(&row.object.tenant, id);
        problem.object_id = Some(id);
        problem.key = Some(key.path().to_owned());
        match problem.kind {
            // Each file is one that somebody misses.
            ProblemKind::MissingBytes
            | ProblemKind::SizeMismatch
            | ProblemKind::ChecksumMismatch => self.tell_of_files(id, problem).await,
            _ => {
                problem.file_id = self.files_of(id, None, 1).await?.pop();
                if self.options.repair && problem.kind == ProblemKind::RefsMismatch {
                    problem.repaired = self.domain.mend_refs(&row.object).await?;
                }
                self.tell(problem);
                Ok(())
            }
        }
    }

    async fn tell_of_files(&mut self, id: ObjectId, problem: Problem) -> Result<()> {
        let mut page = self.files_of(id, None, PAGE).await?;
        if page.is_empty() {
            self.tell(problem);
            return Ok(());
        }
        while let Some(last) = page.last().copied() {
            for file_id in page {
                let mut problem = problem.clone();
                problem.file_id = Some(file_id);
                self.tell(problem);
            }
            page = self.files_of(id, Some(last), PAGE).await?;
        }
        Ok(())
    }

    async fn files_of(
        &self,
        id: ObjectId,
        after: Option<FileId>,
        limit: u32,
    ) -> Result<Vec<FileId>> {
        let mut reader = self.domain.metadata.reader().await?;
        reader.conn().file_of_object_page(id, after, limit).await
    }

    /// Reads a live object whose key is there, if that was asked for.
    async fn checksum_fault(&mut self, object: &Object) -> Result<Option<Problem>> {
        let (State::Live, Some(sha256), Some(size)) = (object.state, object.sha256, object.size)
        else {
            return Ok(None);
        };
        if !self.options.verify_checksums || size == 0 {
            return Ok(None);
        }
        let domain = self.domain;
        let key = domain.objects.root().object(&object.tenant, object.id);
        let mut bytes = match domain.objects.read(&key, 0..size).await {
            Ok(bytes) => bytes,
            // It went since the last look at it: the next one tells whether it should have.
            Err(error) if error.kind() == Kind::NotFound => return Ok(Some(missing(size))),
            Err(error) => return Err(error),
        };
        let mut hasher = Sha256::new();
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk?;
            hasher.update(&chunk);
            self.pace.keep(chunk.len() as u64).await;
        }
        let same = <[u8; 32]>::from(hasher.finalize()) == sha256;
        Ok((!same).then(|| {
            Problem::new(
                ProblemKind::ChecksumMismatch,
                "the bytes have another SHA-256",
            )
        }))
    }
}

fn missing(size: u64) -> Problem {
    Problem::new(ProblemKind::MissingBytes, format!("{size} bytes are gone"))
}

impl Domain {
    async fn object_fault(&self, row: &Referred) -> Result<Option<Problem>> {
        let Referred { object, counted } = row;
        let late = self.clock.now().minus(OVERDUE);
        let key = self.objects.root().object(&object.tenant, object.id);
        match object.state {
            State::Writing => Ok(object
                .lease_until
                .filter(|until| *until <= late)
                .map(|until| {
                    Problem::new(
                        ProblemKind::ExpiredLease,
                        format!("its lease ran out at {until}; the reaper takes it"),
                    )
                })),
            State::Dead => {
                let due = object.delete_at.is_none_or(|at| at <= late);
                let there = due && self.objects.head(&key).await?.is_some();
                Ok(there.then(|| {
                    Problem::new(
                        ProblemKind::Undeleted,
                        "dead and due, and its key is still there",
                    )
                }))
            }
            State::Live => {
                let size = object.size.unwrap_or(0);
                let Some(found) = self.objects.head(&key).await? else {
                    return Ok(Some(missing(size)));
                };
                if found.size != size {
                    let detail = format!("the key has {} bytes, the row says {size}", found.size);
                    return Ok(Some(Problem::new(ProblemKind::SizeMismatch, detail)));
                }
                if *counted != object.refs {
                    let detail = format!("{} references recorded, {counted} counted", object.refs);
                    return Ok(Some(Problem::new(ProblemKind::RefsMismatch, detail)));
                }
                Ok(None)
            }
        }
    }

    async fn mend_refs(&self, object: &Object) -> Result<bool> {
        let (id, from) = (object.id, object.refs);
        let delete_at = self.clock.now().plus(self.rules.reaper_delay);
        self.metadata
            .write((), move |tx, ()| {
                async move {
                    let counted = tx.object_count_refs(id).await?;
                    tx.object_mend_refs(id, from, counted, delete_at).await
                }
                .boxed()
            })
            .await
    }
}
