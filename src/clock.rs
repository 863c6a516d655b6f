//! Time, injected: production reads the system's clock, tests hold one in their hand.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A point in time, in whole microseconds since 1970-01-01T00:00:00Z: what both databases can
/// hold exactly (`timestamptz` in PostgreSQL, an integer in SQLite) and what JSON shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    pub const fn as_micros(self) -> i64 {
        self.0
    }

    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }

    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(micros(by)))
    }

    /// How long from `earlier` until `self`; zero when `self` is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 text with an offset, as clients send it. Years 0 to 9999.
    pub fn parse(text: &str) -> Option<Self> {
        OffsetDateTime::parse(text, &Rfc3339)
            .ok()
            .map(Self::from_datetime)
    }

    pub fn from_datetime(datetime: OffsetDateTime) -> Self {
        // A datetime of the `time` crate lies within ±9999 years: far inside 64 bits of microseconds.
        Self(datetime.unix_timestamp_nanos().div_euclid(1_000) as i64)
    }

    /// Saturates at the ends of the calendar that RFC 3339 can write.
    pub fn to_datetime(self) -> OffsetDateTime {
        const FIRST: OffsetDateTime = time::macros::datetime!(0000-01-01 00:00:00 UTC);
        const LAST: OffsetDateTime = time::macros::datetime!(9999-12-31 23:59:59.999999 UTC);
        match OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000) {
            Ok(datetime) => datetime.clamp(FIRST, LAST),
            Err(_) if self.0 < 0 => FIRST,
            Err(_) => LAST,
        }
    }

    /// Whole seconds, as HTTP dates and JWT times have them.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Whole milliseconds since 1970, zero before: what a UUIDv7 carries.
    pub fn as_unix_millis(self) -> u64 {
        u64::try_from(self.0.div_euclid(1_000)).unwrap_or(0)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// `2026-11-24T05:03:38.000123Z`: RFC 3339, UTC, always six digits of fraction.
impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let t = self.to_datetime();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second(),
            t.microsecond()
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom("not a time in RFC 3339, such as 2026-11-24T05:03:38Z")
        })
    }
}

/// Where the time comes from. Cheap to clone; clones of a manual clock move together.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    manual: Option<Arc<AtomicI64>>,
}

impl Clock {
    pub fn system() -> Self {
        Self { manual: None }
    }

    /// A clock that moves only when told to, for tests.
    pub fn manual(start: Timestamp) -> Self {
        Self {
            manual: Some(Arc::new(AtomicI64::new(start.as_micros()))),
        }
    }

    pub fn now(&self) -> Timestamp {
        match &self.manual {
            Some(micros) => Timestamp::from_micros(micros.load(Ordering::SeqCst)),
            #[allow(
                clippy::disallowed_methods,
                reason = "the one place that reads the system's clock"
            )]
            None => Timestamp::from_datetime(OffsetDateTime::now_utc()),
        }
    }

    /// What only ever grows, since some point of its own: for measuring how much time has passed. The
    /// system's clock of the day may be set back.
    pub fn monotonic(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        match &self.manual {
            Some(micros) => {
                let micros = u64::try_from(micros.load(Ordering::SeqCst)).unwrap_or(0);
                Duration::from_micros(micros)
            }
            None => START.elapsed(),
        }
    }

    /// Moves a manual clock forward; the system's clock can't be moved and stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Some(now) = &self.manual {
            now.fetch_add(micros(by), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_in_utc_with_six_digits() {
        let t = Timestamp::parse("2026-11-24T06:03:38.5+01:00").unwrap();
        assert_eq!(t.to_string(), "2026-11-24T05:03:38.500000Z");
        assert_eq!(Timestamp::parse("2026-11-24"), None);
    }

    #[test]
    fn a_time_past_the_calendar_is_its_end() {
        for (micros, shown) in [
            (i64::MIN, "0000-01-01T00:00:00.000000Z"),
            (-62_167_219_200_000_001, "0000-01-01T00:00:00.000000Z"),
            (i64::MAX, "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(Timestamp::from_micros(micros).to_string(), shown);
        }
    }

    #[test]
    fn what_is_finer_than_a_microsecond_is_cut_towards_the_past() {
        let t = Timestamp::parse("1969-12-31T23:59:59.9999999Z").unwrap();
        assert_eq!(t.as_micros(), -1);
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Timestamp::from_micros(0));
        let twin = clock.clone();
        twin.advance(Duration::from_secs(2));
        assert_eq!(clock.now().as_micros(), 2_000_000);
    }
}
