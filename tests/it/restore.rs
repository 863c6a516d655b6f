//! A database that was restored from a backup, over a store that went on.

use std::time::Duration;

use box_service::domain::fsck::{Options, ProblemKind, Report};
use box_service::error::Kind;
use box_service::id::{FileId, ObjectId, Tenant};
use box_service::metadata::objects::Intent;
use box_service::metadata::usage::Amount;
use box_service::objects::{CALL_TIMEOUT, Lease};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::client::{id, send};
use crate::harness::database::Database;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    an_older_database_deletes_nothing_until_it_was_put_right,
    what_was_being_written_at_the_backup_is_kept_for_a_while,
    a_backup_of_the_same_generation_can_be_put_right_too,
    a_restart_makes_no_older_database,
    replicas_raise_the_generation_together,
);

const DAY: Duration = Duration::from_secs(86_400);

const AFTER_RESTORE: Options = Options {
    repair: false,
    after_restore: true,
    verify_checksums: true,
    rate: None,
};

fn tenant() -> Tenant {
    "acme".parse().unwrap()
}

fn kinds(report: &Report) -> Vec<ProblemKind> {
    report.problems.iter().map(|problem| problem.kind).collect()
}

async fn backup(service: &Service) -> Database {
    service.stop().await;
    Database::copy_of(service.variable("BOX_DATABASE__URL")).await
}

async fn over(service: &Service, database: &Database) -> Service {
    let changes = [("BOX_DATABASE__URL", database.url())];
    service.another_with(&changes).await
}

async fn remove(service: &Service, file: &Value) {
    let path = format!("/v1/files/{}?permanent=true", id(file));
    let removed = send(service.client("acme").delete(&path)).await;
    assert_eq!(removed.status, 204);
}

async fn ready(service: &Service) -> u16 {
    send(service.stranger().get("/health/ready")).await.status
}

async fn an_older_database_deletes_nothing_until_it_was_put_right(service: &Service) {
    let client = service.client("acme");
    let kept = client.upload("kept", "kept").await;
    let gone = client.upload("gone", "gone").await;
    let due = client.upload("due", "due").await;
    let patch = client.patch(&format!("/v1/files/{}", id(&due)));
    let expires_at = service.clock.now().plus(Duration::from_secs(60));
    send(patch.json(&json!({ "expires_at": expires_at })))
        .await
        .json(200);
    let backup = backup(service).await;

    let later = service.another().await;
    later.client("acme").upload("newer", "newer").await;
    remove(&later, &gone).await;
    later.domain().reap().await.unwrap();
    later.stop().await;

    let restored = over(service, &backup).await;
    assert!(restored.domain().is_older());
    let answer = send(restored.stranger().get("/health/ready")).await;
    answer.problem(503, "unavailable");
    assert_eq!(
        send(restored.stranger().get("/health")).await.json(503)["status"],
        "unavailable"
    );
    send(restored.stranger().get("/health/live"))
        .await
        .json(200);

    // Nothing is removed, whatever is due.
    service.clock.advance(DAY);
    for round in [restored.domain().sweep(), restored.domain().sweep()] {
        assert_eq!(round.await.unwrap(), 0);
        assert_eq!(restored.domain().reap().await.unwrap(), 0);
    }
    assert_eq!(restored.count("files").await, 3);
    let repair = Options {
        repair: true,
        ..Options::default()
    };
    let refused = restored.domain().fsck(repair).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(refused.to_string().contains("--after-restore"), "{refused}");

    let wanted = [
        ProblemKind::UnknownKey,
        ProblemKind::MissingBytes,
        ProblemKind::OlderDatabase,
    ];
    let report = restored.fsck().await;
    assert_eq!(kinds(&report), wanted, "{report}");
    assert!(report.problems.iter().all(|problem| !problem.repaired));
    assert!(restored.domain().is_older());
    assert_eq!(ready(&restored).await, 503);

    // Another replica, which finds out by itself that it was put right.
    let other = over(service, &backup).await;
    assert!(other.domain().is_older());
    let report = restored.domain().fsck(AFTER_RESTORE).await.unwrap();
    assert_eq!(kinds(&report), wanted, "{report}");
    let repaired: Vec<bool> = report.problems.iter().map(|found| found.repaired).collect();
    assert_eq!(repaired, [true, false, true], "{report}");
    let missing: FileId = id(&gone).parse().unwrap();
    assert_eq!(report.problems[1].file_id, Some(missing));
    for replica in [&restored, &other] {
        replica.domain().generation_raise().await.unwrap();
        assert!(!replica.domain().is_older());
        assert_eq!(ready(replica).await, 200);
    }
    other.stop().await;

    // The files without bytes are left to their owners, what nobody knows of to the operator.
    let client = restored.client("acme");
    assert_eq!(client.content(id(&kept)).await, b"kept");
    let report = restored.fsck().await;
    assert_eq!(kinds(&report), [ProblemKind::MissingBytes], "{report}");
    assert_eq!(restored.domain().sweep().await.unwrap(), 1);
    remove(&restored, &gone).await;
    restored.domain().reap().await.unwrap();
    let report = restored.fsck().await;
    assert_eq!((report.problems.len(), report.keys), (0, 2), "{report}");
    service.clock.advance(6 * DAY);
    restored.domain().reap().await.unwrap();
    assert_eq!(restored.fsck().await.keys, 2);
    service.clock.advance(DAY);
    restored.assert_holds(1).await;
    restored.stop().await;
}

