//! `[cors]`: which web pages may call the service.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::leaf::{self, Leaf, http_url, unlike};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// Empty: no page of another origin.
    #[serde(with = "leaf")]
    pub allow_origins: Vec<Origin>,
}

/// An origin spelled as browsers send it (RFC 6454, section 6.2): in lower case, without the
/// default port and without a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Leaf for Origin {
    const EXPECTED: &'static str = "origins such as https://app.example.com";

    fn parse(text: &str) -> Result<Self, String> {
        match http_url(text) {
            Ok(url) if url.path() == "/" => Ok(Self(url.origin().ascii_serialization())),
            _ => Err(unlike::<Self>(text)),
        }
    }

    fn show(&self) -> Value {
        Value::String(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_spelled_as_browsers_spell_them() {
        for (text, origin) in [
            ("https://App.Example.com", "https://app.example.com"),
            ("https://app.example.com:443/", "https://app.example.com"),
            ("http://localhost:5173", "http://localhost:5173"),
        ] {
            assert_eq!(Origin::parse(text).unwrap().as_str(), origin);
        }
        for text in [
            "*",
            "null",
            "app.example.com",
            "https://app.example.com/path",
            "ftp://x",
        ] {
            assert!(Origin::parse(text).is_err(), "{text}");
        }
    }
}
