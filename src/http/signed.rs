//! Signed URLs: who holds one may do one thing with one file, without a token, until it expires.
//!
//! What it allows stands in the URL, under a seal; nothing is stored. It ends with its time, with the
//! secret that sealed it, and with the file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::clock::Timestamp;
use crate::domain::Caller;
use crate::domain::audit::Access;
use crate::domain::files::{Content, File};
use crate::error::{Error, Kind, Result};
use crate::id::{FileId, Tenant};
use crate::objects::ByteStream;

use super::content::{self, Asked};
use super::disposition::Disposition;
use super::extract::{self, Acting, PathId, Query, Remote};
use super::guard::{Who, lacks};
use super::{archives, direct, media_type, types, upload};

/// The longest life of a URL, and of one of the store's own, which nothing can end earlier.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);
pub(super) const STORES_OWN: Duration = Duration::from_secs(15 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum SignedMethod {
    #[serde(rename = "GET")]
    Get,
    #[serde(rename = "HEAD")]
    Head,
    #[serde(rename = "PUT")]
    Put,
}

impl SignedMethod {
    fn needs(self) -> Scope {
        match self {
            Self::Get | Self::Head => Scope::FilesRead,
            Self::Put => Scope::FilesWrite,
        }
    }

    fn is(self, method: &Method) -> bool {
        match self {
            Self::Get => method == Method::GET,
            Self::Head => method == Method::HEAD,
            Self::Put => method == Method::PUT,
        }
    }
}

/// What a URL is to allow.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSignedUrl {
    pub method: SignedMethod,
    /// For how long, in seconds: up to 7 days.
    #[schema(minimum = 1, maximum = 604_800)]
    pub expires_in_s: u64,
    /// GET and HEAD: as the parameter of the file's content.
    #[serde(default)]
    pub disposition: Option<Disposition>,
    /// PUT: what the request's `Content-Type` must be.
    #[serde(default)]
    pub content_type: Option<String>,
    /// PUT: the most bytes that may come.
    #[serde(default)]
    pub max_size: Option<u64>,
}

/// A URL that needs no token.
#[derive(Serialize, ToSchema)]
pub struct SignedUrl {
    pub url: String,
    pub method: SignedMethod,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Header fields that the request must have.
    #[schema(value_type = Object)]
    pub headers: BTreeMap<String, String>,
}

/// What stands in a URL. Names are short, for it is a part of every one.
#[derive(Serialize, Deserialize)]
pub(super) struct Grant {
    #[serde(rename = "t")]
    tenant: Tenant,
    #[serde(rename = "u")]
    subject: String,
    #[serde(rename = "f")]
    file: FileId,
    #[serde(rename = "m")]
    method: SignedMethod,
    /// In microseconds.
    #[serde(rename = "e")]
    expires_at: i64,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    disposition: Option<Disposition>,
    /// One content of the file; None: the current one.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    version: Option<i64>,
    /// Of the file as it must be.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    revision: Option<i64>,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    max_size: Option<u64>,
}

/// Sign a URL
///
/// Who holds it needs no token. GET and HEAD take the scope `files:read`, PUT takes `files:write`. It
/// ends with its time, with the secret that signed it, and with the file. A GET for up to 15 minutes
/// may be a URL of the store itself: that one ends with its time only. A PUT works once: it is for the
/// file as it is now.
#[utoipa::path(
    post, path = "/v1/files/{id}/signed-urls", tag = "files",
    params(("id" = String, Path, description = "The file's id")),
    request_body(content = NewSignedUrl, content_type = "application/json"),
    responses((status = 200, description = "The URL", body = SignedUrl)),
)]
pub(super) async fn create(
    State(app): State<App>,
    Who(principal): Who,
    Acting(caller): Acting,
    PathId(id): PathId,
    request: Request,
) -> Result<Json<SignedUrl>> {
    Query::read(request.uri(), &[])?;
    let (head, body) = request.into_parts();
    let body = extract::json_bytes(&app, &head.headers, body, &["application/json"]).await?;
    let new: NewSignedUrl = extract::json_object(&body)?;
    let needed = new.method.needs();
    if !principal.scopes.contains(&needed) {
        let route = "/v1/files/{id}/signed-urls";
        return Err(lacks(&app.domain, &caller, route, &Method::POST, needed));
    }
    let (ttl, content_type) = checked(&new)?;
    let file = app.domain.file_get(&principal.tenant, id).await?;
    let file = file.ok_or_else(Error::not_found)?;
    if file.trashed_at.is_some() {
        return Err(Error::new(Kind::Gone, "The file is in the trash."));
    }
    let expires_at = app.domain.clock.now().plus(ttl);
    let mut headers = BTreeMap::new();
    if let Some(content_type) = &content_type {
        headers.insert("content-type".to_owned(), content_type.clone());
    }
    let stores_own = if new.method == SignedMethod::Get && ttl <= STORES_OWN {
        let content = Content::from(&file);
        let disposition = content::disposition(&file, &content, new.disposition);
        app.domain
            .content_presign(&content, disposition.to_str().unwrap_or("attachment"), ttl)
            .await?
    } else {
        None
    };
    let url = match stores_own {
        Some(url) => url,
        None => {
            let grant = Grant {
                tenant: principal.tenant.clone(),
                subject: principal.subject.clone(),
                file: id,
                method: new.method,
                expires_at: expires_at.as_micros(),
                disposition: new.disposition,
                version: None,
                revision: (new.method == SignedMethod::Put).then_some(file.revision),
                content_type,
                max_size: new.max_size,
            };
            format!("{}s/{}", app.config.public_url(), token(&app, &grant)?)
        }
    };
    Ok(Json(SignedUrl {
        url,
        method: new.method,
        expires_at,
        headers,
    }))
}

