//! How often one caller may ask: by address before anything is looked at, by principal once the
//! token is known. What is left is told with each answer, in the fields of
//! draft-ietf-httpapi-ratelimit-headers-09.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use governor::clock::Clock as GovernorClock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};

use crate::auth::Principal;
use crate::clock::Clock;
use crate::config::{Rate, RateLimits};
use crate::error::{Error, Kind, Result};
use crate::metrics::{Counter, Refusals};

use super::address::network;
use super::problem::whole_seconds;

pub(super) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(super) const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The limits of all routes.
pub(super) struct Limits {
    reads: Class,
    writes: Class,
}

/// The limits of the routes of one class.
#[derive(Clone)]
pub(super) struct Class {
    address: Option<Arc<Limit>>,
    principal: Option<Arc<Limit>>,
}

impl Limits {
    pub(super) fn new(config: &RateLimits, clock: &Clock, refusals: &Refusals) -> Self {
        let limit = |name, rate: Option<Rate>, refused: &Counter| {
            rate.map(|rate| Arc::new(Limit::new(name, rate, config.keys, clock, refused.clone())))
        };
        Self {
            reads: Class {
                address: limit("address-reads", config.address_reads, &refusals.address),
                principal: limit(
                    "principal-reads",
                    config.principal_reads,
                    &refusals.principal,
                ),
            },
            writes: Class {
                address: limit("address-writes", config.address_writes, &refusals.address),
                principal: limit(
                    "principal-writes",
                    config.principal_writes,
                    &refusals.principal,
                ),
            },
        }
    }

    /// Health is asked for by who keeps the service running, and is never limited.
    pub(super) fn class(&self, method: &Method, path: &str) -> Class {
        if path.starts_with("/health") {
            Class::unlimited()
        } else if matches!(*method, Method::GET | Method::HEAD) {
            self.reads.clone()
        } else {
            self.writes.clone()
        }
    }
}

impl Class {
    pub(super) fn unlimited() -> Self {
        Self {
            address: None,
            principal: None,
        }
    }

    /// # Errors
    /// 429.
    pub(super) fn address(&self, ip: Option<IpAddr>, standing: &mut Standing) -> Result<()> {
        match (&self.address, ip) {
            (Some(limit), Some(ip)) => limit.ask(&network(ip), standing),
            _ => Ok(()),
        }
    }

    /// # Errors
    /// 429.
    pub(super) fn principal(&self, principal: &Principal, standing: &mut Standing) -> Result<()> {
        match &self.principal {
            Some(limit) => limit.ask(&(&principal.tenant, &principal.subject), standing),
            None => Ok(()),
        }
    }
}

type Governor = RateLimiter<u128, Recent, Ticks, StateInformationMiddleware>;

struct Limit {
    name: &'static str,
    rate: Rate,
    governor: Governor,
    /// Callers are remembered by two hashes that nobody outside can foresee: all take the same memory,
    /// whatever their names.
    hashers: [RandomState; 2],
    refused: Counter,
}

impl Limit {
    fn new(name: &'static str, rate: Rate, keys: u32, clock: &Clock, refused: Counter) -> Self {
        let quota = Quota::with_period(rate.interval())
            .expect("a rate's interval is not 0")
            .allow_burst(rate.count);
        Self {
            name,
            rate,
            governor: Governor::new(quota, Recent::new(keys), Ticks(clock.clone())),
            hashers: [RandomState::new(), RandomState::new()],
            refused,
        }
    }

    fn ask(&self, caller: &impl Hash, standing: &mut Standing) -> Result<()> {
        let [high, low] = &self.hashers;
        let key = u128::from(high.hash_one(caller)) << 64 | u128::from(low.hash_one(caller));
        let count = self.rate.count.get();
        match self.governor.check_key(&key) {
            Ok(state) => {
                let left = state.remaining_burst_capacity();
                let until_all = self.rate.interval() * count.saturating_sub(left);
                standing.add(self, left, whole_seconds(until_all));
                Ok(())
            }
            Err(refused) => {
                self.refused.inc();
                let wait = refused.wait_time_from(self.governor.clock().now());
                standing.add(self, 0, whole_seconds(wait));
                let seconds = self.rate.period.as_secs_f64();
                Err(Error::new(
                    Kind::RateLimited,
                    format!("At most {count} requests in {seconds} seconds: see RateLimit-Policy."),
                )
                .retry_after(wait))
            }
        }
    }
}

/// What is left to a caller, for the answer: one entry for each limit that was asked.
#[derive(Default)]
pub(super) struct Standing {
    policies: String,
    left: String,
}

