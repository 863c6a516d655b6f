//! Lists of files: by tenant, prefix and trash, in order, by keyset.

use box_service::metadata::files::File;
use box_service::metadata::search::{After, Filter, Page, Sort, SortBy, SortKey};
use sqlx::{Connection, PgConnection};

use super::{Fixture, MICROSECOND, at, tenant};
use crate::harness::database::Kind;

conformance!(
    names_sort_by_bytes,
    files_are_listed_by_name,
    files_are_listed_by_creation,
    files_of_another_tenant_are_not_listed,
    a_prefix_is_taken_literally,
    a_prefix_goes_with_pages,
    the_trash_is_listed_apart,
    a_file_whose_time_has_come_is_not_listed,
);

/// In no order. Where an order by language, by UTF-16 or without case would differ from that of bytes.
const NAMES: [&str; 30] = [
    "b",
    "a",
    "B",
    "A",
    "Z",
    "_",
    "%",
    "a%",
    "a_b",
    "aXb",
    "a%b",
    "a b",
    "a-b",
    "ab",
    "a/b",
    "a/\u{d7ff}",
    "a/\u{d7ff}x",
    "a/\u{e000}",
    "a/\u{10ffff}",
    "a/\u{10ffff}\u{10ffff}x",
    "a0",
    "é",
    "É",
    "e\u{301}",
    "ß",
    "\u{d7ff}",
    "\u{e000}",
    "\u{ffff}",
    "😀",
    "\u{10ffff}",
];

async fn insert_names(fixture: &Fixture) -> Vec<File> {
    let object = fixture.live().await;
    let mut files = Vec::new();
    for (number, name) in (1..).zip(NAMES) {
        let mut file = fixture.file(number, object);
        file.name = name.to_owned();
        fixture.insert(&file).await;
        files.push(file);
    }
    files
}

async fn names_sort_by_bytes(fixture: Fixture) {
    insert_names(&fixture).await;
    let mut wanted = NAMES.map(str::to_owned);
    wanted.sort();
    let files = list(&fixture, &filter(&fixture), &by_name()).await;
    let found: Vec<String> = files.into_iter().map(|file| file.name).collect();
    assert_eq!(found, wanted);
    if fixture.kind == Kind::Postgres {
        // Whatever the database's own order is: the test's might be this one by chance.
        let mut conn = PgConnection::connect(fixture.database.url()).await.unwrap();
        let collation: Option<String> = sqlx::query_scalar(
            "SELECT collation_name::text FROM information_schema.columns
             WHERE table_name = 'files' AND column_name = 'name'",
        )
        .fetch_one(&mut conn)
        .await
        .unwrap();
        assert_eq!(collation.as_deref(), Some("C"));
    }
}

async fn files_are_listed_by_name(fixture: Fixture) {
    let object = fixture.live().await;
    let mut files = Vec::new();
    for number in 1..=20 {
        let mut file = fixture.file(number, object);
        // Seven each of three names, and pages that end among them.
        file.name = ["b", "B", "a"][number as usize % 3].to_owned();
        fixture.insert(&file).await;
        files.push(file);
    }
    files.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    pages(&fixture, SortBy::Name, files).await;
}

async fn files_are_listed_by_creation(fixture: Fixture) {
    let object = fixture.live().await;
    let mut files = Vec::new();
    for number in 1..=20 {
        let mut file = fixture.file(number, object);
        let seconds = [7, -2_000_000_000, 7][number as usize % 3];
        file.created_at = at(seconds);
        fixture.insert(&file).await;
        files.push(file);
    }
    files.sort_by_key(|file| (file.created_at, file.id));
    pages(&fixture, SortBy::CreatedAt, files).await;
}

/// Both directions, in pages of several lengths, give what is wanted.
pub(super) async fn pages(fixture: &Fixture, by: SortBy, mut wanted: Vec<File>) {
    for descending in [false, true] {
        for limit in [1, 3, 20, 1000] {
            let sort = Sort { by, descending };
            let found = walk(fixture, &filter(fixture), sort, limit).await;
            assert_eq!(found, wanted, "{sort:?} by {limit}");
        }
        wanted.reverse();
    }
}

async fn files_of_another_tenant_are_not_listed(fixture: Fixture) {
    let object = fixture.live().await;
    let mine = fixture.file(2, object);
    fixture.insert(&mine).await;
    for (number, name) in [(1, "other"), (3, "Acme"), (4, "acme2")] {
        let mut file = fixture.file(number, object);
        file.tenant = tenant(name);
        fixture.insert(&file).await;
    }
    for by in [SortBy::CreatedAt, SortBy::Name] {
        pages(&fixture, by, vec![mine.clone()]).await;
    }
}

