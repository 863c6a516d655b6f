//! Bytes out: a file's content, now and earlier.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, LAST_MODIFIED, LOCATION,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;

use crate::app::App;
use crate::auth::Principal;
use crate::domain::files::{Content, File};
use crate::error::{Error, Kind, Result};
use crate::objects::ByteStream;

use super::conditional::{self, Outcome, Validators};
use super::digest;
use super::disposition::{self, Disposition};
use super::extract::{PathId, PathVersion, Query};
use super::files::precondition_failed;
use super::guard::Who;
use super::range::{self, Multipart, Ranges};
use super::{signed, types};

/// What a content is known by.
pub(super) fn content_tag(content: &Content) -> String {
    format!("\"{}\"", content.object_id)
}

/// Fetch a file's content
///
/// Streamed. A file in the trash answers 410. What a browser might run is always an attachment.
#[utoipa::path(
    get, path = "/v1/files/{id}/content", tag = "files",
    params(
        ("id" = String, Path, description = "The file's id"),
        ("disposition" = Option<String>, Query, description = "`inline` or `attachment`; only content types that can run nothing are ever inline"),
        ("redirect" = Option<bool>, Query, description = "`true`: 307 to the store itself, where the store can serve it; the URL is good for 15 minutes"),
        ("Range" = Option<String>, Header, description = "Up to 16 ranges of bytes (RFC 9110, section 14)"),
        ("If-Range" = Option<String>, Header, description = "An ETag or a date"),
        ("If-None-Match" = Option<String>, Header, description = "ETags"),
        ("If-Modified-Since" = Option<String>, Header, description = "A date"),
    ),
    responses(
        (status = 200, description = "All bytes", content_type = "*/*", body = types::Bytes,
            headers(
                ("ETag" = String, description = "Changes with the content"),
                ("Repr-Digest" = String, description = "The SHA-256 of all bytes (RFC 9530)"),
            )),
        (status = 206, description = "The bytes asked for; several ranges as `multipart/byteranges`",
            content_type = "*/*", body = types::Bytes),
        (status = 304, description = "The content is still as the request's conditions say"),
        (status = 307, description = "The content is at `Location`"),
    ),
)]
pub(super) async fn get(
    state: State<App>,
    who: Who,
    id: PathId,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    answer(state, who, id, uri, headers, Method::GET).await
}

/// Fetch the head of a file's content
#[utoipa::path(
    head, path = "/v1/files/{id}/content", tag = "files",
    params(
        ("id" = String, Path, description = "The file's id"),
        ("disposition" = Option<String>, Query, description = "As with GET"),
        ("redirect" = Option<bool>, Query, description = "Taken, and without effect: a URL of the store is good for GET only"),
    ),
    responses(
        (status = 200, description = "The header fields that GET would have, without the bytes"),
        (status = 304, description = "The content is still as the request's conditions say"),
    ),
)]
pub(super) async fn head(
    state: State<App>,
    who: Who,
    id: PathId,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    answer(state, who, id, uri, headers, Method::HEAD).await
}

/// Fetch an earlier content
///
/// As the current one, which has a number too.
#[utoipa::path(
    get, path = "/v1/files/{id}/versions/{version}/content", tag = "files",
    params(
        ("id" = String, Path, description = "The file's id"),
        ("version" = i64, Path, description = "Of which content"),
        ("disposition" = Option<String>, Query, description = "`inline` or `attachment`"),
        ("redirect" = Option<bool>, Query, description = "`true`: 307 to the store itself, where the store can serve it"),
        ("Range" = Option<String>, Header, description = "Up to 16 ranges of bytes (RFC 9110, section 14)"),
        ("If-None-Match" = Option<String>, Header, description = "ETags"),
    ),
    responses(
        (status = 200, description = "All bytes", content_type = "*/*", body = types::Bytes),
        (status = 206, description = "The bytes asked for", content_type = "*/*", body = types::Bytes),
        (status = 304, description = "The content is still as the request's conditions say"),
        (status = 307, description = "The content is at `Location`"),
    ),
)]
pub(super) async fn version(
    State(app): State<App>,
    Who(principal): Who,
    PathVersion(id, version): PathVersion,
    uri: Uri,
    headers: HeaderMap,
    method: Method,
) -> Result<Response> {
    let asked = Asked::read(&uri, headers, method, &principal)?;
    let found = app
        .domain
        .version_get(&principal.tenant, id, version)
        .await?;
    let (file, content) = found.ok_or_else(Error::not_found)?;
    send(&app, &file, content, &asked).await
}