impl Standing {
    fn add(&mut self, limit: &Limit, left: u32, seconds: u64) {
        let name = limit.name;
        let (count, window) = (limit.rate.count, whole_seconds(limit.rate.period));
        for (list, entry) in [
            (
                &mut self.policies,
                format!("\"{name}\";q={count};w={window}"),
            ),
            (&mut self.left, format!("\"{name}\";r={left};t={seconds}")),
        ] {
            if !list.is_empty() {
                list.push_str(", ");
            }
            list.push_str(&entry);
        }
    }

    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        for (name, list) in [(RATELIMIT_POLICY, &self.policies), (RATELIMIT, &self.left)] {
            if let (false, Ok(value)) = (list.is_empty(), HeaderValue::try_from(list)) {
                headers.insert(name, value);
            }
        }
    }
}

/// The service's clock, as governor reads it.
#[derive(Clone)]
struct Ticks(Clock);

impl GovernorClock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.monotonic().into()
    }
}

/// The callers that asked last, at most so many: those that asked longest ago are forgotten first, half
/// of all at a time. Who is forgotten has all of its requests again.
struct Recent {
    generations: Mutex<Generations>,
    half: usize,
}

#[derive(Default)]
struct Generations {
    young: HashMap<u128, Nanos>,
    old: HashMap<u128, Nanos>,
}

impl Recent {
    fn new(keys: u32) -> Self {
        let half = usize::try_from(keys / 2).unwrap_or(usize::MAX).max(1);
        Self {
            generations: Mutex::default(),
            half,
        }
    }
}

impl StateStore for Recent {
    type Key = u128;

    fn measure_and_replace<T, F, E>(&self, key: &u128, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Generations { young, old } = &mut *generations;
        let known = young.get(key).or_else(|| old.get(key)).copied();
        let decided = decide(known);
        // Also who is refused has asked.
        let state = match &decided {
            Ok((_, new)) => Some(*new),
            Err(_) => known,
        };
        if let Some(state) = state {
            if young.len() >= self.half && !young.contains_key(key) {
                *old = std::mem::take(young);
            }
            young.insert(*key, state);
        }
        decided.map(|(told, _)| told)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;

    fn limit(count: u32, seconds: u64, keys: u32) -> (Limit, Clock) {
        let clock = Clock::manual(Timestamp::from_micros(1_000_000_000_000_000));
        let rate = Rate {
            count: count.try_into().unwrap(),
            period: Duration::from_secs(seconds),
        };
        (
            Limit::new("x", rate, keys, &clock, Counter::default()),
            clock,
        )
    }

    /// The requests of one caller that are let through at once, out of so many.
    fn granted(limit: &Limit, caller: u32, of: usize) -> usize {
        (0..of)
            .filter(|_| limit.ask(&caller, &mut Standing::default()).is_ok())
            .count()
    }

    #[test]
    fn what_was_used_comes_back_evenly() {
        let (limit, clock) = limit(3, 30, 100);
        assert_eq!(granted(&limit, 1, 10), 3);
        assert_eq!(granted(&limit, 2, 10), 3);
        clock.advance(Duration::from_millis(9_999));
        assert_eq!(granted(&limit, 1, 10), 0);
        clock.advance(Duration::from_millis(1));
        assert_eq!(granted(&limit, 1, 10), 1);
        clock.advance(Duration::from_secs(3_600));
        assert_eq!(granted(&limit, 1, 10), 3);
        assert_eq!(limit.refused.get(), 7 + 7 + 10 + 9 + 7);
    }

    #[test]
    fn an_answer_says_what_is_left_and_a_refusal_when_to_come_again() {
        let (limit, clock) = limit(2, 60, 100);
        let mut told = Vec::new();
        for _ in 0..3 {
            let mut standing = Standing::default();
            let asked = limit.ask(&1, &mut standing);
            assert_eq!(standing.policies, "\"x\";q=2;w=60");
            told.push((standing.left, asked.err().and_then(|it| it.retry_wait())));
        }
        assert_eq!(
            told,
            [
                ("\"x\";r=1;t=30".to_owned(), None),
                ("\"x\";r=0;t=60".to_owned(), None),
                ("\"x\";r=0;t=30".to_owned(), Some(Duration::from_secs(30))),
            ]
        );
        clock.advance(Duration::from_secs(30));
        assert!(limit.ask(&1, &mut Standing::default()).is_ok());
    }

    #[test]
    fn callers_in_memory_are_bounded_and_who_asks_is_kept() {
        let (limit, _clock) = limit(1, 3_600, 10);
        assert_eq!(granted(&limit, 0, 2), 1);
        for stranger in 1..10_000 {
            assert_eq!(granted(&limit, stranger, 1), 1);
            // Refused each time: it is never forgotten while it asks.
            assert_eq!(granted(&limit, 0, 1), 0);
        }
        // Who came long ago is.
        assert_eq!(granted(&limit, 1, 2), 1);
    }

    #[test]
    fn no_more_are_remembered_than_may_be() {
        let store = Recent::new(10);
        for key in 0..1_000 {
            let kept = store.measure_and_replace(&key, |_| Ok::<_, ()>(((), Nanos::new(1))));
            assert_eq!(kept, Ok(()));
            let generations = store.generations.lock().unwrap();
            assert!(generations.young.len() + generations.old.len() <= 10);
        }
    }
}
