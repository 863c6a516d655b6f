//! Versions: rows behind their file, and what counts them as references.

use std::collections::BTreeSet;

use box_service::error::Kind as ErrorKind;
use box_service::id::{FileId, ObjectId};
use box_service::metadata::files::File;
use box_service::metadata::versions::{Removed, Version};

use super::{Fixture, MICROSECOND, SHA256, SIZE, at, file_id, tenant};

conformance!(
    a_version_is_read_as_it_was_inserted,
    a_version_is_inserted_once_and_over_what_there_is,
    a_version_belongs_to_its_tenant_and_file,
    versions_are_listed_the_newest_first,
    all_but_the_newest_versions_are_trimmed,
    one_version_is_deleted,
    a_file_is_not_deleted_before_its_versions,
    replaced_versions_are_swept_the_oldest_first,
    versions_count_as_references,
    a_file_is_found_by_the_object_of_a_version,
    broken_versions_are_found,
);

impl Fixture {
    /// What a file had as its content at second 20.
    pub(super) fn version(&self, file: &File, version: i64, object_id: ObjectId) -> Version {
        Version {
            file_id: file.id,
            version,
            tenant: file.tenant.clone(),
            object_id,
            content_type: "text/plain".to_owned(),
            size: SIZE,
            sha256: Some(SHA256),
            created_at: at(20),
            created_by: "somebody".to_owned(),
            replaced_at: at(30),
        }
    }

    pub(super) async fn insert_version(&self, version: &Version) {
        let inserted = change!(self.metadata, version.clone(), |tx, version| tx
            .version_insert(version));
        inserted.await.unwrap();
    }

    /// A file with so many versions of one object each, from 1 on.
    async fn versioned(&self, number: u128, versions: i64) -> (File, Vec<Version>) {
        let mut file = self.file(number, self.live().await);
        file.version = versions + 1;
        self.insert(&file).await;
        let mut all = Vec::new();
        for version in 1..=versions {
            let mut version = self.version(&file, version, self.live().await);
            version.size = SIZE + version.version as u64;
            self.insert_version(&version).await;
            all.push(version);
        }
        (file, all)
    }

    async fn versions(&self, file: FileId) -> Vec<i64> {
        self.version_list(file, i64::MAX, 1000)
            .await
            .into_iter()
            .map(|version| version.version)
            .collect()
    }

    async fn version_list(&self, file: FileId, below: i64, limit: u32) -> Vec<Version> {
        let mut reader = self.reader().await;
        reader
            .conn()
            .version_list(&self.tenant, file, below, limit)
            .await
            .unwrap()
    }

    async fn find_version(&self, name: &str, file: FileId, version: i64) -> Option<Version> {
        let mut reader = self.reader().await;
        reader
            .conn()
            .version_get(&tenant(name), file, version)
            .await
            .unwrap()
    }

    async fn trim(&self, name: &str, file: FileId, keep: u32) -> BTreeSet<Removed> {
        let trimmed = change!(self.metadata, tenant(name), |tx, tenant| tx
            .version_trim(tenant, file, keep));
        trimmed.await.unwrap().into_iter().collect()
    }
}

fn removed(versions: &[Version]) -> BTreeSet<Removed> {
    versions
        .iter()
        .map(|version| (version.object_id, version.size))
        .collect()
}

async fn a_version_is_read_as_it_was_inserted(fixture: Fixture) {
    let file = fixture.file(1, fixture.live().await);
    fixture.insert(&file).await;
    let usual = fixture.version(&file, 1, fixture.live().await);
    let odd = Version {
        version: i64::MAX,
        content_type: "Ünï/名前 'quoted\" \\ 😀".to_owned(),
        size: u64::try_from(i64::MAX).unwrap(),
        sha256: None,
        created_at: at(-2_000_000_000),
        created_by: String::new(),
        replaced_at: at(30).plus(MICROSECOND),
        ..usual.clone()
    };
    for version in [usual, odd] {
        let find = || fixture.find_version("acme", file.id, version.version);
        assert_eq!(find().await, None);
        fixture.insert_version(&version).await;
        assert_eq!(find().await, Some(version.clone()));
    }
}

async fn a_version_is_inserted_once_and_over_what_there_is(fixture: Fixture) {
    let (file, versions) = fixture.versioned(1, 1).await;
    let object = versions[0].object_id;
    let nowhere = fixture.version(&file, 2, ObjectId::new(at(0)));
    let of_none = fixture.version(&fixture.file(2, object), 2, object);
    let mut huge = fixture.version(&file, 2, object);
    huge.size = u64::MAX;
    for refused in [versions[0].clone(), nowhere, of_none, huge] {
        let inserted = change!(fixture.metadata, refused, |tx, version| tx
            .version_insert(version));
        let error = inserted.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    }
    assert_eq!(fixture.versions(file.id).await, [1]);
}

