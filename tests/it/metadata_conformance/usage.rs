//! Usage: sums that many change at once, and quotas that none exceeds. What is recorded against what is
//! there: see `drifts`.

use box_service::error::{Error, Kind as ErrorKind};
use box_service::metadata::usage::{Amount, Change, Drift, Quota};
use futures::FutureExt;
use futures::future::join_all;

use super::{Fixture, tenant};

conformance!(
    usage_is_the_sum_of_its_changes,
    usage_belongs_to_its_tenant,
    no_change_leaves_no_row,
    what_fits_a_quota_exactly_is_taken,
    each_half_of_a_quota_counts_alone,
    what_is_reserved_counts_towards_a_quota,
    taking_away_is_never_refused,
    what_was_recorded_without_a_quota_counts,
    a_refused_change_can_be_undone_with_its_transaction,
    changes_at_once_sum_exactly,
    changes_at_once_never_exceed_a_quota,
);

pub(super) const NO_QUOTA: Quota = Quota {
    bytes: None,
    files: None,
};

pub(super) fn amount(bytes: i64, files: i64) -> Amount {
    Amount { bytes, files }
}

pub(super) fn used(bytes: i64, files: i64) -> Change {
    Change {
        used: amount(bytes, files),
        ..Change::default()
    }
}

fn reserved(bytes: i64, files: i64) -> Change {
    Change {
        reserved: amount(bytes, files),
        ..Change::default()
    }
}

pub(super) fn quota(bytes: u64, files: u64) -> Quota {
    Quota {
        bytes: Some(bytes),
        files: Some(files),
    }
}

impl Fixture {
    async fn change_of(&self, name: &str, change: Change, quota: Quota) -> bool {
        let changed = change!(self.metadata, tenant(name), |tx, tenant| tx
            .usage_change(tenant, change, quota));
        changed.await.unwrap()
    }

    pub(super) async fn change(&self, change: Change, quota: Quota) -> bool {
        self.change_of("acme", change, quota).await
    }

    pub(super) async fn usage(&self, name: &str) -> Amount {
        let mut reader = self.reader().await;
        reader.conn().usage_get(&tenant(name)).await.unwrap()
    }

    pub(super) async fn drifts(&self) -> Vec<Drift> {
        self.reader().await.conn().usage_drifts().await.unwrap()
    }

    pub(super) async fn mend(&self, name: &str) -> bool {
        let mended = change!(self.metadata, tenant(name), |tx, tenant| tx
            .usage_mend(tenant));
        mended.await.unwrap()
    }

    /// By how much what is recorded of the tenant falls short: nothing else may.
    pub(super) async fn drift(&self) -> Change {
        let drifts = self.drifts().await;
        assert!(drifts.len() <= 1, "{drifts:?}");
        drifts.first().map_or(Change::default(), |drift| {
            assert_eq!(drift.tenant, self.tenant);
            drift.short
        })
    }
}

async fn usage_is_the_sum_of_its_changes(fixture: Fixture) {
    assert_eq!(fixture.usage("acme").await, amount(0, 0));
    let large = 1 << 60;
    for (change, sum) in [
        (used(5, 1), (5, 1)),
        (used(large, 0), (large + 5, 1)),
        (used(0, 2), (large + 5, 3)),
        (used(-5, -1), (large, 2)),
        // Not used yet.
        (reserved(7, 1), (large, 2)),
        (
            Change {
                used: amount(7, 1),
                reserved: amount(-7, -1),
            },
            (large + 7, 3),
        ),
        (used(-large - 7, -3), (0, 0)),
    ] {
        assert!(fixture.change(change, NO_QUOTA).await);
        assert_eq!(fixture.usage("acme").await, amount(sum.0, sum.1));
    }
    assert_eq!(fixture.drifts().await, []);
}

async fn usage_belongs_to_its_tenant(fixture: Fixture) {
    for (name, bytes) in [("acme", 1), ("Acme", 20), ("acme2", 300)] {
        assert!(fixture.change_of(name, used(bytes, 1), quota(300, 1)).await);
        assert!(!fixture.change_of(name, used(0, 1), quota(300, 1)).await);
    }
    for (name, bytes) in [("acme", 1), ("Acme", 20), ("acme2", 300)] {
        assert_eq!(fixture.usage(name).await, amount(bytes, 1));
    }
    assert_eq!(fixture.usage("acm").await, amount(0, 0));
}

