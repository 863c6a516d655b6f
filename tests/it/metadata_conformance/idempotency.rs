//! Idempotency keys: claimed by one, finished by the same, and freed by whoever may.

use box_service::clock::Timestamp;
use box_service::error::{Error, Kind as ErrorKind};
use box_service::id::ObjectId;
use box_service::metadata::idempotency::{Done, Record, RequestKey};
use box_service::metadata::objects::FIRST_EPOCH;
use futures::FutureExt;
use futures::future::join_all;

use super::{Fixture, MICROSECOND, at, tenant};

conformance!(
    a_key_is_claimed_once,
    one_of_many_claims_a_key,
    a_key_belongs_to_tenant_subject_and_route,
    a_claim_shows_its_lease_while_its_object_is_written,
    a_request_is_finished_by_who_claimed_its_key,
    a_request_is_recorded_in_one_step,
    one_of_many_records_a_request,
    a_record_that_came_to_nothing_frees_its_key,
    a_key_is_released_by_who_claimed_it,
    an_abandoned_key_is_forgotten,
    a_finished_key_is_forgotten_once_it_has_expired,
    keys_are_swept_by_age_the_oldest_first,
);

const FINGERPRINT: [u8; 32] = [1; 32];

fn key(text: &str) -> RequestKey {
    RequestKey {
        tenant: tenant("acme"),
        subject: "somebody".to_owned(),
        route: "create_file",
        key: text.to_owned(),
    }
}

fn done(result: &str) -> Done {
    Done {
        body_sha256: [2; 32],
        result: result.to_owned(),
    }
}

/// What is known of a request that runs or ran, but is not done.
fn claimed(now: Timestamp, lease_until: Option<Timestamp>) -> Record {
    Record {
        fingerprint: FINGERPRINT,
        created_at: now,
        lease_until,
        done: None,
    }
}

fn finished(now: Timestamp, result: &str) -> Record {
    Record {
        done: Some(done(result)),
        ..claimed(now, None)
    }
}

impl Fixture {
    async fn record(&self, key: &RequestKey) -> Option<Record> {
        let mut reader = self.reader().await;
        reader.conn().idempotency_get(key).await.unwrap()
    }

    async fn claim(&self, key: &RequestKey, object: ObjectId, now: Timestamp) -> bool {
        let claimed = change!(self.metadata, key.clone(), |tx, key| tx.idempotency_claim(
            key,
            &FINGERPRINT,
            object,
            now
        ));
        claimed.await.unwrap()
    }

    async fn finish(&self, key: &RequestKey, object: ObjectId, result: &str) -> bool {
        let input = (key.clone(), done(result));
        let finished = change!(self.metadata, input, |tx, input| tx
            .idempotency_finish(&input.0, object, &input.1));
        finished.await.unwrap()
    }

    async fn record_done(&self, key: &RequestKey, result: &str, now: Timestamp) -> bool {
        let input = (key.clone(), done(result));
        let recorded = change!(self.metadata, input, |tx, input| tx.idempotency_record(
            &input.0,
            &FINGERPRINT,
            &input.1,
            now
        ));
        recorded.await.unwrap()
    }

    async fn free(&self, key: &RequestKey, object: ObjectId) {
        let released = change!(self.metadata, key.clone(), |tx, key| tx
            .idempotency_release(key, object));
        released.await.unwrap();
    }

    async fn forget(&self, key: &RequestKey, created_at: Timestamp, expired: Timestamp) {
        let forgotten = change!(self.metadata, key.clone(), |tx, key| tx
            .idempotency_forget(key, created_at, expired));
        forgotten.await.unwrap();
    }

    async fn sweep(&self, before: Timestamp, limit: u32) -> u64 {
        let swept = change!(self.metadata, |tx| tx.idempotency_sweep(before, limit));
        swept.await.unwrap()
    }

    async fn writing_object(&self) -> ObjectId {
        self.writing(at(100), at(200)).await
    }
}

async fn a_key_is_claimed_once(fixture: Fixture) {
    let [mine, other] = [fixture.writing_object().await, fixture.live().await];
    for text in ["key", "Key", "", "é 😀 'quoted\" \\", &"k".repeat(255)] {
        let key = key(text);
        assert_eq!(fixture.record(&key).await, None);
        assert!(fixture.claim(&key, mine, at(5)).await);
        assert!(!fixture.claim(&key, other, at(6)).await);
        assert!(!fixture.claim(&key, mine, at(7)).await);
        let wanted = claimed(at(5), Some(at(100)));
        assert_eq!(fixture.record(&key).await, Some(wanted));
    }
}

async fn one_of_many_claims_a_key(fixture: Fixture) {
    let objects: Vec<ObjectId> = (0..20).map(|_| ObjectId::new(at(0))).collect();
    let key = key("key");
    let claims = objects
        .iter()
        .map(|object| fixture.claim(&key, *object, at(5)));
    let claims = join_all(claims).await;
    assert_eq!(claims.iter().filter(|claimed| **claimed).count(), 1);
    // And only that one may finish.
    for (object, claimed) in objects.into_iter().zip(claims) {
        assert_eq!(fixture.finish(&key, object, "{}").await, claimed);
    }
}

