//! Uploads as forms (RFC 7578).

use serde_json::{Value, json};

use super::uploads::{INVALID_NAMES, nested};
use crate::harness::client::{Answer, Client, id, send};
use crate::harness::content::{MIB, PNG, noise, sha256};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    a_form_with_properties_makes_a_file_of_them,
    a_form_as_browsers_send_it_makes_a_file,
    the_name_is_the_properties_one_else_the_parts,
    the_type_is_the_properties_one_else_the_parts_else_found,
    only_the_file_may_follow_the_properties,
    a_form_without_a_file_is_refused,
    the_query_of_a_form_says_nothing,
    a_malformed_form_is_refused,
    a_part_with_a_large_head_is_refused,
    properties_that_are_no_json_are_refused,
    invalid_properties_are_refused,
    metadata_has_64_kib_at_most,
);

/// Head fields (without `Content-Disposition: form-data;`) and content of each part.
fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut form = Vec::new();
    for (head, content) in parts {
        form.extend_from_slice(b"--b0undary\r\nContent-Disposition: form-data; ");
        form.extend_from_slice(head.as_bytes());
        form.extend_from_slice(b"\r\n\r\n");
        form.extend_from_slice(content);
        form.extend_from_slice(b"\r\n");
    }
    form.extend_from_slice(b"--b0undary--\r\n");
    form
}

async fn post(client: &Client, body: Vec<u8>) -> Answer {
    let request = client
        .post("/v1/files")
        .header("content-type", "multipart/form-data; boundary=b0undary");
    send(request.body(body)).await
}

const FILE: (&str, &[u8]) = ("name=\"file\"; filename=\"from-part.bin\"", b"content");

fn properties(json: &str) -> (&str, &[u8]) {
    let head = "name=\"properties\"\r\nContent-Type: application/json";
    (head, json.as_bytes())
}

async fn a_form_with_properties_makes_a_file_of_them(service: &Service) {
    let client = service.client("acme");
    let content = noise(3 * MIB + 7);
    let json = json!({
        "name": "a/ä.bin",
        "content_type": "application/x-own",
        "metadata": {"k": ["v"]},
        "expires_at": "2026-03-01T00:00:00Z",
        "sha256": sha256(&content),
    });
    let body = form(&[
        properties(&json.to_string()),
        (
            "name=\"file\"; filename=\"other\"\r\nContent-Type: image/png",
            &content,
        ),
    ]);
    let answer = post(&client, body).await;
    let file = answer.json(201);
    assert_eq!(file["name"], "a/ä.bin");
    assert_eq!(file["content_type"], "application/x-own");
    assert_eq!(file["metadata"], json!({"k": ["v"]}));
    assert_eq!(file["expires_at"], "2026-03-01T00:00:00.000000Z");
    assert_eq!(file["size"], content.len());
    assert_eq!(file["sha256"], sha256(&content));
    assert!(client.content(id(&file)).await == content);
    let shown = send(client.get(&format!("/v1/files/{}/content", id(&file)))).await;
    assert_eq!(answer.header("etag"), shown.header("etag"));
    service.assert_holds(1).await;
}

async fn a_form_as_browsers_send_it_makes_a_file(service: &Service) {
    let client = service.client("acme");
    let part = reqwest::multipart::Part::bytes(PNG.to_vec()).file_name("pixel.png");
    let form = reqwest::multipart::Form::new().part("file", part);
    let file = send(client.post("/v1/files").multipart(form))
        .await
        .json(201);
    assert_eq!(file["name"], "pixel.png");
    assert_eq!(file["content_type"], "image/png");
    assert_eq!(client.content(id(&file)).await, PNG);
    // A line that only begins like the end is content.
    let tricky = b"\r\n--b0undar\r\n--b0undar y\r\n\r\n--";
    let file = post(&client, self::form(&[("name=\"file\"", tricky)])).await;
    assert_eq!(client.content(id(&file.json(201))).await, tricky);
    service.assert_holds(2).await;
}

