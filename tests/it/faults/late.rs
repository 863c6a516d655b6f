//! What arrives late: bytes that come while the reaper is at the row that still answers for them.

use std::sync::Arc;
use std::time::Duration;

use box_service::faults::{Fault, Faults, Pause};
use box_service::id::ObjectId;
use box_service::objects::Lease;
use bytes::Bytes;
use futures::FutureExt;

use crate::harness::service::Pair;

use super::reaping::intend;
use super::site::{HORIZON, LEASE, Site};

/// A request arrives within its horizon, the reaper stands still somewhere, and when it goes on the
/// horizon is past.
async fn bytes_arrive_while_the_reaper_is_paused(pair: Pair) {
    let Some(site) = Site::open(pair, &[]).await else {
        return;
    };
    let mut points = 0;
    loop {
        let caller = site.somebody();
        let id: ObjectId = intend(&site, &caller).await;
        site.clock.advance(LEASE);
        let (clock, objects) = (site.clock.clone(), site.calm.objects.clone());
        let key = objects.root().object(&caller.tenant, id);
        let late: Pause = Arc::new(move || {
            let (clock, objects, key) = (clock.clone(), objects.clone(), key.clone());
            async move {
                let lease = Lease::new(clock.now().plus(HORIZON), clock.clone());
                let mut writer = objects.write(&key, 1, None, lease);
                writer
                    .write(vec![Bytes::from_static(b"late")])
                    .await
                    .unwrap();
                writer.finish().await.unwrap();
                clock.advance(HORIZON + Duration::from_secs(1));
            }
            .boxed()
        });
        let faults = Faults::switch();
        let process = site.process(&faults).await;
        faults.arm(points + 1, Fault::Pause(late));
        process.reap().await.unwrap();
        let walked = faults.disarm();
        site.end(process).await;

        site.horizon_passes(&site.calm).await;
        let left = site.assert_sound(&site.calm).await;
        assert_eq!(left, 0, "after {walked:?}");
        if !walked.fired {
            break;
        }
        points += 1;
    }
    println!("faults walked on {pair:?}: reap, and bytes arrive late: Paused {points}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_local() {
    bytes_arrive_while_the_reaper_is_paused(Pair::SqliteLocal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_local() {
    bytes_arrive_while_the_reaper_is_paused(Pair::PostgresLocal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_s3() {
    bytes_arrive_while_the_reaper_is_paused(Pair::PostgresS3).await;
}