async fn no_change_leaves_no_row(fixture: Fixture) {
    assert!(fixture.change(Change::default(), NO_QUOTA).await);
    // Nor does a quota that is full by now stand in the way of none.
    fixture.change(used(9, 9), NO_QUOTA).await;
    assert!(fixture.change(Change::default(), quota(5, 5)).await);
    assert_eq!(fixture.usage("acme").await, amount(9, 9));
}

async fn what_fits_a_quota_exactly_is_taken(fixture: Fixture) {
    let quota = quota(10, 3);
    // Before there is any row, too.
    assert!(!fixture.change(used(11, 1), quota).await);
    assert!(!fixture.change(used(1, 4), quota).await);
    assert_eq!(fixture.usage("acme").await, amount(0, 0));
    assert!(fixture.change(used(9, 1), quota).await);
    assert!(!fixture.change(used(2, 1), quota).await);
    assert_eq!(fixture.usage("acme").await, amount(9, 1));
    assert!(fixture.change(used(1, 2), quota).await);
    assert_eq!(fixture.usage("acme").await, amount(10, 3));
    for more in [used(1, 0), used(0, 1), reserved(1, 0), reserved(0, 1)] {
        assert!(!fixture.change(more, quota).await);
    }
    assert_eq!(fixture.usage("acme").await, amount(10, 3));

    let none = Quota {
        bytes: Some(0),
        files: Some(0),
    };
    assert!(!fixture.change_of("other", used(1, 0), none).await);
    assert!(!fixture.change_of("other", used(0, 1), none).await);
    let all = Quota {
        bytes: Some(u64::MAX),
        files: Some(u64::MAX),
    };
    assert!(fixture.change_of("other", used(1 << 60, 1), all).await);
}

async fn each_half_of_a_quota_counts_alone(fixture: Fixture) {
    let of_bytes = Quota {
        bytes: Some(10),
        files: None,
    };
    let of_files = Quota {
        bytes: None,
        files: Some(10),
    };
    assert!(fixture.change(used(10, 1000), of_bytes).await);
    assert!(fixture.change(used(0, 1), of_bytes).await);
    assert!(!fixture.change(used(1, 0), of_bytes).await);
    // What does not grow is not compared: an empty file fits where no byte would.
    assert!(fixture.change(used(1000, 0), of_files).await);
    assert!(!fixture.change(used(0, 1), of_files).await);
    assert!(fixture.change(used(0, 1), of_bytes).await);
    // Bytes that go make no room for files.
    assert!(!fixture.change(used(-500, 1), of_files).await);
    assert_eq!(fixture.usage("acme").await, amount(1010, 1002));
}

async fn what_is_reserved_counts_towards_a_quota(fixture: Fixture) {
    let quota = quota(10, 2);
    assert!(fixture.change(used(3, 0), quota).await);
    assert!(fixture.change(reserved(6, 2), quota).await);
    assert!(!fixture.change(used(2, 0), quota).await);
    assert!(!fixture.change(used(0, 1), quota).await);
    assert!(!fixture.change(reserved(2, 0), quota).await);
    // A smaller file came than was reserved for.
    let settle = Change {
        used: amount(4, 1),
        reserved: amount(-6, -2),
    };
    assert!(fixture.change(settle, quota).await);
    assert_eq!(fixture.usage("acme").await, amount(7, 1));
    assert!(fixture.change(used(3, 1), quota).await);
    assert!(!fixture.change(used(1, 0), quota).await);
    assert_eq!(fixture.drift().await, used(-10, -2));
}

