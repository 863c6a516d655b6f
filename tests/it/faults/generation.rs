//! The generation is raised, by a start or by the hour: whatever fails or dies at it, the database
//! is not taken for an older one, and the next one raises it.

use box_service::faults::Fault;

use crate::harness::service::Pair;

use super::site::Site;

async fn walk(pair: Pair) {
    let Some(site) = Site::open(pair, &[]).await else {
        return;
    };
    let mut told = Vec::new();
    for (name, fault) in [
        ("Fail", Fault::Fail),
        ("Outage", Fault::Outage),
        ("Crash", Fault::Crash),
        ("Paused", Fault::Pause(site.raised())),
        ("Late", Fault::Late),
        ("LateCrash", Fault::LateCrash),
    ] {
        let mut points = 0;
        loop {
            let process = site.process().await;
            process.faults.arm(points + 1, fault.clone());
            let outcome = process.does(process.domain.generation_raise()).await;
            let walked = process.faults.disarm();
            assert!(!process.domain.is_older(), "{outcome:?} after {walked:?}");
            let faults = process.faults.clone();
            process.end().await;

            let next = site.process().await;
            assert!(!next.domain.is_older(), "{outcome:?} after {walked:?}");
            next.domain.generation_raise().await.unwrap();
            // What was on its way finds another marker than it was meant for.
            faults.deliver().await;
            next.domain.generation_raise().await.unwrap();
            assert!(!next.domain.is_older(), "{outcome:?} after {walked:?}");
            site.settle(&next.domain).await;
            assert_eq!(site.assert_sound(&next.domain).await, 0, "{walked:?}");
            next.end().await;
            if !walked.fired {
                break;
            }
            points += 1;
        }
        told.push(format!("{name} {points}"));
    }
    println!("faults walked on {pair:?}: raise the generation: {}", told.join(", "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_local() {
    walk(Pair::SqliteLocal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_local() {
    walk(Pair::PostgresLocal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_s3() {
    walk(Pair::PostgresS3).await;
}
