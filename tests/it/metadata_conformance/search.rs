//! What filters find: each alone, at its bounds, and together, in every order.

use box_service::clock::Timestamp;
use box_service::metadata::files::File;
use box_service::metadata::search::{ContentTypes, Filter, Page, Sort, SortBy};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::lists::{behind, by_name, filter, list, pages, walk};
use super::{Fixture, MICROSECOND, SHA256, at, tenant};

conformance!(
    files_are_listed_by_size,
    files_are_listed_by_their_last_change,
    a_kind_of_content_has_all_of_its_types_only,
    a_content_type_is_found_byte_for_byte,
    a_name_is_found_byte_for_byte,
    sizes_are_bounded_inclusively,
    times_are_bounded_from_and_before,
    a_last_change_is_bounded_in_every_order,
    a_digest_is_found,
    each_filter_works_alone,
    filters_work_together_in_every_order,
    a_place_outside_of_the_bounds_finds_nothing_else,
);

const SORTS: [SortBy; 4] = [
    SortBy::CreatedAt,
    SortBy::UpdatedAt,
    SortBy::Name,
    SortBy::Size,
];

async fn files_are_listed_by_size(fixture: Fixture) {
    let object = fixture.live().await;
    let mut files = Vec::new();
    for number in 1..=20_u128 {
        let mut file = fixture.file(number, object);
        file.size = [10, 9, i64::MAX as u64][number as usize % 3];
        files.push(file);
    }
    fixture.insert_all(&files).await;
    files.sort_by_key(|file| (file.size, file.id));
    pages(&fixture, SortBy::Size, files).await;
}

async fn files_are_listed_by_their_last_change(fixture: Fixture) {
    let object = fixture.live().await;
    let mut files = Vec::new();
    for number in 1..=20_u128 {
        let mut file = fixture.file(number, object);
        file.created_at = at(100 - number as i64);
        file.updated_at = at([7, -2_000_000_000, 8][number as usize % 3]);
        files.push(file);
    }
    fixture.insert_all(&files).await;
    files.sort_by_key(|file| (file.updated_at, file.id));
    pages(&fixture, SortBy::UpdatedAt, files).await;
}

/// Inserts a file for each value, and tells which values a filter finds, in the order of the values.
async fn found<T: Clone>(
    fixture: &Fixture,
    values: &[T],
    filters: &[Filter],
    set: impl Fn(&mut File, T),
) -> Vec<Vec<T>> {
    let object = fixture.live().await;
    let mut files = Vec::new();
    for (number, value) in (1..).zip(values) {
        let mut file = fixture.file(number, object);
        file.name = format!("{number:03}");
        set(&mut file, value.clone());
        files.push(file);
    }
    fixture.insert_all(&files).await;
    let mut found = Vec::new();
    for filter in filters {
        let mut files = list(fixture, filter, &by_name()).await;
        files.sort_by_key(|file| file.id);
        let number = |file: &File| file.id.as_uuid().as_u128() as usize - 1;
        found.push(
            files
                .iter()
                .map(|file| values[number(file)].clone())
                .collect(),
        );
    }
    found
}

const CONTENT_TYPES: [&str; 14] = [
    "image/png",
    "image/",
    "image",
    "image/x; charset=utf-8",
    "image/\u{10ffff}",
    "image0/png",
    "image.x/png",
    "image-x/png",
    "imagex/png",
    "imag/png",
    "Image/png",
    "image/PNG",
    "x-image/png",
    "text/plain",
];

async fn a_kind_of_content_has_all_of_its_types_only(fixture: Fixture) {
    let kinds = [
        "image", "imagex", "imag", "Image", "text", "i", "%", "image/",
    ];
    let filters = kinds.map(|kind| Filter {
        content_type: Some(ContentTypes::Kind(kind.to_owned())),
        ..filter(&fixture)
    });
    let found = found(&fixture, &CONTENT_TYPES, &filters, |file, content_type| {
        file.content_type = content_type.to_owned();
    });
    for (kind, found) in kinds.iter().zip(found.await) {
        let within = |content_type: &&str| content_type.starts_with(&format!("{kind}/"));
        let wanted: Vec<&str> = CONTENT_TYPES.into_iter().filter(within).collect();
        assert_eq!(found, wanted, "{kind}/*");
    }
}

