//! `/v1/uploads`: uploads that are in progress, however their bytes come.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};

use crate::app::App;
use crate::error::{Error, Result};
use crate::id::UploadId;

use super::extract::{Acting, PathId, Query};
use super::guard::Who;
use super::imports::{behind, cursor};
use super::list::limit;
use super::types;

/// List uploads
///
/// Those in progress, the newest first.
#[utoipa::path(
    get, path = "/v1/uploads", tag = "uploads",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Uploads of a page; 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of uploads", body = types::UploadPage)),
)]
pub(super) async fn list(
    State(app): State<App>,
    Who(principal): Who,
    uri: Uri,
) -> Result<Json<types::UploadPage>> {
    let mut query = Query::read(&uri, &["limit", "cursor"])?;
    let limit = limit(&mut query)?;
    let before = cursor::<UploadId>(&mut query)?;
    let tenant = &principal.tenant;
    let mut uploads = app.domain.upload_list(tenant, before, limit + 1).await?;
    let more = uploads.len() > limit as usize;
    uploads.truncate(limit as usize);
    let next_cursor = uploads.last().filter(|_| more).map(|last| behind(last.id));
    Ok(Json(types::UploadPage {
        items: uploads.into_iter().map(types::Upload::from).collect(),
        next_cursor,
    }))
}

/// Fetch an upload
///
/// Until it expires, also once it has ended.
#[utoipa::path(
    get, path = "/v1/uploads/{id}", tag = "uploads",
    params(("id" = String, Path, description = "The upload's id")),
    responses((status = 200, description = "The upload", body = types::Upload)),
)]
pub(super) async fn get(
    State(app): State<App>,
    Who(principal): Who,
    PathId(id): PathId<UploadId>,
    uri: Uri,
) -> Result<Json<types::Upload>> {
    Query::read(&uri, &[])?;
    let upload = app.domain.upload_get(&principal.tenant, id).await?;
    let upload = upload.ok_or_else(Error::not_found)?;
    let parts = app.domain.upload_parts_there(&upload).await?;
    Ok(Json(types::Upload::from(upload).with_parts(parts)))
}

/// Abort an upload
///
/// Nothing of it stays in the store. Of one that has ended the file stays.
#[utoipa::path(
    delete, path = "/v1/uploads/{id}", tag = "uploads",
    params(("id" = String, Path, description = "The upload's id")),
    responses((status = 204, description = "It is gone")),
)]
pub(super) async fn abort(
    State(app): State<App>,
    Acting(caller): Acting,
    PathId(id): PathId<UploadId>,
    uri: Uri,
) -> Result<StatusCode> {
    Query::read(&uri, &[])?;
    app.domain.upload_abort(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
