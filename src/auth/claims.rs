//! What a token says (RFC 7519, section 4), and which of it makes a principal.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};

use super::{LEEWAY, Principal, refused};

/// Of a claim that is there twice the last one counts, as section 4 allows.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Claims(Map<String, Value>);

/// What an issuer calls the claims.
pub(super) struct Names {
    pub(super) tenant: String,
    pub(super) subject: String,
    pub(super) scope: String,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            tenant: "tenant".to_owned(),
            subject: "sub".to_owned(),
            scope: "scope".to_owned(),
        }
    }
}

impl Claims {
    /// A claim that is null is one that is not there.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    pub(super) fn issuer(&self) -> Option<&str> {
        self.text("iss")
    }

    /// Whether the token is meant for one of `known` (section 4.1.3).
    pub(super) fn is_for(&self, known: &[String]) -> bool {
        let knows = |audience: &Value| known.iter().any(|known| audience == known.as_str());
        match self.get("aud") {
            Some(Value::Array(audiences)) => audiences.iter().any(knows),
            Some(audience) => knows(audience),
            None => false,
        }
    }

    /// # Errors
    /// `Unauthenticated`.
    pub(super) fn principal(&self, names: &Names, now: Timestamp) -> Result<Principal> {
        let expires_at = self.time("exp")?.ok_or_else(refused)?;
        if expires_at.plus(LEEWAY) <= now {
            return Err(Error::new(Kind::Unauthenticated, "The token has expired."));
        }
        let valid_from = self.time("nbf")?;
        if valid_from.is_some_and(|from| from.minus(LEEWAY) > now) {
            return Err(refused());
        }
        let subject = self.text(&names.subject).ok_or_else(refused)?;
        if subject.is_empty()
            || subject.len() > 255
            // No database text; the others would blur a log line.
            || subject.contains(char::is_control)
        {
            return Err(refused());
        }
        let tenant = self.text(&names.tenant).ok_or_else(refused)?;
        // Scopes that are none of this service's are for others who read the same token.
        let scopes = self.words(&names.scope)?;
        Ok(Principal {
            tenant: tenant.parse().map_err(|()| refused())?,
            subject: subject.to_owned(),
            scopes: scopes.filter_map(|scope| scope.parse().ok()).collect(),
            expires_at,
        })
    }

    /// Seconds since 1970, a fraction cut off (section 2, NumericDate).
    fn time(&self, name: &str) -> Result<Option<Timestamp>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        // A cast saturates: the end of time is as good as any that lies beyond.
        let seconds = value
            .as_i64()
            .or_else(|| value.as_f64().map(|seconds| seconds.floor() as i64))
            .ok_or_else(refused)?;
        Ok(Some(Timestamp::from_micros(
            seconds.saturating_mul(1_000_000),
        )))
    }

    /// The words of a text, as `scope` has them (RFC 8693, section 4.2), or the texts of a list,
    /// as `scp`, `roles` or `permissions` have them with some issuers.
    fn words(&self, name: &str) -> Result<impl Iterator<Item = &str>> {
        let texts: Vec<&str> = match self.get(name) {
            None => Vec::new(),
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(items)) => items
                .iter()
                .map(Value::as_str)
                .collect::<Option<_>>()
                .ok_or_else(refused)?,
            Some(_) => return Err(refused()),
        };
        Ok(texts.into_iter().flat_map(|text| text.split(' ')))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::Scope;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn claims(changes: Value) -> Claims {
        let mut claims = json!({"sub": "ann", "tenant": "acme", "exp": 1_700_000_060});
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        serde_json::from_value(claims).unwrap()
    }

    fn read(changes: Value) -> Result<Principal> {
        claims(changes).principal(&Names::default(), NOW)
    }

    #[test]
    fn what_is_no_principal_is_refused_without_a_reason() {
        for changes in [
            json!({"exp": null}),
            json!({"exp": "1700000060"}),
            json!({"nbf": 1_700_000_031}),
            json!({"nbf": "soon"}),
            json!({"sub": ""}),
            json!({"sub": 7}),
            json!({"sub": "a\u{0}"}),
            json!({"sub": "a".repeat(256)}),
            json!({"tenant": "../acme"}),
            json!({"tenant": null}),
            json!({"tenant": ["acme"]}),
            json!({"scope": 7}),
            json!({"scope": ["files:read", 7]}),
            json!({"scope": {"files:read": true}}),
        ] {
            let error = read(changes.clone()).unwrap_err();
            assert_eq!(error.kind(), Kind::Unauthenticated, "{changes}");
            assert_eq!(error.detail(), refused().detail(), "{changes}");
        }
        let mut without = claims(json!({}));
        without.0.remove("exp");
        assert!(without.principal(&Names::default(), NOW).is_err());
    }

    #[test]
    fn times_have_a_leeway_and_may_have_a_fraction() {
        for changes in [
            json!({"nbf": 1_700_000_030}),
            json!({"exp": 1_699_999_971}),
            json!({"exp": 1_699_999_971.9}),
            json!({"exp": u64::MAX}),
            json!({"nbf": null}),
        ] {
            assert!(read(changes.clone()).is_ok(), "{changes}");
        }
        let late = read(json!({"exp": 1_699_999_970.9})).unwrap_err();
        assert_eq!(late.detail(), "The token has expired.");
    }

    #[test]
    fn scopes_are_a_text_or_a_list_and_the_unknown_are_passed_over() {
        for scope in [
            json!("files:read openid links:write"),
            json!(["files:read", "openid", "links:write"]),
            json!(["files:read openid", "links:write"]),
        ] {
            let principal = read(json!({ "scope": scope })).unwrap();
            assert_eq!(principal.scopes, [Scope::FilesRead, Scope::LinksWrite]);
        }
        assert_eq!(read(json!({})).unwrap().scopes, []);
    }

    #[test]
    fn the_audience_is_one_of_the_known_in_whatever_form() {
        let known = ["box".to_owned(), "files".to_owned()];
        for (audience, fits) in [
            (json!("box"), true),
            (json!(["other", "files"]), true),
            (json!("other"), false),
            (json!("Box"), false),
            (json!(["other"]), false),
            (json!([]), false),
            (json!(null), false),
            (json!({"box": "box"}), false),
        ] {
            let told = claims(json!({ "aud": audience }));
            assert_eq!(told.is_for(&known), fits, "{audience}");
        }
        assert!(!claims(json!({})).is_for(&known));
    }
}
