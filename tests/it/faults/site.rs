//! One database and one store, and the processes that come and go over them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use box_service::app;
use box_service::clock::Clock;
use box_service::config::Config;
use box_service::domain::fsck::{Options, Report};
use box_service::domain::{Caller, Domain};
use box_service::faults::{Faults, Pause};
use box_service::objects::Listed;
use futures::{FutureExt, TryStreamExt};

use crate::harness::scratch;
use crate::harness::service::{Pair, Parts, config, laid_over, start_of_time};

/// As configured by default.
pub const LEASE: Duration = Duration::from_secs(30);
pub const HORIZON: Duration = Duration::from_secs(3_600);

pub struct Site {
    pub pair: Pair,
    pub clock: Clock,
    /// A process without faults.
    pub calm: Domain,
    /// Another replica, which does not wait for long.
    other: Domain,
    config: Config,
    callers: AtomicU64,
    _parts: Parts,
    _scratch: tempfile::TempDir,
}

/// A process that a fault can happen to.
pub struct Process {
    pub domain: Domain,
    pub faults: Faults,
}

impl Process {
    /// Does something, unless the process dies over it: then nobody is told how it ended.
    pub async fn does<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        let outcome = tokio::select! {
            biased;
            () = self.faults.crashed() => None,
            outcome = what => Some(outcome),
        };
        // It may have died on the last step of all.
        outcome.filter(|_| self.faults.crashed().now_or_never().is_none())
    }

    /// What it had open is let go.
    pub async fn end(self) {
        let close = self.domain.metadata.close();
        let closed = tokio::time::timeout(Duration::from_secs(10), close).await;
        assert!(closed.is_ok(), "a process does not end");
    }
}

impl Site {
    /// None where the pair is to be skipped.
    pub async fn open(pair: Pair, variables: &[(&str, &str)]) -> Option<Self> {
        let (parts, all) = Parts::create(pair, &[]).await?;
        let mut all = laid_over(
            all,
            &[
                ("BOX_STORE__FSYNC", "true"),
                ("BOX_DATABASE__MAX_CONNECTIONS", "4"),
                ("BOX_VERSIONS__KEEP", "2"),
                ("BOX_QUOTA__MAX_BYTES", "1GiB"),
                ("BOX_QUOTA__MAX_FILES", "1000"),
            ],
        );
        let scratch = scratch();
        if pair != Pair::PostgresS3 {
            let url = format!("file:{}", scratch.path().join("objects").display());
            all = laid_over(all, &[("BOX_STORE__URL", url.as_str())]);
        }
        // An empty value takes one away.
        let mut all = laid_over(all, variables);
        all.retain(|(_, value)| !value.is_empty());
        let clock = start_of_time();
        let config_of = config(&all);
        let calm = app::open_domain(&config_of, true, clock.clone())
            .await
            .unwrap();
        let impatient = config(&laid_over(all, &[("BOX_DATABASE__TIMEOUT", "100ms")]));
        // On a busy machine not even its first connection comes that soon.
        let mut attempts = 0..100;
        let other = loop {
            match app::open_domain(&impatient, false, clock.clone()).await {
                Ok(other) => break other,
                Err(error) => assert!(attempts.next().is_some(), "{error}"),
            }
        };
        Some(Self {
            pair,
            clock,
            calm,
            other,
            config: config_of,
            callers: AtomicU64::new(0),
            _parts: parts,
            _scratch: scratch,
        })
    }

    pub fn other(&self) -> &Domain {
        &self.other
    }

    pub async fn process(&self) -> Process {
        let faults = Faults::switch();
        let opened =
            app::open_domain_with(&self.config, false, self.clock.clone(), faults.clone()).await;
        Process {
            domain: opened.unwrap(),
            faults,
        }
    }

    /// Somebody who has sent nothing yet. Of one tenant, so that a listing stays short.
    pub fn somebody(&self) -> Caller {
        let number = self.callers.fetch_add(1, Ordering::SeqCst);
        Caller {
            tenant: "acme".parse().unwrap(),
            subject: format!("tester-{number}"),
            request_id: None,
            remote_ip: None,
        }
    }

    /// The time passes by more than a lease.
    pub fn slow(&self) -> Pause {
        let clock = self.clock.clone();
        Arc::new(move || {
            clock.advance(LEASE + Duration::from_secs(1));
            std::future::ready(()).boxed()
        })
    }

    /// The same, and another replica does meanwhile what it finds due.
    pub fn paused(&self) -> Pause {
        let (clock, other) = (self.clock.clone(), self.other.clone());
        Arc::new(move || {
            clock.advance(LEASE + Duration::from_secs(1));
            let other = other.clone();
            async move {
                // Fails where the one that stands still has a transaction open.
                let _ = other.reap().await;
                let _ = other.sweep().await;
                let _ = other.reap().await;
                let _ = other.import_take_up().await;
                let _ = other.import_sweep().await;
            }
            .boxed()
        })
    }

    /// Another replica raises the generation meanwhile.
    pub fn raised(&self) -> Pause {
        let other = self.other.clone();
        Arc::new(move || {
            let other = other.clone();
            async move {
                // Fails where the one that stands still has a transaction open.
                let _ = other.generation_raise().await;
            }
            .boxed()
        })
    }

    /// Everything that may be due by and by is done, and nothing can arrive any more.
    pub async fn settle(&self, by: &Domain) {
        by.reap().await.unwrap();
        self.clock.advance(LEASE + Duration::from_secs(1));
        by.reap().await.unwrap();
        self.horizon_passes(by).await;
    }

    pub async fn horizon_passes(&self, by: &Domain) {
        self.clock.advance(HORIZON + LEASE);
        by.reap().await.unwrap();
        // What could not be deleted at first is tried again.
        self.clock.advance(Duration::from_secs(120));
        by.reap().await.unwrap();
    }

    pub async fn fsck(&self, by: &Domain) -> Report {
        let options = Options {
            verify_checksums: true,
            ..Options::default()
        };
        by.fsck(options).await.unwrap()
    }

    /// Database and store agree, and hold nothing that no file refers to.
    pub async fn assert_sound(&self, by: &Domain) -> u64 {
        let report = self.fsck(by).await;
        if report.problems.is_empty() && report.objects == report.keys {
            return report.objects;
        }
        let listed: Vec<Listed> = by.objects.list().try_collect().await.unwrap();
        panic!("{report}{listed:#?}");
    }
}
