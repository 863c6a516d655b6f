//! `/v1/files`: list, fetch and delete. Uploads and contents have modules of their own.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, ETAG, LAST_MODIFIED};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::clock::Timestamp;
use crate::domain::files::{After, File, Filter, Sort, SortBy, text_fault};
use crate::error::{Error, Kind, Result};
use crate::id::FileId;

use super::conditional::{self, Outcome, Validators};
use super::extract::{Acting, PathId, Query};
use super::guard::Who;
use super::types;

/// Items of a page, unless the query says otherwise, and at most.
const LIMIT: u32 = 100;
const MOST: u32 = 1000;

/// List files
///
/// By keyset pages: files that come and go meanwhile make no other file come twice or be left out.
#[utoipa::path(
    get, path = "/v1/files", tag = "files",
    params(
        ("prefix" = Option<String>, Query, description = "The first bytes of the name"),
        ("trashed" = Option<bool>, Query, description = "`true`: only what is in the trash; else only what is not"),
        ("sort" = Option<String>, Query, description = "`created_at` or `name`; `-` before it for descending; by default `-created_at`"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Items of a page; 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, with the same `sort`"),
    ),
    responses((status = 200, description = "A page of files", body = types::FilePage)),
)]
pub(super) async fn list(
    State(app): State<App>,
    Who(principal): Who,
    uri: Uri,
) -> Result<Json<types::FilePage>> {
    let mut query = Query::read(&uri, &["prefix", "trashed", "sort", "limit", "cursor"])?;
    let prefix = query.take("prefix");
    if let Some(fault) = prefix.as_deref().and_then(text_fault) {
        return Err(Error::invalid("/prefix", fault));
    }
    let trashed = query.flag("trashed")?;
    let sort = query
        .parse(
            "sort",
            "created_at or name, or - and one of them",
            read_sort,
        )?
        .unwrap_or(Sort {
            by: SortBy::CreatedAt,
            descending: true,
        });
    let limit = query
        .parse("limit", "a number from 1 to 1000", |text| {
            text.parse().ok().filter(|limit| (1..=MOST).contains(limit))
        })?
        .unwrap_or(LIMIT);
    let after = query.parse(
        "cursor",
        "the next_cursor of a page that was sorted alike",
        |text| Cursor::read(text, sort),
    )?;

    let mut files = app
        .domain
        .file_list(&Filter {
            tenant: principal.tenant.clone(),
            trashed,
            now: app.domain.clock.now(),
            prefix,
            sort,
            after,
            // One more tells whether there is another page.
            limit: limit + 1,
        })
        .await?;
    let more = files.len() > limit as usize;
    files.truncate(limit as usize);
    let next_cursor = files
        .last()
        .filter(|_| more)
        .map(|last| Cursor::of(last, sort).write());
    Ok(Json(types::FilePage {
        items: files.into_iter().map(types::File::from).collect(),
        next_cursor,
    }))
}

/// Fetch a file's properties
///
/// A file in the trash has them too.
#[utoipa::path(
    get, path = "/v1/files/{id}", tag = "files",
    params(("id" = String, Path, description = "The file's id")),
    responses(
        (status = 200, description = "The file", body = types::File,
            headers(("ETag" = String, description = "The revision, in quotes"))),
        (status = 304, description = "The file is still as `If-None-Match` says"),
    ),
)]
pub(super) async fn get(
    State(app): State<App>,
    Who(principal): Who,
    PathId(id): PathId,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    Query::read(&uri, &[])?;
    let file = app
        .domain
        .file_get(&principal.tenant, id)
        .await?
        .ok_or_else(Error::not_found)?;
    let validators = Validators {
        etag: revision_tag(&file),
        last_modified: file.updated_at,
    };
    let fields = [
        (ETAG, validators.etag.clone()),
        (LAST_MODIFIED, conditional::http_date(file.updated_at)),
        (CACHE_CONTROL, "private, no-cache".to_owned()),
    ];
    match conditional::evaluate(&headers, &Method::GET, &validators) {
        Outcome::Proceed => Ok((fields, Json(types::File::from(file))).into_response()),
        Outcome::NotModified => Ok((StatusCode::NOT_MODIFIED, fields).into_response()),
        Outcome::PreconditionFailed => Err(precondition_failed()),
    }
}

/// Delete a file
///
/// It goes to the trash, or for good with `permanent=true` or where the trash is turned off. A file
/// that is in the trash already stays there.
#[utoipa::path(
    delete, path = "/v1/files/{id}", tag = "files",
    params(
        ("id" = String, Path, description = "The file's id"),
        ("permanent" = Option<bool>, Query, description = "`true`: for good"),
        ("If-Match" = Option<String>, Header, description = "The revision that is meant, in quotes"),
    ),
    responses((status = 204, description = "It is deleted")),
)]
pub(super) async fn delete(
    State(app): State<App>,
    Acting(caller): Acting,
    PathId(id): PathId,
    uri: Uri,
    headers: HeaderMap,
) -> Result<StatusCode> {
    let permanent = Query::read(&uri, &["permanent"])?.flag("permanent")?;
    let precondition =
        Arc::new(move |file: &File| conditional::if_match(&headers, &revision_tag(file)));
    app.domain
        .file_delete(&caller, id, permanent, precondition)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn precondition_failed() -> Error {
    Error::new(
        Kind::PreconditionFailed,
        "The file is not in the state that the request names.",
    )
}

fn revision_tag(file: &File) -> String {
    format!("\"{}\"", file.revision)
}

fn read_sort(text: &str) -> Option<Sort> {
    let (by, descending) = match text.strip_prefix('-') {
        Some(by) => (by, true),
        None => (text, false),
    };
    let by = match by {
        "created_at" => SortBy::CreatedAt,
        "name" => SortBy::Name,
        _ => return None,
    };
    Some(Sort { by, descending })
}

/// Where a page ended. Opaque to clients: base64url of this as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    descending: bool,
    id: FileId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl Cursor {
    fn of(file: &File, sort: Sort) -> Self {
        let by = |wanted| sort.by == wanted;
        Self {
            descending: sort.descending,
            id: file.id,
            created_at: by(SortBy::CreatedAt).then_some(file.created_at),
            name: by(SortBy::Name).then(|| file.name.clone()),
        }
    }

    fn write(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        URL_SAFE_NO_PAD.encode(text)
    }

    /// None for what this service did not write for a list in this order.
    fn read(text: &str, sort: Sort) -> Option<After> {
        let text = URL_SAFE_NO_PAD.decode(text).ok()?;
        let cursor: Self = serde_json::from_slice(&text).ok()?;
        if cursor.descending != sort.descending {
            return None;
        }
        match (sort.by, cursor.created_at, cursor.name) {
            (SortBy::CreatedAt, Some(at), None) => Some(After::CreatedAt(at, cursor.id)),
            (SortBy::Name, None, Some(name)) if text_fault(&name).is_none() => {
                Some(After::Name(name, cursor.id))
            }
            _ => None,
        }
    }
}
