//! Objects: each step of `writing` → `live` → `dead` → gone, and who is refused it.

use std::collections::BTreeSet;

use box_service::error::{Error, Kind as ErrorKind};
use box_service::id::ObjectId;
use box_service::metadata::objects::{FIRST_EPOCH, Intent, Object, State};
use box_service::metadata::usage::Amount;
use futures::future::join_all;
use uuid::Uuid;

use super::{Fixture, MICROSECOND, SHA256, SIZE, at, tenant};

conformance!(
    an_intent_is_recorded_once,
    a_lease_is_renewed_while_it_runs,
    only_a_writer_renews,
    a_written_object_is_published_once,
    an_object_that_reserved_nothing_is_published_once,
    a_lease_that_ran_out_publishes_nothing,
    a_size_past_63_bits_is_refused,
    a_settled_object_is_abandoned,
    an_unsettled_object_is_remembered_until_it_is_quiet,
    an_object_that_was_published_unsettled_is_remembered_until_it_is_quiet,
    only_a_writing_object_is_abandoned,
    the_last_reference_that_goes_makes_an_object_dead,
    an_object_is_remembered_until_it_is_quiet_and_due,
    there_is_no_reference_below_none,
    leases_that_ran_out_expire,
    leases_expire_in_batches_the_oldest_first,
    the_dead_are_claimed_when_due,
    the_dead_are_claimed_in_batches_the_longest_due_first,
    the_dead_are_claimed_by_one_of_many,
    a_dead_object_is_put_off,
    a_dead_object_is_forgotten_in_time,
    an_object_that_a_file_refers_to_is_not_forgotten,
    an_unknown_key_is_quarantined_once,
    references_are_counted,
    references_are_mended,
    references_mended_to_none_make_an_object_dead,
    objects_are_paged_by_id,
);

