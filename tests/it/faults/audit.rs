//! Sealing, retention and the writing of what was noted: whatever fails or dies at it, there is one
//! chain, which is whole, and the next one completes it.

use std::sync::Arc;
use std::time::Duration;

use box_service::domain::audit::{Access, EventFilter, Report, Standing};
use box_service::domain::{Caller, Domain};
use box_service::error::Result;
use box_service::faults::{Fault, Pause};
use box_service::id::Tenant;
use futures::FutureExt;

use crate::harness::service::Pair;

use super::site::{LEASE, Site};
use super::uploads::upload;

const DAY: Duration = Duration::from_secs(86_400);

/// What is done one step after the other.
async fn round(domain: &Domain) -> Result<()> {
    domain.access_write().await?;
    domain.audit_seal().await?;
    domain.audit_sweep().await.map(drop)
}

/// Its lease runs out, and another process does the same meanwhile.
fn meanwhile(site: &Site) -> Pause {
    let (clock, other) = (site.clock.clone(), site.other().clone());
    Arc::new(move || {
        clock.advance(LEASE + Duration::from_secs(1));
        let other = other.clone();
        async move {
            // Fails where the one that stands still has a transaction open.
            let _ = round(&other).await;
        }
        .boxed()
    })
}

async fn verified(domain: &Domain, tenant: &Tenant) -> Report {
    let mut found = Vec::new();
    let mut tell = |report: &Report| found.push(report.clone());
    domain
        .audit_verify(Some(tenant), &[], &mut tell)
        .await
        .unwrap();
    let report = found.remove(0);
    assert_eq!(report.standing(), Standing::Intact, "{report:?}");
    report
}

async fn walk(pair: Pair) {
    let Some(site) = Site::open(
        pair,
        &[("BOX_AUDIT__KEEP", "10d"), ("BOX_AUTH__SECRET", SECRET)],
    )
    .await
    else {
        return;
    };
    assert!(site.calm.audit_keys.is_some());
    let mut told = Vec::new();
    let tenant: Tenant = "acme".parse().unwrap();
    let (mut uploaded, mut told_of) = (0, 0);
    for (name, fault) in [
        ("Fail", Fault::Fail),
        ("Outage", Fault::Outage),
        ("Crash", Fault::Crash),
        ("Paused", Fault::Pause(meanwhile(&site))),
    ] {
        let mut points = 0;
        loop {
            // Some that are to be sealed, and some that are too old once they are.
            let caller = site.somebody();
            upload(&site.calm, &caller, &format!("{name} {points} old"), b"x").await;
            site.calm.audit_seal().await.unwrap();
            site.clock.advance(DAY * 11);
            upload(&site.calm, &caller, &format!("{name} {points} new"), b"x").await;
            uploaded += 2;
            let process = site.process().await;
            let noted = Caller::service(tenant.clone());
            let target = format!("{name} {points}");
            process.domain.access_note(
                Access::Refused,
                &noted,
                target.clone(),
                serde_json::json!({}),
            );
            process.faults.arm(points + 1, fault.clone());
            let outcome = process.does(round(&process.domain)).await;
            let walked = process.faults.disarm();
            verified(&site.calm, &tenant).await;
            process.end().await;

            site.clock.advance(LEASE + Duration::from_secs(1));
            round(&site.calm).await.unwrap();
            let report = verified(&site.calm, &tenant).await;
            let filter = EventFilter {
                action: Some("access.refused".to_owned()),
                target: Some(target),
                ..EventFilter::default()
            };
            let noted = site
                .calm
                .audit_events(&tenant, &filter, 0, 10)
                .await
                .unwrap();
            // It may be lost, and is there once at most.
            assert!(noted.len() <= 1, "{noted:?}");
            assert!(walked.fired || noted.len() == 1, "{outcome:?}");
            told_of += noted.len() as i64;
            // Each upload has its place, and nothing else has.
            assert_eq!(
                report.last,
                uploaded + told_of,
                "{outcome:?} after {walked:?}"
            );
            // What is younger stays.
            assert!(
                report.first <= report.last && report.first > report.last - 3,
                "{report:?}"
            );
            if !walked.fired {
                break;
            }
            points += 1;
        }
        assert!(points > 5, "{name} {points}");
        told.push(format!("{name} {points}"));
    }
    println!("faults walked on {pair:?}: audit: {}", told.join(", "));
}

const SECRET: &str = "a secret of at least thirty-two bytes";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_local() {
    walk(Pair::SqliteLocal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_local() {
    walk(Pair::PostgresLocal).await;
}
