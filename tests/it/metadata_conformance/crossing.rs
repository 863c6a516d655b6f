//! Pages whose filter has another index than their order, among so many files that each way of finding them
//! is gone: a page within the first look along the order, within a later one, and too far off for any, so that
//! the filter's own index has it.

use std::fmt::Write as _;

use box_service::clock::Timestamp;
use box_service::id::FileId;
use box_service::metadata::search::{ContentTypes, Filter, Page, Sort, SortBy};
use serde_json::json;

use super::lists::{behind, list};
use super::{Fixture, file_id};
use crate::harness::database::Kind;

conformance!(
    every_way_finds_the_same_pages,
    what_has_a_value_now_is_found_by_it,
    what_stays_is_found_once_while_others_go_and_move,
);

/// Twice as many as are looked at along the order before it is given up, and some.
const FILES: u64 = 62_000;

/// A row as [`fill`] makes it.
struct Row {
    id: FileId,
    name: String,
    size: u64,
    micros: i64,
    content_type: &'static str,
    kind: &'static str,
}

/// What a filter means.
type Fits = Box<dyn Fn(&Row) -> bool>;

/// Those that a list of the fixture's tenant has: of a hundred, one is in the trash, one has expired and one
/// is another tenant's.
fn rows() -> Vec<Row> {
    (0..FILES)
        .filter(|number| ![7, 9, 11].contains(&(number % 100)))
        .map(|number| Row {
            id: file_id(u128::from(number) + 1),
            name: name(number),
            size: number % 1_000,
            micros: (number * 7_919 % 62_003) as i64,
            content_type: match (number < 31_000, number % 3 == 0) {
                (true, true) => "near/y",
                (true, false) => "near/x",
                (false, true) => "far/y",
                (false, false) => "far/x",
            },
            kind: match number {
                _ if number % 10_000 == 5 => "few",
                61_900.. => "end",
                _ if number % 10 == 3 => "some",
                _ => "all",
            },
        })
        .collect()
}

/// When a row was made.
fn created(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + micros)
}

/// In one of twelve folders, or of forty, which are more than are read side by side, in one of three below no other, or
/// in none; and a few in one that begins as few of those in none do.
fn name(number: u64) -> String {
    match number % 4 {
        2 if number % 400 == 2 => format!("e519/{number:06}"),
        0 => format!("d/00/{:02}/{number:06}", number / 4 % 12),
        1 => format!("d/01/{:02}/{number:06}", number / 4 % 40),
        2 => format!("e{}/{number:06}", number / 4 % 3),
        _ => format!("e{number:05}"),
    }
}

