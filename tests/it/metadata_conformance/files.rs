//! Files: rows by tenant, and what sweeps and fsck look for. Lists: see `lists` and `search`.

use box_service::error::Kind as ErrorKind;
use box_service::id::{FileId, ObjectId};
use box_service::metadata::files::{File, Metadata};
use box_service::metadata::search::Filter;
use serde_json::json;

use super::{Fixture, SHA256, SIZE, at, file_id, tenant};

conformance!(
    a_file_is_read_as_it_was_inserted,
    a_file_is_inserted_once_and_over_an_object,
    a_file_belongs_to_its_tenant,
    many_files_are_read_at_once,
    a_locked_file_waits_for_nobody_else,
    a_file_is_updated_as_a_whole,
    a_file_is_deleted_once,
    metadata_is_kept,
    numbers_in_metadata_are_kept,
    the_trash_is_swept_the_oldest_first,
    expired_files_are_swept_the_oldest_first,
    what_is_held_expires_later,
    what_is_held_is_in_no_trash,
    the_files_of_an_object_are_found,
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
        let updated = change!(fixture.metadata, forged, |tx, forged| tx
            .file_update(forged));
        assert_eq!(updated.await.unwrap_err().kind(), ErrorKind::Internal);
        let deleted = change!(fixture.metadata, stranger, |tx, stranger| tx
            .file_delete(stranger, file_id(1)));
        assert_eq!(deleted.await.unwrap_err().kind(), ErrorKind::Internal);
    }
    assert_eq!(fixture.get(file.id).await.unwrap(), file);
}

async fn many_files_are_read_at_once(fixture: Fixture) {
    let object = fixture.live().await;
    let mut strange = fixture.file(4, object);
    strange.tenant = tenant("other");
    let mut trashed = fixture.file(2, object);
    trashed.trashed_at = Some(at(30));
    let all = [fixture.file(1, object), trashed, fixture.file(3, object)];
    fixture.insert_all(&all).await;
    fixture.insert(&strange).await;
    let many = async |ids: &[u128]| {
        let ids: Vec<FileId> = ids.iter().map(|number| file_id(*number)).collect();
        let mut reader = fixture.reader().await;
        let mut conn = reader.conn();
        let mut files = conn.file_get_many(&fixture.tenant, &ids).await.unwrap();
        files.sort_by_key(|file| file.id);
        files
    };
    assert_eq!(many(&[3, 1, 4, 2, 9]).await, all);
    assert_eq!(many(&[2]).await, all[1..2]);
    assert_eq!(many(&[4]).await, []);
    assert_eq!(many(&[]).await, []);
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
                tx.file_delete(tenant, file_id(1)).await?;
                Ok(1)
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
        retention_until: Some(at(50)),
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

async fn a_file_is_deleted_once(fixture: Fixture) {
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
        delete(id).await.unwrap();
        assert_eq!(fixture.get(id).await, None);
        assert_eq!(delete(id).await.unwrap_err().kind(), ErrorKind::Internal);
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

async fn what_is_held_expires_later(fixture: Fixture) {
    let object = fixture.live().await;
    for (number, retention_until, legal_hold) in [
        (1, None, false),
        (2, Some(at(5)), false),
        (3, Some(at(20)), false),
        (4, None, true),
        (5, Some(at(5)), true),
    ] {
        let file = File {
            expires_at: Some(at(10)),
            retention_until,
            legal_hold,
            ..fixture.file(number, object)
        };
        fixture.insert(&file).await;
        assert_eq!(fixture.get(file.id).await, Some(file.clone()));
        let mut conn = fixture.reader().await;
        let due = conn.conn().file_expired(at(19), 10).await.unwrap();
        let is_due = due.iter().any(|(_, id)| *id == file.id);
        // The one rule in two places: the row's own, and the index's.
        assert_eq!(is_due, file.has_expired(at(19)), "{file:?}");
        let (all, page) = (Filter::new(tenant("acme"), at(19)), super::lists::by_name());
        let listed = super::lists::list(&fixture, &all, &page).await;
        assert_eq!(listed.contains(&file), !is_due, "{file:?}");
    }
    let mut reader = fixture.reader().await;
    let due = reader.conn().file_expired(at(20), 10).await.unwrap();
    let last = due.last().map(|(_, id)| *id);
    assert_eq!((due.len(), last), (3, Some(file_id(3))));
}

async fn what_is_held_is_in_no_trash(fixture: Fixture) {
    let object = fixture.live().await;
    for (number, retention_until, legal_hold, possible) in [
        (1, Some(at(50)), false, true),
        (2, Some(at(51)), false, false),
        (3, None, true, false),
        (4, Some(at(1)), true, false),
    ] {
        let file = File {
            retention_until,
            legal_hold,
            ..fixture.file(number, object)
        };
        fixture.insert(&file).await;
        let trashed = File {
            trashed_at: Some(at(50)),
            ..file.clone()
        };
        let update = change!(fixture.metadata, trashed, |tx, file| tx.file_update(file));
        assert_eq!(update.await.is_ok(), possible, "{file:?}");
    }
}

async fn the_files_of_an_object_are_found(fixture: Fixture) {
    let object = fixture.live().await;
    let find = async |after, limit| {
        let mut reader = fixture.reader().await;
        let mut conn = reader.conn();
        let page = conn.file_of_object_page(object, after, limit).await;
        page.unwrap()
    };
    assert_eq!(find(None, 9).await, []);
    fixture.insert(&fixture.file(2, object)).await;
    let mut strange = fixture.file(1, object);
    strange.tenant = tenant("other");
    fixture.insert(&strange).await;
    fixture.insert(&fixture.file(3, fixture.live().await)).await;
    assert_eq!(find(None, 9).await, [file_id(1), file_id(2)]);
    assert_eq!(find(None, 1).await, [file_id(1)]);
    assert_eq!(find(Some(file_id(1)), 1).await, [file_id(2)]);
    assert_eq!(find(Some(file_id(2)), 1).await, []);
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
        assert_eq!(fixture.broken_files(limit).await, wanted);
    }
}
