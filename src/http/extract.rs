//! What handlers take out of a request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Uri};
use bytes::Bytes;
use futures::StreamExt;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::config::Limits;
use crate::domain::Caller;
use crate::error::{Error, Invalid, Kind, Result};
use crate::id::{FileId, Tenant};
use crate::objects::ByteStream;

use super::address::Address;
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
        Ok(Self::of(&parts.extensions))
    }
}

impl Remote {
    pub(super) fn of(extensions: &Extensions) -> Self {
        let address = extensions.get::<Address>();
        Self {
            request_id: extensions.get::<RequestId>().map(|id| id.0.clone()),
            remote_ip: address.map(|address| address.0.to_string()),
        }
    }

    /// On whose behalf something is done with this request.
    pub(super) fn caller(self, tenant: Tenant, subject: String) -> Caller {
        Caller {
            tenant,
            subject,
            request_id: self.request_id,
            remote_ip: self.remote_ip,
        }
    }
}

/// On whose behalf a handler acts.
pub(super) struct Acting(pub Caller);

impl<S: Sync> FromRequestParts<S> for Acting {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Who(principal) = Who::from_request_parts(parts, state).await?;
        let (tenant, subject) = (principal.tenant.clone(), principal.subject.clone());
        Ok(Self(Remote::of(&parts.extensions).caller(tenant, subject)))
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

    /// For what stands elsewhere and is read alike.
    pub(super) fn set(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), value);
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
    json_bytes_upto(app, headers, body, allowed, JSON_BODY).await
}

/// The same of a body that may have `most` bytes.
pub(super) async fn json_bytes_upto(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    allowed: &[&str],
    most: u64,
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
    let mut source = byte_stream(body, &app.config.limits);
    let mut bytes = Vec::new();
    while let Some(chunk) = source.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() as u64 > most {
            return Err(json_too_large(most));
        }
    }
    Ok(bytes)
}

pub(super) fn json_too_large(most: u64) -> Error {
    Error::new(
        Kind::PayloadTooLarge,
        format!("The body may have at most {most} bytes."),
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

/// A body as it comes. It ends with an error, never cleanly, when the client stalls for
/// `limits.idle_timeout`, is slower than `limits.min_body_rate`, breaks off, or sends what is no chunk.
pub(super) fn byte_stream(body: Body, limits: &Limits) -> ByteStream {
    let idle = limits.idle_timeout;
    let pace = Pace::new(limits);
    let state = Some((body.into_data_stream(), pace));
    futures::stream::unfold(state, move |state| async move {
        let (mut body, mut pace) = state?;
        let left = pace.left();
        let patience = left.min(idle);
        let began = Instant::now();
        let polled = tokio::time::timeout(patience, body.next()).await;
        pace.waited += began.elapsed();
        match polled {
            Ok(None) => None,
            Ok(Some(Ok(chunk))) => {
                pace.came += chunk.len() as u64;
                Some((Ok(chunk), Some((body, pace))))
            }
            Ok(Some(Err(cause))) => Some((Err(broken_off(cause)), None)),
            Err(_) if left <= idle => Some((Err(pace.too_slow()), None)),
            Err(_) => Some((Err(stalled(idle)), None)),
        }
    })
    .filter(|item: &Result<Bytes>| {
        std::future::ready(item.as_ref().map_or(true, |chunk| !chunk.is_empty()))
    })
    .boxed()
}

/// How fast a body comes. Only the time in which it was waited for counts: a store that is slow is not
/// the client's fault.
struct Pace {
    /// Bytes a second; 0: any.
    rate: u64,
    grace: Duration,
    came: u64,
    waited: Duration,
}

impl Pace {
    fn new(limits: &Limits) -> Self {
        Self {
            rate: limits.min_body_rate.bytes(),
            grace: limits.min_body_grace,
            came: 0,
            waited: Duration::ZERO,
        }
    }

    /// How much longer it may be waited for, with what has come.
    fn left(&self) -> Duration {
        if self.rate == 0 {
            return Duration::MAX;
        }
        let micros = u128::from(self.came) * 1_000_000 / u128::from(self.rate);
        let earned = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        let allowed = self.grace.saturating_add(earned);
        allowed.saturating_sub(self.waited)
    }

    fn too_slow(&self) -> Error {
        Error::new(
            Kind::RequestTimeout,
            format!(
                "The body came slower than {} bytes a second: {} bytes in {:.1} seconds.",
                self.rate,
                self.came,
                self.waited.as_secs_f64()
            ),
        )
    }
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
    fn a_body_earns_time_by_what_it_brings() {
        let mut pace = Pace {
            rate: 1_000,
            grace: Duration::from_secs(5),
            came: 0,
            waited: Duration::ZERO,
        };
        assert_eq!(pace.left(), Duration::from_secs(5));
        pace.waited = Duration::from_secs(4);
        assert_eq!(pace.left(), Duration::from_secs(1));
        pace.came = 2_500;
        assert_eq!(pace.left(), Duration::from_millis(3_500));
        pace.waited = Duration::from_secs(60);
        assert_eq!(pace.left(), Duration::ZERO);
        // At the rate, it may go on for ever.
        pace.came = 60_000;
        assert_eq!(pace.left(), Duration::from_secs(5));
        pace.came = u64::MAX;
        assert!(pace.left() > Duration::from_secs(1 << 40));
        pace.rate = 0;
        assert_eq!(pace.left(), Duration::MAX);
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