async fn a_key_belongs_to_tenant_subject_and_route(fixture: Fixture) {
    let mine = key("key");
    let mut of_tenant = mine.clone();
    of_tenant.tenant = tenant("Acme");
    let mut of_subject = mine.clone();
    of_subject.subject = "Somebody".to_owned();
    let mut of_nobody = mine.clone();
    of_nobody.subject = String::new();
    let mut of_route = mine.clone();
    of_route.route = "copy_file";
    let others = [of_tenant, of_subject, of_nobody, of_route, key("another")];
    let object = fixture.writing_object().await;
    assert!(fixture.claim(&mine, object, at(5)).await);
    for (number, other) in (6..).zip(&others) {
        assert_eq!(fixture.record(other).await, None);
        assert!(!fixture.finish(other, object, "{}").await);
        fixture.free(other, object).await;
        fixture.forget(other, at(5), at(999)).await;
        assert!(fixture.claim(other, object, at(number)).await);
    }
    fixture.free(&mine, object).await;
    assert_eq!(fixture.record(&mine).await, None);
    for (number, other) in (6..).zip(&others) {
        let wanted = claimed(at(number), Some(at(100)));
        assert_eq!(fixture.record(other).await, Some(wanted));
    }
}

async fn a_claim_shows_its_lease_while_its_object_is_written(fixture: Fixture) {
    let key = key("key");
    let object = fixture.writing_object().await;
    assert!(fixture.claim(&key, object, at(5)).await);
    let renewed = change!(fixture.metadata, |tx| tx.object_renew(
        object,
        FIRST_EPOCH,
        at(50),
        at(300),
        at(400)
    ));
    assert!(renewed.await.unwrap());
    assert_eq!(
        fixture.record(&key).await,
        Some(claimed(at(5), Some(at(300))))
    );
    // It lasts as long as the row says, also when that time has passed.
    let expired = change!(fixture.metadata, |tx| tx.object_expire_leases(
        at(300),
        at(300),
        10
    ));
    assert_eq!(expired.await.unwrap().len(), 1);
    assert_eq!(fixture.record(&key).await, Some(claimed(at(5), None)));

    // What is published without its request being finished is held by nobody; and an object that
    // was forgotten is no obstacle.
    let nowhere = ObjectId::new(at(0));
    for (text, object) in [("live", fixture.live().await), ("nowhere", nowhere)] {
        let other = RequestKey {
            key: text.to_owned(),
            ..key.clone()
        };
        assert!(fixture.claim(&other, object, at(5)).await);
        assert_eq!(fixture.record(&other).await, Some(claimed(at(5), None)));
    }
}

async fn a_request_is_finished_by_who_claimed_its_key(fixture: Fixture) {
    let key = key("key");
    let [mine, other] = [
        fixture.writing_object().await,
        fixture.writing_object().await,
    ];
    assert!(!fixture.finish(&key, mine, "unclaimed").await);
    assert!(fixture.claim(&key, mine, at(5)).await);
    assert!(!fixture.finish(&key, other, "another's").await);
    assert!(fixture.record(&key).await.unwrap().done.is_none());

    let result = r#"{"é":"😀 'quoted\" \\"}"#;
    assert!(fixture.finish(&key, mine, result).await);
    // Its lease is of no more interest, though the object may be written yet.
    let wanted = Some(finished(at(5), result));
    assert_eq!(fixture.record(&key).await, wanted);
    for object in [mine, other] {
        assert!(!fixture.finish(&key, object, "again").await);
        assert!(!fixture.claim(&key, object, at(6)).await);
    }
    assert_eq!(fixture.record(&key).await, wanted);
}

async fn a_request_is_recorded_in_one_step(fixture: Fixture) {
    let first = key("first");
    let now = at(5).plus(MICROSECOND);
    assert!(fixture.record_done(&first, "{}", now).await);
    assert!(!fixture.record_done(&first, "again", at(6)).await);
    let object = fixture.writing_object().await;
    assert!(!fixture.claim(&first, object, at(6)).await);
    assert_eq!(fixture.record(&first).await, Some(finished(now, "{}")));

    // Nor over a claim.
    let second = key("second");
    assert!(fixture.claim(&second, object, at(6)).await);
    assert!(!fixture.record_done(&second, "{}", at(7)).await);
    let wanted = claimed(at(6), Some(at(100)));
    assert_eq!(fixture.record(&second).await, Some(wanted));
}

async fn one_of_many_records_a_request(fixture: Fixture) {
    let key = key("key");
    let results: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let records = results
        .iter()
        .map(|result| fixture.record_done(&key, result, at(5)));
    let records = join_all(records).await;
    let mut recorded = results
        .iter()
        .zip(records)
        .filter(|(_, recorded)| *recorded);
    let (result, _) = recorded.next().unwrap();
    assert_eq!(recorded.next(), None);
    assert_eq!(fixture.record(&key).await, Some(finished(at(5), result)));
}

