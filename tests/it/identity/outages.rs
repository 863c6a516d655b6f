//! Keys that come and go, and issuers that don't answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpListener;

use crate::harness::connection::{Raw, request, until};
use crate::harness::issuer::{Issuer, Key, Says};

use super::{
    HOUR, assert_refused, assert_taken, assert_unavailable, me, one_of_each, service, service_with,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_rotated_without_a_failed_request() {
    const ROUNDS: usize = 4;
    const CALLERS: usize = 6;
    let keys: Arc<Vec<Key>> = Arc::new(
        (0..=ROUNDS)
            .map(|n| Key::p256(&format!("key-{n}")))
            .collect(),
    );
    let issuer = Arc::new(Issuer::start(&[&keys[0]]).await);
    let service = Arc::new(service(&[issuer.settings(json!({}))]).await);
    let signing = Arc::new(AtomicUsize::new(0));
    let calls = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));

    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (keys, issuer, service) = (keys.clone(), issuer.clone(), service.clone());
            let (signing, calls, over) = (signing.clone(), calls.clone(), over.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    // Each token is new, so that none is known from before.
                    let call = calls.fetch_add(1, Ordering::SeqCst);
                    let key = &keys[signing.load(Ordering::SeqCst)];
                    let token = key.token(&issuer.claims(json!({ "jti": call })));
                    assert_taken(&service, &token, &format!("caller {caller}")).await;
                }
            })
        })
        .collect();
    let some_calls = || async {
        let before = calls.load(Ordering::SeqCst);
        let over = || async { calls.load(Ordering::SeqCst) > before + 3 * CALLERS };
        until("some more calls were made", over).await;
    };
    some_calls().await;
    for round in 1..=ROUNDS {
        // The bound on fetches for unknown keys.
        service.clock.advance(30 * SECOND);
        issuer.publish(&[&keys[round - 1], &keys[round]]);
        signing.store(round, Ordering::SeqCst);
        some_calls().await;
    }
    over.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(issuer.fetches(), 1 + ROUNDS);
    Arc::into_inner(service).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_good_the_moment_it_is_published() {
    let (service, issuer, old) = one_of_each("old").await;
    let claims = issuer.claims(json!({}));
    assert_taken(&service, &old.token(&claims), "the first").await;
    let new = Key::ed25519("new");
    issuer.publish(&[&new]);
    assert_taken(&service, &new.token(&claims), "the second, at once").await;
    assert_refused(&service, &old.token(&claims), "the first, which is gone").await;
    assert_eq!(issuer.fetches(), 2);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_leaves_takes_the_tokens_that_were_known_with_it() {
    let (service, issuer, key) = one_of_each("a").await;
    let token = key.token(&issuer.claims(json!({})));
    assert_taken(&service, &token, "before").await;
    issuer.publish(&[&Key::p256("b")]);
    service.clock.advance(5 * MINUTE - SECOND);
    assert_taken(&service, &token, "the keys are fresh").await;
    assert_eq!(issuer.fetches(), 1);
    // Nobody waits for the fetch that this one begins.
    service.clock.advance(SECOND);
    assert_taken(&service, &token, "the keys are being fetched").await;
    until("the token is refused", || async {
        me(&service, &token).await.status == 401
    })
    .await;

    // After a quiet hour the first request waits for the keys.
    issuer.publish(&[&key]);
    service.clock.advance(30 * SECOND);
    assert_taken(&service, &token, "it is back").await;
    issuer.publish(&[]);
    service.clock.advance(HOUR);
    assert_refused(&service, &token, "at once").await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_key_ids_cause_one_fetch_in_half_a_minute() {
    let (service, issuer, key) = one_of_each("a").await;
    let claims = issuer.claims(json!({}));
    let flood = || async {
        let forged = (0..40).map(|n| {
            let stranger = Key::p256(&format!("made-up-{n}"));
            let token = match n % 2 {
                0 => stranger.token(&claims),
                _ => stranger.sign("ES256", &json!({"alg": "ES256"}), &claims),
            };
            let service = &service;
            async move { assert_refused(service, &token, "made up").await }
        });
        futures::future::join_all(forged).await;
    };
    assert_taken(&service, &key.token(&claims), "a good one").await;
    assert_eq!(issuer.fetches(), 1);
    for expected in 2..=3 {
        flood().await;
        assert_eq!(issuer.fetches(), expected);
        service.clock.advance(29 * SECOND);
        flood().await;
        assert_eq!(issuer.fetches(), expected);
        service.clock.advance(SECOND);
    }
    assert_taken(&service, &key.token(&claims), "a good one").await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_is_down_is_survived_for_a_day() {
    let (service, issuer, key) = one_of_each("a").await;
    let new = |n: u32| key.token(&issuer.claims(json!({ "jti": n })));
    let known = new(0);
    assert_taken(&service, &known, "before").await;
    issuer.say(Says::Status(500));
    for n in 1..24 {
        service.clock.advance(HOUR);
        assert_taken(&service, &known, "known from before").await;
        assert_taken(&service, &new(n), "a new one").await;
    }
    // Nobody can tell whether there is such a key by now.
    let unknown = Key::p256("b").token(&issuer.claims(json!({})));
    assert_unavailable(&service, &unknown).await;
    let forged = Key::p256("a").token(&issuer.claims(json!({})));
    assert_refused(&service, &forged, "the key is there, and it is another").await;

    service.clock.advance(HOUR);
    assert_unavailable(&service, &known).await;
    assert_unavailable(&service, &new(24)).await;
    let own = service.token("acme", &[]);
    assert_taken(&service, &own, "the service's own").await;
    issuer.publish(&[&key]);
    service.clock.advance(30 * SECOND);
    assert_taken(&service, &known, "it is back").await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_an_issuer_that_is_known_to_be_down() {
    let (service, issuer, key) = one_of_each("a").await;
    let token = key.token(&issuer.claims(json!({})));
    assert_taken(&service, &token, "before").await;
    issuer.say(Says::Status(500));
    service.clock.advance(5 * MINUTE);
    assert_taken(&service, &token, "the keys are asked for").await;
    until("they were", || async { issuer.fetches() == 2 }).await;
    // A fetch that failed counts, whatever it was for.
    let unknown = Key::p256("b").token(&issuer.claims(json!({})));
    assert_unavailable(&service, &unknown).await;
    assert_eq!(issuer.fetches(), 2);
    issuer.say(Says::Nothing);
    service.clock.advance(HOUR);
    let began = Instant::now();
    assert_taken(&service, &token, "with the keys that are there").await;
    assert!(began.elapsed() < 4 * SECOND);
    until("the keys are asked for", || async { issuer.fetches() == 3 }).await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_was_never_reached_can_not_be_judged() {
    let (service, issuer, key) = one_of_each("a").await;
    issuer.say(Says::Status(503));
    let token = key.token(&issuer.claims(json!({})));
    for _ in 0..5 {
        assert_unavailable(&service, &token).await;
    }
    assert_eq!(issuer.fetches(), 1, "a failed fetch counts");
    let own = service.token("acme", &[]);
    assert_taken(&service, &own, "the service's own").await;
    assert_refused(&service, "a.b.c", "no token").await;
    issuer.publish(&[&key]);
    assert_unavailable(&service, &token).await;
    service.clock.advance(30 * SECOND);
    assert_taken(&service, &token, "once it was reached").await;
    assert_eq!(issuer.fetches(), 2);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_at_the_address_is_like_no_answer() {
    let key = Key::p256("a");
    let issuer = Issuer::start(&[&key]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}/keys", listener.local_addr().unwrap());
    drop(listener);
    let settings = issuer.settings(json!({ "jwks_url": nobody }));
    let service = service_with(&[settings], &[("BOX_AUTH__SECRET", "")]).await;
    assert_unavailable(&service, &key.token(&issuer.claims(json!({})))).await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_no_key_set_is_like_none() {
    let (service, issuer, key) = one_of_each("a").await;
    let token = key.token(&issuer.claims(json!({})));
    let padded = json!({"keys": [key.jwk()], "padding": "x".repeat(1 << 20)});
    for says in [
        Says::Text("<html>Sign in</html>".to_owned()),
        Says::Text(r#"{"error": "no"}"#.to_owned()),
        Says::Text(padded.to_string()),
        Says::Status(404),
        Says::Elsewhere(vec![key.jwk()]),
    ] {
        issuer.say(says);
        assert_unavailable(&service, &token).await;
        service.clock.advance(30 * SECOND);
    }
    // A set without keys is one: nobody is believed.
    issuer.publish(&[]);
    assert_refused(&service, &token, "no keys").await;
    service.clock.advance(30 * SECOND);
    let odd = json!({"kty": "odd"});
    issuer.say(Says::Keys(vec![odd, json!(7), key.jwk()]));
    assert_taken(&service, &token, "among others").await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_keys_is_not_let_down_by_who_goes_away() {
    let (service, issuer, key) = one_of_each("a").await;
    issuer.say(Says::Nothing);
    let token = key.token(&issuer.claims(json!({})));
    let mut first = Raw::open(service.address()).await;
    first.send(request("GET", "/v1/me", &token, "")).await;
    until("the keys were asked for", || async {
        issuer.fetches() == 1
    })
    .await;
    let waiting = me(&service, &token);
    let then = async {
        drop(first);
        issuer.publish(&[&key]);
    };
    let (answer, ()) = tokio::join!(waiting, then);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(issuer.fetches(), 1);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_hangs_is_given_up_after_five_seconds() {
    let (service, issuer, key) = one_of_each("a").await;
    issuer.say(Says::Nothing);
    let token = key.token(&issuer.claims(json!({})));
    let began = Instant::now();
    let (one, other) = tokio::join!(me(&service, &token), me(&service, &token));
    one.problem(503, "unavailable");
    other.problem(503, "unavailable");
    assert!((4 * SECOND..20 * SECOND).contains(&began.elapsed()));
    assert_eq!(issuer.fetches(), 1);
    service.end().await;
}
