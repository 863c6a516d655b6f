//! Tokens of others, each signed with keys of an issuer that is configured.

use std::sync::Arc;

use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::error::Result;

use super::claims::{Claims, Names};
use super::jwks::Jwks;
use super::keys::Verdict;
use super::token::Token;
use super::{Principal, refused};

pub(super) struct Issuer {
    name: String,
    audience: Vec<String>,
    tenants: config::Tenants,
    names: Names,
    jwks: Arc<Jwks>,
}

impl Issuer {
    pub(super) fn new(settings: &config::Issuer, http: reqwest::Client, clock: Clock) -> Self {
        Self {
            name: settings.issuer.clone(),
            audience: settings.audience.clone(),
            tenants: settings.tenants.clone(),
            names: Names {
                tenant: settings.tenant_claim.clone(),
                subject: settings.subject_claim.clone(),
                scope: settings.scope_claim.clone(),
            },
            jwks: Arc::new(Jwks::new(
                &settings.issuer,
                settings.jwks_url.as_url(),
                http,
                clock,
            )),
        }
    }

    /// What its tokens have as `iss`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Of the keys in force: see [`super::keys::KeySet::generation`].
    ///
    /// # Errors
    /// `Unavailable`, as [`Jwks::current`].
    pub(super) async fn generation(&self) -> Result<u64> {
        Ok(self.jwks.current().await?.generation())
    }

    /// Who the token says calls, and the generation of the keys that it was verified with.
    ///
    /// # Errors
    /// `Unauthenticated`; `Unavailable` where the keys that would tell can't be had.
    pub(super) async fn verify(
        &self,
        token: &Token<'_>,
        now: Timestamp,
    ) -> Result<(Principal, u64)> {
        let mut keys = self.jwks.current().await?;
        loop {
            match keys.judge(token) {
                Verdict::Signed(claims) => {
                    return Ok((self.principal(claims, now)?, keys.generation()));
                }
                Verdict::Refused => return Err(refused()),
                // Ends: fetches are bounded, and without one there is nothing newer.
                Verdict::Unknown => {
                    keys = self.jwks.newer_than(&keys).await?.ok_or_else(refused)?;
                }
            }
        }
    }

    fn principal(&self, claims: &Claims, now: Timestamp) -> Result<Principal> {
        let principal = claims.principal(&self.names, now)?;
        let may_say_so = claims.is_for(&self.audience) && self.tenants.contains(&principal.tenant);
        if may_say_so {
            Ok(principal)
        } else {
            Err(refused())
        }
    }
}
