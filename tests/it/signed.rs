//! Signed URLs: one thing with one file, for a while, without a token.

use std::time::Duration;

use box_service::auth::Scope;
use serde_json::{Value, json};

use crate::harness::client::{Answer, Client, id, send};
use crate::harness::service::{Pair, Service, on_every_pair};

on_every_pair!(
    a_url_serves_the_content_without_a_token,
    a_url_is_for_its_method_only,
    a_url_ends_with_its_time_and_with_its_file,
    a_url_may_live_for_seven_days_at_most,
    who_signs_needs_the_scope_of_the_method,
    what_does_not_go_with_the_method_is_refused,
    a_put_works_once,
    a_put_is_of_the_type_and_size_that_were_signed,
    a_put_that_was_signed_for_another_content_changes_nothing,
    what_is_not_there_has_no_url,
    a_redirect_is_bound_to_the_content,
);

mod rotated {
    use super::*;

    on_every_pair!(
        with [("BOX_URLS__SECRET", "an old secret of at least thirty-two bytes")];
        a_url_ends_with_its_secret,
    );
}

/// Longer than what the store's own URLs live for.
const LONG: u64 = 3_600;

async fn sign(client: &Client, file: &Value, body: Value) -> Answer {
    let path = format!("/v1/files/{}/signed-urls", id(file));
    send(client.post(&path).json(&body)).await
}

/// What the URL leads to, for who has no token. The service's own have its configured address.
fn holder(service: &Service, signed: &Value) -> Client {
    let url = signed["url"].as_str().unwrap();
    let url = match url.split_once("/s/") {
        Some((_, token)) if url.starts_with("http://127.0.0.1") => {
            format!("{}/s/{token}", service.url)
        }
        _ => url.to_owned(),
    };
    Client::new(&url, None)
}

async fn signed(service: &Service, file: &Value, method: &str) -> Client {
    let client = service.client("acme");
    let body = json!({"method": method, "expires_in_s": LONG});
    holder(service, &sign(&client, file, body).await.json(200))
}

async fn a_url_serves_the_content_without_a_token(service: &Service) {
    let client = service.client("acme");
    let request = client
        .post("/v1/files?name=a.png")
        .header("content-type", "image/png");
    let file = send(request.body("content")).await.json(201);
    for (ttl, stores_own) in [(60, service.pair == Pair::PostgresS3), (LONG, false)] {
        let body = json!({"method": "GET", "expires_in_s": ttl, "disposition": "inline"});
        let signed = sign(&client, &file, body).await.json(200);
        let url = signed["url"].as_str().unwrap();
        assert_eq!(!url.contains("/s/ey"), stores_own, "{url}");
        assert_eq!(signed["method"], "GET");
        assert_eq!(signed["headers"], json!({}));
        let now = service.clock.now().plus(Duration::from_secs(ttl));
        assert_eq!(signed["expires_at"], now.to_string());
        let answer = send(holder(service, &signed).get("")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.body, b"content");
        assert_eq!(answer.header("content-type"), "image/png");
        assert!(answer.header("content-disposition").starts_with("inline"));
    }
    let part = signed_get(service, &file)
        .await
        .get("")
        .header("range", "bytes=3-");
    let part = send(part).await;
    assert_eq!((part.status, &part.body[..]), (206, &b"tent"[..]));
}

async fn signed_get(service: &Service, file: &Value) -> Client {
    signed(service, file, "GET").await
}

async fn a_url_is_for_its_method_only(service: &Service) {
    let file = service.client("acme").upload("a", "content").await;
    for signed_for in ["GET", "HEAD", "PUT"] {
        let holder = signed(service, &file, signed_for).await;
        for (method, request) in [
            ("GET", holder.get("")),
            ("HEAD", holder.head("")),
            ("PUT", holder.put("").body("x")),
        ] {
            let answer = send(request).await;
            let expected = if method == signed_for { 200 } else { 403 };
            assert_eq!(answer.status, expected, "{method} of {signed_for}");
        }
        let other = send(holder.delete("")).await;
        other.problem(405, "method-not-allowed");
        let query = send(holder.get("?disposition=inline")).await;
        assert!(query.status == 403 || query.status == 422, "{query:?}");
    }
    let forged = send(service.stranger().get("/s/e30.e30")).await;
    forged.problem(403, "forbidden");
}

async fn a_url_ends_with_its_time_and_with_its_file(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let holder = signed_get(service, &file).await;
    let path = format!("/v1/files/{}", id(&file));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    send(holder.get("")).await.problem(410, "gone");
    assert_eq!(
        send(client.post(&format!("{path}/restore"))).await.status,
        200
    );
    assert_eq!(send(holder.get("")).await.body, b"content");
    service.clock.advance(Duration::from_secs(LONG - 1));
    assert_eq!(send(holder.get("")).await.status, 200);
    service.clock.advance(Duration::from_secs(1));
    send(holder.get("")).await.problem(403, "forbidden");
    let holder = signed_get(service, &file).await;
    let gone = send(client.delete(&format!("{path}?permanent=true"))).await;
    assert_eq!(gone.status, 204);
    send(holder.get("")).await.problem(404, "not-found");
}

async fn a_url_may_live_for_seven_days_at_most(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    for (ttl, fits) in [
        (json!(1), true),
        (json!(604_800), true),
        (json!(0), false),
        (json!(604_801), false),
        (json!(-1), false),
        (json!(1.5), false),
    ] {
        let answer = sign(
            &client,
            &file,
            json!({"method": "GET", "expires_in_s": ttl}),
        )
        .await;
        if fits {
            answer.json(200);
        } else {
            answer.invalid(&["/expires_in_s"]);
        }
    }
}

