//! Merge patches (RFC 7396) of a file's JSON.

use std::time::Duration;

use serde_json::{Value, json};

use super::{events, path, shown};
use crate::harness::client::{Client, id, send};
use crate::harness::content::escape;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    a_patch_changes_what_it_names_and_nothing_else,
    metadata_is_merged_as_the_rfc_has_it,
    a_date_of_expiry_is_set_and_taken_back,
    a_patch_that_changes_nothing_is_no_change,
    if_match_is_on_the_revision,
    of_two_changes_of_the_same_revision_one_is_made,
    changes_at_once_are_all_made,
    both_media_types_are_taken,
);

const SECOND: Duration = Duration::from_secs(1);

async fn with_metadata(client: &Client, metadata: &Value) -> Value {
    let query = escape(&metadata.to_string());
    let request = client.post(&format!("/v1/files?name=a&metadata={query}"));
    send(request.body("content")).await.json(201)
}

async fn patch(client: &Client, file: &Value, change: &Value) -> Value {
    let answer = send(client.patch(&path(file)).json(change)).await;
    let changed = answer.json(200);
    let tag = format!("\"{}\"", changed["revision"]);
    assert_eq!(answer.header("etag"), tag);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(shown(client, file).await, changed);
    changed
}

async fn a_patch_changes_what_it_names_and_nothing_else(service: &Service) {
    let client = service.client("acme");
    let mut file = with_metadata(&client, &json!({"k": "v"})).await;
    let content = send(client.get(&format!("{}/content", path(&file)))).await;
    for (index, (field, value)) in [
        ("name", json!("b/c d.txt")),
        ("content_type", json!("application/x-other")),
        ("metadata", json!({"k": "w"})),
        ("expires_at", json!("2026-12-24T00:00:00.000000Z")),
    ]
    .into_iter()
    .enumerate()
    {
        service.clock.advance(SECOND);
        let changed = patch(&client, &file, &json!({field: value})).await;
        file[field] = value;
        file["revision"] = json!(index + 2);
        file["updated_at"] = json!(service.clock.now().to_string());
        assert_eq!(changed, file);
    }
    service.clock.advance(SECOND);
    let all =
        json!({"name": "x", "content_type": "a/b", "metadata": {"k": null}, "expires_at": null});
    let changed = patch(&client, &file, &all).await;
    for (field, value) in [
        ("name", json!("x")),
        ("content_type", json!("a/b")),
        ("metadata", json!({})),
        ("expires_at", Value::Null),
        ("revision", json!(6)),
        ("version", json!(1)),
        ("created_at", file["created_at"].clone()),
    ] {
        assert_eq!(changed[field], value, "{field}");
    }
    let after = send(client.get(&format!("{}/content", path(&file)))).await;
    assert_eq!(after.body, b"content");
    assert_eq!(after.header("etag"), content.header("etag"));
    assert_eq!(after.header("content-type"), "a/b");
    let told = events(service, &file).await;
    assert_eq!(told[0], "file.created");
    assert_eq!(told[1..], ["file.updated"; 5]);
    service.assert_holds(1).await;
}

async fn metadata_is_merged_as_the_rfc_has_it(service: &Service) {
    let client = service.client("acme");
    // The RFC's own table (appendix A), where both sides are objects, and more.
    for (before, change, after) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": "b"}),
            json!({"b": "c"}),
            json!({"a": "b", "b": "c"}),
        ),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (
            json!({"a": "b", "b": "c"}),
            json!({"a": null}),
            json!({"b": "c"}),
        ),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (
            json!({"a": [{"b": "c"}]}),
            json!({"a": [1]}),
            json!({"a": [1]}),
        ),
        (
            json!({"e": null}),
            json!({"a": 1}),
            json!({"e": null, "a": 1}),
        ),
        (
            json!({}),
            json!({"a": {"bb": {"ccc": null}}}),
            json!({"a": {"bb": {}}}),
        ),
        (
            json!({"a": 1}),
            json!({"a": {"b": null, "c": 2}}),
            json!({"a": {"c": 2}}),
        ),
        (
            json!({}),
            json!({"a": [null, {"b": null}]}),
            json!({"a": [null, {"b": null}]}),
        ),
        (
            json!({"a": {"b": {"c": 1, "d": 2}, "e": 3}}),
            json!({"a": {"b": {"c": null}}}),
            json!({"a": {"b": {"d": 2}, "e": 3}}),
        ),
        (json!({"a": 1}), json!({"absent": null}), json!({"a": 1})),
        (json!({"a": 1}), json!({}), json!({"a": 1})),
        (
            json!({"a/b~c": 1, "": 2}),
            json!({"": null, "é": "🦀"}),
            json!({"a/b~c": 1, "é": "🦀"}),
        ),
        (json!({"a": 1, "b": {"c": 2}}), Value::Null, json!({})),
    ] {
        let file = with_metadata(&client, &before).await;
        let changed = patch(&client, &file, &json!({"metadata": change})).await;
        assert_eq!(changed["metadata"], after, "{before} {change}");
    }
}

