//! Which signature opens, and that no other does.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::issuer::{Issuer, Key, Says, hs256, message};

use super::{assert_refused, assert_taken, one_of_each, service, service_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_algorithm_is_taken() {
    let keys = [
        Key::rsa("rs", Some("RS256")),
        Key::rsa("ps", Some("PS256")),
        Key::rsa("any", None),
        Key::p256("es"),
        Key::ed25519("ed"),
    ];
    let published: Vec<&Key> = keys.iter().collect();
    let issuer = Issuer::start(&published).await;
    let service = service(&[issuer.settings(json!({}))]).await;
    let claims = issuer.claims(json!({}));
    for key in &keys {
        let kid = key.kid.clone().unwrap();
        assert_taken(&service, &key.token(&claims), &kid).await;
        let tampered = key.token(&claims);
        let (message, signature) = tampered.rsplit_once('.').unwrap();
        let half = &signature[..signature.len() / 2];
        for bad in [format!("{message}."), format!("{message}.{half}")] {
            assert_refused(&service, &bad, &kid).await;
        }
    }
    let any = &keys[2];
    let pss = any.sign("PS256", &json!({"alg": "PS256", "kid": "any"}), &claims);
    assert_taken(&service, &pss, "an RSA key that doesn't say").await;
    // The newer name of the same (RFC 9864).
    let header = json!({"alg": "Ed25519", "kid": "ed"});
    assert_taken(&service, &keys[4].sign("EdDSA", &header, &claims), "").await;
    assert_eq!(issuer.fetches(), 1);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_without_a_key_id_is_tried_against_all() {
    let keys = [Key::p256("a"), Key::rsa("b", None), Key::p256("c")];
    let issuer = Issuer::start(&[&keys[0], &keys[1], &keys[2]]).await;
    let service = service(&[issuer.settings(json!({}))]).await;
    let claims = issuer.claims(json!({}));
    let header = |alg: &str| json!({ "alg": alg });
    for (key, alg) in [(0, "ES256"), (1, "RS256"), (1, "PS256"), (2, "ES256")] {
        let token = keys[key].sign(alg, &header(alg), &claims);
        assert_taken(&service, &token, alg).await;
    }
    let stranger = Key::p256("a");
    let forged = stranger.sign("ES256", &header("ES256"), &claims);
    assert_refused(&service, &forged, "none of the keys").await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_decides_the_algorithm_and_not_the_token() {
    let rs = Key::rsa("rs", Some("RS256"));
    let es = Key::p256("es");
    let issuer = Issuer::start(&[&rs, &es]).await;
    let service = service(&[issuer.settings(json!({}))]).await;
    let claims = issuer.claims(json!({}));
    let header = |alg: &str, kid: &str| json!({"alg": alg, "kid": kid});
    assert_taken(&service, &rs.token(&claims), "as it should be").await;
    for (token, why) in [
        (
            rs.sign("PS256", &header("PS256", "rs"), &claims),
            "not what the key is for",
        ),
        (
            rs.sign("PS256", &header("RS256", "rs"), &claims),
            "signed otherwise than it says",
        ),
        (
            rs.sign("RS256", &header("PS256", "rs"), &claims),
            "says otherwise than it is signed",
        ),
        (
            rs.sign("RS256", &header("RS256", "es"), &claims),
            "a key of another kind",
        ),
        (
            es.sign("ES256", &header("RS256", "es"), &claims),
            "a wrong name",
        ),
        (
            es.sign("ES256", &header("ES256", "rs"), &claims),
            "a wrong key",
        ),
        (
            es.sign("ES256", &header("ES512", "es"), &claims),
            "an unknown name",
        ),
        (
            es.sign(
                "ES256",
                &json!({"alg": "ES256", "kid": "es", "crit": ["x"], "x": 1}),
                &claims,
            ),
            "an extension that is not known",
        ),
        (Key::p256("es").token(&claims), "a key of the same name"),
    ] {
        assert_refused(&service, &token, why).await;
    }
    for alg in ["none", "None", "NONE", ""] {
        let unsigned = message(&header(alg, "rs"), &claims);
        let token = rs.token(&claims);
        let signature = token.rsplit('.').next().unwrap();
        for token in [format!("{unsigned}."), format!("{unsigned}.{signature}")] {
            assert_refused(&service, &token, "none").await;
        }
    }
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_no_secret() {
    let key = Key::rsa("rs", Some("RS256"));
    let issuer = Issuer::start(&[]).await;
    let secret = b"a secret that stands in the set of keys";
    let oct =
        json!({"kty": "oct", "kid": "oct", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(secret)});
    issuer.say(Says::Keys(vec![key.jwk(), oct]));
    let service = service(&[issuer.settings(json!({}))]).await;
    let claims = issuer.claims(json!({}));
    assert_taken(&service, &key.token(&claims), "as it should be").await;
    let jwk = key.jwk();
    let modulus = jwk["n"].as_str().unwrap();
    let mut guesses: Vec<Vec<u8>> = vec![
        secret.to_vec(),
        modulus.as_bytes().to_vec(),
        URL_SAFE_NO_PAD.decode(modulus).unwrap(),
        jwk.to_string().into_bytes(),
        Vec::new(),
    ];
    guesses.push([&guesses[2][..], &[1, 0, 1]].concat());
    for guess in &guesses {
        for kid in ["rs", "oct", "other"] {
            let header = json!({"alg": "HS256", "kid": kid});
            assert_refused(&service, &hs256(guess, &header, &claims), kid).await;
        }
        let header = json!({"alg": "RS256", "kid": "rs"});
        assert_refused(&service, &hs256(guess, &header, &claims), "RS256").await;
    }
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_services_secret_does_not_speak_for_an_issuer() {
    let (service, issuer, _key) = one_of_each("a").await;
    let secret = service.app.config.auth.secret.clone().unwrap();
    let secret = secret.signing().expose().as_bytes();
    let header = json!({"alg": "HS256"});
    let own = |changes: Value| hs256(secret, &header, &issuer.claims(changes));
    assert_taken(&service, &own(json!({"iss": null})), "its own").await;
    assert_taken(
        &service,
        &own(json!({"iss": "us"})),
        "nobody that is configured",
    )
    .await;
    assert_refused(&service, &own(json!({})), "in the issuer's name").await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_issuers_the_secret_has_to_be_set() {
    let key = Key::p256("a");
    let issuer = Issuer::start(&[&key]).await;
    let settings = [issuer.settings(json!({}))];
    let with = service(&settings).await;
    let own = with.token("acme", &[]);
    assert_taken(&with, &own, "with a secret").await;
    with.end().await;
    let without = service_with(&settings, &[("BOX_AUTH__SECRET", "")]).await;
    assert_refused(&without, &own, "without a secret").await;
    let token = key.token(&issuer.claims(json!({})));
    assert_taken(&without, &token, "the issuer's").await;
    without.end().await;
}
