//! The first start: database and store are claimed, each for the other.

use std::time::Duration;

use box_service::app;
use box_service::clock::Clock;
use box_service::config::Config;
use box_service::domain::Domain;
use box_service::error::Result;
use box_service::faults::{Fault, Faults};

use crate::harness::service::{Pair, Parts, config, laid_over, start_of_time};

async fn start(config: &Config, clock: Clock, faults: Faults) -> Result<Domain> {
    let domain = app::open_domain_with(config, false, clock, faults).await?;
    domain.generation_raise().await?;
    Ok(domain)
}

/// A start that failed or died at any point is followed by one that succeeds, and nothing is left
/// that nobody answers for.
async fn walk(pair: Pair) {
    for fault in [Fault::Fail, Fault::Crash] {
        let mut points = 0;
        loop {
            let Some((_parts, variables)) = Parts::create(pair, &[]).await else {
                return;
            };
            let variables = laid_over(variables, &[("BOX_STORE__FSYNC", "true")]);
            let config = config(&variables);
            let clock = start_of_time();
            // The schema is there: migrations have no fault points.
            let migrated = app::open_metadata(&config, true).await.unwrap();
            migrated.close().await;

            let faults = Faults::switch();
            faults.arm(points + 1, fault.clone());
            let opened = tokio::select! {
                biased;
                () = faults.crashed() => None,
                opened = start(&config, clock.clone(), faults.clone()) => Some(opened),
            };
            let walked = faults.disarm();
            if let Some(Ok(domain)) = opened {
                domain.metadata.close().await;
            } else {
                assert!(walked.fired);
            }

            let again = start(&config, clock.clone(), Faults::none()).await;
            let domain = again.unwrap_or_else(|error| panic!("{error} after {walked:?}"));
            assert!(!domain.is_older(), "after {walked:?}");
            domain.reap().await.unwrap();
            clock.advance(Duration::from_secs(86_400));
            domain.reap().await.unwrap();
            let report = domain.fsck(Default::default()).await.unwrap();
            let sound = report.problems.is_empty() && report.objects == 0 && report.keys == 0;
            assert!(sound, "{report} after {walked:?}");
            domain.metadata.close().await;
            if !walked.fired {
                break;
            }
            points += 1;
        }
        println!("faults walked on {pair:?}: first start: {points}");
    }
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
