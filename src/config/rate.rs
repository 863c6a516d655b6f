//! `[rate]`: how often one caller may ask.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::leaf::{self, Leaf, unlike};
use super::units::short;
use super::{Violation, at_least_one};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimits {
    /// Of one address, GET and HEAD; None: any number, as with the next three.
    #[serde(with = "leaf")]
    pub address_reads: Option<Rate>,
    #[serde(with = "leaf")]
    pub address_writes: Option<Rate>,
    /// Of one subject of a tenant.
    #[serde(with = "leaf")]
    pub principal_reads: Option<Rate>,
    #[serde(with = "leaf")]
    pub principal_writes: Option<Rate>,
    /// How many callers each of the four remembers; at least 1.
    #[serde(with = "leaf")]
    pub keys: u32,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            address_reads: None,
            address_writes: None,
            principal_reads: None,
            principal_writes: None,
            keys: 100_000,
        }
    }
}

impl RateLimits {
    pub(super) fn check(&self) -> Result<(), Violation> {
        at_least_one("rate.keys", self.keys)
    }
}

/// So many requests at once, and as many again evenly over each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: NonZeroU32,
    pub period: Duration,
}

impl Rate {
    /// How long one request takes to be granted again; never 0.
    pub fn interval(&self) -> Duration {
        self.period / self.count.get()
    }
}

impl Leaf for Rate {
    const EXPECTED: &'static str = "requests in a time, such as 600/1m";

    fn parse(text: &str) -> Result<Self, String> {
        let parse = || {
            let (count, period) = text.split_once('/')?;
            let rate = Self {
                count: count.parse().ok()?,
                period: Duration::parse(period).ok()?,
            };
            (!rate.interval().is_zero()).then_some(rate)
        };
        parse().ok_or_else(|| unlike::<Self>(text))
    }

    fn show(&self) -> Value {
        Value::String(format!("{}/{}", self.count, short(self.period)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_time() {
        let rate = Rate::parse("600/1m").unwrap();
        assert_eq!(rate.interval(), Duration::from_millis(100));
        assert_eq!(rate.show(), "600/1m");
        for text in [
            "",
            "600",
            "0/1m",
            "600/0",
            "600/m",
            "-1/1m",
            "1/1m/1",
            "4000000000/1s",
        ] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
    }
}