/// How long the URL is to live, and the content type that it asks for.
fn checked(new: &NewSignedUrl) -> Result<(Duration, Option<String>)> {
    let longest = LONGEST.as_secs();
    if !(1..=longest).contains(&new.expires_in_s) {
        let detail = format!("must be 1 to {longest}");
        return Err(Error::invalid("/expires_in_s", detail));
    }
    let puts = new.method == SignedMethod::Put;
    for (pointer, given, fits) in [
        ("/disposition", new.disposition.is_some(), !puts),
        ("/content_type", new.content_type.is_some(), puts),
        ("/max_size", new.max_size.is_some(), puts),
    ] {
        if given && !fits {
            return Err(Error::invalid(pointer, "says nothing of this method"));
        }
    }
    let content_type = new.content_type.as_deref().map(media_type::parse);
    Ok((
        Duration::from_secs(new.expires_in_s),
        content_type.transpose()?,
    ))
}

pub(super) fn token(app: &App, grant: &impl Serialize) -> Result<String> {
    let seal = app.seal.as_ref().ok_or_else(|| {
        Error::new(
            Kind::Conflict,
            "This service has no secret to sign URLs with: its operator may set urls.secret.",
        )
    })?;
    seal.seal(grant)
}

/// The path at which the service serves one content itself, for as long as a URL of the store would;
/// None where it can't sign.
pub(super) fn redirect(
    app: &App,
    principal: &Principal,
    file: &File,
    version: i64,
    disposition: Option<Disposition>,
) -> Result<Option<String>> {
    if app.seal.is_none() {
        return Ok(None);
    }
    let expires_at = app.domain.clock.now().plus(STORES_OWN);
    let grant = Grant {
        tenant: principal.tenant.clone(),
        subject: principal.subject.clone(),
        file: file.id,
        method: SignedMethod::Get,
        expires_at: expires_at.as_micros(),
        disposition,
        version: Some(version),
        revision: None,
        content_type: None,
        max_size: None,
    };
    let token = token(app, &grant)?;
    Ok(Some(format!("{}s/{token}", app.config.public_url().path())))
}

/// What the URL allows, if it allows this method now, and to whom. Either is noted, save of what nobody
/// signed: that belongs to no tenant.
fn granted(
    app: &App,
    params: &RawPathParams,
    method: &Method,
    remote: Remote,
) -> Result<(Grant, Caller)> {
    let token = params.iter().find(|(name, _)| *name == "token");
    let grant: Option<Grant> = match (&app.seal, token) {
        (Some(seal), Some((_, token))) => seal.open(token),
        _ => None,
    };
    let now = app.domain.clock.now().as_micros();
    let grant = grant.ok_or_else(not_valid)?;
    let caller = remote.caller(grant.tenant.clone(), grant.subject.clone());
    let granted = grant.method.is(method) && grant.expires_at > now;
    admit(app, &caller, granted, grant.file.to_string(), method)?;
    Ok((grant, caller))
}

/// Notes an access by a URL that the service signed, and refuses what the URL does not allow, or not any more.
pub(super) fn admit(
    app: &App,
    caller: &Caller,
    granted: bool,
    target: String,
    method: &Method,
) -> Result<()> {
    let access = if granted {
        Access::Signed
    } else {
        Access::Refused
    };
    let detail = json!({"method": method.as_str()});
    app.domain.access_note(access, caller, target, detail);
    if granted { Ok(()) } else { Err(not_valid()) }
}

pub(super) fn not_valid() -> Error {
    Error::new(Kind::Forbidden, "The URL is not valid, or not any more.")
}

