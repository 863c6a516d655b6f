//! Pages whose filter is a range, and whose order is another, read off one index that has both.
//!
//! Some ranges consist of few values of something coarser: all that lies below a folder lies in a few folders, a kind
//! has a few types, and sizes between two are of a few classes. An index of that, and behind it of the order, has
//! the files of each value in order: a run. A page is made of the first files of all runs, and takes as long among a
//! million files as among a thousand.

use futures::TryFutureExt;
use serde::Deserialize;
use sqlx::QueryBuilder;
use sqlx::types::Json;

use crate::error::Result;
use crate::metadata::Conn;
use crate::metadata::dialect::{Dialect, Value, Values};
use crate::metadata::files::{self, File};
use crate::metadata::postgres::in_time;

use super::conditions::{
    Ends, after_prefix, behind_start, clamped, column, order, order_by, push_behind, push_ranges,
    push_scope,
};
use super::{ContentTypes, Filter, LEAST, Page, Sort, SortBy, packed};

/// A page of more runs than these costs more than what it saves: each is a look into the index.
const MOST: usize = 16;

/// The coarser values, as the indexes of migration 0015 have them.
const FOLDER: &str = "rtrim(f.name, replace(f.name, '/', ''))";
const SIZE_CLASS: &str =
    "(10 * length(CAST(f.size AS TEXT)) + CAST(substr(CAST(f.size AS TEXT), 1, 1) AS INTEGER))";

pub(super) struct Runs {
    index: &'static str,
    /// What the files of a run have in common, as SQL.
    value: &'static str,
    first: Run,
    /// Behind the last one; None: there is no end.
    end: Option<Run>,
    /// What is left to ask of a run's files. The index has that, too.
    left: Filter,
    /// Whether that passes over some of them: fewer than [`LEAST`] are better found by their sizes alone, and sorted.
    passes_over: bool,
}

/// What all files of a run have in common.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum Run {
    Number(i64),
    Text(String),
}

impl From<Run> for Value {
    fn from(run: Run) -> Self {
        match run {
            Run::Number(number) => Self::Number(number),
            Run::Text(text) => Self::Text(text),
        }
    }
}

/// One page; None where another way has to find it.
pub(super) async fn page(
    conn: &mut Conn<'_>,
    filter: &Filter,
    page: &Page,
) -> Result<Option<Vec<File>>> {
    let Some(runs) = Runs::of(filter, page.sort) else {
        return Ok(None);
    };
    let values = runs.values(conn).await?;
    if values.is_empty() || values.len() > MOST {
        return Ok(None);
    }
    let files = runs.files(conn, page, values).await?;
    // No index tells them. There may be others behind the page in their place; the worker removes them soon.
    let expired = files.iter().any(|file| file.has_expired(filter.now));
    Ok((!expired).then_some(files))
}

impl Runs {
    /// None if there are none for this order, or if more is asked for.
    pub(super) fn of(filter: &Filter, sort: Sort) -> Option<Self> {
        let Filter {
            tenant,
            trashed: false,
            now,
            prefix,
            name: None,
            content_type,
            metadata: None,
            min_size,
            max_size,
            created_after,
            created_before,
            updated_before: None,
            sha256: None,
        } = filter
        else {
            return None;
        };
        let sized = min_size.is_some() || max_size.is_some();
        let timed = created_after.is_some() || created_before.is_some();
        let left = Filter {
            min_size: *min_size,
            max_size: *max_size,
            created_after: *created_after,
            created_before: *created_before,
            ..Filter::new(tenant.clone(), *now)
        };
        let beginning = |index, value, prefix: &str, left| Self {
            index,
            value,
            first: Run::Text(prefix.to_owned()),
            end: after_prefix(prefix).map(Run::Text),
            left,
            passes_over: false,
        };
        let sizes = |index, left| Self {
            index,
            value: SIZE_CLASS,
            first: Run::Number(size_class(min_size.unwrap_or(0))),
            end: max_size.map(|max| Run::Number(size_class(max) + 1)),
            left,
            passes_over: true,
        };
        match (sort.by, prefix, content_type) {
            // Of another one, only some of the files in its last folder are wanted.
            (SortBy::CreatedAt, Some(prefix), None) if prefix.ends_with('/') && !sized => {
                Some(beginning("files_by_folder", FOLDER, prefix, left))
            }
            (SortBy::CreatedAt, None, Some(ContentTypes::Kind(kind))) if !sized => {
                let prefix = format!("{kind}/");
                let index = "files_by_content_type";
                Some(beginning(index, "f.content_type", &prefix, left))
            }
            (SortBy::CreatedAt, None, None) if sized => Some(sizes("files_by_size_class", left)),
            (SortBy::Name, prefix, None) if sized && !timed => {
                let prefix = prefix.clone();
                let left = Filter { prefix, ..left };
                Some(sizes("files_by_size_class_and_name", left))
            }
            _ => None,
        }
    }

    /// Those that there are, or one more than [`MOST`]; none if their files are too few among others.
    async fn values(&self, conn: &mut Conn<'_>) -> Result<Vec<Run>> {
        match conn {
            Conn::Sqlite(c) => {
                let mut query = QueryBuilder::new("");
                self.push_values(&mut query);
                query.push("SELECT json_group_array(run)");
                self.push_from_values(&mut query);
                packed::fetch(query, true, c.ready().await?).await
            }
            Conn::Postgres(c, patience) => {
                let mut query = QueryBuilder::new("");
                self.push_values(&mut query);
                query.push("SELECT to_jsonb(run)");
                self.push_from_values(&mut query);
                let rows = query.build_query_scalar().fetch_all(&mut **c).err_into();
                let rows: Vec<Json<Run>> = in_time(*patience, rows).await?;
                Ok(rows.into_iter().map(|Json(run)| run).collect())
            }
        }
    }

