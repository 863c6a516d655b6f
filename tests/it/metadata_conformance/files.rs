//! Files: rows by tenant, lists by keyset, and what sweeps and fsck look for.

use box_service::error::Kind as ErrorKind;
use box_service::id::{FileId, ObjectId};
use box_service::metadata::files::{File, Metadata};
use box_service::metadata::search::{After, Filter, Page, Sort, SortBy, SortKey};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use super::{Fixture, SHA256, SIZE, at, file_id, tenant};
use crate::harness::database::Kind;

conformance!(
    a_file_is_read_as_it_was_inserted,
    a_file_is_inserted_once_and_over_an_object,
    a_file_belongs_to_its_tenant,
    a_locked_file_waits_for_nobody_else,
    a_file_is_updated_as_a_whole,
    a_deleted_file_names_its_object,
    metadata_is_kept,
    numbers_in_metadata_are_kept,
    names_sort_by_bytes,
    files_are_listed_by_name,
    files_are_listed_by_creation,
    files_of_another_tenant_are_not_listed,
    a_prefix_is_taken_literally,
    a_prefix_goes_with_pages,
    the_trash_is_listed_apart,
    a_file_whose_time_has_come_is_not_listed,
    the_trash_is_swept_the_oldest_first,
    expired_files_are_swept_the_oldest_first,
    a_file_of_an_object_is_found,
    broken_files_are_found,
);

async fn a_file_is_read_as_it_was_inserted(fixture: Fixture) {
    let mut file = fixture.file(1, fixture.live().await);
    assert_eq!(fixture.get(file.id).await, None);
    fixture.insert(&file).await;
    assert_eq!(fixture.get(file.id).await.unwrap(), file);

    file.id = FileId::new(at(0));
    file.name = "Ünï/名前 'quoted\" \\ 😀".to_owned();
    file.size = u64::try_from(i64::MAX).unwrap();
    file.sha256 = None;
    file.version = 3;
    file.revision = i64::MAX;
    file.updated_at = at(21);
    file.expires_at = Some(at(22));
    file.trashed_at = Some(at(23));
    file.created_by = String::new();
    fixture.insert(&file).await;
    assert_eq!(fixture.get(file.id).await.unwrap(), file);
}

async fn a_file_is_inserted_once_and_over_an_object(fixture: Fixture) {
    let object = fixture.live().await;
    let insert = |file: File| change!(fixture.metadata, file, |tx, file| tx.file_insert(file));
    let file = fixture.file(1, object);
    insert(file.clone()).await.unwrap();
    let nowhere = fixture.file(2, ObjectId::new(at(0)));
    let mut huge = fixture.file(3, object);
    huge.size = u64::MAX;
    for refused in [file, nowhere, huge] {
        let error = insert(refused).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    }
}

async fn a_file_belongs_to_its_tenant(fixture: Fixture) {
    let file = fixture.file(1, fixture.live().await);
    fixture.insert(&file).await;
    // A tenant is told by every letter of its name.
    for name in ["other", "Acme", "acm"] {
        let stranger = tenant(name);
        let found = fixture
            .reader()
            .await
            .conn()
            .file_get(&stranger, file.id)
            .await;
        assert_eq!(found.unwrap(), None);
        let locked = change!(fixture.metadata, stranger.clone(), |tx, stranger| tx
            .file_lock(stranger, file_id(1)));
        assert_eq!(locked.await.unwrap(), None);
        let mut forged = file.clone();
        forged.tenant = stranger.clone();
        forged.name = "forged".to_owned();
        change!(fixture.metadata, forged, |tx, forged| tx
            .file_update(forged))
        .await
        .unwrap();
        let deleted = change!(fixture.metadata, stranger, |tx, stranger| tx
            .file_delete(stranger, file_id(1)));
        assert_eq!(deleted.await.unwrap(), None);
    }
    assert_eq!(fixture.get(file.id).await.unwrap(), file);
}

async fn a_locked_file_waits_for_nobody_else(fixture: Fixture) {
    let file = fixture.file(1, fixture.live().await);
    fixture.insert(&file).await;
    let lock = |id| {
        change!(fixture.metadata, tenant("acme"), |tx, tenant| tx
            .file_lock(tenant, id))
    };
    assert_eq!(lock(file.id).await.unwrap(), Some(file.clone()));
    assert_eq!(lock(file_id(2)).await.unwrap(), None);

    // Each reads, then writes: unless the lock held the others off, two would delete it.
    let deletions = (0..20).map(|_| {
        fixture.metadata.write(tenant("acme"), |tx, tenant| {
            futures::FutureExt::boxed(async move {
                if tx.file_lock(tenant, file_id(1)).await?.is_none() {
                    return Ok(0);
                }
                let object = tx.file_delete(tenant, file_id(1)).await?;
                Ok(usize::from(object.is_some()))
            })
        })
    });
    let mut deleted = 0;
    for deletion in futures::future::join_all(deletions).await {
        deleted += deletion.unwrap();
    }
    assert_eq!(deleted, 1);
}

