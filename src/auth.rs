//! Tokens in, principals out: JWT (RFC 7519), signed with a secret of the service (HS256) or with a
//! key of an issuer that is configured (RS256, PS256, ES256, EdDSA).
//!
//! Which of the two is decided by the token's `iss`: a token that names a configured issuer is
//! judged by that issuer's keys alone, so that no secret opens what the issuer speaks for. Then
//! everything is verified, `iss` with it, and the answer kept until the token expires.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::clock::{Clock, Timestamp};
use crate::config::{self, SigningSecrets};
use crate::error::{Error, Kind, Result};
use crate::id::Tenant;

mod cache;
mod claims;
mod hs256;
mod issuers;
mod jwks;
mod keys;
mod seal;
#[cfg(test)]
mod tests;
mod token;

use cache::{Cache, Digest, Verified, Voucher};
use claims::Names;
use hs256::Hs256;
use issuers::Issuer;
use token::Token;

pub use seal::Seal;

/// How far the clocks of issuer and service may differ.
const LEEWAY: Duration = Duration::from_secs(30);

/// Tells a forger nothing of which check failed.
fn refused() -> Error {
    Error::new(Kind::Unauthenticated, "The token is not valid.")
}

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

/// What a token of the service's own says.
#[derive(Serialize)]
struct Issued<'a> {
    sub: &'a str,
    tenant: &'a Tenant,
    scope: String,
    exp: i64,
}

/// Makes tokens and reads them.
pub struct Tokens {
    /// None: there is no secret, and such tokens are neither made nor taken.
    own: Option<Hs256>,
    own_names: Names,
    issuers: Vec<Issuer>,
    cache: Cache,
    clock: Clock,
}

impl Tokens {
    /// # Errors
    /// There are issuers, and this system can't make TLS connections to them.
    pub fn new(
        secrets: Option<&SigningSecrets>,
        issuers: &[config::Issuer],
        clock: Clock,
    ) -> Result<Self> {
        let issuers = if issuers.is_empty() {
            Vec::new()
        } else {
            let http = jwks::client().map_err(Error::internal)?;
            issuers
                .iter()
                .map(|settings| Issuer::new(settings, http.clone(), clock.clone()))
                .collect()
        };
        Ok(Self {
            own: secrets.map(Hs256::new),
            own_names: Names::default(),
            issuers,
            cache: Cache::default(),
            clock,
        })
    }

    /// Whether each issuer's keys can be had, by its name.
    pub async fn ask_issuers(&self) -> Vec<(&str, Result<()>)> {
        let mut asked = Vec::new();
        for issuer in &self.issuers {
            asked.push((issuer.name(), issuer.generation().await.map(drop)));
        }
        asked
    }

    /// # Errors
    /// `Internal` where there is no secret to sign with.
    pub fn issue(
        &self,
        tenant: &Tenant,
        subject: &str,
        scopes: &[Scope],
        ttl: Duration,
    ) -> Result<String> {
        let own = self
            .own
            .as_ref()
            .ok_or_else(|| Error::internal("there is no secret to sign a token with"))?;
        let scope: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        own.sign(&Issued {
            sub: subject,
            tenant,
            scope: scope.join(" "),
            exp: self.clock.now().plus(ttl).as_secs(),
        })
    }

    /// # Errors
    /// `Unauthenticated`, with nothing that would tell a forger which check failed but for the
    /// expiry; `Unavailable` where the token's issuer can't be asked for its keys and none are here.
    pub async fn verify(&self, token: &str) -> Result<Arc<Principal>> {
        let now = self.clock.now();
        let digest = Digest::of(token);
        if let Some(known) = self.cache.get(&digest, now)
            && self.stands(known.voucher).await?
        {
            return Ok(known.principal);
        }
        let token = Token::parse(token).ok_or_else(refused)?;
        let (principal, voucher) = match self.issuer_of(&token) {
            Some((index, issuer)) => {
                let (principal, generation) = issuer.verify(&token, now).await?;
                (principal, Voucher::Issuer { index, generation })
            }
            None => {
                let own = self.own.as_ref().ok_or_else(refused)?;
                let claims = own.claims(&token).ok_or_else(refused)?;
                (claims.principal(&self.own_names, now)?, Voucher::Secret)
            }
        };
        let principal = Arc::new(principal);
        self.cache.put(
            digest,
            Verified {
                principal: principal.clone(),
                voucher,
            },
        );
        Ok(principal)
    }

    /// Whether what was verified then would be verified now: no key has left its set since.
    async fn stands(&self, voucher: Voucher) -> Result<bool> {
        match voucher {
            Voucher::Secret => Ok(true),
            Voucher::Issuer { index, generation } => match self.issuers.get(index) {
                Some(issuer) => Ok(issuer.generation().await? == generation),
                None => Ok(false),
            },
        }
    }

    fn issuer_of(&self, token: &Token<'_>) -> Option<(usize, &Issuer)> {
        let named = token.issuer()?;
        self.issuers
            .iter()
            .enumerate()
            .find(|(_, issuer)| issuer.name() == named)
    }
}

/// Whether a key of the JWK Set signed the token; None where one of both can't be read.
#[cfg(any(test, fuzzing))]
pub(crate) fn signed_by(set: &[u8], token: &str) -> Option<bool> {
    let keys = keys::KeySet::parse(set).ok()?;
    let token = Token::parse(token)?;
    Some(matches!(keys.judge(&token), keys::Verdict::Signed(_)))
}
