//! Which index a list is read by on SQLite, which keeps no statistics of values: it would rather
//! sort a million files than pass over some, or the other way round.
//!
//! Bounded counts tell how many files a filter leaves. Few are found by the filter's own index, and
//! sorted. Of more, the own index tells which they are, and the order's is walked, passing over the
//! others: both without reading a file that is not one of them; if there is no page of them within reach, they are
//! sorted too. Where there are many, the order's index has a page of them soon, and is walked alone.

use serde_json::Value;
use sqlx::{Sqlite, SqliteConnection};

use crate::error::Result;
use crate::id::Tenant;

use super::conditions::{
    Ends, behind_start, own_part, push_behind, push_conditions, push_next, push_next_created,
    push_ranges, push_scope, push_tenant,
};
use super::{Filter, LEAST, LIKELY, Page, QueryBuilder, Sort, SortBy, files, push_list};

/// Fewer files than these are found by a filter's own index, and sorted.
const FEW: i64 = 4_000;

/// As many files as these, and more, are walked to by the order alone; if there is no page of them, or of fewer, within
/// as many files of the order, they do not lie evenly.
const MANY: i64 = 30_000;

/// The values of a metadata filter that are looked at.
const TERMS: usize = 8;

/// How much of a text a term holds, and from where on a number has none: as migration 0005 has it.
const TERM_CHARS: usize = 100;
const TERM_MAX: i64 = (1 << 53) - 1;

