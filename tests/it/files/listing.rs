//! Lists of files, page by page.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::harness::client::{Client, id, send};
use crate::harness::content::escape;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    the_newest_hundred_come_first,
    every_sort_shows_each_file_once_in_order,
    names_sort_by_their_bytes,
    what_leaves_between_pages_takes_no_other_along,
    a_cursor_serves_its_own_sort_only,
    limits_have_bounds,
    a_prefix_is_no_pattern,
    a_prefix_may_be_sorted_and_paged,
    tenants_see_their_own_files,
    the_trash_is_listed_apart,
    unknown_and_repeated_parameters_are_refused,
);

const SORTS: [&str; 4] = ["created_at", "-created_at", "name", "-name"];

async fn page(client: &Client, query: &str) -> (Vec<Value>, Option<String>) {
    let mut page = send(client.get(&format!("/v1/files?{query}")))
        .await
        .json(200);
    let items = page["items"].as_array_mut().unwrap();
    let items = std::mem::take(items);
    let cursor = page["next_cursor"].as_str().map(str::to_owned);
    assert!(cursor.is_some() || page["next_cursor"].is_null());
    assert_eq!(page.as_object().unwrap().len(), 2, "{page}");
    (items, cursor)
}

/// Every page of at most `limit` files, one after the other.
async fn pages(client: &Client, query: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut next = String::new();
    loop {
        let (items, cursor) = page(client, &format!("{query}&limit={limit}{next}")).await;
        assert!(items.len() <= limit);
        all.extend(items);
        let Some(cursor) = cursor else {
            return all;
        };
        next = format!("&cursor={}", escape(&cursor));
        assert!(all.len() <= 200, "it does not end");
    }
}

fn names(files: &[Value]) -> Vec<&str> {
    files
        .iter()
        .map(|file| file["name"].as_str().unwrap())
        .collect()
}

async fn upload(client: &Client, name: &str) -> Value {
    let request = client.post(&format!("/v1/files?name={}", escape(name)));
    send(request.body("x")).await.json(201)
}

async fn the_newest_hundred_come_first(service: &Service) {
    let client = service.client("acme");
    let (none, cursor) = page(&client, "").await;
    assert!(none.is_empty() && cursor.is_none());
    let mut files = Vec::new();
    for number in 0..101 {
        files.insert(0, client.upload(&format!("{number}"), "").await);
        service.clock.advance(Duration::from_micros(1));
    }
    let (items, cursor) = page(&client, "").await;
    assert_eq!(items, files[..100]);
    let rest = format!("cursor={}", escape(&cursor.unwrap()));
    let (items, cursor) = page(&client, &rest).await;
    assert_eq!(items, files[100..]);
    assert!(cursor.is_none());
    assert_eq!(pages(&client, "sort=-created_at", 101).await, files);
}

async fn every_sort_shows_each_file_once_in_order(service: &Service) {
    let client = service.client("acme");
    let mut ids = BTreeSet::new();
    // Three times, each with many names, and each name often.
    for name in ["b", "a", "b", "c", "a", "b", "a", "a", "c", "b", "b", "a"] {
        let file = client.upload(name, "x").await;
        ids.insert(id(&file).to_owned());
        if ids.len() % 4 == 0 {
            service.clock.advance(Duration::from_micros(1));
        }
    }
    for sort in SORTS {
        for limit in [1, 2, 3, 4, 6, 11, 12, 13] {
            let files = pages(&client, &format!("sort={sort}"), limit).await;
            assert_eq!(files.len(), ids.len(), "{sort} by {limit}");
            let shown: BTreeSet<String> = files.iter().map(|file| id(file).to_owned()).collect();
            assert_eq!(shown, ids, "{sort} by {limit}");
            let key = sort.trim_start_matches('-');
            let keys = files.iter().map(|file| file[key].as_str().unwrap());
            if sort.starts_with('-') {
                assert!(keys.rev().is_sorted(), "{sort} by {limit}");
            } else {
                assert!(keys.is_sorted(), "{sort} by {limit}");
            }
        }
    }
}

async fn names_sort_by_their_bytes(service: &Service) {
    let client = service.client("acme");
    let mut expected = [
        "Z", "a", "B", "ä", "z", "a/b", "a-b", "a b", "_", "é", "e\u{301}", "\u{fffd}", "🦀", "10",
        "9", "aa", "A",
    ];
    for name in expected {
        upload(&client, name).await;
    }
    expected.sort_unstable();
    assert_eq!(names(&pages(&client, "sort=name", 2).await), expected);
    expected.reverse();
    assert_eq!(names(&pages(&client, "sort=-name", 2).await), expected);
}

