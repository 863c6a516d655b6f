//! `/v1/files/{id}/versions`: what a file's content was. The bytes themselves are in `content`.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use crate::app::App;
use crate::error::{Error, Result};

use super::extract::{Acting, PathId, PathVersion, Query};
use super::files::with_revision;
use super::guard::Who;
use super::{list, types};

/// List a file's contents
///
/// The current one, and the earlier ones that are kept, the newest first.
#[utoipa::path(
    get, path = "/v1/files/{id}/versions", tag = "files",
    params(
        ("id" = String, Path, description = "The file's id"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Items of a page; 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of versions", body = types::VersionPage)),
)]
pub(super) async fn list(
    State(app): State<App>,
    Who(principal): Who,
    PathId(id): PathId,
    uri: Uri,
) -> Result<Json<types::VersionPage>> {
    let mut query = Query::read(&uri, &["limit", "cursor"])?;
    let limit = list::limit(&mut query)?;
    let below = query.parse("cursor", "the next_cursor of a page", |text| {
        text.parse::<i64>().ok().filter(|version| *version > 0)
    })?;
    let mut listed = app
        .domain
        .version_list(&principal.tenant, id, below, limit + 1)
        .await?
        .ok_or_else(Error::not_found)?;
    let more = listed.len() > limit as usize;
    listed.truncate(limit as usize);
    let next_cursor = listed
        .last()
        .filter(|_| more)
        .map(|last| last.version.to_string());
    Ok(Json(types::VersionPage {
        items: listed.into_iter().map(types::Version::from).collect(),
        next_cursor,
    }))
}

/// Restore an earlier content
///
/// It becomes the current one as a new version. The current one's number changes nothing.
#[utoipa::path(
    post, path = "/v1/files/{id}/versions/{version}/restore", tag = "files",
    params(
        ("id" = String, Path, description = "The file's id"),
        ("version" = i64, Path, description = "Which content"),
    ),
    responses((status = 200, description = "The file as it is now", body = types::File,
        headers(("ETag" = String, description = "The revision, in quotes")))),
)]
pub(super) async fn restore(
    State(app): State<App>,
    Acting(caller): Acting,
    PathVersion(id, version): PathVersion,
    uri: Uri,
) -> Result<Response> {
    Query::read(&uri, &[])?;
    let file = app.domain.version_restore(&caller, id, version).await?;
    Ok(with_revision(file))
}
