//! Contents that are replaced where none of the earlier ones is kept, as is the default.

use std::time::Duration;

use serde_json::{Value, json};

use super::{content_path, earlier, named, path, put, remove, replace, shown, tag, versions};
use crate::harness::client::{id, send};
use crate::harness::content::{MIB, digest, escape, noise, sha256};
use crate::harness::raw;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    new_content_makes_a_new_version_of_the_same_file,
    contents_of_every_size_replace_each_other,
    if_match_is_on_the_content,
    of_two_replacements_of_the_same_content_one_is_made,
    replacements_at_once_are_all_made,
    replaced_and_removed_at_once_nothing_is_left_over,
    without_keeping_there_is_one_version,
    a_declared_checksum_is_compared,
);

async fn new_content_makes_a_new_version_of_the_same_file(service: &Service) {
    let client = service.client("acme");
    let query = format!(
        "name=a/b.txt&metadata={}&expires_at=2027-01-01T00:00:00Z",
        escape(r#"{"k":"v"}"#)
    );
    let upload = client.post(&format!("/v1/files?{query}"));
    let answer = send(upload.header("content-type", "a/b").body("first")).await;
    let (mut file, first_tag) = (answer.json(201), answer.header("etag").to_owned());
    service.clock.advance(Duration::from_secs(5));

    // By someone else, whom the file is not created by.
    let request = named(service, "other subject").put(&content_path(&file));
    let request = request.header("content-type", "c/d").body("second one");
    let answer = send(request).await;
    let replaced = answer.json(200);
    file["version"] = json!(2);
    file["revision"] = json!(2);
    file["size"] = json!(10);
    file["sha256"] = json!(sha256(b"second one"));
    file["content_type"] = json!("c/d");
    file["updated_at"] = json!("2026-01-31T12:00:05.123456Z");
    assert_eq!(replaced, file);
    assert_eq!(shown(&client, &file).await, file);

    let content = send(client.get(&content_path(&file))).await;
    assert_eq!(content.body, b"second one");
    assert_eq!(content.header("content-type"), "c/d");
    assert_eq!(content.header("repr-digest"), digest(b"second one"));
    assert_eq!(
        content.header("last-modified"),
        "Sat, 31 Jan 2026 12:00:05 GMT"
    );
    assert_eq!(content.header("etag"), answer.header("etag"));
    assert_ne!(content.header("etag"), first_tag);
    let stale = client
        .get(&content_path(&file))
        .header("if-none-match", &first_tag);
    assert_eq!(send(stale).await.body, b"second one");

    let mut reader = service.domain().metadata.reader().await.unwrap();
    let tenant = "acme".parse().unwrap();
    let actions = reader
        .conn()
        .event_actions(&tenant, id(&file))
        .await
        .unwrap();
    assert_eq!(actions, ["file.created", "file.content_replaced"]);
    drop(reader);
    service.assert_holds(1).await;
}

async fn contents_of_every_size_replace_each_other(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", noise(MIB)).await;
    for (index, size) in [0, 1, 9 * MIB + 1, MIB, 0, 70_000].into_iter().enumerate() {
        let content = noise(size);
        let replaced = replace(&client, &file, content.clone()).await;
        assert_eq!(replaced["version"], index + 2);
        assert_eq!(replaced["size"], size);
        assert_eq!(replaced["sha256"], sha256(&content));
        assert!(client.content(id(&file)).await == content, "{size}");
    }
    // Without a length that is known.
    let body = [raw::chunk(b"in "), raw::chunk(b"chunks"), raw::chunk(b"")].concat();
    let line = format!("PUT {}", content_path(&file));
    let answer = raw::exchange(service, &line, &["transfer-encoding: chunked"], &body).await;
    assert_eq!(answer.json(200)["version"], 8);
    assert_eq!(client.content(id(&file)).await, b"in chunks");
    // The same bytes again are new content all the same.
    let before = tag(&client, &file).await;
    assert_eq!(replace(&client, &file, "in chunks").await["version"], 9);
    assert_ne!(tag(&client, &file).await, before);
    service.assert_holds(1).await;
}

async fn if_match_is_on_the_content(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "first").await;
    let current = tag(&client, &file).await;
    let weak = format!("W/{current}");
    for stale in ["\"other\"", "\"1\"", &weak, "\"x\", \"y\""] {
        let request = client.put(&content_path(&file)).header("if-match", stale);
        let answer = send(request.body("second")).await;
        answer.problem(412, "precondition-failed");
    }
    // Which is told before the body is read.
    let line = format!("PUT {}", content_path(&file));
    let fields = ["content-length: 10", "if-match: \"other\""];
    let answer = raw::exchange(service, &line, &fields, b"").await;
    answer.problem(412, "precondition-failed");
    assert_eq!(shown(&client, &file).await, file);

    // What is said of the file may change meanwhile.
    let change = client.patch(&path(&file)).json(&json!({"name": "b"}));
    send(change).await.json(200);
    let among = format!("\"x\", {current}");
    let request = client.put(&content_path(&file)).header("if-match", &among);
    let replaced = send(request.body("second")).await.json(200);
    assert_eq!(
        (&replaced["version"], &replaced["revision"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(replaced["name"], "b");
    let again = client
        .put(&content_path(&file))
        .header("if-match", &current);
    let again = send(again.body("third")).await;
    again.problem(412, "precondition-failed");
    let any = client.put(&content_path(&file)).header("if-match", "*");
    send(any.body("third")).await.json(200);
    assert_eq!(client.content(id(&file)).await, b"third");
    service.assert_holds(1).await;
}

async fn of_two_replacements_of_the_same_content_one_is_made(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "first").await;
    for round in 2..12 {
        let current = tag(&client, &file).await;
        let attempt = |content: &str| {
            let request = client
                .put(&content_path(&file))
                .header("if-match", &current);
            send(request.body(content.to_owned()))
        };
        let (left, right) = tokio::join!(attempt("left"), attempt("right"));
        let mut statuses = [left.status, right.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412], "{left:?} {right:?}");
        let (won, lost, bytes) = if left.status == 200 {
            (left, right, b"left".to_vec())
        } else {
            (right, left, b"right".to_vec())
        };
        lost.problem(412, "precondition-failed");
        assert_eq!(won.json(200)["version"], round);
        assert_eq!(client.content(id(&file)).await, bytes);
        assert_eq!(won.header("etag"), tag(&client, &file).await);
    }
    service.assert_holds(1).await;
}

async fn replacements_at_once_are_all_made(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "first").await;
    let attempts = (0..8).map(|index| put(&client, &file, format!("content {index}")));
    let answers = futures::future::join_all(attempts).await;
    let mut made: Vec<Value> = answers.iter().map(|answer| answer.json(200)).collect();
    made.sort_by_key(|file| file["version"].as_u64());
    assert!(
        made.iter()
            .map(|file| file["version"].as_u64().unwrap())
            .eq(2..=9)
    );
    let last = made.pop().unwrap();
    assert_eq!(shown(&client, &file).await, last);
    assert_eq!(sha256(&client.content(id(&file)).await), last["sha256"]);
    service.assert_holds(1).await;
}

