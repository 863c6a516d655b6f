//! Lists of files: filters, orders, keyset pages, and folders.

use futures::TryFutureExt;
use sqlx::{FromRow, QueryBuilder};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{FileId, Tenant};

use super::Conn;
use super::dialect::{Dialect, Values};
use super::files::{self, File, Metadata};
use super::postgres::in_time;

mod access;
mod budget;
mod conditions;
mod packed;
mod runs;

use conditions::{Ends, after_prefix, behind_start, order, order_by, push_behind, push_conditions};

/// Fewer files than these are found by what only they have, and sorted.
const LEAST: i64 = 1_000;

/// Files that have one value of those that are asked for in their metadata, and are looked at for the others.
const LIKELY: i64 = 4_000;

/// What a list is sorted by; the id decides between equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    CreatedAt,
    UpdatedAt,
    Name,
    Size,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    pub by: SortBy,
    pub descending: bool,
}

/// The value of a row in the column that a list is sorted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SortKey {
    Time(Timestamp),
    Name(String),
    /// In bytes.
    Size(u64),
}

/// Where a page begins: behind this row. Its key must be one of the list's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    pub key: SortKey,
    pub id: FileId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentTypes {
    /// Just this one, byte for byte.
    Exactly(String),
    /// All of one kind: `image` for `image/*`.
    Kind(String),
}

/// Which files a list has: those that all of this is true of.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    pub tenant: Tenant,
    /// Only the trash, or only what is not in it.
    pub trashed: bool,
    /// What has expired by then is left out, though it may not be removed yet. What is held does not expire.
    pub now: Timestamp,
    /// The first bytes of the name.
    pub prefix: Option<String>,
    pub name: Option<String>,
    pub content_type: Option<ContentTypes>,
    /// What the file's metadata must contain, as PostgreSQL's `@>` understands it.
    pub metadata: Option<Metadata>,
    /// In bytes, both inclusive.
    pub min_size: Option<u64>,
    pub max_size: Option<u64>,
    /// Inclusive.
    pub created_after: Option<Timestamp>,
    /// Exclusive.
    pub created_before: Option<Timestamp>,
    /// Exclusive.
    pub updated_before: Option<Timestamp>,
    pub sha256: Option<[u8; 32]>,
}

impl Filter {
    /// All files of a tenant that are not in the trash.
    pub fn new(tenant: Tenant, now: Timestamp) -> Self {
        Self {
            tenant,
            trashed: false,
            now,
            prefix: None,
            name: None,
            content_type: None,
            metadata: None,
            min_size: None,
            max_size: None,
            created_after: None,
            created_before: None,
            updated_before: None,
            sha256: None,
        }
    }

    /// Whether the index that has creations in their order has what is asked of content types, too.
    fn has_types_by_creation(&self) -> bool {
        !self.trashed && matches!(self.content_type, Some(ContentTypes::Exactly(_)))
    }

    /// Whether the order alone finds the rows of a page, whatever the values are: then one plan
    /// serves all of them.
    fn is_plain(&self) -> bool {
        let Self {
            tenant: _,
            trashed: _,
            now: _,
            prefix,
            name,
            content_type,
            metadata,
            min_size,
            max_size,
            created_after,
            created_before,
            updated_before,
            sha256,
        } = self;
        prefix.is_none()
            && name.is_none()
            && content_type.is_none()
            && metadata.is_none()
            && min_size.is_none()
            && max_size.is_none()
            && created_after.is_none()
            && created_before.is_none()
            && updated_before.is_none()
            && sha256.is_none()
    }
}

/// Which part of a list, in which order.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    pub sort: Sort,
    pub after: Option<After>,
    pub limit: u32,
}

/// One entry of a folder, and where the page behind it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub what: What,
    pub after: After,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    File(Box<File>),
    /// A name that others lie below: it ends with `/`.
    Folder(String),
}

#[derive(FromRow)]
struct EntryRow {
    folder: Option<String>,
    bound: String,
    bound_id: FileId,
    #[sqlx(flatten)]
    file: files::Row,
}

impl Conn<'_> {
    /// One page, in the order asked for.
    pub async fn file_list(&mut self, filter: &Filter, page: &Page) -> Result<Vec<File>> {
        if let Some(files) = runs::page(self, filter, page).await? {
            return Ok(files);
        }
        let persistent = filter.is_plain();
        match self {
            Self::Sqlite(c) => packed::page(c.ready().await?, filter, page, persistent).await,
            Self::Postgres(c, patience) if access::is_unforeseen(filter, page.sort) => {
                budget::page(c, *patience, filter, page).await
            }
            Self::Postgres(c, patience) => {
                let mut query = QueryBuilder::new("");
                push_list(&mut query, filter, page, |query| {
                    query.push(" FROM files f WHERE ");
                });
                let rows = query
                    .build_query_as()
                    // With filters, the best plan depends on their values: it is made anew.
                    .persistent(persistent)
                    .fetch_all(&mut **c);
                let rows: Vec<files::Row> = in_time(*patience, rows.err_into()).await?;
                rows.into_iter().map(File::try_from).collect()
            }
        }
    }

    /// One page of what lies directly below the filter's prefix, sorted by name. What lies deeper
    /// shows as its folder, and is skipped over: each entry costs one look into the index.
    pub async fn file_list_folder(
        &mut self,
        filter: &Filter,
        descending: bool,
        after: Option<&After>,
        limit: u32,
    ) -> Result<Vec<Entry>> {
        match self {
            Self::Sqlite(c) => {
                let query = packed::folder(filter, descending, after, limit);
                let mut entries: Vec<(i64, Option<String>, String, FileId, packed::Packed)> =
                    packed::fetch(query, false, c.ready().await?).await?;
                entries.sort_unstable_by_key(|entry| entry.0);
                entries
                    .into_iter()
                    .map(|(_, folder, bound, bound_id, file)| {
                        let file = file.unpack(&filter.tenant)?;
                        Ok(entry(folder, bound, bound_id, file))
                    })
                    .collect()
            }
            Self::Postgres(c, patience) => {
                let mut query = QueryBuilder::new("");
                push_walk(&mut query, filter, descending, after, limit);
                query.push(concat!(
                    "SELECT walk.folder, walk.bound, walk.bound_id, ",
                    files::columns!("f."),
                    " FROM walk JOIN files f ON f.id = walk.id ORDER BY walk.step"
                ));
                let rows = query.build_query_as().persistent(false).fetch_all(&mut **c);
                let rows: Vec<EntryRow> = in_time(*patience, rows.err_into()).await?;
                rows.into_iter()
                    .map(|row| {
                        let file = File::try_from(row.file)?;
                        Ok(entry(row.folder, row.bound, row.bound_id, file))
                    })
                    .collect()
            }
        }
    }
}

