//! Earlier contents, of which two are kept.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    NEVER, content_path, earlier, named, numbers, path, put, remove, replace, shown, tag, versions,
};
use crate::harness::client::{id, send};
use crate::harness::content::{digest, escape, noise, sha256};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    with [("BOX_VERSIONS__KEEP", "2")];
    the_newest_versions_are_listed_with_what_they_were,
    as_many_are_kept_as_are_configured,
    versions_come_in_pages,
    an_earlier_content_is_read_like_the_current_one,
    unknown_versions_are_not_found,
    a_trashed_file_has_no_contents_to_read,
    a_deletion_takes_all_versions_along,
    a_copy_has_no_history,
    of_two_replacements_at_once_the_loser_is_no_version,
);

async fn the_newest_versions_are_listed_with_what_they_were(service: &Service) {
    let request = named(service, "first").post("/v1/files?name=a");
    let request = request.header("content-type", "a/first").body("one");
    let file = send(request).await.json(201);
    for (subject, content) in [("second", "one two"), ("third", "")] {
        service.clock.advance(Duration::from_secs(1));
        let request = named(service, subject).put(&content_path(&file));
        let request = request.header("content-type", format!("a/{subject}"));
        send(request.body(content)).await.json(200);
    }
    let client = service.client("acme");
    // What is said of the file is no content.
    service.clock.advance(Duration::from_secs(1));
    let change = json!({"name": "b", "metadata": {"k": 1}});
    send(client.patch(&path(&file)).json(&change))
        .await
        .json(200);
    let expected = |version, subject: &str, content: &str| {
        json!({
            "version": version,
            "size": content.len(),
            "sha256": sha256(content.as_bytes()),
            "content_type": format!("a/{subject}"),
            "created_at": format!("2026-01-31T12:00:0{}.123456Z", version - 1),
            "created_by": subject,
            "current": version == 3,
        })
    };
    assert_eq!(
        versions(&client, &file).await,
        [
            expected(3, "third", ""),
            expected(2, "second", "one two"),
            expected(1, "first", "one"),
        ]
    );
    assert_eq!(shown(&client, &file).await["created_by"], "first");
    service.assert_holds(3).await;
}

async fn as_many_are_kept_as_are_configured(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content 1").await;
    for version in 2..=6 {
        replace(&client, &file, format!("content {version}")).await;
        let kept = versions(&client, &file).await;
        let oldest = if version > 3 { version - 2 } else { 1 };
        assert!(numbers(&kept).into_iter().rev().eq(oldest..=version));
        for number in oldest..=version {
            let content = earlier(&client, &file, number).await;
            assert_eq!(content.text(), format!("content {number}"));
        }
        for number in 1..oldest {
            let gone = earlier(&client, &file, number).await;
            gone.problem(404, "not-found");
        }
    }
    service.assert_holds(3).await;
    // A failed replacement costs no version.
    let request = client.put(&content_path(&file));
    let request = request.header("repr-digest", digest(b"other"));
    let answer = send(request.body("content 7")).await;
    answer.problem(422, "checksum-mismatch");
    assert_eq!(numbers(&versions(&client, &file).await), [6, 5, 4]);
    assert_eq!(earlier(&client, &file, 4).await.text(), "content 4");
    service.assert_holds(3).await;
}

