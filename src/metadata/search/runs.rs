//! Pages whose filter is a range of something else than the creation, which is their order, read off one index that has both.
//!
//! Some ranges consist of few values of something coarser: all names that begin alike lie in a few folders, a kind
//! has a few types, and sizes between two are of a few classes. An index of that, and behind it of the order, has
//! the files of each value in order: a run. A page is made of the first files of all runs, and takes as long among a
//! million files as among a thousand.
//!
//! Of the folder that a prefix ends in only some files are wanted, and the others are passed over.

use futures::TryFutureExt;
use sqlx::QueryBuilder;

use crate::error::Result;
use crate::metadata::Conn;
use crate::metadata::dialect::{Dialect, Value, Values};
use crate::metadata::files::{self, File};
use crate::metadata::postgres::in_time;

use super::conditions::{
    Ends, after_prefix, behind_start, clamped, order, order_by, push_beginning, push_behind,
    push_ranges, push_scope,
};
use super::{ContentTypes, Filter, LEAST, LIKELY, Page, Sort, SortBy, packed};

/// A page of more runs than these costs more than what it saves: each is a look into the index.
const MOST: i64 = 16;

/// What is coarser than what is asked for, as its index has it.
#[derive(Clone, Copy)]
enum Coarse {
    /// A name up to its first slash.
    TopFolder,
    /// Up to its last one.
    Folder,
    ContentType,
    SizeClass,
}

impl Coarse {
    const fn index(self) -> &'static str {
        match self {
            Self::TopFolder => "files_by_top_folder",
            Self::Folder => "files_by_folder",
            Self::ContentType => "files_by_content_type",
            Self::SizeClass => "files_by_size_class",
        }
    }

    fn sql<DB: Dialect>(self) -> String {
        match self {
            Self::TopFolder => format!("substr(f.name, 1, {})", DB::slash_in("f.name")),
            Self::Folder => "rtrim(f.name, replace(f.name, '/', ''))".to_owned(),
            Self::ContentType => "f.content_type".to_owned(),
            Self::SizeClass => "(10 * length(CAST(f.size AS TEXT)) + CAST(substr(CAST(f.size AS TEXT), 1, 1) AS INTEGER))".to_owned(),
        }
    }
}

pub(super) struct Runs {
    /// What the files of a run have in common.
    value: Coarse,
    first: Value,
    /// Behind the last one; None: there is no end.
    end: Option<Value>,
    /// What is left to ask of a run's files. The index has that, too.
    left: Filter,
    /// Whether that passes over some of them: fewer than [`LEAST`] are better found by their sizes alone, and sorted.
    passes_over: bool,
    within: Option<Within>,
}

/// A folder of whose own files those are wanted too whose names begin so.
struct Within {
    folder: String,
    prefix: String,
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
    let Some(most) = runs.count(conn).await? else {
        return Ok(None);
    };
    // The runs are found anew, so that a page is what one statement sees, and has a file that moves from one to another.
    let files = match conn {
        Conn::Sqlite(c) => {
            let push = |query: &mut QueryBuilder<_>| runs.push_page(query, page, most);
            packed::files(c.ready().await?, true, &filter.tenant, push).await?
        }
        Conn::Postgres(c, patience) => {
            let mut query = QueryBuilder::new("");
            runs.push_page(&mut query, page, most);
            let rows = query.build_query_as().fetch_all(&mut **c).err_into();
            let rows: Vec<files::Row> = in_time(*patience, rows).await?;
            rows.into_iter()
                .map(File::try_from)
                .collect::<Result<_>>()?
        }
    };
    // No index tells when they expire. Others may be behind the page in their place; the worker removes them soon.
    let expired = files.iter().any(|file| file.has_expired(filter.now));
    // Less may be all that there is, or the rest is behind what was looked at within a folder.
    let least = if runs.within.is_some() {
        page.limit as usize
    } else {
        1
    };
    Ok((!expired && files.len() >= least).then_some(files))
}