async fn a_date_of_expiry_is_set_and_taken_back(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let hour = Duration::from_secs(3600);
    let soon = service.clock.now().plus(hour).to_string();
    let changed = patch(&client, &file, &json!({"expires_at": soon})).await;
    assert_eq!(changed["expires_at"], soon);
    // Any offset is taken, and UTC answered.
    let elsewhere = json!({"expires_at": "2026-01-31T16:00:00+02:00"});
    let changed = patch(&client, &file, &elsewhere).await;
    assert_eq!(changed["expires_at"], "2026-01-31T14:00:00.000000Z");
    let never = patch(&client, &file, &json!({"expires_at": null})).await;
    assert_eq!(never["expires_at"], Value::Null);
    service.clock.advance(Duration::from_secs(86_400));
    service.domain().sweep().await.unwrap();
    assert_eq!(client.content(id(&file)).await, b"content");

    let soon = service.clock.now().plus(hour).to_string();
    patch(&client, &file, &json!({"expires_at": soon})).await;
    service.clock.advance(hour);
    let too_late = client
        .patch(&path(&file))
        .json(&json!({"expires_at": null}));
    send(too_late).await.problem(404, "not-found");
    service.domain().sweep().await.unwrap();
    service.assert_holds(0).await;
}

async fn a_patch_that_changes_nothing_is_no_change(service: &Service) {
    let client = service.client("acme");
    let mut file = with_metadata(&client, &json!({"k": {"l": 1}})).await;
    service.clock.advance(SECOND);
    file = patch(
        &client,
        &file,
        &json!({"expires_at": "2026-12-24T00:00:00Z"}),
    )
    .await;
    service.clock.advance(SECOND);
    for change in [
        json!({}),
        json!({"name": "a"}),
        json!({"content_type": file["content_type"]}),
        json!({"metadata": {}}),
        json!({"metadata": {"k": {"l": 1, "absent": null}, "absent": null}}),
        json!({"expires_at": "2026-12-24T01:00:00+01:00"}),
        json!({"name": "a", "metadata": {"k": {}}}),
    ] {
        assert_eq!(patch(&client, &file, &change).await, file, "{change}");
    }
    let stale = client.patch(&path(&file)).header("if-match", "\"1\"");
    let stale = send(stale.json(&json!({}))).await;
    stale.problem(412, "precondition-failed");
    assert_eq!(
        events(service, &file).await,
        ["file.created", "file.updated"]
    );
}

async fn if_match_is_on_the_revision(service: &Service) {
    let client = service.client("acme");
    let answer = send(client.post("/v1/files?name=a").body("content")).await;
    let (file, content_tag) = (answer.json(201), answer.header("etag"));
    let change = json!({"name": "b"});
    for tag in [
        "\"2\"",
        "\"0\"",
        "W/\"1\"",
        "\"01\"",
        "\"2\", \"3\"",
        content_tag,
    ] {
        let request = client.patch(&path(&file)).header("if-match", tag);
        let answer = send(request.json(&change)).await;
        answer.problem(412, "precondition-failed");
    }
    assert_eq!(shown(&client, &file).await, file);
    for (name, tag) in [("b", "\"1\""), ("c", "\"9\", \"2\""), ("d", "*")] {
        let request = client.patch(&path(&file)).header("if-match", tag);
        let changed = send(request.json(&json!({"name": name}))).await.json(200);
        assert_eq!(changed["name"], name);
    }
    // Of several fields each may hold the tag.
    let request = client.patch(&path(&file));
    let request = request
        .header("if-match", "\"1\"")
        .header("if-match", "\"4\"");
    send(request.json(&json!({"name": "e"}))).await.json(200);
}

async fn of_two_changes_of_the_same_revision_one_is_made(service: &Service) {
    let client = service.client("acme");
    let mut file = client.upload("a", "content").await;
    for round in 0..10 {
        let tag = format!("\"{}\"", file["revision"]);
        let attempt = |side: &str| {
            let request = client.patch(&path(&file)).header("if-match", &tag);
            send(
                request.json(&json!({"name": format!("{side}{round}"), "metadata": {side: round}})),
            )
        };
        let (left, right) = tokio::join!(attempt("left"), attempt("right"));
        let mut statuses = [left.status, right.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412], "{left:?} {right:?}");
        let (won, lost) = if left.status == 200 {
            (left, right)
        } else {
            (right, left)
        };
        lost.problem(412, "precondition-failed");
        let revision = file["revision"].as_u64().unwrap();
        file = shown(&client, &file).await;
        assert_eq!(won.json(200), file);
        assert_eq!(file["revision"], revision + 1);
    }
}

async fn changes_at_once_are_all_made(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let changes = (0..16).map(|index| {
        let key = format!("k{index}");
        send(
            client
                .patch(&path(&file))
                .json(&json!({"metadata": {key: index}})),
        )
    });
    let answers = futures::future::join_all(changes).await;
    let mut revisions: Vec<u64> = answers
        .iter()
        .map(|answer| answer.json(200)["revision"].as_u64().unwrap())
        .collect();
    revisions.sort_unstable();
    assert!(revisions.into_iter().eq(2..=17));
    let metadata = shown(&client, &file).await["metadata"].clone();
    assert_eq!(metadata.as_object().unwrap().len(), 16, "{metadata}");
}

async fn both_media_types_are_taken(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    for (index, media_type) in [
        "application/merge-patch+json",
        "application/json",
        "application/json; charset=utf-8",
        "Application/Merge-Patch+JSON",
    ]
    .into_iter()
    .enumerate()
    {
        let request = client
            .patch(&path(&file))
            .header("content-type", media_type);
        let body = json!({"name": format!("n{index}")}).to_string();
        let changed = send(request.body(body)).await.json(200);
        assert_eq!(changed["revision"], index + 2);
    }
}
