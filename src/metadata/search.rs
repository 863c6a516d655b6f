//! Lists of files: filters, orders, keyset pages, and folders.

use futures::TryFutureExt;
use sqlx::{Database, FromRow, QueryBuilder};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{FileId, Tenant};

use super::Conn;
use super::dialect::Dialect;
use super::files::{self, File, Metadata};
use super::postgres::in_time;

mod access;
mod packed;

use packed::Packed;

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
        let persistent = filter.is_plain();
        let rows: Vec<files::Row> = match self {
            Self::Sqlite(c) => {
                let c = c.ready().await?;
                let access = access::of_page(c, filter, page).await?;
                let query = packed::list(filter, page, &access);
                let files: Vec<Packed> = packed::fetch(query, persistent, c).await?;
                return files
                    .into_iter()
                    .map(|file| file.unpack(&filter.tenant))
                    .collect();
            }
            Self::Postgres(c, patience) => {
                let mut query = QueryBuilder::new("");
                push_list(&mut query, filter, page, |query| {
                    query.push(" FROM files f");
                });
                let rows = query
                    .build_query_as()
                    // With filters, the best plan depends on their values: it is made anew.
                    .persistent(persistent)
                    .fetch_all(&mut **c);
                in_time(*patience, rows.err_into()).await?
            }
        };
        rows.into_iter().map(File::try_from).collect()
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
                let mut entries: Vec<(i64, Option<String>, String, FileId, Packed)> =
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

/// The page, all columns of each file.
fn push_list<DB>(
    query: &mut QueryBuilder<DB>,
    filter: &Filter,
    page: &Page,
    push_from: impl FnOnce(&mut QueryBuilder<DB>),
) where
    DB: Dialect,
    for<'q> String: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> Vec<u8>: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> Tenant: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> Timestamp: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> FileId: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> i64: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
{
    let column = match page.sort.by {
        SortBy::CreatedAt => "created_at",
        SortBy::UpdatedAt => "updated_at",
        SortBy::Name => "name",
        SortBy::Size => "size",
    };
    let (beyond, direction) = order(page.sort.descending);
    query.push(concat!("SELECT ", files::columns!("f.")));
    push_from(query);
    let (filter, names) = behind_start(filter, page);
    push_conditions(query, &filter, names);
    if let Some(After { key, id }) = &page.after {
        query.push(format_args!(" AND (f.{column}, f.id) {beyond} ("));
        match key {
            SortKey::Time(at) => query.push_bind(*at),
            SortKey::Name(name) => query.push_bind(name.clone()),
            SortKey::Size(size) => query.push_bind(clamped(*size)),
        };
        query.push(", ").push_bind(*id).push(")");
    }
    query.push(format_args!(
        " ORDER BY f.{column} {direction}, f.id {direction} LIMIT "
    ));
    query.push_bind(i64::from(page.limit));
}

/// A loose scan of the index on the name: each step finds the next name beyond a bound, and a
/// name in a folder moves the bound past all of the folder. Makes the table `walk`.
fn push_walk<DB>(
    query: &mut QueryBuilder<DB>,
    filter: &Filter,
    descending: bool,
    after: Option<&After>,
    limit: u32,
) where
    DB: Dialect,
    for<'q> String: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> Vec<u8>: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> Tenant: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> Timestamp: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> FileId: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> i64: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
{
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
    query.push_bind(bound);
    query.push(format_args!(" AS {text}, ")).push_bind(bound_id);
    query.push(format_args!(
        " UNION ALL SELECT walk.step + 1,
            CASE WHEN {slash} > 0 THEN {folder} END, f.id,
            CASE WHEN {slash} > 0 THEN {beyond_folder} ELSE f.name END,
            CASE WHEN {slash} > 0 THEN "
    ));
    query.push_bind(NO_ID);
    query.push(
        " ELSE f.id END
         FROM walk JOIN files f ON f.id = (SELECT f.id FROM files f",
    );
    query.push(DB::by_index(access::index_of_names(filter)));
    push_conditions(query, filter, names);
    query.push(format_args!(
        " AND (f.name, f.id) {beyond} (walk.bound, walk.bound_id)
          ORDER BY f.name {direction}, f.id {direction} LIMIT 1) WHERE walk.step < "
    ));
    query.push_bind(i64::from(limit));
    query.push(") ");
}

/// The ends of a range that are to be compared with.
#[derive(Clone, Copy)]
struct Ends {
    lower: bool,
    upper: bool,
}

impl Ends {
    const BOTH: Self = Self {
        lower: true,
        upper: true,
    };
}

