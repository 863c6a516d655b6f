//! Fetches the items of imports: as many at a time as is configured, shared out fairly among tenants and
//! among the imports of each.
//!
//! More items are claimed than are fetched at a time, so that the next one can begin the moment
//! another's last byte has come, while that one is still being made durable.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::domain::Domain;
use crate::domain::imports::{Grant, Running, Work};
use crate::error::Result;
use crate::http::media_type;
use crate::id::{ClaimId, ImportId, Tenant};
use crate::trace;

/// How often a look is taken for what nobody told of: other processes' imports, and pauses that are over.
const LOOK: Duration = Duration::from_secs(1);

/// What items that bring many bytes may hold in memory together.
const LARGE_BYTES: usize = 64 * 1024 * 1024;

/// Imports among which the free places are shared out at once.
const IMPORTS: u32 = 1_000;

/// The most candidates that are looked at for an import whose next items have busy hosts.
const CANDIDATES: u32 = 1_000;

/// How long a stop waits for items to be given back.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// Goes on until `stop`; then gives back what it has claimed.
pub async fn importer(domain: Domain, stop: CancellationToken) {
    let mut importer = Importer::new(domain);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let told = tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = importer.tasks.join_next_with_id() => {
                importer.ended(ended);
                false
            }
            () = importer.domain.queued.notified() => {
                importer.stop_ended().await;
                true
            }
            _ = look.tick() => {
                importer.tend().await;
                importer.stop_ended().await;
                true
            }
        };
        while let Some(ended) = importer.tasks.try_join_next_with_id() {
            importer.ended(ended);
        }
        importer.work(told).await;
    }
    importer.give_back().await;
}

struct Importer {
    domain: Domain,
    claim: ClaimId,
    gates: Gates,
    large: Arc<Semaphore>,
    tasks: JoinSet<()>,
    flights: HashMap<tokio::task::Id, Flight>,
    renewed_at: Instant,
    /// Behind which import the next look begins, where there are too many for one.
    after: Option<ImportId>,
}

/// An item that is being fetched, or waits for its place.
struct Flight {
    import: ImportId,
    tenant: Tenant,
    number: i64,
    host: String,
    stop: CancellationToken,
}

impl Importer {
    fn new(domain: Domain) -> Self {
        Self {
            claim: ClaimId::new(domain.clock.now()),
            gates: Gates::new(
                domain.rules.imports.concurrency,
                domain.rules.imports.per_host,
            ),
            large: Arc::new(Semaphore::new(
                LARGE_BYTES / domain.objects.held_by_writer(),
            )),
            domain,
            tasks: JoinSet::new(),
            flights: HashMap::new(),
            renewed_at: Instant::now(),
            after: None,
        }
    }