/// Past the store, for one at a time would take long.
async fn fill(fixture: &Fixture) {
    let object = fixture.live().await;
    let mut hexadecimal = String::new();
    for byte in object.as_uuid().as_bytes() {
        let _ = write!(hexadecimal, "{byte:02x}");
    }
    let (id, object, name, created, past, metadata) = match fixture.kind {
        Kind::Sqlite => (
            "unhex(printf('%032x', i + 1))",
            format!("x'{hexadecimal}'"),
            "CASE i % 4 WHEN 0 THEN printf('d/00/%02d/%06d', i / 4 % 12, i)
                        WHEN 1 THEN printf('d/01/%02d/%06d', i / 4 % 40, i)
                        WHEN 2 THEN CASE WHEN i % 400 = 2 THEN printf('e519/%06d', i) ELSE printf('e%d/%06d', i / 4 % 3, i) END ELSE printf('e%05d', i) END",
            "1700000000000000 + i * 7919 % 62003",
            "1",
            "json_object('kind', kind)",
        ),
        Kind::Postgres => (
            "CAST(lpad(to_hex(i + 1), 32, '0') AS UUID)",
            format!("CAST('{hexadecimal}' AS UUID)"),
            "CASE i % 4 WHEN 0 THEN 'd/00/' || to_char(i / 4 % 12, 'FM00') || '/' || to_char(i, 'FM000000')
                        WHEN 1 THEN 'd/01/' || to_char(i / 4 % 40, 'FM00') || '/' || to_char(i, 'FM000000')
                        WHEN 2 THEN 'e' || CASE WHEN i % 400 = 2 THEN 519 ELSE i / 4 % 3 END || '/' || to_char(i, 'FM000000')
                        ELSE 'e' || to_char(i, 'FM00000') END",
            "TIMESTAMPTZ '2023-11-14 22:13:20Z' + i * 7919 % 62003 * INTERVAL '1 microsecond'",
            "TIMESTAMPTZ '2001-01-01Z'",
            "jsonb_build_object('kind', kind)",
        ),
    };
    let sql = format!(
        "INSERT INTO files (id, tenant, name, content_type, size, metadata, version, revision, object_id,
                            created_at, updated_at, expires_at, trashed_at, created_by)
         WITH RECURSIVE numbers (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < {FILES}),
              kinds (i, kind) AS (SELECT i, CASE WHEN i % 10000 = 5 THEN 'few' WHEN i >= 61900 THEN 'end'
                                                 WHEN i % 10 = 3 THEN 'some' ELSE 'all' END FROM numbers)
         SELECT {id}, CASE WHEN i % 100 = 11 THEN 'other' ELSE 'acme' END, {name},
                CASE WHEN i < 31000 THEN 'near/' ELSE 'far/' END || CASE i % 3 WHEN 0 THEN 'y' ELSE 'x' END,
                i % 1000, {metadata}, 1, 1, {object},
                {created}, {created}, CASE WHEN i % 100 = 7 THEN {past} END,
                CASE WHEN i % 100 = 9 THEN {past} END, 'ann'
         FROM kinds"
    );
    fixture.tamper(sql.leak()).await;
}

fn filter(fixture: &Fixture, set: impl Fn(&mut Filter)) -> Filter {
    let mut filter = Filter::new(fixture.tenant.clone(), super::at(0));
    set(&mut filter);
    filter
}

fn of_kind(fixture: &Fixture, kind: &str) -> Filter {
    let metadata = serde_json::from_value(json!({"kind": kind})).ok();
    filter(fixture, |filter| filter.metadata = metadata.clone())
}

fn of_type(fixture: &Fixture, exact: bool, kind: &str) -> Filter {
    filter(fixture, |filter| {
        filter.content_type = Some(if exact {
            ContentTypes::Exactly(format!("{kind}/x"))
        } else {
            ContentTypes::Kind(kind.to_owned())
        });
    })
}