async fn a_content_type_is_found_byte_for_byte(fixture: Fixture) {
    let wanted = ["image/png", "image/PNG", "image/", "image", "image/*", ""];
    let filters = wanted.map(|content_type| Filter {
        content_type: Some(ContentTypes::Exactly(content_type.to_owned())),
        ..filter(&fixture)
    });
    let found = found(&fixture, &CONTENT_TYPES, &filters, |file, content_type| {
        file.content_type = content_type.to_owned();
    });
    assert_eq!(
        found.await,
        [
            vec!["image/png"],
            vec!["image/PNG"],
            vec!["image/"],
            vec!["image"],
            vec![],
            vec![]
        ]
    );
}

async fn a_name_is_found_byte_for_byte(fixture: Fixture) {
    let names = [
        "a", "A", "a ", "a/b", "é", "e\u{301}", "a", "😀", "a%", "a_",
    ];
    let wanted = ["a", "é", "😀", "a%", "%", "a/", ""];
    let filters = wanted.map(|name| Filter {
        name: Some(name.to_owned()),
        ..filter(&fixture)
    });
    let found = found(&fixture, &names, &filters, |file, name| {
        file.name = name.to_owned();
    });
    assert_eq!(
        found.await,
        [
            vec!["a", "a"],
            vec!["é"],
            vec!["😀"],
            vec!["a%"],
            vec![],
            vec![],
            vec![]
        ]
    );
}

async fn sizes_are_bounded_inclusively(fixture: Fixture) {
    const MOST: u64 = i64::MAX as u64;
    let sizes = [0, 1, 5, 6, MOST - 1];
    let bounds = [
        (Some(0), None),
        (Some(1), None),
        (Some(5), Some(5)),
        (Some(6), Some(5)),
        (None, Some(0)),
        (None, Some(5)),
        (Some(2), Some(MOST - 1)),
        (None, Some(u64::MAX)),
        // More than any file has.
        (Some(MOST), None),
        (Some(u64::MAX), None),
    ];
    let filters = bounds.map(|(min_size, max_size)| Filter {
        min_size,
        max_size,
        ..filter(&fixture)
    });
    let found = found(&fixture, &sizes, &filters, |file, size| file.size = size);
    for ((min, max), found) in bounds.into_iter().zip(found.await) {
        let within = |size: &u64| min.is_none_or(|m| m <= *size) && max.is_none_or(|m| *size <= m);
        let wanted: Vec<u64> = sizes.into_iter().filter(within).collect();
        assert_eq!(found, wanted, "{min:?} to {max:?}");
    }
}

async fn times_are_bounded_from_and_before(fixture: Fixture) {
    let times = [
        at(10).minus(MICROSECOND),
        at(10),
        at(10).plus(MICROSECOND),
        at(20).minus(MICROSECOND),
        at(20),
        Timestamp::from_micros(-1),
    ];
    let bounds = [
        (Some(at(10)), None),
        (None, Some(at(10))),
        (Some(at(10)), Some(at(20))),
        (Some(at(20)), Some(at(20))),
        (Some(at(21)), None),
        (None, Some(Timestamp::from_micros(0))),
        // Past the calendar.
        (Some(Timestamp::from_micros(i64::MIN)), None),
        (None, Some(Timestamp::from_micros(i64::MAX))),
        (Some(Timestamp::from_micros(i64::MAX)), None),
    ];
    let filters = bounds.map(|(created_after, created_before)| Filter {
        created_after,
        created_before,
        ..filter(&fixture)
    });
    let found = found(&fixture, &times, &filters, |file, time| {
        file.created_at = time;
    });
    for ((after, before), found) in bounds.into_iter().zip(found.await) {
        let within = |time: &Timestamp| {
            after.is_none_or(|after| after <= *time) && before.is_none_or(|before| *time < before)
        };
        let wanted: Vec<Timestamp> = times.into_iter().filter(within).collect();
        assert_eq!(found, wanted, "{after:?} to {before:?}");
    }
}

async fn a_last_change_is_bounded_in_every_order(fixture: Fixture) {
    let object = fixture.live().await;
    let mut files = Vec::new();
    for number in 1..=12_u128 {
        let mut file = fixture.file(number, object);
        file.updated_at = at([30, 20, 10][number as usize % 3]);
        file.size = number as u64 % 5;
        files.push(file);
    }
    fixture.insert_all(&files).await;
    files.retain(|file| file.updated_at < at(30));
    let filter = Filter {
        updated_before: Some(at(30)),
        ..filter(&fixture)
    };
    for by in SORTS {
        for descending in [false, true] {
            let sort = Sort { by, descending };
            // Of one at a time, so that each page begins somewhere else.
            let mut found = walk(&fixture, &filter, sort, 1).await;
            found.sort_by_key(|file| file.id);
            assert_eq!(found, files, "{sort:?}");
        }
    }
}

