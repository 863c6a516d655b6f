//! When a request is made again: with a pause that is left to chance, so that many who failed
//! together don't come back together, and within a budget, so that an outage does not multiply what is
//! asked of a store that is just coming back.
//!
//! The budget is gRPC's (gRFC A6): each failure takes ten, each success gives one, and nothing is
//! tried again while it is not more than half full.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use object_store::client::{
    HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use reqwest::StatusCode;

use crate::error::Error;

/// Tries of one call, all of them within one [`super::CALL_TIMEOUT`].
const ATTEMPTS: u32 = 3;

/// So many failures in a row, and half as many again, use the budget up.
const FULL: i64 = 1_000;
const FAILURE: i64 = 10;

#[derive(Clone, Debug)]
pub(super) struct Retries {
    /// Before the second try of a call, at most.
    first_pause: Duration,
    budget: Arc<AtomicI64>,
}

impl Retries {
    pub(super) fn new(first_pause: Duration) -> Self {
        Self {
            first_pause,
            budget: Arc::new(AtomicI64::new(FULL)),
        }
    }

    /// How long to wait once so many tries of a call have failed; None: no longer.
    pub(super) fn pause(&self, tries: u32) -> Option<Duration> {
        if tries == 0 || tries >= ATTEMPTS || !self.are_allowed() {
            return None;
        }
        let longest = self.first_pause * 2_u32.pow(tries - 1);
        Some(longest.mul_f64(rand::random_range(0.5..=1.0)))
    }

    fn are_allowed(&self) -> bool {
        self.budget.load(Ordering::Relaxed) > FULL / 2
    }

    fn count(&self, failed: bool) {
        let change = if failed { -FAILURE } else { 1 };
        let _ = self
            .budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some((left + change).clamp(0, FULL))
            });
    }

    /// The client, whose outcomes are counted.
    pub(super) fn counting(&self, http: HttpClient) -> HttpClient {
        HttpClient::new(Counting {
            http,
            retries: self.clone(),
            ends: false,
        })
    }

    /// The same for who retries by itself and knows no budget: once that is used up, failures are such
    /// as it does not retry.
    pub(super) fn ending(&self, http: HttpClient) -> HttpClient {
        HttpClient::new(Counting {
            http,
            retries: self.clone(),
            ends: true,
        })
    }
}

#[derive(Debug)]
struct Counting {
    http: HttpClient,
    retries: Retries,
    ends: bool,
}

#[async_trait::async_trait]
impl HttpService for Counting {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let outcome = self.http.execute(request).await;
        let failed = match &outcome {
            Ok(answer) => is_transient(answer.status()),
            Err(_) => true,
        };
        self.retries.count(failed);
        if !failed || !self.ends || self.retries.are_allowed() {
            return outcome;
        }
        let cause = match outcome {
            Ok(answer) => Error::unavailable(format!("the store answered {}", answer.status())),
            Err(error) => Error::unavailable(error),
        };
        Err(HttpError::new(HttpErrorKind::Unknown, cause))
    }
}

/// Whether the same request may fare better later.
pub(super) fn is_transient(status: StatusCode) -> bool {
    status.is_server_error()
        || status == StatusCode::REQUEST_TIMEOUT
        || status == StatusCode::TOO_MANY_REQUESTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_uses_the_budget_up_and_successes_fill_it_again() {
        let retries = Retries::new(Duration::from_millis(200));
        let mut tried_again = 0;
        for _ in 0..1_000 {
            retries.count(true);
            tried_again += u32::from(retries.pause(1).is_some());
        }
        assert_eq!(tried_again, 49);
        for _ in 0..500 {
            retries.count(false);
            assert_eq!(retries.pause(1), None);
        }
        retries.count(false);
        assert!(retries.pause(1).is_some());
        // It does not grow beyond what it was at first.
        for _ in 0..10_000 {
            retries.count(false);
        }
        for _ in 0..50 {
            retries.count(true);
        }
        assert_eq!(retries.pause(1), None);
    }

    #[test]
    fn pauses_differ_and_grow_and_end() {
        let retries = Retries::new(Duration::from_millis(200));
        let pauses: Vec<u128> = (0..100)
            .map(|_| retries.pause(1).unwrap().as_millis())
            .collect();
        assert!(pauses.iter().all(|pause| (100..=200).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        let second = retries.pause(2).unwrap().as_millis();
        assert!((200..=400).contains(&second));
        assert_eq!(retries.pause(3), None);
    }
}