async fn versions_come_in_pages(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "1").await;
    replace(&client, &file, "2").await;
    replace(&client, &file, "3").await;
    let all = versions(&client, &file).await;
    let list = format!("{}/versions", path(&file));
    for limit in 1..=4 {
        let mut found: Vec<Value> = Vec::new();
        let mut next = String::new();
        loop {
            let request = client.get(&format!("{list}?limit={limit}{next}"));
            let page = send(request).await.json(200);
            let items = page["items"].as_array().unwrap();
            assert!(!items.is_empty() && items.len() <= limit);
            found.extend(items.iter().cloned());
            let Some(cursor) = page["next_cursor"].as_str() else {
                break;
            };
            next = format!("&cursor={}", escape(cursor));
        }
        assert_eq!(found, all, "by {limit}");
    }
    // What is replaced between pages takes no other along.
    let first = send(client.get(&format!("{list}?limit=1"))).await.json(200);
    assert_eq!(first["items"], json!([all[0]]));
    replace(&client, &file, "4").await;
    let cursor = escape(first["next_cursor"].as_str().unwrap());
    let rest = send(client.get(&format!("{list}?cursor={cursor}"))).await;
    assert_eq!(numbers(rest.json(200)["items"].as_array().unwrap()), [2]);
    for (query, pointer) in [
        ("limit=0", "/limit"),
        ("limit=1001", "/limit"),
        ("limit=x", "/limit"),
        ("cursor=x", "/cursor"),
        ("cursor=", "/cursor"),
        ("sort=version", "/sort"),
        ("nonsense=1", "/nonsense"),
    ] {
        let answer = send(client.get(&format!("{list}?{query}"))).await;
        answer.invalid(&[pointer]);
    }
    let files = send(client.get("/v1/files?limit=1")).await.json(200);
    assert_eq!(files["next_cursor"], Value::Null);
    service.assert_holds(3).await;
}

async fn an_earlier_content_is_read_like_the_current_one(service: &Service) {
    let client = service.client("acme");
    let content = noise(300_000);
    let request = client.post("/v1/files?name=a.bin");
    let request = request.header("content-type", "a/b").body(content.clone());
    let file = send(request).await.json(201);
    let before = send(client.get(&content_path(&file))).await;
    service.clock.advance(Duration::from_secs(3600));
    replace(&client, &file, "other").await;

    let whole = earlier(&client, &file, 1).await;
    assert_eq!(whole.status, 200);
    assert!(whole.body == content);
    for name in [
        "etag",
        "last-modified",
        "content-type",
        "content-length",
        "repr-digest",
        "accept-ranges",
        "content-disposition",
        "content-security-policy",
        "x-content-type-options",
    ] {
        assert_eq!(whole.header(name), before.header(name), "{name}");
    }
    let at = format!("{}/versions/1/content", path(&file));
    let tag = whole.header("etag").to_owned();
    let other = super::tag(&client, &file).await;
    let modified = whole.header("last-modified").to_owned();
    for (fields, status, bytes) in [
        (vec![("range", "bytes=10-19")], 206, &content[10..20]),
        (vec![("range", "bytes=-5")], 206, &content[299_995..]),
        (vec![("range", "bytes=299999-")], 206, &content[299_999..]),
        (
            vec![("range", "bytes=0-4"), ("if-range", &tag)],
            206,
            &content[..5],
        ),
        (
            vec![("range", "bytes=0-4"), ("if-range", &other)],
            200,
            &content,
        ),
        (vec![("if-none-match", &tag)], 304, b""),
        (vec![("if-none-match", &other)], 200, &content),
        (vec![("if-modified-since", &modified)], 304, b""),
        (vec![("if-match", &tag)], 200, &content),
    ] {
        let mut request = client.get(&at);
        for (name, value) in &fields {
            request = request.header(*name, *value);
        }
        let answer = send(request).await;
        assert_eq!(answer.status, status, "{fields:?}");
        assert!(answer.body == bytes, "{fields:?}");
    }
    let request = client.get(&at).header("range", "bytes=300000-");
    send(request).await.problem(416, "range-not-satisfiable");
    let request = client.get(&at).header("if-match", &other);
    send(request).await.problem(412, "precondition-failed");
    let request = client.get(&at).header("range", "bytes=0-1, 100-101");
    let several = send(request).await;
    assert_eq!(several.status, 206);
    let media_type = several.header("content-type");
    assert!(
        media_type.starts_with("multipart/byteranges"),
        "{media_type}"
    );
    // The current one is a version too.
    let current = earlier(&client, &file, 2).await;
    assert_eq!(
        (&*current.body, current.header("etag")),
        (&b"other"[..], &*other)
    );
    service.assert_holds(2).await;
}