async fn a_file_is_updated_as_a_whole(fixture: Fixture) {
    let object = fixture.live().await;
    let file = fixture.file(1, object);
    let other = fixture.file(2, object);
    fixture.insert(&file).await;
    fixture.insert(&other).await;
    let mut changed = File {
        name: "another".to_owned(),
        content_type: "image/png".to_owned(),
        size: SIZE + 1,
        sha256: None,
        version: 2,
        object_id: fixture.live().await,
        expires_at: Some(at(90)),
        trashed_at: Some(at(50)),
        content_at: Some(at(49)),
        content_by: Some("somebody else".to_owned()),
        ..file.clone()
    };
    changed.metadata.insert("a".to_owned(), json!([1]));
    changed.touch(at(51));
    assert_eq!((changed.revision, changed.updated_at), (2, at(51)));
    change!(fixture.metadata, changed.clone(), |tx, file| tx
        .file_update(file))
    .await
    .unwrap();
    assert_eq!(fixture.get(file.id).await, Some(changed));
    assert_eq!(fixture.get(other.id).await, Some(other));
}

async fn a_deleted_file_names_its_object(fixture: Fixture) {
    let object = fixture.live().await;
    fixture.insert(&fixture.file(1, object)).await;
    let mut trashed = fixture.file(2, object);
    trashed.trashed_at = Some(at(30));
    fixture.insert(&trashed).await;
    let delete = |id| {
        change!(fixture.metadata, tenant("acme"), |tx, tenant| tx
            .file_delete(tenant, id))
    };
    for id in [file_id(1), file_id(2)] {
        assert_eq!(delete(id).await.unwrap(), Some(object));
        assert_eq!(fixture.get(id).await, None);
        assert_eq!(delete(id).await.unwrap(), None);
    }
    // The reference is dropped by a step of its own.
    assert_eq!(fixture.object(object).await.refs, 1);
}

async fn metadata_is_kept(fixture: Fixture) {
    let object = fixture.live().await;
    let mut deep = json!([null, true, {}]);
    for _ in 0..15 {
        deep = json!({ "a": [deep] });
    }
    let all = [
        json!({}),
        json!({ "": "", "a": null, "b": [], "c": {}, "d": [[], [null]], "e": false }),
        json!({ "é": "e\u{301}", "名前": "😀", "\u{10ffff}": "\u{d7ff}\u{e000}\u{ffff}" }),
        json!({ "a.b": "$.a", "'": "\"", "\\u0000": "\\u0000", "\u{1}": "\t\r\n\u{7f}\u{2028}" }),
        json!({ "b": 1, "a": 2, "aa": 3, "A": 4, "B": { "z": [3, 1, 2], "y": "1" } }),
        json!({ "deep": deep }),
    ];
    for (number, metadata) in (1..).zip(all) {
        let mut file = fixture.file(number, object);
        file.metadata = serde_json::from_value(metadata).unwrap();
        fixture.insert(&file).await;
        assert_eq!(fixture.get(file.id).await.unwrap().metadata, file.metadata);
    }
}

