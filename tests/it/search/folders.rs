//! Lists by folder: names that share what leads to the next `/` are one prefix.

use std::collections::BTreeSet;

use super::{Page, found, page, upload, walk};
use crate::harness::client::{id, send};
use crate::harness::content::escape;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    folders_are_shown_once_in_pages_of_every_size,
    a_folder_is_listed_by_its_prefix,
    a_folder_is_there_as_long_as_something_in_it_is_found,
    a_folder_that_vanishes_between_pages_takes_no_other_along,
    folders_are_those_of_the_tenant,
    folders_are_sorted_by_name_only,
);

const NAMES: [&str; 24] = [
    "a",
    "a",
    "a b",
    "a-b/c",
    "a.b",
    "a.b/c",
    "a/a",
    "a/b",
    "a/b",
    "a/b/c",
    "a/b/d/e",
    "a/b0",
    "a/z",
    "a0",
    "a0/x/y",
    "ab",
    "b/c/d/e",
    "b/c/d/f",
    "ä/1",
    "ä/2/3",
    "ä0",
    "日本/x",
    "日本語",
    "\u{10ffff}/\u{10ffff}",
];

/// What a list by folder shows below `prefix`, by the words of the contract.
fn expected<'a>(names: &[&'a str], prefix: &str) -> Vec<&'a str> {
    let mut shown = Vec::new();
    let mut folders = BTreeSet::new();
    for name in names.iter().filter(|name| name.starts_with(prefix)) {
        match name[prefix.len()..].find('/') {
            Some(at) => drop(folders.insert(&name[..=prefix.len() + at])),
            None => shown.push(*name),
        }
    }
    shown.extend(folders);
    shown.sort_unstable();
    shown
}

/// What the pages show, each in its order.
fn entries(pages: &[Page], descending: bool) -> Vec<String> {
    let ordered = pages.iter().flat_map(|page| {
        let mut entries = page.entries();
        entries.sort_unstable();
        if descending {
            entries.reverse();
        }
        entries
    });
    ordered.collect()
}

async fn folders_are_shown_once_in_pages_of_every_size(service: &Service) {
    let client = service.client("acme");
    // Not in the order that they are listed in.
    for index in 0..NAMES.len() {
        upload(&client, NAMES[index * 7 % NAMES.len()], "", "x").await;
    }
    for prefix in [
        "",
        "a",
        "a/",
        "a/b",
        "a/b/",
        "a.",
        "a0",
        "b",
        "b/",
        "b/c",
        "b/c/d/",
        "ä",
        "ä/",
        "日本",
        "\u{10ffff}",
        "absent",
        "absent/",
    ] {
        let mut expected = expected(&NAMES, prefix);
        for sort in ["name", "-name"] {
            let query = format!("delimiter=/&sort={sort}&prefix={}", escape(prefix));
            for limit in 1..=expected.len() + 1 {
                let pages = walk(&client, &query, limit).await;
                for page in &pages {
                    let prefixes = page.prefixes.as_ref().expect("there is a delimiter");
                    let mut ordered = prefixes.is_sorted();
                    if sort == "-name" {
                        ordered = prefixes.iter().rev().is_sorted();
                    }
                    assert!(ordered, "{prefixes:?}");
                }
                let shown = entries(&pages, sort == "-name");
                assert_eq!(shown, expected, "{prefix:?} {sort} by {limit}");
            }
            expected.reverse();
        }
    }
}

async fn a_folder_is_listed_by_its_prefix(service: &Service) {
    let client = service.client("acme");
    for name in NAMES {
        upload(&client, name, "", "x").await;
    }
    let top = page(&client, "delimiter=/").await;
    let folders = [
        "a-b/",
        "a.b/",
        "a/",
        "a0/",
        "b/",
        "ä/",
        "日本/",
        "\u{10ffff}/",
    ];
    assert_eq!(top.prefixes.unwrap(), folders);
    assert_eq!(
        super::names(&top.items),
        ["a", "a", "a b", "a.b", "a0", "ab", "ä0", "日本語"]
    );
    let inner = page(&client, "delimiter=/&prefix=a/").await;
    assert_eq!(inner.prefixes.unwrap(), ["a/b/"]);
    assert_eq!(
        super::names(&inner.items),
        ["a/a", "a/b", "a/b", "a/b0", "a/z"]
    );
    // A prefix need not end where a folder does.
    let part = page(&client, "delimiter=/&prefix=b/c").await;
    assert_eq!((part.items.len(), part.prefixes.unwrap().len()), (0, 1));
    assert!(page(&client, "prefix=a/").await.prefixes.is_none());
}

