//! The generation: what raises it, and what puts a database right that is behind it. Whatever fails
//! or dies at it, no database is taken for an older one that is none, and the next one completes it.

use std::time::Duration;

use box_service::domain::fsck::Options;
use box_service::faults::Fault;
use box_service::id::ObjectId;
use box_service::metadata::Conn;
use futures::FutureExt;

use crate::harness::service::Pair;

use super::reaping::put;
use super::site::Site;
use super::uploads::upload;
use super::walk::remove_all;

async fn raise(pair: Pair) {
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
    println!(
        "faults walked on {pair:?}: raise the generation: {}",
        told.join(", ")
    );
}

/// As if the database were of the first day.
async fn make_older(site: &Site) {
    const SQL: &str = "UPDATE deployment SET generation = 0, raising = 0";
    site.calm.generation_raise().await.unwrap();
    let made = site.calm.metadata.write((), |tx, ()| {
        async move {
            match tx {
                Conn::Sqlite(c) => sqlx::query(SQL)
                    .execute(c.ready().await?)
                    .await
                    .map(|_| ())?,
                Conn::Postgres(c, _) => sqlx::query(SQL).execute(&mut **c).await.map(|_| ())?,
            }
            Ok(())
        }
        .boxed()
    });
    made.await.unwrap();
}

/// `box fsck --after-restore`, over a key without a row and another one on its way.
async fn put_right(pair: Pair) {
    let Some(site) = Site::open(pair, &[]).await else {
        return;
    };
    let options = Options {
        after_restore: true,
        ..Options::default()
    };
    let mut told = Vec::new();
    for (name, fault) in [
        ("Fail", Fault::Fail),
        ("Outage", Fault::Outage),
        ("Crash", Fault::Crash),
    ] {
        let mut points = 0;
        loop {
            let caller = site.somebody();
            upload(&site.calm, &caller, "file", b"bytes").await;
            let now = site.clock.now();
            put(&site, &caller, ObjectId::new(now), true).await;
            put(&site, &caller, ObjectId::new(now), false).await;
            make_older(&site).await;
            let process = site.process().await;
            assert!(process.domain.is_older());
            process.faults.arm(points + 1, fault.clone());
            let outcome = process.does(process.domain.fsck(options)).await;
            let walked = process.faults.disarm();
            process.end().await;

            let next = site.process().await;
            if !matches!(outcome, Some(Ok(_))) && next.domain.is_older() {
                assert_eq!(next.domain.reap().await.unwrap(), 0);
            }
            next.domain.fsck(options).await.unwrap();
            assert!(!next.domain.is_older(), "{outcome:?} after {walked:?}");
            site.settle(&next.domain).await;
            let kept = site.assert_sound(&next.domain).await;
            assert_eq!(kept, 3, "{outcome:?} after {walked:?}");
            site.clock.advance(Duration::from_secs(7 * 86_400));
            remove_all(&next.domain, &caller).await;
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
    println!(
        "faults walked on {pair:?}: fsck --after-restore: {}",
        told.join(", ")
    );
}

mod raise {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite_local() {
        super::raise(Pair::SqliteLocal).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres_local() {
        super::raise(Pair::PostgresLocal).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres_s3() {
        super::raise(Pair::PostgresS3).await;
    }
}

mod after_restore {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite_local() {
        put_right(Pair::SqliteLocal).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres_local() {
        put_right(Pair::PostgresLocal).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres_s3() {
        put_right(Pair::PostgresS3).await;
    }
}