async fn answer(
    State(app): State<App>,
    Who(principal): Who,
    PathId(id): PathId,
    uri: Uri,
    headers: HeaderMap,
    method: Method,
) -> Result<Response> {
    let asked = Asked::read(&uri, headers, method, &principal)?;
    let file = app
        .domain
        .file_get(&principal.tenant, id)
        .await?
        .ok_or_else(Error::not_found)?;
    let content = Content::from(&file);
    send(&app, &file, content, &asked).await
}

/// What a request wants of a content.
pub(super) struct Asked {
    disposition: Option<Disposition>,
    /// Whom to lead to where a token is not needed; None: nobody.
    redirect: Option<Arc<Principal>>,
    headers: HeaderMap,
    method: Method,
}

impl Asked {
    /// In this answer, whatever the store could do.
    pub(super) fn here(
        disposition: Option<Disposition>,
        headers: HeaderMap,
        method: Method,
    ) -> Self {
        Self {
            disposition,
            redirect: None,
            headers,
            method,
        }
    }

    fn read(
        uri: &Uri,
        headers: HeaderMap,
        method: Method,
        principal: &Arc<Principal>,
    ) -> Result<Self> {
        let mut query = Query::read(uri, &["disposition", "redirect"])?;
        let disposition =
            query.parse("disposition", "inline or attachment", |text| match text {
                "inline" => Some(Disposition::Inline),
                "attachment" => Some(Disposition::Attachment),
                _ => None,
            })?;
        Ok(Self {
            disposition,
            redirect: (query.flag("redirect")? && method == Method::GET).then(|| principal.clone()),
            headers,
            method,
        })
    }
}

/// `Content-Disposition`: only what can run nothing is ever inline.
pub(super) fn disposition(
    file: &File,
    content: &Content,
    asked: Option<Disposition>,
) -> HeaderValue {
    match asked {
        Some(Disposition::Inline) if disposition::inline_allowed(&content.content_type) => {
            disposition::header(Disposition::Inline, &file.name)
        }
        _ => disposition::header(Disposition::Attachment, &file.name),
    }
}