async fn unknown_versions_are_not_found(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "1").await;
    replace(&client, &file, "2").await;
    let other = service.client("other");
    for version in [
        "0",
        "3",
        "-1",
        "x",
        "1.0",
        "99999999999999999999",
        "%00",
        "01x",
    ] {
        let answer = earlier(&client, &file, version).await;
        answer.problem(404, "not-found");
        let restore = format!("{}/versions/{version}/restore", path(&file));
        send(client.post(&restore)).await.problem(404, "not-found");
    }
    for (client, files) in [
        (&client, format!("/v1/files/{NEVER}")),
        (&other, path(&file)),
    ] {
        for request in [
            client.get(&format!("{files}/versions")),
            client.get(&format!("{files}/versions/1/content")),
            client.get(&format!("{files}/versions/2/content")),
            client.post(&format!("{files}/versions/1/restore")),
        ] {
            send(request).await.problem(404, "not-found");
        }
    }
    assert_eq!(numbers(&versions(&client, &file).await), [2, 1]);
    service.assert_holds(2).await;
}

async fn a_trashed_file_has_no_contents_to_read(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "1").await;
    replace(&client, &file, "2").await;
    assert_eq!(send(client.delete(&path(&file))).await.status, 204);
    for version in [1, 2] {
        earlier(&client, &file, version).await.problem(410, "gone");
    }
    assert_eq!(numbers(&versions(&client, &file).await), [2, 1]);
    let restore = client.post(&format!("{}/versions/1/restore", path(&file)));
    let refused = send(restore).await;
    assert!(matches!(refused.status, 409 | 410), "{refused:?}");
    let restore = client.post(&format!("{}/restore", path(&file)));
    assert_eq!(send(restore).await.json(200)["version"], 2);
    assert_eq!(earlier(&client, &file, 1).await.body, b"1");
    assert_eq!(client.content(id(&file)).await, b"2");
    service.assert_holds(2).await;
}

async fn a_deletion_takes_all_versions_along(service: &Service) {
    let client = service.client("acme");
    for way in 0..3 {
        let file = client.upload("a", "1").await;
        for content in ["2", "3", "4"] {
            replace(&client, &file, content).await;
        }
        match way {
            0 => remove(&client, &file).await,
            1 => {
                let asked = json!({"ids": [id(&file)], "permanent": true});
                let request = client.post("/v1/files/batch-delete").json(&asked);
                send(request).await.json(200);
            }
            _ => {
                assert_eq!(send(client.delete(&path(&file))).await.status, 204);
                service.assert_holds(3).await;
                service.clock.advance(Duration::from_secs(30 * 86_400));
                assert_eq!(service.domain().sweep().await.unwrap(), 1);
            }
        }
        let list = client.get(&format!("{}/versions", path(&file)));
        send(list).await.problem(404, "not-found");
        earlier(&client, &file, 3).await.problem(404, "not-found");
        service.assert_holds(0).await;
    }
}

async fn a_copy_has_no_history(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "1").await;
    replace(&client, &file, "2").await;
    let copy = send(client.post(&format!("{}/copy", path(&file))))
        .await
        .json(201);
    assert_eq!(
        (&copy["version"], &copy["revision"]),
        (&json!(1), &json!(1))
    );
    let listed = versions(&client, &copy).await;
    assert_eq!(numbers(&listed), [1]);
    assert_eq!(listed[0]["sha256"], sha256(b"2"));
    // Its own history begins, and shares bytes with the source's.
    replace(&client, &copy, "3").await;
    remove(&client, &file).await;
    service.settle().await;
    assert_eq!(earlier(&client, &copy, 1).await.body, b"2");
    service.assert_holds(2).await;
}

async fn of_two_replacements_at_once_the_loser_is_no_version(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "1").await;
    for round in 2..7 {
        let current = tag(&client, &file).await;
        let attempt = |content: &str| {
            let request = client
                .put(&content_path(&file))
                .header("if-match", &current);
            send(request.body(content.to_owned()))
        };
        let (left, right) = tokio::join!(attempt("left"), attempt("right"));
        assert_ne!(left.status, right.status);
        assert_eq!(numbers(&versions(&client, &file).await)[0], round);
    }
    service.assert_holds(3).await;
    let all = (0..8).map(|index| put(&client, &file, format!("{index}")));
    for answer in futures::future::join_all(all).await {
        answer.json(200);
    }
    assert_eq!(numbers(&versions(&client, &file).await), [14, 13, 12]);
    service.assert_holds(3).await;
}
