//! Direct uploads: begun and ended here, and their bytes sent to the store itself; or, where that can't be
//! reached by its clients, to URLs of the service's own, which stand in the same place of the same JSON.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{RawPathParams, Request, State};
use axum::http::header::{ETAG, LOCATION};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::domain::Caller;
use crate::domain::files::NewFile;
use crate::domain::uploads::Upload;
use crate::domain::uploads::direct::{Completed, NamedPart, Presented, Target};
use crate::error::{Error, Result};
use crate::id::{Tenant, UploadId};
use crate::trace;

use super::extract::{self, Acting, PathId, Query, Remote};
use super::files::created;
use super::signed::{self, SignedMethod, SignedUrl};
use super::{digest, media_type, once, types, upload};

/// The longest list of parts, in bytes: 10,000 of them, each with an ETag of 64 digits.
pub(super) const PARTS_BODY: u64 = 2 * 1024 * 1024;

/// What stands in a URL of the service's own. Names are short, for it is a part of every one.
#[derive(Serialize, Deserialize)]
pub(super) struct PartGrant {
    #[serde(rename = "t")]
    tenant: Tenant,
    #[serde(rename = "u")]
    subject: String,
    /// The upload.
    #[serde(rename = "p")]
    id: UploadId,
    /// Of its part.
    #[serde(rename = "n")]
    number: u32,
    /// In microseconds.
    #[serde(rename = "e")]
    expires_at: i64,
}

/// Begin a direct upload
///
/// The bytes go straight to the store, where it can be reached: in one PUT of the answer's `put`, up to
/// `uploads.single_max`, or in parts, whose URLs are asked for. Then it is completed. A URL is a secret: an equal
/// request with the same `Idempotency-Key` has the same upload, with a URL that is signed anew.
#[utoipa::path(
    post, path = "/v1/uploads", tag = "uploads",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "The caller's own: an equal request within 24 hours leads to the same upload"),
    ),
    request_body(content = types::NewUpload, content_type = "application/json"),
    responses((status = 201, description = "The upload has begun", body = types::Upload,
        headers(("Location" = String, description = "The upload's path")))),
)]
pub(super) async fn create(
    State(app): State<App>,
    Acting(caller): Acting,
    request: Request,
) -> Result<Response> {
    Query::read(request.uri(), &[])?;
    let (head, body) = request.into_parts();
    let body = extract::json_bytes(&app, &head.headers, body, &["application/json"]).await?;
    let new: types::NewUpload = extract::json_object(&body)?;
    let sha256 = match &new.sha256 {
        Some(text) => Some(
            digest::parse_hex(text)
                .ok_or_else(|| Error::invalid("/sha256", "must be 64 hexadecimal digits"))?,
        ),
        None => None,
    };
    let crc64nvme = match &new.crc64nvme {
        Some(text) => Some(
            crc64nvme(text)
                .ok_or_else(|| Error::invalid("/crc64nvme", "must be eight bytes in Base64"))?,
        ),
        None => None,
    };
    let file = NewFile {
        name: Some(new.name),
        content_type: upload::content_type(new.content_type.as_deref())?,
        metadata: new.metadata.unwrap_or_default(),
        expires_at: new.expires_at,
        sha256,
        size: Some(new.size),
        ..NewFile::default()
    };
    let once = once::read(&head, "createUpload", &[&body])?;
    can_sign(&app)?;
    let begun = app
        .domain
        .upload_create_direct(&caller, file, crc64nvme, once)
        .await?;
    let (upload, target) = begun;
    let put = target.map(|target| signed_url(&app, &caller, &upload, target));
    let path = format!("{}v1/uploads/{}", app.config.public_url().path(), upload.id);
    let shown = types::Upload {
        put: put.transpose()?,
        ..types::Upload::from(upload)
    };
    Ok((StatusCode::CREATED, [(LOCATION, path)], Json(shown)).into_response())
}

/// Sign URLs for parts
///
/// Up to 1,000 at a time, until the upload's expiry at most, which this puts off. A part that is sent again takes the
/// place of the one before. The one PUT of an upload that comes in one is its part 1.
#[utoipa::path(
    post, path = "/v1/uploads/{id}/parts", tag = "uploads",
    params(("id" = String, Path, description = "The upload's id")),
    request_body(content = types::WantedParts, content_type = "application/json"),
    responses((status = 200, description = "A URL for each", body = types::PartUrls)),
)]
pub(super) async fn parts(
    State(app): State<App>,
    Acting(caller): Acting,
    PathId(id): PathId<UploadId>,
    request: Request,
) -> Result<Json<types::PartUrls>> {
    Query::read(request.uri(), &[])?;
    let (head, body) = request.into_parts();
    let body = extract::json_bytes(&app, &head.headers, body, &["application/json"]).await?;
    let wanted: types::WantedParts = extract::json_object(&body)?;
    can_sign(&app)?;
    let numbers = wanted.from..=wanted.to;
    let (upload, targets) = app.domain.upload_sign(&caller, id, numbers).await?;
    let items = targets.into_iter().map(|target| {
        let number = target.number;
        let url = signed_url(&app, &caller, &upload, target)?;
        Ok(types::PartUrl { number, url })
    });
    let items = items.collect::<Result<_>>()?;
    Ok(Json(types::PartUrls { items }))
}

