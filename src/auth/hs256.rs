//! Tokens of the service's own, signed with a secret (HS256, RFC 7518, section 3.2).

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde::Serialize;

use crate::config::SigningSecrets;
use crate::error::{Error, Result};

use super::claims::Claims;
use super::token::Token;

/// One secret signs; several verify, so that one can follow another.
pub(super) struct Hs256 {
    signing: EncodingKey,
    verifying: Vec<DecodingKey>,
}

impl Hs256 {
    pub(super) fn new(secrets: &SigningSecrets) -> Self {
        Self {
            signing: EncodingKey::from_secret(secrets.signing().expose().as_bytes()),
            verifying: secrets
                .verifying()
                .map(|secret| DecodingKey::from_secret(secret.expose().as_bytes()))
                .collect(),
        }
    }

    pub(super) fn sign(&self, claims: &impl Serialize) -> Result<String> {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &self.signing)
            .map_err(Error::internal)
    }

    pub(super) fn claims<'a>(&self, token: &'a Token<'_>) -> Option<&'a Claims> {
        self.verifying
            .iter()
            .find_map(|key| token.claims(Algorithm::HS256, key))
    }
}
