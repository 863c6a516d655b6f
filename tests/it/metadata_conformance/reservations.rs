//! What objects hold of a quota and who refers to them: reserved, given back by each end, retained.

use box_service::id::ObjectId;
use box_service::metadata::objects::{FIRST_EPOCH, Intent, State};
use box_service::metadata::usage::Amount;
use futures::future::join_all;

use super::{Fixture, SHA256, SIZE, at, tenant};

conformance!(
    a_writing_object_reserves_more,
    only_a_writing_object_reserves,
    reservations_at_once_sum_exactly,
    what_was_reserved_is_told_once_by_each_end,
    expired_leases_tell_whose_they_were,
    a_live_object_is_retained,
    only_a_live_object_is_retained,
    references_taken_and_dropped_at_once_sum_exactly,
    an_object_that_dies_meanwhile_is_not_retained,
);

impl Fixture {
    async fn reserving(&self, name: &str, lease_until: i64, bytes: i64, files: i64) -> ObjectId {
        let intent = Intent {
            id: ObjectId::new(at(0)),
            tenant: tenant(name),
            lease_until: at(lease_until),
            quiet_at: at(200),
            now: at(0),
            reserved: Amount { bytes, files },
        };
        let id = intent.id;
        let intended = change!(self.metadata, intent, |tx, intent| tx.object_intend(intent));
        intended.await.unwrap();
        id
    }

    async fn reserve(&self, id: ObjectId, epoch: i64, bytes: i64) -> bool {
        let reserved = change!(self.metadata, |tx| tx.object_reserve(id, epoch, bytes));
        reserved.await.unwrap()
    }

    async fn publish_size(&self, id: ObjectId, now: i64) -> Option<Amount> {
        let published = change!(self.metadata, |tx| tx.object_publish(
            id,
            FIRST_EPOCH,
            at(now),
            SIZE,
            Some(&SHA256),
            true
        ));
        published.await.unwrap()
    }

    async fn abandon(&self, id: ObjectId, settled: bool) -> Option<Amount> {
        let abandoned = change!(self.metadata, |tx| tx.object_abandon(
            id,
            FIRST_EPOCH,
            at(50),
            settled
        ));
        abandoned.await.unwrap()
    }

    async fn expire(&self, now: i64, limit: u32) -> Vec<(String, i64, i64)> {
        let expired = change!(self.metadata, |tx| tx.object_expire_leases(
            at(now),
            at(now),
            limit
        ));
        let mut expired: Vec<(String, i64, i64)> = expired
            .await
            .unwrap()
            .into_iter()
            .map(|(tenant, amount)| (tenant.to_string(), amount.bytes, amount.files))
            .collect();
        expired.sort();
        expired
    }

    async fn retain(&self, id: ObjectId) -> bool {
        change!(self.metadata, |tx| tx.object_retain(id))
            .await
            .unwrap()
            .is_some()
    }

    async fn release(&self, id: ObjectId) {
        change!(self.metadata, |tx| tx.object_release(id, at(30)))
            .await
            .unwrap();
    }
}

async fn a_writing_object_reserves_more(fixture: Fixture) {
    let id = fixture.reserving("acme", 100, 7, 1).await;
    let other = fixture.reserving("acme", 100, 2, 3).await;
    assert!(fixture.reserve(id, FIRST_EPOCH, 5).await);
    assert!(fixture.reserve(id, FIRST_EPOCH, 1 << 60).await);
    assert!(fixture.reserve(id, FIRST_EPOCH, -2).await);
    let wanted = Amount {
        bytes: 10 + (1 << 60),
        files: 1,
    };
    assert_eq!(fixture.publish_size(id, 10).await, Some(wanted));
    let wanted = Amount { bytes: 2, files: 3 };
    assert_eq!(fixture.publish_size(other, 10).await, Some(wanted));
}

async fn only_a_writing_object_reserves(fixture: Fixture) {
    let writing = fixture.reserving("acme", 100, 7, 0).await;
    assert!(!fixture.reserve(writing, FIRST_EPOCH + 1, 5).await);
    let nowhere = ObjectId::new(at(0));
    for id in [fixture.live().await, fixture.dead(at(5)).await, nowhere] {
        assert!(!fixture.reserve(id, FIRST_EPOCH, 5).await);
    }
    let wanted = Amount { bytes: 7, files: 0 };
    assert_eq!(fixture.abandon(writing, true).await, Some(wanted));
}

