//! Uses of links, gathered and written together, off the path of the requests that they are.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::links::{Link, Uses};

/// Links whose uses may wait, and links in one transaction.
const WAITING: usize = 100_000;
const TOGETHER: usize = 250;

#[derive(Default)]
pub(super) struct Gathered {
    waiting: Mutex<HashMap<String, Uses>>,
    /// One at a time: else a link's uses could be written in two transactions that wait for each other.
    flushing: tokio::sync::Mutex<()>,
}

impl Gathered {
    /// False: too many wait.
    pub(super) fn add(&self, link: &Link, now: Timestamp) -> bool {
        // One that is asked for often waits already.
        if let Some(there) = self.waiting().get_mut(&link.slug)
            && there.created_at == link.created_at
        {
            there.uses += 1;
            there.last_used_at = there.last_used_at.max(now);
            return true;
        }
        let one = Uses {
            slug: link.slug.clone(),
            created_at: link.created_at,
            uses: 1,
            last_used_at: now,
        };
        self.merge([one]).is_empty()
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, Uses>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there was no room for.
    fn merge(&self, uses: impl IntoIterator<Item = Uses>) -> Vec<Uses> {
        let mut waiting = self.waiting();
        let mut left = Vec::new();
        for one in uses {
            let room = waiting.len() < WAITING;
            match waiting.get_mut(&one.slug) {
                Some(there) if there.created_at == one.created_at => {
                    there.uses += one.uses;
                    there.last_used_at = there.last_used_at.max(one.last_used_at);
                }
                // Of another link that had this slug: it is gone, and nobody asks for its uses.
                Some(there) if there.created_at < one.created_at => *there = one,
                Some(_) => {}
                None if room => {
                    waiting.insert(one.slug.clone(), one);
                }
                None => left.push(one),
            }
        }
        left
    }

    pub(super) async fn flush(&self, metadata: &Metadata) -> Result<()> {
        let _alone = self.flushing.lock().await;
        let mut all: Vec<Uses> = std::mem::take(&mut *self.waiting()).into_values().collect();
        // In one order in every replica, so that they rarely wait for each other.
        all.sort_by(|a, b| a.slug.cmp(&b.slug));
        while !all.is_empty() {
            let rest = all.split_off(all.len().min(TOGETHER));
            let chunk = std::mem::replace(&mut all, rest);
            let input = chunk.clone();
            let written = metadata
                .write(input, |tx, uses| {
                    async move { tx.link_uses_add(uses).await }.boxed()
                })
                .await;
            if let Err(error) = written {
                let lost = self.merge(chunk.into_iter().chain(all));
                if !lost.is_empty() {
                    tracing::warn!(links = lost.len(), "uses of links are lost: too many wait");
                }
                return Err(error);
            }
        }
        Ok(())
    }
}
