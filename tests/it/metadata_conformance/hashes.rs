//! Objects that are hashed after they are live, and who is told.

use box_service::id::ObjectId;
use box_service::metadata::hashes::Unhashed;
use box_service::metadata::objects::FIRST_EPOCH;

use super::{Fixture, SHA256, SIZE, at};

conformance!(
    an_object_without_a_hash_waits_for_one,
    a_claim_puts_the_next_look_off,
    those_without_a_hash_are_counted,
    everything_that_refers_to_it_is_told,
    who_refers_to_it_from_then_on_is_told_at_once,
    what_is_gone_is_not_hashed,
);

impl Fixture {
    /// Live at second 10, and not hashed.
    async fn unhashed(&self) -> ObjectId {
        let id = self.writing(at(100), at(200)).await;
        let published = change!(self.metadata, |tx| tx.object_publish(
            id,
            FIRST_EPOCH,
            at(10),
            SIZE,
            None,
            true
        ));
        assert!(published.await.unwrap().is_some());
        id
    }

    async fn claim_unhashed(&self, now: i64, again: i64) -> Option<Unhashed> {
        let claimed = change!(self.metadata, |tx| tx
            .object_unhashed_claim(at(now), at(again)));
        claimed.await.unwrap()
    }

    async fn waits(&self, now: i64) -> bool {
        let mut reader = self.reader().await;
        reader.conn().object_unhashed_waits(at(now)).await.unwrap()
    }

    async fn hashed(&self, id: ObjectId) -> bool {
        let hashed = change!(self.metadata, |tx| tx.object_hashed(id, &SHA256));
        hashed.await.unwrap()
    }

    async fn told(&self, id: ObjectId) {
        let told = change!(self.metadata, |tx| tx.object_hash_told(id, &SHA256));
        told.await.unwrap();
    }
}

async fn an_object_without_a_hash_waits_for_one(fixture: Fixture) {
    fixture.live().await;
    assert!(!fixture.waits(1_000).await);
    assert_eq!(fixture.claim_unhashed(1_000, 1_001).await, None);
    let id = fixture.unhashed().await;
    assert_eq!(fixture.object(id).await.sha256, None);
    assert!(fixture.waits(10).await && !fixture.waits(9).await);
    let expected = Unhashed {
        id,
        tenant: fixture.tenant.clone(),
        size: SIZE,
        sha256: None,
    };
    assert_eq!(fixture.claim_unhashed(10, 20).await, Some(expected));
    assert!(fixture.hashed(id).await);
    assert_eq!(fixture.object(id).await.sha256, Some(SHA256));
    // Until all are told it is claimed as one that only has to tell.
    let claimed = fixture.claim_unhashed(20, 30).await.unwrap();
    assert_eq!((claimed.id, claimed.sha256), (id, Some(SHA256)));
    fixture.told(id).await;
    assert!(!fixture.waits(1_000).await);
}

async fn a_claim_puts_the_next_look_off(fixture: Fixture) {
    let (first, second) = (fixture.unhashed().await, fixture.unhashed().await);
    let mut claimed = Vec::new();
    while let Some(object) = fixture.claim_unhashed(10, 40).await {
        claimed.push(object.id);
    }
    claimed.sort();
    let mut both = [first, second];
    both.sort();
    assert_eq!(claimed, both);
    let keep = |until| {
        change!(fixture.metadata, |tx| tx
            .object_unhashed_keep(first, at(until)))
    };
    assert!(keep(70).await.unwrap());
    assert_eq!(fixture.claim_unhashed(40, 80).await.unwrap().id, second);
    assert_eq!(fixture.claim_unhashed(69, 80).await, None);
    assert_eq!(fixture.claim_unhashed(70, 90).await.unwrap().id, first);
    assert!(fixture.hashed(first).await);
    fixture.told(first).await;
    assert!(!keep(100).await.unwrap());
}

async fn those_without_a_hash_are_counted(fixture: Fixture) {
    let counted = || async {
        let mut reader = fixture.reader().await;
        reader.conn().objects_unhashed().await.unwrap()
    };
    fixture.live().await;
    assert_eq!(counted().await, (0, None));
    let ids = [fixture.unhashed().await, fixture.unhashed().await];
    assert_eq!(counted().await, (2, Some(at(10))));
    // One that is being hashed is counted, and waits no more.
    let first = fixture.claim_unhashed(10, 40).await.unwrap().id;
    assert_eq!(counted().await, (2, Some(at(10))));
    fixture.claim_unhashed(10, 50).await.unwrap();
    assert_eq!(counted().await, (2, Some(at(40))));
    assert!(fixture.hashed(first).await);
    fixture.told(first).await;
    assert_eq!(counted().await, (1, Some(at(50))));
    let other = ids.into_iter().find(|id| *id != first).unwrap();
    change!(fixture.metadata, |tx| tx.object_release(other, at(20)))
        .await
        .unwrap();
    assert_eq!(counted().await, (0, None));
}

async fn everything_that_refers_to_it_is_told(fixture: Fixture) {
    let id = fixture.unhashed().await;
    let mut current = fixture.file(1, id);
    current.sha256 = None;
    let mut other = fixture.file(2, fixture.live().await);
    other.sha256 = Some([1; 32]);
    other.version = 2;
    for file in [&current, &other] {
        fixture.insert(file).await;
    }
    let mut version = fixture.version(&other, 1, id);
    version.sha256 = None;
    fixture.insert_version(&version).await;
    assert!(fixture.hashed(id).await);
    fixture.told(id).await;
    let mut reader = fixture.reader().await;
    let conn = &mut reader.conn();
    let tenant = &fixture.tenant;
    let told = conn.file_get(tenant, current.id).await.unwrap().unwrap();
    assert_eq!(told.sha256, Some(SHA256));
    assert_eq!(told.revision, current.revision);
    let told = conn.file_get(tenant, other.id).await.unwrap().unwrap();
    assert_eq!(told.sha256, other.sha256);
    let told = conn
        .version_get(tenant, other.id, 1)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(told.sha256, Some(SHA256));
}

async fn who_refers_to_it_from_then_on_is_told_at_once(fixture: Fixture) {
    let id = fixture.unhashed().await;
    let retain = || change!(fixture.metadata, |tx| tx.object_retain(id));
    assert_eq!(retain().await.unwrap(), Some(None));
    assert!(fixture.hashed(id).await);
    assert_eq!(retain().await.unwrap(), Some(Some(SHA256)));
}

async fn what_is_gone_is_not_hashed(fixture: Fixture) {
    let id = fixture.unhashed().await;
    change!(fixture.metadata, |tx| tx.object_release(id, at(20)))
        .await
        .unwrap();
    assert!(!fixture.waits(1_000).await);
    assert!(!fixture.hashed(id).await);
    let keep = change!(fixture.metadata, |tx| tx.object_unhashed_keep(id, at(50)));
    assert!(!keep.await.unwrap());
    assert_eq!(fixture.object(id).await.sha256, None);
}
