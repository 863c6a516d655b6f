//! The keys of an issuer, fetched when they are wanted and kept.
//!
//! - Keys are fetched again when they are older than [`FRESH`], beside the requests; a request
//!   waits for that only where they are older than [`OVERDUE`], as after a quiet hour. So a key
//!   that has left its set is honoured for [`OVERDUE`] at most while the issuer answers.
//! - A token with a key that is not here yet has them fetched at once, so that a key may be used
//!   the moment it is published; for the sake of who sends made-up key ids, once in [`RETRY`].
//! - After a fetch that failed there is none for [`RETRY`], whatever for. The keys that are here go
//!   on being good, for [`KEPT`].
//!
//! There is one fetch at a time, and who needs one that runs waits for it. It is a task of its own:
//! a request that is given up takes it away from nobody.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use reqwest::header::ACCEPT;
use tokio::sync::{Mutex, OwnedMutexGuard};
use url::Url;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Result};

use super::keys::KeySet;

const FRESH: Duration = Duration::from_secs(5 * 60);
const OVERDUE: Duration = Duration::from_secs(10 * 60);
const RETRY: Duration = Duration::from_secs(30);

/// An outage of a day is survived; a key that was withdrawn is not honoured for ever because
/// nobody could be asked.
const KEPT: Duration = Duration::from_secs(24 * 3_600);

/// For a whole fetch.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Of a set, in bytes. Those of large issuers have some 20 KiB.
const MOST_BYTES: usize = 1 << 20;

pub(super) struct Jwks {
    /// For the log.
    issuer: String,
    url: Url,
    http: reqwest::Client,
    clock: Clock,
    state: RwLock<State>,
    /// Held by who fetches.
    turn: Arc<Mutex<()>>,
}

#[derive(Default)]
struct State {
    fetched: Option<Fetched>,
    /// Of the last fetch, if it failed.
    failure: Option<Failure>,
    /// When the last fetch for the sake of an unknown key began.
    missed_at: Option<Timestamp>,
}

struct Fetched {
    keys: Arc<KeySet>,
    at: Timestamp,
}

struct Failure {
    problem: String,
    at: Timestamp,
}

/// What a fetch is for.
enum Why {
    Age,
    /// A token may have been signed with a key that these don't have.
    Missing(Arc<KeySet>),
}

/// What the age of the keys asks for.
#[derive(PartialEq)]
enum Need {
    Nothing,
    /// A fetch that nobody waits for.
    Aside,
    Wait,
}

