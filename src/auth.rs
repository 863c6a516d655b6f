//! Tokens in, principals out: JWT (RFC 7519) signed with HS256.

use std::str::FromStr;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Timestamp};
use crate::config::SigningSecrets;
use crate::error::{Error, Kind, Result};
use crate::id::Tenant;

/// How far the clocks of issuer and service may differ.
const LEEWAY: std::time::Duration = std::time::Duration::from_secs(30);

macro_rules! scopes {
    ($($variant:ident => $text:literal,)*) => {
        /// What a token may allow. There are no wildcards, and none implies another.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Scope { $($variant,)* }

        impl Scope {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

scopes! {
    FilesRead => "files:read",
    FilesWrite => "files:write",
    FilesDelete => "files:delete",
    ImportsRead => "imports:read",
    ImportsWrite => "imports:write",
    LinksRead => "links:read",
    LinksWrite => "links:write",
    AuditRead => "audit:read",
    Admin => "admin",
}

impl FromStr for Scope {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL
            .iter()
            .copied()
            .find(|scope| scope.as_str() == text)
            .ok_or(())
    }
}

/// Who calls.
#[derive(Clone, Debug)]
pub struct Principal {
    pub tenant: Tenant,
    pub subject: String,
    pub scopes: Vec<Scope>,
    pub expires_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    tenant: String,
    #[serde(default)]
    scope: String,
    exp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
}

/// Makes tokens and reads them.
pub struct Tokens {
    signing: EncodingKey,
    verifying: Vec<DecodingKey>,
    clock: Clock,
}

impl Tokens {
    pub fn new(secrets: &SigningSecrets, clock: Clock) -> Self {
        Self {
            signing: EncodingKey::from_secret(secrets.signing().expose().as_bytes()),
            verifying: secrets
                .verifying()
                .map(|secret| DecodingKey::from_secret(secret.expose().as_bytes()))
                .collect(),
            clock,
        }
    }

    pub fn issue(
        &self,
        tenant: &Tenant,
        subject: &str,
        scopes: &[Scope],
        ttl: std::time::Duration,
    ) -> Result<String> {
        let scope: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        let claims = Claims {
            sub: subject.to_owned(),
            tenant: tenant.to_string(),
            scope: scope.join(" "),
            exp: self.clock.now().plus(ttl).as_secs(),
            nbf: None,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing)
            .map_err(Error::internal)
    }

    /// # Errors
    /// `Unauthenticated`, with nothing that would tell a forger which check failed but for the expiry.
    pub fn verify(&self, token: &str) -> Result<Principal> {
        let refused = || Error::new(Kind::Unauthenticated, "The token is not valid.");
        // The algorithm comes from the key: whatever else the header names is refused.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        // The times are checked below, against the injected clock.
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = self
            .verifying
            .iter()
            .find_map(|key| jsonwebtoken::decode::<Claims>(token, key, &validation).ok())
            .ok_or_else(refused)?
            .claims;
        let now = self.clock.now();
        let at = |secs: i64| Timestamp::from_micros(secs.saturating_mul(1_000_000));
        if at(claims.exp).plus(LEEWAY) <= now {
            return Err(Error::new(Kind::Unauthenticated, "The token has expired."));
        }
        if claims.nbf.is_some_and(|nbf| at(nbf).minus(LEEWAY) > now)
            || claims.sub.is_empty()
            || claims.sub.len() > 255
            // No database text; the others would blur a log line.
            || claims.sub.contains(char::is_control)
        {
            return Err(refused());
        }
        Ok(Principal {
            tenant: claims.tenant.parse().map_err(|()| refused())?,
            subject: claims.sub,
            scopes: claims
                .scope
                .split(' ')
                .filter_map(|scope| scope.parse().ok())
                .collect(),
            expires_at: at(claims.exp),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn tokens(secrets: &str, clock: &Clock) -> Tokens {
        Tokens::new(&secrets.parse().unwrap(), clock.clone())
    }

    #[test]
    fn a_token_lives_until_its_expiry_and_the_leeway() {
        let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
        let tokens = tokens("0123456789abcdef0123456789abcdef", &clock);
        let token = tokens
            .issue(
                &"acme".parse().unwrap(),
                "ann",
                &[Scope::FilesRead],
                Duration::from_secs(60),
            )
            .unwrap();
        let principal = tokens.verify(&token).unwrap();
        assert_eq!(
            (principal.tenant.as_str(), principal.subject.as_str()),
            ("acme", "ann")
        );
        assert_eq!(principal.scopes, [Scope::FilesRead]);
        clock.advance(Duration::from_secs(89));
        assert!(tokens.verify(&token).is_ok());
        clock.advance(Duration::from_secs(1));
        assert_eq!(
            tokens.verify(&token).unwrap_err().kind(),
            Kind::Unauthenticated
        );
    }

    #[test]
    fn the_first_secret_signs_and_all_verify() {
        let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
        let (old, new) = (
            "0123456789abcdef0123456789abcdef",
            "fedcba9876543210fedcba9876543210",
        );
        let issue = |tokens: &Tokens| {
            tokens
                .issue(
                    &"acme".parse().unwrap(),
                    "ann",
                    &[],
                    Duration::from_secs(60),
                )
                .unwrap()
        };
        let rotated = tokens(&format!("{new},{old}"), &clock);
        assert!(rotated.verify(&issue(&tokens(old, &clock))).is_ok());
        assert!(tokens(new, &clock).verify(&issue(&rotated)).is_ok());
        assert!(tokens(old, &clock).verify(&issue(&rotated)).is_err());
    }

    #[test]
    fn no_other_algorithm_and_no_odd_tenant_passes() {
        let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
        let secret = "0123456789abcdef0123456789abcdef";
        let key = EncodingKey::from_secret(secret.as_bytes());
        let tokens = tokens(secret, &clock);
        let claims = |tenant: &str| serde_json::json!({"sub": "ann", "tenant": tenant, "exp": 1_800_000_000});
        let sign = |algorithm, tenant: &str| {
            jsonwebtoken::encode(&Header::new(algorithm), &claims(tenant), &key).unwrap()
        };
        assert!(tokens.verify(&sign(Algorithm::HS256, "acme")).is_ok());
        assert!(tokens.verify(&sign(Algorithm::HS512, "acme")).is_err());
        assert!(tokens.verify(&sign(Algorithm::HS256, "../acme")).is_err());
        let odd = serde_json::json!({"sub": "a\0", "tenant": "acme", "exp": 1_800_000_000});
        let odd = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &odd, &key).unwrap();
        assert!(tokens.verify(&odd).is_err());
        // {"alg":"none"}
        let unsigned = format!(
            "eyJhbGciOiJub25lIn0.{}.",
            sign(Algorithm::HS256, "acme").split('.').nth(1).unwrap()
        );
        assert!(tokens.verify(&unsigned).is_err());
    }
}