/// What is left to ask of files behind the start of a page, and of their names: without the bounds
/// that all of them keep to. SQLite would begin to read at such a bound, not at the start of the page.
fn behind_start(filter: &Filter, page: &Page) -> (Filter, Ends) {
    let mut left = filter.clone();
    let mut names = Ends::BOTH;
    let Some(After { key, .. }) = &page.after else {
        return (left, names);
    };
    match (key, page.sort.by, page.sort.descending) {
        (SortKey::Time(at), SortBy::CreatedAt, false) => {
            left.created_after = left.created_after.filter(|first| at < first);
        }
        (SortKey::Time(at), SortBy::CreatedAt, true) => {
            left.created_before = left.created_before.filter(|end| at >= end);
        }
        (SortKey::Time(at), SortBy::UpdatedAt, true) => {
            left.updated_before = left.updated_before.filter(|end| at >= end);
        }
        (SortKey::Size(size), SortBy::Size, false) => {
            left.min_size = left.min_size.filter(|min| size < min);
        }
        (SortKey::Size(size), SortBy::Size, true) => {
            left.max_size = left.max_size.filter(|max| size > max);
        }
        (SortKey::Name(name), SortBy::Name, false) => {
            names.lower = left.prefix.as_ref().is_some_and(|prefix| name < prefix);
        }
        (SortKey::Name(name), SortBy::Name, true) => {
            let end = left.prefix.as_deref().and_then(after_prefix);
            names.upper = end.is_some_and(|end| *name >= end);
        }
        _ => {}
    }
    (left, names)
}

/// ` WHERE …`, of the table called `f`. `names`: the ends of the range that the prefix makes.
fn push_conditions<DB>(query: &mut QueryBuilder<DB>, filter: &Filter, names: Ends)
where
    DB: Dialect,
    for<'q> String: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> Vec<u8>: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> Tenant: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> Timestamp: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    for<'q> i64: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
{
    query.push(" WHERE f.tenant = ");
    query.push_bind(filter.tenant.clone());
    query.push(if filter.trashed {
        " AND f.trashed_at IS NOT NULL"
    } else {
        " AND f.trashed_at IS NULL"
    });
    query.push(" AND (f.expires_at IS NULL OR f.expires_at > ");
    query.push_bind(filter.now);
    query.push(" OR f.legal_hold OR f.retention_until > ");
    query.push_bind(filter.now).push(")");
    if let Some(prefix) = filter.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
        push_beginning(query, "f.name", prefix, names);
    }
    if let Some(name) = &filter.name {
        query.push(" AND f.name = ").push_bind(name.clone());
    }
    match &filter.content_type {
        None => {}
        Some(ContentTypes::Exactly(content_type)) => {
            query.push(" AND f.content_type = ");
            query.push_bind(content_type.clone());
        }
        Some(ContentTypes::Kind(kind)) => {
            push_beginning(query, "f.content_type", &format!("{kind}/"), Ends::BOTH);
        }
    }
    if let Some(size) = filter.min_size {
        query.push(" AND f.size >= ").push_bind(clamped(size));
    }
    if let Some(size) = filter.max_size {
        query.push(" AND f.size <= ").push_bind(clamped(size));
    }
    if let Some(at) = filter.created_after {
        query.push(" AND f.created_at >= ").push_bind(at);
    }
    if let Some(at) = filter.created_before {
        query.push(" AND f.created_at < ").push_bind(at);
    }
    if let Some(at) = filter.updated_before {
        query.push(" AND f.updated_at < ").push_bind(at);
    }
    if let Some(sha256) = filter.sha256 {
        query.push(" AND f.sha256 = ").push_bind(sha256.to_vec());
    }
    // Everything contains nothing.
    if let Some(metadata) = filter.metadata.as_ref().filter(|object| !object.is_empty()) {
        DB::push_contains(query, "f.metadata", metadata);
    }
}

fn push_beginning<DB: Database>(
    query: &mut QueryBuilder<DB>,
    column: &str,
    prefix: &str,
    ends: Ends,
) where
    for<'q> String: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
{
    if ends.lower {
        query.push(format_args!(" AND {column} >= "));
        query.push_bind(prefix.to_owned());
    }
    if let Some(end) = after_prefix(prefix).filter(|_| ends.upper) {
        query.push(format_args!(" AND {column} < ")).push_bind(end);
    }
}

fn order(descending: bool) -> (&'static str, &'static str) {
    if descending {
        ("<", "DESC")
    } else {
        (">", "ASC")
    }
}

/// No file is larger than what the databases can count.
fn clamped(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// The first text that sorts behind everything that begins with `prefix`, by bytes of UTF-8 (which
/// is the order of code points); None when nothing does.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            char::MAX => continue,
            // The surrogates in between are no characters.
            '\u{d7ff}' => '\u{e000}',
            other => char::from_u32(u32::from(other) + 1)?,
        };
        chars.push(next);
        return Some(chars.into_iter().collect());
    }
    None
}

/// Sorts behind every name: 257 of the last character take more bytes than a name may have.
fn last_name() -> String {
    String::from(char::MAX).repeat(257)
}

#[cfg(test)]
mod tests;
