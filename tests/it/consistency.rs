//! Database and store agree; what a fault or a crash leaves is found, and goes by itself or by
//! `box fsck --repair`.

use std::time::Duration;

use box_service::clock::Timestamp;
use box_service::domain::fsck::{Options, ProblemKind, Report};
use box_service::id::{ObjectId, Tenant};
use box_service::metadata::objects::Intent;
use box_service::metadata::usage::Amount;
use box_service::objects::keys::ObjectKey;
use box_service::objects::{CALL_TIMEOUT, Lease};
use bytes::Bytes;
use futures::FutureExt;

use crate::harness::client::id;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    a_key_without_a_row_is_found_quarantined_and_deleted,
    a_live_object_without_its_bytes_is_found,
    wrong_references_are_found_and_mended,
    a_file_that_differs_from_its_object_is_found,
    a_crashed_upload_is_left_to_its_lease_and_then_removed,
    two_reapers_do_no_harm,
    a_name_that_is_not_ours_is_found_and_left_alone,
    bytes_that_changed_are_found,
    a_dead_key_that_was_not_deleted_is_found,
    bytes_on_their_way_without_a_row_are_found_and_removed,
);

const HOUR: Duration = Duration::from_secs(3_600);

fn tenant() -> Tenant {
    "acme".parse().unwrap()
}

fn key(service: &Service, id: ObjectId) -> ObjectKey {
    service.app.domain.objects.root().object(&tenant(), id)
}

fn lease(service: &Service) -> Lease {
    let until = service.clock.now().plus(CALL_TIMEOUT * 2);
    Lease::new(until, service.clock.clone())
}

/// Bytes at a key, as a writer puts them; not finished, they stay on their way.
async fn put(service: &Service, id: ObjectId, finish: bool) {
    let objects = &service.app.domain.objects;
    let mut writer = objects.write(&key(service, id), 1, None, lease(service));
    // Enough for a multipart upload to begin.
    let bytes = Bytes::from(vec![7; 9 << 20]);
    writer.write(vec![bytes]).await.unwrap();
    if finish {
        writer.finish().await.unwrap();
    }
}

async fn repair(service: &Service) -> Report {
    let options = Options {
        repair: true,
        ..Options::default()
    };
    service.app.domain.fsck(options).await.unwrap()
}

fn kinds(report: &Report) -> Vec<ProblemKind> {
    report.problems.iter().map(|problem| problem.kind).collect()
}

async fn a_key_without_a_row_is_found_quarantined_and_deleted(service: &Service) {
    let stray = ObjectId::new(service.clock.now());
    put(service, stray, true).await;
    let report = service.fsck().await;
    assert_eq!(kinds(&report), [ProblemKind::UnknownKey]);
    assert_eq!(report.problems[0].object_id, Some(stray));
    assert_eq!(
        report.problems[0].key.as_deref(),
        Some(key(service, stray).path())
    );

    let report = repair(service).await;
    assert_eq!(kinds(&report), [ProblemKind::UnknownKey]);
    assert!(report.problems[0].repaired, "{report}");
    // Quarantined: there is time to find out what it was.
    assert_eq!(kinds(&service.fsck().await), []);
    service.app.domain.reap().await.unwrap();
    let objects = &service.app.domain.objects;
    assert!(objects.head(&key(service, stray)).await.unwrap().is_some());
    service.assert_holds(0).await;
}

