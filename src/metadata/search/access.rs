//! Which index a list is read by on SQLite, which keeps no statistics of values: it would rather
//! sort a million files than pass over some, or the other way round.
//!
//! Where a filter leaves few files, its own index finds them, and they are sorted; where it leaves
//! many, the index of the order has a page of them soon. A bounded count tells which.

use serde_json::Value;
use sqlx::{Sqlite, SqliteConnection};

use crate::error::Result;
use crate::id::Tenant;

use super::{ContentTypes, Filter, QueryBuilder, Sort, SortBy, push_conditions};
use super::{Ends, Page};

/// Fewer files than these are found by a filter's own index, and sorted.
const FEW: i64 = 4_000;

/// The values of a metadata filter that are looked at.
const TERMS: usize = 8;

/// How much of a text a term holds, and from where on a number has none: as migration 0005 has it.
const TERM_CHARS: usize = 100;
const TERM_MAX: i64 = (1 << 53) - 1;

/// How the files of one page are found.
pub(super) enum Access {
    /// As SQLite chooses.
    Any,
    Index(&'static str),
    Term(Term),
}

/// A row of `file_terms` for each file that may have this value in its metadata, in a member of this name,
/// or in an array.
pub(super) struct Term {
    tenant: Tenant,
    key: String,
    value: TermValue,
}

enum TermValue {
    Text(String),
    Number(i64),
}

impl Access {
    /// ` FROM …`, the files being called `f`.
    pub(super) fn push_from(&self, query: &mut QueryBuilder<Sqlite>) {
        match self {
            Self::Any => {
                query.push(" FROM files f");
            }
            Self::Index(index) => {
                query.push(format_args!(" FROM files f INDEXED BY {index}"));
            }
            Self::Term(term) => {
                // CROSS: in this order.
                query.push(" FROM file_terms t CROSS JOIN files f ON f.id = t.file_id");
                term.push_condition(query, " AND ");
            }
        }
    }
}

impl Term {
    /// Those that each file has whose metadata contains what is wanted.
    fn within(filter: &Filter) -> Vec<Self> {
        let mut terms = Vec::new();
        let members = filter.metadata.iter().flatten();
        let mut left: Vec<(&str, &Value)> =
            members.map(|(key, value)| (key.as_str(), value)).collect();
        while let Some((key, value)) = left.pop()
            && terms.len() < TERMS
        {
            match value {
                Value::Object(members) => {
                    left.extend(members.iter().map(|(key, value)| (key.as_str(), value)));
                }
                Value::Array(elements) => left.extend(elements.iter().map(|value| ("", value))),
                scalar => terms.extend(Self::new(&filter.tenant, key, scalar)),
            }
        }
        terms
    }

    /// None for what has no terms, or not of one kind for all that equals it.
    fn new(tenant: &Tenant, key: &str, wanted: &Value) -> Option<Self> {
        let value = match wanted {
            Value::String(text) => TermValue::Text(text.chars().take(TERM_CHARS).collect()),
            Value::Bool(truth) => TermValue::Number(i64::from(*truth)),
            Value::Number(number) => TermValue::Number(
                match number.as_i64() {
                    Some(integer) => Some(integer),
                    None => number
                        .as_f64()
                        .filter(|float| float.fract() == 0.0 && float.abs() <= TERM_MAX as f64)
                        .map(|float| float as i64),
                }
                .filter(|integer| (-TERM_MAX..=TERM_MAX).contains(integer))?,
            ),
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        Some(Self {
            tenant: tenant.clone(),
            key: key.to_owned(),
            value,
        })
    }

    fn push_condition(&self, query: &mut QueryBuilder<Sqlite>, before: &str) {
        query.push(format_args!("{before}t.tenant = "));
        query.push_bind(self.tenant.clone());
        query.push(" AND t.key = ").push_bind(self.key.clone());
        query.push(" AND t.value = ");
        match &self.value {
            TermValue::Text(text) => query.push_bind(text.clone()),
            TermValue::Number(number) => query.push_bind(*number),
        };
    }

    async fn count(&self, conn: &mut SqliteConnection, most: i64) -> Result<i64> {
        let mut query = QueryBuilder::new("SELECT COUNT(*) FROM (SELECT 1 FROM file_terms t");
        self.push_condition(&mut query, " WHERE ");
        limited_count(query, conn, most).await
    }
}

/// How to find the files of one page.
pub(super) async fn of_page(
    conn: &mut SqliteConnection,
    filter: &Filter,
    page: &Page,
) -> Result<Access> {
    let order = by_order(filter, page.sort).map_or(Access::Any, Access::Index);
    let mut best = (FEW, order);
    for (index, alone) in candidates(filter, page.sort) {
        let count = count(conn, index, &alone, best.0).await?;
        if count < best.0 {
            best = (count, Access::Index(index));
        }
    }
    for term in Term::within(filter) {
        let count = term.count(conn, best.0).await?;
        if count < best.0 {
            best = (count, Access::Term(term));
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
    limited_count(query, conn, most).await
}

async fn limited_count(
    mut query: QueryBuilder<Sqlite>,
    conn: &mut SqliteConnection,
    most: i64,
) -> Result<i64> {
    query.push(" LIMIT ").push_bind(most).push(")");
    let count = query.build_query_scalar().fetch_one(conn).await?;
    Ok(count)
}