/// How the files of one page are found.
pub(super) enum Access {
    /// As SQLite chooses.
    Any,
    /// Along the order's index.
    Order(&'static str),
    /// The same, but no further than so many files: behind them it is given up.
    Near(&'static str, i64),
    /// Along the files that have a value in their metadata, no further than [`LIKELY`] of them.
    Having(Term),
    /// All that a set has, sorted.
    Found(Set),
    /// Along the order's index, passing over what is not in the set.
    Among(&'static str, Set),
    /// The same, but no further than [`MANY`] files.
    AmongNext(&'static str, Set),
}

/// The files that one filter alone leaves, by its own index, as far as that tells them from others: expired ones
/// too, with a digest those in the trash, and some whose metadata only resembles what is asked for.
pub(super) enum Set {
    Range(&'static str, Box<Filter>),
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
    /// The page, all columns of each file.
    pub(super) fn push_page(&self, query: &mut QueryBuilder<Sqlite>, filter: &Filter, page: &Page) {
        match self {
            Self::Any => push_list(query, filter, page, |query| {
                query.push(" FROM files f WHERE ");
            }),
            Self::Order(index) => push_list(query, filter, page, |query| push_by(query, index)),
            Self::Near(index, most) => {
                query.push(concat!(
                    "SELECT ",
                    files::columns!("f."),
                    " FROM (SELECT f.*"
                ));
                push_next(query, filter, page, index, *most);
                query.push(") f WHERE ");
                push_conditions(query, filter, Ends::BOTH);
                // In the order that they come in: asked for again, all would be read and sorted.
                query.push(" LIMIT ").push_bind(i64::from(page.limit));
            }
            Self::Having(term) => {
                query.push(concat!("SELECT ", files::columns!("f."), " FROM ("));
                term.push_next(query, filter, page);
                query.push(") t CROSS JOIN files f ON f.id = t.id WHERE ");
                push_conditions(query, filter, Ends::BOTH);
                query.push(" LIMIT ").push_bind(i64::from(page.limit));
            }
            Self::Found(Set::Range(index, _)) => {
                push_list(query, filter, page, |query| push_by(query, index));
            }
            Self::Found(Set::Term(term)) => push_list(query, filter, page, |query| {
                // CROSS: in this order.
                query.push(" FROM file_terms t CROSS JOIN files f ON f.id = t.file_id WHERE ");
                term.push_condition(query);
                query.push(" AND ");
            }),
            Self::Among(index, set) => push_list(query, filter, page, |query| {
                push_by(query, index);
                set.push_has(query, "f");
                query.push(" AND ");
            }),
            Self::AmongNext(index, set) => {
                query.push(concat!("SELECT ", files::columns!("f.")));
                query.push(" FROM (SELECT f.rowid, f.id");
                push_next(query, filter, page, index, MANY);
                query.push(") next CROSS JOIN files f ON f.rowid = next.rowid WHERE ");
                set.push_has(query, "next");
                query.push(" AND ");
                push_conditions(query, filter, Ends::BOTH);
                query.push(" LIMIT ").push_bind(i64::from(page.limit));
            }
        }
    }
}

fn push_by(query: &mut QueryBuilder<Sqlite>, index: &str) {
    query.push(format_args!(" FROM files f INDEXED BY {index} WHERE "));
}

impl Set {
    /// Of those filters that have an index which is not the order's, and of values in metadata.
    pub(super) fn all(filter: &Filter, sort: Sort) -> Vec<Self> {
        let ranges = candidates(filter, sort).into_iter();
        let ranges = ranges.map(|(index, alone)| Self::Range(index, Box::new(alone)));
        let terms = Term::within(filter).into_iter().map(Self::Term);
        ranges.chain(terms).collect()
    }

    fn push_from(&self, query: &mut QueryBuilder<Sqlite>) {
        match self {
            Self::Range(index, alone) => {
                push_by(query, index);
                // That index has what is in the trash, and what is not, and does not tell them apart.
                if alone.sha256.is_some() {
                    push_tenant(query, alone);
                } else {
                    push_scope(query, alone);
                }
                push_ranges(query, alone, Ends::BOTH);
            }
            Self::Term(term) => term.push_from(query),
        }
    }

    /// Whether it has the row of this table: by what the indexes themselves have, the rowid, or the id that terms have.
    fn push_has(&self, query: &mut QueryBuilder<Sqlite>, table: &str) {
        query.push(match self {
            Self::Range(..) => format!("{table}.rowid IN (SELECT f.rowid"),
            Self::Term(_) => format!("{table}.id IN (SELECT t.file_id"),
        });
        self.push_from(query);
        query.push(")");
    }

    /// How many files it has; `most` stands for as many and more.
    async fn count(&self, conn: &mut SqliteConnection, most: i64) -> Result<i64> {
        limited_count(self.counted(), conn, most).await
    }

    /// For [`limited_count`].
    pub(super) fn counted(&self) -> QueryBuilder<Sqlite> {
        let mut query = QueryBuilder::new("SELECT COUNT(*) FROM (SELECT 1");
        self.push_from(&mut query);
        query
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

    fn push_from(&self, query: &mut QueryBuilder<Sqlite>) {
        query.push(" FROM file_terms t WHERE ");
        self.push_condition(query);
    }

    /// How many files have it; `most` stands for as many and more.
    async fn count(&self, conn: &mut SqliteConnection, most: i64) -> Result<i64> {
        let mut query = QueryBuilder::new("SELECT COUNT(*) FROM (SELECT 1");
        self.push_from(&mut query);
        limited_count(query, conn, most).await
    }

    /// The next files that have it, in the order of their creation.
    fn push_next(&self, query: &mut QueryBuilder<Sqlite>, filter: &Filter, page: &Page) {
        query.push("SELECT f.id FROM (SELECT t.created_at, t.file_id AS id");
        self.push_from(query);
        query.push(") f WHERE TRUE");
        push_next_created(query, filter, page, LIKELY);
    }

    fn push_condition(&self, query: &mut QueryBuilder<Sqlite>) {
        query.push("t.tenant = ").push_bind(self.tenant.clone());
        query.push(" AND t.key = ").push_bind(self.key.clone());
        query.push(" AND t.value = ");
        match &self.value {
            TermValue::Text(text) => query.push_bind(text.clone()),
            TermValue::Number(number) => query.push_bind(*number),
        };
    }
}

/// How to look for the files of one page at first.
pub(super) async fn at_first(
    conn: &mut SqliteConnection,
    filter: &Filter,
    page: &Page,
) -> Result<Access> {
    if is_by_terms(filter, page.sort)
        && let Some((term, files)) = rarest_term(conn, filter).await?
    {
        return Ok(match files {
            ..LEAST => Access::Found(Set::Term(term)),
            _ => Access::Having(term),
        });
    }
    let sets = Set::all(filter, page.sort);
    let crossed = !sets.is_empty();
    let fewest = fewest(conn, sets, LEAST).await?;
    Ok(match (fewest, by_order(filter, page.sort)) {
        (Some((set, _)), _) => Access::Found(set),
        // Where most files fit, the next ones are a page: to count on takes longer.
        (None, Some(index)) if crossed => Access::Near(index, 4 * i64::from(page.limit)),
        (None, Some(index)) => Access::Order(index),
        (None, None) => Access::Any,
    })
}

/// How else, where that did not give a whole page; None where it has shown that there is none.
pub(super) async fn next(
    conn: &mut SqliteConnection,
    filter: &Filter,
    page: &Page,
    access: Access,
) -> Result<Option<Access>> {
    match access {
        Access::Near(index, MANY..) => Ok(Some(of_far_page(conn, filter, page, index).await?)),
        Access::Near(..) | Access::Having(_) => Ok(Some(of_page(conn, filter, page).await?)),
        Access::AmongNext(_, set) => Ok(Some(Access::Found(set))),
        Access::Any | Access::Order(_) | Access::Found(_) | Access::Among(..) => Ok(None),
    }
}

/// How to find the files of one page, whatever the filter leaves.
pub(super) async fn of_page(
    conn: &mut SqliteConnection,
    filter: &Filter,
    page: &Page,
) -> Result<Access> {
    let fewest = fewest(conn, Set::all(filter, page.sort), MANY).await?;
    Ok(match (fewest, by_order(filter, page.sort)) {
        (Some((set, FEW..)), Some(index)) => Access::AmongNext(index, set),
        (Some((set, _)), _) => Access::Found(set),
        (None, Some(index)) => Access::Near(index, MANY),
        (None, None) => Access::Any,
    })
}

/// The set that has the fewest files, and how many; None if there are `most` and more in each.
async fn fewest(
    conn: &mut SqliteConnection,
    sets: Vec<Set>,
    most: i64,
) -> Result<Option<(Set, i64)>> {
    let mut fewest = None;
    let mut count = most;
    for set in sets {
        let found = set.count(conn, count).await?;
        if found < count {
            count = found;
            fewest = Some((set, found));
        }
    }
    Ok(fewest)
}

/// Of the values that the filter asks for the one that the fewest files have, and how many, as far as that is counted: at
/// least to [`LEAST`]. None if it asks for no value.
async fn rarest_term(conn: &mut SqliteConnection, filter: &Filter) -> Result<Option<(Term, i64)>> {
    let terms = Term::within(filter);
    // Of one, nothing but whether they are few is to be known.
    let mut count = if terms.len() > 1 { MANY } else { LEAST };
    let mut rarest = None;
    for term in terms {
        let found = term.count(conn, count).await?;
        if found < count || rarest.is_none() {
            count = found;
            rarest = Some((term, found));
        }
    }
    Ok(rarest)
}

/// How to find them once [`Access::Near`] has not found enough.
pub(super) async fn of_far_page(
    conn: &mut SqliteConnection,
    filter: &Filter,
    page: &Page,
    index: &'static str,
) -> Result<Access> {
    let mut query = QueryBuilder::new("SELECT COUNT(*) FROM (SELECT 1");
    push_by(&mut query, index);
    push_scope(&mut query, filter);
    let (own, names) = behind_start(&own_part(filter, page.sort), page);
    push_ranges(&mut query, &own, names);
    push_behind(&mut query, page);
    let left = limited_count(query, conn, MANY + 1).await?;
    let mut sets = Set::all(filter, page.sort).into_iter();
    Ok(match sets.next() {
        Some(set) if left > MANY => Access::Among(index, set),
        // It is the list's last page.
        _ => Access::Order(index),
    })
}

/// Whether a page may be read along the files that have a value in their metadata: these lie in the order of their
/// creation, and nothing is asked for that has an index of its own.
pub(super) fn is_by_terms(filter: &Filter, sort: Sort) -> bool {
    sort.by == SortBy::CreatedAt && !filter.trashed && candidates(filter, sort).is_empty()
}

/// Whether PostgreSQL's statistics may be wrong about which index finds a page sooner, the order's or the
/// filter's: they know little of JSON. An equal name or digest is sought by its index, whatever the order.
pub(super) fn is_unforeseen(filter: &Filter, sort: Sort) -> bool {
    (filter.metadata.as_ref()).is_some_and(|object| !object.is_empty())
        && by_order(filter, sort).is_some()
        && filter.name.is_none()
        && filter.sha256.is_none()
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

pub(super) fn by_order(filter: &Filter, sort: Sort) -> Option<&'static str> {
    match (sort.by, filter.trashed) {
        (SortBy::CreatedAt, false) if filter.has_types_by_creation() => {
            Some("files_by_content_type")
        }
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
    let in_order = filter.has_types_by_creation() && sort.by == SortBy::CreatedAt;
    if filter.content_type.is_some() && !in_order {
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

async fn limited_count(
    mut query: QueryBuilder<Sqlite>,
    conn: &mut SqliteConnection,
    most: i64,
) -> Result<i64> {
    query.push(" LIMIT ").push_bind(most).push(")");
    let count = query.build_query_scalar().fetch_one(conn).await?;
    Ok(count)
}
