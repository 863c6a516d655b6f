//! Pages as SQLite gives them: one row, a JSON array of all files.
//!
//! sqlx hands rows to another thread one at a time, and whoever waits for them is woken for each: for
//! a page of 100 that took longer than all else. A page in one row is one hop.

use serde::Deserialize;
use sqlx::{QueryBuilder, Sqlite};

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{FileId, ObjectId, Tenant};
use crate::metadata::files::{File, Metadata};
use crate::metadata::objects::{digest, unsigned};

use super::access;
use super::{After, Filter, Page, push_walk};

/// A file, in the order of [`file_array`].
#[derive(Deserialize)]
pub(super) struct Packed(
    FileId,
    String,
    String,
    i64,
    Option<String>,
    // JSON in a string, so that no number in it goes through SQLite's hands.
    String,
    i64,
    i64,
    ObjectId,
    i64,
    i64,
    Option<i64>,
    Option<i64>,
    String,
    Option<i64>,
    Option<String>,
    Option<i64>,
    // A truth value is a number here.
    i64,
);

/// SQL for one file's array. The tenant is known to who asks.
macro_rules! file_array {
    () => {
        "json_array(hex(id), name, content_type, size, nullif(hex(sha256), ''), metadata, version, revision,
            hex(object_id), created_at, updated_at, expires_at, trashed_at, created_by, content_at, content_by,
            retention_until, legal_hold)"
    };
}

/// A page of files.
pub(super) async fn page(
    conn: &mut sqlx::SqliteConnection,
    filter: &Filter,
    page: &Page,
    persistent: bool,
) -> Result<Vec<File>> {
    let mut access = access::at_first(conn, filter, page).await?;
    loop {
        let push = |query: &mut QueryBuilder<Sqlite>| access.push_page(query, filter, page);
        let found = files(conn, persistent, &filter.tenant, push).await?;
        if found.len() == page.limit as usize {
            return Ok(found);
        }
        // There may be more than this way was to find.
        let Some(next) = access::next(conn, filter, page, access).await? else {
            return Ok(found);
        };
        access = next;
    }
}

/// The files that a query gives, all columns of each, in its order.
pub(super) async fn files(
    conn: &mut sqlx::SqliteConnection,
    persistent: bool,
    tenant: &Tenant,
    push: impl FnOnce(&mut QueryBuilder<Sqlite>),
) -> Result<Vec<File>> {
    let files: Vec<Packed> = fetch(list(push), persistent, conn).await?;
    files.into_iter().map(|file| file.unpack(tenant)).collect()
}

pub(super) fn list(push: impl FnOnce(&mut QueryBuilder<Sqlite>)) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new(concat!(
        "SELECT json_group_array(",
        file_array!(),
        // SQLite keeps the order of what has a limit, and gathers in it.
        ") FROM ("
    ));
    push(&mut query);
    query.push(")");
    query
}

/// The entries of a folder, each with its step.
pub(super) fn folder(
    filter: &Filter,
    descending: bool,
    after: Option<&After>,
    limit: u32,
) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new("");
    push_walk(&mut query, filter, descending, after, limit);
    query.push(concat!(
        "SELECT json_group_array(json_array(step, folder, bound, hex(bound_id), ",
        file_array!(),
        ")) FROM (SELECT walk.step, walk.folder, walk.bound, walk.bound_id, f.*
         FROM walk JOIN files f ON f.id = walk.id)"
    ));
    query
}

impl Packed {
    pub(super) fn unpack(self, tenant: &Tenant) -> Result<File> {
        let sha256 = match self.4 {
            Some(hexadecimal) => Some(digest(hex::decode(hexadecimal).map_err(Error::internal)?)?),
            None => None,
        };
        let metadata: Metadata = serde_json::from_str(&self.5).map_err(Error::internal)?;
        Ok(File {
            id: self.0,
            tenant: tenant.clone(),
            name: self.1,
            content_type: self.2,
            size: unsigned(self.3)?,
            sha256,
            metadata,
            version: self.6,
            revision: self.7,
            object_id: self.8,
            created_at: Timestamp::from_micros(self.9),
            updated_at: Timestamp::from_micros(self.10),
            expires_at: self.11.map(Timestamp::from_micros),
            trashed_at: self.12.map(Timestamp::from_micros),
            created_by: self.13,
            content_at: self.14.map(Timestamp::from_micros),
            content_by: self.15,
            retention_until: self.16.map(Timestamp::from_micros),
            legal_hold: self.17 != 0,
        })
    }
}

/// The items of the one array that the query gives.
pub(super) async fn fetch<T: serde::de::DeserializeOwned>(
    mut query: QueryBuilder<Sqlite>,
    persistent: bool,
    conn: &mut sqlx::SqliteConnection,
) -> Result<Vec<T>> {
    let page: String = query
        .build_query_scalar()
        .persistent(persistent)
        .fetch_one(conn)
        .await?;
    serde_json::from_str(&page).map_err(Error::internal)
}
