//! What the plain filters find.

use std::time::Duration;

use super::{found, page, upload};
use crate::harness::client::{Client, id, send};
use crate::harness::content::{escape, sha256};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    a_name_is_found_exactly,
    a_content_type_is_found_exactly_or_by_its_family,
    sizes_are_bounds_that_belong,
    times_begin_with_the_bound_and_end_before_it,
    bytes_are_found_by_their_checksum,
    the_trash_is_searched_apart,
    filters_narrow_each_other,
    another_tenants_files_are_never_found,
);

async fn a_name_is_found_exactly(service: &Service) {
    let client = service.client("acme");
    let names = [
        "a", "A", "ab", "a/b", "a b", "ä", "a\u{308}", "100%", "100_", "*", "日本",
    ];
    for name in names {
        upload(&client, name, "", "x").await;
    }
    upload(&client, "a", "", "y").await;
    for name in names {
        let expected = vec![name; if name == "a" { 2 } else { 1 }];
        assert_eq!(
            found(&client, &format!("name={}", escape(name))).await,
            expected
        );
    }
    for absent in ["b", "a/", "aB", "%", "a*", "100"] {
        let path = format!("/v1/files?name={}", escape(absent));
        let answer = send(client.get(&path)).await;
        // What can be no name may be said to be none.
        assert!(matches!(answer.status, 200 | 422), "{answer:?}");
        if answer.status == 200 {
            assert_eq!(answer.json(200)["items"].as_array().unwrap().len(), 0);
        }
    }
    assert_eq!(found(&client, "name=a/b&prefix=a/").await, ["a/b"]);
    assert_eq!(found(&client, "name=a/b&prefix=b").await.len(), 0);
}

async fn typed(client: &Client, name: &str, content_type: &str) {
    let request = client
        .post(&format!("/v1/files?name={name}"))
        .header("content-type", content_type);
    let file = send(request.body("x")).await.json(201);
    assert_eq!(file["content_type"], content_type);
}

async fn a_content_type_is_found_exactly_or_by_its_family(service: &Service) {
    let client = service.client("acme");
    for (name, content_type) in [
        ("csv", "text/csv"),
        ("csv-header", "text/csv; header=present"),
        ("gif", "image/gif"),
        ("imagination", "imagex/png"),
        ("own", "x-image/png"),
        ("png", "image/png"),
        ("svg", "image/svg+xml"),
    ] {
        typed(&client, name, content_type).await;
    }
    for (asked, expected) in [
        ("image/png", &["png"][..]),
        ("image/*", &["gif", "png", "svg"]),
        ("text/csv", &["csv"]),
        ("text/csv; header=present", &["csv-header"]),
        ("text/*", &["csv", "csv-header"]),
        ("imagex/*", &["imagination"]),
        ("image/pn", &[]),
        ("image/p_g", &[]),
        ("audio/*", &[]),
    ] {
        let query = format!("content_type={}", escape(asked));
        assert_eq!(found(&client, &query).await, expected, "{asked}");
    }
}

async fn sizes_are_bounds_that_belong(service: &Service) {
    let client = service.client("acme");
    for (name, size) in [("a", 0), ("b", 1), ("c", 10), ("d", 10), ("e", 11)] {
        upload(&client, name, "", &"x".repeat(size)).await;
    }
    for (query, expected) in [
        ("min_size=0", &["a", "b", "c", "d", "e"][..]),
        ("min_size=1", &["b", "c", "d", "e"]),
        ("min_size=10", &["c", "d", "e"]),
        ("min_size=11", &["e"]),
        ("min_size=12", &[]),
        ("max_size=0", &["a"]),
        ("max_size=9", &["a", "b"]),
        ("max_size=10", &["a", "b", "c", "d"]),
        ("min_size=1&max_size=10", &["b", "c", "d"]),
        ("min_size=10&max_size=10", &["c", "d"]),
        ("min_size=2&max_size=9", &[]),
        ("max_size=9223372036854775807", &["a", "b", "c", "d", "e"]),
    ] {
        assert_eq!(found(&client, query).await, expected, "{query}");
    }
}

async fn times_begin_with_the_bound_and_end_before_it(service: &Service) {
    let client = service.client("acme");
    let moment = Duration::from_micros(1);
    let first = service.clock.now();
    for name in ["a", "b", "c"] {
        upload(&client, name, "", "x").await;
        service.clock.advance(moment);
    }
    // A change is no creation.
    let file = &page(&client, "name=a").await.items[0];
    let path = format!("/v1/files/{}", id(file));
    let renamed = client.patch(&path).json(&serde_json::json!({"name": "a2"}));
    send(renamed).await.json(200);
    let at = |micros| escape(&first.plus(moment * micros).to_string());
    for (query, expected) in [
        (format!("created_after={}", at(0)), &["a2", "b", "c"][..]),
        (format!("created_after={}", at(1)), &["b", "c"]),
        (format!("created_after={}", at(3)), &[]),
        (format!("created_before={}", at(0)), &[]),
        (format!("created_before={}", at(1)), &["a2"]),
        (format!("created_before={}", at(3)), &["a2", "b", "c"]),
        (
            format!("created_after={}&created_before={}", at(1), at(2)),
            &["b"],
        ),
        (
            format!("created_after={}&created_before={}", at(1), at(1)),
            &[],
        ),
        // Any offset will do.
        (
            "created_after=2026-01-31T14:00:00.123458%2B02:00".into(),
            &["c"],
        ),
        (
            "created_before=2026-01-31T12:00:01Z".into(),
            &["a2", "b", "c"],
        ),
    ] {
        assert_eq!(found(&client, &query).await, expected, "{query}");
    }
}