async fn a_prefix_is_taken_literally(fixture: Fixture) {
    let mut files = insert_names(&fixture).await;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let firsts = NAMES
        .iter()
        .map(|name| &name[..name.chars().next().unwrap().len_utf8()]);
    let others = [
        "",
        "a/",
        "e",
        "aB",
        "c",
        "\u{10ffff}\u{10ffff}",
        "a/\u{10ffff}\u{10ffff}",
    ];
    for prefix in NAMES.into_iter().chain(firsts).chain(others) {
        let wanted: Vec<&str> = files
            .iter()
            .map(|file| file.name.as_str())
            .filter(|name| name.starts_with(prefix))
            .collect();
        let filter = Filter {
            prefix: Some(prefix.to_owned()),
            ..filter(&fixture)
        };
        let found = list(&fixture, &filter, &by_name()).await;
        let found: Vec<&str> = found.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(found, wanted, "behind {prefix:?}");
    }
}

async fn a_prefix_goes_with_pages(fixture: Fixture) {
    let files = insert_names(&fixture).await;
    let mut wanted: Vec<File> = files
        .into_iter()
        .filter(|file| file.name.starts_with('a'))
        .collect();
    for by in [SortBy::Name, SortBy::CreatedAt] {
        match by {
            SortBy::Name => wanted.sort_by(|a, b| a.name.cmp(&b.name)),
            // All were created at once: the id decides.
            _ => wanted.sort_by_key(|file| file.id),
        }
        for descending in [false, true] {
            let filter = Filter {
                prefix: Some("a".to_owned()),
                ..filter(&fixture)
            };
            let sort = Sort { by, descending };
            assert_eq!(walk(&fixture, &filter, sort, 2).await, wanted);
            wanted.reverse();
        }
    }
}

async fn the_trash_is_listed_apart(fixture: Fixture) {
    let object = fixture.live().await;
    let mut kept = Vec::new();
    let mut trashed = Vec::new();
    for number in 1..=6 {
        let mut file = fixture.file(number, object);
        if number % 2 == 0 {
            file.trashed_at = Some(at(30));
            trashed.push(file.clone());
        } else {
            kept.push(file.clone());
        }
        fixture.insert(&file).await;
    }
    for (in_trash, wanted) in [(false, kept), (true, trashed)] {
        for by in [SortBy::Name, SortBy::CreatedAt] {
            let filter = Filter {
                trashed: in_trash,
                ..filter(&fixture)
            };
            let sort = Sort {
                by,
                descending: false,
            };
            assert_eq!(walk(&fixture, &filter, sort, 2).await, wanted);
        }
    }
}

async fn a_file_whose_time_has_come_is_not_listed(fixture: Fixture) {
    let object = fixture.live().await;
    let expires_at = [
        Some(at(50)),
        Some(at(50).plus(MICROSECOND)),
        None,
        Some(at(49)),
        Some(at(90)),
    ];
    for trashed in [false, true] {
        let mut wanted = Vec::new();
        for (number, expires_at) in (1..).zip(expires_at) {
            let mut file = fixture.file(number + 10 * u128::from(trashed), object);
            file.expires_at = expires_at;
            file.trashed_at = trashed.then_some(at(30));
            fixture.insert(&file).await;
            // What a look at one file says, the list says too, also before the sweep has come by.
            if !file.has_expired(at(50)) {
                wanted.push(file);
            }
        }
        assert_eq!(wanted.len(), 3);
        for by in [SortBy::Name, SortBy::CreatedAt] {
            for descending in [false, true] {
                let filter = Filter {
                    trashed,
                    now: at(50),
                    ..filter(&fixture)
                };
                let sort = Sort { by, descending };
                assert_eq!(walk(&fixture, &filter, sort, 2).await, wanted);
                wanted.reverse();
            }
        }
    }
}

/// All of the fixture's tenant that is not in the trash.
pub(super) fn filter(fixture: &Fixture) -> Filter {
    Filter::new(fixture.tenant.clone(), at(0))
}

pub(super) fn by_name() -> Page {
    Page {
        sort: Sort {
            by: SortBy::Name,
            descending: false,
        },
        after: None,
        limit: 1000,
    }
}

pub(super) async fn list(fixture: &Fixture, filter: &Filter, page: &Page) -> Vec<File> {
    let mut reader = fixture.reader().await;
    let files = reader.conn().file_list(filter, page).await.unwrap();
    assert!(files.len() <= page.limit as usize);
    files
}

/// Page behind page, until one is empty.
pub(super) async fn walk(fixture: &Fixture, filter: &Filter, sort: Sort, limit: u32) -> Vec<File> {
    let mut found: Vec<File> = Vec::new();
    let mut page = Page {
        sort,
        after: None,
        limit,
    };
    loop {
        let files = list(fixture, filter, &page).await;
        let Some(last) = files.last() else {
            return found;
        };
        page.after = Some(behind(last, sort.by));
        found.extend(files);
    }
}

pub(super) fn behind(file: &File, by: SortBy) -> After {
    let key = match by {
        SortBy::CreatedAt => SortKey::Time(file.created_at),
        SortBy::UpdatedAt => SortKey::Time(file.updated_at),
        SortBy::Name => SortKey::Name(file.name.clone()),
        SortBy::Size => SortKey::Size(file.size),
    };
    After { key, id: file.id }
}