async fn an_intent_is_recorded_once(fixture: Fixture) {
    let intent = Intent {
        id: ObjectId::new(at(0)),
        tenant: tenant("Acme_2-x"),
        lease_until: at(100).plus(MICROSECOND),
        quiet_at: at(200),
        now: at(0),
        reserved: Amount::default(),
    };
    let id = intent.id;
    assert!(fixture.find(id).await.is_none());
    let intend = |intent| {
        change!(fixture.metadata, intent, |tx, intent| tx
            .object_intend(intent))
    };
    intend(intent.clone()).await.unwrap();

    let object = fixture.object(id).await;
    assert_eq!(object.id, id);
    assert_eq!(object.tenant, intent.tenant);
    assert_eq!(object.state, State::Writing);
    assert_eq!(object.epoch, FIRST_EPOCH);
    assert_eq!(object.refs, 0);
    assert_eq!((object.size, object.sha256), (None, None));
    assert_eq!(object.lease_until, Some(intent.lease_until));
    assert_eq!((object.delete_at, object.forget_at), (None, None));

    let error = intend(intent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
}

async fn a_lease_is_renewed_while_it_runs(fixture: Fixture) {
    let id = fixture.writing(at(100), at(200)).await;
    let renew = |now, until| {
        change!(fixture.metadata, |tx| tx.object_renew(
            id,
            FIRST_EPOCH,
            now,
            until,
            at(400)
        ))
    };
    assert!(renew(at(100).minus(MICROSECOND), at(300)).await.unwrap());
    assert_eq!(fixture.object(id).await.lease_until, Some(at(300)));
    assert!(!renew(at(300), at(500)).await.unwrap());
    assert_eq!(fixture.object(id).await.lease_until, Some(at(300)));

    // The time from which on nothing can arrive has moved too.
    let abandoned = change!(fixture.metadata, |tx| tx.object_abandon(
        id,
        FIRST_EPOCH,
        at(301),
        false
    ));
    assert!(abandoned.await.unwrap().is_some());
    assert_eq!(fixture.object(id).await.forget_at, Some(at(400)));
}

async fn only_a_writer_renews(fixture: Fixture) {
    let renew = |id, epoch| {
        change!(fixture.metadata, |tx| tx.object_renew(
            id,
            epoch,
            at(1),
            at(300),
            at(400)
        ))
    };
    let writing = fixture.writing(at(100), at(200)).await;
    assert!(!renew(writing, FIRST_EPOCH + 1).await.unwrap());
    assert_eq!(fixture.object(writing).await.lease_until, Some(at(100)));
    assert!(!renew(fixture.live().await, FIRST_EPOCH).await.unwrap());
    assert!(!renew(fixture.dead(at(0)).await, FIRST_EPOCH).await.unwrap());
    assert!(!renew(ObjectId::new(at(0)), FIRST_EPOCH).await.unwrap());
}

async fn a_written_object_is_published_once(fixture: Fixture) {
    let id = fixture.writing(at(100), at(200)).await;
    assert!(!fixture.publish(id, FIRST_EPOCH + 1, at(1)).await);
    assert_eq!(fixture.object(id).await.state, State::Writing);

    let in_time = at(100).minus(MICROSECOND);
    assert!(fixture.publish(id, FIRST_EPOCH, in_time).await);
    let object = fixture.object(id).await;
    assert_eq!((object.state, object.refs), (State::Live, 1));
    assert_eq!((object.size, object.sha256), (Some(SIZE), Some(SHA256)));
    assert_eq!(object.lease_until, None);
    assert_eq!((object.delete_at, object.forget_at), (None, None));

    assert!(!fixture.publish(id, FIRST_EPOCH, at(1)).await);
    assert_eq!(fixture.object(id).await.refs, 1);
    assert!(
        !fixture
            .publish(fixture.dead(at(0)).await, FIRST_EPOCH, at(1))
            .await
    );
    assert!(
        !fixture
            .publish(ObjectId::new(at(0)), FIRST_EPOCH, at(1))
            .await
    );
}

async fn a_lease_that_ran_out_publishes_nothing(fixture: Fixture) {
    let id = fixture.writing(at(100), at(200)).await;
    assert!(!fixture.publish(id, FIRST_EPOCH, at(100)).await);
    assert_eq!(fixture.object(id).await.state, State::Writing);
}

async fn an_object_that_reserved_nothing_is_published_once(fixture: Fixture) {
    let publish = async |id, now| {
        let refused: fn() -> Error = || Error::unavailable("refused");
        change!(fixture.metadata, |tx| tx.object_publish_unreserved(
            id, now, SIZE, &SHA256, true, refused
        ))
        .await
    };
    let id = fixture.writing(at(100), at(200)).await;
    assert!(publish(id, at(100)).await.is_err());
    publish(id, at(100).minus(MICROSECOND)).await.unwrap();
    let object = fixture.object(id).await;
    assert_eq!((object.state, object.refs), (State::Live, 1));
    assert_eq!((object.size, object.sha256), (Some(SIZE), Some(SHA256)));
    for id in [id, fixture.dead(at(0)).await, ObjectId::new(at(0))] {
        let error = publish(id, at(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    // What it holds of the quota has to be given back: a transaction that does not know fails.
    let reserving = fixture.writing(at(100), at(200)).await;
    change!(fixture.metadata, |tx| tx.object_reserve(
        reserving,
        FIRST_EPOCH,
        1
    ))
    .await
    .unwrap();
    assert!(publish(reserving, at(1)).await.is_err());
    assert_eq!(fixture.object(reserving).await.state, State::Writing);
}

async fn a_size_past_63_bits_is_refused(fixture: Fixture) {
    let id = fixture.writing(at(100), at(200)).await;
    let publish = |size| {
        change!(fixture.metadata, |tx| tx.object_publish(
            id,
            FIRST_EPOCH,
            at(1),
            size,
            Some(&SHA256),
            true
        ))
    };
    let most = u64::try_from(i64::MAX).unwrap();
    assert!(publish(most + 1).await.is_err());
    assert_eq!(fixture.object(id).await.state, State::Writing);
    assert!(publish(most).await.unwrap().is_some());
    assert_eq!(fixture.object(id).await.size, Some(most));
}

async fn a_settled_object_is_abandoned(fixture: Fixture) {
    let id = fixture.writing(at(100), at(200)).await;
    let abandon = |epoch| {
        change!(fixture.metadata, |tx| tx.object_abandon(
            id,
            epoch,
            at(5),
            true
        ))
    };
    assert_eq!(abandon(FIRST_EPOCH + 1).await.unwrap(), None);
    assert!(abandon(FIRST_EPOCH).await.unwrap().is_some());
    let object = fixture.object(id).await;
    assert_eq!((object.state, object.refs), (State::Dead, 0));
    assert_eq!(object.lease_until, None);
    // Nothing can arrive any more: the row may go at once.
    assert_eq!(object.delete_at, Some(at(5)));
    assert_eq!(object.forget_at, Some(at(5)));
}

async fn an_object_that_was_published_unsettled_is_remembered_until_it_is_quiet(fixture: Fixture) {
    let id = fixture.writing(at(100), at(200)).await;
    let published = change!(fixture.metadata, |tx| tx.object_publish(
        id,
        FIRST_EPOCH,
        at(10),
        SIZE,
        Some(&SHA256),
        false
    ));
    assert!(published.await.unwrap().is_some());
    change!(fixture.metadata, |tx| tx.object_release(id, at(20)))
        .await
        .unwrap();
    let object = fixture.object(id).await;
    assert_eq!(object.delete_at, Some(at(20)));
    assert_eq!(object.forget_at, Some(at(200)));
}

async fn an_unsettled_object_is_remembered_until_it_is_quiet(fixture: Fixture) {
    let id = fixture.writing(at(100), at(200)).await;
    // Whether its lease still runs makes no difference to one who gives it up.
    let abandoned = change!(fixture.metadata, |tx| tx.object_abandon(
        id,
        FIRST_EPOCH,
        at(150),
        false
    ));
    assert!(abandoned.await.unwrap().is_some());
    let object = fixture.object(id).await;
    assert_eq!(object.state, State::Dead);
    assert_eq!(object.delete_at, Some(at(150)));
    assert_eq!(object.forget_at, Some(at(200)));
}

async fn only_a_writing_object_is_abandoned(fixture: Fixture) {
    let abandon = |id, settled| {
        change!(fixture.metadata, |tx| tx.object_abandon(
            id,
            FIRST_EPOCH,
            at(7),
            settled
        ))
    };
    for settled in [true, false] {
        let dead = fixture.dead(at(5)).await;
        assert_eq!(abandon(dead, settled).await.unwrap(), None);
        assert_eq!(fixture.object(dead).await.delete_at, Some(at(5)));
        // The commit that its writer took for lost had come through.
        let live = fixture.live().await;
        assert_eq!(abandon(live, settled).await.unwrap(), None);
        assert_eq!(fixture.object(live).await.state, State::Live);
        assert_eq!(abandon(ObjectId::new(at(0)), settled).await.unwrap(), None);
    }
}

async fn the_last_reference_that_goes_makes_an_object_dead(fixture: Fixture) {
    let id = fixture.live().await;
    let more = change!(fixture.metadata, |tx| tx.object_mend_refs(id, 1, 3, at(20)));
    assert!(more.await.unwrap());
    let release = || change!(fixture.metadata, |tx| tx.object_release(id, at(30)));
    for left in [2, 1] {
        release().await.unwrap();
        let object = fixture.object(id).await;
        assert_eq!((object.state, object.refs), (State::Live, left));
        assert_eq!((object.delete_at, object.forget_at), (None, None));
    }
    release().await.unwrap();
    let object = fixture.object(id).await;
    assert_eq!((object.state, object.refs), (State::Dead, 0));
    assert_eq!(object.delete_at, Some(at(30)));
    assert_eq!(object.forget_at, Some(at(30)));
}

async fn an_object_is_remembered_until_it_is_quiet_and_due(fixture: Fixture) {
    // Another replica's clock is behind the one that published it at second 10.
    let id = fixture.live().await;
    let released = change!(fixture.metadata, |tx| tx.object_release(id, at(9)));
    released.await.unwrap();
    let object = fixture.object(id).await;
    assert_eq!(object.delete_at, Some(at(9)));
    assert_eq!(object.forget_at, Some(at(10)));
}

async fn there_is_no_reference_below_none(fixture: Fixture) {
    let writing = fixture.writing(at(100), at(200)).await;
    let dead = fixture.dead(at(5)).await;
    for id in [writing, dead, ObjectId::new(at(0))] {
        let released = change!(fixture.metadata, |tx| tx.object_release(id, at(30)));
        let error = released.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    }
    assert_eq!(fixture.object(writing).await.state, State::Writing);
    assert_eq!(fixture.object(dead).await.delete_at, Some(at(5)));
}

async fn leases_that_ran_out_expire(fixture: Fixture) {
    let expired = fixture.writing(at(100), at(200)).await;
    let running = fixture.writing(at(100).plus(MICROSECOND), at(200)).await;
    let live = fixture.live().await;
    let dead = fixture.dead(at(5)).await;
    let expire = || {
        change!(fixture.metadata, |tx| tx.object_expire_leases(
            at(100),
            at(100),
            10
        ))
    };
    assert_eq!(expire().await.unwrap().len(), 1);

    let object = fixture.object(expired).await;
    assert_eq!((object.state, object.refs), (State::Dead, 0));
    assert_eq!(object.lease_until, None);
    assert_eq!(object.delete_at, Some(at(100)));
    // Its writer may have a call on its way.
    assert_eq!(object.forget_at, Some(at(200)));
    assert_eq!(fixture.object(running).await.state, State::Writing);
    assert_eq!(fixture.object(live).await.state, State::Live);
    assert_eq!(fixture.object(dead).await.delete_at, Some(at(5)));
    assert_eq!(expire().await.unwrap().len(), 0);
}

async fn leases_expire_in_batches_the_oldest_first(fixture: Fixture) {
    let mut ids = Vec::new();
    for lease_until in [at(30), at(10), at(20)] {
        ids.push(fixture.writing(lease_until, at(200)).await);
    }
    let expire = || {
        change!(fixture.metadata, |tx| tx.object_expire_leases(
            at(100),
            at(100),
            2
        ))
    };
    assert_eq!(expire().await.unwrap().len(), 2);
    assert_eq!(fixture.object(ids[0]).await.state, State::Writing);
    assert_eq!(fixture.object(ids[1]).await.state, State::Dead);
    assert_eq!(fixture.object(ids[2]).await.state, State::Dead);
    assert_eq!(expire().await.unwrap().len(), 1);
    assert_eq!(expire().await.unwrap().len(), 0);
}

async fn the_dead_are_claimed_when_due(fixture: Fixture) {
    let due = fixture.live().await;
    change!(fixture.metadata, |tx| tx.object_release(due, at(50)))
        .await
        .unwrap();
    fixture.dead(at(50).plus(MICROSECOND)).await;
    fixture.live().await;
    fixture.writing(at(10), at(20)).await;

    let claim = |now| change!(fixture.metadata, |tx| tx.object_claim_dead(now, at(90), 10));
    let claimed = claim(at(50)).await.unwrap();
    assert_eq!(ids(&claimed), BTreeSet::from([due]));
    assert_eq!(claimed[0].tenant, fixture.tenant);
    assert_eq!(
        (claimed[0].state, claimed[0].epoch),
        (State::Dead, FIRST_EPOCH)
    );
    assert_eq!(claimed[0].size, Some(SIZE));
    // The next look is put off; when the row may go is not.
    assert_eq!(claimed[0].delete_at, Some(at(90)));
    assert_eq!(claimed[0].forget_at, Some(at(50)));
    assert_eq!(fixture.object(due).await.delete_at, Some(at(90)));

    assert!(claim(at(50)).await.unwrap().is_empty());
    assert_eq!(claim(at(90)).await.unwrap().len(), 2);
}

async fn the_dead_are_claimed_in_batches_the_longest_due_first(fixture: Fixture) {
    let mut dead = Vec::new();
    for delete_at in [at(30), at(10), at(20)] {
        dead.push(fixture.dead(delete_at).await);
    }
    let claim = || {
        change!(fixture.metadata, |tx| tx.object_claim_dead(
            at(50),
            at(90),
            2
        ))
    };
    assert_eq!(
        ids(&claim().await.unwrap()),
        BTreeSet::from([dead[1], dead[2]])
    );
    assert_eq!(ids(&claim().await.unwrap()), BTreeSet::from([dead[0]]));
    assert!(claim().await.unwrap().is_empty());
}

async fn the_dead_are_claimed_by_one_of_many(fixture: Fixture) {
    let mut dead = BTreeSet::new();
    for _ in 0..30 {
        dead.insert(fixture.dead(at(10)).await);
    }
    let claims = (0..6).map(|_| {
        change!(fixture.metadata, |tx| tx.object_claim_dead(
            at(50),
            at(90),
            30
        ))
    });
    let mut claimed = Vec::new();
    for claim in join_all(claims).await {
        claimed.extend(claim.unwrap());
    }
    assert_eq!(claimed.len(), 30);
    assert_eq!(ids(&claimed), dead);
}

async fn a_dead_object_is_put_off(fixture: Fixture) {
    let put_off = |id| change!(fixture.metadata, |tx| tx.object_delete_at(id, at(70)));
    let dead = fixture.dead(at(5)).await;
    put_off(dead).await.unwrap();
    let object = fixture.object(dead).await;
    assert_eq!(
        (object.delete_at, object.forget_at),
        (Some(at(70)), Some(at(5)))
    );

    let live = fixture.live().await;
    put_off(live).await.unwrap();
    assert_eq!(fixture.object(live).await.delete_at, None);
    put_off(ObjectId::new(at(0))).await.unwrap();
}

async fn a_dead_object_is_forgotten_in_time(fixture: Fixture) {
    let forget = |id, now| change!(fixture.metadata, |tx| tx.object_forget(id, now));
    let dead = fixture.dead(at(50)).await;
    assert!(!forget(dead, at(50).minus(MICROSECOND)).await.unwrap());
    assert!(fixture.find(dead).await.is_some());
    assert!(forget(dead, at(50)).await.unwrap());
    assert!(fixture.find(dead).await.is_none());
    assert!(!forget(dead, at(50)).await.unwrap());

    for spared in [fixture.live().await, fixture.writing(at(1), at(2)).await] {
        assert!(!forget(spared, at(999)).await.unwrap());
        assert!(fixture.find(spared).await.is_some());
    }
}

async fn an_object_that_a_file_refers_to_is_not_forgotten(fixture: Fixture) {
    let id = fixture.dead(at(5)).await;
    fixture.insert(&fixture.file(1, id)).await;
    let forgotten = change!(fixture.metadata, |tx| tx.object_forget(id, at(50)));
    assert!(forgotten.await.is_err());
    assert!(fixture.find(id).await.is_some());
}

async fn an_unknown_key_is_quarantined_once(fixture: Fixture) {
    let quarantine = |id, tenant, delete_at| {
        change!(fixture.metadata, tenant, |tx, tenant| tx.object_quarantine(
            id,
            tenant,
            at(0),
            delete_at
        ))
    };
    let id = ObjectId::new(at(0));
    assert!(quarantine(id, tenant("other"), at(60)).await.unwrap());
    let object = fixture.object(id).await;
    assert_eq!((object.state, object.refs), (State::Dead, 0));
    assert_eq!(
        (object.tenant, object.epoch),
        (tenant("other"), FIRST_EPOCH)
    );
    assert_eq!((object.size, object.sha256), (None, None));
    assert_eq!(object.delete_at, Some(at(60)));
    assert_eq!(object.forget_at, Some(at(60)));

    assert!(!quarantine(id, tenant("other"), at(99)).await.unwrap());
    assert_eq!(fixture.object(id).await.delete_at, Some(at(60)));
    let live = fixture.live().await;
    assert!(!quarantine(live, tenant("other"), at(99)).await.unwrap());
    let object = fixture.object(live).await;
    assert_eq!((object.state, object.tenant), (State::Live, tenant("acme")));
}

async fn references_are_counted(fixture: Fixture) {
    let id = fixture.live().await;
    let count = async || {
        fixture
            .reader()
            .await
            .conn()
            .object_count_refs(id)
            .await
            .unwrap()
    };
    assert_eq!(count().await, 0);
    fixture.insert(&fixture.file(1, id)).await;
    let mut trashed = fixture.file(2, id);
    trashed.trashed_at = Some(at(30));
    fixture.insert(&trashed).await;
    fixture.insert(&fixture.file(3, fixture.live().await)).await;
    assert_eq!(count().await, 2);
}

async fn references_are_mended(fixture: Fixture) {
    let id = fixture.live().await;
    let mend = |id, from, to| {
        change!(fixture.metadata, |tx| tx.object_mend_refs(
            id,
            from,
            to,
            at(40)
        ))
    };
    assert!(!mend(id, 2, 3).await.unwrap());
    assert!(!mend(id, 2, 0).await.unwrap());
    assert_eq!(fixture.object(id).await.refs, 1);
    assert!(mend(id, 1, 3).await.unwrap());
    let object = fixture.object(id).await;
    assert_eq!((object.state, object.refs), (State::Live, 3));
    assert_eq!((object.delete_at, object.forget_at), (None, None));

    let writing = fixture.writing(at(100), at(200)).await;
    for to in [0, 1] {
        assert!(!mend(writing, 0, to).await.unwrap());
    }
    assert_eq!(fixture.object(writing).await.state, State::Writing);
    assert!(!mend(fixture.dead(at(5)).await, 0, 1).await.unwrap());
    assert!(!mend(ObjectId::new(at(0)), 1, 0).await.unwrap());
}

async fn references_mended_to_none_make_an_object_dead(fixture: Fixture) {
    // Published at second 10: not quiet at second 9, quiet at 40.
    for (delete_at, forget_at) in [(at(9), at(10)), (at(40), at(40))] {
        let id = fixture.live().await;
        let mended = change!(fixture.metadata, |tx| tx
            .object_mend_refs(id, 1, 0, delete_at));
        assert!(mended.await.unwrap());
        let object = fixture.object(id).await;
        assert_eq!((object.state, object.refs), (State::Dead, 0));
        assert_eq!(object.delete_at, Some(delete_at));
        assert_eq!(object.forget_at, Some(forget_at));
    }
}

async fn objects_are_paged_by_id(fixture: Fixture) {
    // The order is that of unsigned bytes: a set first bit sorts last.
    let numbers = [1_u128 << 127, 1, u128::MAX, 0xff, 1 << 126, 0x100];
    let mut wanted: Vec<ObjectId> = Vec::new();
    for number in numbers {
        let id = ObjectId::from_uuid(Uuid::from_u128(number));
        let quarantined = change!(fixture.metadata, tenant("acme"), |tx, tenant| tx
            .object_quarantine(id, tenant, at(0), at(60)));
        assert!(quarantined.await.unwrap());
        wanted.push(id);
    }
    wanted.sort();
    for limit in [1, 2, 6, 100] {
        let mut found = Vec::new();
        loop {
            let after = found.last().copied();
            let page = fixture
                .reader()
                .await
                .conn()
                .object_page(after, limit)
                .await
                .unwrap();
            assert!(page.len() <= limit as usize);
            if page.is_empty() {
                break;
            }
            found.extend(page.iter().map(|row| row.object.id));
        }
        assert_eq!(found, wanted);
    }
}

fn ids(objects: &[Object]) -> BTreeSet<ObjectId> {
    objects.iter().map(|object| object.id).collect()
}