    fn ended(&mut self, ended: Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                tracing::error!(%error, "an item's task ended by a defect: its lease runs out");
                error.id()
            }
        };
        self.flights.remove(&id);
    }

    /// What is to be done from time to time. A failure is left to the next time.
    async fn tend(&mut self) {
        if self.renewed_at.elapsed() >= self.domain.rules.lease / 3 {
            self.renewed_at = Instant::now();
            let mut items: BTreeMap<ImportId, Vec<i64>> = BTreeMap::new();
            for flight in self.flights.values() {
                items.entry(flight.import).or_default().push(flight.number);
            }
            match self.domain.import_renew(self.claim, items).await {
                // What was lost is somebody else's by now, or was cancelled.
                Ok(held) => {
                    self.stop_where(|flight| !held.contains(&(flight.import, flight.number)))
                }
                Err(error) => tracing::warn!(%error, "claims could not be renewed"),
            }
        }
        if self.domain.is_older() {
            return;
        }
        for outcome in [
            self.domain.import_take_up().await.map(drop),
            self.domain.import_finish().await.map(drop),
            self.domain.import_sweep().await,
        ] {
            if let Err(error) = outcome {
                tracing::warn!(%error, "a look at the imports failed; the next one tries again");
            }
        }
    }

    async fn stop_ended(&mut self) {
        let imports: BTreeMap<ImportId, Tenant> = self
            .flights
            .values()
            .map(|flight| (flight.import, flight.tenant.clone()))
            .collect();
        if imports.is_empty() {
            return;
        }
        match self.domain.import_ended(&imports).await {
            Ok(ended) => self.stop_where(|flight| ended.contains(&flight.import)),
            Err(error) => tracing::warn!(%error, "the imports' states could not be read"),
        }
    }

    fn stop_where(&self, is_over: impl Fn(&Flight) -> bool) {
        for flight in self.flights.values().filter(|flight| is_over(flight)) {
            flight.stop.cancel();
        }
    }

    /// Claims items where there is room, and ends imports that have none left.
    async fn work(&mut self, told: bool) {
        // A database that was restored has items to do that were done since.
        if self.domain.is_older() {
            return;
        }
        let capacity = self.domain.rules.imports.concurrency as usize * 2;
        let room = capacity.saturating_sub(self.flights.len());
        // Many claims of a few items each would cost more than they bring.
        let worth = room > 0 && (told || room >= capacity.div_ceil(8));
        if worth && let Err(error) = self.fill(room).await {
            tracing::warn!(%error, "items could not be claimed; the next look tries again");
        }
        if self.flights.is_empty()
            && let Err(error) = self.domain.import_finish().await
        {
            tracing::warn!(%error, "imports could not be ended; the next look tries again");
        }
    }

    async fn fill(&mut self, mut room: usize) -> Result<()> {
        let mut imports = self.domain.import_claimable(self.after, IMPORTS).await?;
        self.after = match imports.last() {
            Some(last) if imports.len() == IMPORTS as usize => Some(last.id),
            _ => None,
        };
        while room > 0 && !imports.is_empty() {
            let mut grants = Vec::new();
            let shares = self.shares(&imports, room);
            let mut left = Vec::new();
            for (import, share) in imports.into_iter().zip(shares) {
                let numbers = self.choose(&import, share).await?;
                // One that had less than its share has no more for now.
                if share > 0 && numbers.len() == share {
                    left.push(import.clone());
                }
                if !numbers.is_empty() {
                    grants.push(Grant { import, numbers });
                }
            }
            imports = left;
            if grants.is_empty() {
                break;
            }
            let claimed = self.domain.import_claim(self.claim, grants).await?;
            room = room.saturating_sub(claimed.len());
            if claimed.is_empty() {
                break;
            }
            for work in claimed {
                self.start(work);
            }
        }
        Ok(())
    }

    /// How much of the room each import gets: what is free goes to the tenant that has least, and there
    /// to the import that has least.
    fn shares(&self, imports: &[Running], room: usize) -> Vec<usize> {
        let mut of_tenant: HashMap<&Tenant, usize> = HashMap::new();
        let mut of_import: HashMap<ImportId, usize> = HashMap::new();
        for flight in self.flights.values() {
            *of_tenant.entry(&flight.tenant).or_default() += 1;
            *of_import.entry(flight.import).or_default() += 1;
        }
        let mut shares = vec![0; imports.len()];
        for _ in 0..room {
            let has = |import: &Running, shares: &[usize], index: usize| {
                of_import.get(&import.id).copied().unwrap_or(0) + shares[index]
            };
            let next = imports
                .iter()
                .enumerate()
                .filter(|(index, import)| {
                    has(import, &shares, *index) < import.options.concurrency as usize * 2
                })
                .min_by_key(|(index, import)| {
                    let tenant = of_tenant.get(&import.tenant).copied().unwrap_or(0);
                    (tenant, has(import, &shares, *index))
                });
            let Some((index, import)) = next else { break };
            shares[index] += 1;
            *of_tenant.entry(&import.tenant).or_default() += 1;
        }
        shares
    }

    /// The next items of an import whose hosts are not too busy.
    async fn choose(&self, import: &Running, share: usize) -> Result<Vec<i64>> {
        if share == 0 {
            return Ok(Vec::new());
        }
        let per_host = import.options.per_host as usize * 2;
        let mut busy: HashMap<String, usize> = HashMap::new();
        for flight in self.flights.values() {
            *busy.entry(flight.host.clone()).or_default() += 1;
        }
        let share_wanted = u32::try_from(share).unwrap_or(CANDIDATES);
        let mut chosen = Vec::new();
        for limit in [share_wanted.min(CANDIDATES), CANDIDATES] {
            let candidates = self.domain.import_candidates(import, limit).await?;
            let all = candidates.len() < limit as usize;
            chosen.clear();
            let mut taken = busy.clone();
            for (number, host) in candidates {
                let at_host = taken.entry(host).or_default();
                if chosen.len() < share && *at_host < per_host {
                    *at_host += 1;
                    chosen.push(number);
                }
            }
            if all || chosen.len() == share {
                break;
            }
        }
        Ok(chosen)
    }

    fn start(&mut self, work: Work) {
        let stop = CancellationToken::new();
        let flight = Flight {
            import: work.item.held.import,
            tenant: work.item.held.tenant.clone(),
            number: work.item.held.number,
            host: work.item.host.clone(),
            stop: stop.clone(),
        };
        let gates = self.gates.of(&work);
        let (domain, large) = (self.domain.clone(), self.large.clone());
        let held = &work.item.held;
        let span = tracing::info_span!(
            target: trace::ROOT,
            "import item",
            tenant = %held.tenant,
            import = %held.import,
            number = held.number,
        );
        let fetching = async move {
            let place = tokio::select! {
                place = gates.enter() => Some(place),
                () = stop.cancelled() => None,
            };
            domain
                .import_item(&work, media_type::sniff, place, large, stop)
                .await;
        };
        let task = self.tasks.spawn(fetching.instrument(span));
        self.flights.insert(task.id(), flight);
    }

    async fn give_back(mut self) {
        self.stop_where(|_| true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GIVE_BACK, all).await.is_err() {
            tracing::warn!("items that are being fetched are left to their leases");
        }
    }
}

