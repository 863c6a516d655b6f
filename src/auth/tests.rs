use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use super::*;

fn tokens(secrets: &str, clock: &Clock) -> Tokens {
    Tokens::new(Some(&secrets.parse().unwrap()), &[], clock.clone()).unwrap()
}

#[tokio::test]
async fn a_token_lives_until_its_expiry_and_the_leeway() {
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
    let principal = tokens.verify(&token).await.unwrap();
    assert_eq!(
        (principal.tenant.as_str(), principal.subject.as_str()),
        ("acme", "ann")
    );
    assert_eq!(principal.scopes, [Scope::FilesRead]);
    clock.advance(Duration::from_secs(89));
    assert!(tokens.verify(&token).await.is_ok());
    clock.advance(Duration::from_secs(1));
    assert_eq!(
        tokens.verify(&token).await.unwrap_err().kind(),
        Kind::Unauthenticated
    );
}

#[tokio::test]
async fn the_first_secret_signs_and_all_verify() {
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
    assert!(rotated.verify(&issue(&tokens(old, &clock))).await.is_ok());
    assert!(tokens(new, &clock).verify(&issue(&rotated)).await.is_ok());
    assert!(tokens(old, &clock).verify(&issue(&rotated)).await.is_err());
}

#[tokio::test]
async fn no_other_algorithm_and_no_odd_tenant_passes() {
    let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
    let secret = "0123456789abcdef0123456789abcdef";
    let key = EncodingKey::from_secret(secret.as_bytes());
    let tokens = tokens(secret, &clock);
    let claims = |tenant: &str| json!({"sub": "ann", "tenant": tenant, "exp": 1_800_000_000});
    let sign = |algorithm, tenant: &str| {
        jsonwebtoken::encode(&Header::new(algorithm), &claims(tenant), &key).unwrap()
    };
    assert!(tokens.verify(&sign(Algorithm::HS256, "acme")).await.is_ok());
    assert!(
        tokens
            .verify(&sign(Algorithm::HS512, "acme"))
            .await
            .is_err()
    );
    assert!(
        tokens
            .verify(&sign(Algorithm::HS256, "../acme"))
            .await
            .is_err()
    );
    let odd = json!({"sub": "a\0", "tenant": "acme", "exp": 1_800_000_000});
    let odd = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &odd, &key).unwrap();
    assert!(tokens.verify(&odd).await.is_err());
    // {"alg":"none"}
    let unsigned = format!(
        "eyJhbGciOiJub25lIn0.{}.",
        sign(Algorithm::HS256, "acme").split('.').nth(1).unwrap()
    );
    assert!(tokens.verify(&unsigned).await.is_err());
}

#[tokio::test]
async fn a_token_is_verified_once() {
    let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
    let tokens = tokens("0123456789abcdef0123456789abcdef", &clock);
    let minute = Duration::from_secs(60);
    let token = tokens
        .issue(&"acme".parse().unwrap(), "ann", &[], minute)
        .unwrap();
    let first = tokens.verify(&token).await.unwrap();
    let second = tokens.verify(&token).await.unwrap();
    assert!(Arc::ptr_eq(&first, &second), "it was verified again");
    let forged = token.replacen("ey", "eY", 1);
    assert!(tokens.verify(&forged).await.is_err());
    clock.advance(minute + LEEWAY);
    let error = tokens.verify(&token).await.unwrap_err();
    assert_eq!(error.detail(), "The token has expired.");
}

#[tokio::test]
async fn without_a_secret_there_are_no_tokens_of_the_services_own() {
    let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
    let tenant = "acme".parse().unwrap();
    let minute = Duration::from_secs(60);
    let token = tokens("0123456789abcdef0123456789abcdef", &clock)
        .issue(&tenant, "ann", &[], minute)
        .unwrap();
    let without = Tokens::new(None, &[], clock).unwrap();
    let error = without.verify(&token).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated);
    assert!(without.issue(&tenant, "ann", &[], minute).is_err());
}
