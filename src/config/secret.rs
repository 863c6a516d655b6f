//! Text that must never be shown.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::leaf::Leaf;

/// What stands in for a secret wherever one would be shown.
pub const MASK: &str = "********";

/// Shown, logged and serialised as `********`; [`Secret::expose`] gives the text.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl Leaf for Secret {
    const EXPECTED: &'static str = "text (in quotes)";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::new(text))
    }

    fn show(&self) -> Value {
        Value::String(MASK.to_owned())
    }
}

/// The secrets of tokens: the first signs, all verify, so that one can follow another without
/// ending the tokens that are out. Each has at least 32 bytes, the length of what HS256 makes
/// (RFC 7518, section 3.2).
#[derive(Clone, Debug)]
pub struct SigningSecrets {
    first: Secret,
    others: Vec<Secret>,
}

impl SigningSecrets {
    /// In bytes.
    pub const MIN_LENGTH: usize = 32;

    /// The one that signs.
    pub fn signing(&self) -> &Secret {
        &self.first
    }

    /// Those that verify, the signing one first.
    pub fn verifying(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl FromStr for SigningSecrets {
    type Err = String;

    /// Reads secrets separated by commas.
    ///
    /// # Errors
    /// Says which one is too short, or has white space at an end: that is more often a slip of
    /// the editor than part of a secret, and would make every token invalid without a word.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut secrets = Vec::new();
        for (index, secret) in text.split(',').enumerate() {
            let which = index + 1;
            if secret.len() < Self::MIN_LENGTH {
                return Err(format!(
                    "a secret must have at least {} bytes, and number {which} has {}",
                    Self::MIN_LENGTH,
                    secret.len()
                ));
            }
            if secret.trim() != secret {
                return Err(format!(
                    "a secret must not start or end with white space, and number {which} does"
                ));
            }
            secrets.push(Secret::new(secret));
        }
        let mut secrets = secrets.into_iter();
        let first = secrets.next().ok_or("a secret is missing")?;
        Ok(Self {
            first,
            others: secrets.collect(),
        })
    }
}

impl Leaf for SigningSecrets {
    const EXPECTED: &'static str = "text (in quotes): secrets separated by commas";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> Value {
        Value::String(MASK.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing_of_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "******** ********");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"********\"");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn the_first_secret_signs_and_all_verify() {
        let (old, new) = ("o".repeat(32), "n".repeat(40));
        let secrets: SigningSecrets = format!("{new},{old}").parse().unwrap();
        assert_eq!(secrets.signing().expose(), new);
        let verifying: Vec<&str> = secrets.verifying().map(Secret::expose).collect();
        assert_eq!(verifying, [&new, &old]);
        assert!(!format!("{secrets:?}").contains('o'.to_string().repeat(3).as_str()));
    }

    #[test]
    fn the_length_is_counted_in_bytes_and_the_text_is_not_repeated() {
        assert!("é".repeat(16).parse::<SigningSecrets>().is_ok());
        let good = "g".repeat(32);
        for (text, says) in [
            ("s".repeat(31), "number 1 has 31"),
            (format!("{good},short"), "number 2 has 5"),
            (format!("{good},"), "number 2 has 0"),
            (format!("{good}, {good}"), "white space"),
        ] {
            let error = text.parse::<SigningSecrets>().unwrap_err();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("ggg") && !error.contains("sss"), "{error}");
        }
    }
}
