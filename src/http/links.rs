//! `/v1/links`: slugs that lead to files and to external URLs. What they lead to is in `follow`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, ETAG, LOCATION};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::app::App;
use crate::domain::links::{
    Link, LinkPatch, NewLink, Precondition, State as Of, Wanted, slug_fault,
};
use crate::error::{Error, Result};
use crate::id::FileId;

use super::disposition::Disposition;
use super::extract::{self, Acting, PathSlug, Query};
use super::guard::Who;
use super::list::limit;
use super::{conditional, once, types};

pub(super) mod batch;
pub(super) mod follow;
mod page;

/// All of a slug but what a path's segment has as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Make a link
///
/// To a file of the tenant's or to an external URL. A slug is unique in the whole deployment; the slug of
/// a deleted link stays its tenant's for a while, who can make it anew.
#[utoipa::path(
    post, path = "/v1/links", tag = "links",
    params(("Idempotency-Key" = Option<String>, Header, description = "The caller's own: an equal request within 24 hours is answered as this one was")),
    request_body(content = types::NewLink, content_type = "application/json"),
    responses((status = 201, description = "The link", body = types::Link,
        headers(
            ("Location" = String, description = "The link's path in this API"),
            ("ETag" = String, description = "The revision, in quotes"),
        ))),
)]
pub(super) async fn create(
    State(app): State<App>,
    Acting(caller): Acting,
    request: Request,
) -> Result<Response> {
    Query::read(request.uri(), &[])?;
    let (head, body) = request.into_parts();
    let body = extract::json_bytes(&app, &head.headers, body, &["application/json"]).await?;
    let new = new_link(extract::json_object(&body)?)?;
    let once = once::read(&head, "createLink", &[&body])?;
    let link = app.domain.link_create(&caller, new, once).await?;
    let path = format!(
        "{}v1/links/{}",
        app.config.public_url().path(),
        utf8_percent_encode(&link.slug, SEGMENT)
    );
    let fields = [(LOCATION, path), (ETAG, revision_tag(&link))];
    Ok((StatusCode::CREATED, fields, Json(shape(&app, link))).into_response())
}

fn new_link(new: types::NewLink) -> Result<NewLink> {
    Ok(NewLink {
        slug: new.slug,
        url: new.url,
        file_id: new.file_id.as_deref().map(file_id).transpose()?,
        expires_at: new.expires_at,
        max_uses: new.max_uses,
        password: new.password,
        disposition: new.disposition.map(Disposition::as_str),
    })
}

/// What is no id is no file's either.
fn file_id(text: &str) -> Result<FileId> {
    text.parse()
        .map_err(|()| Error::invalid("/file_id", "is no file's"))
}

fn shape(app: &App, link: Link) -> types::Link {
    types::Link {
        link_url: format!("{}l/{}", app.config.public_url(), link.slug),
        state: Of::of(&link, app.domain.clock.now()).as_str(),
        slug: link.slug,
        url: link.url,
        file_id: link.file_id.map(|id| id.to_string()),
        expires_at: link.expires_at,
        max_uses: link.max_uses,
        uses: link.uses,
        last_used_at: link.last_used_at,
        has_password: link.has_password,
        disposition: link.disposition,
        created_at: link.created_at,
        updated_at: link.updated_at,
    }
}

fn revision_tag(link: &Link) -> String {
    format!("\"{}\"", link.revision)
}

fn revision_is(headers: HeaderMap) -> Precondition {
    Arc::new(move |link: &Link| conditional::if_match(&headers, &revision_tag(link)))
}

fn described(app: &App, link: Link) -> Response {
    let fields = [
        (ETAG, revision_tag(&link)),
        (CACHE_CONTROL, "private, no-cache".to_owned()),
    ];
    (fields, Json(shape(app, link))).into_response()
}

