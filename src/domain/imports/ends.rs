//! Items that end at the same time end in one transaction: on PostgreSQL most of what an item costs are
//! the round trips of a transaction of its own, and the counters that each of them changes.
//!
//! Whoever gets a turn takes those along that wait; nobody waits for others to come.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use tokio::sync::{Semaphore, oneshot};

use crate::error::{Error, Result};
use crate::id::{ImportId, Tenant};
use crate::metadata::Metadata;
use crate::metadata::events::Event;
use crate::metadata::imports::{Counts, Held, ItemState};
use crate::metadata::usage::{Amount, Change};

use super::super::files::{File, publish};
use super::super::{Domain, quota};

/// Items in one transaction, at most.
const TOGETHER: usize = 32;

/// Transactions at a time: more would take less along each.
const TURNS: usize = 4;

/// An item whose bytes are durable, and the file that it becomes.
#[derive(Clone)]
pub(super) struct Ending {
    pub held: Held,
    /// Of the origin's answer.
    pub status: u16,
    pub file: File,
    pub event: Event,
    pub sha256: [u8; 32],
    pub settled: bool,
    pub unreserved: bool,
}

type Waiting = (Ending, oneshot::Sender<Result<bool>>);

/// Those that wait for a turn, of one process.
pub struct Ends {
    waiting: Mutex<Vec<Waiting>>,
    turns: Semaphore,
}

impl Ends {
    /// As suits the database.
    pub fn of(metadata: &Metadata) -> Self {
        // Where commits are shared, to wait for a turn would only make them smaller.
        Self::new(if metadata.groups_commits() {
            Semaphore::MAX_PERMITS
        } else {
            TURNS
        })
    }

    /// With so many transactions at a time.
    pub fn new(turns: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            turns: Semaphore::new(turns),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next ones, who have waited longest.
    fn take(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting();
        let count = waiting.len().min(TOGETHER);
        waiting.drain(..count).collect()
    }
}

impl Domain {
    /// Makes the file and ends the item, or nothing. False when the item is not held any more.
    pub(super) async fn item_end_with(&self, end: Ending) -> Result<bool> {
        let (answer, mut answered) = oneshot::channel();
        self.ends.waiting().push((end, answer));
        tokio::select! {
            biased;
            outcome = &mut answered => return outcome.map_err(|_| gone())?,
            turn = self.ends.turns.acquire() => {
                let _turn = turn.map_err(Error::internal)?;
                loop {
                    if let Ok(outcome) = answered.try_recv() {
                        return outcome;
                    }
                    let taken = self.ends.take();
                    if taken.is_empty() {
                        // Somebody else has it.
                        break;
                    }
                    self.items_end(taken).await;
                }
            }
        }
        answered.await.map_err(|_| gone())?
    }

    async fn items_end(&self, taken: Vec<Waiting>) {
        let (ends, answers): (Vec<Ending>, Vec<_>) = taken.into_iter().unzip();
        let ends = Arc::new(ends);
        let outcomes: Vec<Result<bool>> = match self.items_end_together(ends.clone()).await {
            Ok(ours) => ours.into_iter().map(Ok).collect(),
            Err(error) if ends.len() == 1 => vec![Err(error)],
            // One of them must not keep the others from their end. What was done after all is not held
            // any more.
            Err(_) => {
                let mut outcomes = Vec::with_capacity(ends.len());
                for end in ends.iter() {
                    let alone = self.items_end_together(Arc::new(vec![end.clone()])).await;
                    outcomes.push(alone.map(|ours| ours == [true]));
                }
                outcomes
            }
        };
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // Who has gone needs no answer.
            let _ = answer.send(outcome);
        }
    }

    /// All of them or none, but for those that are not held any more.
    async fn items_end_together(&self, ends: Arc<Vec<Ending>>) -> Result<Vec<bool>> {
        let clock = self.clock.clone();
        self.metadata
            .write(ends, move |tx, ends| {
                // Read again at each attempt: the leases must hold when the transaction ends.
                let now = clock.now();
                async move {
                    let mut ours = Vec::with_capacity(ends.len());
                    let mut counts = BTreeMap::<ImportId, Counts>::new();
                    let mut usage = BTreeMap::<Tenant, Change>::new();
                    for end in ends.iter() {
                        let (held, file) = (&end.held, &end.file);
                        let is_held = tx
                            .import_item_done(held, end.status, file.id, file.size)
                            .await?;
                        ours.push(is_held);
                        if !is_held {
                            continue;
                        }
                        let (settled, unreserved) = (end.settled, end.unreserved);
                        let reserved =
                            publish(tx, file, &end.event, &end.sha256, settled, unreserved, now)
                                .await?;
                        let bytes = quota::amount(file.size)?;
                        *counts.entry(held.import).or_default() += Counts {
                            bytes,
                            ..Counts::moved(ItemState::Fetching, ItemState::Done, 1)
                        };
                        let change = usage.entry(file.tenant.clone()).or_default();
                        change.used += Amount { bytes, files: 1 };
                        change.reserved += -reserved;
                    }
                    // Last, and in one order, for others wait for these rows from here on.
                    for (import, moved) in counts {
                        tx.import_count(import, moved).await?;
                    }
                    for (tenant, change) in usage {
                        quota::record(tx, &tenant, change).await?;
                    }
                    Ok(ours)
                }
                .boxed()
            })
            .await
    }
}

fn gone() -> Error {
    Error::unavailable("who was ending the item is gone")
}
