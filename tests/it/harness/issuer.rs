//! An issuer of tokens: keys that sign, and a server that publishes them, counts who asks, and can be
//! told to fail, to hang, or to say something else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaKeyPair, RsaPublicKeyComponents,
};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub struct Issuer {
    /// Of the server, and what the tokens have as `iss`.
    pub url: String,
    fetches: Arc<AtomicUsize>,
    says: watch::Sender<Says>,
}

/// What the server answers.
#[derive(Clone)]
pub enum Says {
    Keys(Vec<Value>),
    Text(String),
    Status(u16),
    /// Go to this path, where the keys are.
    Elsewhere(Vec<Value>),
    /// Nothing, until it is told something else.
    Nothing,
}

impl Issuer {
    /// One that publishes these keys, until the test's runtime ends.
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fetches = Arc::new(AtomicUsize::new(0));
        let says = watch::Sender::new(Says::Keys(Vec::new()));
        let router = Router::new()
            .route("/keys", get(answer))
            .route("/elsewhere", get(answer_elsewhere))
            .with_state((fetches.clone(), says.subscribe()));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let issuer = Self { url, fetches, says };
        issuer.publish(keys);
        issuer
    }

    pub fn publish(&self, keys: &[&Key]) {
        self.say(Says::Keys(keys.iter().map(|key| key.jwk()).collect()));
    }

    pub fn say(&self, says: Says) {
        self.says.send_replace(says);
    }

    /// How often the keys were asked for.
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    /// As an entry of `auth.issuers`, with keys changed or added.
    pub fn settings(&self, changes: Value) -> Value {
        let settings = json!({
            "issuer": self.url,
            "jwks_url": format!("{}/keys", self.url),
            "audience": ["box"],
            "tenants": ["acme"],
        });
        laid_over(settings, changes)
    }

    /// Of a token that is good for ten years, with claims changed, added, or taken away by null.
    pub fn claims(&self, changes: Value) -> Value {
        let claims = json!({
            "iss": self.url,
            "aud": "box",
            "sub": "ann",
            "tenant": "acme",
            "scope": "files:read",
            "exp": 2_085_000_000,
        });
        laid_over(claims, changes)
    }
}

fn laid_over(mut base: Value, changes: Value) -> Value {
    let base_map = base.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            base_map.remove(name);
        } else {
            base_map.insert(name.clone(), value.clone());
        }
    }
    base
}

type Server = (Arc<AtomicUsize>, watch::Receiver<Says>);

async fn answer(State((fetches, mut says)): State<Server>) -> Response {
    fetches.fetch_add(1, Ordering::SeqCst);
    let says = says.wait_for(|says| !matches!(says, Says::Nothing)).await;
    match says.map(|says| says.clone()) {
        Ok(Says::Keys(keys)) => json!({ "keys": keys }).to_string().into_response(),
        Ok(Says::Text(text)) => text.into_response(),
        Ok(Says::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Ok(Says::Elsewhere(_)) => (StatusCode::FOUND, [(LOCATION, "/elsewhere")]).into_response(),
        Ok(Says::Nothing) | Err(_) => StatusCode::GONE.into_response(),
    }
}

async fn answer_elsewhere(State((_, says)): State<Server>) -> Response {
    match &*says.borrow() {
        Says::Elsewhere(keys) => json!({ "keys": keys }).to_string().into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A key that is made for the test.
pub struct Key {
    pub kid: Option<String>,
    /// As it is published; None: the key doesn't say.
    pub alg: Option<&'static str>,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    pub fn rsa(kid: &str, alg: Option<&'static str>) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        Self::of(kid, alg, Pair::Rsa(pair))
    }

    pub fn p256(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self::of(kid, Some("ES256"), Pair::P256(pair))
    }

    pub fn ed25519(kid: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        Self::of(kid, Some("EdDSA"), Pair::Ed25519(pair))
    }

    fn of(kid: &str, alg: Option<&'static str>, pair: Pair) -> Self {
        let kid = Some(kid.to_owned());
        Self { kid, alg, pair }
    }

    pub fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": text(&public.n), "e": text(&public.e)})
            }
            Pair::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..])})
            }
            Pair::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref())})
            }
        };
        jwk["use"] = json!("sig");
        if let Some(kid) = &self.kid {
            jwk["kid"] = json!(kid);
        }
        if let Some(alg) = self.alg {
            jwk["alg"] = json!(alg);
        }
        jwk
    }

    /// A token as this key's owner makes it. A key that doesn't say signs with its first algorithm.
    pub fn token(&self, claims: &Value) -> String {
        let alg = match &self.pair {
            Pair::Rsa(_) => self.alg.unwrap_or("RS256"),
            Pair::P256(_) => "ES256",
            Pair::Ed25519(_) => "EdDSA",
        };
        let mut header = json!({"alg": alg, "typ": "JWT"});
        if let Some(kid) = &self.kid {
            header["kid"] = json!(kid);
        }
        self.sign(alg, &header, claims)
    }

    /// Signed with `alg`, whatever the header says.
    pub fn sign(&self, alg: &str, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let bytes = message.as_bytes();
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let padding = match alg {
                    "RS256" => &RSA_PKCS1_SHA256,
                    "PS256" => &RSA_PSS_SHA256,
                    other => panic!("{other} is not for RSA"),
                };
                pair.sign(padding, &random, bytes, &mut signature).unwrap();
                signature
            }
            Pair::P256(pair) => pair.sign(&random, bytes).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(bytes).as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Header and claims, before they are signed.
pub fn message(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// Signed with a secret.
pub fn hs256(secret: &[u8], header: &Value, claims: &Value) -> String {
    use aws_lc_rs::hmac;
    let message = message(header, claims);
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, secret),
        message.as_bytes(),
    );
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}