impl Runs {
    /// None if there are none for this order, or if more is asked for.
    pub(super) fn of(filter: &Filter, sort: Sort) -> Option<Self> {
        if sort.by != SortBy::CreatedAt {
            return None;
        }
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
        let left = Filter {
            min_size: *min_size,
            max_size: *max_size,
            created_after: *created_after,
            created_before: *created_before,
            ..Filter::new(tenant.clone(), *now)
        };
        let runs = |value: Coarse, first, end, left| Self {
            value,
            first,
            end,
            left,
            passes_over: false,
            within: None,
        };
        let beginning = |value, prefix: &str, left| {
            let first = Value::Text(prefix.to_owned());
            runs(value, first, after_prefix(prefix).map(Value::Text), left)
        };
        let sizes = |left| {
            let first = Value::Number(size_class(min_size.unwrap_or(0)));
            let end = max_size.map(|max| Value::Number(size_class(max) + 1));
            Self {
                passes_over: true,
                ..runs(Coarse::SizeClass, first, end, left)
            }
        };
        match (prefix, content_type) {
            (Some(prefix), None) if !prefix.is_empty() && !sized => {
                let slashes = |text: &str| text.matches('/').count();
                let name = prefix.rfind('/').map_or(0, |slash| slash + 1);
                let (folder, begun) = prefix.split_at(name);
                let value = match slashes(folder) {
                    0 => Coarse::TopFolder,
                    1 if begun.is_empty() => Coarse::TopFolder,
                    _ => Coarse::Folder,
                };
                let within = (!begun.is_empty()).then(|| Within {
                    folder: folder.to_owned(),
                    prefix: prefix.clone(),
                });
                Some(Self {
                    within,
                    ..beginning(value, prefix, left)
                })
            }
            (None, Some(ContentTypes::Kind(kind))) if !sized => {
                Some(beginning(Coarse::ContentType, &format!("{kind}/"), left))
            }
            (None, None) if sized => Some(sizes(left)),
            _ => None,
        }
    }

    /// How many there are. None where there are too many, or none and nothing beside them, or too few files among the others
    /// of theirs.
    async fn count(&self, conn: &mut Conn<'_>) -> Result<Option<i64>> {
        let count: i64 = match conn {
            Conn::Sqlite(c) => {
                let mut query = self.counted();
                let count = query.build_query_scalar().fetch_one(c.ready().await?);
                count.await?
            }
            Conn::Postgres(c, patience) => {
                let mut query = self.counted();
                let count = query.build_query_scalar().fetch_one(&mut **c);
                in_time(*patience, count.err_into()).await?
            }
        };
        let least = if self.within.is_some() { 0 } else { 1 };
        Ok((least..=MOST).contains(&count).then_some(count))
    }

    fn counted<DB: Dialect>(&self) -> QueryBuilder<DB> {
        let mut query = QueryBuilder::new("");
        self.push_runs(&mut query, MOST);
        query.push("SELECT COUNT(value) FROM steps");
        if self.passes_over {
            let sizes = Filter {
                min_size: self.left.min_size,
                max_size: self.left.max_size,
                ..Filter::new(self.left.tenant.clone(), self.left.now)
            };
            query.push(" WHERE (SELECT COUNT(*) FROM (SELECT 1 FROM files f");
            query.push(DB::by_index("files_by_size")).push(" WHERE ");
            push_scope(&mut query, &sizes);
            push_ranges(&mut query, &sizes, Ends::BOTH);
            query.push(format_args!(" LIMIT {LEAST}) f) >= {LEAST}"));
        }
        query
    }

    /// The page, expired files too, all columns of each; nothing at all where there are more runs than `most`. Less than
    /// the page where it would go on behind what is looked at within a folder.
    pub(super) fn push_page<DB: Dialect>(
        &self,
        query: &mut QueryBuilder<DB>,
        page: &Page,
        most: i64,
    ) {
        let (_, direction) = order(page.sort.descending);
        self.push_runs(query, most);
        query.push(concat!("SELECT ", files::columns!("f.")));
        query.push(" FROM (SELECT * FROM (");
        let mut between = "";
        for number in 1..=most {
            query.push(between).push("SELECT * FROM (");
            self.push_run(query, number, page);
            query.push(format_args!(") run{number}"));
            between = " UNION ALL ";
        }
        if let Some(within) = &self.within {
            query.push(between).push("SELECT * FROM (");
            self.push_within(query, within, page, most);
            query.push(") within UNION ALL SELECT * FROM (");
            self.push_end_of_within(query, within, page, most);
            query.push(") ended");
        }
        query.push(format_args!(
            ") ahead ORDER BY created_at {direction}, id {direction} LIMIT "
        ));
        query.push_value(i64::from(page.limit));
        query.push(format_args!(
            ") page JOIN files f ON f.id = page.id WHERE page.fits = 1 ORDER BY {}",
            order_by(page.sort)
        ));
    }

