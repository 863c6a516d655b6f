//! Links: where they were found, and what became of those who asked.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::{Labels, Register};

pub struct Links {
    pub hot: Counter,
    pub looked_up: Counter,
    /// Answered with a redirect, and with a content.
    pub redirected: Counter,
    pub sent: Counter,
    pub gone: Counter,
    pub password_required: Counter,
    /// Too many wrong passwords.
    pub throttled: Counter,
}

impl Links {
    pub(super) fn register(at: &mut Register<'_>) -> Self {
        let found: Family<Labels<1>, Counter> =
            at.add("box_link_lookups", "Links that were looked for");
        let found = |from| found.get_or_create_owned(&[("from", from)]);
        let answers: Family<Labels<1>, Counter> =
            at.add("box_link_answers", "What became of requests for links");
        let answers = |outcome| answers.get_or_create_owned(&[("outcome", outcome)]);
        Self {
            hot: found("memory"),
            looked_up: found("database"),
            redirected: answers("redirected"),
            sent: answers("sent"),
            gone: answers("gone"),
            password_required: answers("password_required"),
            throttled: answers("throttled"),
        }
    }
}