async fn a_record_that_came_to_nothing_frees_its_key(fixture: Fixture) {
    let attempts = (0..10).map(|number| {
        let input = (key("key"), done("{}"));
        fixture.metadata.write(input, move |tx, (key, done)| {
            async move {
                let now = at(number);
                if !tx.idempotency_record(key, &FINGERPRINT, done, now).await? {
                    return Ok(false);
                }
                // All but the last find that it can't be done, which is no answer for the others.
                if number < 9 {
                    return Err(Error::new(ErrorKind::PreconditionFailed, "It was not so."));
                }
                Ok(true)
            }
            .boxed()
        })
    });
    let mut recorded = 0;
    for attempt in join_all(attempts).await {
        recorded += usize::from(attempt.is_ok_and(|recorded| recorded));
    }
    assert_eq!(recorded, 1);
    assert_eq!(
        fixture.record(&key("key")).await,
        Some(finished(at(9), "{}"))
    );
}

async fn a_key_is_released_by_who_claimed_it(fixture: Fixture) {
    let key = key("key");
    let [mine, other] = [
        fixture.writing_object().await,
        fixture.writing_object().await,
    ];
    fixture.free(&key, mine).await;
    assert!(fixture.claim(&key, mine, at(5)).await);
    fixture.free(&key, other).await;
    assert!(fixture.record(&key).await.is_some());
    fixture.free(&key, mine).await;
    assert_eq!(fixture.record(&key).await, None);
    // Another has it by now, and finishes: that is nobody's to release.
    assert!(fixture.claim(&key, other, at(6)).await);
    fixture.free(&key, mine).await;
    assert!(fixture.finish(&key, other, "{}").await);
    fixture.free(&key, mine).await;
    fixture.free(&key, other).await;
    assert_eq!(fixture.record(&key).await, Some(finished(at(6), "{}")));
}

async fn an_abandoned_key_is_forgotten(fixture: Fixture) {
    let key = key("key");
    let object = fixture.dead(at(5)).await;
    let forget = |created_at| fixture.forget(&key, created_at, at(0));
    forget(at(5)).await;
    assert!(fixture.claim(&key, object, at(5)).await);
    // Who looked at an earlier claim does not free this one.
    for other in [at(4), at(5).minus(MICROSECOND), at(5).plus(MICROSECOND)] {
        forget(other).await;
        assert!(fixture.record(&key).await.is_some());
    }
    // However young it is.
    forget(at(5)).await;
    assert_eq!(fixture.record(&key).await, None);
    assert!(fixture.claim(&key, object, at(6)).await);
}

async fn a_finished_key_is_forgotten_once_it_has_expired(fixture: Fixture) {
    let recorded = key("recorded");
    assert!(fixture.record_done(&recorded, "{}", at(50)).await);
    let object = fixture.writing_object().await;
    let finished = key("finished");
    assert!(fixture.claim(&finished, object, at(50)).await);
    assert!(fixture.finish(&finished, object, "{}").await);
    for key in [recorded, finished] {
        // Who saw it abandoned had looked before it was finished.
        fixture
            .forget(&key, at(50), at(50).minus(MICROSECOND))
            .await;
        assert!(fixture.record(&key).await.is_some());
        fixture.forget(&key, at(49), at(50)).await;
        assert!(fixture.record(&key).await.is_some());
        fixture.forget(&key, at(50), at(50)).await;
        assert_eq!(fixture.record(&key).await, None);
    }
}

async fn keys_are_swept_by_age_the_oldest_first(fixture: Fixture) {
    let object = fixture.writing_object().await;
    let times = [
        at(30),
        at(10),
        at(20),
        at(20).plus(MICROSECOND),
        at(5),
        at(15),
    ];
    let mut keys = Vec::new();
    for (number, time) in (0..).zip(times) {
        let mut key = key(&format!("key {}", number / 2));
        key.tenant = tenant(["acme", "other"][number % 2]);
        // Whether they are done makes no difference.
        if number % 3 == 0 {
            assert!(fixture.claim(&key, object, time).await);
        } else {
            assert!(fixture.record_done(&key, "{}", time).await);
        }
        keys.push((time, key));
    }
    let left = async || {
        let mut left = Vec::new();
        for (time, key) in &keys {
            if fixture.record(key).await.is_some() {
                left.push(*time);
            }
        }
        left
    };
    assert_eq!(fixture.sweep(at(4), 10).await, 0);
    assert_eq!(fixture.sweep(at(20), 0).await, 0);
    assert_eq!(fixture.sweep(at(20), 2).await, 2);
    assert_eq!(left().await, [times[0], times[2], times[3], times[5]]);
    assert_eq!(fixture.sweep(at(20), 10).await, 2);
    assert_eq!(left().await, [times[0], times[3]]);
    assert_eq!(fixture.sweep(at(20), 10).await, 0);
    // By several at once.
    let swept = join_all((0..4).map(|_| fixture.sweep(at(99), 10))).await;
    assert_eq!(swept.iter().sum::<u64>(), 2);
    assert_eq!(left().await, []);
}
