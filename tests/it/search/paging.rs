//! Every sort, page by page, while others come and go.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::{items, page, upload};
use crate::harness::client::{Client, id, send};
use crate::harness::content::escape;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    every_sort_and_its_reverse_show_each_file_once_in_order,
    sizes_sort_as_numbers,
    a_change_moves_a_file_to_the_end_of_updated_at,
    what_stays_is_shown_once_while_others_come_move_and_go,
    a_cursor_serves_its_own_sort_only,
);

const SORTS: [&str; 8] = [
    "created_at",
    "-created_at",
    "name",
    "-name",
    "size",
    "-size",
    "updated_at",
    "-updated_at",
];

async fn every_sort_and_its_reverse_show_each_file_once_in_order(service: &Service) {
    let client = service.client("acme");
    let mut files = Vec::new();
    for index in 0..13 {
        // Each name, size and time several times, and none in step with another.
        let (name, size) = (["b", "a", "c"][index % 3], index * 5 % 4);
        files.push(upload(&client, name, "", &"x".repeat(size)).await);
        if index % 4 == 3 {
            service.clock.advance(Duration::from_secs(1));
        }
    }
    for file in files.iter().step_by(3) {
        let path = format!("/v1/files/{}", id(file));
        let change = json!({"metadata": {"changed": true}});
        send(client.patch(&path).json(&change)).await.json(200);
    }
    for sort in SORTS {
        let whole = items(&client, &format!("sort={sort}"), 1000).await;
        assert_eq!(whole.len(), files.len());
        assert_ordered(&whole, sort);
        for limit in [1, 2, 3, 5, 12, 13, 14] {
            let paged = items(&client, &format!("sort={sort}"), limit).await;
            assert_eq!(paged, whole, "{sort} by {limit}");
        }
    }
    for sort in ["created_at", "name", "size", "updated_at"] {
        let mut up = items(&client, &format!("sort={sort}"), 4).await;
        up.reverse();
        let down = items(&client, &format!("sort=-{sort}"), 3).await;
        let key = |file: &Value| file[sort].clone();
        assert!(up.iter().map(key).eq(down.iter().map(key)), "{sort}");
    }
}

fn assert_ordered(files: &[Value], sort: &str) {
    let key = sort.trim_start_matches('-');
    for pair in files.windows(2) {
        let (mut first, mut second) = (&pair[0][key], &pair[1][key]);
        if sort.starts_with('-') {
            std::mem::swap(&mut first, &mut second);
        }
        let ordered = match (first.as_u64(), second.as_u64()) {
            (Some(first), Some(second)) => first <= second,
            _ => first.as_str().unwrap() <= second.as_str().unwrap(),
        };
        assert!(ordered, "{sort}: {first} before {second}");
    }
}

async fn sizes_sort_as_numbers(service: &Service) {
    let client = service.client("acme");
    for size in [10, 9, 100, 0, 2] {
        upload(&client, &format!("{size}"), "", &"x".repeat(size)).await;
    }
    let mut expected = ["0", "2", "9", "10", "100"];
    let up = items(&client, "sort=size", 2).await;
    assert_eq!(super::names(&up), expected);
    expected.reverse();
    let down = items(&client, "sort=-size", 2).await;
    assert_eq!(super::names(&down), expected);
}

async fn a_change_moves_a_file_to_the_end_of_updated_at(service: &Service) {
    let client = service.client("acme");
    for name in ["a", "b", "c", "d"] {
        upload(&client, name, "", "x").await;
        service.clock.advance(Duration::from_secs(1));
    }
    rename(&client, "b", "b2").await;
    service.clock.advance(Duration::from_secs(1));
    let file = &page(&client, "name=a").await.items[0];
    let path = format!("/v1/files/{}/content", id(file));
    send(client.put(&path).body("other")).await.json(200);
    for limit in [1, 3, 4] {
        let up = items(&client, "sort=updated_at", limit).await;
        assert_eq!(super::names(&up), ["c", "d", "b2", "a"]);
        let created = items(&client, "sort=created_at", limit).await;
        assert_eq!(super::names(&created), ["a", "b2", "c", "d"]);
    }
}

async fn rename(client: &Client, name: &str, new: &str) {
    let file = &page(client, &format!("name={name}")).await.items[0];
    let path = format!("/v1/files/{}", id(file));
    let request = client.patch(&path).json(&json!({"name": new}));
    send(request).await.json(200);
}

async fn what_stays_is_shown_once_while_others_come_move_and_go(service: &Service) {
    let client = service.client("acme");
    for (round, sort) in SORTS.iter().enumerate() {
        // `k` stays; `m` is renamed, and `g` goes.
        for index in 0..12 {
            for kind in ["k", "m", "g"] {
                let name = format!("{round}/{index:02}{kind}");
                upload(&client, &name, "", &"x".repeat(index % 4)).await;
            }
            service.clock.advance(Duration::from_secs(1));
        }
        let query = format!("prefix={round}/&sort={sort}&limit=4");
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut next = String::new();
        let mut step = 0;
        loop {
            let page = page(&client, &format!("{query}{next}")).await;
            for name in super::names(&page.items) {
                *seen.entry(name).or_default() += 1;
            }
            let Some(cursor) = page.cursor else {
                break;
            };
            // Among what was shown and what was not yet, from both ends.
            for index in [step, 11 - step] {
                if step < 6 {
                    let name = format!("{round}/{index:02}");
                    rename(
                        &client,
                        &format!("{name}m"),
                        &format!("{round}/{}r", 99 - index),
                    )
                    .await;
                    remove(&client, &format!("{name}g")).await;
                    upload(&client, &format!("{name}new"), "", &"x".repeat(index % 4)).await;
                }
            }
            step += 1;
            service.clock.advance(Duration::from_secs(1));
            next = format!("&cursor={}", escape(&cursor));
            assert!(step < 50, "it does not end");
        }
        for index in 0..12 {
            let times = seen.get(&format!("{round}/{index:02}k"));
            assert_eq!(times, Some(&1), "{sort} {index} {seen:?}");
        }
        let repeated = seen.values().filter(|times| **times > 1).count();
        assert_eq!(repeated, 0, "{sort} {seen:?}");
    }
}

async fn remove(client: &Client, name: &str) {
    let file = &page(client, &format!("name={name}")).await.items[0];
    let path = format!("/v1/files/{}?permanent=true", id(file));
    assert_eq!(send(client.delete(&path)).await.status, 204);
}

async fn a_cursor_serves_its_own_sort_only(service: &Service) {
    let client = service.client("acme");
    for name in ["a", "b"] {
        upload(&client, name, "", "x").await;
    }
    for sort in SORTS {
        let first = page(&client, &format!("sort={sort}&limit=1")).await;
        let cursor = escape(&first.cursor.unwrap());
        for other in SORTS {
            let path = format!("/v1/files?sort={other}&cursor={cursor}");
            let answer = send(client.get(&path)).await;
            if other == sort {
                assert_eq!(answer.json(200)["items"].as_array().unwrap().len(), 1);
            } else {
                answer.invalid(&["/cursor"]);
            }
        }
    }
}
