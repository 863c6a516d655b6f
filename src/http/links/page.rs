//! The page that asks for a link's password, and the cookie that remembers it. The page has no script,
//! and says nothing of what the link leads to.

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::domain::links::Link;
use crate::error::Result;

/// How long a browser need not ask again, in seconds.
const REMEMBERED: u64 = 900;

const COOKIE_NAME: &str = "box_link";

/// What the cookie says: who had this link's password, until when. Sealed.
#[derive(Serialize, Deserialize)]
struct Pass {
    link: String,
    /// Of the hash, so that it ends with the password.
    password: String,
    /// In microseconds.
    until: i64,
}

fn fingerprint(link: &Link) -> String {
    let hash = link.password.as_deref().unwrap_or_default();
    hex::encode(&Sha256::digest(hash)[..16])
}

/// Whether the request has a cookie that says that its sender knew the password.
pub(super) fn remembered(app: &App, link: &Link, headers: &HeaderMap) -> bool {
    let Some(seal) = &app.seal else {
        return false;
    };
    let now = app.domain.clock.now().as_micros();
    let good = |pass: &Pass| {
        pass.link == link.slug && pass.password == fingerprint(link) && pass.until > now
    };
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == COOKIE_NAME)
        .any(|(_, value)| seal.open::<Pass>(value).is_some_and(|pass| good(&pass)))
}

/// `Set-Cookie` for who has sent the password. None: this service has no secret to seal it with.
pub(super) fn pass(app: &App, link: &Link) -> Result<Option<String>> {
    let Some(seal) = &app.seal else {
        return Ok(None);
    };
    let now = app.domain.clock.now();
    let until = now.plus(std::time::Duration::from_secs(REMEMBERED));
    let value = seal.seal(&Pass {
        link: link.slug.clone(),
        password: fingerprint(link),
        until: until.as_micros(),
    })?;
    let url = app.config.public_url();
    let secure = if url.scheme() == "https" {
        "; Secure"
    } else {
        ""
    };
    Ok(Some(format!(
        "{COOKIE_NAME}={value}; Path={}l/{}; Max-Age={REMEMBERED}; HttpOnly; SameSite=Lax{secure}",
        url.path(),
        link.slug
    )))
}

/// The page, with what was wrong before.
pub(super) fn form(wrong: bool) -> Response {
    let (described, wrong) = if wrong {
        (
            r#" aria-describedby="wrong" aria-invalid="true""#,
            "<p id=\"wrong\" role=\"alert\">This is not the password.</p>\n",
        )
    } else {
        ("", "")
    };
    let page = format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Password required</title>
</head>
<body>
<main>
<h1>Password required</h1>
<form method="post">
{wrong}<p><label for="password">Password of this link</label></p>
<p><input type="password" id="password" name="password" required maxlength="256" autocomplete="off"{described}></p>
<p><button type="submit">Continue</button></p>
</form>
</main>
</body>
</html>
"#
    );
    let mut response = (StatusCode::FORBIDDEN, Html(page)).into_response();
    let fields = response.headers_mut();
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Browsers apply form-action to the redirects behind the form too, and the link may lead anywhere.
    fields.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; form-action 'self' http: https:; frame-ancestors 'none'; base-uri 'none'",
        ),
    );
    response
}
