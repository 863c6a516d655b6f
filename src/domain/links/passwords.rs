//! Passwords of links: argon2id (RFC 9106), a few at a time, and few tries for who does not know them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use tokio::sync::Semaphore;

use crate::clock::Timestamp;
use crate::domain::Domain;
use crate::error::{Error, Kind, Result};
use crate::metadata::links::Link;

/// Hashes at a time: each takes 19 MiB and some 20 ms of a core.
const AT_A_TIME: usize = 2;

/// How long one waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// Wrong passwords that one address may send for one link, and within how long.
const TRIES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(600);

/// Links and addresses whose tries are known.
const KNOWN: usize = 100_000;

pub(super) struct Passwords {
    turns: Arc<Semaphore>,
    tries: Mutex<HashMap<(String, IpAddr), Tries>>,
}

struct Tries {
    since: Timestamp,
    count: u32,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_A_TIME)),
            tries: Mutex::default(),
        }
    }
}

impl Passwords {
    /// Runs to its end, and keeps its turn until then, though who asked may be gone.
    async fn turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = tokio::time::timeout(PATIENCE, self.turns.clone().acquire_owned())
            .await
            .map_err(|_| Error::unavailable("too many passwords wait to be hashed"))?
            .map_err(Error::internal)?;
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(Error::internal)?
    }

    pub(super) async fn hash(&self, password: &str) -> Result<String> {
        let password = password.to_owned();
        self.turn(move || {
            let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>())
                .map_err(|error| Error::internal(error.to_string()))?;
            let hash = Argon2::default()
                .hash_password(password.as_bytes(), &salt)
                .map_err(|error| Error::internal(error.to_string()))?;
            Ok(hash.to_string())
        })
        .await
    }

    async fn verify(&self, password: &str, hash: &str) -> Result<bool> {
        let (password, hash) = (password.to_owned(), hash.to_owned());
        self.turn(move || {
            let hash =
                PasswordHash::new(&hash).map_err(|error| Error::internal(error.to_string()))?;
            Ok(Argon2::default()
                .verify_password(password.as_bytes(), &hash)
                .is_ok())
        })
        .await
    }

    /// Counts a try before it is made, so that many at once are no more than one after the other; how
    /// long to wait where there are none left.
    fn try_begin(&self, of: &(String, IpAddr), now: Timestamp) -> Result<(), Duration> {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        if tries.len() >= KNOWN && !tries.contains_key(of) {
            tries.retain(|_, tries| now.since(tries.since) < WINDOW);
            if tries.len() >= KNOWN {
                return Err(WINDOW);
            }
        }
        let known = tries.entry(of.clone()).or_insert(Tries {
            since: now,
            count: 0,
        });
        if now.since(known.since) >= WINDOW {
            *known = Tries {
                since: now,
                count: 0,
            };
        }
        if known.count >= TRIES {
            return Err(WINDOW.saturating_sub(now.since(known.since)));
        }
        known.count += 1;
        Ok(())
    }

    /// It was the right one, or was not looked at.
    fn try_take_back(&self, of: &(String, IpAddr)) {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tries.get_mut(of) {
            known.count -= 1;
            if known.count == 0 {
                tries.remove(of);
            }
        }
    }
}

impl Domain {
    /// Whether this is the link's password. A link without one has every password.
    ///
    /// # Errors
    /// `RateLimited` for an address that has sent too many wrong ones.
    pub async fn link_password_is(
        &self,
        link: &Link,
        password: &str,
        address: IpAddr,
    ) -> Result<bool> {
        let Some(hash) = &link.password else {
            return Ok(true);
        };
        let passwords = &self.links.0.passwords;
        let of = (link.slug.clone(), network(address));
        if let Err(wait) = passwords.try_begin(&of, self.clock.now()) {
            self.metrics.links.throttled.inc();
            return Err(Error::new(
                Kind::RateLimited,
                format!(
                    "Too many wrong passwords: try again in {} seconds.",
                    wait.as_secs().max(1)
                ),
            ));
        }
        // What is too long is none that could have been set.
        let verified = if password.len() > super::PASSWORD_BYTES {
            Ok(false)
        } else {
            passwords.verify(password, hash).await
        };
        if !matches!(verified, Ok(false)) {
            passwords.try_take_back(&of);
        }
        verified
    }
}

/// Who has an address of IPv6 has at least 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[8..].fill(0);
            IpAddr::from(octets)
        }
    }
}
