//! Durations and sizes in their short forms: `30s`, `5GiB`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use super::leaf::{Leaf, Native, unlike};

const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A hundred years: anything longer is a slip, and would leave the range of times that both databases hold.
const LONGEST: Duration = Duration::from_secs(36_500 * 86_400);

impl Leaf for Duration {
    const EXPECTED: &'static str = "a duration such as 250ms, 10s, 5m, 1h or 30d, or 0";
    const NATIVE: Native = Native::Integer;

    fn parse(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self::ZERO);
        }
        let (number, unit) = split(text);
        if number.is_some() && unit.is_empty() {
            return Err(format!("{} (a unit is missing)", unlike::<Self>(text)));
        }
        let millis = number
            .zip(factor(&DURATION_UNITS, unit))
            .ok_or_else(|| unlike::<Self>(text))
            .map(|(number, factor)| number.checked_mul(factor))?;
        match millis.map(Self::from_millis) {
            Some(duration) if duration <= LONGEST => Ok(duration),
            _ => Err(format!("{text} is too long: at most 36500d")),
        }
    }

    fn show(&self) -> Value {
        Value::String(short(*self))
    }
}

/// Reads a duration as every key of the configuration has it: `90s`, `2h`.
///
/// # Errors
/// What is wrong with the text, and what is expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    Leaf::parse(text)
}

/// The duration in the largest unit that is exact: `90s`, `2h`. What is below a millisecond is
/// cut off: no key can hold it.
pub fn short(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0".to_owned();
    }
    DURATION_UNITS
        .iter()
        .map(|(unit, factor)| (unit, u128::from(*factor)))
        .find(|(_, factor)| millis.is_multiple_of(*factor))
        .map_or_else(
            || format!("{millis}ms"),
            |(unit, factor)| format!("{}{unit}", millis / factor),
        )
}

/// A number of bytes, at most 2^63 − 1: what a database column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

const BINARY_UNITS: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];
const DECIMAL_UNITS: [(&str, u64); 3] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
];
/// Read, but never written: `1000` is as short.
const READ_UNITS: [(&str, u64); 4] = [("kB", 1_000), ("KB", 1_000), ("B", 1), ("", 1)];

impl Size {
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    /// In the unit that is exact and leaves the smallest number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = BINARY_UNITS
            .iter()
            .chain(&DECIMAL_UNITS)
            .filter(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor))
            .max_by_key(|(_, factor)| *factor);
        match exact {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let factor = factor(&BINARY_UNITS, unit)
            .or_else(|| factor(&DECIMAL_UNITS, unit))
            .or_else(|| factor(&READ_UNITS, unit));
        let (number, factor) = number.zip(factor).ok_or_else(|| unlike::<Self>(text))?;
        number
            .checked_mul(factor)
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .map(Self)
            .ok_or_else(|| format!("{text} is too large: less than 8388608TiB"))
    }
}

impl Leaf for Size {
    const EXPECTED: &'static str =
        "a size such as 64KiB, 100MB or 5GiB, or a whole number of bytes";
    const NATIVE: Native = Native::Integer;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> Value {
        Value::String(self.to_string())
    }
}

/// The digits at the start, and the rest.
fn split(text: &str) -> (Option<u64>, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (digits.parse().ok(), unit)
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip_in_their_shortest_form() {
        for (text, millis, shown) in [
            ("250ms", 250, "250ms"),
            ("1000ms", 1_000, "1s"),
            ("10s", 10_000, "10s"),
            ("90s", 90_000, "90s"),
            ("5m", 300_000, "5m"),
            ("60m", 3_600_000, "1h"),
            ("1h", 3_600_000, "1h"),
            ("30d", 2_592_000_000, "30d"),
            ("0", 0, "0"),
            ("0s", 0, "0"),
            ("36500d", 3_153_600_000_000, "36500d"),
        ] {
            let duration = Duration::parse(text).unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(short(duration), shown);
            assert_eq!(Duration::parse(shown).unwrap(), duration);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "s",
            "10",
            "-1s",
            "+1s",
            "1.5h",
            "10 s",
            " 10s",
            "10S",
            "1h30m",
            "10sec",
            "1w",
            "36501d",
            "18446744073709551615d",
            "99999999999999999999s",
            "١s",
        ] {
            assert!(Duration::parse(text).is_err(), "{text:?}");
        }
        assert!(
            Duration::parse("10")
                .unwrap_err()
                .contains("unit is missing")
        );
    }

    #[test]
    fn sizes_round_trip_in_their_shortest_form() {
        for (text, bytes, shown) in [
            ("0", 0, "0"),
            ("1000", 1_000, "1000"),
            ("12B", 12, "12"),
            ("1kB", 1_000, "1000"),
            ("1024", 1_024, "1KiB"),
            ("64KiB", 65_536, "64KiB"),
            ("10MB", 10_000_000, "10MB"),
            ("64MB", 64_000_000, "64MB"),
            ("1TB", 1_000_000_000_000, "1TB"),
            ("3GB", 3_000_000_000, "3GB"),
            ("5GiB", 5 << 30, "5GiB"),
            ("1024GiB", 1 << 40, "1TiB"),
            ("5TiB", 5 << 40, "5TiB"),
            (
                "9223372036854775807",
                9_223_372_036_854_775_807,
                "9223372036854775807",
            ),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.bytes(), bytes, "{text}");
            assert_eq!(size.to_string(), shown);
            assert_eq!(shown.parse::<Size>().unwrap(), size);
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "GiB",
            "-1",
            "1.5GiB",
            "5 GiB",
            "5gib",
            "5G",
            "5k",
            "0x10",
            "8388608TiB",
            "99999999999999999999",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
    }
}