async fn who_signs_needs_the_scope_of_the_method(service: &Service) {
    let file = service.client("acme").upload("a", "content").await;
    for (method, needed) in [
        ("GET", Scope::FilesRead),
        ("HEAD", Scope::FilesRead),
        ("PUT", Scope::FilesWrite),
    ] {
        let body = json!({"method": method, "expires_in_s": LONG});
        let others: Vec<Scope> = Scope::ALL
            .iter()
            .copied()
            .filter(|scope| *scope != needed)
            .collect();
        let lacking = service.client_with("acme", &others);
        let refused = sign(&lacking, &file, body.clone()).await;
        let problem = refused.problem(403, "forbidden");
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains(needed.as_str())
        );
        let having = service.client_with("acme", &[needed]);
        sign(&having, &file, body).await.json(200);
    }
}

async fn what_does_not_go_with_the_method_is_refused(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    for (method, key, value) in [
        ("GET", "content_type", json!("image/png")),
        ("HEAD", "max_size", json!(7)),
        ("PUT", "disposition", json!("inline")),
        ("PUT", "content_type", json!("no type")),
        ("DELETE", "method", json!("DELETE")),
        ("GET", "disposition", json!("other")),
        ("GET", "unknown", json!(1)),
    ] {
        let mut body = json!({"method": method, "expires_in_s": LONG});
        body[key] = value;
        sign(&client, &file, body)
            .await
            .problem(422, "invalid-request");
    }
}

async fn a_put_works_once(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let holder = signed(service, &file, "PUT").await;
    let replaced = send(holder.put("").body("first")).await.json(200);
    assert_eq!(
        (&replaced["version"], &replaced["size"]),
        (&json!(2), &json!(5))
    );
    let again = send(holder.put("").body("second")).await;
    again.problem(412, "precondition-failed");
    assert_eq!(client.content(id(&file)).await, b"first");
}

async fn a_put_is_of_the_type_and_size_that_were_signed(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let body =
        json!({"method": "PUT", "expires_in_s": LONG, "content_type": "text/plain", "max_size": 4});
    let signed = sign(&client, &file, body).await.json(200);
    assert_eq!(signed["headers"], json!({"content-type": "text/plain"}));
    let holder = holder(service, &signed);
    let put = |content_type: &str| holder.put("").header("content-type", content_type);
    let other = send(put("text/html").body("four")).await;
    other.problem(415, "unsupported-media-type");
    let large = send(put("text/plain").body("fives")).await;
    large.problem(413, "payload-too-large");
    // Not told before.
    let chunks = futures::stream::iter(["fi", "ves"].map(Ok::<_, std::io::Error>));
    let large = send(put("text/plain").body(reqwest::Body::wrap_stream(chunks))).await;
    large.problem(413, "payload-too-large");
    assert_eq!(client.content(id(&file)).await, b"content");
    let replaced = send(put("text/plain").body("four")).await.json(200);
    assert_eq!(replaced["content_type"], "text/plain");
}

async fn a_put_that_was_signed_for_another_content_changes_nothing(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let holder = signed(service, &file, "PUT").await;
    let path = format!("/v1/files/{}", id(&file));
    let patched = send(client.patch(&path).json(&json!({"name": "b"}))).await;
    patched.json(200);
    let late = send(holder.put("").body("late")).await;
    late.problem(412, "precondition-failed");
    assert_eq!(client.content(id(&file)).await, b"content");
    service.assert_holds(1).await;
}

async fn what_is_not_there_has_no_url(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let body = json!({"method": "GET", "expires_in_s": LONG});
    sign(&service.client("other"), &file, body.clone())
        .await
        .problem(404, "not-found");
    assert_eq!(
        send(client.delete(&format!("/v1/files/{}", id(&file))))
            .await
            .status,
        204
    );
    sign(&client, &file, body).await.problem(410, "gone");
}

/// What was asked for is what is served, though it is replaced between the two requests.
async fn a_redirect_is_bound_to_the_content(service: &Service) {
    if service.pair == Pair::PostgresS3 {
        return;
    }
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let path = format!("/v1/files/{}/content", id(&file));
    let answer = send(client.get(&format!("{path}?redirect=true"))).await;
    assert_eq!(answer.status, 307);
    let url = format!("{}{}", service.url, answer.header("location"));
    let holder = Client::new(&url, None);
    assert_eq!(send(holder.get("")).await.body, b"content");
    assert_eq!(send(client.put(&path).body("other")).await.status, 200);
    send(holder.get("")).await.problem(404, "not-found");
}

async fn a_url_ends_with_its_secret(service: &Service) {
    let file = service.client("acme").upload("a", "content").await;
    let body = json!({"method": "GET", "expires_in_s": LONG});
    let signed = sign(&service.client("acme"), &file, body).await.json(200);
    service.stop().await;
    let (old, new) = (
        "an old secret of at least thirty-two bytes",
        "a new secret of at least thirty-two bytes",
    );
    for (secrets, status) in [(format!("{new},{old}"), 200), (new.to_owned(), 403)] {
        let rotated = service
            .another_with(&[("BOX_URLS__SECRET", &secrets)])
            .await;
        let answer = send(holder(&rotated, &signed).get("")).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        rotated.stop().await;
    }
}