    /// A loose scan of the index: each step finds the next value. Makes the table `runs`.
    fn push_values<DB: Dialect>(&self, query: &mut QueryBuilder<DB>) {
        query.push("WITH RECURSIVE runs (run, step) AS (SELECT (");
        self.push_step(query);
        query.push(" >= ").push_value(self.first.clone());
        self.push_step_end(query);
        query.push("), 1 UNION ALL SELECT (");
        self.push_step(query);
        query.push(" > runs.run");
        self.push_step_end(query);
        query.push(format_args!(
            "), runs.step + 1 FROM runs WHERE runs.run IS NOT NULL AND runs.step <= {MOST}) "
        ));
    }

    fn push_from_values<DB: Dialect>(&self, query: &mut QueryBuilder<DB>) {
        query.push(" FROM runs WHERE run IS NOT NULL");
        if !self.passes_over {
            return;
        }
        let sizes = Filter {
            min_size: self.left.min_size,
            max_size: self.left.max_size,
            ..Filter::new(self.left.tenant.clone(), self.left.now)
        };
        query.push(" AND (SELECT COUNT(*) FROM (SELECT 1 FROM files f");
        query.push(DB::by_index("files_by_size")).push(" WHERE ");
        push_scope(query, &sizes);
        push_ranges(query, &sizes, Ends::BOTH);
        query.push(format_args!(" LIMIT {LEAST}) f) >= {LEAST}"));
    }

    fn push_step<DB: Dialect>(&self, query: &mut QueryBuilder<DB>) {
        query.push(format_args!("SELECT {} FROM files f", self.value));
        query.push(DB::by_index(self.index)).push(" WHERE ");
        push_scope(query, &self.left);
        query.push(format_args!(" AND {}", self.value));
    }

    fn push_step_end<DB: Dialect>(&self, query: &mut QueryBuilder<DB>) {
        if let Some(end) = &self.end {
            query.push(format_args!(" AND {} < ", self.value));
            query.push_value(end.clone());
        }
        query.push(format_args!(" ORDER BY {} LIMIT 1", self.value));
    }

    async fn files(&self, conn: &mut Conn<'_>, page: &Page, runs: Vec<Run>) -> Result<Vec<File>> {
        match conn {
            Conn::Sqlite(c) => {
                let push = |query: &mut QueryBuilder<_>| self.push_page(query, page, runs);
                packed::files(c.ready().await?, true, &self.left.tenant, push).await
            }
            Conn::Postgres(c, patience) => {
                let mut query = QueryBuilder::new("");
                self.push_page(&mut query, page, runs);
                let rows = query.build_query_as().fetch_all(&mut **c).err_into();
                let rows: Vec<files::Row> = in_time(*patience, rows).await?;
                rows.into_iter().map(File::try_from).collect()
            }
        }
    }

    /// The page, expired files too: all columns of each file.
    pub(super) fn push_page<DB: Dialect>(
        &self,
        query: &mut QueryBuilder<DB>,
        page: &Page,
        runs: Vec<Run>,
    ) {
        let column = column(page.sort.by);
        let (_, direction) = order(page.sort.descending);
        let limit = i64::from(page.limit);
        let order = order_by(page.sort);
        let (left, names) = behind_start(&self.left, page);
        query.push(concat!("SELECT ", files::columns!("f.")));
        query.push(" FROM (SELECT * FROM (");
        for (number, run) in runs.into_iter().enumerate() {
            if number > 0 {
                query.push(" UNION ALL ");
            }
            query.push(format_args!(
                "SELECT * FROM (SELECT f.id, f.{column} FROM files f"
            ));
            query.push(DB::by_index(self.index)).push(" WHERE ");
            push_scope(query, &left);
            query.push(format_args!(" AND {} = ", self.value));
            query.push_value(run);
            push_ranges(query, &left, names);
            push_behind(query, page);
            query.push(format_args!(" ORDER BY {order} LIMIT "));
            query.push_value(limit);
            query.push(format_args!(") run{number}"));
        }
        query.push(format_args!(
            ") runs ORDER BY {column} {direction}, id {direction} LIMIT "
        ));
        query.push_value(limit);
        query.push(format_args!(
            ") page JOIN files f ON f.id = page.id ORDER BY {order}"
        ));
    }
}

/// How many digits a size has, and the first of them.
fn size_class(size: u64) -> i64 {
    let size = clamped(size);
    let digits = size.checked_ilog10().unwrap_or(0);
    let first = size / 10_i64.pow(digits);
    i64::from(10 * (digits + 1)) + first
}

#[cfg(test)]
mod tests {
    use super::size_class;

    #[test]
    fn a_size_class_is_the_number_of_digits_and_the_first() {
        for (size, class) in [
            (0, 10),
            (1, 11),
            (9, 19),
            (10, 21),
            (99, 29),
            (5_000_000, 75),
            (5_999_999, 75),
            (6_000_000, 76),
            (u64::MAX, 199),
        ] {
            assert_eq!(size_class(size), class, "{size}");
        }
    }
}
