use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::auth::{Scope, Tokens};
use crate::clock::{Clock, Timestamp};

use super::{hmac, split, take};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// In seconds since 1970.
const NOW: i64 = 1_700_000_000;

/// What a token is taken to say.
#[derive(Debug, PartialEq)]
struct Said {
    tenant: String,
    subject: String,
    scopes: Vec<Scope>,
}

/// The one call of what is tested here, and again: the second time the token may be a known one.
fn verify(token: &str) -> Option<Said> {
    static TOKENS: LazyLock<Tokens> = LazyLock::new(tokens);
    let verify = || {
        let principal = futures::executor::block_on(TOKENS.verify(token)).ok()?;
        Some(Said {
            tenant: principal.tenant.to_string(),
            subject: principal.subject.clone(),
            scopes: principal.scopes.clone(),
        })
    };
    let said = verify();
    assert_eq!(said, verify(), "{token}");
    said
}

fn tokens() -> Tokens {
    let secret = SECRET.parse().expect("it is long enough");
    let clock = Clock::manual(Timestamp::from_micros(NOW * 1_000_000));
    Tokens::new(Some(&secret), &[], clock).expect("it needs no connection")
}

/// Of any text: it is no token. Of a token that was issued and then changed anywhere: neither. Of
/// any header and claims that were signed: the token is valid only where each is as the API says.
///
/// The input: one byte that says which of these, and the rest of it.
pub fn jwt(mut input: &[u8]) {
    let [kind] = take(&mut input);
    match kind % 3 {
        0 => any_text(input),
        1 => changed(input),
        _ => signed(input),
    }
}

fn any_text(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    assert!(verify(text).is_none() || is_signed(text), "{text}");
}

fn changed(mut input: &[u8]) {
    static TOKEN: LazyLock<String> = LazyLock::new(|| {
        tokens()
            .issue(
                &"acme".parse().expect("it is a tenant"),
                "ann",
                &[Scope::FilesRead],
                Duration::from_secs(60),
            )
            .expect("it can be signed")
    });
    let mut token = TOKEN.clone().into_bytes();
    while !input.is_empty() {
        let [how, at, byte] = take(&mut input);
        let at = usize::from(at) % (token.len() + 1);
        match how % 4 {
            0 => token.insert(at, byte),
            1 => drop(token.drain(at..token.len().min(at + 1))),
            2 => token.truncate(at),
            _ => {
                if let Some(known) = token.get_mut(at) {
                    *known = byte;
                }
            }
        }
    }
    let Ok(token) = String::from_utf8(token) else {
        return;
    };
    // Not one bit of it may differ: base64 has spare ones in the last character of a signature.
    assert_eq!(verify(&token).is_some(), token == *TOKEN, "{token}");
}

fn signed(input: &[u8]) {
    let (header, claims) = split(input, 0);
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let token = format!(
        "{text}.{}",
        URL_SAFE_NO_PAD.encode(hmac(SECRET.as_bytes(), text.as_bytes()))
    );
    let Some(said) = verify(&token) else {
        return;
    };
    let read = |part| serde_json::from_slice::<Value>(part).expect("a valid token is JSON");
    let (header, claims) = (read(header), read(claims));
    assert_eq!(header["alg"], "HS256", "{header}");
    // Nothing that the issuer wants understood is (RFC 7515, section 4.1.11).
    assert!(header["crit"].is_null(), "{header}");
    assert_eq!(claims["tenant"], said.tenant, "{claims}");
    assert_eq!(claims["sub"], said.subject, "{claims}");
    assert!((1..=64).contains(&said.tenant.len()), "{claims}");
    assert!(
        said.tenant
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')),
        "{claims}"
    );
    assert!((1..=255).contains(&said.subject.len()), "{claims}");
    assert!(!said.subject.contains(char::is_control), "{claims}");
    // Cut off below the second, where there is a fraction.
    let seconds = |claim: &str| claims[claim].as_f64().map(f64::floor);
    let (now, leeway) = (NOW as f64, 30.0);
    assert!(
        seconds("exp").is_some_and(|exp| exp + leeway > now),
        "{claims}"
    );
    assert!(
        seconds("nbf").is_none_or(|nbf| nbf - leeway <= now),
        "{claims}"
    );
    let listed: Vec<&str> = match &claims["scope"] {
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        scope => scope.as_str().into_iter().collect(),
    };
    let mut allowed = listed.into_iter().flat_map(|text| text.split(' '));
    for scope in said.scopes {
        assert!(allowed.any(|word| word == scope.as_str()), "{claims}");
    }
}

fn is_signed(token: &str) -> bool {
    token.rsplit_once('.').is_some_and(|(text, signature)| {
        URL_SAFE_NO_PAD.encode(hmac(SECRET.as_bytes(), text.as_bytes())) == signature
    })
}
