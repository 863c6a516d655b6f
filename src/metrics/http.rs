//! Requests: rate, errors and duration of each route, and connections.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::{Gauge, Histogram, Labels, Register};

/// By the first digit of the status; the last one for what was given up before it was answered.
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

pub struct Http {
    pub connections: Gauge,
    pub connections_max: Gauge,
    pub active: Gauge,
    requests: Family<Labels<3>, Counter>,
    durations: Family<Labels<2>, Histogram>,
    received: Family<Labels<2>, Counter>,
    sent: Family<Labels<2>, Counter>,
}

/// What was refused because there was too much of it, by the limit.
pub struct Refusals {
    pub address: Counter,
    pub principal: Counter,
    pub uploads: Counter,
    /// These get no answer: they are closed.
    pub connections: Counter,
}

impl Refusals {
    pub(super) fn register(at: &mut Register<'_>) -> Self {
        let refused: Family<Labels<1>, Counter> = at.add(
            "box_http_limited",
            "Requests and connections that were refused by a limit",
        );
        let counter = |limit| refused.get_or_create_owned(&[("limit", limit)]);
        Self {
            address: counter("address"),
            principal: counter("principal"),
            uploads: counter("uploads"),
            connections: counter("connections"),
        }
    }
}

/// The metrics of the requests of one route.
#[derive(Clone, Debug)]
pub struct Route {
    classes: [Counter; CLASSES.len()],
    duration: Histogram,
    /// Bytes of bodies.
    pub received: Counter,
    pub sent: Counter,
}

impl Http {
    pub(super) fn register(at: &mut Register<'_>) -> Self {
        Self {
            connections: at.add("box_http_connections", "Connections that are open"),
            connections_max: at.add(
                "box_http_connections_max",
                "The most connections that may be open",
            ),
            active: at.add(
                "box_http_requests_active",
                "Requests whose answer has not been sent to its end",
            ),
            requests: at.add("box_http_requests", "Requests that were answered"),
            durations: at.add(
                "box_http_request_duration_seconds",
                "From a request's head to the last byte of its answer",
            ),
            received: at.add("box_http_received_bytes", "Bytes of requests' bodies"),
            sent: at.add("box_http_sent_bytes", "Bytes of answers' bodies"),
        }
    }

    /// `route` is a template, or `none` for what no route answers.
    pub fn route(&self, method: &'static str, route: &'static str) -> Route {
        let labels = [("route", route), ("method", method)];
        let class = |class| {
            self.requests
                .get_or_create_owned(&[labels[0], labels[1], ("status", class)])
        };
        Route {
            classes: CLASSES.map(class),
            duration: self.durations.get_or_create_owned(&labels),
            received: self.received.get_or_create_owned(&labels),
            sent: self.sent.get_or_create_owned(&labels),
        }
    }
}

impl Route {
    pub fn answered(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).wrapping_sub(1);
        self.classes[class.min(CLASSES.len() - 1)].inc();
        self.duration.observe(took);
    }
}