async fn bytes_are_found_by_their_checksum(service: &Service) {
    let client = service.client("acme");
    for (name, content) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "")] {
        upload(&client, name, "", content).await;
    }
    for (content, expected) in [
        ("x", &["a", "b"][..]),
        ("y", &["c"]),
        ("", &["d"]),
        ("z", &[]),
    ] {
        let query = format!("sha256={}", sha256(content.as_bytes()));
        assert_eq!(found(&client, &query).await, expected);
    }
    let file = &page(&client, "name=c").await.items[0];
    let content = format!("/v1/files/{}/content", id(file));
    send(client.put(&content).body("x")).await.json(200);
    let query = format!("sha256={}", sha256(b"x"));
    assert_eq!(found(&client, &query).await, ["a", "b", "c"]);
}

async fn the_trash_is_searched_apart(service: &Service) {
    let client = service.client("acme");
    for name in ["a", "b", "c"] {
        upload(&client, name, "", name).await;
        let file = upload(&client, &format!("{name} trashed"), "", name).await;
        let path = format!("/v1/files/{}", id(&file));
        assert_eq!(send(client.delete(&path)).await.status, 204);
    }
    for (query, expected) in [
        ("prefix=b", "b"),
        ("prefix=b&trashed=false", "b"),
        ("prefix=b&trashed=true", "b trashed"),
    ] {
        assert_eq!(found(&client, query).await, [expected]);
    }
    let query = format!("sha256={}&trashed=true", sha256(b"c"));
    assert_eq!(found(&client, &query).await, ["c trashed"]);
    let query = "name=a&trashed=true";
    assert_eq!(found(&client, query).await.len(), 0);
}

async fn filters_narrow_each_other(service: &Service) {
    let client = service.client("acme");
    let begun = service.clock.now();
    for folder in ["x", "y"] {
        for size in [1, 2] {
            for color in ["red", "blue"] {
                let metadata = escape(&format!(r#"{{"color":"{color}"}}"#));
                let name = format!("{folder}/{color}{size}");
                let query = format!("&metadata={metadata}");
                upload(&client, &name, &query, &"z".repeat(size)).await;
            }
        }
        service.clock.advance(Duration::from_secs(1));
    }
    let red = format!("metadata={}", escape(r#"{"color":"red"}"#));
    let second = format!(
        "created_after={}",
        escape(&begun.plus(Duration::from_secs(1)).to_string())
    );
    let content = format!("sha256={}", sha256(b"z"));
    for (filters, expected) in [
        (vec!["prefix=x/", &red], &["x/red1", "x/red2"][..]),
        (vec!["min_size=2", &red], &["x/red2", "y/red2"]),
        (vec![&second, &red, "max_size=1"], &["y/red1"]),
        (vec![&content, &second], &["y/blue1", "y/red1"]),
        (vec![&content, "min_size=2"], &[]),
        (
            vec![
                "prefix=y/r",
                "name=y/red1",
                "content_type=application/*",
                &red,
                "min_size=1",
                "max_size=1",
                &second,
                "created_before=2027-01-01T00:00:00Z",
                &content,
                "trashed=false",
            ],
            &["y/red1"],
        ),
    ] {
        assert_eq!(found(&client, &filters.join("&")).await, expected);
        // In any order.
        let reversed: Vec<&str> = filters.into_iter().rev().collect();
        assert_eq!(found(&client, &reversed.join("&")).await, expected);
    }
}

async fn another_tenants_files_are_never_found(service: &Service) {
    let (acme, other) = (service.client("acme"), service.client("other"));
    let metadata = format!("&metadata={}", escape(r#"{"secret":true}"#));
    upload(&other, "theirs/a", &metadata, "theirs").await;
    let trashed = upload(&other, "theirs/b", &metadata, "theirs").await;
    let path = format!("/v1/files/{}", id(&trashed));
    assert_eq!(send(other.delete(&path)).await.status, 204);
    for filter in [
        "prefix=theirs",
        "delimiter=/",
        "name=theirs/a",
        "content_type=application/*",
        "content_type=application/x-own",
        &metadata[1..],
        "min_size=0",
        "max_size=100",
        "created_after=2026-01-01T00:00:00Z",
        "created_before=2027-01-01T00:00:00Z",
        &format!("sha256={}", sha256(b"theirs")),
    ] {
        for trash in ["false", "true"] {
            let query = format!("{filter}&trashed={trash}");
            let page = page(&acme, &query).await;
            assert_eq!(page.entries().len(), 0, "{query}");
            assert_eq!(page.cursor, None);
        }
    }
}
