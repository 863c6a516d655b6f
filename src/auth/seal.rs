//! Text that only this service can have written: what a signed URL carries.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::{sign, verify};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::SigningSecrets;
use crate::error::{Error, Result};

/// What a secret's key for URLs is made of, so that no URL is a token and no token a URL.
const PURPOSE: &[u8] = b"box-service: signed URL";

/// HMAC-SHA256 (RFC 2104) with keys derived from the secrets: one seals, all open.
pub struct Seal {
    sealing: EncodingKey,
    opening: Vec<DecodingKey>,
}

impl Seal {
    /// # Errors
    /// `Internal`: the library can't compute an HMAC.
    pub fn new(secrets: &SigningSecrets) -> Result<Self> {
        let derived = |secret: &[u8]| {
            sign(PURPOSE, &EncodingKey::from_secret(secret), Algorithm::HS256)
                .map_err(Error::internal)
        };
        let sealing = derived(secrets.signing().expose().as_bytes())?;
        let opening = secrets
            .verifying()
            .map(|secret| {
                Ok(DecodingKey::from_secret(
                    derived(secret.expose().as_bytes())?.as_bytes(),
                ))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            sealing: EncodingKey::from_secret(sealing.as_bytes()),
            opening,
        })
    }

    /// Of letters that need no escapes in a URL.
    pub fn seal(&self, content: &impl Serialize) -> Result<String> {
        let json = serde_json::to_vec(content).map_err(Error::internal)?;
        let mut text = URL_SAFE_NO_PAD.encode(json);
        let signature =
            sign(text.as_bytes(), &self.sealing, Algorithm::HS256).map_err(Error::internal)?;
        let _ = write!(text, ".{signature}");
        Ok(text)
    }

    /// None for what was not sealed here.
    pub fn open<T: DeserializeOwned>(&self, text: &str) -> Option<T> {
        let (message, signature) = text.split_once('.')?;
        let sealed =
            |key| verify(signature, message.as_bytes(), key, Algorithm::HS256).unwrap_or(false);
        if !self.opening.iter().any(sealed) {
            return None;
        }
        let json = URL_SAFE_NO_PAD.decode(message).ok()?;
        serde_json::from_slice(&json).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(secrets: &str) -> Seal {
        Seal::new(&secrets.parse().unwrap()).unwrap()
    }

    #[test]
    fn only_what_was_sealed_is_opened() {
        let (old, new) = ("o".repeat(32), "n".repeat(32));
        let sealed = seal(&old).seal(&("a", 1)).unwrap();
        let expected = Some(("a".to_owned(), 1));
        assert_eq!(seal(&old).open(&sealed), expected);
        // While the secrets rotate, and not after.
        assert_eq!(seal(&format!("{new},{old}")).open(&sealed), expected);
        assert_eq!(seal(&new).open::<(String, i32)>(&sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(
                seal(&old).open::<(String, i32)>(&changed),
                None,
                "{changed}"
            );
        }
    }

    #[test]
    fn the_key_is_not_that_of_tokens() {
        let secret = "s".repeat(32);
        let message = URL_SAFE_NO_PAD.encode(r#"["a",1]"#);
        let key = EncodingKey::from_secret(secret.as_bytes());
        let signature = sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        let forged = format!("{message}.{signature}");
        assert_eq!(seal(&secret).open::<(String, i32)>(&forged), None);
    }
}