async fn what_leaves_between_pages_takes_no_other_along(service: &Service) {
    let client = service.client("acme");
    for sort in SORTS {
        for name in ["a", "b", "c", "d", "e"] {
            client.upload(name, "x").await;
            service.clock.advance(Duration::from_secs(1));
        }
        let (first, cursor) = page(&client, &format!("sort={sort}&limit=2")).await;
        // The very file that the next page begins after.
        let path = format!("/v1/files/{}?permanent=true", id(&first[1]));
        assert_eq!(send(client.delete(&path)).await.status, 204);
        let cursor = escape(&cursor.unwrap());
        let (rest, _) = page(&client, &format!("sort={sort}&cursor={cursor}")).await;
        assert_eq!(rest.len(), 3);
        let mut names = [names(&first), names(&rest)].concat();
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
        for file in [&first[..1], &rest[..]].concat() {
            let path = format!("/v1/files/{}?permanent=true", id(&file));
            assert_eq!(send(client.delete(&path)).await.status, 204);
        }
    }
}

async fn a_cursor_serves_its_own_sort_only(service: &Service) {
    let client = service.client("acme");
    for name in ["a", "b"] {
        client.upload(name, "x").await;
    }
    for sort in SORTS {
        let (_, cursor) = page(&client, &format!("sort={sort}&limit=1")).await;
        let cursor = escape(&cursor.unwrap());
        for other in SORTS {
            let path = format!("/v1/files?sort={other}&cursor={cursor}");
            let answer = send(client.get(&path)).await;
            if other == sort {
                answer.json(200);
            } else {
                answer.invalid(&["/cursor"]);
            }
        }
        let half = &cursor[..cursor.len() / 2];
        let garbage = ["", "x", "%00", "AAAA", "%ff", "e30", "ä", half].map(str::to_owned);
        for cursor in garbage.into_iter().chain([format!("{cursor}x")]) {
            let path = format!("/v1/files?sort={sort}&cursor={cursor}");
            send(client.get(&path)).await.invalid(&["/cursor"]);
        }
    }
    for sort in ["", "x", "Name", "--name", "+name", "name,created_at", "-"] {
        let path = format!("/v1/files?sort={}", escape(sort));
        send(client.get(&path)).await.invalid(&["/sort"]);
    }
}

async fn limits_have_bounds(service: &Service) {
    let client = service.client("acme");
    client.upload("a", "x").await;
    client.upload("b", "x").await;
    for limit in [
        "0",
        "1001",
        "-1",
        "",
        "x",
        "1.0",
        "99999999999999999999",
        "%2b1x",
    ] {
        let path = format!("/v1/files?limit={limit}");
        send(client.get(&path)).await.invalid(&["/limit"]);
    }
    assert_eq!(page(&client, "limit=1").await.0.len(), 1);
    let (items, cursor) = page(&client, "limit=1000").await;
    assert_eq!((items.len(), cursor), (2, None));
    // As many as there are: nothing is left to be promised.
    assert_eq!(page(&client, "limit=2").await.1, None);
}

async fn a_prefix_is_no_pattern(service: &Service) {
    let client = service.client("acme");
    let mut all = [
        "100%",
        "100%/a",
        "100x",
        "1000",
        "a_b",
        "axb",
        "A_b",
        "a\\b",
        "a*b",
        "ä/1",
        "ä/2",
        "a\u{308}/1",
        "Ä/1",
        "日本/x",
        "日本語",
        "z\u{d7ff}a",
        "z\u{e000}a",
        "z\u{10ffff}",
        "z\u{10ffff}a",
        "{}",
        "'; --",
        "~",
    ];
    for name in all {
        upload(&client, name).await;
    }
    all.sort_unstable();
    for prefix in [
        "",
        "1",
        "100",
        "100%",
        "100%/",
        "%",
        "_",
        "a",
        "a_",
        "a_b",
        "a_bc",
        "A",
        "a\\",
        "a*",
        "*",
        "ä",
        "ä/",
        "a\u{308}",
        "Ä",
        "日",
        "日本",
        "日本語",
        "z\u{d7ff}",
        "z\u{10ffff}",
        "z\u{10ffff}a",
        "\u{10ffff}",
        "{",
        "'",
        "~",
        "absent",
    ] {
        let expected: Vec<&str> = all
            .into_iter()
            .filter(|name| name.starts_with(prefix))
            .collect();
        let query = format!("sort=name&prefix={}", escape(prefix));
        let found = pages(&client, &query, 4).await;
        assert_eq!(names(&found), expected, "{prefix:?}");
    }
    // What no name can begin with is no error of the search, and must not be one of the service.
    for prefix in ["%00", "a%00", "%0a", "/"] {
        let answer = send(client.get(&format!("/v1/files?prefix={prefix}"))).await;
        assert!(matches!(answer.status, 200 | 422), "{prefix} {answer:?}");
    }
}

