//! Access that was refused, and access by signed URLs: noted beside the requests, within bounds.
//!
//! Nothing else would write for these requests, and who is refused may ask as often as he likes. So
//! they wait in a short queue, are written a batch a second, and are counted where there is no room.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use futures::FutureExt;
use serde_json::Value;

use crate::error::Result;
use crate::metadata::events::Event;

use super::super::{Caller, Domain};

/// Notes that wait, and those of one batch.
const WAITING: usize = 1_000;
const BATCH: usize = 20;

/// What is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Refused,
    Signed,
}

impl Access {
    const fn action(self) -> &'static str {
        match self {
            Self::Refused => "access.refused",
            Self::Signed => "access.signed",
        }
    }
}

/// Notes that wait to be written.
#[derive(Default)]
pub struct Sampled(Mutex<VecDeque<Event>>);

impl Domain {
    /// Takes note of an access. Never waits.
    pub fn access_note(&self, access: Access, caller: &Caller, target: String, detail: Value) {
        if !self.rules.audit_access {
            return;
        }
        let event = self.event(caller, access.action(), target, detail);
        let mut waiting = self
            .sampled
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING {
            waiting.push_back(event);
            self.metrics.audit.noted.inc();
        } else {
            self.metrics.audit.dropped.inc();
        }
    }

    /// Writes a batch of what was noted; how many. Must run to its end.
    pub async fn access_write(&self) -> Result<usize> {
        let batch: Vec<Event> = {
            let mut waiting = self
                .sampled
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let most = waiting.len().min(BATCH);
            waiting.drain(..most).collect()
        };
        let count = batch.len();
        if count == 0 {
            return Ok(0);
        }
        let written = self
            .metadata
            .write(batch, |tx, batch: &Vec<Event>| {
                async move {
                    for event in batch {
                        tx.event_insert(event).await?;
                    }
                    Ok(())
                }
                .boxed()
            })
            .await;
        self.metrics
            .audit
            .noted
            .dec_by(i64::try_from(count).unwrap_or(i64::MAX));
        if written.is_err() {
            // Not tried again: they may be written already.
            self.metrics.audit.dropped.inc_by(count as u64);
        }
        written.map(|()| count)
    }
}
