//! For whom an issuer speaks, to whom, and in which words.

use serde_json::json;

use crate::harness::issuer::{Issuer, Key};

use super::{assert_refused, assert_taken, me, one_of_each, service};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_claims_make_the_principal() {
    let (service, issuer, key) = one_of_each("a").await;
    let scope = "files:read email links:write";
    let token = key.token(&issuer.claims(json!({"scope": scope, "exp": 1_800_000_000})));
    let told = me(&service, &token).await.json(200);
    assert_eq!(
        told,
        json!({"tenant": "acme", "subject": "ann", "scopes": ["files:read", "links:write"],
               "expires_at": "2027-01-15T08:00:00.000000Z"})
    );
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_another_service_or_another_time_is_refused() {
    let (service, issuer, key) = one_of_each("a").await;
    let now = service.clock.now().as_secs();
    for changes in [
        json!({"aud": null}),
        json!({"aud": "other"}),
        json!({"aud": ["other", "another"]}),
        json!({"aud": []}),
        json!({"exp": null}),
        json!({"nbf": now + 31}),
        json!({"sub": null}),
        json!({"sub": ""}),
        json!({"tenant": null}),
        json!({"tenant": "../acme"}),
        json!({"scope": 7}),
        json!({"iss": null}),
        json!({"iss": "https://elsewhere.test"}),
        json!({"iss": format!("{}/", issuer.url)}),
        json!({"iss": [issuer.url]}),
    ] {
        let token = key.token(&issuer.claims(changes.clone()));
        assert_refused(&service, &token, &changes.to_string()).await;
    }
    for changes in [
        json!({"aud": ["other", "box"]}),
        json!({"nbf": now + 30}),
        json!({"scope": null}),
    ] {
        let token = key.token(&issuer.claims(changes.clone()));
        assert_taken(&service, &token, &changes.to_string()).await;
    }
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_speaks_only_for_its_tenants_and_with_its_own_keys() {
    let (key, other_key) = (Key::p256("same"), Key::p256("same"));
    let issuer = Issuer::start(&[&key]).await;
    let other = Issuer::start(&[&other_key]).await;
    let service = service(&[
        issuer.settings(json!({"tenants": ["acme", "globex"]})),
        other.settings(json!({"tenants": ["*"], "audience": ["box", "files"]})),
    ])
    .await;
    for (tenant, its, others) in [
        ("acme", true, true),
        ("globex", true, true),
        ("initech", false, true),
        ("Acme", false, true),
    ] {
        let claims = json!({ "tenant": tenant });
        for (token, taken) in [
            (key.token(&issuer.claims(claims.clone())), its),
            (other_key.token(&other.claims(claims.clone())), others),
            // Each in the other's name.
            (key.token(&other.claims(claims.clone())), false),
            (other_key.token(&issuer.claims(claims.clone())), false),
        ] {
            if taken {
                assert_taken(&service, &token, tenant).await;
            } else {
                assert_refused(&service, &token, tenant).await;
            }
        }
    }
    // The audience of one is not the other's.
    let files = json!({"aud": "files"});
    assert_taken(&service, &other_key.token(&other.claims(files.clone())), "").await;
    assert_refused(&service, &key.token(&issuer.claims(files)), "").await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_have_the_names_that_the_issuer_gives_them() {
    let key = Key::p256("a");
    let issuer = Issuer::start(&[&key]).await;
    let names = json!({
        "tenant_claim": "https://example.com/tenant",
        "subject_claim": "client_id",
        "scope_claim": "scp",
    });
    let service = service(&[issuer.settings(names)]).await;
    let token = key.token(&issuer.claims(json!({
        "https://example.com/tenant": "acme",
        "client_id": "robot",
        "scp": ["files:read", "User.Read", "admin"],
        // Not what these names say.
        "tenant": "globex",
        "sub": "someone",
        "scope": "files:delete",
    })));
    let told = me(&service, &token).await.json(200);
    assert_eq!(told["tenant"], "acme");
    assert_eq!(told["subject"], "robot");
    assert_eq!(told["scopes"], json!(["files:read", "admin"]));
    let usual = key.token(&issuer.claims(json!({})));
    assert_refused(&service, &usual, "under the usual names").await;
    service.end().await;
}
