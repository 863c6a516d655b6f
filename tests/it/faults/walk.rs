//! The walk: one operation, one kind of fault, one point after the other.

use std::fmt::Debug;
use std::future::Future;
use std::time::Instant;

use box_service::domain::changes::FilePatch;
use box_service::domain::{Caller, Domain};
use box_service::error::{Error, Kind, Result};
use box_service::faults::{Fault, Walked};

use crate::harness::service::Pair;

use super::site::{LEASE, Process, Site};
use super::uploads::anyone;
use super::view::{View, list};

/// What a client, or the service itself, does.
pub trait Operation {
    const NAME: &'static str;
    /// What it works on.
    type Given: Debug;

    /// What the service is configured with.
    const VARIABLES: &'static [(&'static str, &'static str)] = &[];
    /// When nothing fails, it is refused for this reason, and changes nothing.
    const REFUSED: Option<Kind> = None;
    /// It is many operations in one: each of its files is on its own.
    const MANY: bool = false;
    /// Done a second time, it changes no more.
    const REPEATS: bool = false;
    /// It works under a lease, which may run out meanwhile.
    const LEASED: bool = false;
    /// What it is for is done by nobody else: once it was interrupted, somebody does it again.
    const MUST_REPEAT: bool = false;

    fn prepare(&self, site: &Site, caller: &Caller) -> impl Future<Output = Self::Given>;

    fn run(
        &self,
        domain: &Domain,
        caller: &Caller,
        given: &Self::Given,
    ) -> impl Future<Output = Result<()>>;

    /// Makes of what was before what is once it was done.
    fn done(&self, given: &Self::Given, view: &mut View);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Fail,
    Outage,
    Crash,
    Slow,
    Paused,
    Late,
    LateCrash,
}

const WAYS: [Way; 7] = [
    Way::Fail,
    Way::Outage,
    Way::Crash,
    Way::Slow,
    Way::Paused,
    Way::Late,
    Way::LateCrash,
];

impl Way {
    fn fault(self, site: &Site) -> Fault {
        match self {
            Self::Fail => Fault::Fail,
            Self::Outage => Fault::Outage,
            Self::Crash => Fault::Crash,
            Self::Slow => Fault::Pause(site.slow()),
            Self::Paused => Fault::Pause(site.paused()),
            Self::Late => Fault::Late,
            Self::LateCrash => Fault::LateCrash,
        }
    }

    fn is_walked<O: Operation>(self, pair: Pair) -> bool {
        match self {
            Self::Fail | Self::Crash | Self::Paused => true,
            // The other pairs have the database and the store of this one, each in every way.
            Self::Outage => pair != Pair::PostgresLocal,
            Self::Slow => pair != Pair::PostgresLocal && O::LEASED,
            // Only a request can be late, and the local store makes none.
            Self::Late | Self::LateCrash => pair == Pair::PostgresS3,
        }
    }

    fn is_late(self) -> bool {
        matches!(self, Self::Late | Self::LateCrash)
    }
}

/// Says where a walk was when an assertion failed.
struct Where {
    walk: String,
    told: String,
}

impl Drop for Where {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: {}", self.walk, self.told);
        }
    }
}

/// Walks every point of an operation, in every way that something can fail there.
pub async fn walk<O: Operation>(pair: Pair, operation: O) {
    let Some(site) = Site::open(pair, O::VARIABLES).await else {
        return;
    };
    let mut told = Vec::new();
    let started = Instant::now();
    for way in WAYS {
        if !way.is_walked::<O>(pair) {
            continue;
        }
        let mut points = 0;
        let mut process = site.process().await;
        loop {
            let (next, fired) = once(&site, &operation, way, points + 1, process).await;
            process = next;
            if !fired {
                break;
            }
            points += 1;
            // One that has written before has made directories, and makes them no more.
            if O::LEASED && pair != Pair::PostgresS3 {
                process.end().await;
                process = site.process().await;
            }
        }
        process.end().await;
        // Some move no bytes, and make no request.
        assert!(
            points > 0 || way.is_late(),
            "{}: {way:?} has no point",
            O::NAME
        );
        told.push(format!("{way:?} {points}"));
    }
    println!(
        "faults walked on {pair:?}: {}: {} ({:.1} s)",
        O::NAME,
        told.join(", "),
        started.elapsed().as_secs_f64()
    );
}