async fn taking_away_is_never_refused(fixture: Fixture) {
    assert!(fixture.change(used(100, 10), NO_QUOTA).await);
    assert!(fixture.change(reserved(20, 2), NO_QUOTA).await);
    // The quota came later, and is exceeded by far.
    let quota = quota(5, 1);
    let settle = Change {
        used: amount(20, 2),
        reserved: amount(-20, -2),
    };
    for change in [used(-10, -1), used(-1, 0), used(0, -1), settle] {
        assert!(fixture.change(change, quota).await);
    }
    assert_eq!(fixture.usage("acme").await, amount(109, 10));
    assert!(!fixture.change(used(1, 0), quota).await);
    // As much goes as comes.
    let same = Change {
        used: amount(5, 1),
        reserved: amount(-5, -1),
    };
    assert!(fixture.change(same, quota).await);
    assert!(fixture.change(used(-114, -11), quota).await);
    assert_eq!(fixture.usage("acme").await, amount(0, 0));
}

async fn what_was_recorded_without_a_quota_counts(fixture: Fixture) {
    // Wherever it was recorded: one row alone says nothing.
    fixture
        .tamper(
            "INSERT INTO usage (tenant, shard, bytes, files, reserved_bytes, reserved_files)
             VALUES ('acme', 3, 50, 5, 0, 0), ('acme', 7, -20, -3, 0, 0), ('acme', 15, 10, 1, 5, 1),
                    ('other', 3, 1000, 1000, 0, 0)",
        )
        .await;
    let quota = quota(50, 5);
    assert_eq!(fixture.usage("acme").await, amount(40, 3));
    assert!(!fixture.change(used(6, 0), quota).await);
    assert!(!fixture.change(used(0, 2), quota).await);
    assert!(fixture.change(used(5, 1), quota).await);
    assert!(!fixture.change(used(1, 0), quota).await);
    assert!(fixture.change(used(-40, -3), quota).await);
    assert!(fixture.change(used(40, 3), quota).await);
    assert!(!fixture.change(used(1, 0), quota).await);
    assert_eq!(fixture.usage("acme").await, amount(45, 4));
}

async fn a_refused_change_can_be_undone_with_its_transaction(fixture: Fixture) {
    let refused = fixture
        .metadata
        .write(fixture.tenant.clone(), |tx, tenant| {
            async move {
                assert!(tx.usage_change(tenant, used(4, 1), quota(5, 5)).await?);
                if !tx.usage_change(tenant, used(4, 1), quota(5, 5)).await? {
                    return Err(Error::new(ErrorKind::QuotaExceeded, "No room."));
                }
                Ok(())
            }
            .boxed()
        });
    assert!(refused.await.is_err());
    assert_eq!(fixture.usage("acme").await, amount(0, 0));
}

async fn changes_at_once_sum_exactly(fixture: Fixture) {
    let changes = (0..50).map(|number| {
        let change = match number % 4 {
            0 => used(-1, 0),
            1 => reserved(2, 1),
            _ => used(10, 1),
        };
        let quota = if number % 3 == 0 {
            quota(1_000_000, 1_000)
        } else {
            NO_QUOTA
        };
        fixture.change(change, quota)
    });
    assert!(join_all(changes).await.into_iter().all(|changed| changed));
    // 13 of -1, 13 reserved, 24 of 10.
    assert_eq!(fixture.usage("acme").await, amount(240 - 13, 24));
    assert_eq!(
        fixture.drift().await,
        Change {
            used: amount(13 - 240, -24),
            reserved: amount(-26, -13),
        }
    );
}

async fn changes_at_once_never_exceed_a_quota(fixture: Fixture) {
    // Some of it is recorded elsewhere, and there is no row yet where changes wait for each other.
    fixture
        .tamper(
            "INSERT INTO usage (tenant, shard, bytes, files, reserved_bytes, reserved_files)
             VALUES ('acme', 5, 50, 2, 0, 0)",
        )
        .await;
    let quota = quota(175, 1000);
    let changes = (0..50).map(|number| {
        let change = if number % 2 == 0 {
            used(10, 1)
        } else {
            reserved(10, 1)
        };
        fixture.change(change, quota)
    });
    let taken = join_all(changes).await;
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 12);
    let short = fixture.drift().await;
    assert_eq!(short.used.bytes + short.reserved.bytes, -170);
    assert_eq!(short.used.files + short.reserved.files, -14);
}