/// What an item must pass before it is fetched: the bounds of its import, of its host in its import, of
/// its host, and of the process.
struct Gates {
    slots: Arc<Semaphore>,
    per_host: u32,
    narrow: HashMap<Gate, Arc<Semaphore>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Gate {
    Import(ImportId),
    ImportHost(ImportId, String),
    Host(String),
}

/// In this order, so that nobody waits for a narrow one while holding a wide one.
struct Path([Arc<Semaphore>; 4]);

impl Path {
    async fn enter(self) -> Vec<tokio::sync::OwnedSemaphorePermit> {
        let mut place = Vec::with_capacity(self.0.len());
        for gate in self.0 {
            // None is ever closed.
            place.extend(gate.acquire_owned().await.ok());
        }
        place
    }
}

impl Gates {
    fn new(concurrency: u32, per_host: u32) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(concurrency as usize)),
            per_host,
            narrow: HashMap::new(),
        }
    }

    fn of(&mut self, work: &Work) -> Path {
        const MOST: usize = 4_096;
        if self.narrow.len() > MOST {
            // Nobody else can get at those that only this map holds.
            self.narrow.retain(|_, gate| Arc::strong_count(gate) > 1);
        }
        let (import, host) = (work.item.held.import, &work.item.host);
        let per_host = self.per_host;
        let mut gate = |gate: Gate, places: u32| {
            self.narrow
                .entry(gate)
                .or_insert_with(|| Arc::new(Semaphore::new(places as usize)))
                .clone()
        };
        Path([
            gate(
                Gate::ImportHost(import, host.clone()),
                work.options.per_host,
            ),
            gate(Gate::Host(host.clone()), per_host),
            gate(Gate::Import(import), work.options.concurrency),
            self.slots.clone(),
        ])
    }
}
