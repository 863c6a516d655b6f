//! The same request under the same key.

use reqwest::RequestBuilder;
use serde_json::json;

use super::{KEY, files, replay, upload};
use crate::harness::client::{Client, id, send};
use crate::harness::content::{MIB, digest, noise};
use crate::harness::raw;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    a_raw_upload_that_is_repeated_is_answered_alike,
    a_form_that_is_repeated_is_answered_alike,
    a_copy_that_is_repeated_is_answered_alike,
    a_large_upload_that_is_repeated_leaves_one_object,
    the_framing_of_the_body_is_no_part_of_the_request,
    the_answer_is_that_of_the_time_it_was_given,
    without_a_key_each_request_is_its_own,
);

async fn a_raw_upload_that_is_repeated_is_answered_alike(service: &Service) {
    let client = service.client("acme");
    let request = || {
        let request = client.post("/v1/files?name=a&metadata=%7B%22k%22:1%7D");
        let request = request.header(KEY, "k1").header("content-type", "a/b");
        request
            .header("repr-digest", digest(b"content"))
            .body("content")
    };
    let first = send(request()).await;
    first.json(201);
    for _ in 0..3 {
        service.clock.advance(std::time::Duration::from_secs(60));
        replay(request(), &first).await;
    }
    assert_eq!(files(&client).await, 1);
    service.assert_holds(1).await;
    replay_after_rest(service, request(), &first).await;
}

async fn replay_after_rest(
    service: &Service,
    request: RequestBuilder,
    first: &crate::harness::client::Answer,
) {
    // `assert_holds` let a day pass, so this one is new.
    let again = send(request).await.json(201);
    assert_ne!(again["id"], first.json(201)["id"]);
    service.assert_holds(2).await;
}

fn form_body(properties: &str, content: &str) -> String {
    format!(
        "--b\r\ncontent-disposition: form-data; name=\"properties\"\r\n\r\n{properties}\r\n\
         --b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n{content}\r\n--b--\r\n"
    )
}

fn form(client: &Client, key: &str, properties: &str, content: &str) -> RequestBuilder {
    let request = client.post("/v1/files").header(KEY, key);
    let request = request.header("content-type", "multipart/form-data; boundary=b");
    request.body(form_body(properties, content))
}

async fn a_form_that_is_repeated_is_answered_alike(service: &Service) {
    let client = service.client("acme");
    let properties = r#"{"name":"a","metadata":{"k":[1]}}"#;
    let first = send(form(&client, "k1", properties, "content")).await;
    let file = first.json(201);
    assert_eq!(file["name"], "a");
    replay(form(&client, "k1", properties, "content"), &first).await;
    replay(form(&client, "k1", properties, "content"), &first).await;
    // What separates the parts is made up anew by each try of many clients.
    let body = form_body(properties, "content").replace("--b", "--other");
    let request = client.post("/v1/files").header(KEY, "k1");
    let request = request.header("content-type", "multipart/form-data; boundary=other");
    replay(request.body(body), &first).await;
    for (properties, content) in [
        (properties, "other"),
        (r#"{"name":"b","metadata":{"k":[1]}}"#, "content"),
        ("{}", "content"),
    ] {
        let answer = send(form(&client, "k1", properties, content)).await;
        answer.invalid(&["/Idempotency-Key"]);
    }
    assert_eq!(files(&client).await, 1);
    assert_eq!(client.content(id(&file)).await, b"content");
    service.assert_holds(1).await;
}

async fn a_copy_that_is_repeated_is_answered_alike(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let copy = |key: &str, body: Option<serde_json::Value>| {
        let request = client.post(&format!("/v1/files/{}/copy", id(&file)));
        let request = request.header(KEY, key);
        match body {
            Some(body) => request.json(&body),
            None => request,
        }
    };
    let plain = send(copy("k1", None)).await;
    replay(copy("k1", None), &plain).await;
    let body = json!({"name": "b", "metadata": {"k": 1}});
    let named = send(copy("k2", Some(body.clone()))).await;
    replay(copy("k2", Some(body)), &named).await;
    assert_ne!(plain.json(201)["id"], named.json(201)["id"]);
    for (key, body) in [
        ("k1", Some(json!({"name": "b"}))),
        ("k2", Some(json!({"name": "c", "metadata": {"k": 1}}))),
        ("k2", None),
    ] {
        let answer = send(copy(key, body)).await;
        answer.invalid(&["/Idempotency-Key"]);
    }
    assert_eq!(files(&client).await, 3);
    service.assert_holds(1).await;
}

async fn a_large_upload_that_is_repeated_leaves_one_object(service: &Service) {
    let client = service.client("acme");
    let content = noise(12 * MIB + 5);
    let request = |content: &[u8]| {
        let request = client.post("/v1/files?name=a").header(KEY, "k1");
        request.body(content.to_vec())
    };
    let first = send(request(&content)).await;
    replay(request(&content), &first).await;
    // It differs in its last byte.
    let mut other = content.clone();
    *other.last_mut().unwrap() ^= 1;
    let answer = send(request(&other)).await;
    answer.invalid(&["/Idempotency-Key"]);
    let answer = send(request(&content[..content.len() - 1])).await;
    answer.invalid(&["/Idempotency-Key"]);
    assert!(client.content(id(&first.json(201))).await == content);
    assert_eq!(files(&client).await, 1);
    service.assert_holds(1).await;
}

async fn the_framing_of_the_body_is_no_part_of_the_request(service: &Service) {
    let key = "idempotency-key: k1";
    let line = "POST /v1/files?name=a";
    let first = raw::exchange(service, line, &[key, "content-length: 7"], b"content").await;
    let body = [raw::chunk(b"con"), raw::chunk(b"tent"), raw::chunk(b"")].concat();
    let fields = [key, "transfer-encoding: chunked"];
    let again = raw::exchange(service, line, &fields, &body).await;
    assert_eq!(super::told(&again), super::told(&first));
    service.assert_holds(1).await;
}

async fn the_answer_is_that_of_the_time_it_was_given(service: &Service) {
    let client = service.client("acme");
    let first = send(upload(&client, "k1", "a", "content")).await;
    let file = first.json(201);
    let path = format!("/v1/files/{}", id(&file));
    let change = client.patch(&path).json(&json!({"name": "b"}));
    send(change).await.json(200);
    replay(upload(&client, "k1", "a", "content"), &first).await;
    let replace = client.put(&format!("{path}/content")).body("other");
    send(replace).await.json(200);
    replay(upload(&client, "k1", "a", "content"), &first).await;
    let delete = client.delete(&format!("{path}?permanent=true"));
    assert_eq!(send(delete).await.status, 204);
    replay(upload(&client, "k1", "a", "content"), &first).await;
    assert_eq!(files(&client).await, 0);
    service.assert_holds(0).await;
}

async fn without_a_key_each_request_is_its_own(service: &Service) {
    let client = service.client("acme");
    let first = client.upload("a", "content").await;
    let second = client.upload("a", "content").await;
    let keyed = send(upload(&client, "k1", "a", "content")).await.json(201);
    let other = send(upload(&client, "k2", "a", "content")).await.json(201);
    let mut ids = [&first, &second, &keyed, &other].map(id);
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
    service.assert_holds(4).await;
}
