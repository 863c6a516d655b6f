//! Database and store agree; what a fault or a crash leaves is found, and goes by itself or by
//! `box fsck --repair`.

use std::time::{Duration, Instant, UNIX_EPOCH};

use box_service::clock::Timestamp;
use box_service::domain::fsck::{Options, ProblemKind, Report};
use box_service::id::{ObjectId, Tenant};
use box_service::metadata::objects::Intent;
use box_service::metadata::usage::Amount;
use box_service::objects::keys::ObjectKey;
use box_service::objects::{CALL_TIMEOUT, Lease};
use bytes::Bytes;
use futures::FutureExt;

use crate::harness::client::{id, send};
use crate::harness::database::{Database, Kind};
use crate::harness::service::{Pair, Service, on_every_pair};

on_every_pair!(
    a_key_without_a_row_is_found_quarantined_and_deleted,
    a_young_key_is_left_alone,
    keys_beside_our_prefix_are_left_alone,
    what_changes_meanwhile_is_no_problem,
    keys_are_looked_at_by_pages,
    every_file_that_misses_its_bytes_is_told,
    checksums_are_read_at_a_rate,
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

    service.clock.advance(HOUR);
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

/// Somebody may be at it whom this service does not know of.
async fn a_young_key_is_left_alone(service: &Service) {
    let stray = ObjectId::new(service.clock.now());
    put(service, stray, true).await;
    for wait in [HOUR - Duration::from_secs(1), Duration::from_secs(1)] {
        let report = repair(service).await;
        assert_eq!(kinds(&report), [ProblemKind::UnknownKey]);
        assert!(!report.problems[0].repaired, "{report}");
        assert!(report.problems[0].detail.contains("young"), "{report}");
        service.clock.advance(wait);
    }
    if let Some(store) = service.local_store() {
        // Its bytes came late.
        let path = store.join(key(service, stray).path());
        let file = std::fs::File::options().write(true).open(path).unwrap();
        let now = UNIX_EPOCH + Duration::from_micros(service.clock.now().as_micros() as u64);
        file.set_modified(now).unwrap();
        assert!(!repair(service).await.problems[0].repaired);
        file.set_modified(now - HOUR).unwrap();
    }
    assert!(repair(service).await.problems[0].repaired);
    service.assert_holds(0).await;
}

async fn keys_beside_our_prefix_are_left_alone(service: &Service) {
    // A neighbour whose name begins like ours: of its prefix on S3, of its environment on a disk.
    let own = Database::create(kind_of(service)).await.unwrap();
    let url = format!("{}2", service.variable("BOX_STORE__URL"));
    let mut changes = vec![("BOX_DATABASE__URL", own.url())];
    changes.push(match service.local_store() {
        None => ("BOX_STORE__URL", url.as_str()),
        Some(_) => ("BOX_ENVIRONMENT", "test2"),
    });
    let neighbour = service.another_with(&changes).await;
    let stray = ObjectId::new(service.clock.now());
    put(&neighbour, stray, true).await;
    put(&neighbour, ObjectId::new(service.clock.now()), false).await;
    let file = neighbour.client("acme").upload("a", "theirs").await;
    service.clock.advance(HOUR);

    assert_eq!(kinds(&repair(service).await), []);
    service.settle().await;
    let content = neighbour.client("acme").content(id(&file)).await;
    assert_eq!(content, b"theirs");
    let report = repair(&neighbour).await;
    assert_eq!(kinds(&report), [ProblemKind::UnknownKey; 2], "{report}");
    neighbour.assert_holds(1).await;
    neighbour.stop().await;
}

fn kind_of(service: &Service) -> Kind {
    match service.pair {
        Pair::SqliteLocal => Kind::Sqlite,
        Pair::PostgresLocal | Pair::PostgresS3 => Kind::Postgres,
    }
}

/// Uploads, replacements and deletes, and the reaper behind them, while everything is checked.
async fn what_changes_meanwhile_is_no_problem(service: &Service) {
    let writers = (0..3).map(|writer| async move {
        let client = service.client("acme");
        for round in 0..20 {
            let file = client.upload(&format!("f{writer}-{round}"), "one").await;
            let path = format!("/v1/files/{}", id(&file));
            let content = client.put(&format!("{path}/content")).body("two");
            send(content).await.json(200);
            let gone = client.delete(&format!("{path}?permanent=true"));
            assert_eq!(send(gone).await.status, 204);
            service.domain().reap().await.unwrap();
        }
    });
    let changes = futures::future::join_all(writers);
    let checks = async {
        loop {
            let report = service.fsck().await;
            assert_eq!(report.problems.len(), 0, "{report}");
        }
    };
    tokio::select! {
        _ = changes => {}
        () = checks => {}
    }
    service.assert_holds(0).await;
}

async fn keys_are_looked_at_by_pages(service: &Service) {
    let Some(store) = service.local_store() else {
        return;
    };
    service.client("acme").upload("a", "content").await;
    let now = service.clock.now();
    let strays: Vec<ObjectId> = (0..1_100).map(|_| ObjectId::new(now)).collect();
    for stray in &strays {
        std::fs::write(store.join(key(service, *stray).path()), "stray").unwrap();
    }
    let report = service.fsck().await;
    assert_eq!((report.objects, report.keys), (1, 1_101));
    let mut found: Vec<ObjectId> = report
        .problems
        .iter()
        .map(|problem| problem.object_id.unwrap())
        .collect();
    found.sort_unstable();
    let mut wanted = strays.clone();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    service.clock.advance(HOUR);
    assert!(repair(service).await.problems.iter().all(|p| p.repaired));
    service.assert_holds(1).await;
}

async fn every_file_that_misses_its_bytes_is_told(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let mut wanted = vec![id(&file).to_owned()];
    for _ in 0..2 {
        let copy = client.post(&format!("/v1/files/{}/copy", id(&file)));
        let copy = send(copy.json(&serde_json::json!({}))).await.json(201);
        wanted.push(id(&copy).to_owned());
    }
    let first = wanted[0].parse().unwrap();
    let stored = service.domain().file_get(&tenant(), first).await.unwrap();
    let key = key(service, stored.unwrap().object_id);
    service.domain().objects.erase(&key, 1).await.unwrap();
    let report = service.fsck().await;
    assert_eq!(kinds(&report), [ProblemKind::MissingBytes; 3]);
    let told = report.problems.iter().map(|problem| problem.file_id);
    let mut told: Vec<String> = told.map(|file| file.unwrap().to_string()).collect();
    told.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(told, wanted);
    for file in wanted {
        let path = format!("/v1/files/{file}?permanent=true");
        send(client.delete(&path)).await;
    }
    service.assert_holds(0).await;
}

async fn checksums_are_read_at_a_rate(service: &Service) {
    for number in 0..2_u8 {
        let bytes = vec![number; 256 * 1024];
        service.client("acme").upload("a", bytes).await;
    }
    let options = Options {
        verify_checksums: true,
        rate: Some(1024 * 1024),
        ..Options::default()
    };
    let began = Instant::now();
    assert_eq!(kinds(&service.domain().fsck(options).await.unwrap()), []);
    assert!(began.elapsed() >= Duration::from_millis(500));
    service.assert_holds(2).await;
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

    // The reaper may be a moment late.
    service.clock.advance(Duration::from_secs(31));
    assert_eq!(kinds(&service.fsck().await), []);
    service.clock.advance(Duration::from_secs(60));
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
    assert_eq!(kinds(&service.fsck().await), []);
    service.clock.advance(Duration::from_secs(60));
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

    service.clock.advance(HOUR);
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
