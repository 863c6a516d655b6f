//! Folders: what lies directly below a prefix, compared with a plain grouping of all names.

use box_service::metadata::files::File;
use box_service::metadata::search::{After, ContentTypes, Entry, Filter, SortKey, What};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::lists::filter;
use super::{Fixture, at, file_id, tenant};

conformance!(
    folders_of_adversarial_names_are_those_of_the_model,
    folders_of_random_names_are_those_of_the_model,
    folders_have_what_the_filters_leave,
    the_trash_has_folders_of_its_own,
    a_folder_is_told_once_though_files_come_and_go,
    a_place_outside_of_the_prefix_finds_nothing_else,
    names_at_the_end_of_the_order_are_found,
);

/// A file or a folder, for a comparison that is easy to read.
type Told = (&'static str, String, u128);

fn tell(entry: &Entry) -> Told {
    match &entry.what {
        What::File(file) => ("file", file.name.clone(), file.id.as_uuid().as_u128()),
        What::Folder(name) => ("folder", name.clone(), 0),
    }
}

/// Every name behind the prefix up to its next slash, each once, in order.
fn model(files: &[File], prefix: &str, descending: bool) -> Vec<Told> {
    let mut files: Vec<&File> = (files.iter())
        .filter(|file| file.name.starts_with(prefix))
        .collect();
    files.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    let mut told: Vec<Told> = (files.into_iter())
        .map(|file| match file.name[prefix.len()..].find('/') {
            Some(slash) => ("folder", file.name[..=prefix.len() + slash].to_owned(), 0),
            None => ("file", file.name.clone(), file.id.as_uuid().as_u128()),
        })
        .collect();
    told.dedup();
    if descending {
        told.reverse();
    }
    told
}

async fn entries(
    fixture: &Fixture,
    filter: &Filter,
    descending: bool,
    after: Option<&After>,
    limit: u32,
) -> Vec<Entry> {
    let mut reader = fixture.reader().await;
    let entries = reader
        .conn()
        .file_list_folder(filter, descending, after, limit)
        .await
        .unwrap();
    assert!(entries.len() <= limit as usize);
    entries
}

/// Page behind page, until one is not full.
async fn walk(fixture: &Fixture, filter: &Filter, descending: bool, limit: u32) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    loop {
        let after = found.last().map(|entry| entry.after.clone());
        let page = entries(fixture, filter, descending, after.as_ref(), limit).await;
        let full = page.len() == limit as usize;
        found.extend(page);
        if !full {
            return found;
        }
    }
}

/// Both directions, in pages of the given lengths and of all that there is.
async fn compare(
    fixture: &Fixture,
    files: &[File],
    filter: &Filter,
    limits: impl Fn(u32) -> Vec<u32>,
) {
    let prefix = filter.prefix.as_deref().unwrap_or_default();
    for descending in [false, true] {
        let wanted = model(files, prefix, descending);
        for limit in limits(wanted.len() as u32 + 1) {
            let found = walk(fixture, filter, descending, limit).await;
            let told: Vec<Told> = found.iter().map(tell).collect();
            assert_eq!(
                told, wanted,
                "below {prefix:?}, by {limit}, descending: {descending}"
            );
            for entry in found {
                if let What::File(file) = entry.what {
                    assert!(files.contains(&file), "{file:?}");
                }
            }
        }
    }
}

fn below(fixture: &Fixture, prefix: &str) -> Filter {
    Filter {
        prefix: Some(prefix.to_owned()),
        ..filter(fixture)
    }
}

/// A file for each name.
async fn insert(fixture: &Fixture, names: impl IntoIterator<Item = String>) -> Vec<File> {
    let object = fixture.live().await;
    let mut files = Vec::new();
    for (number, name) in (1..).zip(names) {
        let mut file = fixture.file(number, object);
        file.name = name;
        files.push(file);
    }
    fixture.insert_all(&files).await;
    files
}

/// What would be in a list if it were not for one thing, in folders of their own and in others'.
async fn insert_strangers(fixture: &Fixture) {
    let object = fixture.live().await;
    let mut strangers = Vec::new();
    for (number, name) in (1000..).zip(["a", "a/a", "a/new", "a/new/x", "new/x", "é/new/x", "zz"])
    {
        let mut trashed = fixture.file(number, object);
        trashed.name = name.to_owned();
        let mut expired = trashed.clone();
        let mut of_another = trashed.clone();
        trashed.trashed_at = Some(at(1));
        expired.expires_at = Some(at(0));
        expired.id = file_id(number + 100);
        of_another.tenant = tenant("Acme");
        of_another.id = file_id(number + 200);
        strangers.extend([trashed, expired, of_another]);
    }
    fixture.insert_all(&strangers).await;
}

