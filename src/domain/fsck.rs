//! `box fsck`: do the database and the store agree? Both directions, by pages, beside a live
//! service: only what is wrong at a second look counts.

use futures::{FutureExt, StreamExt};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::id::{FileId, ObjectId, Tenant};
use crate::metadata::objects::{Object, State};
use crate::metadata::usage::Drift;
use crate::objects::Listed;
use crate::objects::keys::Named;

use super::Domain;

const PAGE: u32 = 500;

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub repair: bool,
    /// Read every object again and compare its SHA-256.
    pub verify_checksums: bool,
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
    /// What is recorded of a tenant's usage is not what its rows add up to.
    UsageMismatch,
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
            Self::UsageMismatch => "usage-mismatch",
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

#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Rows looked at.
    pub objects: u64,
    /// Names in the store looked at, the marker aside.
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

impl Domain {
    pub async fn fsck(&self, options: Options) -> Result<Report> {
        let mut report = Report::default();
        if options.repair {
            // What the reaper would do at its next round is no problem.
            self.reap().await?;
        }
        self.fsck_keys(options, &mut report).await?;
        self.fsck_objects(options, &mut report).await?;
        self.fsck_files(&mut report).await?;
        self.fsck_usage(options, &mut report).await?;
        Ok(report)
    }

    /// Every name in the store has a row.
    async fn fsck_keys(&self, options: Options, report: &mut Report) -> Result<()> {
        let mut listing = self.objects.list();
        while let Some(listed) = listing.next().await {
            let listed = listed?;
            match self.objects.root().parse(&listed.path) {
                Named::Marker => continue,
                Named::Foreign => {
                    let mut problem = Problem::new(
                        ProblemKind::ForeignKey,
                        "no key of this service has such a name",
                    );
                    problem.key = Some(listed.path);
                    report.problems.push(problem);
                }
                Named::Object { tenant, id } => {
                    self.fsck_key(options, report, listed, Some(tenant), id)
                        .await?;
                }
                Named::Temporary { id } => self.fsck_key(options, report, listed, None, id).await?,
            }
            report.keys += 1;
        }
        Ok(())
    }

    async fn fsck_key(
        &self,
        options: Options,
        report: &mut Report,
        listed: Listed,
        tenant: Option<Tenant>,
        id: ObjectId,
    ) -> Result<()> {
        let row = self.metadata.reader().await?.conn().object_get(id).await?;
        let vouched = row
            .as_ref()
            .is_some_and(|row| tenant.as_ref().is_none_or(|tenant| row.tenant == *tenant));
        if vouched {
            return Ok(());
        }
        // The listing may be older than the row's end: what counts is there still.
        if let Some(tenant) = &tenant {
            let key = self.objects.root().object(tenant, id);
            if !listed.multipart && self.objects.head(&key).await?.is_none() {
                return Ok(());
            }
        }
        let mut problem = Problem::new(
            ProblemKind::UnknownKey,
            format!("{} bytes that no row vouches for", listed.size),
        );
        problem.object_id = Some(id);
        if options.repair && row.is_none() {
            let tenant = match tenant {
                Some(tenant) => tenant,
                // A temporary name does not say whose it is, and follows from the id alone.
                None => Tenant::unknown(),
            };
            let now = self.clock.now();
            // Quarantined, not deleted: a horizon's time to find out what it was.
            let delete_at = now.plus(self.rules.request_horizon.max(self.rules.reaper_delay));
            problem.repaired = self
                .metadata
                .write(tenant, move |tx, tenant| {
                    async move { tx.object_quarantine(id, tenant, now, delete_at).await }.boxed()
                })
                .await?;
            problem
                .detail
                .push_str(&format!("; deleted from {delete_at} on"));
        }
        problem.key = Some(listed.path);
        report.problems.push(problem);
        Ok(())
    }