/// Fetch what a signed URL is for
#[utoipa::path(
    get, path = "/s/{token}", tag = "files",
    params(
        ("token" = String, Path, description = "What was signed"),
        ("Range" = Option<String>, Header, description = "Up to 16 ranges of bytes (RFC 9110, section 14)"),
        ("If-Range" = Option<String>, Header, description = "An ETag or a date"),
        ("If-None-Match" = Option<String>, Header, description = "ETags"),
        ("If-Modified-Since" = Option<String>, Header, description = "A date"),
    ),
    responses(
        (status = 200, description = "All bytes", content_type = "*/*", body = types::Bytes),
        (status = 206, description = "The bytes asked for", content_type = "*/*", body = types::Bytes),
        (status = 304, description = "The content is still as the request's conditions say"),
    ),
)]
pub(super) async fn get(
    state: State<App>,
    params: RawPathParams,
    remote: Remote,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    answer(state, params, remote, uri, headers, Method::GET).await
}

/// Fetch the head of what a signed URL is for
#[utoipa::path(
    head, path = "/s/{token}", tag = "files",
    params(("token" = String, Path, description = "What was signed")),
    responses(
        (status = 200, description = "The header fields that GET would have, without the bytes"),
        (status = 304, description = "The content is still as the request's conditions say"),
    ),
)]
pub(super) async fn head(
    state: State<App>,
    params: RawPathParams,
    remote: Remote,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    answer(state, params, remote, uri, headers, Method::HEAD).await
}

async fn answer(
    State(app): State<App>,
    params: RawPathParams,
    remote: Remote,
    uri: Uri,
    headers: HeaderMap,
    method: Method,
) -> Result<Response> {
    if method == Method::GET
        && let Some(grant) = archives::granted(&app, &params)
    {
        return archives::send_granted(&app, grant, remote, &uri).await;
    }
    let (grant, _) = granted(&app, &params, &method, remote)?;
    Query::read(&uri, &[])?;
    let found = match grant.version {
        Some(version) => {
            app.domain
                .version_get(&grant.tenant, grant.file, version)
                .await?
        }
        None => {
            let file = app.domain.file_get(&grant.tenant, grant.file).await?;
            file.map(|file| {
                let content = Content::from(&file);
                (file, content)
            })
        }
    };
    let (file, content) = found.ok_or_else(Error::not_found)?;
    let asked = Asked::here(grant.disposition, headers, method);
    content::send(&app, &file, content, &asked).await
}

/// Replace the content of the file that a signed URL is for
///
/// As `PUT /v1/files/{id}/content`. It works once: the file must be as it was when the URL was signed. A URL
/// for the bytes of a direct upload, or of one of its parts, takes exactly so many, and answers with an `ETag` and no
/// body.
#[utoipa::path(
    put, path = "/s/{token}", tag = "files",
    params(
        ("token" = String, Path, description = "What was signed"),
        ("Repr-Digest" = Option<String>, Header, description = "The SHA-256 of the bytes as `sha-256=:BASE64:` (RFC 9530)"),
    ),
    request_body(content(
        (types::Bytes = "application/octet-stream"),
    ), description = "The bytes, of the `Content-Type` that the URL was signed for, if it was for one"),
    responses((status = 200, description = "The file as it is now", body = types::File,
        headers(("ETag" = String, description = "The content's")))),
)]
pub(super) async fn put(
    State(app): State<App>,
    params: RawPathParams,
    remote: Remote,
    request: Request,
) -> Result<Response> {
    if let Some(grant) = direct::granted(&app, &params) {
        return direct::put_granted(&app, grant, remote, request).await;
    }
    let (grant, caller) = granted(&app, &params, &Method::PUT, remote)?;
    let (head, body) = request.into_parts();
    Query::read(&head.uri, &[])?;
    let mut new = upload::new_content(&head.headers, None)?;
    if let Some(expected) = grant.content_type {
        if new.content_type.as_ref() != Some(&expected) {
            return Err(Error::new(
                Kind::UnsupportedMediaType,
                format!("The URL is for content of the type {expected}."),
            ));
        }
        new.content_type = Some(expected);
    }
    let mut source = extract::byte_stream(body, &app.config.limits);
    if let Some(most) = grant.max_size {
        if new.size.is_some_and(|size| size > most) {
            return Err(too_large(most));
        }
        source = at_most(source, most);
    }
    let revision = grant.revision;
    let precondition = Arc::new(move |file: &File| {
        if Some(file.revision) == revision {
            return Ok(());
        }
        Err(Error::new(
            Kind::PreconditionFailed,
            "The file has changed since the URL was signed.",
        ))
    });
    upload::replace_content(&app, caller, grant.file, new, source, precondition).await
}

fn too_large(most: u64) -> Error {
    Error::new(
        Kind::PayloadTooLarge,
        format!("The URL takes at most {most} bytes."),
    )
}

/// The same bytes, and an error in place of the first one too many.
fn at_most(source: ByteStream, most: u64) -> ByteStream {
    source
        .scan(0_u64, move |size, chunk| {
            let chunk = chunk.and_then(|chunk| {
                *size += chunk.len() as u64;
                if *size > most {
                    Err(too_large(most))
                } else {
                    Ok(chunk)
                }
            });
            std::future::ready(Some(chunk))
        })
        .boxed()
}