async fn the_name_is_the_properties_one_else_the_parts(service: &Service) {
    let client = service.client("acme");
    let nameless: (&str, &[u8]) = ("name=\"file\"", b"content");
    for (parts, name) in [
        (vec![properties(r#"{"name":"own"}"#), FILE], "own"),
        (vec![properties("{}"), FILE], "from-part.bin"),
        (vec![properties(r#"{"name":null}"#), FILE], "from-part.bin"),
        (vec![FILE], "from-part.bin"),
        (vec![nameless], "unnamed"),
        (
            vec![("name=\"file\"; filename=\"ä b.txt\"", b"x")],
            "ä b.txt",
        ),
    ] {
        assert_eq!(post(&client, form(&parts)).await.json(201)["name"], name);
    }
    service.assert_holds(6).await;
    for name in INVALID_NAMES {
        let json = json!({ "name": name }).to_string();
        let answer = post(&client, form(&[properties(&json), FILE])).await;
        answer.invalid(&["/name"]);
    }
    let answer = post(&client, form(&[("name=\"file\"; filename=\"../x\"", b"x")])).await;
    answer.invalid(&["/name"]);
    let not_utf8 = b"--b0undary\r\nContent-Disposition: form-data; name=\"file\"; \
        filename=\"a\xff\"\r\n\r\nx\r\n--b0undary--\r\n";
    let answer = post(&client, not_utf8.to_vec()).await;
    answer.invalid(&["/name"]);
    service.assert_holds(6).await;
}

async fn the_type_is_the_properties_one_else_the_parts_else_found(service: &Service) {
    let client = service.client("acme");
    let typed: (&str, &[u8]) = ("name=\"file\"\r\nContent-Type: text/csv", PNG);
    let opaque: (&str, &[u8]) = (
        "name=\"file\"\r\nContent-Type: application/octet-stream",
        PNG,
    );
    let untyped: (&str, &[u8]) = ("name=\"file\"", PNG);
    for (parts, found) in [
        (vec![properties(r#"{"content_type":"a/b"}"#), typed], "a/b"),
        (vec![properties("{}"), typed], "text/csv"),
        (vec![typed], "text/csv"),
        (vec![opaque], "image/png"),
        (vec![untyped], "image/png"),
    ] {
        let file = post(&client, form(&parts)).await.json(201);
        assert_eq!(file["content_type"], found);
    }
}

/// Of the caller's making, whatever the exact name.
fn assert_refused(answer: &Answer) -> Value {
    match answer.status {
        400 => answer.problem(400, "bad-request"),
        422 => answer.problem(422, "invalid-request"),
        _ => panic!("{answer:?}"),
    }
}

async fn only_the_file_may_follow_the_properties(service: &Service) {
    let client = service.client("acme");
    let extra: (&str, &[u8]) = ("name=\"extra\"", b"x");
    for parts in [
        vec![FILE, properties("{}")],
        vec![FILE, extra],
        vec![extra, FILE],
        vec![properties("{}"), extra, FILE],
        vec![properties("{}"), properties("{}"), FILE],
        vec![FILE, FILE],
        vec![("filename=\"nameless\"", b"x"), FILE],
    ] {
        assert_refused(&post(&client, form(&parts)).await);
    }
    service.assert_holds(0).await;
}

async fn a_form_without_a_file_is_refused(service: &Service) {
    let client = service.client("acme");
    for parts in [vec![], vec![properties("{}")]] {
        assert_refused(&post(&client, form(&parts)).await);
    }
    service.assert_holds(0).await;
}

async fn the_query_of_a_form_says_nothing(service: &Service) {
    let client = service.client("acme");
    let content_type = "multipart/form-data; boundary=b0undary";
    for query in ["name=a", "metadata=%7B%7D", "sha256=x", "nonsense=1"] {
        let request = client
            .post(&format!("/v1/files?{query}"))
            .header("content-type", content_type);
        let answer = send(request.body(form(&[FILE]))).await;
        answer.problem(422, "invalid-request");
    }
    service.assert_holds(0).await;
}

async fn a_malformed_form_is_refused(service: &Service) {
    let client = service.client("acme");
    let whole = form(&[properties("{}"), FILE]);
    for end in [
        0,
        1,
        5,
        30,
        whole.len() - 30,
        whole.len() - 12,
        whole.len() - 5,
    ] {
        let answer = post(&client, whole[..end].to_vec()).await;
        answer.problem(400, "bad-request");
    }
    for body in [
        "nonsense",
        "--other\r\n\r\nx\r\n--other--\r\n",
        "--b0undary\r\nx",
    ] {
        let answer = post(&client, body.into()).await;
        answer.problem(400, "bad-request");
    }
    for content_type in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; charset=utf-8",
    ] {
        let request = client
            .post("/v1/files")
            .header("content-type", content_type);
        let answer = send(request.body(whole.clone())).await;
        answer.problem(400, "bad-request");
    }
    service.assert_holds(0).await;
}

async fn a_part_with_a_large_head_is_refused(service: &Service) {
    let client = service.client("acme");
    let head = format!("name=\"file\"\r\nX-Large: {}", "x".repeat(MIB));
    let many = format!("name=\"file\"{}", "\r\nX-Many: x".repeat(MIB / 11));
    for head in [head, many] {
        let answer = post(&client, form(&[(&head, b"x")])).await;
        answer.problem(413, "payload-too-large");
    }
    let too_many = format!("name=\"file\"{}", "\r\nX-Many: x".repeat(1000));
    let answer = post(&client, form(&[(&too_many, b"x")])).await;
    answer.problem(400, "bad-request");
    service.assert_holds(0).await;
}

async fn properties_that_are_no_json_are_refused(service: &Service) {
    let client = service.client("acme");
    for text in [
        "",
        "{",
        "{}x",
        "{\"name\":}",
        "name=a",
        "{\"name\":\"\\ud800\"}",
    ] {
        let answer = post(&client, form(&[properties(text), FILE])).await;
        answer.problem(400, "malformed-json");
    }
    let not_utf8: (&str, &[u8]) = ("name=\"properties\"", b"{\"name\":\"\xff\"}");
    let answer = post(&client, form(&[not_utf8, FILE])).await;
    answer.problem(400, "malformed-json");
    service.assert_holds(0).await;
}

async fn invalid_properties_are_refused(service: &Service) {
    let client = service.client("acme");
    for (json, pointer) in [
        (r#"{"nonsense":1}"#, "/nonsense"),
        (r#"{"size":1}"#, "/size"),
        (r#"{"name":1}"#, "/name"),
        (r#"{"content_type":"x"}"#, "/content_type"),
        (r#"{"expires_at":"2026-01-31T12:00:00Z"}"#, "/expires_at"),
        (r#"{"expires_at":"soon"}"#, "/expires_at"),
        (r#"{"sha256":"x"}"#, "/sha256"),
        (r#"{"metadata":[]}"#, "/metadata"),
        (r#"{"metadata":{"a":"\u0000"}}"#, "/metadata"),
        (&format!(r#"{{"metadata":{}}}"#, nested(17)), "/metadata"),
    ] {
        let answer = post(&client, form(&[properties(json), FILE])).await;
        answer.invalid(&[pointer]);
    }
    for json in ["[]", " [null, null]", "1", "\"x\"", "true"] {
        let answer = post(&client, form(&[properties(json), FILE])).await;
        answer.problem(422, "invalid-request");
    }
    service.assert_holds(0).await;
    let deepest = format!(r#"{{"metadata":{}}}"#, nested(16));
    let answer = post(&client, form(&[properties(&deepest), FILE])).await;
    answer.json(201);
    let null =
        r#"{"name":null,"content_type":null,"metadata":null,"expires_at":null,"sha256":null}"#;
    let file = post(&client, form(&[properties(null), FILE]))
        .await
        .json(201);
    assert_eq!(file["metadata"], json!({}));
    assert_eq!(file["expires_at"], Value::Null);
}

async fn metadata_has_64_kib_at_most(service: &Service) {
    let client = service.client("acme");
    // {"k":"…"} has 8 bytes beside the text.
    for (length, fits) in [(65_536 - 8, true), (65_536 - 7, false)] {
        let metadata = json!({"k": "x".repeat(length)});
        let json = json!({"name": "a", "metadata": metadata}).to_string();
        let answer = post(&client, form(&[properties(&json), FILE])).await;
        if fits {
            assert_eq!(answer.json(201)["metadata"], metadata);
        } else {
            answer.invalid(&["/metadata"]);
        }
    }
    // What can't be any properties is not held in memory to be judged.
    let huge = json!({"metadata": {"k": "x".repeat(2 * MIB)}}).to_string();
    let answer = post(&client, form(&[properties(&huge), FILE])).await;
    assert!(matches!(answer.status, 413 | 422), "{answer:?}");
    service.assert_holds(1).await;
}
