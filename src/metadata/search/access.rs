//! Which index a list is read by on SQLite, which keeps no statistics of values: it would rather
//! sort a million files than pass over some, or the other way round.
//!
//! Where a filter leaves few files, its own index finds them, and they are sorted; where it leaves
//! many, the index of the order has a page of them soon. A bounded count tells which.

use sqlx::SqliteConnection;

use crate::error::Result;

use super::{ContentTypes, Filter, QueryBuilder, Sort, SortBy, push_conditions};
use super::{Ends, Page};

/// Fewer files than these are found by a filter's own index, and sorted.
const FEW: i64 = 4_000;

/// The index for one page; None leaves the choice to SQLite.
pub(super) async fn index(
    conn: &mut SqliteConnection,
    filter: &Filter,
    page: &Page,
) -> Result<Option<&'static str>> {
    let order = by_order(filter, page.sort);
    let mut best = (FEW, order);
    for (index, alone) in candidates(filter, page.sort) {
        let count = count(conn, index, &alone, best.0).await?;
        if count < best.0 {
            best = (count, Some(index));
        }
    }
    Ok(best.1)
}

/// The index for the steps of a walk through folders, each of which asks for one file.
pub(super) fn index_of_names(filter: &Filter) -> &'static str {
    match filter {
        Filter {
            sha256: Some(_), ..
        } => "files_by_sha256",
        Filter { trashed: true, .. } => "files_in_trash_by_name",
        _ => "files_by_name",
    }
}

fn by_order(filter: &Filter, sort: Sort) -> Option<&'static str> {
    let exact = matches!(filter.content_type, Some(ContentTypes::Exactly(_)));
    match (sort.by, filter.trashed) {
        // It has both: the type, and by it the creation.
        (SortBy::CreatedAt, false) if exact => Some("files_by_content_type"),
        (SortBy::CreatedAt, false) => Some("files_by_created_at"),
        (SortBy::CreatedAt, true) => Some("files_in_trash_by_created_at"),
        (SortBy::Name, false) => Some("files_by_name"),
        (SortBy::Name, true) => Some("files_in_trash_by_name"),
        (SortBy::UpdatedAt, false) => Some("files_by_updated_at"),
        (SortBy::Size, false) => Some("files_by_size"),
        (SortBy::UpdatedAt | SortBy::Size, true) => None,
    }
}

/// The filters that have an index which is not the order's, each alone.
fn candidates(filter: &Filter, sort: Sort) -> Vec<(&'static str, Filter)> {
    let alone = || Filter {
        trashed: filter.trashed,
        ..Filter::new(filter.tenant.clone(), filter.now)
    };
    let mut found = Vec::new();
    if filter.sha256.is_some() {
        let sha256 = filter.sha256;
        found.push(("files_by_sha256", Filter { sha256, ..alone() }));
    }
    let by_name = index_of_names(&alone());
    if filter.name.is_some() {
        let name = filter.name.clone();
        found.push((by_name, Filter { name, ..alone() }));
    } else if filter.prefix.is_some() && sort.by != SortBy::Name {
        let prefix = filter.prefix.clone();
        found.push((by_name, Filter { prefix, ..alone() }));
    }
    // The trash has no more indexes, and is small.
    if filter.trashed {
        return found;
    }
    let exact = matches!(filter.content_type, Some(ContentTypes::Exactly(_)));
    if filter.content_type.is_some() && !(exact && sort.by == SortBy::CreatedAt) {
        let content_type = filter.content_type.clone();
        let alone = Filter {
            content_type,
            ..alone()
        };
        found.push(("files_by_content_type", alone));
    }
    if (filter.min_size.is_some() || filter.max_size.is_some()) && sort.by != SortBy::Size {
        let alone = Filter {
            min_size: filter.min_size,
            max_size: filter.max_size,
            ..alone()
        };
        found.push(("files_by_size", alone));
    }
    let created = filter.created_after.is_some() || filter.created_before.is_some();
    if created && sort.by != SortBy::CreatedAt {
        let alone = Filter {
            created_after: filter.created_after,
            created_before: filter.created_before,
            ..alone()
        };
        found.push(("files_by_created_at", alone));
    }
    found
}

/// How many files the filter leaves; `most` stands for as many and more.
async fn count(
    conn: &mut SqliteConnection,
    index: &str,
    filter: &Filter,
    most: i64,
) -> Result<i64> {
    let mut query = QueryBuilder::new(format!(
        "SELECT COUNT(*) FROM (SELECT 1 FROM files f INDEXED BY {index}"
    ));
    push_conditions(&mut query, filter, Ends::BOTH);
    query.push(" LIMIT ").push_bind(most).push(")");
    let count = query.build_query_scalar().fetch_one(conn).await?;
    Ok(count)
}
