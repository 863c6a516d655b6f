//! `[limits]`: what one process, and one file, may take.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::leaf::{self, Leaf, unlike};
use super::units::Size;
use super::{Violation, at_least_one, positive};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Of one file; at least 1 byte, and at most 5 TiB on S3.
    #[serde(with = "leaf")]
    pub max_file_size: Size,
    /// Open at the same time; at least 1.
    #[serde(with = "leaf")]
    pub max_connections: u32,
    /// Of one address, that is no trusted proxy's; 0: any number.
    #[serde(with = "leaf")]
    pub max_connections_per_address: u32,
    /// At the same time; 0: any number.
    #[serde(with = "leaf")]
    pub uploads_per_tenant: u32,
    /// How long the head of a request may take; above 0.
    #[serde(with = "leaf")]
    pub header_timeout: Duration,
    /// How long a body or an idle connection may stand still; above 0.
    #[serde(with = "leaf")]
    pub idle_timeout: Duration,
    /// What a body must bring a second, on average, once `min_body_grace` is over; 0: anything.
    #[serde(with = "leaf")]
    pub min_body_rate: Size,
    /// How long a body may be waited for before its rate counts.
    #[serde(with = "leaf")]
    pub min_body_grace: Duration,
    /// How long a stop waits for the requests in flight.
    #[serde(with = "leaf")]
    pub shutdown_grace: Duration,
    /// Empty: all.
    #[serde(with = "leaf")]
    pub allowed_content_types: Vec<ContentTypePattern>,
    /// These are refused even where they are allowed.
    #[serde(with = "leaf")]
    pub denied_content_types: Vec<ContentTypePattern>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_file_size: Size::from_bytes(5 << 40),
            max_connections: 10_000,
            max_connections_per_address: 0,
            uploads_per_tenant: 0,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            min_body_rate: Size::from_bytes(256),
            min_body_grace: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(30),
            allowed_content_types: Vec::new(),
            denied_content_types: Vec::new(),
        }
    }
}

impl Limits {
    /// Whether a file may have this content type. Its parameters don't count.
    pub fn allows_content_type(&self, content_type: &str) -> bool {
        let matches = |pattern: &ContentTypePattern| pattern.matches(content_type);
        (self.allowed_content_types.is_empty() || self.allowed_content_types.iter().any(matches))
            && !self.denied_content_types.iter().any(matches)
    }

    pub(super) fn check(&self) -> Result<(), Violation> {
        if self.max_file_size.bytes() == 0 {
            return Err(Violation::new(
                "limits.max_file_size",
                "0 would refuse every file: at least 1",
            ));
        }
        at_least_one("limits.max_connections", self.max_connections)?;
        positive("limits.header_timeout", self.header_timeout)?;
        positive("limits.idle_timeout", self.idle_timeout)
    }
}

/// `type/subtype` or `type/*`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentTypePattern {
    kind: String,
    /// None: any.
    subtype: Option<String>,
}

impl ContentTypePattern {
    /// None for what is no pattern.
    pub fn read(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }

    pub fn matches(&self, content_type: &str) -> bool {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let Some((kind, subtype)) = essence.split_once('/') else {
            return false;
        };
        kind.eq_ignore_ascii_case(&self.kind)
            && self
                .subtype
                .as_ref()
                .is_none_or(|own| subtype.eq_ignore_ascii_case(own))
    }
}

impl fmt::Display for ContentTypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}",
            self.kind,
            self.subtype.as_deref().unwrap_or("*")
        )
    }
}

impl Leaf for ContentTypePattern {
    const EXPECTED: &'static str = "content types such as image/png or image/*";

    fn parse(text: &str) -> Result<Self, String> {
        // The characters of RFC 6838, section 4.2; those of a token would take in the star.
        let name = |part: &str| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c))
        };
        let (kind, subtype) = text.split_once('/').ok_or_else(|| unlike::<Self>(text))?;
        if !name(kind) || (subtype != "*" && !name(subtype)) {
            return Err(unlike::<Self>(text));
        }
        Ok(Self {
            kind: kind.to_ascii_lowercase(),
            subtype: (subtype != "*").then(|| subtype.to_ascii_lowercase()),
        })
    }

    fn show(&self) -> Value {
        Value::String(self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(text: &str) -> Vec<ContentTypePattern> {
        Leaf::parse(text).unwrap()
    }

    #[test]
    fn denied_types_win_over_allowed_ones() {
        let mut limits = Limits::default();
        assert!(limits.allows_content_type("text/html"));
        limits.allowed_content_types = patterns("image/*, Application/PDF");
        limits.denied_content_types = patterns("image/svg+xml");
        assert!(limits.allows_content_type("image/png"));
        assert!(limits.allows_content_type("IMAGE/PNG; q=1"));
        assert!(limits.allows_content_type("application/pdf"));
        for refused in [
            "image/svg+xml",
            "image/SVG+xml;charset=utf-8",
            "text/html",
            "imagepng",
            "",
        ] {
            assert!(!limits.allows_content_type(refused), "{refused}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "image",
            "*/*",
            "*",
            "image/",
            "/png",
            "image/p*",
            "image/png; q=1",
            "a/b/c",
        ] {
            assert!(ContentTypePattern::parse(text).is_err(), "{text}");
        }
    }
}
