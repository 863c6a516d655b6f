//! The conditions of a list as SQL, about the table called `f`.

use sqlx::QueryBuilder;

use crate::metadata::dialect::{Dialect, Values};

use super::{After, ContentTypes, Filter, Page, Sort, SortBy, SortKey};

/// The ends of a range that are to be compared with.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub lower: bool,
    pub upper: bool,
}

impl Ends {
    pub const BOTH: Self = Self {
        lower: true,
        upper: true,
    };
}

/// What is left to ask of files behind the start of a page, and of their names: without the bounds
/// that all of them keep to. SQLite would begin to read at such a bound, not at the start of the page.
pub(super) fn behind_start(filter: &Filter, page: &Page) -> (Filter, Ends) {
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

/// All that is asked for. `names`: the ends of the range that the prefix makes.
pub(super) fn push_conditions<DB: Dialect>(
    query: &mut QueryBuilder<DB>,
    filter: &Filter,
    names: Ends,
) {
    push_scope(query, filter);
    query.push(" AND (f.expires_at IS NULL OR f.expires_at > ");
    query.push_value(filter.now);
    query.push(" OR f.legal_hold OR f.retention_until > ");
    query.push_value(filter.now).push(")");
    push_ranges(query, filter, names);
}

/// Whose files, and whether those in the trash: what most indexes begin with.
pub(super) fn push_scope<DB: Dialect>(query: &mut QueryBuilder<DB>, filter: &Filter) {
    push_tenant(query, filter);
    query.push(if filter.trashed {
        " AND f.trashed_at IS NOT NULL"
    } else {
        " AND f.trashed_at IS NULL"
    });
}

pub(super) fn push_tenant<DB: Dialect>(query: &mut QueryBuilder<DB>, filter: &Filter) {
    query.push("f.tenant = ").push_value(filter.tenant.clone());
}

/// ` AND …`: what the filter says of the files themselves, whether expired or not.
pub(super) fn push_ranges<DB: Dialect>(query: &mut QueryBuilder<DB>, filter: &Filter, names: Ends) {
    if let Some(prefix) = filter.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
        push_beginning(query, "f.name", prefix, names);
    }
    if let Some(name) = &filter.name {
        query.push(" AND f.name = ").push_value(name.clone());
    }
    match &filter.content_type {
        None => {}
        Some(ContentTypes::Exactly(content_type)) => {
            query.push(" AND f.content_type = ");
            query.push_value(content_type.clone());
        }
        Some(ContentTypes::Kind(kind)) => {
            push_beginning(query, "f.content_type", &format!("{kind}/"), Ends::BOTH);
        }
    }
    if let Some(size) = filter.min_size {
        query.push(" AND f.size >= ").push_value(clamped(size));
    }
    if let Some(size) = filter.max_size {
        query.push(" AND f.size <= ").push_value(clamped(size));
    }
    if let Some(at) = filter.created_after {
        query.push(" AND f.created_at >= ").push_value(at);
    }
    if let Some(at) = filter.created_before {
        query.push(" AND f.created_at < ").push_value(at);
    }
    if let Some(at) = filter.updated_before {
        query.push(" AND f.updated_at < ").push_value(at);
    }
    if let Some(sha256) = filter.sha256 {
        query.push(" AND f.sha256 = ").push_value(sha256.to_vec());
    }
    // Everything contains nothing.
    if let Some(metadata) = filter.metadata.as_ref().filter(|object| !object.is_empty()) {
        DB::push_contains(query, "f.metadata", metadata);
    }
}

pub(super) fn push_beginning<DB: Dialect>(
    query: &mut QueryBuilder<DB>,
    column: &str,
    prefix: &str,
    ends: Ends,
) {
    if ends.lower {
        query.push(format_args!(" AND {column} >= "));
        query.push_value(prefix.to_owned());
    }
    if let Some(end) = after_prefix(prefix).filter(|_| ends.upper) {
        query.push(format_args!(" AND {column} < ")).push_value(end);
    }
}