async fn a_version_belongs_to_its_tenant_and_file(fixture: Fixture) {
    let (file, versions) = fixture.versioned(1, 2).await;
    let (other, _) = fixture.versioned(2, 2).await;
    for name in ["other", "Acme", "acm"] {
        let stranger = tenant(name);
        assert_eq!(fixture.find_version(name, file.id, 1).await, None);
        let mut reader = fixture.reader().await;
        let listed = reader.conn().version_list(&stranger, file.id, 9, 9).await;
        assert_eq!(listed.unwrap(), []);
        let deleted = change!(fixture.metadata, stranger, |tx, tenant| tx.version_delete(
            tenant,
            file_id(1),
            1
        ));
        assert_eq!(deleted.await.unwrap(), None);
        assert!(fixture.trim(name, file.id, 0).await.is_empty());
    }
    assert_eq!(
        fixture.trim("acme", file.id, 0).await,
        removed(&versions),
        "strangers removed none"
    );
    assert_eq!(fixture.versions(other.id).await, [2, 1]);
}

async fn versions_are_listed_the_newest_first(fixture: Fixture) {
    let (file, mut versions) = fixture.versioned(1, 5).await;
    fixture.versioned(2, 5).await;
    versions.reverse();
    assert_eq!(
        fixture.version_list(file.id, i64::MAX, 100).await,
        versions,
        "all"
    );
    for limit in [1, 2, 5] {
        let mut found: Vec<Version> = Vec::new();
        loop {
            let below = found.last().map_or(i64::MAX, |version| version.version);
            let page = fixture.version_list(file.id, below, limit).await;
            assert!(page.len() <= limit as usize);
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(found, versions);
    }
    assert_eq!(fixture.version_list(file.id, 3, 100).await, versions[3..]);
    assert_eq!(fixture.version_list(file.id, 1, 100).await, []);
    assert_eq!(fixture.version_list(file_id(3), 9, 100).await, []);
}

async fn all_but_the_newest_versions_are_trimmed(fixture: Fixture) {
    let (file, versions) = fixture.versioned(1, 5).await;
    let (other, _) = fixture.versioned(2, 3).await;
    let trim = |keep| fixture.trim("acme", file.id, keep);
    for plenty in [u32::MAX, 6, 5] {
        assert!(trim(plenty).await.is_empty());
    }
    assert_eq!(trim(3).await, removed(&versions[..2]));
    assert_eq!(fixture.versions(file.id).await, [5, 4, 3]);
    assert!(trim(3).await.is_empty());
    // The numbers have gaps where one was deleted.
    let deleted = change!(fixture.metadata, tenant("acme"), |tx, tenant| tx
        .version_delete(tenant, file_id(1), 4));
    assert!(deleted.await.unwrap().is_some());
    assert_eq!(trim(1).await, removed(&versions[2..3]));
    assert_eq!(fixture.versions(file.id).await, [5]);
    assert_eq!(trim(0).await, removed(&versions[4..]));
    assert_eq!(fixture.versions(file.id).await, [0; 0]);
    assert!(trim(0).await.is_empty());
    assert_eq!(fixture.versions(other.id).await, [3, 2, 1]);
    // References are dropped by a step of their own.
    assert_eq!(fixture.object(versions[0].object_id).await.refs, 1);
}

async fn one_version_is_deleted(fixture: Fixture) {
    let (file, versions) = fixture.versioned(1, 3).await;
    let delete = |version| {
        change!(fixture.metadata, tenant("acme"), |tx, tenant| tx
            .version_delete(tenant, file_id(1), version))
    };
    assert_eq!(delete(4).await.unwrap(), None);
    let wanted = (versions[1].object_id, versions[1].size);
    assert_eq!(delete(2).await.unwrap(), Some(wanted));
    assert_eq!(delete(2).await.unwrap(), None);
    assert_eq!(fixture.versions(file.id).await, [3, 1]);
    assert_eq!(fixture.object(versions[1].object_id).await.refs, 1);
}

async fn a_file_is_not_deleted_before_its_versions(fixture: Fixture) {
    let (file, versions) = fixture.versioned(1, 1).await;
    let delete = || {
        change!(fixture.metadata, tenant("acme"), |tx, tenant| tx
            .file_delete(tenant, file_id(1)))
    };
    assert!(delete().await.is_err());
    assert!(fixture.get(file.id).await.is_some());
    // Nor is the row of an object forgotten that one refers to.
    let object = versions[0].object_id;
    change!(fixture.metadata, |tx| tx.object_release(object, at(40)))
        .await
        .unwrap();
    let forgotten = change!(fixture.metadata, |tx| tx.object_forget(object, at(99)));
    assert!(forgotten.await.is_err());
    fixture.trim("acme", file.id, 0).await;
    delete().await.unwrap();
}

async fn replaced_versions_are_swept_the_oldest_first(fixture: Fixture) {
    let object = fixture.live().await;
    let replaced_at = [
        at(30),
        at(10),
        at(20),
        at(20).plus(MICROSECOND),
        at(-2_000_000_000),
    ];
    for (number, replaced_at) in (1..).zip(replaced_at) {
        let mut file = fixture.file(number, object);
        file.tenant = tenant(&format!("tenant{number}"));
        fixture.insert(&file).await;
        let mut version = fixture.version(&file, 7, object);
        version.replaced_at = replaced_at;
        // When it came makes no difference.
        version.created_at = at(-(number as i64));
        fixture.insert_version(&version).await;
    }
    let due = async |before, now, limit| -> Vec<u128> {
        let mut reader = fixture.reader().await;
        let mut conn = reader.conn();
        let due = conn.version_replaced_before(before, now, limit).await;
        due.unwrap()
            .into_iter()
            .map(|(tenant, file, version)| {
                let number = file.as_uuid().as_u128();
                assert_eq!(tenant.as_str(), format!("tenant{number}"));
                assert_eq!(version, 7);
                number
            })
            .collect()
    };
    assert_eq!(due(at(9), at(99), 10).await, [5]);
    assert_eq!(due(at(20), at(99), 10).await, [5, 2, 3]);
    assert_eq!(due(at(99), at(99), 2).await, [5, 2]);
    assert_eq!(due(at(99), at(99), 10).await, [5, 2, 3, 4, 1]);
    // Those of files that are held stay, as long as they are.
    for (number, retention_until, legal_hold) in [(5, Some(at(50)), false), (3, None, true)] {
        let mut file = fixture.file(number, object);
        file.tenant = tenant(&format!("tenant{number}"));
        file.retention_until = retention_until;
        file.legal_hold = legal_hold;
        change!(fixture.metadata, file, |tx, file| tx.file_update(file))
            .await
            .unwrap();
    }
    assert_eq!(due(at(99), at(49), 10).await, [2, 4, 1]);
    assert_eq!(due(at(99), at(50), 10).await, [5, 2, 4, 1]);
}

async fn versions_count_as_references(fixture: Fixture) {
    let object = fixture.live().await;
    let count = async || {
        let mut reader = fixture.reader().await;
        reader.conn().object_count_refs(object).await.unwrap()
    };
    let file = fixture.file(1, object);
    fixture.insert(&file).await;
    assert_eq!(count().await, 1);
    // An older content that came back: the file and two of its versions share it.
    fixture
        .insert_version(&fixture.version(&file, 1, object))
        .await;
    fixture
        .insert_version(&fixture.version(&file, 3, object))
        .await;
    let elsewhere = fixture.version(&file, 2, fixture.live().await);
    fixture.insert_version(&elsewhere).await;
    assert_eq!(count().await, 3);
    fixture.trim("acme", file.id, 1).await;
    assert_eq!(count().await, 2);
}

async fn a_file_is_found_by_the_object_of_a_version(fixture: Fixture) {
    let find = async |object| {
        let mut reader = fixture.reader().await;
        let mut conn = reader.conn();
        conn.file_of_object_page(object, None, 9).await.unwrap()
    };
    let (_, versions) = fixture.versioned(2, 2).await;
    let object = versions[0].object_id;
    assert_eq!(find(object).await, [file_id(2)]);
    // Once each, whether by a version or by itself.
    fixture.insert(&fixture.file(3, object)).await;
    fixture.insert(&fixture.file(1, object)).await;
    let again = fixture.version(&fixture.file(1, object), 1, object);
    fixture.insert_version(&again).await;
    assert_eq!(find(object).await, [file_id(1), file_id(2), file_id(3)]);
}

async fn broken_versions_are_found(fixture: Fixture) {
    let live = fixture.live().await;
    let dead = fixture.live().await;
    change!(fixture.metadata, |tx| tx.object_release(dead, at(30)))
        .await
        .unwrap();
    let mut wanted = Vec::new();
    for number in 1..=4 {
        let file = fixture.file(number, live);
        fixture.insert(&file).await;
        let sound = fixture.version(&file, 1, live);
        let mut unhashed = fixture.version(&file, 2, live);
        unhashed.sha256 = None;
        let over_dead = fixture.version(&file, 3, dead);
        let over_writing = fixture.version(&file, 4, fixture.writing(at(100), at(200)).await);
        let mut longer = fixture.version(&file, 5, fixture.live().await);
        longer.size += 1;
        let mut other_bytes = fixture.version(&file, 6, fixture.live().await);
        other_bytes.sha256 = Some([SHA256[0] + 1; 32]);
        let mut of_another = fixture.version(&file, 7, fixture.live().await);
        of_another.tenant = tenant("other");
        // A file may have many, on both sides of a page's end.
        let broken = [over_dead, over_writing, longer, other_bytes, of_another];
        let broken = if number == 2 { &[] } else { &broken[..] };
        for version in broken.iter().chain([&sound, &unhashed]) {
            fixture.insert_version(version).await;
        }
        // The same object twice is told once.
        if number == 3 {
            fixture
                .insert_version(&fixture.version(&file, 8, dead))
                .await;
        }
        wanted.extend(broken.iter().map(|version| (file.id, version.object_id)));
    }
    wanted.sort();
    for limit in [1, 2, 3, 4, 100] {
        assert_eq!(fixture.broken_files(limit).await, wanted, "by {limit}");
    }
}
