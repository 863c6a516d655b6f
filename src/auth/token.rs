//! A token taken apart: JWS in its compact form (RFC 7515, section 3.1) around JSON claims
//! (RFC 7519).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value};

use super::claims::Claims;

/// Nothing of it is true before [`Token::claims`] says so.
pub(super) struct Token<'a> {
    /// What is signed: header and claims as they came.
    message: &'a str,
    signature: &'a str,
    header: Header,
    claims: Claims,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl<'a> Token<'a> {
    /// None for what is no token that could ever be valid here.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (message, signature) = text.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let header: Header = part(header)?;
        // Who marks an extension as critical wants those who don't know it to refuse (section
        // 4.1.11); none is known here.
        if header.crit.is_some() {
            return None;
        }
        Some(Self {
            message,
            signature,
            header,
            claims: part(claims)?,
        })
    }

    /// What the token says of its issuer: good for choosing the keys to try, and nothing else.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.issuer()
    }

    /// Which key the token says it was signed with.
    pub(super) fn kid(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// The algorithm that the token names, if it is one that is known here. It decides nothing:
    /// a key says what it is for, and a token that says otherwise is refused.
    pub(super) fn algorithm(&self) -> Option<Algorithm> {
        algorithm(&self.header.alg)
    }

    /// The claims, if this key signed them with this algorithm, and the token says so too.
    pub(super) fn claims(&self, algorithm: Algorithm, key: &DecodingKey) -> Option<&Claims> {
        let signed = self.algorithm() == Some(algorithm)
            && jsonwebtoken::crypto::verify(
                self.signature,
                self.message.as_bytes(),
                key,
                algorithm,
            )
            .unwrap_or(false);
        signed.then_some(&self.claims)
    }
}

/// One of RFC 7518, section 3.1, RFC 8037, section 3.1, or RFC 9864, section 2.2. `none` is not
/// among them.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "HS256" => Some(Algorithm::HS256),
        "RS256" => Some(Algorithm::RS256),
        "PS256" => Some(Algorithm::PS256),
        "ES256" => Some(Algorithm::ES256),
        // Of the two curves that the older name leaves open only one is known here.
        "EdDSA" | "Ed25519" => Some(Algorithm::EdDSA),
        _ => None,
    }
}

/// Of a part that is a JSON object in UTF-8 (RFC 7515, section 5.2), what is wanted. All of it is read
/// first: serde takes a list for a struct, and looks for no text in what it passes over.
fn part<T: DeserializeOwned>(text: &str) -> Option<T> {
    let json = URL_SAFE_NO_PAD.decode(text).ok()?;
    serde_json::from_slice::<Map<String, Value>>(&json).ok()?;
    serde_json::from_slice(&json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_an_object_in_utf_8() {
        let parse = |header: &[u8]| {
            let text = format!("{}.e30.x", URL_SAFE_NO_PAD.encode(header));
            Token::parse(&text).is_some()
        };
        assert!(parse(br#"{"alg":"HS256","typ":"JWT","kid":null}"#));
        for bad in [
            &b"{\"alg\":\"HS256\",\"typ\":\"\x9f\"}"[..],
            br#"["HS256",null,null]"#,
            br#"{"alg":"HS256","typ":1e999}"#,
            br#"{"alg":"HS256"}x"#,
            br#""HS256""#,
            b"",
        ] {
            assert!(!parse(bad), "{}", String::from_utf8_lossy(bad));
        }
    }
}
