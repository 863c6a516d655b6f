//! What handlers take out of a request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use bytes::Bytes;
use futures::StreamExt;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::domain::Caller;
use crate::error::{Error, Invalid, Kind, Result};
use crate::id::FileId;
use crate::objects::ByteStream;

use super::guard::Who;
use super::media_type;
use super::observe::RequestId;

/// The longest JSON body, in bytes: the metadata's 64 KiB, and room for the rest and its escapes; or a
/// thousand ids.
pub(super) const JSON_BODY: u64 = 128 * 1024;

/// The address that a connection came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Whom the guard let in. A route without a guard that asks for a token has none.
impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let who = parts.extensions.get::<Self>().cloned();
        who.ok_or_else(|| Error::internal("a public route asked who calls"))
    }
}

/// What is known of a request beside who sends it.
pub(super) struct Remote {
    pub request_id: Option<String>,
    pub remote_ip: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for Remote {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self {
            request_id: parts.extensions.get::<RequestId>().map(|id| id.0.clone()),
            remote_ip: parts
                .extensions
                .get::<Peer>()
                .map(|peer| peer.0.ip().to_canonical().to_string()),
        })
    }
}

/// On whose behalf a handler acts.
pub(super) struct Acting(pub Caller);

impl<S: Sync> FromRequestParts<S> for Acting {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Who(principal) = Who::from_request_parts(parts, state).await?;
        let Ok(Remote {
            request_id,
            remote_ip,
        }) = Remote::from_request_parts(parts, state).await;
        Ok(Self(Caller {
            tenant: principal.tenant.clone(),
            subject: principal.subject.clone(),
            request_id,
            remote_ip,
        }))
    }
}

/// `{id}` of a path. What is no id names nothing: 404.
pub(super) struct PathId<T = FileId>(pub T);

impl<S: Send + Sync, T: std::str::FromStr> FromRequestParts<S> for PathId<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        path_param(parts, state, "id").await.map(Self)
    }
}

/// `{slug}` of a path, decoded. What is no slug is found nowhere.
pub(super) struct PathSlug(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathSlug {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        path_param(parts, state, "slug").await.map(Self)
    }
}

/// `{id}` and `{version}` of a path.
pub(super) struct PathVersion(pub FileId, pub i64);

impl<S: Send + Sync> FromRequestParts<S> for PathVersion {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let id = path_param(parts, state, "id").await?;
        let version = path_param(parts, state, "version").await?;
        Ok(Self(id, version))
    }
}

async fn path_param<T: std::str::FromStr, S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    name: &str,
) -> Result<T> {
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|_| Error::not_found())?;
    params
        .iter()
        .find(|(known, _)| *known == name)
        .and_then(|(_, value)| value.parse().ok())
        .ok_or_else(Error::not_found)
}

/// The parameters of a query, each at most once.
#[derive(Debug, Default)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// # Errors
    /// 422 for a parameter that is none of `known`, and for one that comes twice.
    pub(super) fn read(uri: &Uri, known: &[&str]) -> Result<Self> {
        let mut found = BTreeMap::new();
        let mut invalid = Vec::new();
        let query = uri.query().unwrap_or_default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decoded(name), decoded(value)) else {
                return Err(Error::invalid(pointer(name), "is not UTF-8"));
            };
            let mut refuse = |detail: &str| {
                invalid.push(Invalid {
                    pointer: pointer(&name),
                    detail: detail.to_owned(),
                });
            };
            if !known.contains(&name.as_str()) {
                refuse("is no parameter of this route");
            } else if found.insert(name.clone(), value).is_some() {
                refuse("comes more than once");
            }
        }
        if invalid.is_empty() {
            Ok(Self(found))
        } else {
            Err(Error::invalid_many(invalid))
        }
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// The parameter as `read` reads it; 422 with `expected` where it can't.
    pub(super) fn parse<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        match read(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::invalid(pointer(name), format!("must be {expected}"))),
        }
    }

    /// `true` or `false`, which is what an absent one is.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool> {
        let flag = self.parse(name, "true or false", |text| text.parse().ok())?;
        Ok(flag.unwrap_or(false))
    }
}

