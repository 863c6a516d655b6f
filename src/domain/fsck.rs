//! `box fsck`: do the database and the store agree? Both directions, by pages, so that millions of
//! keys take no more memory than a few. It runs beside a live service: only what is wrong at a second
//! look counts.

use std::fmt;
use std::time::Duration;

use futures::FutureExt;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::id::{FileId, ObjectId};
use crate::metadata::imports::CountsDrift;
use crate::metadata::usage::Drift;

use super::Domain;
use pace::Pace;

mod keys;
mod objects;
mod pace;

/// Rows or keys in one step.
const PAGE: u32 = 500;

/// How long bytes that a restored database knows nothing of are kept: people have to find out what
/// they are.
const AFTER_RESTORE: Duration = Duration::from_secs(7 * 86_400);

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Mend what can be mended without losing anything.
    pub repair: bool,
    /// The database was restored from a backup: what it knows nothing of is quarantined, and then it
    /// counts as of the store's time.
    pub after_restore: bool,
    /// Read every object again and compare its SHA-256.
    pub verify_checksums: bool,
    /// Bytes a second that are read for it at most.
    pub rate: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// A key that no row vouches for.
    UnknownKey,
    /// A name that this service would not have written.
    ForeignKey,
    /// A live object without its key.
    MissingBytes,
    SizeMismatch,
    ChecksumMismatch,
    /// The references counted are not those recorded.
    RefsMismatch,
    /// A file whose object is not live, or differs from it.
    BrokenFile,
    /// An object that is being written under a lease that ran out.
    ExpiredLease,
    /// A dead object that is due and was not deleted.
    Undeleted,
    /// An open upload whose bytes are not kept for it.
    BrokenUpload,
    /// What is recorded of a tenant's usage is not what its rows add up to.
    UsageMismatch,
    /// What is recorded of an import's progress is not what its items are.
    CountsMismatch,
    /// The database was restored from a backup, and the store is of a later time.
    OlderDatabase,
}

impl ProblemKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown-key",
            Self::ForeignKey => "foreign-key",
            Self::MissingBytes => "missing-bytes",
            Self::SizeMismatch => "size-mismatch",
            Self::ChecksumMismatch => "checksum-mismatch",
            Self::RefsMismatch => "refs-mismatch",
            Self::BrokenFile => "broken-file",
            Self::ExpiredLease => "expired-lease",
            Self::Undeleted => "undeleted",
            Self::BrokenUpload => "broken-upload",
            Self::UsageMismatch => "usage-mismatch",
            Self::CountsMismatch => "counts-mismatch",
            Self::OlderDatabase => "older-database",
        }
    }
}

impl Serialize for ProblemKind {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    pub kind: ProblemKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_id: Option<ObjectId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_id: Option<FileId>,
    pub detail: String,
    pub repaired: bool,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Looked {
    /// Rows.
    pub objects: u64,
    /// Names in the store, the marker aside.
    pub keys: u64,
}

/// All of it, in memory.
#[derive(Debug, Default)]
pub struct Report {
    pub objects: u64,
    pub keys: u64,
    pub problems: Vec<Problem>,
}

impl Problem {
    fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            key: None,
            object_id: None,
            file_id: None,
            detail: detail.into(),
            repaired: false,
        }
    }
}

/// One run.
struct Check<'a> {
    domain: &'a Domain,
    options: Options,
    pace: Pace,
    looked: Looked,
    tell: &'a mut (dyn FnMut(Problem) + Send),
}

impl Domain {
    /// Tells of every problem as soon as it is found.
    ///
    /// # Errors
    /// What could not be looked at; `Conflict` for a repair while the database is older than the store.
    pub async fn fsck_each(
        &self,
        options: Options,
        tell: &mut (dyn FnMut(Problem) + Send),
    ) -> Result<Looked> {
        let stored = self.generation_compare().await?;
        if options.repair && self.is_older() {
            return Err(Error::new(
                Kind::Conflict,
                "the database is older than the store, and a repair would take what is newer for lost: run `box fsck --after-restore`",
            ));
        }
        if options.repair {
            // What the reaper would do at its next round is no problem.
            self.reap().await?;
        }
        if options.after_restore {
            // What was being written at the time of the backup may have been finished since.
            self.expire_leases(self.quarantine(options)).await?;
        }
        let mut check = Check {
            domain: self,
            options,
            pace: Pace::new(options.rate),
            looked: Looked::default(),
            tell,
        };
        check.keys().await?;
        check.objects().await?;
        check.files().await?;
        check.uploads().await?;
        check.usage().await?;
        check.imports().await?;
        check.generation(stored).await?;
        Ok(check.looked)
    }