/// ` AND …`: behind the place where the page begins.
pub(super) fn push_behind<DB: Dialect>(query: &mut QueryBuilder<DB>, page: &Page) {
    let Some(After { key, id }) = &page.after else {
        return;
    };
    let column = column(page.sort.by);
    let (beyond, _) = order(page.sort.descending);
    query.push(format_args!(" AND (f.{column}, f.id) {beyond} ("));
    match key {
        SortKey::Time(at) => query.push_value(*at),
        SortKey::Name(name) => query.push_value(name.clone()),
        SortKey::Size(size) => query.push_value(clamped(*size)),
    };
    query.push(", ").push_value(*id).push(")");
}

/// ` FROM … WHERE …`: the next files of the order, whatever else is asked of them: `most` of them, by the order's own index.
pub(super) fn push_next<DB: Dialect>(
    query: &mut QueryBuilder<DB>,
    filter: &Filter,
    page: &Page,
    index: &str,
    most: i64,
) {
    query.push(" FROM files f");
    query.push(DB::by_index(index)).push(" WHERE ");
    push_scope(query, filter);
    let (own, names) = behind_start(&own_part(filter, page.sort), page);
    push_ranges(query, &own, names);
    push_behind(query, page);
    query.push(format_args!(" ORDER BY {} LIMIT ", order_by(page.sort)));
    query.push_value(most);
}

/// ` AND … ORDER BY … LIMIT …`: the next rows of a table called `f` that has files in the order of their creation, and
/// nothing else of them.
pub(super) fn push_next_created<DB: Dialect>(
    query: &mut QueryBuilder<DB>,
    filter: &Filter,
    page: &Page,
    most: i64,
) {
    let created = Filter {
        created_after: filter.created_after,
        created_before: filter.created_before,
        ..Filter::new(filter.tenant.clone(), filter.now)
    };
    let (created, names) = behind_start(&created, page);
    push_ranges(query, &created, names);
    push_behind(query, page);
    query.push(format_args!(" ORDER BY {} LIMIT ", order_by(page.sort)));
    query.push_value(most);
}

/// What of a filter is a range of the order's own index.
pub(super) fn own_part(filter: &Filter, sort: Sort) -> Filter {
    let mut own = Filter {
        trashed: filter.trashed,
        ..Filter::new(filter.tenant.clone(), filter.now)
    };
    match sort.by {
        SortBy::CreatedAt => {
            own.created_after = filter.created_after;
            own.created_before = filter.created_before;
            if filter.has_types_by_creation() {
                own.content_type = filter.content_type.clone();
            }
        }
        SortBy::UpdatedAt => own.updated_before = filter.updated_before,
        SortBy::Name => {
            own.name = filter.name.clone();
            own.prefix = filter.prefix.clone();
        }
        SortBy::Size => {
            own.min_size = filter.min_size;
            own.max_size = filter.max_size;
        }
    }
    own
}

pub(super) fn column(by: SortBy) -> &'static str {
    match by {
        SortBy::CreatedAt => "created_at",
        SortBy::UpdatedAt => "updated_at",
        SortBy::Name => "name",
        SortBy::Size => "size",
    }
}

/// What stands behind `ORDER BY`.
pub(super) fn order_by(sort: Sort) -> String {
    let column = column(sort.by);
    let (_, direction) = order(sort.descending);
    format!("f.{column} {direction}, f.id {direction}")
}

pub(super) fn order(descending: bool) -> (&'static str, &'static str) {
    if descending {
        ("<", "DESC")
    } else {
        (">", "ASC")
    }
}

/// No file is larger than what the databases can count.
pub(super) fn clamped(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// The first text that sorts behind everything that begins with `prefix`, by bytes of UTF-8 (which
/// is the order of code points); None when nothing does.
pub(super) fn after_prefix(prefix: &str) -> Option<String> {
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
