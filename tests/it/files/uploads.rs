//! Raw uploads: what they answer, and what their query may say.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::client::{id, send};
use crate::harness::content::{escape, sha256};
use crate::harness::raw;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    an_upload_answers_with_the_whole_file,
    an_upload_without_name_and_content_is_an_empty_unnamed_file,
    names_that_are_odd_but_valid_are_kept,
    invalid_names_are_refused,
    metadata_comes_back_as_it_was,
    metadata_that_is_no_object_of_the_allowed_kind_is_refused,
    a_file_expires_only_in_the_future,
    unknown_and_repeated_parameters_are_refused,
    what_is_wrong_is_told_before_the_body_is_read,
    a_body_that_ends_early_leaves_nothing,
    a_client_that_hangs_up_leaves_nothing,
    other_methods_are_not_allowed,
);

async fn an_upload_answers_with_the_whole_file(service: &Service) {
    let client = service.client("acme");
    let query = format!(
        "name={}&metadata={}&expires_at={}",
        escape("reports/2026 ä.csv"),
        escape(r#"{"a":[1,null,{"b":"ü"}],"c":1.5}"#),
        escape("2026-03-01T02:00:00.5+02:00")
    );
    let request = client
        .post(&format!("/v1/files?{query}"))
        .header("content-type", "text/csv")
        .body("a,b\n1,2\n");
    let answer = send(request).await;
    let file = answer.json(201);
    assert_eq!(
        file,
        json!({
            "id": file["id"],
            "name": "reports/2026 ä.csv",
            "content_type": "text/csv",
            "size": 8,
            "sha256": sha256(b"a,b\n1,2\n"),
            "metadata": {"a": [1, null, {"b": "ü"}], "c": 1.5},
            "version": 1,
            "revision": 1,
            "created_at": "2026-01-31T12:00:00.123456Z",
            "updated_at": "2026-01-31T12:00:00.123456Z",
            "expires_at": "2026-03-01T00:00:00.500000Z",
            "trashed_at": null,
            "created_by": "tester",
            "retention_until": null,
            "legal_hold": false,
        })
    );
    assert_eq!(answer.header("content-type"), "application/json");
    let location = answer.header("location");
    let path = location.strip_prefix(&service.url).unwrap_or(location);
    assert_eq!(path, format!("/v1/files/{}", id(&file)));

    let shown = send(client.get(path)).await;
    assert_eq!(shown.json(200), file);
    assert_eq!(shown.header("etag"), "\"1\"");
    let content = send(client.get(&format!("{path}/content"))).await;
    assert_eq!(content.body, b"a,b\n1,2\n");
    // The 201 carries the content's tag, not the JSON's.
    assert_eq!(answer.header("etag"), content.header("etag"));
    assert_ne!(answer.header("etag"), shown.header("etag"));

    let fresh = client.get(path).header("if-none-match", "\"1\"");
    let fresh = send(fresh).await;
    assert_eq!((fresh.status, fresh.body.len()), (304, 0));
    assert_eq!(fresh.header("etag"), "\"1\"");
    let stale = client.get(path).header("if-none-match", "\"2\"");
    assert_eq!(send(stale).await.json(200), file);

    let mut reader = service.app.domain.metadata.reader().await.unwrap();
    let tenant = "acme".parse().unwrap();
    let actions = reader.conn().event_actions(&tenant, id(&file)).await;
    assert_eq!(actions.unwrap(), ["file.created"]);
}

async fn an_upload_without_name_and_content_is_an_empty_unnamed_file(service: &Service) {
    let client = service.client("acme");
    let file = send(client.post("/v1/files")).await.json(201);
    assert_eq!(file["name"], "unnamed");
    assert_eq!(file["size"], 0);
    assert_eq!(file["sha256"], sha256(b""));
    assert_eq!(file["metadata"], json!({}));
    assert_eq!(file["expires_at"], Value::Null);
    assert_eq!(client.content(id(&file)).await, b"");
    service.assert_holds(1).await;
}

async fn names_that_are_odd_but_valid_are_kept(service: &Service) {
    let client = service.client("acme");
    let longest = "n".repeat(1024);
    let longest_segments = "é/".repeat(341) + "x";
    for name in [
        " ",
        "...",
        ".hidden",
        "a..b",
        "a/.../b",
        "a\\b",
        "C:\\x",
        "%41",
        "a+b&c=d#e?f",
        "\"quoted\"",
        "日本語/🦀.txt",
        "\u{feff}bom",
        "\u{202e}fdp.exe",
        &longest,
        &longest_segments,
    ] {
        let request = client.post(&format!("/v1/files?name={}", escape(name)));
        let file = send(request.body("x")).await.json(201);
        assert_eq!(file["name"], name);
        let shown = send(client.get(&format!("/v1/files/{}", id(&file)))).await;
        assert_eq!(shown.json(200), file);
    }
}

/// Every kind that the contract names.
pub(super) const INVALID_NAMES: &[&str] = &[
    "", "/", "/a", "a/", "a//b", ".", "..", "./a", "a/.", "a/./b", "../a", "a/..", "a/../b",
    "a\0b", "a\nb", "a\tb", "a\u{1b}b", "a\u{7f}b", "a\u{85}b", "a\u{9f}b",
];

async fn invalid_names_are_refused(service: &Service) {
    let client = service.client("acme");
    let too_long = "n".repeat(1025);
    let too_many_bytes = "é".repeat(513);
    let invalid = INVALID_NAMES.iter().copied();
    for name in invalid.chain([too_long.as_str(), &too_many_bytes]) {
        let request = client.post(&format!("/v1/files?name={}", escape(name)));
        send(request.body("x")).await.invalid(&["/name"]);
    }
    let not_utf8 = client.post("/v1/files?name=a%ff").body("x");
    send(not_utf8).await.invalid(&["/name"]);
    service.assert_holds(0).await;
}

async fn metadata_comes_back_as_it_was(service: &Service) {
    let client = service.client("acme");
    for metadata in [
        json!({}),
        json!({"": {"": []}}),
        json!({"a/b~c": "x", "\u{1}": "\u{7f}\u{fffd}🦀"}),
        json!({"n": [0, -1, 1.5, 1e300, 9_007_199_254_740_993_u64, u64::MAX, i64::MIN]}),
        json!({"t": [true, false, null]}),
    ] {
        let query = escape(&metadata.to_string());
        let request = client.post(&format!("/v1/files?metadata={query}"));
        let file = send(request.body("x")).await.json(201);
        assert_eq!(file["metadata"], metadata);
        let shown = send(client.get(&format!("/v1/files/{}", id(&file)))).await;
        assert_eq!(shown.json(200), file);
    }
    let null = client.post("/v1/files?metadata=null").body("x");
    assert_eq!(send(null).await.json(201)["metadata"], json!({}));
}

async fn metadata_that_is_no_object_of_the_allowed_kind_is_refused(service: &Service) {
    let client = service.client("acme");
    for metadata in [
        "[]",
        "1",
        "\"x\"",
        "true",
        "",
        "{",
        "{}x",
        "{\"a\":}",
        r#"{"a":"\ud800"}"#,
        r#"{"a":1e400}"#,
        r#"{"a":"\u0000"}"#,
        r#"{"\u0000":1}"#,
        r#"{"a":[{"b":"x\u0000y"}]}"#,
        &nested(17),
        &nested(5000),
    ] {
        let query = escape(metadata);
        let request = client.post(&format!("/v1/files?metadata={query}"));
        let problem = send(request.body("x")).await.invalid(&["/metadata"]);
        // It says what is wrong, and nothing of how that was found.
        let detail = problem["errors"][0]["detail"].as_str().unwrap();
        assert!(!detail.contains("errors"), "{detail}");
    }
    service.assert_holds(0).await;
    let deepest = escape(&nested(16));
    let request = client.post(&format!("/v1/files?metadata={deepest}"));
    send(request.body("x")).await.json(201);
}

/// Objects and lists within each other, `depth` of them.
pub(super) fn nested(depth: usize) -> String {
    let lists = depth - 1;
    format!("{{\"a\":{}{}}}", "[".repeat(lists), "]".repeat(lists))
}

async fn a_file_expires_only_in_the_future(service: &Service) {
    let client = service.client("acme");
    for time in [
        "2026-01-31T12:00:00.123456Z",
        "2026-01-31T12:00:00Z",
        "1969-12-31T23:59:59Z",
        "2026-01-31T13:00:00+02:00",
        "2026-03-01",
        "2026-02-30T00:00:00Z",
        "2026-03-01T00:00:00",
        "tomorrow",
        "",
    ] {
        let request = client.post(&format!("/v1/files?expires_at={}", escape(time)));
        send(request.body("x")).await.invalid(&["/expires_at"]);
    }
    service.assert_holds(0).await;
    let now = service.clock.now();
    let time = now.plus(std::time::Duration::from_micros(1));
    let request = client.post(&format!(
        "/v1/files?expires_at={}",
        escape(&time.to_string())
    ));
    let file = send(request.body("x")).await.json(201);
    assert_eq!(file["expires_at"], time.to_string());
    service.clock.advance(std::time::Duration::from_secs(1));
    service.app.domain.sweep().await.unwrap();
    service.assert_holds(0).await;
}

async fn unknown_and_repeated_parameters_are_refused(service: &Service) {
    let client = service.client("acme");
    for (query, pointer) in [
        ("nonsense=1", "/nonsense"),
        ("Name=a", "/Name"),
        ("name=a&name=b", "/name"),
        ("name=a&name=a", "/name"),
        ("content_type=text/plain", "/content_type"),
        ("permanent=true", "/permanent"),
    ] {
        let request = client.post(&format!("/v1/files?{query}")).body("x");
        send(request).await.invalid(&[pointer]);
    }
    service.assert_holds(0).await;
}

async fn what_is_wrong_is_told_before_the_body_is_read(service: &Service) {
    for (query, fields) in [
        ("?name=..", "x: y"),
        ("?nonsense=1", "x: y"),
        ("?metadata=[]", "x: y"),
        ("?expires_at=2020-01-01T00:00:00Z", "x: y"),
        ("?sha256=x", "x: y"),
        ("", "repr-digest: sha-256=x"),
    ] {
        let line = format!("POST /v1/files{query}");
        let fields = [fields, "content-length: 10"];
        let answer = raw::exchange(service, &line, &fields, b"").await;
        assert!((400..=422).contains(&answer.status), "{line} {answer:?}");
    }
    service.assert_holds(0).await;
}

async fn a_body_that_ends_early_leaves_nothing(service: &Service) {
    let chunk = raw::chunk(b"12345");
    for (field, body) in [
        ("content-length: 10", &b"12345"[..]),
        ("transfer-encoding: chunked", &chunk),
        ("transfer-encoding: chunked", b"5\r\n123"),
        ("transfer-encoding: chunked", b"nonsense\r\n"),
    ] {
        let mut stream = raw::send(service, "POST /v1/files", &[field], body).await;
        stream.shutdown().await.unwrap();
        // Whether it is answered or not, the service is done when it hangs up.
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let created = raw::position(&answer, b"201 Created");
        assert_eq!(created, None, "{}", String::from_utf8_lossy(&answer));
    }
    service.assert_holds(0).await;
}

async fn a_client_that_hangs_up_leaves_nothing(service: &Service) {
    let cut_off = raw::send(service, "POST /v1/files", &["content-length: 10"], b"12345").await;
    drop(cut_off);
    let fields = ["transfer-encoding: chunked"];
    let chunk = raw::chunk(b"12345");
    let cut_off = raw::send(service, "POST /v1/files", &fields, &chunk).await;
    drop(cut_off);
    // Until the service is done with both.
    service.stop().await;
    let report = service.fsck_after_stop().await;
    assert_eq!((report.problems.len(), report.keys), (0, 0), "{report}");
}

async fn other_methods_are_not_allowed(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "x").await;
    let path = format!("/v1/files/{}", id(&file));
    for (method, path) in [
        (Method::DELETE, "/v1/files".to_owned()),
        (Method::PUT, "/v1/files".to_owned()),
        (Method::POST, path.clone()),
        (Method::DELETE, format!("{path}/content")),
    ] {
        let answer = send(client.request(method, &path)).await;
        answer.problem(405, "method-not-allowed");
        assert!(!answer.header("allow").is_empty());
    }
    let nowhere = send(client.get("/v1/nowhere")).await;
    nowhere.problem(404, "not-found");
    service.assert_holds(1).await;
}