    /// Makes the table `runs`: what the files of each have in common, and its number, from 1. It is empty if there are
    /// more than `most`.
    fn push_runs<DB: Dialect>(&self, query: &mut QueryBuilder<DB>, most: i64) {
        // A loose scan of the index: each step finds the next value, and one more shows that there are too many.
        query.push("WITH RECURSIVE steps (value, number) AS (SELECT (");
        self.push_step(query);
        query.push(" >= ").push_value(self.first.clone());
        self.push_step_end(query);
        query.push("), 1 UNION ALL SELECT (");
        self.push_step(query);
        query.push(" > steps.value");
        self.push_step_end(query);
        query.push(format_args!(
            "), steps.number + 1 FROM steps WHERE steps.value IS NOT NULL AND steps.number <= {most}),
            runs (value, number) AS MATERIALIZED (
                SELECT value, number FROM steps
                WHERE value IS NOT NULL AND (SELECT COUNT(value) FROM steps) <= {most}) "
        ));
    }

    fn push_step<DB: Dialect>(&self, query: &mut QueryBuilder<DB>) {
        let value = self.value.sql::<DB>();
        query.push(format_args!("SELECT {value} FROM files f"));
        query.push(DB::by_index(self.value.index())).push(" WHERE ");
        push_scope(query, &self.left);
        query.push(format_args!(" AND {value}"));
    }

    fn push_step_end<DB: Dialect>(&self, query: &mut QueryBuilder<DB>) {
        let value = self.value.sql::<DB>();
        if let Some(end) = &self.end {
            query.push(format_args!(" AND {value} < "));
            query.push_value(end.clone());
        }
        query.push(format_args!(" ORDER BY {value} LIMIT 1"));
    }

    /// The first files of one run.
    fn push_run<DB: Dialect>(&self, query: &mut QueryBuilder<DB>, number: i64, page: &Page) {
        query.push("SELECT f.id, f.created_at, 1 AS fits");
        self.push_files(query);
        query.push(format_args!(
            " = (SELECT value FROM runs WHERE number = {number})"
        ));
        self.push_next(query, page, i64::from(page.limit));
    }

    /// What begins so of the next [`LIKELY`] files of a folder.
    fn push_within<DB: Dialect>(
        &self,
        query: &mut QueryBuilder<DB>,
        within: &Within,
        page: &Page,
        most: i64,
    ) {
        query.push("SELECT f.id, f.created_at, 1 AS fits FROM (");
        self.push_looked_at(query, within, page, most);
        query.push(") f WHERE TRUE");
        push_beginning(query, "f.name", &within.prefix, Ends::BOTH);
        query.push(format_args!(" ORDER BY {} LIMIT ", order_by(page.sort)));
        query.push_value(i64::from(page.limit));
    }

    /// The last one of these, if there may be more behind it.
    fn push_end_of_within<DB: Dialect>(
        &self,
        query: &mut QueryBuilder<DB>,
        within: &Within,
        page: &Page,
        most: i64,
    ) {
        query.push("SELECT f.id, f.created_at, 0 AS fits FROM (");
        self.push_looked_at(query, within, page, most);
        query.push(format_args!(
            ") f ORDER BY {} LIMIT 1 OFFSET {}",
            order_by(page.sort),
            LIKELY - 1
        ));
    }

    fn push_looked_at<DB: Dialect>(
        &self,
        query: &mut QueryBuilder<DB>,
        within: &Within,
        page: &Page,
        most: i64,
    ) {
        query.push("SELECT f.id, f.created_at, f.name");
        self.push_files(query);
        query.push(" = ").push_value(within.folder.clone());
        // Else runs are missing that lie between these.
        query.push(format_args!(
            " AND (SELECT COUNT(value) FROM steps) <= {most}"
        ));
        self.push_next(query, page, LIKELY);
    }

    /// ` FROM … WHERE …`, up to what they have in common.
    fn push_files<DB: Dialect>(&self, query: &mut QueryBuilder<DB>) {
        query.push(" FROM files f");
        query.push(DB::by_index(self.value.index())).push(" WHERE ");
        push_scope(query, &self.left);
        query.push(format_args!(" AND {}", self.value.sql::<DB>()));
    }

    /// The rest of it: as many, behind the start of the page, and in its order.
    fn push_next<DB: Dialect>(&self, query: &mut QueryBuilder<DB>, page: &Page, files: i64) {
        let (left, names) = behind_start(&self.left, page);
        push_ranges(query, &left, names);
        push_behind(query, page);
        query.push(format_args!(" ORDER BY {} LIMIT ", order_by(page.sort)));
        query.push_value(files);
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