    /// The same, with all problems at once.
    ///
    /// # Errors
    /// As [`Domain::fsck_each`].
    pub async fn fsck(&self, options: Options) -> Result<Report> {
        let mut problems = Vec::new();
        let Looked { objects, keys } = self
            .fsck_each(options, &mut |problem| problems.push(problem))
            .await?;
        Ok(Report {
            objects,
            keys,
            problems,
        })
    }

    /// How long bytes that no row vouched for are kept.
    fn quarantine(&self, options: Options) -> Duration {
        let least = self.rules.request_horizon.max(self.rules.reaper_delay);
        if options.after_restore {
            least.max(AFTER_RESTORE)
        } else {
            least
        }
    }
}

impl Check<'_> {
    fn tell(&mut self, problem: Problem) {
        (self.tell)(problem);
    }

    /// Every file refers to a live object that it agrees with.
    async fn files(&mut self) -> Result<()> {
        let mut after = None;
        loop {
            let page = self
                .domain
                .metadata
                .reader()
                .await?
                .conn()
                .file_broken_page(after, PAGE)
                .await?;
            let Some((last, broken)) = page else {
                return Ok(());
            };
            after = Some(last);
            for (file_id, object_id) in broken {
                let mut problem = Problem::new(
                    ProblemKind::BrokenFile,
                    "its object is not live or differs from it",
                );
                problem.file_id = Some(file_id);
                problem.object_id = Some(object_id);
                self.tell(problem);
            }
        }
    }

    /// What an open upload is made of is being written.
    async fn uploads(&mut self) -> Result<()> {
        let domain = self.domain;
        let mut after = None;
        loop {
            let now = domain.clock.now();
            let mut reader = domain.metadata.reader().await?;
            let page = reader.conn().upload_broken_page(now, after, PAGE).await?;
            drop(reader);
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            for (id, object_id) in page {
                let detail = format!("what there is of the upload {id} is not kept for it");
                let mut problem = Problem::new(ProblemKind::BrokenUpload, detail);
                problem.object_id = Some(object_id);
                self.tell(problem);
            }
        }
    }

    /// Quotas are compared with what there is.
    async fn usage(&mut self) -> Result<()> {
        let metadata = &self.domain.metadata;
        let drifts = metadata.reader().await?.conn().usage_drifts().await?;
        for Drift { tenant, short } in drifts {
            let mut problem = Problem::new(
                ProblemKind::UsageMismatch,
                format!(
                    "of the tenant {tenant}, {} bytes and {} files too few are recorded, {} and {} too few as reserved",
                    short.used.bytes, short.used.files, short.reserved.bytes, short.reserved.files
                ),
            );
            if self.options.repair {
                problem.repaired = metadata
                    .write(tenant, |tx, tenant| {
                        async move { tx.usage_mend(tenant).await }.boxed()
                    })
                    .await?;
            }
            self.tell(problem);
        }
        Ok(())
    }

    /// The progress of imports is compared with their items.
    async fn imports(&mut self) -> Result<()> {
        let metadata = &self.domain.metadata;
        let drifts = metadata.reader().await?.conn().import_drifts().await?;
        for CountsDrift {
            import,
            tenant,
            short,
        } in drifts
        {
            let mut problem = Problem::new(
                ProblemKind::CountsMismatch,
                format!(
                    "of the import {import}, too few are recorded: {} items pending, {} fetching, {} done, {} failed, {} cancelled, and {} bytes",
                    short.pending,
                    short.fetching,
                    short.done,
                    short.failed,
                    short.cancelled,
                    short.bytes
                ),
            );
            if self.options.repair {
                problem.repaired = metadata
                    .write(tenant, move |tx, tenant| {
                        async move { tx.import_counts_mend(tenant, import).await }.boxed()
                    })
                    .await?;
            }
            self.tell(problem);
        }
        Ok(())
    }

    /// The database is of the store's time. Last, because from here on the reaper deletes again.
    async fn generation(&mut self, stored: i64) -> Result<()> {
        if !self.domain.is_older() {
            return Ok(());
        }
        let mut problem = Problem::new(
            ProblemKind::OlderDatabase,
            "the database is older than the store, as if restored from a backup: nothing is deleted, and the service is not ready, until `box fsck --after-restore` was run",
        );
        if self.options.after_restore {
            self.domain.generation_catch_up(stored).await?;
            problem.detail = "the database was older than the store".to_owned();
            problem.repaired = true;
        }
        self.tell(problem);
        Ok(())
    }
}

/// For people, on one line.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if let Some(key) = &self.key {
            write!(f, " {key}")?;
        }
        if let Some(id) = &self.object_id {
            write!(f, " object {id}")?;
        }
        if let Some(id) = &self.file_id {
            write!(f, " file {id}")?;
        }
        let repaired = if self.repaired { " (repaired)" } else { "" };
        write!(f, ": {}{repaired}", self.detail)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        writeln!(
            f,
            "{} objects, {} keys, {} problems",
            self.objects,
            self.keys,
            self.problems.len()
        )
    }
}
