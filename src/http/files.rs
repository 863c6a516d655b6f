//! `/v1/files`: properties, changes, deletion. Lists, uploads and contents have modules of their own.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, ETAG, LAST_MODIFIED, LOCATION};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::auth::Scope;
use crate::domain::changes::{FileCopy, FilePatch, MetadataPatch};
use crate::domain::files::{Content, File, Precondition};
use crate::domain::removal::Removal;
use crate::error::{Error, Invalid, Kind, Result};
use crate::id::FileId;

use super::conditional::{self, Outcome, Validators};
use super::content::content_tag;
use super::extract::{self, Acting, PathId, Query};
use super::guard::{Who, lacks};
use super::{media_type, once, problem, types};

/// Files in one `batch-delete`.
const MOST_DELETED: usize = 1000;

/// Fetch a file's properties
///
/// A file in the trash has them too.
#[utoipa::path(
    get, path = "/v1/files/{id}", tag = "files",
    params(("id" = String, Path, description = "The file's id")),
    responses(
        (status = 200, description = "The file", body = types::File,
            headers(("ETag" = String, description = "The revision, in quotes; not while its `sha256` is null"))),
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
    if file.sha256.is_none() {
        // It comes without a new revision: who had a tag of this would never be told.
        let fields = [(CACHE_CONTROL, "private, no-cache")];
        return Ok((fields, Json(types::File::from(file))).into_response());
    }
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

/// Change a file's properties
///
/// A JSON Merge Patch (RFC 7396): what is absent stays, null removes. A patch that changes nothing
/// makes no new revision. To lift a hold, or have it end sooner, takes the scope `admin` as well.
#[utoipa::path(
    patch, path = "/v1/files/{id}", tag = "files",
    params(
        ("id" = String, Path, description = "The file's id"),
        ("If-Match" = Option<String>, Header, description = "The revision that is meant, in quotes"),
    ),
    request_body(content(
        (types::FilePatch = "application/merge-patch+json"),
        (types::FilePatch = "application/json"),
    )),
    responses((status = 200, description = "The file as it is now", body = types::File,
        headers(("ETag" = String, description = "The revision, in quotes")))),
)]
pub(super) async fn patch(
    State(app): State<App>,
    Who(principal): Who,
    Acting(caller): Acting,
    PathId(id): PathId,
    request: Request,
) -> Result<Response> {
    Query::read(request.uri(), &[])?;
    let (head, body) = request.into_parts();
    let allowed = ["application/merge-patch+json", "application/json"];
    let body = extract::json_bytes(&app, &head.headers, body, &allowed).await?;
    let patch = FilePatch {
        may_lift: principal.scopes.contains(&Scope::Admin),
        ..read_patch(extract::json_object(&body)?)?
    };
    let precondition = revision_is(head.headers);
    let patched = app
        .domain
        .file_patch(&caller, id, patch, precondition)
        .await;
    if let Err(error) = &patched
        && error.kind() == Kind::Forbidden
    {
        let route = "/v1/files/{id}";
        return Err(lacks(
            &app.domain,
            &caller,
            route,
            &Method::PATCH,
            Scope::Admin,
        ));
    }
    Ok(with_revision(patched?))
}

/// Take a file out of the trash
///
/// One that is not in the trash stays as it is.
#[utoipa::path(
    post, path = "/v1/files/{id}/restore", tag = "files",
    params(("id" = String, Path, description = "The file's id")),
    responses((status = 200, description = "The file", body = types::File,
        headers(("ETag" = String, description = "The revision, in quotes")))),
)]
pub(super) async fn restore(
    State(app): State<App>,
    Acting(caller): Acting,
    PathId(id): PathId,
    uri: Uri,
) -> Result<Response> {
    Query::read(&uri, &[])?;
    let file = app.domain.file_restore(&caller, id).await?;
    Ok(with_revision(file))
}

