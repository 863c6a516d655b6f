//! Principals of tokens that were verified before, so that a signature is checked once and not
//! with every request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;

use super::{LEEWAY, Principal};

/// Threads that look up different tokens seldom wait for one another.
const SHARDS: usize = 16;

/// In all 10,000 tokens: some 5 MiB.
const MOST_IN_SHARD: usize = 10_000 / SHARDS;

/// What stands for a token: who reads this memory can't call with what he finds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

/// Who answers for a principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voucher {
    /// One of the secrets: they stay as they are while the process runs.
    Secret,
    /// The issuer at this place, with a key of a set of this generation.
    Issuer { index: usize, generation: u64 },
}

#[derive(Clone)]
pub(super) struct Verified {
    pub(super) principal: Arc<Principal>,
    pub(super) voucher: Voucher,
}

impl Verified {
    fn ends_at(&self) -> Timestamp {
        self.principal.expires_at.plus(LEEWAY)
    }
}

#[derive(Default)]
pub(super) struct Cache {
    shards: [Mutex<HashMap<Digest, Verified>>; SHARDS],
}

impl Cache {
    /// None for a token that is not known, or has expired.
    pub(super) fn get(&self, digest: &Digest, now: Timestamp) -> Option<Verified> {
        let mut shard = self.shard(digest);
        let found = shard.get(digest)?.clone();
        if found.ends_at() <= now {
            shard.remove(digest);
            return None;
        }
        Some(found)
    }

    /// In a full shard it takes the place of what ends first.
    pub(super) fn put(&self, digest: Digest, verified: Verified) {
        let mut shard = self.shard(&digest);
        if shard.len() >= MOST_IN_SHARD && !shard.contains_key(&digest) {
            let first = shard.iter().min_by_key(|(_, verified)| verified.ends_at());
            if let Some(first) = first.map(|(digest, _)| *digest) {
                shard.remove(&first);
            }
        }
        shard.insert(digest, verified);
    }

    fn shard(&self, digest: &Digest) -> MutexGuard<'_, HashMap<Digest, Verified>> {
        self.shards[usize::from(digest.0[0]) % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(secs: i64) -> Verified {
        Verified {
            principal: Arc::new(Principal {
                tenant: "acme".parse().unwrap(),
                subject: "ann".to_owned(),
                scopes: Vec::new(),
                expires_at: at(secs),
            }),
            voucher: Voucher::Secret,
        }
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    #[test]
    fn a_token_is_known_until_it_ends() {
        let cache = Cache::default();
        let digest = Digest::of("a.b.c");
        cache.put(digest, until(60));
        assert!(cache.get(&digest, at(89)).is_some());
        assert!(cache.get(&Digest::of("a.b.d"), at(0)).is_none());
        assert!(cache.get(&digest, at(90)).is_none());
        assert!(cache.get(&digest, at(0)).is_none(), "it was not removed");
    }

    #[test]
    fn it_stays_within_its_bound_and_keeps_what_ends_last() {
        let cache = Cache::default();
        let last = Digest::of("last");
        cache.put(last, until(1_000_000));
        for n in 0..20_000 {
            cache.put(Digest::of(&n.to_string()), until(n));
        }
        let held: usize = cache
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap().len())
            .sum();
        assert_eq!(held, SHARDS * MOST_IN_SHARD);
        assert!(cache.get(&last, at(0)).is_some());
        assert!(cache.get(&Digest::of("19999"), at(0)).is_some());
        assert!(cache.get(&Digest::of("0"), at(0)).is_none());
    }
}