/// Complete a direct upload
///
/// Its bytes are compared with what was declared, and are a file then. Again, it answers 200 with the same file.
#[utoipa::path(
    post, path = "/v1/uploads/{id}/complete", tag = "uploads",
    params(("id" = String, Path, description = "The upload's id")),
    request_body(content = types::CompleteUpload, content_type = "application/json"),
    responses(
        (status = 201, description = "The file is there", body = types::File,
            headers(
                ("Location" = String, description = "The file's path"),
                ("ETag" = String, description = "The content's"),
            )),
        (status = 200, description = "It was completed before", body = types::File,
            headers(
                ("Location" = String, description = "The file's path"),
                ("ETag" = String, description = "The content's"),
            )),
    ),
)]
pub(super) async fn complete(
    State(app): State<App>,
    Acting(caller): Acting,
    PathId(id): PathId<UploadId>,
    request: Request,
) -> Result<Response> {
    Query::read(request.uri(), &[])?;
    let (head, body) = request.into_parts();
    let json = ["application/json"];
    let body = extract::json_bytes_upto(&app, &head.headers, body, &json, PARTS_BODY).await?;
    let asked: types::CompleteUpload = extract::json_object(&body)?;
    let named = asked.parts.map(|parts| {
        let parts = parts.into_iter();
        let named = parts.map(|part| NamedPart {
            number: part.number,
            etag: part.etag,
        });
        named.collect()
    });
    let domain = app.domain.clone();
    let work = async move {
        domain
            .upload_complete(&caller, id, named, media_type::sniff)
            .await
    };
    // It must run to its end even when the client is gone, which drops this handler.
    let completed = app
        .tasks
        .spawn(trace::carried(work))
        .await
        .map_err(Error::internal)??;
    Ok(match completed {
        Completed::Made(file) => created(&app, file),
        Completed::Before(file) => {
            let mut answer = created(&app, file);
            *answer.status_mut() = StatusCode::OK;
            answer
        }
    })
}

/// What a URL of the service's own for a part allows; None where it is for something else.
pub(super) fn granted(app: &App, params: &RawPathParams) -> Option<PartGrant> {
    let (_, token) = params.iter().find(|(name, _)| *name == "token")?;
    app.seal.as_ref()?.open(token)
}

/// Takes the bytes that such a URL is for.
pub(super) async fn put_granted(
    app: &App,
    grant: PartGrant,
    remote: Remote,
    request: Request,
) -> Result<Response> {
    let caller = remote.caller(grant.tenant.clone(), grant.subject);
    let granted = grant.expires_at > app.domain.clock.now().as_micros();
    signed::admit(app, &caller, granted, grant.id.to_string(), &Method::PUT)?;
    let (head, body) = request.into_parts();
    Query::read(&head.uri, &[])?;
    upload::as_it_is(&head.headers)?;
    let place = upload::place(app, &caller)?;
    let source = extract::byte_stream(body, &app.config.limits);
    let presented = Presented {
        tenant: grant.tenant,
        id: grant.id,
        number: grant.number,
    };
    let domain = app.domain.clone();
    let work = async move {
        let _place = place;
        domain.upload_part_take(&presented, source).await
    };
    // It must run to its end even when the client is gone, which drops this handler.
    let etag = app
        .tasks
        .spawn(trace::carried(work))
        .await
        .map_err(Error::internal)??;
    Ok((StatusCode::OK, [(ETAG, etag)]).into_response())
}

/// The store's own URL, or one of the service's.
fn signed_url(app: &App, caller: &Caller, upload: &Upload, target: Target) -> Result<SignedUrl> {
    let (url, headers) = match target.request {
        Some(request) => (request.url, request.headers.into_iter().collect()),
        None => {
            let grant = PartGrant {
                tenant: caller.tenant.clone(),
                subject: caller.subject.clone(),
                id: upload.id,
                number: target.number,
                expires_at: target.expires_at.as_micros(),
            };
            let token = signed::token(app, &grant)?;
            let url = format!("{}s/{token}", app.config.public_url());
            (url, BTreeMap::new())
        }
    };
    Ok(SignedUrl {
        url,
        method: SignedMethod::Put,
        expires_at: target.expires_at,
        headers,
    })
}

/// Before anything is begun that no URL could be had for.
fn can_sign(app: &App) -> Result<()> {
    if app.domain.objects.is_reachable() {
        return Ok(());
    }
    signed::token(app, &()).map(drop)
}

/// As S3 writes it.
fn crc64nvme(text: &str) -> Option<[u8; 8]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}
