//! Pages on PostgreSQL of files that have certain metadata.
//!
//! Its statistics know little of JSON, so that they choose wrongly between walking the order's index, passing
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

use super::conditions::{Ends, column, order, push_next};
use super::{Filter, Page, access, order_by, push_behind, push_conditions};

/// Files of the order that are looked at first, at least: twice a page, or as many as take no longer than
/// asking does.
const FIRST: i64 = 2_000;

/// A page that seems to be within as many times the first look is walked to, without asking how many files fit.
const NEAR: i64 = 10;

/// How many times as far the next look goes at most: what few files show is not to be relied on for long.
const STRIDE: i64 = 16;

/// To read a file takes as long as to pass over so many, whose entries in the index show that they don't fit.
const READ: i64 = 8;

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
        if fitting == 0 || away > first * NEAR {
            let most = next / READ;
            let rows = fetch(conn, patience, fitting_files(filter, page, most)).await?;
            if rows.first().is_none_or(|row| row.mark <= most) {
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

/// What fits of the next `look` files of the order; and, where that is no whole page, the file behind
/// them, marked with 1: it stands for the rest of the list.
fn next_files(filter: &Filter, page: &Page, look: i64) -> QueryBuilder<sqlx::Postgres> {
    let (_, direction) = order(page.sort.descending);
    let index = access::by_order(filter, page.sort).unwrap_or_default();
    let mut query = QueryBuilder::new(concat!("(SELECT ", files::columns!("f.")));
    // Nothing but what the index has, so that no file is read for this; and a limit, which keeps the planner from
    // asking within for what is asked outside.
    let column = column(page.sort.by);
    query.push(format_args!(
        ", CAST(0 AS BIGINT) AS mark FROM (SELECT next.id, next.{column} FROM ("
    ));
    push_next(
        &mut query,
        &format!("f.id, f.{column}, f.signature"),
        filter,
        page,
        index,
        look,
    );
    // What is wanted is a constant to the planner.
    query.push(") next WHERE next.signature & metadata_signature(");
    query.push_bind(Json(filter.metadata.clone()));
    query.push(") = metadata_signature(");
    query.push_bind(Json(filter.metadata.clone()));
    query.push(")) likely JOIN files f ON f.id = likely.id WHERE ");
    push_conditions(&mut query, filter, Ends::BOTH);
    query.push(format_args!(
        " ORDER BY likely.{column} {direction}, likely.id {direction} LIMIT "
    ));
    query.push_bind(i64::from(page.limit));
    // One part is read behind the other, and the second not at all where the first has what is wanted.
    query.push(concat!(
        ") UNION ALL (SELECT ",
        files::columns!("f."),
        ", CAST(1 AS BIGINT) FROM files f WHERE f.id = (SELECT f.id FROM ("
    ));
    push_next(
        &mut query,
        "f.id",
        filter,
        page,
        index,
        look.saturating_add(1),
    );
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
