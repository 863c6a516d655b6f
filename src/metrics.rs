//! What is counted and measured, and the page that shows it, for Prometheus.
//!
//! Whoever counts has its handle from the start: to count is to add to an atomic number, without a lock,
//! a look-up or a text. All labels are bounded: they are words of this program, never ids, names or URLs.
//! `docs/operations.md` tells of each metric; a test compares the two.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::prometheus_text;
pub use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge;
use prometheus_client::registry::{Metric, Registry};

mod audit;
mod hasher;
mod histogram;
mod http;
mod imports;
mod lifecycle;
mod links;
mod store;
mod telemetry;

pub use audit::Audit;
pub use hasher::Hasher;
pub use histogram::Histogram;
pub use http::{Http, Refusals, Route};
pub use imports::Imports;
pub use lifecycle::Lifecycle;
pub use links::Links;
pub use store::{Call, Operation, Outcome, Store};
pub use telemetry::{HandedOver, Signal, handed_over};

/// The media type of [`Metrics::page`].
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

pub type Gauge = gauge::Gauge<i64, AtomicI64>;

/// A gauge that may be unknown: NaN.
pub type Level = gauge::Gauge<f64, AtomicU64>;

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// The metrics of one process. Clones are the same ones.
#[derive(Clone)]
pub struct Metrics(Arc<All>);

pub struct All {
    registry: Registry,
    pub http: Http,
    pub refusals: Refusals,
    pub store: Store,
    pub imports: Imports,
    pub links: Links,
    pub uploads: Uploads,
    pub hasher: Hasher,
    pub reaper: Reaper,
    pub lifecycle: Lifecycle,
    pub audit: Audit,
    pub database: Database,
}

/// One more, for as long as it lives.
#[derive(Debug)]
pub struct Active(Gauge);

impl Active {
    pub fn count(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Bytes that come in: uploads, other contents of files, and items of imports.
pub struct Uploads {
    pub active: Gauge,
    pub stored: Counter,
    pub failed: Counter,
    pub bytes: Counter,
}

pub struct Reaper {
    pub deleted: Counter,
    pub failures: Counter,
    /// Of the last round that went through, in seconds since 1970; 0: there was none yet.
    pub last_run: Level,
    due: Level,
    lag: Level,
}

pub struct Database {
    /// Until a connection of the pool was lent.
    pub waits: Histogram,
    up: Gauge,
    used: Gauge,
    idle: Gauge,
    max: Gauge,
}

/// What is known only when it is asked for. None of it where the database does not answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// Connections of this process: lent, idle, and the most there may be.
    pub connections: (u32, u32, u32),
    pub of_database: Option<OfDatabase>,
}

/// What the database says, for all processes together.
#[derive(Clone, Copy, Debug, Default)]
pub struct OfDatabase {
    pub imports_running: i64,
    pub items_pending: i64,
    pub items_fetching: i64,
    /// Since the item that waits the longest may be claimed, in seconds; 0 where none waits.
    pub oldest_pending_s: f64,
    /// Since the claim that is the oldest was made or renewed, in seconds; 0 without a claim.
    pub oldest_claim_s: f64,
    /// Dead objects whose keys are to be deleted by now.
    pub reaper_due: i64,
    /// Since the first of them were, in seconds; 0 without any.
    pub reaper_lag_s: f64,
    /// Live objects without a hash, those included that are being hashed.
    pub unhashed: i64,
    /// Since the longest waiting of them may be taken up, in seconds; 0 where none waits.
    pub unhashed_lag_s: f64,
    /// Since the oldest event happened that is not sealed, in seconds; 0 without one.
    pub audit_lag_s: f64,
}

impl Deref for Metrics {
    type Target = All;

