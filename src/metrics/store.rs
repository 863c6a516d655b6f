//! Calls to the object store: how many, what came of them, and how long they took.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::time::Instant;

use super::{Histogram, Labels, Register};

/// A request to S3, or what is the same for a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Get,
    Head,
    Put,
    CreateMultipart,
    PutPart,
    CompleteMultipart,
    AbortMultipart,
    Delete,
    List,
}

impl Operation {
    pub fn name(self) -> &'static str {
        OPERATIONS[self as usize].1
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    NotFound,
    /// The store will not do it.
    Refused,
    /// It failed, or did not answer.
    Failed,
    /// It was not waited for any longer.
    GivenUp,
}

const OPERATIONS: [(Operation, &str); 9] = [
    (Operation::Get, "get"),
    (Operation::Head, "head"),
    (Operation::Put, "put"),
    (Operation::CreateMultipart, "create-multipart"),
    (Operation::PutPart, "put-part"),
    (Operation::CompleteMultipart, "complete-multipart"),
    (Operation::AbortMultipart, "abort-multipart"),
    (Operation::Delete, "delete"),
    (Operation::List, "list"),
];

const OUTCOMES: [(Outcome, &str); 5] = [
    (Outcome::Ok, "ok"),
    (Outcome::NotFound, "not-found"),
    (Outcome::Refused, "refused"),
    (Outcome::Failed, "failed"),
    (Outcome::GivenUp, "given-up"),
];

/// Cheap to clone; clones are the same.
#[derive(Clone, Debug)]
pub struct Store(std::sync::Arc<[Measured; OPERATIONS.len()]>);

#[derive(Debug)]
struct Measured {
    outcomes: [Counter; OUTCOMES.len()],
    duration: Histogram,
}

/// A call that is under way; one that is dropped was given up.
#[derive(Debug)]
pub struct Call<'s> {
    measured: &'s Measured,
    began: Instant,
    outcome: Outcome,
}

impl Store {
    pub(super) fn register(at: &mut Register<'_>) -> Self {
        let calls: Family<Labels<2>, Counter> =
            at.add("box_store_calls", "Calls to the object store");
        let durations: Family<Labels<1>, Histogram> = at.add(
            "box_store_call_duration_seconds",
            "Until the object store began to answer",
        );
        let measured = OPERATIONS.map(|(_, operation)| {
            let operation = ("operation", operation);
            Measured {
                outcomes: OUTCOMES.map(|(_, outcome)| {
                    calls.get_or_create_owned(&[operation, ("outcome", outcome)])
                }),
                duration: durations.get_or_create_owned(&[operation]),
            }
        });
        Self(std::sync::Arc::new(measured))
    }

    pub fn call(&self, operation: Operation) -> Call<'_> {
        Call {
            measured: &self.0[operation as usize],
            began: Instant::now(),
            outcome: Outcome::GivenUp,
        }
    }
}

impl Call<'_> {
    pub fn ended(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let took: Duration = self.began.elapsed();
        self.measured.outcomes[self.outcome as usize].inc();
        self.measured.duration.observe(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_in_the_order_of_what_they_name() {
        for (index, (operation, _)) in OPERATIONS.iter().enumerate() {
            assert_eq!(*operation as usize, index);
        }
        for (index, (outcome, _)) in OUTCOMES.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
        }
    }
}
