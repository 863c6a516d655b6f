//! Pages on PostgreSQL of files that have certain metadata.
//!
//! A term stands for each value, and has its files in the order of their creation: few of them are all found, and a page in
//! that order is read along them.
//!
//! In other orders, its statistics know little of JSON, so that they choose wrongly between walking the order's index, passing
//! over what does not fit, and finding by the filter's index all that fits, to sort it. Either may then read as
//! many files as there are. So each gets a budget, which what the walk shows sets: neither reads much more
//! than the better one had to.

use std::time::Duration;

use futures::TryFutureExt;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, QueryBuilder};

use crate::error::Result;
use crate::metadata::files::{self, File};
use crate::metadata::postgres::in_time;

use super::conditions::{Ends, column, order, push_next, push_next_created};
use super::{Filter, LEAST, LIKELY, Page, access, order_by, push_behind, push_conditions};

/// Files of the order that are looked at first, at least: twice a page.
const FIRST: i64 = 200;

/// A page that seems to be within as many times the first look is walked to, without asking how many files fit.
const NEAR: i64 = 80;

/// The same after the first look, when asking is cheap: of no more than [`STRIDE`] times as many files.
const NEAR_AT_FIRST: i64 = 8;

/// How many times as far the next look goes at most, and how many files may fit before it: what few files show
/// is not to be relied on for long.
const STRIDE: i64 = 16;

/// The values of a filter that are looked at, and how far their files are counted to find the rarest.
const TERMS: i64 = 8;
const COMPARED: i64 = 20_000;

#[derive(FromRow)]
struct Row {
    #[sqlx(flatten)]
    file: files::Row,
    mark: i64,
}

/// One page. Each is what one statement sees.
pub(super) async fn page(
    conn: &mut PgConnection,
    patience: Duration,
    filter: &Filter,
    page: &Page,
) -> Result<Vec<File>> {
    match rarest_term(conn, patience, filter).await? {
        Some((_, ..LEAST)) => {
            let rows = fetch(conn, patience, fitting_files(filter, page, LEAST)).await?;
            if rows.first().is_none_or(|row| row.mark <= LEAST) {
                return unmarked(rows);
            }
        }
        Some((term, _)) if access::is_by_terms(filter, page.sort) => {
            let rows = fetch(conn, patience, files_with(term, filter, page)).await?;
            if rows.len() == page.limit as usize {
                return unmarked(rows);
            }
        }
        _ => {}
    }
    page_within_budget(conn, patience, filter, page).await
}

/// Of the values that the filter asks for the one that the fewest files have, and how many, as far as that is counted: at least
/// to [`LEAST`]. None if it asks for no value.
async fn rarest_term(
    conn: &mut PgConnection,
    patience: Duration,
    filter: &Filter,
) -> Result<Option<(i64, i64)>> {
    let query = sqlx::query_as(
        "SELECT wanted.term, (SELECT COUNT(*) FROM (
             SELECT 1 FROM file_terms t WHERE t.term = wanted.term
             -- Of one, nothing but whether they are few is to be known.
             LIMIT CASE wanted.terms WHEN 1 THEN $3 ELSE $4 END) t) AS files
         FROM (SELECT term, COUNT(*) OVER () AS terms
               FROM (SELECT DISTINCT term FROM metadata_terms($1, $2) AS term LIMIT $5) wanted) wanted
         ORDER BY files LIMIT 1",
    );
    let query = query
        .bind(&filter.tenant)
        .bind(Json(filter.metadata.as_ref()))
        .bind(LEAST)
        .bind(COMPARED)
        .bind(TERMS);
    in_time(patience, query.fetch_optional(conn).err_into()).await
}

async fn page_within_budget(
    conn: &mut PgConnection,
    patience: Duration,
    filter: &Filter,
    page: &Page,
) -> Result<Vec<File>> {
    let limit = i64::from(page.limit);
    let first = FIRST.max(limit.saturating_mul(2));
    let mut look = first;
    loop {
        let mut rows = fetch(conn, patience, next_files(filter, page, look)).await?;
        let ended = rows.pop_if(|last| last.mark > 0).is_none();
        if ended || rows.len() >= page.limit as usize {
            return unmarked(rows);
        }
        let fitting = rows.len() as i64;
        // So many make a page, if it goes on like this.
        let away = look.saturating_mul(limit) / fitting.max(1);
        let next = away.saturating_mul(2).min(look.saturating_mul(STRIDE));
        let near = if look == first { NEAR_AT_FIRST } else { NEAR };
        if fitting == 0 || away > first * near {
            let rows = fetch(conn, patience, fitting_files(filter, page, next)).await?;
            if rows.first().is_none_or(|row| row.mark <= next) {
                return unmarked(rows);
            }
        }
        look = next;
    }
}