pub(super) async fn send(
    app: &App,
    file: &File,
    content: Content,
    asked: &Asked,
) -> Result<Response> {
    if file.trashed_at.is_some() {
        return Err(Error::new(Kind::Gone, "The file is in the trash."));
    }
    let disposition = disposition(file, &content, asked.disposition);
    let validators = Validators {
        etag: content_tag(&content),
        last_modified: content.created_at,
    };
    match conditional::evaluate(&asked.headers, &asked.method, &validators) {
        Outcome::Proceed => {}
        Outcome::NotModified => {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            describe(response.headers_mut(), &validators);
            return Ok(response);
        }
        Outcome::PreconditionFailed => return Err(precondition_failed()),
    }
    if let Some(principal) = &asked.redirect {
        let text = disposition.to_str().unwrap_or("attachment");
        let stores_own = app
            .domain
            .content_presign(&content, text, signed::STORES_OWN)
            .await?;
        let url = match stores_own {
            Some(url) => Some(url),
            None => signed::redirect(app, principal, file, content.version, asked.disposition)?,
        };
        if let Some(url) = url {
            let fields = [(LOCATION, url), (CACHE_CONTROL, "no-store".to_owned())];
            return Ok((StatusCode::TEMPORARY_REDIRECT, fields).into_response());
        }
    }

    let ranges = if conditional::range_applies(&asked.headers, &validators) {
        range::requested(&asked.method, &asked.headers, content.size)
    } else {
        Ranges::Whole
    };
    let mut response = if asked.method == Method::HEAD {
        of_length(StatusCode::OK, content.size, Body::empty())
    } else {
        match ranges {
            Ranges::Whole if content.size == 0 => of_length(StatusCode::OK, 0, Body::empty()),
            Ranges::Whole => {
                let bytes = app.domain.content_read(&content, 0..content.size).await?;
                of_length(StatusCode::OK, content.size, Body::from_stream(bytes))
            }
            Ranges::One(range) => {
                let length = range.end - range.start;
                let field = field(range::content_range(&range, content.size))?;
                let bytes = app.domain.content_read(&content, range).await?;
                let body = Body::from_stream(bytes);
                let mut response = of_length(StatusCode::PARTIAL_CONTENT, length, body);
                response.headers_mut().insert(CONTENT_RANGE, field);
                response
            }
            Ranges::Many(ranges) => several(app, &content, &ranges).await?,
            Ranges::Unsatisfiable => return unsatisfiable(content.size),
        }
    };
    let fields = response.headers_mut();
    describe(fields, &validators);
    fields.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    fields.insert(CONTENT_DISPOSITION, disposition);
    if !fields.contains_key(CONTENT_TYPE) {
        fields.insert(CONTENT_TYPE, field(content.content_type)?);
    }
    if let Some(sha256) = &content.sha256 {
        fields.insert(digest::REPR_DIGEST, digest::repr_digest(sha256));
    }
    // Whatever the bytes are, a browser that shows them gives them no rights in this origin.
    fields.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("sandbox; default-src 'none'"),
    );
    Ok(response)
}

/// The fields that a 304 has too (RFC 9110, section 15.4.5).
fn describe(fields: &mut HeaderMap, validators: &Validators) {
    for (name, value) in [
        (ETAG, validators.etag.clone()),
        (
            LAST_MODIFIED,
            conditional::http_date(validators.last_modified),
        ),
        (CACHE_CONTROL, "private, no-cache".to_owned()),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            fields.insert(name, value);
        }
    }
}

fn of_length(status: StatusCode, length: u64, body: Body) -> Response {
    (status, [(CONTENT_LENGTH, length.to_string())], body).into_response()
}

fn unsatisfiable(size: u64) -> Result<Response> {
    let error = Error::new(
        Kind::RangeNotSatisfiable,
        format!("The file has {size} bytes."),
    );
    let mut response = error.into_response();
    let value = field(range::unsatisfied_range(size))?;
    response.headers_mut().insert(CONTENT_RANGE, value);
    Ok(response)
}

fn field(value: String) -> Result<HeaderValue> {
    HeaderValue::try_from(value).map_err(Error::internal)
}

/// `multipart/byteranges`. The first part is opened before the status is sent, the others when
/// their turn comes.
async fn several(
    app: &App,
    content: &Content,
    ranges: &[std::ops::Range<u64>],
) -> Result<Response> {
    let boundary = hex::encode(rand::random::<[u8; 16]>());
    let layout = Multipart::new(ranges, content.size, &content.content_type, &boundary);
    let mut parts = layout.parts.into_iter();
    let mut first = match parts.next() {
        Some(part) => {
            let bytes = app.domain.content_read(content, part.range.clone()).await?;
            Some((part.head, bytes))
        }
        None => None,
    };
    let (domain, content, closing) = (app.domain.clone(), content.clone(), layout.closing);
    let bytes: ByteStream = async_stream::try_stream! {
        while let Some((head, mut bytes)) = first.take() {
            yield Bytes::from(head);
            while let Some(chunk) = bytes.next().await {
                yield chunk?;
            }
            if let Some(part) = parts.next() {
                let bytes = domain.content_read(&content, part.range).await?;
                first = Some((part.head, bytes));
            }
        }
        yield Bytes::from(closing);
    }
    .boxed();
    let body = Body::from_stream(bytes);
    let mut response = of_length(StatusCode::PARTIAL_CONTENT, layout.length, body);
    let content_type = field(Multipart::content_type(&boundary))?;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}
