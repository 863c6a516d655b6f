//! Links that are asked for often, in memory.
//!
//! One that changes is dropped: here by whoever changes it, elsewhere when the database tells of it.
//! Where that fails, and a change is missed, it is believed for [`BELIEVED`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use crate::metadata::links::Link;

/// How many are kept: some 30 MiB, at half a KiB each.
const KEPT: u64 = 65_536;

const BELIEVED: Duration = Duration::from_secs(5);

pub(super) struct Hot {
    links: Cache<String, Arc<Link>>,
    /// How many were dropped.
    drops: AtomicU64,
}

impl Default for Hot {
    fn default() -> Self {
        Self {
            links: Cache::builder()
                .max_capacity(KEPT)
                .time_to_live(BELIEVED)
                .build(),
            drops: AtomicU64::new(0),
        }
    }
}

impl Hot {
    pub(super) fn get(&self, slug: &str) -> Option<Arc<Link>> {
        self.links.get(slug)
    }

    /// To be asked before the database is.
    pub(super) fn moment(&self) -> u64 {
        self.drops.load(Ordering::SeqCst)
    }

    /// Keeps what was read after `moment`, unless a link was dropped since: it may be this one, and
    /// what was read may be older than its change.
    pub(super) fn keep(&self, link: Arc<Link>, moment: u64) {
        let slug = link.slug.clone();
        self.links.insert(slug.clone(), link);
        // Looked at behind the insert: who drops counts first.
        if self.moment() != moment {
            self.links.invalidate(&slug);
        }
    }

    pub(super) fn drop_one(&self, slug: &str) {
        self.drops.fetch_add(1, Ordering::SeqCst);
        self.links.invalidate(slug);
    }

    pub(super) fn drop_all(&self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
        self.links.invalidate_all();
    }
}
