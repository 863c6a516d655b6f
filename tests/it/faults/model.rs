//! Random walks against a plain model: several tenants, two replicas, faults, restarts, writers that
//! stand still while the others go on, and time that passes.
//!
//! Each walk follows from its seed. `BOXTEST_WALKS` says how many there are (64), `BOXTEST_SEED` with
//! which seed they begin; a walk that fails tells its seed and its steps.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use box_service::domain::Caller;
use box_service::error::{Kind, Result};
use box_service::faults::{Fault, Pause};
use box_service::id::FileId;
use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::harness::content::noise;
use crate::harness::service::Pair;

use super::deeds::Deed;
use super::site::{LEASE, Process, Site};
use super::view::{View, list};

const STEPS: u32 = 20;
const TENANTS: usize = 3;

/// What one tenant should see.
#[derive(Default)]
struct Tenant {
    view: View,
    known: BTreeSet<FileId>,
    /// Sent to a process that stands still.
    pending: Option<Pending>,
}

struct Pending {
    deed: Deed,
    process: usize,
    go_on: Arc<Notify>,
    outcome: JoinHandle<Result<()>>,
}

struct Walk {
    site: Site,
    rng: StdRng,
    processes: Vec<Process>,
    tenants: Vec<Tenant>,
    names: u64,
    told: Vec<String>,
    seed: u64,
}

impl Drop for Walk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("BOXTEST_SEED={}: {:#?}", self.seed, self.told);
        }
    }
}

fn caller(tenant: usize) -> Caller {
    Caller {
        tenant: format!("tenant-{tenant}").parse().unwrap(),
        subject: "tester".to_owned(),
        request_id: None,
        remote_ip: None,
    }
}

impl Walk {
    fn tell(&mut self, text: impl Into<String>) {
        self.told.push(text.into());
    }

    fn fresh(&mut self) -> String {
        self.names += 1;
        format!("file-{}", self.names)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.rng.random_range(0..2_000);
        let mut bytes = noise(length);
        bytes.extend(self.names.to_le_bytes());
        bytes
    }

    fn deed(&mut self, tenant: usize) -> Deed {
        let known: Vec<(FileId, i64)> = self.tenants[tenant]
            .view
            .files
            .values()
            .filter_map(|seen| Some((seen.id?, seen.contents.last()?.version)))
            .collect();
        let name = self.fresh();
        let bytes = self.bytes();
        if known.is_empty() {
            return Deed::Upload { name, bytes };
        }
        let (id, oldest) = known[self.rng.random_range(0..known.len())];
        match self.rng.random_range(0..16) {
            0 | 1 => Deed::Upload { name, bytes },
            2 => Deed::UploadOnce { name, bytes },
            3 | 4 => Deed::Replace { id, bytes },
            5 => Deed::Rename { id, name },
            6 | 7 => Deed::Copy { id, name },
            8 => Deed::Trash { id },
            9 => Deed::Restore { id },
            10 => Deed::Delete { id },
            11 => Deed::DeleteMany {
                ids: known.iter().map(|(id, _)| *id).take(3).collect(),
            },
            // Twice as often: what is held all the time is little of a walk.
            12 => Deed::Hold { id, on: true },
            13 | 14 => Deed::Hold { id, on: false },
            _ => {
                let version = oldest + self.rng.random_range(0..3);
                Deed::RestoreVersion { id, version }
            }
        }
    }

    async fn step(&mut self) {
        let process = self.rng.random_range(0..self.processes.len());
        let busy = self.tenants.iter().any(|tenant| {
            let pending = tenant.pending.as_ref();
            pending.is_some_and(|pending| pending.process == process)
        });
        match self.rng.random_range(0..20) {
            0..=9 => self.act(process, busy).await,
            10 | 11 if !busy => self.stand_still(process).await,
            10..=13 => self.go_on().await,
            14 => {
                self.tell(format!("{process} reaps"));
                self.processes[process].domain.reap().await.unwrap();
            }
            15 => {
                self.tell(format!("{process} sweeps"));
                self.processes[process].domain.sweep().await.unwrap();
            }
            16 => {
                self.tell("a lease passes");
                self.site.clock.advance(LEASE + Duration::from_secs(1));
            }
            17 => {
                self.tell("some seconds pass");
                self.site.clock.advance(Duration::from_secs(7));
            }
            18 if !busy => {
                self.tell(format!("{process} restarts"));
                self.restart(process).await;
            }
            _ => self.others_agree(process).await,
        }
    }