/// One run; the process that was left, and whether the fault was met.
async fn once<O: Operation>(
    site: &Site,
    operation: &O,
    way: Way,
    n: u64,
    process: Process,
) -> (Process, bool) {
    let mut context = Where {
        walk: format!("{} on {:?}, {way:?} at point {n}", O::NAME, site.pair),
        told: String::new(),
    };
    let caller = site.somebody();
    let given = operation.prepare(site, &caller).await;
    let known = list_ids(&site.calm, &caller).await;
    let before = View::of(&site.calm, &caller.tenant, &known).await;
    let mut after = before.clone();
    operation.done(&given, &mut after);

    let faults = process.faults.clone();
    faults.arm(n, way.fault(site));
    let run = operation.run(&process.domain, &caller, &given);
    let outcome = process.does(run).await;
    let walked = faults.disarm();
    context.told = format!("{outcome:?} after {:?}", walked.steps);

    // A process that died is followed by another one.
    let process = if outcome.is_none() {
        process.end().await;
        site.process().await
    } else {
        process
    };
    let next = &process.domain;
    let wanted = Wanted::of::<O>(outcome, &walked, &before, &after);
    let seen = View::of(next, &caller.tenant, &known).await;
    wanted.check(&seen, &context);
    if O::MUST_REPEAT {
        operation.run(next, &caller, &given).await.unwrap();
    }
    if way.is_late() {
        remove_all(next, &caller).await;
        next.reap().await.unwrap();
        site.clock.advance(LEASE * 2);
        next.reap().await.unwrap();
        faults.deliver().await;
        site.horizon_passes(next).await;
    } else {
        site.settle(next).await;
        site.assert_sound(next).await;
        let settled = View::of(next, &caller.tenant, &known).await;
        assert_eq!(settled, seen, "what a client sees changed by itself");
        if O::REPEATS {
            let again = operation.run(next, &caller, &given).await;
            context.told.push_str(&format!("; again {again:?}"));
            let repeated = View::of(next, &caller.tenant, &known).await;
            assert_eq!(repeated, after, "doing it again did not complete it");
        }
        remove_all(next, &caller).await;
        site.settle(next).await;
    }
    let left = site.assert_sound(next).await;
    assert_eq!(left, 0, "objects are left though every file is gone");
    (process, walked.fired)
}

/// What a client may see, given what it was told.
struct Wanted<'a> {
    old: Option<&'a View>,
    new: Option<&'a View>,
    between: bool,
}

impl<'a> Wanted<'a> {
    fn of<O: Operation>(
        outcome: Option<Result<()>>,
        walked: &Walked,
        before: &'a View,
        after: &'a View,
    ) -> Self {
        let refused = |error: &Error| Some(error.kind()) == O::REFUSED;
        let (old, new) = match outcome {
            None => (true, true),
            Some(Ok(())) => {
                assert_eq!(O::REFUSED, None, "it was not refused");
                (false, true)
            }
            Some(Err(error)) if refused(&error) => (true, false),
            Some(Err(error)) => {
                assert!(walked.fired, "it failed though nothing else did: {error}");
                let kind = error.kind();
                assert_eq!(kind, Kind::Unavailable, "{error}");
                (true, true)
            }
        };
        Self {
            old: old.then_some(before),
            new: new.then_some(after),
            between: O::MANY && old && new,
        }
    }

    fn check(&self, seen: &View, context: &Where) {
        let same = [self.old, self.new]
            .into_iter()
            .flatten()
            .any(|v| v == seen);
        let between = match (self.old, self.new) {
            (Some(old), Some(new)) if self.between => seen.is_between(old, new),
            _ => false,
        };
        assert!(
            same || between,
            "{}\n{}\nis {seen:#?}\nold {:#?}\nnew {:#?}",
            context.walk,
            context.told,
            self.old,
            self.new
        );
    }
}

async fn list_ids(
    domain: &Domain,
    caller: &Caller,
) -> std::collections::BTreeSet<box_service::id::FileId> {
    let mut ids = std::collections::BTreeSet::new();
    for trashed in [false, true] {
        let files = list(domain, &caller.tenant, trashed).await;
        ids.extend(files.into_iter().map(|file| file.id));
    }
    ids
}

/// What is held too, and would be expired without.
pub async fn remove_all(domain: &Domain, caller: &Caller) {
    let files = list(domain, &caller.tenant, false).await;
    for file in files.iter().filter(|file| file.legal_hold) {
        let release = FilePatch {
            legal_hold: Some(false),
            expires_at: Some(None),
            may_lift: true,
            ..FilePatch::default()
        };
        let released = domain.file_patch(caller, file.id, release, anyone());
        released.await.unwrap();
    }
    let ids: Vec<_> = list_ids(domain, caller).await.into_iter().collect();
    domain.file_delete_many(caller, &ids, true).await.unwrap();
}

/// Makes of each operation a test over every pair.
macro_rules! walk_on_every_pair {
    ($($name:ident: $operation:expr),+ $(,)?) => {
        $(mod $name {
            #[allow(unused_imports, reason = "an expression may need none of it")]
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite_local() {
                $crate::faults::walk::walk($crate::harness::service::Pair::SqliteLocal, $operation).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres_local() {
                $crate::faults::walk::walk($crate::harness::service::Pair::PostgresLocal, $operation).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres_s3() {
                $crate::faults::walk::walk($crate::harness::service::Pair::PostgresS3, $operation).await;
            }
        })+
    };
}
pub(super) use walk_on_every_pair;