async fn a_folder_is_there_as_long_as_something_in_it_is_found(service: &Service) {
    let client = service.client("acme");
    let red = format!("&metadata={}", escape(r#"{"color":"red"}"#));
    upload(&client, "red/a", &red, "x").await;
    upload(&client, "blue/a", "", "x").await;
    let both = upload(&client, "both/a", &red, "xx").await;
    upload(&client, "both/b", "", "x").await;
    let folders = |query: String| {
        let client = client.clone();
        async move {
            let page = page(&client, &format!("delimiter=/&{query}")).await;
            assert!(page.items.is_empty());
            page.prefixes.unwrap()
        }
    };
    assert_eq!(folders(String::new()).await, ["blue/", "both/", "red/"]);
    assert_eq!(folders(red[1..].to_owned()).await, ["both/", "red/"]);
    assert_eq!(folders("min_size=2".into()).await, ["both/"]);
    let path = format!("/v1/files/{}", id(&both));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    assert_eq!(folders(red[1..].to_owned()).await, ["red/"]);
    assert_eq!(folders(String::new()).await, ["blue/", "both/", "red/"]);
    assert_eq!(folders("trashed=true".into()).await, ["both/"]);
}

async fn a_folder_that_vanishes_between_pages_takes_no_other_along(service: &Service) {
    let client = service.client("acme");
    for sort in ["name", "-name"] {
        for name in ["a/1", "b/1", "b/2", "c", "d/1", "d/2"] {
            upload(&client, name, "", "x").await;
        }
        let query = format!("delimiter=/&sort={sort}");
        let first = page(&client, &format!("{query}&limit=2")).await;
        // What the first page ended with grows and goes: it is not shown again, and the rest is.
        upload(&client, "b/0", "", "x").await;
        upload(&client, "b/3", "", "x").await;
        for file in page(&client, "prefix=b/").await.items {
            let path = format!("/v1/files/{}?permanent=true", id(&file));
            if sort == "name" {
                assert_eq!(send(client.delete(&path)).await.status, 204);
            }
        }
        let rest = format!("{query}&cursor={}", escape(&first.cursor.clone().unwrap()));
        let rest = page(&client, &rest).await;
        let (first, rest) = (first.entries(), rest.entries());
        if sort == "name" {
            assert_eq!(
                (first, rest),
                (strings(&["a/", "b/"]), strings(&["d/", "c"]))
            );
        } else {
            assert_eq!(
                (first, rest),
                (strings(&["d/", "c"]), strings(&["b/", "a/"]))
            );
        }
        for file in page(&client, "").await.items {
            let path = format!("/v1/files/{}?permanent=true", id(&file));
            assert_eq!(send(client.delete(&path)).await.status, 204);
        }
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

async fn folders_are_those_of_the_tenant(service: &Service) {
    let (acme, other) = (service.client("acme"), service.client("other"));
    upload(&acme, "a/1", "", "x").await;
    upload(&other, "b/1", "", "x").await;
    upload(&other, "a/2", "", "x").await;
    assert_eq!(page(&acme, "delimiter=/").await.entries(), ["a/"]);
    assert_eq!(found(&acme, "delimiter=/&prefix=a/").await, ["a/1"]);
    assert_eq!(page(&other, "delimiter=/").await.entries(), ["a/", "b/"]);
}

async fn folders_are_sorted_by_name_only(service: &Service) {
    let client = service.client("acme");
    for sort in [
        "created_at",
        "-created_at",
        "size",
        "-size",
        "updated_at",
        "-updated_at",
    ] {
        let path = format!("/v1/files?delimiter=/&sort={sort}");
        send(client.get(&path)).await.invalid(&["/sort"]);
    }
    for delimiter in ["", "x", "//", "a/", "%00", "%2f%2f", "\\"] {
        let path = format!("/v1/files?delimiter={delimiter}");
        send(client.get(&path)).await.invalid(&["/delimiter"]);
    }
    let empty = page(&client, "delimiter=%2f").await;
    assert_eq!((empty.items.len(), empty.prefixes), (0, Some(vec![])));
}