async fn a_digest_is_found(fixture: Fixture) {
    let mut near = SHA256;
    near[31] += 1;
    let digests = [Some(SHA256), Some(near), None, Some(SHA256)];
    let filters = [SHA256, near, [0; 32]].map(|sha256| Filter {
        sha256: Some(sha256),
        ..filter(&fixture)
    });
    let found = found(&fixture, &digests, &filters, |file, sha256| {
        file.sha256 = sha256;
    });
    assert_eq!(
        found.await,
        [vec![Some(SHA256), Some(SHA256)], vec![Some(near)], vec![]]
    );
}

/// Files that differ in all that can be asked for.
async fn catalogue(fixture: &Fixture) -> Vec<File> {
    let object = fixture.live().await;
    let mut random = StdRng::seed_from_u64(3);
    let mut files = Vec::new();
    for number in 1..=120 {
        let mut file = fixture.file(number, object);
        let mut pick = |of: usize| random.random_range(0..of);
        file.name = ["a", "a/b", "a/c", "b/a", "名/a", "a"][pick(6)].to_owned();
        file.content_type = ["image/png", "image/gif", "imagex/png"][pick(3)].to_owned();
        file.size = [0, 5, 6][pick(3)];
        file.created_at = at([10, 20, 30][pick(3)]);
        file.updated_at = at([40, 50][pick(2)]);
        file.sha256 = [None, Some([1; 32]), Some([2; 32])][pick(3)];
        file.expires_at = [None, None, Some(at(0)), Some(at(99))][pick(4)];
        file.trashed_at = [None, None, Some(at(60))][pick(3)];
        file.tenant = tenant(["acme", "acme", "acme", "Acme"][pick(4)]);
        let metadata = [json!({}), json!({"a": 1}), json!({"a": 1, "b": [2]})];
        file.metadata = serde_json::from_value(metadata[pick(3)].clone()).unwrap();
        files.push(file);
    }
    fixture.insert_all(&files).await;
    files
}

/// What the filters of a file mean.
fn is_chosen(filter: &Filter, file: &File) -> bool {
    let content_type = filter.content_type.as_ref();
    let metadata = filter.metadata.as_ref();
    file.tenant == filter.tenant
        && file.trashed_at.is_some() == filter.trashed
        && !file.has_expired(filter.now)
        && (filter.prefix.as_ref()).is_none_or(|prefix| file.name.starts_with(prefix))
        && filter.name.as_ref().is_none_or(|name| file.name == *name)
        && content_type.is_none_or(|content_type| match content_type {
            ContentTypes::Exactly(whole) => file.content_type == *whole,
            ContentTypes::Kind(kind) => file.content_type.split('/').next() == Some(kind),
        })
        // What is asked for here has one level: see `containment` for more.
        && metadata.is_none_or(|wanted| {
            (wanted.iter()).all(|(name, value)| file.metadata.get(name) == Some(value))
        })
        && filter.min_size.is_none_or(|size| file.size >= size)
        && filter.max_size.is_none_or(|size| file.size <= size)
        && filter.created_after.is_none_or(|at| file.created_at >= at)
        && filter.created_before.is_none_or(|at| file.created_at < at)
        && (filter.sha256).is_none_or(|sha256| file.sha256 == Some(sha256))
}

fn chosen(filter: &Filter, files: &[File], sort: Sort) -> Vec<File> {
    let mut chosen: Vec<File> = (files.iter())
        .filter(|file| is_chosen(filter, file))
        .cloned()
        .collect();
    match sort.by {
        SortBy::CreatedAt => chosen.sort_by_key(|file| (file.created_at, file.id)),
        SortBy::UpdatedAt => chosen.sort_by_key(|file| (file.updated_at, file.id)),
        SortBy::Name => chosen.sort_by_key(|file| (file.name.clone(), file.id)),
        SortBy::Size => chosen.sort_by_key(|file| (file.size, file.id)),
    }
    if sort.descending {
        chosen.reverse();
    }
    chosen
}

type Set = Box<dyn Fn(&mut Filter)>;