async fn a_prefix_may_be_sorted_and_paged(service: &Service) {
    let client = service.client("acme");
    for name in ["a/1", "b/1", "a/2", "b/2", "a/1", "a", "a/3", "b"] {
        client.upload(name, "x").await;
        service.clock.advance(Duration::from_secs(1));
    }
    let mut expected = ["a/1", "a/2", "a/1", "a/3"];
    for limit in [1, 2, 3, 4] {
        let found = pages(&client, "prefix=a/&sort=created_at", limit).await;
        assert_eq!(names(&found), expected);
    }
    expected.reverse();
    assert_eq!(names(&pages(&client, "prefix=a/", 3).await), expected);
}

async fn tenants_see_their_own_files(service: &Service) {
    let (acme, other) = (service.client("acme"), service.client("other"));
    for name in ["a", "b", "c"] {
        acme.upload(name, "x").await;
    }
    let own = other.upload("own", "x").await;
    for sort in SORTS {
        let query = format!("sort={sort}");
        assert_eq!(pages(&acme, &query, 2).await.len(), 3);
        let files = pages(&other, &query, 2).await;
        assert_eq!(files, std::slice::from_ref(&own));
        // Nor does another tenant's cursor lead to its files.
        let (_, cursor) = page(&acme, &format!("{query}&limit=1")).await;
        let path = format!("/v1/files?{query}&cursor={}", escape(&cursor.unwrap()));
        let answer = send(other.get(&path)).await;
        if answer.status == 200 {
            let items = answer.json(200)["items"].clone();
            assert!(items.as_array().unwrap().iter().all(|file| *file == own));
        } else {
            answer.invalid(&["/cursor"]);
        }
    }
    // Names of tenants that begin alike.
    let (_, tenth) = (service.client("acme1"), service.client("acme10"));
    assert!(pages(&tenth, "sort=name", 10).await.is_empty());
}

async fn the_trash_is_listed_apart(service: &Service) {
    let client = service.client("acme");
    let kept = client.upload("kept", "x").await;
    for name in ["t1", "t2", "t3"] {
        let file = client.upload(name, "x").await;
        let path = format!("/v1/files/{}", id(&file));
        assert_eq!(send(client.delete(&path)).await.status, 204);
    }
    assert_eq!(
        pages(&client, "sort=name", 10).await,
        std::slice::from_ref(&kept)
    );
    let live = pages(&client, "trashed=false", 10).await;
    assert_eq!(live, [kept]);
    for sort in SORTS {
        let trash = pages(&client, &format!("trashed=true&sort={sort}"), 2).await;
        assert_eq!(trash.len(), 3);
        assert!(trash.iter().all(|file| file["trashed_at"].is_string()));
    }
    let found = pages(&client, "trashed=true&prefix=t2", 2).await;
    assert_eq!(names(&found), ["t2"]);
    let other = service.client("other");
    assert!(pages(&other, "trashed=true", 2).await.is_empty());
    for value in ["", "1", "yes", "TRUE"] {
        let path = format!("/v1/files?trashed={value}");
        send(client.get(&path)).await.invalid(&["/trashed"]);
    }
}

async fn unknown_and_repeated_parameters_are_refused(service: &Service) {
    let client = service.client("acme");
    for (query, pointer) in [
        ("nonsense=1", "/nonsense"),
        ("Prefix=a", "/Prefix"),
        ("offset=1", "/offset"),
        ("prefix=a&prefix=b", "/prefix"),
        ("limit=1&limit=1", "/limit"),
    ] {
        let answer = send(client.get(&format!("/v1/files?{query}"))).await;
        answer.invalid(&[pointer]);
    }
    let file = client.upload("a", "x").await;
    let path = format!("/v1/files/{}?nonsense=1", id(&file));
    send(client.get(&path)).await.invalid(&["/nonsense"]);
}