    fn deref(&self) -> &All {
        &self.0
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let mut at = Register(&mut registry);
        let build: Family<Labels<1>, Gauge> = at.add("box_build_info", "1, of this version");
        build
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        telemetry::register(&mut at);
        let all = All {
            http: Http::register(&mut at),
            refusals: Refusals::register(&mut at),
            store: Store::register(&mut at),
            imports: Imports::register(&mut at),
            links: Links::register(&mut at),
            uploads: Uploads::register(&mut at),
            hasher: Hasher::register(&mut at),
            reaper: Reaper::register(&mut at),
            lifecycle: Lifecycle::register(&mut at),
            audit: Audit::register(&mut at),
            database: Database::register(&mut at),
            registry,
        };
        Self(Arc::new(all))
    }
}

impl Metrics {
    /// All metrics, in Prometheus' text format (version 0.0.4).
    pub fn page(&self, standing: &Standing) -> String {
        let (used, idle, max) = standing.connections;
        self.database.used.set(used.into());
        self.database.idle.set(idle.into());
        self.database.max.set(max.into());
        let known = standing.of_database;
        self.database.up.set(known.is_some().into());
        let level = |of: fn(&OfDatabase) -> f64| known.as_ref().map_or(f64::NAN, of);
        self.reaper.due.set(level(|it| it.reaper_due as f64));
        self.reaper.lag.set(level(|it| it.reaper_lag_s));
        self.hasher.waiting.set(level(|it| it.unhashed as f64));
        self.hasher.lag.set(level(|it| it.unhashed_lag_s));
        self.audit.lag.set(level(|it| it.audit_lag_s));
        self.imports
            .running
            .set(level(|it| it.imports_running as f64));
        self.imports
            .pending
            .set(level(|it| it.items_pending as f64));
        self.imports
            .fetching
            .set(level(|it| it.items_fetching as f64));
        self.imports.oldest_claim.set(level(|it| it.oldest_claim_s));
        self.imports
            .oldest_pending
            .set(level(|it| it.oldest_pending_s));
        let mut page = String::new();
        prometheus_text::encode(&mut page, &self.registry)
            .expect("a String takes all that is written to it");
        page
    }
}

impl Uploads {
    fn register(at: &mut Register<'_>) -> Self {
        let ended: Family<Labels<1>, Counter> = at.add(
            "box_uploads",
            "Contents that were written to the store, or not",
        );
        Self {
            active: at.add("box_uploads_active", "Contents that are being written"),
            stored: ended.get_or_create_owned(&[("outcome", "stored")]),
            failed: ended.get_or_create_owned(&[("outcome", "failed")]),
            bytes: at.add("box_upload_bytes", "Bytes of contents that were stored"),
        }
    }
}

impl Reaper {
    fn register(at: &mut Register<'_>) -> Self {
        Self {
            deleted: at.add("box_reaper_deleted", "Dead objects that are gone for good"),
            failures: at.add(
                "box_reaper_failures",
                "Rounds, and deletes of single objects, that failed",
            ),
            last_run: at.add(
                "box_reaper_last_run_timestamp_seconds",
                "When the last round of this process went through",
            ),
            due: at.add("box_reaper_due", "Dead objects that are due to be deleted"),
            lag: at.add(
                "box_reaper_lag_seconds",
                "Since the longest overdue of them was due",
            ),
        }
    }
}

impl Database {
    fn register(at: &mut Register<'_>) -> Self {
        let connections: Family<Labels<1>, Gauge> = at.add(
            "box_database_connections",
            "Connections of this process to the database",
        );
        Self {
            waits: at.add(
                "box_database_wait_seconds",
                "Until a connection of the pool was lent, or was waited for no longer",
            ),
            up: at.add("box_database_up", "Whether the database answers"),
            used: connections.get_or_create_owned(&[("state", "used")]),
            idle: connections.get_or_create_owned(&[("state", "idle")]),
            max: at.add(
                "box_database_connections_max",
                "The most connections that this process may have",
            ),
        }
    }
}

/// Where metrics are registered under their names. A counter's name gets `_total` by itself.
struct Register<'r>(&'r mut Registry);

impl Register<'_> {
    /// One that was there before.
    fn put<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: &M) {
        self.0.register(name, help, metric.clone());
    }

    fn add<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        let metric = M::default();
        self.0.register(name, help, metric.clone());
        metric
    }
}