async fn numbers_in_metadata_are_kept(fixture: Fixture) {
    let mut file = fixture.file(1, fixture.live().await);
    let integers = json!([
        0,
        -1,
        i64::MIN,
        i64::MAX,
        u64::MAX,
        9_007_199_254_740_993_i64
    ]);
    let floats = [
        0.5,
        -0.0,
        0.1 + 0.2,
        1e15,
        1e100,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        f64::from_bits(1),
        f64::EPSILON,
        // Is read one bit off by a parser that multiplies by powers of ten.
        31.245270191439438,
    ];
    file.metadata
        .insert("integers".to_owned(), integers.clone());
    file.metadata.insert("floats".to_owned(), json!(floats));
    fixture.insert(&file).await;

    let found: Metadata = fixture.get(file.id).await.unwrap().metadata;
    assert_eq!(found["integers"], integers);
    // PostgreSQL writes large numbers out, without an exponent: the same number in other words.
    let found: Vec<f64> = found["floats"]
        .as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_f64().unwrap())
        .collect();
    assert_eq!(found, floats);
}

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
async fn pages(fixture: &Fixture, by: SortBy, mut wanted: Vec<File>) {
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
        Some(at(50).plus(super::MICROSECOND)),
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

async fn the_trash_is_swept_the_oldest_first(fixture: Fixture) {
    let object = fixture.live().await;
    let trashed_at = [
        Some(at(30)),
        None,
        Some(at(10)),
        Some(at(20)),
        Some(at(20).plus(super::MICROSECOND)),
    ];
    for (number, trashed_at) in (1..).zip(trashed_at) {
        let mut file = fixture.file(number, object);
        file.tenant = tenant(&format!("tenant{number}"));
        file.trashed_at = trashed_at;
        file.expires_at = Some(at(0));
        fixture.insert(&file).await;
    }
    let due = async |before, limit| {
        let mut reader = fixture.reader().await;
        reader
            .conn()
            .file_trashed_before(before, limit)
            .await
            .unwrap()
    };
    assert_eq!(due(at(9), 10).await, []);
    assert_eq!(
        due(at(20), 10).await,
        [
            (tenant("tenant3"), file_id(3)),
            (tenant("tenant4"), file_id(4))
        ]
    );
    assert_eq!(due(at(99), 1).await, [(tenant("tenant3"), file_id(3))]);
    assert_eq!(due(at(99), 10).await.len(), 4);
}

async fn expired_files_are_swept_the_oldest_first(fixture: Fixture) {
    let object = fixture.live().await;
    let expires_at = [
        Some(at(30)),
        None,
        Some(at(10)),
        Some(at(20)),
        Some(at(20).plus(super::MICROSECOND)),
    ];
    for (number, expires_at) in (1..).zip(expires_at) {
        let mut file = fixture.file(number, object);
        file.tenant = tenant(&format!("tenant{number}"));
        file.expires_at = expires_at;
        // The trash makes no difference.
        file.trashed_at = (number == 3).then_some(at(99));
        fixture.insert(&file).await;
    }
    let due = async |now, limit| {
        let mut reader = fixture.reader().await;
        reader.conn().file_expired(now, limit).await.unwrap()
    };
    assert_eq!(due(at(9), 10).await, []);
    assert_eq!(
        due(at(20), 10).await,
        [
            (tenant("tenant3"), file_id(3)),
            (tenant("tenant4"), file_id(4))
        ]
    );
    assert_eq!(due(at(99), 1).await, [(tenant("tenant3"), file_id(3))]);
    assert_eq!(due(at(99), 10).await.len(), 4);
}

async fn a_file_of_an_object_is_found(fixture: Fixture) {
    let object = fixture.live().await;
    let find = async |object| {
        fixture
            .reader()
            .await
            .conn()
            .file_of_object(object)
            .await
            .unwrap()
    };
    assert_eq!(find(object).await, None);
    fixture.insert(&fixture.file(2, object)).await;
    let mut strange = fixture.file(1, object);
    strange.tenant = tenant("other");
    fixture.insert(&strange).await;
    fixture.insert(&fixture.file(3, fixture.live().await)).await;
    assert_eq!(find(object).await, Some(file_id(1)));
}

async fn broken_files_are_found(fixture: Fixture) {
    let live = fixture.live().await;
    let writing = fixture.writing(at(100), at(200)).await;
    let dead = fixture.live().await;
    change!(fixture.metadata, |tx| tx.object_release(dead, at(30)))
        .await
        .unwrap();
    let missing = fixture.live().await;

    let sound = fixture.file(1, live);
    let mut unhashed = fixture.file(2, live);
    unhashed.sha256 = None;
    let over_writing = fixture.file(3, writing);
    let over_dead = fixture.file(4, dead);
    let over_nothing = fixture.file(5, missing);
    let mut of_another = fixture.file(6, live);
    of_another.tenant = tenant("other");
    let mut longer = fixture.file(7, live);
    longer.size = SIZE + 1;
    let mut other_bytes = fixture.file(8, live);
    other_bytes.sha256 = Some([SHA256[0] + 1; 32]);
    let mut trashed = fixture.file(9, live);
    trashed.trashed_at = Some(at(30));
    trashed.size = SIZE + 1;

    let broken = [
        over_writing,
        over_dead,
        over_nothing,
        of_another,
        longer,
        other_bytes,
        trashed,
    ];
    for file in broken.iter().chain([&sound, &unhashed]) {
        fixture.insert(file).await;
    }
    fixture
        .tamper(
            "DELETE FROM objects WHERE id IN (SELECT object_id FROM files WHERE name = 'file 5')",
        )
        .await;

    let wanted: Vec<(FileId, ObjectId)> = broken
        .iter()
        .map(|file| (file.id, file.object_id))
        .collect();
    for limit in [1, 3, 100] {
        let mut found: Vec<(FileId, ObjectId)> = Vec::new();
        loop {
            let after = found.last().map(|(id, _)| *id);
            let page = fixture
                .reader()
                .await
                .conn()
                .file_broken_page(after, limit)
                .await
                .unwrap();
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(found, wanted);
    }
}

/// All of the fixture's tenant that is not in the trash.
fn filter(fixture: &Fixture) -> Filter {
    Filter::new(fixture.tenant.clone(), at(0))
}

fn by_name() -> Page {
    Page {
        sort: Sort {
            by: SortBy::Name,
            descending: false,
        },
        after: None,
        limit: 1000,
    }
}

async fn list(fixture: &Fixture, filter: &Filter, page: &Page) -> Vec<File> {
    let mut reader = fixture.reader().await;
    let files = reader.conn().file_list(filter, page).await.unwrap();
    assert!(files.len() <= page.limit as usize);
    files
}

/// Page behind page, until one is empty.
async fn walk(fixture: &Fixture, filter: &Filter, sort: Sort, limit: u32) -> Vec<File> {
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

fn behind(file: &File, by: SortBy) -> After {
    let key = match by {
        SortBy::CreatedAt => SortKey::Time(file.created_at),
        SortBy::UpdatedAt => SortKey::Time(file.updated_at),
        SortBy::Name => SortKey::Name(file.name.clone()),
        SortBy::Size => SortKey::Size(file.size),
    };
    After { key, id: file.id }
}
