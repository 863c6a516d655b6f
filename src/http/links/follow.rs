//! `/l/{slug}`: where a link leads, for whoever has it.

use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, LOCATION, SET_COOKIE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;

use crate::app::App;
use crate::domain::files::Content;
use crate::domain::links::Link;
use crate::error::{Error, Kind, Result};
use crate::http::content::{self, Asked};
use crate::http::disposition::Disposition;
use crate::http::extract::{self, PathSlug, Peer};
use crate::http::{media_type, types};

use super::page;

const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");
const PASSWORD: HeaderName = HeaderName::from_static("x-link-password");

/// A password of 256 bytes, each of them escaped, and its name.
const FORM_BYTES: usize = 1024;

/// How often a link is looked up that others change or use up meanwhile.
const LOOKS: usize = 3;

/// Follow a link
///
/// An external URL gives 302, a file its content. A link that was deleted or disabled, has expired or was used
/// as often as it may be, or whose file is in the trash or gone, answers 410. One use is one GET that is
/// answered with 302, 200, or 206 from byte 0. Parameters of the query are passed over.
#[utoipa::path(
    get, path = "/l/{slug}", tag = "links",
    params(
        ("slug" = String, Path, description = "The slug, with its slashes"),
        ("X-Link-Password" = Option<String>, Header, description = "The link's password"),
        ("Range" = Option<String>, Header, description = "Up to 16 ranges of bytes (RFC 9110, section 14)"),
        ("If-Range" = Option<String>, Header, description = "An ETag or a date"),
        ("If-None-Match" = Option<String>, Header, description = "ETags"),
        ("If-Modified-Since" = Option<String>, Header, description = "A date"),
    ),
    responses(
        (status = 200, description = "All bytes of the file", content_type = "*/*", body = types::Bytes),
        (status = 206, description = "The bytes asked for", content_type = "*/*", body = types::Bytes),
        (status = 302, description = "The URL is at `Location`"),
        (status = 304, description = "The content is still as the request's conditions say"),
    ),
)]
pub(in crate::http) async fn get(
    State(app): State<App>,
    PathSlug(slug): PathSlug,
    request: Request,
) -> Response {
    answer(app, slug, request, Method::GET).await
}

/// Look at a link
///
/// The header fields that GET would have. It is no use of the link.
#[utoipa::path(
    head, path = "/l/{slug}", tag = "links",
    params(
        ("slug" = String, Path, description = "The slug, with its slashes"),
        ("X-Link-Password" = Option<String>, Header, description = "The link's password"),
    ),
    responses(
        (status = 200, description = "The header fields of the file's content"),
        (status = 302, description = "The URL is at `Location`"),
        (status = 304, description = "The content is still as the request's conditions say"),
    ),
)]
pub(in crate::http) async fn head(
    State(app): State<App>,
    PathSlug(slug): PathSlug,
    request: Request,
) -> Response {
    answer(app, slug, request, Method::HEAD).await
}

async fn answer(app: App, slug: String, request: Request, method: Method) -> Response {
    let (head, _) = request.into_parts();
    let answered = followed(&app, &slug, &head, method).await;
    told(&app, answered)
}