async fn a_live_object_without_its_bytes_is_found(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let report = service.fsck().await;
    assert_eq!(
        (report.objects, report.keys, report.problems.len()),
        (1, 1, 0)
    );
    let stored = service
        .app
        .domain
        .file_get(&tenant(), id(&file).parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let objects = &service.app.domain.objects;
    objects
        .erase(&key(service, stored.object_id), 1)
        .await
        .unwrap();
    let report = service.fsck().await;
    assert_eq!(kinds(&report), [ProblemKind::MissingBytes]);
    assert_eq!(report.problems[0].file_id, Some(stored.id));
    // Nothing can bring them back, and nothing is removed for it.
    let report = repair(service).await;
    assert!(!report.problems[0].repaired);
    let path = format!("/v1/files/{}/content", stored.id);
    crate::harness::client::send(client.get(&path))
        .await
        .problem(500, "internal");
    let path = format!("/v1/files/{}?permanent=true", stored.id);
    crate::harness::client::send(client.delete(&path)).await;
    service.assert_holds(0).await;
}

async fn wrong_references_are_found_and_mended(service: &Service) {
    let file = service.client("acme").upload("a", "content").await;
    service.execute("UPDATE objects SET refs = 3").await;
    assert_eq!(kinds(&service.fsck().await), [ProblemKind::RefsMismatch]);
    let report = repair(service).await;
    assert!(report.problems[0].repaired, "{report}");
    service.assert_holds(1).await;
    // With no file left, there is nothing to keep it for.
    service.execute("DELETE FROM files").await;
    let wrong = [ProblemKind::RefsMismatch, ProblemKind::UsageMismatch];
    assert_eq!(kinds(&service.fsck().await), wrong);
    let report = repair(service).await;
    assert!(
        report.problems.iter().all(|problem| problem.repaired),
        "{report}"
    );
    service.assert_holds(0).await;
    let _ = file;
}

async fn a_file_that_differs_from_its_object_is_found(service: &Service) {
    let file = service.client("acme").upload("a", "content").await;
    service.execute("UPDATE files SET size = 1").await;
    let report = service.fsck().await;
    let wrong = [ProblemKind::BrokenFile, ProblemKind::UsageMismatch];
    assert_eq!(kinds(&report), wrong);
    assert_eq!(report.problems[0].file_id, id(&file).parse().ok());
    service.execute("UPDATE files SET size = 7").await;
    service.assert_holds(1).await;
}

/// The row of an upload, as it is committed before the first byte.
async fn intend(service: &Service, object: ObjectId, lease_until: Timestamp) {
    let intent = Intent {
        id: object,
        tenant: tenant(),
        lease_until,
        quiet_at: lease_until.plus(HOUR),
        now: service.clock.now(),
        reserved: Amount::default(),
    };
    service
        .app
        .domain
        .metadata
        .write(intent, |tx, intent| {
            async move { tx.object_intend(intent).await }.boxed()
        })
        .await
        .unwrap();
}

async fn a_crashed_upload_is_left_to_its_lease_and_then_removed(service: &Service) {
    let now = service.clock.now();
    let (begun, written) = (ObjectId::new(now), ObjectId::new(now));
    for object in [begun, written] {
        intend(service, object, now.plus(Duration::from_secs(30))).await;
    }
    put(service, begun, false).await;
    put(service, written, true).await;

    // Beside a writer that may live, nothing is a problem and nothing is touched.
    service.app.domain.reap().await.unwrap();
    let report = service.fsck().await;
    assert_eq!((report.objects, report.problems.len()), (2, 0), "{report}");
    assert!(report.keys >= 2, "{report}");

    service.clock.advance(Duration::from_secs(31));
    assert_eq!(kinds(&service.fsck().await), [ProblemKind::ExpiredLease; 2]);
    service.app.domain.reap().await.unwrap();
    // The bytes are gone; the rows stay until nothing can arrive any more.
    let report = service.fsck().await;
    assert_eq!((report.objects, report.keys), (2, 0), "{report}");
    service.clock.advance(HOUR);
    service.app.domain.reap().await.unwrap();
    assert_eq!(service.fsck().await.objects, 0);
}

async fn two_reapers_do_no_harm(service: &Service) {
    let client = service.client("acme");
    for number in 0..30 {
        let file = client.upload(&format!("f{number}"), "content").await;
        if number % 3 != 0 {
            let path = format!("/v1/files/{}?permanent=true", id(&file));
            crate::harness::client::send(client.delete(&path)).await;
        }
    }
    let domain = &service.app.domain;
    let (one, other) = tokio::join!(domain.reap(), domain.reap());
    one.unwrap();
    other.unwrap();
    service.assert_holds(10).await;
}

async fn a_name_that_is_not_ours_is_found_and_left_alone(service: &Service) {
    let Some(store) = service.local_store() else {
        return;
    };
    service.client("acme").upload("a", "content").await;
    let strays = [
        "test/stray.txt",
        "test/acme/2026/01/no-id",
        "test/tmp/no-id.1",
    ];
    for stray in strays {
        let path = store.join(stray);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "stray").unwrap();
    }
    // Beside ours, not below it: another environment's.
    std::fs::create_dir(store.join("test-2")).unwrap();
    std::fs::write(store.join("test-2/stray.txt"), "stray").unwrap();
    for report in [service.fsck().await, repair(service).await] {
        assert_eq!(kinds(&report), [ProblemKind::ForeignKey; 3], "{report}");
        let mut found: Vec<&str> = report
            .problems
            .iter()
            .map(|problem| problem.key.as_deref().unwrap())
            .collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                "test/acme/2026/01/no-id",
                "test/stray.txt",
                "test/tmp/no-id.1"
            ]
        );
        assert!(report.problems.iter().all(|problem| !problem.repaired));
    }
    service.settle().await;
    for stray in strays {
        std::fs::remove_file(store.join(stray)).unwrap();
    }
    service.assert_holds(1).await;
    assert!(store.join("test-2/stray.txt").exists());
}