async fn fetch(
    conn: &mut PgConnection,
    patience: Duration,
    mut query: QueryBuilder<sqlx::Postgres>,
) -> Result<Vec<Row>> {
    // The best plan depends on the values: it is made anew.
    let rows = query.build_query_as().persistent(false).fetch_all(conn);
    in_time(patience, rows.err_into()).await
}

fn unmarked(rows: Vec<Row>) -> Result<Vec<File>> {
    rows.into_iter()
        .map(|row| File::try_from(row.file))
        .collect()
}

/// What fits of the next [`LIKELY`] files that have a value, in the order of their creation.
fn files_with(term: i64, filter: &Filter, page: &Page) -> QueryBuilder<sqlx::Postgres> {
    let (_, direction) = order(page.sort.descending);
    let mut query = QueryBuilder::new(concat!("SELECT ", files::columns!("f.")));
    query.push(", CAST(0 AS BIGINT) AS mark FROM (");
    query.push("SELECT f.id, f.created_at FROM (SELECT t.created_at, t.file_id AS id FROM file_terms t WHERE t.term = ");
    query.push_bind(term).push(") f WHERE TRUE");
    push_next_created(&mut query, filter, page, LIKELY);
    // Each by its id: the offset keeps the planner from finding by their metadata all that fit.
    query.push(") likely CROSS JOIN LATERAL (SELECT f.* FROM files f WHERE f.id = likely.id OFFSET 0) f WHERE ");
    push_conditions(&mut query, filter, Ends::BOTH);
    query.push(format_args!(
        " ORDER BY likely.created_at {direction}, likely.id {direction} LIMIT "
    ));
    query.push_bind(i64::from(page.limit));
    query
}

/// What fits of the next `look` files of the order; and, where that is no whole page, the file behind
/// them, marked with 1: it stands for the rest of the list.
fn next_files(filter: &Filter, page: &Page, look: i64) -> QueryBuilder<sqlx::Postgres> {
    let order = order_by(page.sort);
    let index = access::by_order(filter, page.sort).unwrap_or_default();
    let mut query = QueryBuilder::new(concat!("(SELECT ", files::columns!("f.")));
    query.push(", CAST(0 AS BIGINT) AS mark FROM (SELECT f.*");
    // The limit keeps the planner from asking within for what is asked outside.
    push_next(&mut query, filter, page, index, look);
    query.push(") f WHERE ");
    push_conditions(&mut query, filter, Ends::BOTH);
    query.push(format_args!(" ORDER BY {order} LIMIT "));
    query.push_bind(i64::from(page.limit));
    // One part is read behind the other, and the second not at all where the first has what is wanted.
    query.push(concat!(
        ") UNION ALL (SELECT ",
        files::columns!("f."),
        ", CAST(1 AS BIGINT) FROM files f WHERE f.id = (SELECT f.id FROM (SELECT f.*"
    ));
    push_next(&mut query, filter, page, index, look.saturating_add(1));
    query.push(") f OFFSET ").push_bind(look);
    query.push(")) LIMIT ").push_bind(i64::from(page.limit));
    query
}

/// The page out of all that fits, each file marked with how many these are: `most`, and one more, stand
/// for more of them, and then this is no page.
fn fitting_files(filter: &Filter, page: &Page, most: i64) -> QueryBuilder<sqlx::Postgres> {
    let order = order_by(page.sort);
    let column = column(page.sort.by);
    // It is planned as if all of it were wanted, without a thought of the order.
    let mut query = QueryBuilder::new(format!(
        "WITH fitting AS MATERIALIZED (SELECT f.id, f.{column} FROM files f WHERE "
    ));
    push_conditions(&mut query, filter, Ends::BOTH);
    push_behind(&mut query, page);
    query.push(format_args!(
        "), page AS (SELECT f.id, count(*) OVER () AS mark FROM (SELECT * FROM fitting LIMIT "
    ));
    query.push_bind(most.saturating_add(1));
    query.push(format_args!(") f ORDER BY {order} LIMIT "));
    query.push_bind(i64::from(page.limit));
    query.push(concat!(") SELECT ", files::columns!("f."), ", page.mark"));
    query.push(format_args!(
        " FROM page JOIN files f ON f.id = page.id ORDER BY {order}"
    ));
    query
}