async fn replaced_and_removed_at_once_nothing_is_left_over(service: &Service) {
    let client = service.client("acme");
    for _ in 0..10 {
        let file = client.upload("a", "first").await;
        let delete = client.delete(&format!("{}?permanent=true", path(&file)));
        let (replaced, deleted) = tokio::join!(put(&client, &file, "second"), send(delete));
        assert_eq!(deleted.status, 204, "{deleted:?}");
        if replaced.status != 200 {
            replaced.problem(404, "not-found");
        }
        send(client.get(&path(&file)))
            .await
            .problem(404, "not-found");
    }
    service.assert_holds(0).await;
}

async fn without_keeping_there_is_one_version(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "first").await;
    replace(&client, &file, "second").await;
    let kept = versions(&client, &file).await;
    assert_eq!(super::numbers(&kept), [2]);
    assert_eq!(kept[0]["current"], true);
    earlier(&client, &file, 1).await.problem(404, "not-found");
    assert_eq!(earlier(&client, &file, 2).await.body, b"second");
    let restore = client.post(&format!("{}/versions/1/restore", path(&file)));
    send(restore).await.problem(404, "not-found");
    service.assert_holds(1).await;
    remove(&client, &file).await;
    service.assert_holds(0).await;
}

async fn a_declared_checksum_is_compared(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "first").await;
    let before = tag(&client, &file).await;
    for (name, value) in [
        ("repr-digest", digest(b"other")),
        ("content-digest", digest(b"other")),
    ] {
        let request = client.put(&content_path(&file)).header(name, value);
        let answer = send(request.body("second")).await;
        answer.problem(422, "checksum-mismatch");
    }
    let query = format!("{}?sha256={}", content_path(&file), sha256(b"other"));
    let answer = send(client.put(&query).body("second")).await;
    answer.problem(422, "checksum-mismatch");
    assert_eq!(shown(&client, &file).await, file);
    assert_eq!(tag(&client, &file).await, before);
    assert_eq!(client.content(id(&file)).await, b"first");
    service.assert_holds(1).await;

    let request = client.put(&content_path(&file));
    let request = request.header("repr-digest", digest(b"second"));
    send(request.body("second")).await.json(200);
    let query = format!("{}?sha256={}", content_path(&file), sha256(b"third"));
    send(client.put(&query).body("third")).await.json(200);
    assert_eq!(client.content(id(&file)).await, b"third");
    service.assert_holds(1).await;
}