async fn bytes_that_changed_are_found(service: &Service) {
    let Some(store) = service.local_store() else {
        return;
    };
    let file = service.client("acme").upload("a", "content").await;
    let file = service
        .domain()
        .file_get(&tenant(), id(&file).parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let path = store.join(key(service, file.object_id).path());
    let quick = Options::default();
    for (bytes, seen, looked_into) in [
        (
            "longer than before",
            vec![ProblemKind::SizeMismatch],
            vec![ProblemKind::SizeMismatch],
        ),
        (
            "",
            vec![ProblemKind::SizeMismatch],
            vec![ProblemKind::SizeMismatch],
        ),
        // Of the same length: only who reads them sees it.
        ("tnetnoc", vec![], vec![ProblemKind::ChecksumMismatch]),
        ("content", vec![], vec![]),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let report = service.domain().fsck(quick).await.unwrap();
        assert_eq!(kinds(&report), seen, "{bytes:?}");
        let report = service.fsck().await;
        assert_eq!(kinds(&report), looked_into, "{bytes:?}");
        for problem in &report.problems {
            assert_eq!(problem.object_id, Some(file.object_id));
            assert_eq!(problem.file_id, Some(file.id));
            assert_eq!(
                problem.key.as_deref(),
                Some(key(service, file.object_id).path())
            );
        }
        // What bytes there are is the only evidence: nothing is made of them.
        assert!(
            repair(service)
                .await
                .problems
                .iter()
                .all(|problem| !problem.repaired)
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), bytes);
    }
    service.assert_holds(1).await;
}

async fn a_dead_key_that_was_not_deleted_is_found(service: &Service) {
    service.client("acme").upload("a", "content").await;
    service
        .execute(
            "DELETE FROM files; DELETE FROM usage;
             UPDATE objects SET state = 'dead', refs = 0, delete_at = created_at, forget_at = created_at",
        )
        .await;
    assert_eq!(kinds(&service.fsck().await), [ProblemKind::Undeleted]);
    // The reaper's work, which a repair does first.
    assert_eq!(kinds(&repair(service).await), []);
    assert_eq!(service.fsck().await.objects, 0);
    service.assert_holds(0).await;
}

/// What a database that was restored from a backup knows nothing of.
async fn bytes_on_their_way_without_a_row_are_found_and_removed(service: &Service) {
    let lost = ObjectId::new(service.clock.now());
    put(service, lost, false).await;
    if let Some(store) = service.local_store() {
        // The marker on its way, of a start that was killed.
        let marker = ObjectId::new(service.clock.now());
        std::fs::write(store.join(format!("test/tmp/{marker}.0")), "{}").unwrap();
    }
    let report = service.fsck().await;
    assert!(!report.problems.is_empty());
    let found = report.problems.len();
    assert_eq!(kinds(&report), vec![ProblemKind::UnknownKey; found]);
    assert!(
        report
            .problems
            .iter()
            .any(|problem| problem.object_id == Some(lost))
    );

    let report = repair(service).await;
    assert_eq!(kinds(&report), vec![ProblemKind::UnknownKey; found]);
    assert!(
        report.problems.iter().all(|problem| problem.repaired),
        "{report}"
    );
    // A writer that is still at it has a horizon's time.
    service.domain().reap().await.unwrap();
    let report = service.fsck().await;
    assert_eq!(
        (report.problems.len(), report.keys),
        (0, found as u64),
        "{report}"
    );
    service.clock.advance(HOUR);
    service.domain().reap().await.unwrap();
    let report = service.fsck().await;
    assert_eq!((report.problems.len(), report.keys), (0, 0), "{report}");
    service.assert_holds(0).await;
}