/// Counts what became of it, and adds what every answer has.
fn told(app: &App, answered: Result<Response>) -> Response {
    let metrics = &app.domain.metrics.links;
    if let Err(error) = &answered {
        match error.kind() {
            Kind::Gone => metrics.gone.inc(),
            Kind::PasswordRequired => metrics.password_required.inc(),
            _ => 0,
        };
    }
    let mut response = answered.into_response();
    let fields = response.headers_mut();
    fields.insert(ROBOTS, HeaderValue::from_static("noindex"));
    fields
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn followed(app: &App, slug: &str, head: &Parts, method: Method) -> Result<Response> {
    for _ in 0..LOOKS {
        let link = app.domain.link_resolve(slug).await?;
        if link.has_password && !let_in(app, &link, head).await? {
            return refused(app, head);
        }
        let response = match &link.url {
            Some(url) => redirect(url)?,
            None => send(app, &link, head.headers.clone(), method.clone()).await?,
        };
        if method == Method::HEAD || !is_use(&response) {
            return Ok(response);
        }
        if app.domain.link_use(&link).await? {
            let metrics = &app.domain.metrics.links;
            if link.url.is_some() {
                metrics.redirected.inc();
            } else {
                metrics.sent.inc();
            }
            return Ok(response);
        }
    }
    Err(Error::unavailable("a link changed again and again"))
}

fn redirect(url: &str) -> Result<Response> {
    let url = HeaderValue::try_from(url).map_err(Error::internal)?;
    let fields = [
        (LOCATION, url),
        // Else browsers would follow a link that is gone.
        (CACHE_CONTROL, HeaderValue::from_static("private, no-store")),
    ];
    Ok((StatusCode::FOUND, fields).into_response())
}

async fn send(app: &App, link: &Link, headers: HeaderMap, method: Method) -> Result<Response> {
    let file = match link.file_id {
        Some(id) => app.domain.file_get(&link.tenant, id).await?,
        None => None,
    };
    let file = file.ok_or_else(|| Error::new(Kind::Gone, "The link's file is gone."))?;
    let disposition = match link.disposition.as_deref() {
        Some("inline") => Some(Disposition::Inline),
        _ => None,
    };
    let content = Content::from(&file);
    let asked = Asked::here(disposition, headers, method);
    content::send(app, &file, content, &asked).await
}

/// 302, 200, and 206 from byte 0; several ranges may hold it anywhere.
fn is_use(response: &Response) -> bool {
    match response.status() {
        StatusCode::FOUND | StatusCode::OK => true,
        StatusCode::PARTIAL_CONTENT => response
            .headers()
            .get(CONTENT_RANGE)
            .is_none_or(|range| range.as_bytes().starts_with(b"bytes 0-")),
        _ => false,
    }
}

/// Whether who asks has shown that they know the password.
async fn let_in(app: &App, link: &Link, head: &Parts) -> Result<bool> {
    match head.headers.get(PASSWORD) {
        None => Ok(page::remembered(app, link, &head.headers)),
        Some(password) => match password.to_str() {
            Ok(password) => verified(app, link, password, head).await,
            // Bytes beyond ASCII: as UTF-8, or as nothing.
            Err(_) => match std::str::from_utf8(password.as_bytes()) {
                Ok(password) => verified(app, link, password, head).await,
                Err(_) => Ok(false),
            },
        },
    }
}

async fn verified(app: &App, link: &Link, password: &str, head: &Parts) -> Result<bool> {
    let peer = head.extensions.get::<Peer>();
    let peer = peer.ok_or_else(|| Error::internal("a request came from no address"))?;
    let address = peer.0.ip();
    app.domain.link_password_is(link, password, address).await
}

/// A browser is asked for it, everybody else told.
fn refused(app: &App, head: &Parts) -> Result<Response> {
    let headers = &head.headers;
    let browses = headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("text/html"));
    if browses && !headers.contains_key(PASSWORD) {
        app.domain.metrics.links.password_required.inc();
        return Ok(page::form(false));
    }
    Err(Error::new(
        Kind::PasswordRequired,
        "The link has a password: send it as X-Link-Password.",
    ))
}

/// Send a link's password
///
/// As the page does that asks for it. The right one is remembered by a cookie for 15 minutes.
#[utoipa::path(
    post, path = "/l/{slug}", tag = "links",
    params(("slug" = String, Path, description = "The slug, with its slashes")),
    request_body(content = types::LinkForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 303, description = "To the link itself")),
)]
pub(in crate::http) async fn unlock(
    State(app): State<App>,
    PathSlug(slug): PathSlug,
    request: Request,
) -> Response {
    let answered = unlocked(&app, &slug, request).await;
    told(&app, answered)
}

async fn unlocked(app: &App, slug: &str, request: Request) -> Result<Response> {
    let link = app.domain.link_resolve(slug).await?;
    let form = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| media_type::names(value, "application/x-www-form-urlencoded"));
    if !form {
        return Err(Error::new(
            Kind::UnsupportedMediaType,
            "The body must be application/x-www-form-urlencoded.",
        ));
    }
    let (head, body) = request.into_parts();
    let mut source = extract::byte_stream(body, app.config.limits.idle_timeout);
    let mut bytes = Vec::new();
    while let Some(chunk) = source.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() > FORM_BYTES {
            return Err(Error::new(
                Kind::PayloadTooLarge,
                format!("The form may have at most {FORM_BYTES} bytes."),
            ));
        }
    }
    let password = read_form(&bytes)
        .ok_or_else(|| Error::invalid("/password", "must come, once and as UTF-8"))?;
    if !verified(app, &link, &password, &head).await? {
        app.domain.metrics.links.password_required.inc();
        return Ok(page::form(true));
    }
    let Some(cookie) = page::pass(app, &link)? else {
        return Err(Error::new(
            Kind::Conflict,
            "This service has no secret to sign a cookie with: its operator may set urls.secret.",
        ));
    };
    let path = format!("{}l/{slug}", app.config.public_url().path());
    let fields = [(LOCATION, path), (SET_COOKIE, cookie)];
    Ok((StatusCode::SEE_OTHER, fields).into_response())
}

/// The password of a form (WHATWG URL, section 5.1).
pub(in crate::http) fn read_form(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut password = None;
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name == "password" && password.replace(extract::decoded(value)?).is_some() {
            return None;
        }
    }
    password
}
