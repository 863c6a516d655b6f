//! `[telemetry]`: who is handed traces and log records.

use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::metadata::LevelFilter;
use url::Url;

use super::leaf::{self, Leaf, Native, unlike};
use super::secret::MASK;
use super::{Environment, Violation, at_least_one, positive};
use crate::telemetry;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// Of a collector, by OTLP over HTTP; None: nobody is handed anything.
    #[serde(with = "leaf")]
    pub endpoint: Option<Url>,
    /// Of each request to it.
    #[serde(with = "leaf")]
    pub headers: Option<Headers>,
    #[serde(with = "leaf")]
    pub service_name: String,
    /// Of the traces that begin here, how many are recorded.
    #[serde(with = "leaf")]
    pub sampling: Ratio,
    /// Log lines up to this level are handed over.
    #[serde(with = "leaf")]
    pub logs: RecordLevel,
    /// For one request to it, and for what is left at the end; above 0.
    #[serde(with = "leaf")]
    pub timeout: Duration,
    /// How many spans, and how many log records, may wait; at least 1.
    #[serde(with = "leaf")]
    pub queue: u32,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            endpoint: None,
            headers: None,
            service_name: "box-service".to_owned(),
            sampling: Ratio(1.0),
            logs: RecordLevel(LevelFilter::ERROR),
            timeout: Duration::from_secs(5),
            queue: 4_096,
        }
    }
}

impl Telemetry {
    pub(super) fn check(&self) -> Result<(), Violation> {
        positive("telemetry.timeout", self.timeout)?;
        at_least_one("telemetry.queue", self.queue)?;
        if self.queue > 1_000_000 {
            return Err(Violation::new("telemetry.queue", "must be at most 1000000"));
        }
        if self.service_name.is_empty() {
            return Err(Violation::new(
                "telemetry.service_name",
                "must not be empty",
            ));
        }
        Ok(())
    }

    /// None where nobody is handed anything. `instance` is the process among those of the environment.
    pub fn settings(
        &self,
        environment: &Environment,
        instance: String,
    ) -> Option<telemetry::Settings> {
        Some(telemetry::Settings {
            endpoint: self.endpoint.clone()?,
            headers: self
                .headers
                .as_ref()
                .map_or_else(HeaderMap::new, |headers| headers.0.clone()),
            service_name: self.service_name.clone(),
            environment: environment.to_string(),
            instance,
            sampling: self.sampling.0,
            logs: self.logs.0,
            timeout: self.timeout,
            queue: usize::try_from(self.queue).unwrap_or(usize::MAX),
        })
    }
}

/// Fields of HTTP requests whose values are secrets: `name=value,name=value`, values percent-encoded where
/// that is needed, as `OTEL_EXPORTER_OTLP_HEADERS` has them.
#[derive(Clone)]
pub struct Headers(HeaderMap);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Leaf for Headers {
    const EXPECTED: &'static str = "fields such as authorization=Bearer%20token,x-tenant=acme";

    fn parse(text: &str) -> Result<Self, String> {
        // Not `unlike`: the text is a secret.
        let refused = || format!("expected {}", Self::EXPECTED);
        let mut headers = HeaderMap::new();
        for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(refused)?;
            let name = HeaderName::try_from(name.trim()).map_err(|_| refused())?;
            let value: Vec<u8> = percent_decode_str(value.trim()).collect();
            let mut value = HeaderValue::try_from(value).map_err(|_| refused())?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(Self(headers))
    }

    fn show(&self) -> Value {
        Value::String(MASK.to_owned())
    }
}

/// From 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(f64);

impl Leaf for Ratio {
    const EXPECTED: &'static str = "a number from 0 to 1";
    const NATIVE: Native = Native::Fraction;

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(Self(ratio)),
            _ => Err(unlike::<Self>(text)),
        }
    }

    fn show(&self) -> Value {
        Value::from(self.0)
    }
}

/// Log lines of levels below `warn` are not handed over: a line for each request would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLevel(LevelFilter);

impl Leaf for RecordLevel {
    const EXPECTED: &'static str = "off, error or warn";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(LevelFilter::OFF)),
            "error" => Ok(Self(LevelFilter::ERROR)),
            "warn" => Ok(Self(LevelFilter::WARN)),
            _ => Err(unlike::<Self>(text)),
        }
    }

    fn show(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_the_standard_variable_has_them_and_never_shown() {
        let headers = Headers::parse("authorization=Bearer%20s3cret, x-tenant = acme,").unwrap();
        assert_eq!(headers.0["authorization"], "Bearer s3cret");
        assert_eq!(headers.0["x-tenant"], "acme");
        assert!(headers.0.values().all(HeaderValue::is_sensitive));
        assert_eq!(headers.show(), MASK);
        assert_eq!(format!("{headers:?}"), MASK);
        for odd in ["s3cret", "a b=s3cret", "a=s3cret%0a", "=s3cret"] {
            let problem = Headers::parse(odd).unwrap_err();
            assert!(!problem.contains("s3cret"), "{problem}");
        }
    }

    #[test]
    fn a_ratio_is_from_0_to_1() {
        assert_eq!(Ratio::parse("0.25"), Ok(Ratio(0.25)));
        assert_eq!(Ratio::parse("1"), Ok(Ratio(1.0)));
        for odd in ["1.1", "-0.1", "NaN", "half", ""] {
            assert!(Ratio::parse(odd).is_err(), "{odd}");
        }
    }
}