/// As forms are encoded (WHATWG URL, section 5.1), but for what is not UTF-8: replaced by some other
/// character, it would be stored as what the caller did not say.
pub(super) fn decoded(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// `~` and `/` are escaped in a JSON pointer (RFC 6901, section 3).
fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// A JSON object, or `null` where `T` takes it.
///
/// # Errors
/// 400 for what is no JSON, 422 for JSON of another shape.
pub(super) fn json_object<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    if text.trim_ascii_start().starts_with(b"[") {
        // serde takes a list for an object's fields in their order.
        serde_json::from_slice::<serde::de::IgnoredAny>(text).map_err(|error| malformed(&error))?;
        return Err(Error::invalid("", "must be an object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path: String = error
            .path()
            .iter()
            .map(|segment| match segment {
                serde_path_to_error::Segment::Seq { index } => format!("/{index}"),
                segment => pointer(&segment.to_string()),
            })
            .collect();
        let error = error.into_inner();
        if error.is_data() {
            Error::invalid(path, without_place(&error))
        } else {
            malformed(&error)
        }
    })?;
    reader.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn malformed(error: &serde_json::Error) -> Error {
    Error::new(
        Kind::MalformedJson,
        format!("The JSON can't be parsed: {error}."),
    )
}

/// What serde_json says, without the line and column, which mean nothing to who sent a query.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

/// All of a JSON body, as bytes.
///
/// # Errors
/// 415 for another content type than those allowed (none at all is taken for JSON), 413 for what is
/// longer than [`JSON_BODY`], 408 and 400 as [`byte_stream`].
pub(super) async fn json_bytes(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    allowed: &[&str],
) -> Result<Vec<u8>> {
    if let Some(content_type) = headers.get(CONTENT_TYPE) {
        let content_type = content_type.to_str().unwrap_or_default();
        if !allowed
            .iter()
            .any(|essence| media_type::names(content_type, essence))
        {
            return Err(Error::new(
                Kind::UnsupportedMediaType,
                format!("The body must be {}.", allowed.join(" or ")),
            ));
        }
    }
    let mut source = byte_stream(body, app.config.limits.idle_timeout);
    let mut bytes = Vec::new();
    while let Some(chunk) = source.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() as u64 > JSON_BODY {
            return Err(json_too_large());
        }
    }
    Ok(bytes)
}

pub(super) fn json_too_large() -> Error {
    Error::new(
        Kind::PayloadTooLarge,
        format!("The body may have at most {JSON_BODY} bytes."),
    )
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether the body is `multipart/form-data`.
pub(super) fn is_form(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| media_type::names(value, "multipart/form-data"))
}

/// A body as it comes. It ends with an error, never cleanly, when the client stalls for `idle`,
/// breaks off, or sends what is no chunk.
pub(super) fn byte_stream(body: Body, idle: Duration) -> ByteStream {
    let body = body.into_data_stream();
    futures::stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout(idle, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(body))),
            Ok(Some(Err(cause))) => Some((Err(broken_off(cause)), None)),
            Err(_) => Some((Err(stalled(idle)), None)),
        }
    })
    .filter(|item: &Result<Bytes>| {
        std::future::ready(item.as_ref().map_or(true, |chunk| !chunk.is_empty()))
    })
    .boxed()
}

fn broken_off(cause: axum::Error) -> Error {
    Error::new(Kind::BadRequest, "The body broke off before its end.").because(cause)
}

fn stalled(idle: Duration) -> Error {
    Error::new(
        Kind::RequestTimeout,
        format!(
            "No byte of the body came for {} seconds.",
            idle.as_secs_f64()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(error: &Error) -> Vec<&str> {
        let parts = error.invalid_parts().iter();
        parts.map(|part| part.pointer.as_str()).collect()
    }

    #[test]
    fn a_parameter_is_decoded_or_refused_but_never_replaced() {
        let read = |query: &str| {
            let uri = format!("/x?{query}").parse().unwrap();
            Query::read(&uri, &["a", "b"])
        };
        let mut query = read("&a=%C3%A4+%26%3D&&b").unwrap();
        assert_eq!(query.take("a").as_deref(), Some("ä &="));
        assert_eq!(query.take("b").as_deref(), Some(""));
        assert_eq!(query.take("a"), None);
        for (text, pointer) in [
            ("a=%ff", "/a"),
            ("b=x&a=%C3", "/a"),
            ("a=x&a=x", "/a"),
            ("c=%ff", "/c"),
            ("c/~=", "/c~1~0"),
        ] {
            assert_eq!(pointers(&read(text).unwrap_err()), [pointer], "{text}");
        }
    }

    #[test]
    fn a_list_is_no_object() {
        #[derive(Debug, serde::Deserialize)]
        struct Pair {
            _a: u8,
            _b: u8,
        }
        assert!(json_object::<Pair>(br#" {"_a":1,"_b":2}"#).is_ok());
        let error = json_object::<Pair>(b" [1,2]").unwrap_err();
        assert_eq!(
            (error.kind(), pointers(&error)),
            (Kind::InvalidRequest, vec![""])
        );
        for malformed in ["[1,2", "[1,2]x", ""] {
            let error = json_object::<Pair>(malformed.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), Kind::MalformedJson, "{malformed}");
        }
    }
}