/// The client that fetches keys: straight, without a proxy, and only from where it was sent.
///
/// # Errors
/// The system's certificates can't be read.
pub(super) fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(concat!("box-service/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .build()
}

impl Jwks {
    pub(super) fn new(issuer: &str, url: &Url, http: reqwest::Client, clock: Clock) -> Self {
        Self {
            issuer: issuer.to_owned(),
            url: url.clone(),
            http,
            clock,
            state: RwLock::default(),
            turn: Arc::default(),
        }
    }

    /// The keys in force.
    ///
    /// # Errors
    /// `Unavailable`: the issuer was never reached, or not for [`KEPT`].
    pub(super) async fn current(self: &Arc<Self>) -> Result<Arc<KeySet>> {
        let need = self.state().need(self.clock.now());
        match need {
            Need::Nothing => {}
            Need::Aside => self.fetch_aside(),
            Need::Wait => self.fetch_and_wait(Why::Age).await,
        }
        let state = self.state();
        match state.kept(self.clock.now()) {
            Some(fetched) => Ok(fetched.keys.clone()),
            None => Err(self.unavailable(&state)),
        }
    }

    /// Others than `seen`, if the issuer may have any: fetched now, or since they were seen.
    ///
    /// # Errors
    /// `Unavailable`: the issuer can't be asked, so that nobody knows.
    pub(super) async fn newer_than(
        self: &Arc<Self>,
        seen: &Arc<KeySet>,
    ) -> Result<Option<Arc<KeySet>>> {
        let why = Why::Missing(seen.clone());
        if self.state().is_due(&why, self.clock.now()) {
            self.fetch_and_wait(why).await;
        }
        let state = self.state();
        match &state.fetched {
            Some(fetched) if !Arc::ptr_eq(&fetched.keys, seen) => Ok(Some(fetched.keys.clone())),
            _ if state.failure.is_some() => Err(self.unavailable(&state)),
            _ => Ok(None),
        }
    }

    fn unavailable(&self, state: &State) -> Error {
        let problem = state.failure.as_ref().map(|failure| &failure.problem);
        Error::unavailable(format!(
            "the keys of {} can't be had: {}",
            self.issuer,
            problem.map_or("there are none", String::as_str)
        ))
    }

    /// Unless one runs.
    fn fetch_aside(self: &Arc<Self>) {
        if let Ok(turn) = self.turn.clone().try_lock_owned() {
            tokio::spawn(self.clone().fetch_if_due(Why::Age, turn));
        }
    }

    /// Waits for the one that runs, too.
    async fn fetch_and_wait(self: &Arc<Self>, why: Why) {
        let this = self.clone();
        let fetching = tokio::spawn(async move {
            let turn = this.turn.clone().lock_owned().await;
            this.fetch_if_due(why, turn).await;
        });
        // What came of it is in the state, and nothing where the runtime is shut down.
        let _ = fetching.await;
    }

    async fn fetch_if_due(self: Arc<Self>, why: Why, turn: OwnedMutexGuard<()>) {
        let began = self.clock.now();
        if self.state().is_due(&why, began) {
            let downloaded = self.download().await;
            self.record(&why, began, downloaded);
        }
        drop(turn);
    }

    async fn download(&self) -> Result<KeySet, Failed> {
        let request = self.http.get(self.url.clone());
        let mut response = request
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .send()
            .await?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("the answer was {}", response.status()).into());
        }
        let mut body = Vec::new();
        while let Some(bytes) = response.chunk().await? {
            if body.len() + bytes.len() > MOST_BYTES {
                return Err(format!("the answer has more than {MOST_BYTES} bytes").into());
            }
            body.extend_from_slice(&bytes);
        }
        KeySet::parse(&body).map_err(|error| format!("no JWK Set: {error}").into())
    }

    fn record(&self, why: &Why, began: Timestamp, downloaded: Result<KeySet, Failed>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(why, Why::Missing(_)) {
            state.missed_at = Some(began);
        }
        match downloaded {
            Ok(keys) => {
                let count = keys.len();
                let keys = match &state.fetched {
                    Some(fetched) => keys.following(&fetched.keys),
                    None => keys,
                };
                tracing::debug!(issuer = self.issuer, count, "keys were fetched");
                if count == 0 {
                    tracing::warn!(issuer = self.issuer, "none of the keys can be used");
                }
                state.failure = None;
                state.fetched = Some(Fetched {
                    keys: Arc::new(keys),
                    at: began,
                });
            }
            Err(error) => {
                let problem = error.story();
                tracing::warn!(issuer = self.issuer, problem, "keys could not be fetched");
                state.failure = Some(Failure { problem, at: began });
            }
        }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn kept(&self, now: Timestamp) -> Option<&Fetched> {
        let kept = |fetched: &&Fetched| now.since(fetched.at) < KEPT;
        self.fetched.as_ref().filter(kept)
    }

    fn need(&self, now: Timestamp) -> Need {
        let failed = self.failure.as_ref();
        if failed.is_some_and(|failure| recent(failure.at, now)) {
            return Need::Nothing;
        }
        let Some(fetched) = self.kept(now) else {
            return Need::Wait;
        };
        match now.since(fetched.at) {
            age if age < FRESH => Need::Nothing,
            // While the issuer is down nobody waits for it.
            age if age < OVERDUE || failed.is_some() => Need::Aside,
            _ => Need::Wait,
        }
    }

    fn is_due(&self, why: &Why, now: Timestamp) -> bool {
        match why {
            Why::Age => self.need(now) != Need::Nothing,
            Why::Missing(seen) => {
                let fetched = self.fetched.as_ref();
                let is_last = fetched.is_some_and(|last| Arc::ptr_eq(&last.keys, seen));
                let failure = self.failure.as_ref().map(|failure| failure.at);
                let tried = [self.missed_at, failure].into_iter().flatten();
                is_last && !tried.into_iter().any(|at| recent(at, now))
            }
        }
    }
}

/// Not for what lies ahead: a clock that was set back must not stop the fetches until it is there.
fn recent(at: Timestamp, now: Timestamp) -> bool {
    at <= now && now.since(at) < RETRY
}

/// Why there are no keys.
struct Failed(Box<dyn std::error::Error + Send + Sync>);

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl Failed {
    /// With every cause: the one that helps is the last.
    fn story(self) -> String {
        Error::unavailable(self.0).story()
    }
}
