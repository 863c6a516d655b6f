//! Usage as it is recorded, against what there is: told and mended, also beside those who change it.

use box_service::id::ObjectId;
use box_service::metadata::objects::Intent;
use box_service::metadata::usage::{Amount, Change, Drift};
use futures::FutureExt;
use futures::future::join_all;

use super::usage::{NO_QUOTA, amount, quota, used};
use super::{Fixture, SIZE, at, file_id, tenant};

conformance!(
    what_drifted_is_told,
    what_drifted_is_mended,
    usage_without_a_row_is_mended_once,
    usage_is_mended_beside_writers,
);

fn reserved(bytes: i64, files: i64) -> Change {
    Change {
        reserved: amount(bytes, files),
        ..Change::default()
    }
}

/// Two files and two versions of 5 bytes each, and 9 bytes and 1 file reserved.
async fn something(fixture: &Fixture) {
    let object = fixture.live().await;
    let mut trashed = fixture.file(2, object);
    trashed.trashed_at = Some(at(30));
    fixture
        .insert_all(&[fixture.file(1, object), trashed])
        .await;
    for version in 1..=2 {
        let version = fixture.version(&fixture.file(1, object), version, object);
        fixture.insert_version(&version).await;
    }
    let intent = Intent {
        id: ObjectId::new(at(0)),
        tenant: fixture.tenant.clone(),
        lease_until: at(100),
        quiet_at: at(200),
        now: at(0),
        reserved: amount(9, 1),
    };
    change!(fixture.metadata, intent, |tx, intent| tx
        .object_intend(intent))
    .await
    .unwrap();
    fixture.writing(at(100), at(200)).await;
    fixture.dead(at(100)).await;
}

const SOMETHING: Change = Change {
    used: Amount {
        bytes: 4 * SIZE as i64,
        files: 2,
    },
    reserved: Amount { bytes: 9, files: 1 },
};

async fn what_drifted_is_told(fixture: Fixture) {
    assert_eq!(fixture.drifts().await, []);
    something(&fixture).await;
    assert_eq!(fixture.drift().await, SOMETHING);
    assert!(fixture.change(SOMETHING, NO_QUOTA).await);
    assert_eq!(fixture.drifts().await, []);

    // Each number by itself, in whatever row; and tenants that have nothing but a record of it.
    for (sql, short) in [
        (
            "UPDATE usage SET bytes = bytes - 3 WHERE tenant = 'acme'",
            used(3, 0),
        ),
        (
            "UPDATE usage SET files = files + 1, bytes = bytes + 3 WHERE tenant = 'acme'",
            used(0, -1),
        ),
        (
            "UPDATE usage SET reserved_bytes = 0, files = files - 1 WHERE tenant = 'acme'",
            reserved(9, 0),
        ),
        (
            "UPDATE usage SET reserved_bytes = 9, reserved_files = 3 WHERE tenant = 'acme'",
            reserved(0, -2),
        ),
        (
            "UPDATE objects SET reserved_files = reserved_files + 1 WHERE state = 'writing'",
            Change::default(),
        ),
        (
            "INSERT INTO usage (tenant, shard, bytes, files, reserved_bytes, reserved_files)
             VALUES ('acme', 9, 1, 0, 0, 0), ('acme', 10, -1, 0, 0, 0), ('B', 0, 0, 0, 0, 0)",
            Change::default(),
        ),
        ("DELETE FROM versions", used(-10, 0)),
    ] {
        fixture.tamper(sql).await;
        assert_eq!(fixture.drift().await, short, "{sql}");
    }
    fixture
        .tamper(
            "INSERT INTO usage (tenant, shard, bytes, files, reserved_bytes, reserved_files)
             VALUES ('b', 4, 1, 2, 3, 4), ('c', 0, -1, -2, -3, -4)",
        )
        .await;
    let gone = |name, sign| Drift {
        tenant: tenant(name),
        short: Change {
            used: amount(sign, sign * 2),
            reserved: amount(sign * 3, sign * 4),
        },
    };
    let drifts = fixture.drifts().await;
    assert_eq!(drifts[1..], [gone("b", -1), gone("c", 1)]);
}

async fn what_drifted_is_mended(fixture: Fixture) {
    something(&fixture).await;
    fixture
        .tamper(
            "INSERT INTO usage (tenant, shard, bytes, files, reserved_bytes, reserved_files)
             VALUES ('acme', 0, 7, 0, 0, 9), ('acme', 3, -70, 8, 1, 0), ('other', 2, 5, 5, 5, 5)",
        )
        .await;
    assert!(fixture.mend("acme").await);
    assert_eq!(fixture.usage("acme").await, SOMETHING.used);
    assert!(!fixture.mend("acme").await);
    // The others are as they were.
    assert_eq!(fixture.usage("other").await, amount(5, 5));
    assert_eq!(fixture.drifts().await.len(), 1);
    assert!(fixture.mend("other").await);
    assert_eq!(fixture.usage("other").await, amount(0, 0));
    assert_eq!(fixture.drifts().await, []);
    assert!(!fixture.mend("nobody").await);

    // A quota counts on from what was mended.
    let quota = quota(4 * SIZE + 10, 4);
    assert!(!fixture.change(used(2, 0), quota).await);
    assert!(fixture.change(used(1, 1), quota).await);
}

/// As after a restore: several replicas look at once, and each finds the same to be missing.
async fn usage_without_a_row_is_mended_once(fixture: Fixture) {
    something(&fixture).await;
    let mended = join_all((0..8).map(|_| fixture.mend("acme"))).await;
    assert_eq!(mended.into_iter().filter(|mended| *mended).count(), 1);
    assert_eq!(fixture.usage("acme").await, SOMETHING.used);
    assert_eq!(fixture.drifts().await, []);
}

async fn usage_is_mended_beside_writers(fixture: Fixture) {
    something(&fixture).await;
    fixture
        .tamper(
            "INSERT INTO usage (tenant, shard, bytes, files, reserved_bytes, reserved_files)
             VALUES ('acme', 3, 1000, -8, 1, 0)",
        )
        .await;
    let object = fixture.live().await;
    let write = |number: u128| {
        let file = fixture.file(100 + number, object);
        let quota = if number.is_multiple_of(2) {
            NO_QUOTA
        } else {
            quota(1 << 40, 1 << 20)
        };
        fixture.metadata.write(file, move |tx, file| {
            async move {
                tx.file_insert(file).await?;
                let taken = tx.usage_change(&file.tenant, used(5, 1), quota).await?;
                assert!(taken);
                Ok(())
            }
            .boxed()
        })
    };
    let delete = |number: u128| {
        let id = file_id(100 + number);
        fixture.metadata.write(tenant("acme"), move |tx, tenant| {
            async move {
                tx.file_delete(tenant, id).await?;
                tx.usage_change(tenant, used(-5, -1), NO_QUOTA).await?;
                Ok(())
            }
            .boxed()
        })
    };
    let writers = join_all((0..60).map(|number| async move {
        write(number).await.unwrap();
        if number % 3 == 0 {
            delete(number).await.unwrap();
        }
    }));
    let menders = join_all((0..20).map(|_| fixture.mend("acme")));
    let (_, mended) = tokio::join!(writers, menders);
    assert_eq!(mended.into_iter().filter(|mended| *mended).count(), 1);
    assert_eq!(
        fixture.usage("acme").await,
        amount(SOMETHING.used.bytes + 40 * 5, SOMETHING.used.files + 40)
    );
    assert_eq!(fixture.drifts().await, []);
}