/// Around the slash: `-` and `.` sort before it, `0` right behind it.
const NAMES: [&str; 44] = [
    "a",
    "a",
    "a!",
    "a-b",
    "a-/b",
    "a.",
    "a./b",
    "a.b/c",
    "a/!",
    "a/a",
    "a/a",
    "a/a",
    "a/b",
    "a/b-",
    "a/b./c",
    "a/b/c",
    "a/b/c",
    "a/b/c/d",
    "a/b/d/e/f",
    "a/b0",
    "a/b0/c",
    "a/bc",
    "a/bc/d",
    "a/\u{10ffff}",
    "a/\u{10ffff}/x",
    "a0",
    "a0",
    "a0/b",
    "aa/b",
    "A/b",
    "b/c/d/e",
    "%/x",
    "_/x",
    "a b/c",
    "é",
    "é/x",
    "é/é/x",
    "é0/x",
    "e\u{301}/x",
    "名/前/x",
    "名/前0",
    "😀/😀/😀",
    "\u{d7ff}/x",
    "\u{e000}/x",
];

async fn folders_of_adversarial_names_are_those_of_the_model(fixture: Fixture) {
    let files = insert(&fixture, NAMES.map(str::to_owned)).await;
    insert_strangers(&fixture).await;
    // The whole, in pages of every length.
    compare(&fixture, &files, &filter(&fixture), |most| {
        (1..=most).collect()
    })
    .await;
    let prefixes = [
        "",
        "a",
        "a/",
        "a/b",
        "a/b/",
        "a/b/c",
        "a/b/c/",
        "a/b0",
        "a0/",
        "a-",
        "a.",
        "A",
        "%",
        "_",
        "é",
        "é/",
        "e",
        "名",
        "名/",
        "名/前",
        "😀/😀/",
        "a/\u{10ffff}",
        "a/\u{10ffff}/",
        "\u{d7ff}",
        "\u{d7ff}/",
        "/",
        "new/",
        "zz",
        "b/c/d/e/",
    ];
    for prefix in prefixes {
        compare(&fixture, &files, &below(&fixture, prefix), |most| {
            if prefix == "a/" {
                (1..=most).collect()
            } else {
                vec![1, 2, most]
            }
        })
        .await;
    }
}

async fn folders_of_random_names_are_those_of_the_model(fixture: Fixture) {
    const SEGMENTS: [&str; 8] = ["a", "b", "a0", "a-", "é", "😀", "ab", "\u{10ffff}"];
    insert_strangers(&fixture).await;
    let mut random = StdRng::seed_from_u64(13);
    for round in 0..6_u128 {
        // Each in a tenant of its own.
        let object = fixture.live().await;
        let mut files = Vec::new();
        for number in 1..=40 {
            let mut file = fixture.file(round * 100 + number + 10_000, object);
            file.tenant = tenant(&format!("tenant{round}"));
            let segments: Vec<&str> = (0..random.random_range(1..=4))
                .map(|_| SEGMENTS[random.random_range(0..SEGMENTS.len())])
                .collect();
            file.name = segments.join("/");
            files.push(file);
        }
        fixture.insert_all(&files).await;
        let mut prefixes = vec![String::new()];
        for _ in 0..4 {
            let name = &files[random.random_range(0..files.len())].name;
            let length = random.random_range(1..=name.chars().count());
            prefixes.push(name.chars().take(length).collect());
        }
        for prefix in prefixes {
            let filter = Filter {
                prefix: Some(prefix),
                ..Filter::new(tenant(&format!("tenant{round}")), at(0))
            };
            compare(&fixture, &files, &filter, |most| {
                (1..=4).chain([most - 1, most]).filter(|l| *l > 0).collect()
            })
            .await;
        }
    }
}

type Kept<'a> = &'a dyn Fn(&File) -> bool;

