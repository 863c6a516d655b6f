//! The one error of the crate: a kind, a text for the caller, and a cause for the log.

use std::borrow::Cow;
use std::time::Duration;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as a caller can act on it. `http/problem.rs` maps each to a status and a
/// problem type; nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    MalformedJson,
    BadRequest,
    Unauthenticated,
    Forbidden,
    QuotaExceeded,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    Conflict,
    /// Another request with the same Idempotency-Key has not ended.
    StillRunning,
    Gone,
    LengthRequired,
    PreconditionFailed,
    PayloadTooLarge,
    UnsupportedMediaType,
    RangeNotSatisfiable,
    InvalidRequest,
    ChecksumMismatch,
    /// The same of bytes that came by tus, which has a status of its own for it.
    PieceMismatch,
    Locked,
    PasswordRequired,
    /// More than the caller may ask for now, or at the same time.
    RateLimited,
    Internal,
    Unavailable,
}

/// One invalid part of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// A JSON pointer (RFC 6901) into the request: `/name`; for a query parameter or header,
    /// its name behind `/`.
    pub pointer: String,
    pub detail: String,
}

/// Boxed, so that a `Result` stays as small as its value.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    detail: Cow<'static, str>,
    invalid: Vec<Invalid>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    retry_after: Option<Duration>,
}

impl Error {
    /// `detail` is shown to the caller: it must hold nothing internal.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            detail: detail.into(),
            invalid: Vec::new(),
            cause: None,
            retry_after: None,
        }))
    }

    /// 422 with the parts of the request that are invalid.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::invalid_many(vec![Invalid {
            pointer: pointer.into(),
            detail: detail.into(),
        }])
    }

    pub fn invalid_many(invalid: Vec<Invalid>) -> Self {
        let mut error = Self::new(
            Kind::InvalidRequest,
            "The request is not valid: see errors.",
        );
        error.0.invalid = invalid;
        error
    }

    pub fn not_found() -> Self {
        Self::new(Kind::NotFound, "There is nothing here.")
    }

    /// A defect or a fault that the caller can do nothing about; `cause` goes to the log only.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(Kind::Internal, "The service failed to answer this request.").because(cause)
    }

    /// The database or the store can't be reached or answers with an error: trying again may help.
    pub fn unavailable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(
            Kind::Unavailable,
            "The service can't answer now; try again.",
        )
        .because(cause)
    }

    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// When trying again may help.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    pub fn retry_wait(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The same fault in other words, for whom the text for a caller says nothing: an operator at
    /// a terminal.
    #[must_use]
    pub fn detailed(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = detail.into();
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    pub fn invalid_parts(&self) -> &[Invalid] {
        &self.0.invalid
    }

    pub fn cause(&self) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
        self.0.cause.as_deref()
    }

    /// The whole story for the log: the detail and every cause below it. Of an invalid part it has the place alone:
    /// what is told of the part may repeat it, and a password that was no text is one still.
    pub fn story(&self) -> String {
        let mut story = self.0.detail.to_string();
        for part in &self.0.invalid {
            story.push_str(&format!(" [{}]", part.pointer));
        }
        let mut cause: Option<&dyn std::error::Error> = match self.cause() {
            Some(cause) => Some(cause),
            None => None,
        };
        while let Some(error) = cause {
            let text = error.to_string();
            // Many libraries repeat their source in their own text.
            if !story.ends_with(&text) {
                story.push_str(": ");
                story.push_str(&text);
            }
            cause = error.source();
        }
        story
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.story())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_told_which_part_is_invalid_and_not_what_it_holds() {
        let detail = "invalid type: integer `7318529460`, expected a string";
        let error = Error::invalid("/password", detail);
        assert_eq!(error.invalid_parts()[0].detail, detail);
        assert_eq!(
            error.story(),
            "The request is not valid: see errors. [/password]"
        );
    }
}
