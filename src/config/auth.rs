//! `[auth]`: who is believed.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::{Host, Url};

use crate::id::Tenant;

use super::leaf::{self, Leaf, unlike};
use super::secret::SigningSecrets;
use super::{Environment, Violation, tables};

const ISSUERS: &str = "auth.issuers";

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Unset, tokens by HS256 are not taken where there are issuers.
    #[serde(with = "leaf")]
    pub secret: Option<SigningSecrets>,
    /// Those whose tokens are taken beside or instead of the service's own. Each `issuer` once.
    #[serde(deserialize_with = "tables::deserialize")]
    pub issuers: Vec<Issuer>,
}

/// `[[auth.issuers]]`: who signs tokens with keys of its own, published as a JWK Set (RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// What its tokens have as `iss`, character by character.
    #[serde(with = "leaf")]
    pub issuer: String,
    /// Where its keys are.
    #[serde(with = "leaf")]
    pub jwks_url: JwksUrl,
    /// A token's `aud` must have one of these: else one that was made for another service would do.
    #[serde(with = "leaf")]
    pub audience: Vec<String>,
    /// Whom it speaks for.
    #[serde(with = "leaf")]
    pub tenants: Tenants,
    /// The claim that names the tenant: a name at the top of the claims, taken as it is.
    #[serde(with = "leaf", default = "tenant_claim")]
    pub tenant_claim: String,
    #[serde(with = "leaf", default = "subject_claim")]
    pub subject_claim: String,
    /// A text with spaces between the scopes, or a list of texts.
    #[serde(with = "leaf", default = "scope_claim")]
    pub scope_claim: String,
}

fn tenant_claim() -> String {
    "tenant".to_owned()
}

fn subject_claim() -> String {
    "sub".to_owned()
}

fn scope_claim() -> String {
    "scope".to_owned()
}

impl Auth {
    pub(super) fn check(&self, environment: &Environment) -> Result<(), Violation> {
        for (index, issuer) in self.issuers.iter().enumerate() {
            issuer
                .check(environment)
                .map_err(|problem| Violation::new(ISSUERS, format!("[{index}]: {problem}")))?;
            let same = |other: &Issuer| other.issuer == issuer.issuer;
            if self.issuers.iter().take(index).any(same) {
                return Err(Violation::new(
                    ISSUERS,
                    format!("[{index}]: the issuer {:?} is there twice", issuer.issuer),
                ));
            }
        }
        Ok(())
    }
}

impl Issuer {
    fn check(&self, environment: &Environment) -> Result<(), String> {
        for (key, text) in [
            ("issuer", &self.issuer),
            ("tenant_claim", &self.tenant_claim),
            ("subject_claim", &self.subject_claim),
            ("scope_claim", &self.scope_claim),
        ] {
            if text.is_empty() {
                return Err(format!("{key} must not be empty"));
            }
        }
        if self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            return Err(
                "audience must have at least one text, and none that is empty: without it, a token that was made for another service would do"
                    .to_owned(),
            );
        }
        if !self.jwks_url.is_safe() && !environment.is_development() {
            return Err(
                "jwks_url must be https, or lead to this machine: whoever is on the way could put in keys of his own"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// An http or https URL without credentials and fragment. It may have a query: some issuers name
/// the policy or the application there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksUrl(Url);

impl JwksUrl {
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// Whether nobody between here and there can change what is answered.
    fn is_safe(&self) -> bool {
        self.0.scheme() == "https"
            || match self.0.host() {
                Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
                Some(Host::Ipv4(ip)) => ip.is_loopback(),
                Some(Host::Ipv6(ip)) => ip.is_loopback(),
                None => false,
            }
    }
}

impl Leaf for JwksUrl {
    const EXPECTED: &'static str =
        "an https URL, such as https://id.example.com/.well-known/jwks.json";

    fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|_| unlike::<Self>(text))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(unlike::<Self>(text));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a URL here must not hold credentials".to_owned());
        }
        if url.fragment().is_some() {
            return Err("a URL here must not have a fragment".to_owned());
        }
        Ok(Self(url))
    }

    fn show(&self) -> Value {
        Value::String(self.0.as_str().to_owned())
    }
}

/// Whom an issuer speaks for: `["acme", "globex"]`, or `["*"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenants {
    All,
    /// At least one.
    Only(Vec<Tenant>),
}

impl Tenants {
    pub fn contains(&self, tenant: &Tenant) -> bool {
        match self {
            Self::All => true,
            Self::Only(tenants) => tenants.contains(tenant),
        }
    }
}

impl Leaf for Tenants {
    const EXPECTED: &'static str =
        "a list of at least one tenant (1 to 64 of A-Z a-z 0-9 _ -), or [\"*\"] for all";
    const NATIVE: leaf::Native = leaf::Native::List;

    fn parse(text: &str) -> Result<Self, String> {
        let items: Vec<String> = Leaf::parse(text)?;
        Self::parse_list(&items)
    }

    fn parse_list(items: &[String]) -> Result<Self, String> {
        if items == ["*"] {
            return Ok(Self::All);
        }
        if items.is_empty() {
            return Err(format!("expected {}", Self::EXPECTED));
        }
        items
            .iter()
            .map(|item| item.parse().map_err(|()| unlike::<Self>(item)))
            .collect::<Result<_, _>>()
            .map(Self::Only)
    }

    fn show(&self) -> Value {
        match self {
            Self::All => Value::from(vec!["*"]),
            Self::Only(tenants) => tenants.iter().map(Tenant::as_str).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_by_tls_or_from_this_machine() {
        for (text, safe) in [
            ("https://id.example.com/keys?p=policy", true),
            ("http://localhost:8080/keys", true),
            ("http://127.0.0.1/keys", true),
            ("http://[::1]:1/keys", true),
            ("http://keycloak:8080/keys", false),
            ("http://localhost.example.com/keys", false),
            ("http://10.0.0.1/keys", false),
        ] {
            assert_eq!(JwksUrl::parse(text).unwrap().is_safe(), safe, "{text}");
        }
        for text in [
            "id.example.com/keys",
            "file:///etc/keys",
            "https://u:p@id.example.com/",
            "https://id.example.com/#keys",
        ] {
            let error = JwksUrl::parse(text).unwrap_err();
            assert!(!error.contains("u:p"), "{error}");
        }
    }

    #[test]
    fn all_tenants_must_be_meant() {
        let read = |text: &str| Tenants::parse(text);
        assert_eq!(read("*"), Ok(Tenants::All));
        let two = read("acme, globex").unwrap();
        assert!(two.contains(&"globex".parse().unwrap()));
        assert!(!two.contains(&"other".parse().unwrap()));
        for text in ["", "acme,*", "ac/me", "a*"] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