async fn folders_have_what_the_filters_leave(fixture: Fixture) {
    let object = fixture.live().await;
    let mut files = Vec::new();
    for (number, name) in (1..).zip(NAMES) {
        let mut file = fixture.file(number, object);
        file.name = name.to_owned();
        file.size = number as u64 % 3;
        if number % 2 == 0 {
            file.content_type = "image/png".to_owned();
        }
        if number % 5 < 3 {
            file.metadata.insert("a".to_owned(), json!([1]));
        }
        files.push(file);
    }
    fixture.insert_all(&files).await;
    for prefix in ["", "a", "a/", "é/"] {
        let all = below(&fixture, prefix);
        let images = Filter {
            content_type: Some(ContentTypes::Kind("image".to_owned())),
            ..all.clone()
        };
        let described = Filter {
            metadata: serde_json::from_value(json!({"a": [1]})).ok(),
            ..all.clone()
        };
        let both = Filter {
            content_type: images.content_type.clone(),
            min_size: Some(1),
            max_size: Some(1),
            ..described.clone()
        };
        let one = Filter {
            name: Some("a/a".to_owned()),
            ..all.clone()
        };
        let is_image = |file: &File| file.content_type == "image/png";
        let is_described = |file: &File| !file.metadata.is_empty();
        let cases: [(Filter, Kept<'_>); 5] = [
            (all, &|_| true),
            (images, &is_image),
            (described, &is_described),
            (both, &|file| {
                is_image(file) && is_described(file) && file.size == 1
            }),
            (one, &|file| file.name == "a/a"),
        ];
        for (filter, is_left) in cases {
            let left: Vec<File> = (files.iter())
                .filter(|file| is_left(file))
                .cloned()
                .collect();
            compare(&fixture, &left, &filter, |most| vec![1, 3, most]).await;
        }
    }
}

async fn the_trash_has_folders_of_its_own(fixture: Fixture) {
    insert(&fixture, ["a/kept", "kept"].map(str::to_owned)).await;
    let object = fixture.live().await;
    let mut files = Vec::new();
    for (number, name) in (100..).zip(NAMES) {
        let mut file = fixture.file(number, object);
        file.name = name.to_owned();
        file.trashed_at = Some(at(1));
        files.push(file);
    }
    fixture.insert_all(&files).await;
    for prefix in ["", "a/", "a/b"] {
        let filter = Filter {
            trashed: true,
            ..below(&fixture, prefix)
        };
        compare(&fixture, &files, &filter, |most| vec![1, 3, most]).await;
    }
}

async fn a_folder_is_told_once_though_files_come_and_go(fixture: Fixture) {
    let names = ["a", "b/m", "c", "d/m", "e"].map(str::to_owned);
    let files = insert(&fixture, names).await;
    for (round, descending) in (0..).zip([false, true]) {
        let mut told = Vec::new();
        let mut after: Option<After> = None;
        loop {
            let filter = filter(&fixture);
            let page = entries(&fixture, &filter, descending, after.as_ref(), 1).await;
            let Some(entry) = page.into_iter().next() else {
                break;
            };
            let (_, name, _) = tell(&entry);
            // Others come into the folder just told, on both sides; a file just told goes.
            if let What::File(file) = &entry.what {
                let id = file.id;
                let deleted = change!(fixture.metadata, tenant("acme"), |tx, tenant| tx
                    .file_delete(tenant, id));
                deleted.await.unwrap();
            } else {
                for (number, other) in (1..).zip(["!", "z", "z/z", "\u{10ffff}"]) {
                    let number = 1000 + 100 * round + 10 * told.len() as u128 + number;
                    let mut file = fixture.file(number, files[0].object_id);
                    file.name = format!("{name}{other}");
                    fixture.insert(&file).await;
                }
            }
            told.push(name);
            after = Some(entry.after);
        }
        let mut wanted = vec!["a", "b/", "c", "d/", "e"];
        if descending {
            wanted.reverse();
        }
        assert_eq!(told, wanted);
        // As before, for the other direction.
        for file in &files {
            if fixture.get(file.id).await.is_none() {
                fixture.insert(file).await;
            }
        }
    }
}

async fn a_place_outside_of_the_prefix_finds_nothing_else(fixture: Fixture) {
    let files = insert(&fixture, NAMES.map(str::to_owned)).await;
    let filter = below(&fixture, "a/");
    for descending in [false, true] {
        for (name, all) in [("", !descending), ("z", descending)] {
            let place = After {
                key: SortKey::Name(name.to_owned()),
                id: file_id(7),
            };
            let found = entries(&fixture, &filter, descending, Some(&place), 100).await;
            let told: Vec<Told> = found.iter().map(tell).collect();
            if all {
                assert_eq!(told, model(&files, "a/", descending));
            } else {
                assert_eq!(told, []);
            }
        }
    }
}

/// The longest name of the last character, and a prefix behind which no text sorts.
async fn names_at_the_end_of_the_order_are_found(fixture: Fixture) {
    let last = |count: usize| "\u{10ffff}".repeat(count);
    let names = [
        last(256),
        last(255),
        format!("{}/x", last(255)),
        format!("{}/{}", last(1), last(200)),
        last(1),
        "a".to_owned(),
    ];
    let files = insert(&fixture, names).await;
    for prefix in [
        String::new(),
        last(1),
        format!("{}/", last(1)),
        last(255),
        last(256),
    ] {
        compare(&fixture, &files, &below(&fixture, &prefix), |most| {
            vec![1, 2, most]
        })
        .await;
    }
}