/// One of each filter, with a value that some files have and some do not.
fn filters() -> Vec<Set> {
    fn set(set: impl Fn(&mut Filter) + 'static) -> Set {
        Box::new(set)
    }
    vec![
        set(|filter| filter.trashed = true),
        set(|filter| filter.now = at(99)),
        set(|filter| filter.prefix = Some("a/".to_owned())),
        set(|filter| filter.prefix = Some(String::new())),
        set(|filter| filter.name = Some("a".to_owned())),
        set(|filter| filter.content_type = Some(ContentTypes::Exactly("image/gif".to_owned()))),
        set(|filter| filter.content_type = Some(ContentTypes::Kind("image".to_owned()))),
        set(|filter| filter.metadata = serde_json::from_value(json!({"a": 1})).ok()),
        set(|filter| filter.metadata = serde_json::from_value(json!({"b": [2]})).ok()),
        set(|filter| filter.metadata = serde_json::from_value(json!({})).ok()),
        set(|filter| filter.min_size = Some(5)),
        set(|filter| filter.max_size = Some(5)),
        set(|filter| filter.created_after = Some(at(20))),
        set(|filter| filter.created_before = Some(at(30))),
        set(|filter| filter.sha256 = Some([1; 32])),
    ]
}

async fn each_filter_works_alone(fixture: Fixture) {
    let files = catalogue(&fixture).await;
    for set in filters() {
        let mut filter = Filter::new(fixture.tenant.clone(), at(0));
        set(&mut filter);
        for by in SORTS {
            for descending in [false, true] {
                let sort = Sort { by, descending };
                let wanted = chosen(&filter, &files, sort);
                assert!(!wanted.is_empty() && wanted.len() < files.len());
                let found = walk(&fixture, &filter, sort, 7).await;
                assert_eq!(found, wanted, "{sort:?} {filter:?}");
            }
        }
    }
}

async fn filters_work_together_in_every_order(fixture: Fixture) {
    let files = catalogue(&fixture).await;
    let all = filters();
    let mut random = StdRng::seed_from_u64(5);
    let mut some = 0;
    for _ in 0..200 {
        let mut filter = Filter::new(fixture.tenant.clone(), at(0));
        let count = random.random_range(2..=5);
        for set in all.sample(&mut random, count) {
            set(&mut filter);
        }
        let sort = Sort {
            by: SORTS[random.random_range(0..SORTS.len())],
            descending: random.random(),
        };
        let wanted = chosen(&filter, &files, sort);
        some += usize::from(!wanted.is_empty());
        let found = walk(&fixture, &filter, sort, random.random_range(1..=9)).await;
        assert_eq!(found, wanted, "{sort:?} {filter:?}");
    }
    assert!(some > 50, "{some}");
    // All there are at once find a file that has all they ask for.
    let mut filter = Filter::new(fixture.tenant.clone(), at(0));
    for set in &all {
        set(&mut filter);
    }
    let mut file = files[0].clone();
    file.id = super::file_id(1000);
    file.tenant = fixture.tenant.clone();
    file.name = "a".to_owned();
    filter.prefix = Some("a".to_owned());
    file.content_type = "image/gif".to_owned();
    file.metadata = serde_json::from_value(json!({"a": 1, "b": [2]})).unwrap();
    filter.metadata = Some(file.metadata.clone());
    file.size = 5;
    file.created_at = at(20);
    file.sha256 = Some([1; 32]);
    file.expires_at = Some(at(100));
    file.trashed_at = Some(at(60));
    fixture.insert(&file).await;
    for by in SORTS {
        for descending in [false, true] {
            let sort = Sort { by, descending };
            assert_eq!(walk(&fixture, &filter, sort, 1).await, [file.clone()]);
        }
    }
}

/// A cursor goes with an order, and not with filters: it may come from a list with others.
async fn a_place_outside_of_the_bounds_finds_nothing_else(fixture: Fixture) {
    let files = catalogue(&fixture).await;
    let all = filter(&fixture);
    let named = Filter {
        prefix: Some("a/".to_owned()),
        ..all.clone()
    };
    let sized = Filter {
        min_size: Some(5),
        max_size: Some(5),
        ..all.clone()
    };
    let timed = Filter {
        created_after: Some(at(20)),
        created_before: Some(at(30)),
        ..all.clone()
    };
    for (filter, by) in [
        (named, SortBy::Name),
        (sized, SortBy::Size),
        (timed, SortBy::CreatedAt),
    ] {
        for descending in [false, true] {
            let sort = Sort { by, descending };
            let all = chosen(&all, &files, sort);
            assert!(!chosen(&filter, &files, sort).is_empty());
            for (place, file) in all.iter().enumerate() {
                let page = Page {
                    sort,
                    after: Some(behind(file, by)),
                    limit: 1000,
                };
                let wanted = chosen(&filter, &all[place + 1..], sort);
                assert_eq!(list(&fixture, &filter, &page).await, wanted, "{page:?}");
            }
        }
    }
}
