//! The keys of an issuer: a JWK Set (RFC 7517), of which every key that can't be used is passed
//! over (section 5).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::claims::Claims;
use super::token::{self, Token};

/// Of one set; what comes behind is passed over. A token without `kid` is tried against all.
const MOST_KEYS: usize = 100;

/// In bits: RFC 7518, section 3.3, and the most that the library takes.
const RSA_LENGTH: std::ops::RangeInclusive<usize> = 2_048..=8_192;

/// What a set of keys makes of a token.
pub(super) enum Verdict<'a> {
    /// One of the keys signed it.
    Signed(&'a Claims),
    /// None did, and no other key will do.
    Refused,
    /// The key that it was signed with may be one that is not here yet.
    Unknown,
}

pub(super) struct KeySet {
    keys: Vec<Key>,
    generation: u64,
}

struct Key {
    kid: Option<String>,
    public: Public,
    /// Those that it may be used with: the key says so, and never the token.
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

#[derive(PartialEq)]
enum Public {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The two coordinates, behind the byte that says that both are there.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// # Errors
    /// What is no JWK Set at all. One without a key that can be used is one.
    pub(super) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let set: JwkSet = serde_json::from_slice(json)?;
        let keys = set.keys.into_iter().filter_map(|key| {
            let jwk: Jwk = serde_json::from_value(key).ok()?;
            Key::of(jwk)
        });
        Ok(Self {
            keys: keys.take(MOST_KEYS).collect(),
            generation: 0,
        })
    }

    /// The set that follows `previous`. What a key of an earlier generation vouched for has to be
    /// asked for again.
    #[must_use]
    pub(super) fn following(mut self, previous: &Self) -> Self {
        let stays = |key: &Key| self.keys.iter().any(|own| own.is(key));
        let gone = !previous.keys.iter().all(stays);
        self.generation = previous.generation + u64::from(gone);
        self
    }

    /// The same for as long as no key has left.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn judge<'a>(&self, token: &'a Token<'_>) -> Verdict<'a> {
        // No newer set has a key for HS256 either: see `Key::of`.
        let Some(algorithm) = token.algorithm().filter(|it| *it != Algorithm::HS256) else {
            return Verdict::Refused;
        };
        let named: Vec<&Key> = match token.kid() {
            Some(kid) => {
                let has = |key: &&Key| key.kid.as_deref() == Some(kid);
                self.keys.iter().filter(has).collect()
            }
            None => self.keys.iter().collect(),
        };
        let signed = named
            .iter()
            .filter(|key| key.algorithms.contains(&algorithm))
            .find_map(|key| token.claims(algorithm, &key.decoding));
        match signed {
            Some(claims) => Verdict::Signed(claims),
            None if token.kid().is_none() || named.is_empty() => Verdict::Unknown,
            None => Verdict::Refused,
        }
    }
}

impl Key {
    /// None for a key that is not for signatures, of a kind that is not known here, or too weak.
    fn of(jwk: Jwk) -> Option<Self> {
        let for_signatures = jwk.usage.is_none_or(|usage| usage == "sig");
        let verifies = jwk
            .key_ops
            .is_none_or(|operations| operations.iter().any(|known| known == "verify"));
        if !for_signatures || !verifies {
            return None;
        }
        let public = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => {
                let n = without_zeros(bytes(&jwk.n)?);
                let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
                if !RSA_LENGTH.contains(&bits) {
                    return None;
                }
                let e = without_zeros(bytes(&jwk.e)?);
                Public::Rsa { n, e }
            }
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                Public::P256([vec![4], x, y].concat())
            }
            ("OKP", Some("Ed25519")) => {
                let x = bytes(&jwk.x)?;
                if x.len() != 32 {
                    return None;
                }
                Public::Ed25519(x)
            }
            // Among them `oct`: a secret that is published is none.
            _ => return None,
        };
        let (decoding, possible) = match &public {
            Public::Rsa { n, e } => (
                DecodingKey::from_rsa_raw_components(n, e),
                vec![Algorithm::RS256, Algorithm::PS256],
            ),
            Public::P256(point) => (DecodingKey::from_ec_der(point), vec![Algorithm::ES256]),
            Public::Ed25519(x) => (DecodingKey::from_ed_der(x), vec![Algorithm::EdDSA]),
        };
        let algorithms = match &jwk.alg {
            None => possible,
            Some(name) => {
                let only = token::algorithm(name).filter(|only| possible.contains(only))?;
                vec![only]
            }
        };
        Some(Self {
            kid: jwk.kid,
            public,
            algorithms,
            decoding,
        })
    }

    fn is(&self, other: &Self) -> bool {
        self.kid == other.kid && self.public == other.public && self.algorithms == other.algorithms
    }
}

fn bytes(text: &Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.as_ref()?).ok()
}

/// A number has none in front (RFC 7518, section 2, Base64urlUInt), but some issuers' have.
fn without_zeros(mut number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.drain(..zeros);
    number
}

#[cfg(test)]
mod tests;
