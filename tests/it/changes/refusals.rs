//! Patches that change nothing because something is wrong with them.

use serde_json::{Value, json};

use super::{NEVER, path, shown, trash};
use crate::harness::client::{Client, send};
use crate::harness::content::escape;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    invalid_values_are_pointed_at,
    what_is_no_patch_is_refused,
    metadata_keeps_its_bounds_when_merged,
    a_trashed_file_is_not_changed,
    what_is_not_there_answers_404,
    a_refused_patch_changes_nothing_at_all,
);

async fn refused(client: &Client, file: &Value, change: &str, pointer: &str) {
    let request = client
        .patch(&path(file))
        .header("content-type", "application/merge-patch+json");
    let answer = send(request.body(change.to_owned())).await;
    assert_eq!(answer.status, 422, "{change} {}", answer.text());
    answer.invalid(&[pointer]);
}

async fn invalid_values_are_pointed_at(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let long = json!({"name": "n".repeat(1025)}).to_string();
    for (change, pointer) in [
        (r#"{"name":null}"#, "/name"),
        (r#"{"name":""}"#, "/name"),
        (r#"{"name":1}"#, "/name"),
        (r#"{"name":"a/../b"}"#, "/name"),
        (r#"{"name":"/a"}"#, "/name"),
        (r#"{"name":"a\u0000b"}"#, "/name"),
        (r#"{"name":"a\nb"}"#, "/name"),
        (&long, "/name"),
        (r#"{"content_type":null}"#, "/content_type"),
        (r#"{"content_type":"x"}"#, "/content_type"),
        (r#"{"content_type":""}"#, "/content_type"),
        (r#"{"content_type":"a/b\r\nx: y"}"#, "/content_type"),
        (r#"{"content_type":1}"#, "/content_type"),
        (r#"{"metadata":[]}"#, "/metadata"),
        (r#"{"metadata":"x"}"#, "/metadata"),
        (r#"{"metadata":1}"#, "/metadata"),
        (r#"{"metadata":{"a":"\u0000"}}"#, "/metadata"),
        (r#"{"metadata":{"\u0000":1}}"#, "/metadata"),
        (
            r#"{"expires_at":"2026-01-31T12:00:00.123456Z"}"#,
            "/expires_at",
        ),
        (r#"{"expires_at":"2020-01-01T00:00:00Z"}"#, "/expires_at"),
        (r#"{"expires_at":"soon"}"#, "/expires_at"),
        (r#"{"expires_at":"2027-01-01"}"#, "/expires_at"),
        (r#"{"expires_at":1}"#, "/expires_at"),
        (r#"{"nonsense":1}"#, "/nonsense"),
        (r#"{"Name":"b"}"#, "/Name"),
        (r#"{"id":"b"}"#, "/id"),
        (r#"{"size":1}"#, "/size"),
        (r#"{"version":1}"#, "/version"),
        (r#"{"revision":1}"#, "/revision"),
        (r#"{"created_at":"2026-01-31T12:00:00Z"}"#, "/created_at"),
        (r#"{"trashed_at":null}"#, "/trashed_at"),
        (r#"{"sha256":null}"#, "/sha256"),
        (r#"{"a/b~c":1}"#, "/a~1b~0c"),
    ] {
        refused(&client, &file, change, pointer).await;
    }
    let query = format!("{}?nonsense=1", path(&file));
    let answer = send(client.patch(&query).json(&json!({"name": "b"}))).await;
    answer.invalid(&["/nonsense"]);
    assert_eq!(shown(&client, &file).await, file);
}

async fn what_is_no_patch_is_refused(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    for body in [
        "",
        "{",
        "{}x",
        "name=b",
        r#"{"name":}"#,
        r#"{"name":"\ud800"}"#,
    ] {
        let request = client
            .patch(&path(&file))
            .header("content-type", "application/json");
        let answer = send(request.body(body)).await;
        answer.problem(400, "malformed-json");
    }
    for body in ["[]", "null", "1", "\"x\"", r#"[{"name":"b"}]"#] {
        let request = client
            .patch(&path(&file))
            .header("content-type", "application/json");
        send(request.body(body))
            .await
            .problem(422, "invalid-request");
    }
    for media_type in [
        "text/plain",
        "application/json-patch+json",
        "application/x-www-form-urlencoded",
        "nonsense",
    ] {
        let request = client
            .patch(&path(&file))
            .header("content-type", media_type);
        let answer = send(request.body(r#"{"name":"b"}"#)).await;
        answer.problem(415, "unsupported-media-type");
    }
    let large = json!({"metadata": {"k": "x".repeat(4 << 20)}});
    // By a client of its own: a connection on which more was sent than was read is closed.
    let apart = service.client("acme");
    let answer = send(apart.patch(&path(&file)).json(&large)).await;
    answer.problem(413, "payload-too-large");
    assert_eq!(shown(&client, &file).await, file);
}

async fn metadata_keeps_its_bounds_when_merged(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    // Each half fits, and both together do not.
    let half = "x".repeat(40_000);
    let first = json!({"metadata": {"one": half}});
    let file = send(client.patch(&path(&file)).json(&first))
        .await
        .json(200);
    let second = json!({"metadata": {"two": half}}).to_string();
    refused(&client, &file, &second, "/metadata").await;
    let instead = json!({"metadata": {"one": null, "two": half}});
    let file = send(client.patch(&path(&file)).json(&instead))
        .await
        .json(200);
    assert_eq!(file["metadata"], json!({"two": half}));

    let deepest = format!(
        r#"{{"metadata":{{"a":{}{}}}}}"#,
        "[".repeat(15),
        "]".repeat(15)
    );
    let request = client
        .patch(&path(&file))
        .header("content-type", "application/json");
    let file = send(request.body(deepest)).await.json(200);
    for depth in [16, 3000] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        let change = format!(r#"{{"metadata":{{"a":{open}{close}}}}}"#);
        let request = client
            .patch(&path(&file))
            .header("content-type", "application/json");
        let answer = send(request.body(change)).await;
        if depth == 16 {
            answer.invalid(&["/metadata"]);
        } else {
            // So deep that a reader may give up on it.
            assert!(matches!(answer.status, 400 | 422), "{answer:?}");
        }
    }
    assert_eq!(shown(&client, &file).await, file);
    // The deepest that is allowed is merged at every level.
    let query = |leaf: &str| {
        let (open, close) = (r#"{"a":"#.repeat(15), "}".repeat(15));
        format!("{open}{leaf}{close}")
    };
    let metadata = escape(&query(r#"{"x":1,"y":2}"#));
    let request = client.post(&format!("/v1/files?name=b&metadata={metadata}"));
    let deep = send(request.body("x")).await.json(201);
    let change = format!(r#"{{"metadata":{}}}"#, query(r#"{"x":null}"#));
    let request = client
        .patch(&path(&deep))
        .header("content-type", "application/json");
    let merged = send(request.body(change)).await.json(200);
    let expected: Value = serde_json::from_str(&query(r#"{"y":2}"#)).unwrap();
    assert_eq!(merged["metadata"], expected);
}

async fn a_trashed_file_is_not_changed(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    trash(&client, &file).await;
    let trashed = shown(&client, &file).await;
    for change in [json!({"name": "b"}), json!({}), json!({"name": "a"})] {
        let answer = send(client.patch(&path(&file)).json(&change)).await;
        answer.problem(409, "conflict");
    }
    assert_eq!(shown(&client, &file).await, trashed);
}

async fn what_is_not_there_answers_404(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let other = service.client("other");
    let change = json!({"name": "b"});
    for id in [NEVER, "x", "%00", "%ff"] {
        let request = client.patch(&format!("/v1/files/{id}")).json(&change);
        send(request).await.problem(404, "not-found");
    }
    let request = other.patch(&path(&file)).json(&change);
    send(request).await.problem(404, "not-found");
    let request = other.patch(&path(&file)).header("if-match", "\"7\"");
    send(request.json(&change)).await.problem(404, "not-found");
    assert_eq!(shown(&client, &file).await, file);
}

async fn a_refused_patch_changes_nothing_at_all(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    for change in [
        json!({"name": "b", "content_type": "x"}),
        json!({"name": "b", "expires_at": "2020-01-01T00:00:00Z"}),
        json!({"name": "b", "metadata": {"k": "\0"}}),
        json!({"name": "b", "nonsense": 1}),
    ] {
        let answer = send(client.patch(&path(&file)).json(&change)).await;
        answer.problem(422, "invalid-request");
    }
    assert_eq!(shown(&client, &file).await, file);
}

mod denied {
    //! Where some types are not taken.

    use serde_json::json;

    use super::super::{path, shown};
    use crate::harness::client::send;
    use crate::harness::service::{Service, on_every_pair};

    on_every_pair!(
        with [("BOX_LIMITS__DENIED_CONTENT_TYPES", "text/html")];
        a_denied_type_is_denied_to_a_patch_as_well,
    );

    async fn a_denied_type_is_denied_to_a_patch_as_well(service: &Service) {
        let client = service.client("acme");
        let upload = client.post("/v1/files?name=a");
        let upload = upload.header("content-type", "text/html").body("x");
        let refused = send(upload).await;
        let file = client.upload("a", "content").await;
        let request = client.patch(&path(&file));
        let answer = send(request.json(&json!({"content_type": "text/html"}))).await;
        assert_eq!(answer.status, refused.status, "{answer:?} {refused:?}");
        assert_eq!(shown(&client, &file).await, file);
        let request = client.patch(&path(&file));
        send(request.json(&json!({"content_type": "text/css"})))
            .await
            .json(200);
    }
}