    /// Every row is true of its key.
    async fn fsck_objects(&self, options: Options, report: &mut Report) -> Result<()> {
        let mut after = None;
        loop {
            let page = self
                .metadata
                .reader()
                .await?
                .conn()
                .object_page(after, PAGE)
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.id);
            for object in &page {
                report.objects += 1;
                if self.object_fault(options, object).await?.is_none() {
                    continue;
                }
                // A second look at a fresh row: what changed meanwhile is no problem.
                let Some(again) = self
                    .metadata
                    .reader()
                    .await?
                    .conn()
                    .object_get(object.id)
                    .await?
                else {
                    continue;
                };
                if let Some(mut problem) = self.object_fault(options, &again).await? {
                    problem.object_id = Some(again.id);
                    problem.key = Some(
                        self.objects
                            .root()
                            .object(&again.tenant, again.id)
                            .path()
                            .to_owned(),
                    );
                    problem.file_id = self
                        .metadata
                        .reader()
                        .await?
                        .conn()
                        .file_of_object(again.id)
                        .await?;
                    if options.repair && problem.kind == ProblemKind::RefsMismatch {
                        problem.repaired = self.mend_refs(&again).await?;
                    }
                    report.problems.push(problem);
                }
            }
        }
    }

    async fn object_fault(&self, options: Options, object: &Object) -> Result<Option<Problem>> {
        let now = self.clock.now();
        let key = self.objects.root().object(&object.tenant, object.id);
        match object.state {
            State::Writing => Ok(object
                .lease_until
                .filter(|until| *until <= now)
                .map(|until| {
                    Problem::new(
                        ProblemKind::ExpiredLease,
                        format!("its lease ran out at {until}; the reaper takes it"),
                    )
                })),
            State::Dead => {
                let due = object.delete_at.is_none_or(|at| at <= now);
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
                    return Ok(Some(Problem::new(
                        ProblemKind::MissingBytes,
                        format!("{size} bytes are gone"),
                    )));
                };
                if found.size != size {
                    let detail = format!("the key has {} bytes, the row says {size}", found.size);
                    return Ok(Some(Problem::new(ProblemKind::SizeMismatch, detail)));
                }
                let counted = self
                    .metadata
                    .reader()
                    .await?
                    .conn()
                    .object_count_refs(object.id)
                    .await?;
                if counted != object.refs {
                    let detail = format!("{} references recorded, {counted} counted", object.refs);
                    return Ok(Some(Problem::new(ProblemKind::RefsMismatch, detail)));
                }
                if options.verify_checksums
                    && let Some(sha256) = object.sha256
                    && size > 0
                {
                    let mut hasher = Sha256::new();
                    let mut bytes = self.objects.read(&key, 0..size).await?;
                    while let Some(chunk) = bytes.next().await {
                        hasher.update(&chunk?);
                    }
                    if <[u8; 32]>::from(hasher.finalize()) != sha256 {
                        return Ok(Some(Problem::new(
                            ProblemKind::ChecksumMismatch,
                            "the bytes have another SHA-256",
                        )));
                    }
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

    /// Every file refers to a live object that it agrees with.
    async fn fsck_files(&self, report: &mut Report) -> Result<()> {
        let mut after = None;
        loop {
            let page = self
                .metadata
                .reader()
                .await?
                .conn()
                .file_broken_page(after, PAGE)
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            for (file_id, object_id) in &page {
                let mut problem = Problem::new(
                    ProblemKind::BrokenFile,
                    "its object is not live or differs from it",
                );
                problem.file_id = Some(*file_id);
                problem.object_id = Some(*object_id);
                report.problems.push(problem);
            }
        }
    }
}

impl Domain {
    /// Quotas are compared with what there is.
    async fn fsck_usage(&self, options: Options, report: &mut Report) -> Result<()> {
        let drifts = self
            .metadata
            .write((), |tx, ()| async move { tx.usage_drifts().await }.boxed())
            .await?;
        for Drift { tenant, short } in drifts {
            let mut problem = Problem::new(
                ProblemKind::UsageMismatch,
                format!(
                    "of the tenant {tenant}, {} bytes and {} files too few are recorded, {} and {} too few as reserved",
                    short.used.bytes, short.used.files, short.reserved.bytes, short.reserved.files
                ),
            );
            if options.repair {
                problem.repaired = self
                    .metadata
                    .write(tenant, |tx, tenant| {
                        async move { tx.usage_mend(tenant).await }.boxed()
                    })
                    .await?;
            }
            report.problems.push(problem);
        }
        Ok(())
    }
}

/// For people: a line for each problem, and the sum.
impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for problem in &self.problems {
            write!(f, "{}", problem.kind.as_str())?;
            if let Some(key) = &problem.key {
                write!(f, " {key}")?;
            }
            if let Some(id) = &problem.object_id {
                write!(f, " object {id}")?;
            }
            if let Some(id) = &problem.file_id {
                write!(f, " file {id}")?;
            }
            let repaired = if problem.repaired { " (repaired)" } else { "" };
            writeln!(f, ": {}{repaired}", problem.detail)?;
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