/// List links
///
/// By their slugs. With a `state`, a page may have fewer links than `limit` and more to come.
#[utoipa::path(
    get, path = "/v1/links", tag = "links",
    params(
        ("prefix" = Option<String>, Query, description = "The first characters of the slug"),
        ("file_id" = Option<String>, Query, description = "Only those that lead to this file"),
        ("state" = Option<String>, Query, description = "`active`, `expired`, `spent` or `disabled`"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Links of a page; 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of links", body = types::LinkPage)),
)]
pub(super) async fn list(
    State(app): State<App>,
    Who(principal): Who,
    uri: Uri,
) -> Result<Json<types::LinkPage>> {
    let known = ["prefix", "file_id", "state", "limit", "cursor"];
    let mut query = Query::read(&uri, &known)?;
    let limit = limit(&mut query)?;
    let wanted = Wanted {
        prefix: query
            .parse("prefix", "the beginning of a slug", |text| {
                let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
                (text.len() <= 128 && text.bytes().all(legal)).then(|| text.to_owned())
            })?
            .unwrap_or_default(),
        file_id: query.parse("file_id", "a file's id", |text| text.parse().ok())?,
        state: query.parse("state", "active, expired, spent or disabled", |text| {
            Of::ALL.into_iter().find(|state| state.as_str() == text)
        })?,
    };
    let after = query.parse("cursor", "the next_cursor of a page", read_cursor)?;
    let after = after.unwrap_or_default();
    let tenant = &principal.tenant;
    let (links, behind) = app.domain.link_list(tenant, &wanted, &after, limit).await?;
    Ok(Json(types::LinkPage {
        items: links.into_iter().map(|link| shape(&app, link)).collect(),
        next_cursor: behind.map(|slug| URL_SAFE_NO_PAD.encode(slug)),
    }))
}

fn read_cursor(text: &str) -> Option<String> {
    let slug = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    slug_fault(&slug).is_none().then_some(slug)
}

/// Fetch a link
#[utoipa::path(
    get, path = "/v1/links/{slug}", tag = "links",
    params(("slug" = String, Path, description = "The slug; its slashes as `%2F`")),
    responses((status = 200, description = "The link", body = types::Link,
        headers(("ETag" = String, description = "The revision, in quotes")))),
)]
pub(super) async fn get(
    State(app): State<App>,
    Who(principal): Who,
    PathSlug(slug): PathSlug,
    uri: Uri,
) -> Result<Response> {
    Query::read(&uri, &[])?;
    known(&slug)?;
    let link = app.domain.link_get(&principal.tenant, &slug).await?;
    Ok(described(&app, link.ok_or_else(Error::not_found)?))
}

/// The database takes no U+0000.
fn known(slug: &str) -> Result<()> {
    match slug_fault(slug) {
        Some(_) => Err(Error::not_found()),
        None => Ok(()),
    }
}

/// Change a link
///
/// A JSON Merge Patch (RFC 7396). It holds for everybody within a second.
#[utoipa::path(
    patch, path = "/v1/links/{slug}", tag = "links",
    params(
        ("slug" = String, Path, description = "The slug; its slashes as `%2F`"),
        ("If-Match" = Option<String>, Header, description = "The revision that is meant, in quotes"),
    ),
    request_body(content(
        (types::LinkPatch = "application/merge-patch+json"),
        (types::LinkPatch = "application/json"),
    )),
    responses((status = 200, description = "The link as it is now", body = types::Link,
        headers(("ETag" = String, description = "The revision, in quotes")))),
)]
pub(super) async fn patch(
    State(app): State<App>,
    Acting(caller): Acting,
    PathSlug(slug): PathSlug,
    request: Request,
) -> Result<Response> {
    Query::read(request.uri(), &[])?;
    known(&slug)?;
    let (head, body) = request.into_parts();
    let allowed = ["application/merge-patch+json", "application/json"];
    let body = extract::json_bytes(&app, &head.headers, body, &allowed).await?;
    let patch: types::LinkPatch = extract::json_object(&body)?;
    let patch = LinkPatch {
        url: patch.url,
        file_id: match patch.file_id {
            Some(Some(text)) => Some(Some(file_id(&text)?)),
            Some(None) => Some(None),
            None => None,
        },
        expires_at: patch.expires_at,
        max_uses: patch.max_uses,
        password: patch.password,
        disposition: patch
            .disposition
            .map(|disposition| disposition.map(Disposition::as_str)),
        disabled: patch.disabled,
    };
    let precondition = revision_is(head.headers);
    let link = app
        .domain
        .link_patch(&caller, &slug, patch, precondition)
        .await?;
    Ok(described(&app, link))
}

/// Delete a link
///
/// It answers 410 from then on. Its slug stays the tenant's for a while, who can make it anew.
#[utoipa::path(
    delete, path = "/v1/links/{slug}", tag = "links",
    params(
        ("slug" = String, Path, description = "The slug; its slashes as `%2F`"),
        ("If-Match" = Option<String>, Header, description = "The revision that is meant, in quotes"),
    ),
    responses((status = 204, description = "It is deleted")),
)]
pub(super) async fn delete(
    State(app): State<App>,
    Acting(caller): Acting,
    PathSlug(slug): PathSlug,
    uri: Uri,
    headers: HeaderMap,
) -> Result<StatusCode> {
    Query::read(&uri, &[])?;
    known(&slug)?;
    app.domain
        .link_delete(&caller, &slug, revision_is(headers))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
