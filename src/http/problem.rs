//! Errors as `application/problem+json` (RFC 9457). The one place where a kind of error becomes a
//! status.

use std::any::Any;
use std::sync::{Arc, LazyLock};

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{Error, Kind};

/// What went wrong (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Stable: a client can switch on it.
    #[serde(rename = "type")]
    #[schema(example = "urn:box-service:problem:not-found")]
    pub r#type: String,
    pub title: &'static str,
    #[schema(example = 404)]
    pub status: u16,
    pub detail: String,
    /// The request's id, which the log lines have too.
    #[schema(example = "urn:box-service:request:019ab1c2-0000-7000-8000-000000000000")]
    pub instance: String,
    /// What is wrong with which part of the request, where the request is not valid.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<InvalidPart>,
}

/// One invalid part of a request.
#[derive(Debug, Serialize, ToSchema)]
pub struct InvalidPart {
    /// A JSON pointer (RFC 6901) into the body; for a query parameter or a header, `/` and its name.
    #[schema(example = "/name")]
    pub pointer: String,
    pub detail: String,
}

struct Shape {
    status: StatusCode,
    name: &'static str,
    title: &'static str,
}

fn shape(kind: Kind) -> Shape {
    let (status, name, title) = match kind {
        Kind::MalformedJson => (400, "malformed-json", "Malformed JSON"),
        Kind::BadRequest => (400, "bad-request", "Bad request"),
        Kind::Unauthenticated => (401, "unauthenticated", "Unauthenticated"),
        Kind::Forbidden => (403, "forbidden", "Forbidden"),
        Kind::QuotaExceeded => (403, "quota-exceeded", "Quota exceeded"),
        Kind::NotFound => (404, "not-found", "Not found"),
        Kind::MethodNotAllowed => (405, "method-not-allowed", "Method not allowed"),
        Kind::RequestTimeout => (408, "request-timeout", "Request timeout"),
        Kind::Conflict => (409, "conflict", "Conflict"),
        Kind::StillRunning => (409, "conflict", "Conflict"),
        Kind::Gone => (410, "gone", "Gone"),
        Kind::LengthRequired => (411, "length-required", "Length required"),
        Kind::PreconditionFailed => (412, "precondition-failed", "Precondition failed"),
        Kind::PayloadTooLarge => (413, "payload-too-large", "Payload too large"),
        Kind::UnsupportedMediaType => (415, "unsupported-media-type", "Unsupported media type"),
        Kind::RangeNotSatisfiable => (416, "range-not-satisfiable", "Range not satisfiable"),
        Kind::InvalidRequest => (422, "invalid-request", "Invalid request"),
        Kind::ChecksumMismatch => (422, "checksum-mismatch", "Checksum mismatch"),
        Kind::PieceMismatch => (460, "checksum-mismatch", "Checksum mismatch"),
        Kind::Locked => (423, "locked", "Locked"),
        Kind::PasswordRequired => (403, "password-required", "Password required"),
        Kind::RateLimited => (429, "rate-limited", "Too many requests"),
        Kind::Internal => (500, "internal", "Internal error"),
        Kind::Unavailable => (503, "unavailable", "Unavailable"),
    };
    Shape {
        status: StatusCode::from_u16(status).expect("the statuses above are statuses"),
        name,
        title,
    }
}

pub(super) fn status(kind: Kind) -> u16 {
    shape(kind).status.as_u16()
}

pub(super) fn r#type(kind: Kind) -> String {
    format!("urn:box-service:problem:{}", shape(kind).name)
}

pub(super) fn title(kind: Kind) -> &'static str {
    shape(kind).title
}

/// Carries the error out to where the request's id is known: see [`render`].
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = shape(self.kind()).status.into_response();
        if self.kind() == Kind::Unauthenticated {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(
            self.kind(),
            Kind::Unavailable | Kind::StillRunning | Kind::Locked
        ) {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        if self.kind() == Kind::RateLimited {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("600"));
        }
        response.extensions_mut().insert(Carried(Arc::new(self)));
        response
    }
}

#[derive(Clone)]
struct Carried(Arc<Error>);

fn problem(error: &Error, request_id: &str) -> Problem {
    let shape = shape(error.kind());
    Problem {
        r#type: r#type(error.kind()),
        title: shape.title,
        status: shape.status.as_u16(),
        detail: error.detail().to_owned(),
        instance: format!("urn:box-service:request:{request_id}"),
        errors: invalid_parts(error),
    }
}

pub(super) fn invalid_parts(error: &Error) -> Vec<InvalidPart> {
    let parts = error.invalid_parts().iter();
    parts
        .map(|part| InvalidPart {
            pointer: part.pointer.clone(),
            detail: part.detail.clone(),
        })
        .collect()
}

/// Gives a response that carries an error its body; the error's story, for the log.
pub(super) fn render(response: Response, request_id: &str) -> (Response, Option<String>) {
    let (mut head, body) = response.into_parts();
    let Some(Carried(error)) = head.extensions.remove() else {
        return (Response::from_parts(head, body), None);
    };
    let problem = problem(&error, request_id);
    let mut rendered = (head.status, Json(problem)).into_response();
    rendered.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    // What was set for the error's sake stays: Allow, Content-Range, WWW-Authenticate.
    for (name, value) in &head.headers {
        if name != CONTENT_TYPE && name != axum::http::header::CONTENT_LENGTH {
            rendered.headers_mut().append(name, value.clone());
        }
    }
    *rendered.extensions_mut() = head.extensions;
    (rendered, Some(error.story()))
}

pub(super) async fn no_route() -> Error {
    Error::not_found()
}

pub(super) async fn no_method() -> Error {
    Error::new(
        Kind::MethodNotAllowed,
        "This path has other methods: see Allow.",
    )
}

/// A defect: the caller learns nothing of it, the log has it.
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    Error::internal(format!("a handler panicked: {text}")).into_response()
}

/// The whole answer, head and body, to a request whose head did not come in time: it has no id,
/// and no handler to answer it.
pub fn head_timeout_answer() -> &'static [u8] {
    static ANSWER: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let error = Error::new(
            Kind::RequestTimeout,
            "The head of the request did not come in time.",
        );
        let problem = serde_json::to_vec(&problem(&error, "none")).unwrap_or_default();
        let mut answer = format!(
            "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\r\n",
            problem.len()
        )
        .into_bytes();
        answer.extend_from_slice(&problem);
        answer
    });
    &ANSWER
}