async fn every_way_finds_the_same_pages(fixture: Fixture) {
    fill(&fixture).await;
    let mut filters: Vec<(Filter, Fits)> = Vec::new();
    for kind in ["few", "end", "some", "all", "none"] {
        let wanted = of_kind(&fixture, kind);
        filters.push((wanted, Box::new(move |row| row.kind == kind)));
    }
    for kind in ["near", "far"] {
        for exact in [false, true] {
            let wanted = of_type(&fixture, exact, kind);
            let fits = move |row: &Row| {
                row.content_type.starts_with(kind) && (!exact || row.content_type.ends_with('x'))
            };
            filters.push((wanted, Box::new(fits)));
        }
    }
    // Of a top folder, of few, of one, and of too many; and of a part of one, alone and beside others: half of it, less than
    // a page of what is looked at, with and without others behind it, none, and what begins like another.
    for prefix in [
        "d/",
        "d/00/",
        "d/00/03/",
        "d/01/",
        "none/",
        "d/00/0",
        "d/01/02/06",
        "d/01/02/0610",
        "d",
        "e",
        "e1",
        "e1/03",
        "e519",
        "e0519",
        "e30",
        "e9",
        "none",
        "d/none",
    ] {
        filters.push((
            filter(&fixture, |filter| filter.prefix = Some(prefix.to_owned())),
            Box::new(move |row| row.name.starts_with(prefix)),
        ));
    }
    // Of two classes, of one with an expired file and with none, of too many, of too few files, and of no class.
    for (min, max) in [
        (Some(150), Some(299)),
        (Some(210), Some(239)),
        (Some(900), None),
        (None, Some(99)),
        (Some(995), Some(997)),
        (Some(1_000), None),
    ] {
        let wanted = filter(&fixture, |filter| {
            (filter.min_size, filter.max_size) = (min, max);
        });
        let fits =
            move |row: &Row| (min.unwrap_or(0)..=max.unwrap_or(u64::MAX)).contains(&row.size);
        filters.push((wanted, Box::new(fits)));
    }
    // What the order's own index has as well.
    let some_time = |filter: Filter| Filter {
        created_after: Some(created(20_000)),
        created_before: Some(created(50_000)),
        ..filter
    };
    let in_time = |row: &Row| (20_000..50_000).contains(&row.micros);
    filters.push((
        some_time(filter(&fixture, |filter| {
            filter.prefix = Some("d/00/".to_owned())
        })),
        Box::new(move |row| row.name.starts_with("d/00/") && in_time(row)),
    ));
    filters.push((
        some_time(filter(&fixture, |filter| {
            filter.prefix = Some("e1".to_owned())
        })),
        Box::new(move |row| row.name.starts_with("e1") && in_time(row)),
    ));
    filters.push((
        some_time(filter(&fixture, |filter| filter.min_size = Some(800))),
        Box::new(move |row| row.size >= 800 && in_time(row)),
    ));
    filters.push((
        some_time(of_kind(&fixture, "some")),
        Box::new(move |row| row.kind == "some" && in_time(row)),
    ));
    filters.push((
        filter(&fixture, |filter| {
            filter.prefix = Some("d/01/02/".to_owned());
            filter.min_size = Some(100);
        }),
        Box::new(|row| row.name.starts_with("d/01/02/") && row.size >= 100),
    ));
    filters.push((
        Filter {
            min_size: Some(500),
            ..of_type(&fixture, false, "far")
        },
        Box::new(|row| row.size >= 500 && row.content_type.starts_with("far")),
    ));

    let mut rows = rows();
    for by in [SortBy::Name, SortBy::CreatedAt, SortBy::Size] {
        match by {
            SortBy::Name => rows.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id))),
            SortBy::Size => rows.sort_by_key(|row| (row.size, row.id)),
            _ => rows.sort_by_key(|row| (row.micros, row.id)),
        }
        for descending in [false, true] {
            let sort = Sort { by, descending };
            for (filter, fits) in &filters {
                let mut wanted: Vec<FileId> = (rows.iter())
                    .filter(|row| fits(row))
                    .map(|row| row.id)
                    .collect();
                if descending {
                    wanted.reverse();
                }
                some_pages(&fixture, filter, sort, &wanted).await;
            }
        }
    }
}

/// The first two pages, and the last ones behind a place near the end.
async fn some_pages(fixture: &Fixture, filter: &Filter, sort: Sort, wanted: &[FileId]) {
    for limit in [7, 101] {
        let mut page = Page {
            sort,
            after: None,
            limit,
        };
        let first = list(fixture, filter, &page).await;
        assert_eq!(ids(&first), part(wanted, 0, limit), "{sort:?} {filter:?}");
        let Some(last) = first.last() else {
            continue;
        };
        page.after = Some(behind(last, sort.by));
        let second = list(fixture, filter, &page).await;
        let place = limit as usize;
        assert_eq!(
            ids(&second),
            part(wanted, place, limit),
            "{sort:?} {filter:?}"
        );
        let place = wanted.len().saturating_sub(10);
        let mut reader = fixture.reader().await;
        let mut conn = reader.conn();
        let file = conn.file_get(&fixture.tenant, wanted[place]).await.unwrap();
        page.after = Some(behind(&file.unwrap(), sort.by));
        let last = conn.file_list(filter, &page).await.unwrap();
        let wanted = part(wanted, place + 1, limit);
        assert_eq!(ids(&last), wanted, "the last of {sort:?} {filter:?}");
    }
}

fn ids(files: &[box_service::metadata::files::File]) -> Vec<FileId> {
    files.iter().map(|file| file.id).collect()
}

