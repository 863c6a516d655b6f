//! Archives: which files go into one, and under which names.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::clock::Timestamp;
use crate::error::{Error, Invalid, Kind, Result};
use crate::id::{FileId, ObjectId, Tenant};
use crate::objects::ByteStream;
use crate::places::Place;

use super::Domain;
use super::files::{After, Content, File, Filter, Page, Sort, SortBy, SortKey};

mod names;

/// Files that are read at a time: each may have 64 KiB of metadata, which an archive leaves out.
const PAGE: usize = 250;

/// Faults that are told of one request.
const MOST_FAULTS: usize = 1_000;

/// Which files a caller wants.
#[derive(Clone, Debug)]
pub enum Chosen {
    /// In this order.
    Ids(Vec<FileId>),
    /// By name.
    Filter(Box<Filter>),
}

/// A file as it goes into an archive: one content, whatever becomes of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// No other of the archive has it, and no way of unpacking it leads out of the directory.
    pub name: String,
    pub object_id: ObjectId,
    /// In bytes.
    pub size: u64,
    /// Since when the content is as it is.
    pub at: Timestamp,
}

impl Domain {
    /// # Errors
    /// `RateLimited`: the tenant is being sent as many archives as it may have at a time.
    pub fn archive_place(&self, tenant: &Tenant) -> Result<Place<Tenant>> {
        self.archives.take(tenant).ok_or_else(|| {
            let most = self.rules.archive.per_tenant;
            Error::new(
                Kind::RateLimited,
                format!("A tenant is sent at most {most} archives at the same time."),
            )
        })
    }

    /// The files of an archive, each with a name of its own.
    ///
    /// # Errors
    /// `InvalidRequest`: a file that is missing or in the trash, a filter that finds none, too many
    /// files or bytes.
    pub async fn archive_members(&self, tenant: &Tenant, chosen: Chosen) -> Result<Vec<Member>> {
        let mut members = match chosen {
            Chosen::Ids(ids) => self.members_of_ids(tenant, ids).await?,
            Chosen::Filter(filter) => self.members_of_filter(&filter).await?,
        };
        names::make_unique(&mut members);
        Ok(members)
    }

    async fn members_of_ids(&self, tenant: &Tenant, mut ids: Vec<FileId>) -> Result<Vec<Member>> {
        let mut sum = Sum::new(self, "/ids");
        sum.count(ids.len())?;
        if ids.is_empty() {
            return Err(Error::invalid("/ids", "must have at least one id"));
        }
        let mut seen = HashSet::new();
        let asked = ids.len();
        ids.retain(|id| seen.insert(*id));
        if ids.len() < asked {
            return Err(Error::invalid("/ids", "has an id more than once"));
        }
        let now = self.clock.now();
        let mut invalid = Vec::new();
        let mut members = Vec::with_capacity(ids.len());
        for (page, ids) in ids.chunks(PAGE).enumerate() {
            let mut reader = self.metadata.reader().await?;
            let found = reader.conn().file_get_many(tenant, ids).await?;
            drop(reader);
            let mut found: HashMap<FileId, File> =
                found.into_iter().map(|file| (file.id, file)).collect();
            for (place, id) in ids.iter().enumerate() {
                let fault = match found.remove(id).filter(|file| !file.has_expired(now)) {
                    None => "is no file",
                    Some(file) if file.trashed_at.is_some() => "is in the trash",
                    Some(file) => {
                        sum.add(file.size)?;
                        members.push(Member::from(file));
                        continue;
                    }
                };
                if invalid.len() < MOST_FAULTS {
                    invalid.push(Invalid {
                        pointer: format!("/ids/{}", page * PAGE + place),
                        detail: fault.to_owned(),
                    });
                }
            }
        }
        if !invalid.is_empty() {
            return Err(Error::invalid_many(invalid));
        }
        Ok(members)
    }

    async fn members_of_filter(&self, filter: &Filter) -> Result<Vec<Member>> {
        let mut sum = Sum::new(self, "/filter");
        let mut members = Vec::new();
        let mut page = Page {
            // A file keeps this place whatever changes meanwhile.
            sort: Sort {
                by: SortBy::CreatedAt,
                descending: false,
            },
            after: None,
            limit: PAGE as u32,
        };
        loop {
            let files = self.file_list(filter, &page).await?;
            let whole = files.len() == PAGE;
            page.after = files.last().map(|last| After {
                key: SortKey::Time(last.created_at),
                id: last.id,
            });
            for file in files {
                sum.add(file.size)?;
                members.push(Member::from(file));
                sum.count(members.len())?;
            }
            if !whole {
                break;
            }
        }
        if members.is_empty() {
            return Err(Error::invalid("/filter", "finds no file"));
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(members)
    }

    /// The bytes of `range` of a member, as [`Domain::content_read`].
    ///
    /// # Errors
    /// `NotFound` when the content was removed meanwhile.
    pub async fn member_read(
        &self,
        tenant: &Tenant,
        member: &Member,
        range: Range<u64>,
    ) -> Result<ByteStream> {
        self.object_read(tenant, member.object_id, range).await
    }
}

impl From<File> for Member {
    fn from(file: File) -> Self {
        let at = Content::from(&file).created_at;
        Self {
            name: file.name,
            object_id: file.object_id,
            size: file.size,
            at,
        }
    }
}

/// What an archive has so far, against what it may have.
struct Sum {
    pointer: &'static str,
    most_files: usize,
    most_bytes: u64,
    bytes: u64,
}

impl Sum {
    fn new(domain: &Domain, pointer: &'static str) -> Self {
        Self {
            pointer,
            most_files: domain.rules.archive.max_files as usize,
            most_bytes: domain.rules.archive.max_bytes.bytes(),
            bytes: 0,
        }
    }

    fn count(&self, files: usize) -> Result<()> {
        if files <= self.most_files {
            return Ok(());
        }
        let detail = format!("an archive has at most {} files", self.most_files);
        Err(Error::invalid(self.pointer, detail))
    }

    fn add(&mut self, bytes: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes <= self.most_bytes {
            return Ok(());
        }
        let detail = format!(
            "the files of an archive have at most {} bytes",
            self.most_bytes
        );
        Err(Error::invalid(self.pointer, detail))
    }
}
