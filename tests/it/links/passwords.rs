//! Passwords: the header, the form, the cookie, and too many tries.

use std::time::Duration;

use serde_json::json;

use super::{ELSEWHERE, follow, get, made, patch};
use crate::harness::client::{Answer, send};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    a_password_is_needed,
    a_browser_is_asked_and_remembered,
    tries_are_few,
);

async fn with(service: &Service, password: &str) -> Answer {
    let request = service.stranger().get("/l/p");
    send(request.header("x-link-password", password)).await
}

async fn post(service: &Service, form: &str) -> Answer {
    let request = service.stranger().post("/l/p");
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    send(request.body(form.to_owned())).await
}

async fn protected(service: &Service) {
    let client = service.client("acme");
    let body = json!({"slug": "p", "url": ELSEWHERE, "password": "a & b", "max_uses": 3});
    let link = made(&client, body).await;
    assert_eq!(link["has_password"], true);
    assert!(link.get("password").is_none());
}

async fn a_password_is_needed(service: &Service) {
    protected(service).await;
    let client = service.client("acme");
    follow(service, "p").await.problem(403, "password-required");
    with(service, "wrong")
        .await
        .problem(403, "password-required");
    let head = send(service.stranger().head("/l/p")).await;
    assert_eq!(head.status, 403);
    assert!(head.headers.get("location").is_none());
    assert_eq!(with(service, "a & b").await.header("location"), ELSEWHERE);
    assert_eq!(get(&client, "p").await["uses"], 1);
    patch(&client, "p", json!({"password": "other"}))
        .await
        .json(200);
    with(service, "a & b")
        .await
        .problem(403, "password-required");
    assert_eq!(with(service, "other").await.status, 302);
    let open = patch(&client, "p", json!({"password": null})).await;
    assert_eq!(open.json(200)["has_password"], false);
    assert_eq!(follow(service, "p").await.status, 302);
}

async fn a_browser_is_asked_and_remembered(service: &Service) {
    protected(service).await;
    let browser = service.stranger();
    let asked = send(browser.get("/l/p").header("accept", "text/html,*/*;q=0.8")).await;
    assert_eq!(asked.status, 403);
    assert_eq!(asked.header("content-type"), "text/html; charset=utf-8");
    let policy = asked.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'; form-action 'self'"),
        "{policy}"
    );
    let page = asked.text();
    assert!(page.contains("<form method=\"post\">") && page.contains("<label for=\"password\">"));
    assert!(
        !page.contains("<script") && !page.contains("example.com"),
        "{page}"
    );

    let wrong = post(service, "password=wrong").await;
    assert_eq!(wrong.status, 403);
    assert!(wrong.text().contains("role=\"alert\""));
    for bad in ["", "x=y", "password=%ff", "password=a&password=b"] {
        post(service, bad).await.invalid(&["/password"]);
    }
    let long = format!("password={}", "x".repeat(2_000));
    post(service, &long).await.problem(413, "payload-too-large");
    let json = browser.post("/l/p").json(&json!({"password": "a & b"}));
    send(json).await.problem(415, "unsupported-media-type");

    let right = post(service, "password=a+%26+b").await;
    assert_eq!((right.status, right.header("location")), (303, "/l/p"));
    let cookie = right.header("set-cookie").to_owned();
    for part in [
        "; Path=/l/p;",
        "; HttpOnly",
        "; SameSite=Lax",
        "; Max-Age=900",
    ] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let return_with = async |slug: &str, cookie: &str| {
        let request = browser.get(&format!("/l/{slug}"));
        send(request.header("cookie", format!("a=b; {cookie}"))).await
    };
    assert_eq!(return_with("p", &cookie).await.status, 302);
    // Of this link, of this password, for a while.
    let client = service.client("acme");
    let other = json!({"slug": "p/q", "url": ELSEWHERE, "password": "a & b"});
    made(&client, other).await;
    return_with("p/q", &cookie)
        .await
        .problem(403, "password-required");
    return_with("p", &format!("{cookie}x"))
        .await
        .problem(403, "password-required");
    service.clock.advance(Duration::from_secs(900));
    return_with("p", &cookie)
        .await
        .problem(403, "password-required");
    let again = post(service, "password=a+%26+b").await;
    let cookie = again
        .header("set-cookie")
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    patch(&client, "p", json!({"password": "a & b"}))
        .await
        .json(200);
    return_with("p", &cookie)
        .await
        .problem(403, "password-required");
}

async fn tries_are_few(service: &Service) {
    protected(service).await;
    for _ in 0..2 {
        assert_eq!(with(service, "a & b").await.status, 302);
    }
    let stranger = service.stranger();
    let tries = (0..16).map(|_| send(stranger.get("/l/p").header("x-link-password", "wrong")));
    let answers = futures::future::join_all(tries).await;
    let of = |status| answers.iter().filter(|it| it.status == status).count();
    assert_eq!((of(403), of(429)), (10, 6));
    // The right one too: else they could go on.
    let answer = with(service, "a & b").await;
    answer.problem(429, "rate-limited");
    assert_eq!(answer.header("retry-after"), "600");
    service.clock.advance(Duration::from_secs(600));
    assert_eq!(with(service, "a & b").await.status, 302);
}