async fn what_was_being_written_at_the_backup_is_kept_for_a_while(service: &Service) {
    let now = service.clock.now();
    let object = ObjectId::new(now);
    let intent = Intent {
        id: object,
        tenant: tenant(),
        lease_until: now.plus(Duration::from_secs(30)),
        quiet_at: now.plus(Duration::from_secs(3_630)),
        now,
        reserved: Amount::default(),
    };
    let intended = service.domain().metadata.write(intent, |tx, intent| {
        async move { tx.object_intend(intent).await }.boxed()
    });
    intended.await.unwrap();
    let backup = backup(service).await;
    let objects = &service.domain().objects;
    let key = objects.root().object(&tenant(), object);
    let lease = Lease::new(now.plus(CALL_TIMEOUT * 2), service.clock.clone());
    let mut writer = objects.write(&key, 1, None, lease);
    let bytes = vec![Bytes::from_static(b"bytes")];
    writer.finish_with(bytes).await.unwrap();
    service.another().await.stop().await;

    service.clock.advance(DAY);
    let restored = over(service, &backup).await;
    let report = restored.domain().fsck(AFTER_RESTORE).await.unwrap();
    assert_eq!(kinds(&report), [ProblemKind::OlderDatabase], "{report}");
    restored.domain().reap().await.unwrap();
    service.clock.advance(6 * DAY);
    restored.domain().reap().await.unwrap();
    assert!(objects.head(&key).await.unwrap().is_some());
    service.clock.advance(DAY);
    restored.assert_holds(0).await;
    restored.stop().await;
}

/// Made and restored within the hour, and without a start in between: nothing tells.
async fn a_backup_of_the_same_generation_can_be_put_right_too(service: &Service) {
    let backup = {
        service.stop().await;
        Database::copy_of(service.variable("BOX_DATABASE__URL")).await
    };
    // Of a service that went on all the time.
    let objects = &service.domain().objects;
    let stray = ObjectId::new(service.clock.now());
    let key = objects.root().object(&tenant(), stray);
    let until = service.clock.now().plus(CALL_TIMEOUT * 2);
    let mut writer = objects.write(&key, 1, None, Lease::new(until, service.clock.clone()));
    let bytes = vec![Bytes::from_static(b"newer")];
    writer.finish_with(bytes).await.unwrap();

    let restored = over(service, &backup).await;
    assert!(!restored.domain().is_older());
    let report = restored.domain().fsck(AFTER_RESTORE).await.unwrap();
    assert_eq!(kinds(&report), [ProblemKind::UnknownKey], "{report}");
    // However young it is: the operator says that the database lacks rows.
    assert!(report.problems[0].repaired, "{report}");
    assert_eq!(kinds(&restored.fsck().await), []);
    service.clock.advance(7 * DAY);
    restored.assert_holds(0).await;
    restored.stop().await;
}

async fn a_restart_makes_no_older_database(service: &Service) {
    for _ in 0..3 {
        let next = service.another().await;
        assert!(!next.domain().is_older());
        assert_eq!(ready(&next).await, 200);
        next.stop().await;
        service.domain().generation_raise().await.unwrap();
        assert!(!service.domain().is_older());
    }
}

async fn replicas_raise_the_generation_together(service: &Service) {
    let other = service.another().await;
    let domains = [service.domain(), other.domain()];
    for outcome in join_all((0..12).map(|number| domains[number % 2].generation_raise())).await {
        outcome.unwrap();
    }
    for domain in domains {
        domain.generation_raise().await.unwrap();
        assert!(!domain.is_older());
    }
    other.stop().await;
}