async fn reservations_at_once_sum_exactly(fixture: Fixture) {
    let id = fixture.reserving("acme", 100, 1, 0).await;
    let reserved = join_all((0..50).map(|_| fixture.reserve(id, FIRST_EPOCH, 3))).await;
    assert!(reserved.into_iter().all(|reserved| reserved));
    let wanted = Amount {
        bytes: 151,
        files: 0,
    };
    assert_eq!(fixture.publish_size(id, 10).await, Some(wanted));
}

/// Whoever is told gives it back: twice would be too much.
async fn what_was_reserved_is_told_once_by_each_end(fixture: Fixture) {
    for end in 0..4 {
        let id = fixture.reserving("acme", 100, 7, 1).await;
        let wanted = Amount { bytes: 7, files: 1 };
        // Too late for this end.
        assert_eq!(fixture.publish_size(id, 100).await, None);
        match end {
            0 => assert_eq!(fixture.publish_size(id, 10).await, Some(wanted)),
            1 => assert_eq!(fixture.abandon(id, true).await, Some(wanted)),
            2 => assert_eq!(fixture.abandon(id, false).await, Some(wanted)),
            _ => assert_eq!(fixture.expire(100, 10).await, [("acme".to_owned(), 7, 1)]),
        }
        assert_eq!(fixture.publish_size(id, 10).await, None);
        assert_eq!(fixture.abandon(id, true).await, None);
        assert_eq!(fixture.abandon(id, false).await, None);
        assert_eq!(fixture.expire(100, 10).await, []);
    }

    // Also to those who try at the same time.
    let id = fixture.reserving("acme", 100, 7, 1).await;
    let ends = (0..12).map(|number| {
        let fixture = &fixture;
        async move {
            match number % 3 {
                0 => usize::from(fixture.publish_size(id, 10).await.is_some()),
                1 => usize::from(fixture.abandon(id, false).await.is_some()),
                _ => fixture.expire(100, 10).await.len(),
            }
        }
    });
    assert_eq!(join_all(ends).await.into_iter().sum::<usize>(), 1);
}

async fn expired_leases_tell_whose_they_were(fixture: Fixture) {
    fixture.reserving("acme", 10, 1, 1).await;
    fixture.reserving("other", 20, 2, 0).await;
    // Equal ones are told for each.
    fixture.reserving("other", 30, 2, 0).await;
    fixture.reserving("acme", 40, 0, 0).await;
    fixture.reserving("acme", 99, 5, 5).await;
    let told = |name: &str, bytes, files| (name.to_owned(), bytes, files);
    assert_eq!(
        fixture.expire(50, 3).await,
        [told("acme", 1, 1), told("other", 2, 0), told("other", 2, 0)]
    );
    assert_eq!(fixture.expire(50, 3).await, [told("acme", 0, 0)]);
    assert_eq!(fixture.expire(50, 3).await, []);
}

async fn a_live_object_is_retained(fixture: Fixture) {
    let id = fixture.live().await;
    let other = fixture.live().await;
    for refs in 2..=4 {
        assert!(fixture.retain(id).await);
        let object = fixture.object(id).await;
        assert_eq!((object.state, object.refs), (State::Live, refs));
    }
    assert_eq!(fixture.object(other).await.refs, 1);
    for refs in [3, 2, 1] {
        fixture.release(id).await;
        assert_eq!(fixture.object(id).await.refs, refs);
    }
    fixture.release(id).await;
    assert_eq!(fixture.object(id).await.state, State::Dead);
}

async fn only_a_live_object_is_retained(fixture: Fixture) {
    let writing = fixture.writing(at(100), at(200)).await;
    let dead = fixture.dead(at(5)).await;
    for id in [writing, dead, ObjectId::new(at(0))] {
        assert!(!fixture.retain(id).await);
    }
    assert_eq!(fixture.object(writing).await.refs, 0);
    let object = fixture.object(dead).await;
    assert_eq!((object.state, object.refs), (State::Dead, 0));
}

async fn references_taken_and_dropped_at_once_sum_exactly(fixture: Fixture) {
    let id = fixture.live().await;
    let both = (0..40).map(|number| {
        let fixture = &fixture;
        async move {
            assert!(fixture.retain(id).await);
            if number % 2 == 0 {
                fixture.release(id).await;
            }
        }
    });
    join_all(both).await;
    assert_eq!(fixture.object(id).await.refs, 21);
}

async fn an_object_that_dies_meanwhile_is_not_retained(fixture: Fixture) {
    for _ in 0..10 {
        let id = fixture.live().await;
        let (retained, ()) = tokio::join!(fixture.retain(id), fixture.release(id));
        let object = fixture.object(id).await;
        let wanted = if retained {
            (State::Live, 1)
        } else {
            (State::Dead, 0)
        };
        assert_eq!((object.state, object.refs), wanted);
    }
}
