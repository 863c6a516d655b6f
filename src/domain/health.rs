//! Whether the database and the store answer.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, join};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::{Error, Result};

use super::Domain;

/// How long a part may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How long an answer is good for: whoever may ask is anybody, so that asking must cost little.
const FRESH: Duration = Duration::from_secs(1);

/// How a part answered; None: it did not, or with an error.
pub type Latency = Option<Duration>;

#[derive(Clone, Copy, Debug)]
pub struct Parts {
    pub database: Latency,
    pub store: Latency,
}

impl Parts {
    pub fn all_answer(&self) -> bool {
        self.database.is_some() && self.store.is_some()
    }
}

/// Asks the parts, one question at a time however many want to know.
pub struct Health {
    domain: Domain,
    last: Mutex<Option<(Instant, Parts)>>,
}

impl Health {
    pub fn new(domain: Domain) -> Self {
        Self {
            domain,
            last: Mutex::new(None),
        }
    }

    pub async fn parts(&self) -> Parts {
        let mut last = self.last.lock().await;
        if let Some((at, parts)) = *last
            && at.elapsed() < FRESH
        {
            return parts;
        }
        let store = async {
            // A store that answers without the marker is another one, or an empty mount point.
            match self.domain.objects.marker_get().await? {
                Some(_) => Ok(()),
                None => Err(Error::unavailable("the store has no marker")),
            }
        };
        let (database, store) = join!(
            latency("database", self.domain.metadata.ping().boxed()),
            latency("store", store.boxed()),
        );
        let parts = Parts { database, store };
        *last = Some((Instant::now(), parts));
        parts
    }
}

async fn latency(part: &str, probe: BoxFuture<'_, Result<()>>) -> Latency {
    let began = Instant::now();
    let outcome = tokio::time::timeout(TIMEOUT, probe)
        .await
        .unwrap_or_else(|_| Err(Error::unavailable("no answer in time")));
    match outcome {
        Ok(()) => Some(began.elapsed()),
        Err(error) => {
            tracing::warn!(part, %error, "a part of the service does not answer");
            None
        }
    }
}