fn part(wanted: &[FileId], from: usize, limit: u32) -> &[FileId] {
    let from = from.min(wanted.len());
    &wanted[from..wanted.len().min(from + limit as usize)]
}

async fn what_has_a_value_now_is_found_by_it(fixture: Fixture) {
    fill(&fixture).await;
    let sql = r#"
        UPDATE files SET metadata = '{"kind":"new","in":{"list":[1.0,"x",{"deep":true}],"none":null}}' WHERE size < 100;
        UPDATE files SET metadata = '{}' WHERE size BETWEEN 100 AND 199;
        DELETE FROM files WHERE size BETWEEN 200 AND 299"#;
    fixture.tamper(sql).await;
    let mut rows: Vec<Row> = (rows().into_iter())
        .filter(|row| !(100..300).contains(&row.size))
        .collect();
    rows.sort_by_key(|row| (row.micros, row.id));
    let new: Fits = Box::new(|row| row.size < 100);
    let some: Fits = Box::new(|row| row.size >= 100 && row.kind == "some");
    let all: Fits = Box::new(|row| row.size >= 100 && row.kind == "all");
    for (metadata, fits) in [
        (json!({"kind": "new"}), &new),
        (json!({"in": {"list": [1]}}), &new),
        (json!({"in": {"list": ["x", {"deep": true}]}}), &new),
        (json!({"in": {"none": null}}), &new),
        (
            json!({"in": {"list": [], "none": null}, "kind": "new"}),
            &new,
        ),
        (json!({"kind": "some"}), &some),
        (json!({"kind": "all"}), &all),
    ] {
        let metadata = serde_json::from_value(metadata).ok();
        let filter = filter(&fixture, |filter| filter.metadata = metadata.clone());
        for descending in [false, true] {
            let sort = Sort {
                by: SortBy::CreatedAt,
                descending,
            };
            let fitting = rows.iter().filter(|row| fits(row));
            let mut wanted: Vec<FileId> = fitting.map(|row| row.id).collect();
            if descending {
                wanted.reverse();
            }
            some_pages(&fixture, &filter, sort, &wanted).await;
        }
    }
}

async fn what_stays_is_found_once_while_others_go_and_move(fixture: Fixture) {
    fill(&fixture).await;
    for (kind, limit) in [("some", 997), ("end", 23), ("few", 2)] {
        let filter = of_kind(&fixture, kind);
        let of_kind: Vec<Row> = rows().into_iter().filter(|row| row.kind == kind).collect();
        let mut page = Page {
            sort: Sort {
                by: SortBy::Name,
                descending: true,
            },
            after: None,
            limit,
        };
        let mut seen = Vec::new();
        for step in 0.. {
            let files = list(&fixture, &filter, &page).await;
            let Some(last) = files.last() else {
                break;
            };
            page.after = Some(behind(last, SortBy::Name));
            seen.extend(ids(&files));
            // From both ends: among what was shown, and what was not yet.
            let mut sql = String::new();
            for index in [step * 10, (of_kind.len() - 1).saturating_sub(step * 10)] {
                for (index, change) in [
                    (index, "DELETE FROM files"),
                    (index + 1, "UPDATE files SET name = 'z' || name"),
                ] {
                    if let Some(row) = of_kind.get(index).filter(|_| step * 20 < of_kind.len()) {
                        let _ = write!(sql, "{change} WHERE name = '{}';", row.name);
                    }
                }
            }
            fixture.tamper(sql.leak()).await;
        }
        let moved_or_gone = |index: usize| {
            (0..of_kind.len().div_ceil(20)).any(|step| {
                let places = [step * 10, (of_kind.len() - 1).saturating_sub(step * 10)];
                places.iter().any(|at| index == *at || index == at + 1)
            })
        };
        for (index, row) in of_kind.iter().enumerate() {
            let times = seen.iter().filter(|id| **id == row.id).count();
            if !moved_or_gone(index) {
                assert_eq!(times, 1, "{kind} {}", row.name);
            }
        }
    }
}