    async fn restart(&mut self, process: usize) {
        let next = self.site.process().await;
        std::mem::replace(&mut self.processes[process], next)
            .end()
            .await;
    }

    /// A tenant that waits for no answer.
    fn idle(&mut self) -> Option<usize> {
        let tenant = self.rng.random_range(0..TENANTS);
        self.tenants[tenant].pending.is_none().then_some(tenant)
    }

    async fn act(&mut self, process: usize, busy: bool) {
        let Some(tenant) = self.idle() else { return };
        let deed = self.deed(tenant);
        let n = self.rng.random_range(1..=30);
        // Who has another one standing still has its points counted by that one.
        let fault = match self.rng.random_range(0..10) {
            _ if busy => None,
            0 | 1 => Some(Fault::Fail),
            2 => Some(Fault::Outage),
            3 | 4 => Some(Fault::Crash),
            5 => Some(Fault::Pause(self.site.slow())),
            _ => None,
        };
        let Process { domain, faults } = &self.processes[process];
        let armed = fault.is_some();
        if let Some(fault) = fault {
            faults.arm(n, fault);
        }
        let sender = caller(tenant);
        let run = deed.run(domain, &sender);
        let outcome = self.processes[process].does(run).await;
        let fired = armed && faults.disarm().fired;
        self.tell(format!(
            "{process} for {tenant}: {deed:?}, fault at {n} {fired}: {outcome:?}"
        ));
        if outcome.is_none() {
            self.restart(process).await;
        }
        self.judge(tenant, &deed, outcome, fired).await;
    }

    /// A writer stands still at one of its points until it is told to go on.
    async fn stand_still(&mut self, process: usize) {
        let Some(tenant) = self.idle() else { return };
        let name = self.fresh();
        let bytes = self.bytes();
        let replaced = self.tenants[tenant].view.files.values().next();
        let deed = match replaced.and_then(|seen| seen.id) {
            Some(id) if self.rng.random() => Deed::Replace { id, bytes },
            _ => Deed::Upload { name, bytes },
        };
        let go_on = Arc::new(Notify::new());
        let (reached, until) = (Arc::new(Notify::new()), go_on.clone());
        let pause: Pause = Arc::new({
            let reached = reached.clone();
            move || {
                let (reached, until) = (reached.clone(), until.clone());
                async move {
                    reached.notify_one();
                    until.notified().await;
                }
                .boxed()
            }
        });
        let n = self.rng.random_range(1..=25);
        let Process { domain, faults } = &self.processes[process];
        faults.arm(n, Fault::Pause(pause));
        let (domain, deed_of) = (domain.clone(), deed.clone());
        let mut outcome = tokio::spawn(async move { deed_of.run(&domain, &caller(tenant)).await });
        let ended = tokio::select! {
            () = reached.notified() => None,
            outcome = &mut outcome => Some(outcome.unwrap()),
        };
        self.tell(format!(
            "{process} for {tenant}: {deed:?}, stands still at {n}: {ended:?}"
        ));
        match ended {
            Some(outcome) => {
                let fired = self.processes[process].faults.disarm().fired;
                self.judge(tenant, &deed, Some(outcome), fired).await;
            }
            None => {
                // Within a transaction, or in a flush that its process's other requests share, it would
                // keep the others waiting.
                let steps = self.processes[process].faults.disarm().steps;
                let pending = Pending {
                    deed,
                    process,
                    go_on,
                    outcome,
                };
                self.tenants[tenant].pending = Some(pending);
                let shared = ["metadata.commit", "objects.sync-directory"];
                if steps.last().is_some_and(|step| shared.contains(step)) {
                    self.go_on_of(tenant).await;
                }
            }
        }
    }

    async fn go_on(&mut self) {
        let tenant = self.rng.random_range(0..TENANTS);
        self.go_on_of(tenant).await;
    }

