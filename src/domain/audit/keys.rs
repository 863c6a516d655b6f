//! What heads and checkpoints are signed with.

use jsonwebtoken::crypto::{sign, verify};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};

use crate::config::SigningSecrets;
use crate::error::{Error, Result};

/// What a secret's key is made of, so that a signature here is none of a token or a URL.
const PURPOSE: &[u8] = b"box-service: audit chain";

/// What its id is made of, which tells nothing of the key.
const NAME: &[u8] = b"box-service: audit key id";

/// Characters of base64 in an id: 96 bits.
const ID: usize = 16;

/// HMAC-SHA256 (RFC 2104) with keys derived from the secrets: the first signs, all verify.
pub struct Keys(Vec<Key>);

struct Key {
    id: String,
    signs: EncodingKey,
    verifies: DecodingKey,
}

impl Keys {
    /// # Errors
    /// `Internal`: the library can't compute an HMAC.
    pub fn new(secrets: &SigningSecrets) -> Result<Self> {
        let hmac = |message: &[u8], key: &[u8]| {
            sign(message, &EncodingKey::from_secret(key), Algorithm::HS256).map_err(Error::internal)
        };
        let keys = secrets.verifying().map(|secret| {
            let key = hmac(PURPOSE, secret.expose().as_bytes())?;
            let mut id = hmac(NAME, key.as_bytes())?;
            id.truncate(ID);
            Ok(Key {
                id,
                signs: EncodingKey::from_secret(key.as_bytes()),
                verifies: DecodingKey::from_secret(key.as_bytes()),
            })
        });
        Ok(Self(keys.collect::<Result<_>>()?))
    }

    /// The key's id and the signature.
    pub(super) fn sign(&self, text: &str) -> Result<(String, String)> {
        let key = self.0.first().ok_or_else(|| Error::internal("no key"))?;
        let signature =
            sign(text.as_bytes(), &key.signs, Algorithm::HS256).map_err(Error::internal)?;
        Ok((key.id.clone(), signature))
    }

    /// None: the key is not known.
    pub(super) fn verify(&self, text: &str, key_id: &str, signature: &str) -> Option<bool> {
        let key = self.0.iter().find(|key| key.id == key_id)?;
        let outcome = verify(signature, text.as_bytes(), &key.verifies, Algorithm::HS256);
        Some(outcome.unwrap_or(false))
    }
}