fn entry(folder: Option<String>, bound: String, bound_id: FileId, file: File) -> Entry {
    Entry {
        what: match folder {
            Some(folder) => What::Folder(folder),
            None => What::File(Box::new(file)),
        },
        after: After {
            key: SortKey::Name(bound),
            id: bound_id,
        },
    }
}

/// The page, all columns of each file. `push_from`: ` FROM … WHERE `, and whatever conditions it likes.
fn push_list<DB: Dialect>(
    query: &mut QueryBuilder<DB>,
    filter: &Filter,
    page: &Page,
    push_from: impl FnOnce(&mut QueryBuilder<DB>),
) {
    query.push(concat!("SELECT ", files::columns!("f.")));
    push_from(query);
    let (filter, names) = behind_start(filter, page);
    push_conditions(query, &filter, names);
    push_behind(query, page);
    query.push(format_args!(" ORDER BY {} LIMIT ", order_by(page.sort)));
    query.push_value(i64::from(page.limit));
}

/// A loose scan of the index on the name: each step finds the next name beyond a bound, and a
/// name in a folder moves the bound past all of the folder. Makes the table `walk`.
fn push_walk<DB: Dialect>(
    query: &mut QueryBuilder<DB>,
    filter: &Filter,
    descending: bool,
    after: Option<&After>,
    limit: u32,
) {
    const NO_ID: FileId = FileId::from_uuid(Uuid::nil());
    let prefix = filter.prefix.as_deref().unwrap_or_default();
    let first = if descending {
        after_prefix(prefix).unwrap_or_else(last_name)
    } else {
        prefix.to_owned()
    };
    let (bound, bound_id) = match after {
        Some(After {
            key: SortKey::Name(name),
            id,
        }) if (*name < first) == descending => (name.clone(), *id),
        _ => (first, NO_ID),
    };
    // The walk begins at one end, and moves away from it.
    let names = Ends {
        lower: descending,
        upper: !descending,
    };
    let (beyond, direction) = order(descending);
    let text = DB::TEXT_BY_BYTES;
    // Characters up to the prefix's end, and from there up to the first slash; 0 where there is none.
    let before = prefix.chars().count();
    let slash = DB::slash_in(&format!("substr(f.name, {})", before + 1));
    let folder = format!("substr(f.name, 1, {before} + {slash})");
    // `0` follows `/`: the first name behind all that begin with `folder/`. No name ends with a
    // slash, so that nothing before the folder's own name is passed over either.
    let beyond_folder = if descending {
        folder.clone()
    } else {
        format!("substr(f.name, 1, {before} + {slash} - 1) || '0'")
    };

    query.push("WITH RECURSIVE walk (step, folder, id, bound, bound_id) AS (");
    query.push(format_args!(
        "SELECT CAST(0 AS BIGINT), CAST(NULL AS {text}, CAST(NULL AS UUID), CAST("
    ));
    query.push_value(bound);
    query
        .push(format_args!(" AS {text}, "))
        .push_value(bound_id);
    query.push(format_args!(
        " UNION ALL SELECT walk.step + 1,
            CASE WHEN {slash} > 0 THEN {folder} END, f.id,
            CASE WHEN {slash} > 0 THEN {beyond_folder} ELSE f.name END,
            CASE WHEN {slash} > 0 THEN "
    ));
    query.push_value(NO_ID);
    query.push(
        " ELSE f.id END
         FROM walk JOIN files f ON f.id = (SELECT f.id FROM files f",
    );
    query.push(DB::by_index(access::index_of_names(filter)));
    query.push(" WHERE ");
    push_conditions(query, filter, names);
    query.push(format_args!(
        " AND (f.name, f.id) {beyond} (walk.bound, walk.bound_id)
          ORDER BY f.name {direction}, f.id {direction} LIMIT 1) WHERE walk.step < "
    ));
    query.push_value(i64::from(limit));
    query.push(") ");
}

/// Sorts behind every name: 257 of the last character take more bytes than a name may have.
fn last_name() -> String {
    String::from(char::MAX).repeat(257)
}

#[cfg(test)]
mod tests;