    async fn go_on_of(&mut self, tenant: usize) {
        let Some(pending) = self.tenants[tenant].pending.take() else {
            return;
        };
        pending.go_on.notify_one();
        let outcome = pending.outcome.await.unwrap();
        self.tell(format!("for {tenant} it goes on: {outcome:?}"));
        self.judge(tenant, &pending.deed, Some(outcome), true).await;
    }

    /// Compares what a tenant sees with what it may see, and goes on from there.
    async fn judge(
        &mut self,
        tenant: usize,
        deed: &Deed,
        outcome: Option<Result<()>>,
        fault: bool,
    ) {
        let before = self.tenants[tenant].view.clone();
        let mut after = before.clone();
        let predicted = deed.predict(&mut after);
        let may_be = match (outcome, predicted) {
            (None, Ok(())) => vec![&before, &after],
            (Some(Ok(())), Ok(())) => vec![&after],
            (Some(Err(error)), Err(kind)) if error.kind() == kind => vec![&before],
            (Some(Err(error)), Ok(())) if fault && error.kind() == Kind::Unavailable => {
                vec![&before, &after]
            }
            (None, Err(_)) => vec![&before],
            (Some(Err(error)), Err(_)) if fault && error.kind() == Kind::Unavailable => {
                vec![&before]
            }
            (outcome, predicted) => panic!("{outcome:?} where {predicted:?} was predicted"),
        };
        let seen = self.look(tenant).await;
        assert!(may_be.contains(&&seen), "is {seen:#?}\nmay be {may_be:#?}");
        for trashed in [false, true] {
            let found = list(&self.site.calm, &caller(tenant).tenant, trashed).await;
            let ids = found.into_iter().map(|file| file.id);
            self.tenants[tenant].known.extend(ids);
        }
        self.tenants[tenant].view = self.look(tenant).await;
    }

    async fn look(&self, tenant: usize) -> View {
        let known = &self.tenants[tenant].known;
        View::of(&self.site.calm, &caller(tenant).tenant, known).await
    }

    /// Every replica shows the same, to everybody who waits for no answer.
    async fn others_agree(&mut self, process: usize) {
        for tenant in 0..TENANTS {
            let Tenant {
                view,
                known,
                pending,
            } = &self.tenants[tenant];
            if pending.is_none() {
                let domain = &self.processes[process].domain;
                let seen = View::of(domain, &caller(tenant).tenant, known).await;
                assert_eq!(seen, *view);
            }
        }
    }

    async fn finish(&mut self) {
        for tenant in 0..TENANTS {
            self.go_on_of(tenant).await;
        }
        self.tell("the end");
        self.site.settle(&self.site.calm).await;
        self.site.assert_sound(&self.site.calm).await;
        self.others_agree(0).await;
        for tenant in 0..TENANTS {
            super::walk::remove_all(&self.site.calm, &caller(tenant)).await;
        }
        self.site.settle(&self.site.calm).await;
        assert_eq!(self.site.assert_sound(&self.site.calm).await, 0);
    }
}

async fn walks(pair: Pair) {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    let count = number("BOXTEST_WALKS").unwrap_or(64);
    let first = number("BOXTEST_SEED").unwrap_or(1);
    let Some(site) = Site::open(pair, &[]).await else {
        return;
    };
    let processes = vec![site.process().await, site.process().await];
    let mut walk = Walk {
        site,
        rng: StdRng::seed_from_u64(first),
        processes,
        tenants: Vec::new(),
        names: 0,
        told: Vec::new(),
        seed: first,
    };
    for seed in first..first + count {
        walk.rng = StdRng::seed_from_u64(seed);
        walk.seed = seed;
        walk.told.clear();
        walk.tenants = (0..TENANTS).map(|_| Tenant::default()).collect();
        for _ in 0..STEPS {
            walk.step().await;
        }
        walk.finish().await;
    }
    println!("walks against the model on {pair:?}: {count} of {STEPS} steps");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_local() {
    walks(Pair::SqliteLocal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_local() {
    walks(Pair::PostgresLocal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_s3() {
    walks(Pair::PostgresS3).await;
}