/// Copy a file
///
/// A new file over the same bytes: none of them move. What the body leaves out is as in the source.
#[utoipa::path(
    post, path = "/v1/files/{id}/copy", tag = "files",
    params(
        ("id" = String, Path, description = "The file's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "The caller's own: an equal request within 24 hours is answered as this one was"),
    ),
    request_body(content = Option<types::FileCopy>, content_type = "application/json"),
    responses((status = 201, description = "The copy", body = types::File,
        headers(
            ("Location" = String, description = "The copy's path"),
            ("ETag" = String, description = "The content's"),
        ))),
)]
pub(super) async fn copy(
    State(app): State<App>,
    Acting(caller): Acting,
    PathId(id): PathId,
    request: Request,
) -> Result<Response> {
    Query::read(request.uri(), &[])?;
    let (head, body) = request.into_parts();
    let body = extract::json_bytes(&app, &head.headers, body, &["application/json"]).await?;
    let copy: Option<types::FileCopy> = match body.as_slice() {
        [] => None,
        body => extract::json_object(body)?,
    };
    let copy = copy.unwrap_or_default();
    let once = once::read(&head, "copyFile", &[&body])?;
    let copy = FileCopy {
        name: copy.name,
        metadata: copy.metadata.map(Option::unwrap_or_default),
        expires_at: copy.expires_at,
    };
    let file = app.domain.file_copy(&caller, id, copy, once).await?;
    Ok(created(&app, file))
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
    app.domain
        .file_delete(&caller, id, permanent, revision_is(headers))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Delete many files
///
/// Each on its own, as `DELETE /v1/files/{id}` does: what became of each stands at its place.
#[utoipa::path(
    post, path = "/v1/files/batch-delete", tag = "files",
    request_body(content = types::BatchDelete, content_type = "application/json"),
    responses((status = 200, description = "What became of each", body = types::BatchDeleted)),
)]
pub(super) async fn batch_delete(
    State(app): State<App>,
    Acting(caller): Acting,
    request: Request,
) -> Result<Json<types::BatchDeleted>> {
    Query::read(request.uri(), &[])?;
    let (head, body) = request.into_parts();
    let body = extract::json_bytes(&app, &head.headers, body, &["application/json"]).await?;
    let batch: types::BatchDelete = extract::json_object(&body)?;
    if !(1..=MOST_DELETED).contains(&batch.ids.len()) {
        return Err(Error::invalid("/ids", "must have 1 to 1,000 ids"));
    }
    // What is no id names nothing.
    let ids: Vec<FileId> = batch.ids.iter().filter_map(|id| id.parse().ok()).collect();
    let mut removals = app
        .domain
        .file_delete_many(&caller, &ids, batch.permanent)
        .await?
        .into_iter();
    let items = batch
        .ids
        .into_iter()
        .map(|id| {
            let removed = id.parse::<FileId>().ok().and_then(|_| removals.next());
            let fault = match removed.unwrap_or(Removal::Absent) {
                Removal::Removed => None,
                Removal::Absent => Some(Kind::NotFound),
                Removal::Held(_) => Some(Kind::Conflict),
            };
            types::Deleted {
                id,
                status: fault.map_or(StatusCode::NO_CONTENT.as_u16(), problem::status),
                r#type: fault.map(problem::r#type),
            }
        })
        .collect();
    Ok(Json(types::BatchDeleted { items }))
}

fn read_patch(patch: types::FilePatch) -> Result<FilePatch> {
    let mut invalid = Vec::new();
    let mut required = |pointer: &str, is_null: bool| {
        if is_null {
            invalid.push(Invalid {
                pointer: pointer.to_owned(),
                detail: "can't be removed".to_owned(),
            });
        }
    };
    required("/name", patch.name == Some(None));
    required("/content_type", patch.content_type == Some(None));
    required("/legal_hold", patch.legal_hold == Some(None));
    if !invalid.is_empty() {
        return Err(Error::invalid_many(invalid));
    }
    Ok(FilePatch {
        name: patch.name.flatten(),
        content_type: match patch.content_type.flatten() {
            Some(text) => Some(media_type::parse(&text)?),
            None => None,
        },
        metadata: patch.metadata.map(|metadata| match metadata {
            Some(patch) => MetadataPatch::Merge(patch),
            None => MetadataPatch::Clear,
        }),
        expires_at: patch.expires_at,
        retention_until: patch.retention_until,
        legal_hold: patch.legal_hold.flatten(),
        may_lift: false,
    })
}

/// The answer to what made a file.
pub(super) fn created(app: &App, file: File) -> Response {
    let path = format!("{}v1/files/{}", app.config.public_url().path(), file.id);
    (
        StatusCode::CREATED,
        [(LOCATION, path), (ETAG, content_tag(&Content::from(&file)))],
        Json(types::File::from(file)),
    )
        .into_response()
}

pub(super) fn with_revision(file: File) -> Response {
    ([(ETAG, revision_tag(&file))], Json(types::File::from(file))).into_response()
}

fn revision_is(headers: HeaderMap) -> Precondition {
    Arc::new(move |file: &File| conditional::if_match(&headers, &revision_tag(file)))
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
