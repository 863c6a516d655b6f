//! Conditional requests (RFC 9110 section 13).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::header::{
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
};
use axum::http::{HeaderMap, HeaderValue, Method};

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};

/// What a representation that exists can be told apart by (RFC 9110 section 8.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators {
    /// The strong entity tag as the `ETag` field has it, with its quotes: `"abc"`.
    pub etag: String,
    /// Compared by whole seconds, as `Last-Modified` shows it.
    pub last_modified: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Do what was asked.
    Proceed,
    /// 304, for GET and HEAD only.
    NotModified,
    /// 412.
    PreconditionFailed,
}

/// Evaluates a request's preconditions against a representation that exists, in the order of
/// RFC 9110 section 13.2.2. `If-Range` is left to [`range_applies`].
///
/// Call it only where the request would otherwise succeed (section 13.2.1).
pub fn evaluate(headers: &HeaderMap, method: &Method, validators: &Validators) -> Outcome {
    let reads = method == Method::GET || method == Method::HEAD;
    let modified = validators.last_modified.as_secs();

    if headers.contains_key(IF_MATCH) {
        if !matches_strongly(headers, &validators.etag) {
            return Outcome::PreconditionFailed;
        }
    } else if let Some(date) = date(headers, &IF_UNMODIFIED_SINCE)
        && modified > date
    {
        return Outcome::PreconditionFailed;
    }

    if headers.contains_key(IF_NONE_MATCH) {
        // A field that can't be parsed names no tag: the answer in full is always correct.
        let matched = Tags::read(headers, &IF_NONE_MATCH).is_some_and(|tags| {
            tags.contain(&validators.etag, |tag, etag| tag.weakly_equals(etag))
        });
        if matched {
            return if reads {
                Outcome::NotModified
            } else {
                Outcome::PreconditionFailed
            };
        }
    } else if reads
        && let Some(date) = date(headers, &IF_MODIFIED_SINCE)
        && modified <= date
    {
        return Outcome::NotModified;
    }
    Outcome::Proceed
}

/// Whether a `Range` is to be honoured as far as `If-Range` says (RFC 9110 section 13.1.5): true
/// without `If-Range`.
///
/// A tag must match strongly; a date must be the very date of `Last-Modified`, not merely a later
/// one. Anything else, several fields included, is false, which costs a full answer and never
/// mixes two contents.
///
/// A date can't tell apart two contents of the same second (section 8.8.2.2), and nothing in the
/// request shows when the first was fetched: only tags are safe against that.
pub fn range_applies(headers: &HeaderMap, validators: &Validators) -> bool {
    let mut values = headers.get_all(IF_RANGE).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return true,
        (Some(value), None) => value,
        (Some(_), Some(_)) => return false,
    };
    let bytes = value.as_bytes().trim_ascii();
    if let Some((tag, [])) = Tag::read(bytes) {
        return tag.strongly_equals(validators.etag.as_bytes());
    }
    parse_date(value).is_some_and(|date| date == validators.last_modified.as_secs())
}

/// Checks `If-Match` before a write to something that exists and whose tag is `etag`, quotes
/// included (RFC 9110 section 13.1.1). Passes without the field.
///
/// # Errors
/// [`Kind::PreconditionFailed`] when no tag matches strongly, or the field can't be parsed.
pub fn if_match(headers: &HeaderMap, etag: &str) -> Result<()> {
    if !headers.contains_key(IF_MATCH) || matches_strongly(headers, etag) {
        return Ok(());
    }
    Err(Error::new(
        Kind::PreconditionFailed,
        "If-Match names another state than the current one: fetch it again and retry.",
    ))
}

/// The value of `Last-Modified` and `Date` (RFC 9110 section 5.6.7), truncated to the second.
/// Times outside the years 1970 to 9999 are clamped to them.
pub fn http_date(at: Timestamp) -> String {
    const LAST: u64 = 253_402_300_799;
    let secs = u64::try_from(at.as_secs()).unwrap_or(0).min(LAST);
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(secs))
}

/// A field that can't be parsed matches nothing: a write that was meant to be guarded must not
/// happen unguarded.
fn matches_strongly(headers: &HeaderMap, etag: &str) -> bool {
    Tags::read(headers, &IF_MATCH)
        .is_some_and(|tags| tags.contain(etag, |tag, etag| tag.strongly_equals(etag)))
}

/// Seconds since 1970. `None` where the field is to be ignored: absent, repeated, or no
/// HTTP-date (RFC 9110 sections 13.1.3 and 13.1.4).
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<i64> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => parse_date(value),
        _ => None,
    }
}

fn parse_date(value: &HeaderValue) -> Option<i64> {
    let date = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
    seconds(date)
}

fn seconds(date: SystemTime) -> Option<i64> {
    i64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// `"*" / #entity-tag`
enum Tags<'a> {
    Any,
    List(Vec<Tag<'a>>),
}

impl<'a> Tags<'a> {
    /// Repeated fields are one list (RFC 9110 section 5.3). `None` where any part of it does not
    /// follow the grammar.
    fn read(headers: &'a HeaderMap, name: &HeaderName) -> Option<Self> {
        let values: Vec<&[u8]> = headers
            .get_all(name)
            .iter()
            .map(|value| value.as_bytes().trim_ascii())
            .collect();
        if values == [b"*"] {
            return Some(Self::Any);
        }
        let mut tags = Vec::new();
        for value in values {
            let mut rest = value;
            loop {
                rest = skip(rest, b" \t,");
                if rest.is_empty() {
                    break;
                }
                let (tag, after) = Tag::read(rest)?;
                tags.push(tag);
                rest = skip(after, b" \t");
                if !rest.is_empty() && rest[0] != b',' {
                    return None;
                }
            }
        }
        Some(Self::List(tags))
    }

    fn contain(&self, etag: &str, equals: fn(&Tag<'_>, &[u8]) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => tags.iter().any(|tag| equals(tag, etag.as_bytes())),
        }
    }
}

fn skip<'a>(bytes: &'a [u8], what: &[u8]) -> &'a [u8] {
    let start = bytes
        .iter()
        .position(|byte| !what.contains(byte))
        .unwrap_or(bytes.len());
    &bytes[start..]
}

/// An entity tag (RFC 9110 section 8.8.3).
struct Tag<'a> {
    weak: bool,
    /// With its quotes.
    opaque: &'a [u8],
}

impl<'a> Tag<'a> {
    /// The tag at the start of `bytes`, and what follows it.
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (weak, quoted) = match bytes.strip_prefix(b"W/") {
            Some(rest) => (true, rest),
            None => (false, bytes),
        };
        let inner = quoted.strip_prefix(b"\"")?;
        let length = inner.iter().position(|&byte| byte == b'"')?;
        let etagc = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..=0xff);
        if !inner[..length].iter().all(etagc) {
            return None;
        }
        let (opaque, rest) = quoted.split_at(length + 2);
        Some((Self { weak, opaque }, rest))
    }

    /// RFC 9110 section 8.8.3.2; ours is always strong.
    fn strongly_equals(&self, ours: &[u8]) -> bool {
        !self.weak && self.opaque == ours
    }

    fn weakly_equals(&self, ours: &[u8]) -> bool {
        self.opaque == ours
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use Outcome::{NotModified, PreconditionFailed, Proceed};

    const BEFORE: &str = "Tue, 24 Nov 2026 05:03:37 GMT";
    const SAME: &str = "Tue, 24 Nov 2026 05:03:38 GMT";
    const AFTER: &str = "Tue, 24 Nov 2026 05:03:39 GMT";

    /// Modified half a second after `SAME`, so that truncation shows.
    fn validators() -> Validators {
        Validators {
            etag: "\"abc\"".to_owned(),
            last_modified: Timestamp::parse("2026-11-24T05:03:38.5Z").unwrap(),
        }
    }

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn get(fields: &[(HeaderName, &str)]) -> Outcome {
        let outcome = evaluate(&headers(fields), &Method::GET, &validators());
        let head = evaluate(&headers(fields), &Method::HEAD, &validators());
        assert_eq!(outcome, head, "GET and HEAD answer alike");
        outcome
    }

    fn put(fields: &[(HeaderName, &str)]) -> Outcome {
        evaluate(&headers(fields), &Method::PUT, &validators())
    }

    #[test]
    fn a_request_without_preconditions_proceeds() {
        assert_eq!(get(&[]), Proceed);
        assert_eq!(put(&[]), Proceed);
    }

    #[test]
    fn if_match_compares_strongly_13_1_1() {
        assert_eq!(get(&[(IF_MATCH, "\"abc\"")]), Proceed);
        assert_eq!(get(&[(IF_MATCH, "\"x\", \"abc\"")]), Proceed);
        assert_eq!(get(&[(IF_MATCH, "*")]), Proceed);
        assert_eq!(get(&[(IF_MATCH, "W/\"abc\"")]), PreconditionFailed);
        assert_eq!(get(&[(IF_MATCH, "\"ABC\"")]), PreconditionFailed);
        assert_eq!(put(&[(IF_MATCH, "\"x\"")]), PreconditionFailed);
    }

    #[test]
    fn if_none_match_compares_weakly_13_1_2() {
        assert_eq!(get(&[(IF_NONE_MATCH, "\"abc\"")]), NotModified);
        assert_eq!(get(&[(IF_NONE_MATCH, "W/\"abc\"")]), NotModified);
        assert_eq!(get(&[(IF_NONE_MATCH, "\"x\",W/\"abc\"")]), NotModified);
        assert_eq!(get(&[(IF_NONE_MATCH, "*")]), NotModified);
        assert_eq!(get(&[(IF_NONE_MATCH, " * ")]), NotModified);
        assert_eq!(get(&[(IF_NONE_MATCH, "\"x\"")]), Proceed);
    }

    #[test]
    fn if_none_match_fails_a_method_other_than_get_and_head_13_1_2() {
        assert_eq!(put(&[(IF_NONE_MATCH, "*")]), PreconditionFailed);
        assert_eq!(put(&[(IF_NONE_MATCH, "\"abc\"")]), PreconditionFailed);
        assert_eq!(put(&[(IF_NONE_MATCH, "\"x\"")]), Proceed);
    }

    #[test]
    fn repeated_fields_are_one_list_5_3() {
        let fields = [(IF_NONE_MATCH, "\"x\""), (IF_NONE_MATCH, "\"y\", \"abc\"")];
        assert_eq!(get(&fields), NotModified);
        assert_eq!(get(&[(IF_MATCH, "\"x\""), (IF_MATCH, "\"abc\"")]), Proceed);
    }

    #[test]
    fn a_tag_may_hold_commas_and_spare_commas_are_ignored_8_8_3() {
        let validators = Validators {
            etag: "\"a,b\"".to_owned(),
            ..validators()
        };
        let of = |value| {
            let headers = headers(&[(IF_NONE_MATCH, value)]);
            evaluate(&headers, &Method::GET, &validators)
        };
        assert_eq!(of("\"a,b\""), NotModified);
        assert_eq!(of(",, \"x\" ,, \"a,b\" ,"), NotModified);
        assert_eq!(of("\"a\",\"b\""), Proceed);
        assert_eq!(of("\"x,\"a,b\""), Proceed);
    }

    #[test]
    fn a_malformed_if_match_fails_and_a_malformed_if_none_match_proceeds() {
        for value in [
            "",
            " ",
            ",",
            "abc",
            "\"abc",
            "abc\"",
            "w/\"abc\"",
            "W/ \"abc\"",
            "'abc'",
            "\"abc\" \"x\"",
            "\"abc\"x",
            "\"abc\", x",
            "x, \"abc\"",
            "*, \"abc\"",
            "\"abc\", *",
            "**",
            "\"a bc\"",
            "W/",
            "\"abc\";q=1",
        ] {
            assert_eq!(get(&[(IF_MATCH, value)]), PreconditionFailed, "{value}");
            assert_eq!(get(&[(IF_NONE_MATCH, value)]), Proceed, "{value}");
            assert_eq!(put(&[(IF_NONE_MATCH, value)]), Proceed, "{value}");
        }
        assert_eq!(
            get(&[(IF_MATCH, "\"abc\""), (IF_MATCH, "oops")]),
            PreconditionFailed
        );
    }

    #[test]
    fn if_unmodified_since_compares_by_whole_seconds_13_1_4() {
        assert_eq!(get(&[(IF_UNMODIFIED_SINCE, BEFORE)]), PreconditionFailed);
        assert_eq!(get(&[(IF_UNMODIFIED_SINCE, SAME)]), Proceed);
        assert_eq!(get(&[(IF_UNMODIFIED_SINCE, AFTER)]), Proceed);
        assert_eq!(put(&[(IF_UNMODIFIED_SINCE, BEFORE)]), PreconditionFailed);
        assert_eq!(put(&[(IF_UNMODIFIED_SINCE, SAME)]), Proceed);
    }

    #[test]
    fn if_modified_since_compares_by_whole_seconds_13_1_3() {
        assert_eq!(get(&[(IF_MODIFIED_SINCE, BEFORE)]), Proceed);
        assert_eq!(get(&[(IF_MODIFIED_SINCE, SAME)]), NotModified);
        assert_eq!(get(&[(IF_MODIFIED_SINCE, AFTER)]), NotModified);
    }

    #[test]
    fn if_modified_since_is_for_get_and_head_only_13_1_3() {
        assert_eq!(put(&[(IF_MODIFIED_SINCE, AFTER)]), Proceed);
    }

    #[test]
    fn a_date_that_is_none_or_repeated_is_ignored_13_1_3_and_13_1_4() {
        for value in [
            "",
            "yesterday",
            "2026-11-24T05:03:38Z",
            "Mon, 24 Nov 2026 05:03:38 GMT",
        ] {
            assert_eq!(get(&[(IF_MODIFIED_SINCE, value)]), Proceed, "{value}");
            assert_eq!(get(&[(IF_UNMODIFIED_SINCE, value)]), Proceed, "{value}");
        }
        let twice = [(IF_MODIFIED_SINCE, AFTER), (IF_MODIFIED_SINCE, AFTER)];
        assert_eq!(get(&twice), Proceed);
        let twice = [(IF_UNMODIFIED_SINCE, BEFORE), (IF_UNMODIFIED_SINCE, BEFORE)];
        assert_eq!(get(&twice), Proceed);
    }

    #[test]
    fn the_obsolete_forms_of_a_date_are_read_5_6_7() {
        for value in [
            "Tuesday, 24-Nov-26 05:03:38 GMT",
            "Tue Nov 24 05:03:38 2026",
        ] {
            assert_eq!(get(&[(IF_MODIFIED_SINCE, value)]), NotModified, "{value}");
        }
    }

    #[test]
    fn if_match_hides_if_unmodified_since_13_2_2() {
        let fields = [(IF_MATCH, "\"abc\""), (IF_UNMODIFIED_SINCE, BEFORE)];
        assert_eq!(get(&fields), Proceed);
        let fields = [(IF_MATCH, "\"x\""), (IF_UNMODIFIED_SINCE, AFTER)];
        assert_eq!(get(&fields), PreconditionFailed);
    }

    #[test]
    fn if_none_match_hides_if_modified_since_even_when_malformed_13_2_2() {
        let fields = [(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, AFTER)];
        assert_eq!(get(&fields), Proceed);
        let fields = [(IF_NONE_MATCH, "oops"), (IF_MODIFIED_SINCE, AFTER)];
        assert_eq!(get(&fields), Proceed);
        let fields = [(IF_NONE_MATCH, "\"abc\""), (IF_MODIFIED_SINCE, BEFORE)];
        assert_eq!(get(&fields), NotModified);
    }

    #[test]
    fn the_first_group_comes_before_the_second_13_2_2() {
        let fields = [(IF_MATCH, "\"x\""), (IF_NONE_MATCH, "\"abc\"")];
        assert_eq!(get(&fields), PreconditionFailed);
        let fields = [(IF_MATCH, "\"abc\""), (IF_NONE_MATCH, "\"abc\"")];
        assert_eq!(get(&fields), NotModified);
        let fields = [(IF_MATCH, "\"abc\""), (IF_MODIFIED_SINCE, SAME)];
        assert_eq!(get(&fields), NotModified);
        let fields = [(IF_UNMODIFIED_SINCE, BEFORE), (IF_NONE_MATCH, "\"abc\"")];
        assert_eq!(get(&fields), PreconditionFailed);
    }

    fn if_range(value: &str) -> bool {
        range_applies(&headers(&[(IF_RANGE, value)]), &validators())
    }

    #[test]
    fn a_range_applies_without_if_range_or_with_the_same_strong_tag_13_1_5() {
        assert!(range_applies(&HeaderMap::new(), &validators()));
        assert!(if_range("\"abc\""));
        assert!(!if_range("\"x\""));
        assert!(!if_range("W/\"abc\""));
    }

    #[test]
    fn a_range_applies_with_exactly_the_date_of_last_modified_13_1_5() {
        assert!(if_range(SAME));
        assert!(!if_range(BEFORE));
        assert!(!if_range(AFTER));
    }

    #[test]
    fn an_if_range_that_is_malformed_a_list_or_repeated_does_not_apply_13_1_5() {
        for value in ["", "*", "abc", "\"abc\", \"abc\"", "\"abc\"x", "\"abc"] {
            assert!(!if_range(value), "{value}");
        }
        let twice = headers(&[(IF_RANGE, "\"abc\""), (IF_RANGE, "\"abc\"")]);
        assert!(!range_applies(&twice, &validators()));
    }

    #[test]
    fn a_guarded_write_passes_only_on_the_current_tag_13_1_1() {
        let of = |fields: &[(HeaderName, &str)]| if_match(&headers(fields), "\"7\"");
        assert!(of(&[]).is_ok());
        assert!(of(&[(IF_MATCH, "*")]).is_ok());
        assert!(of(&[(IF_MATCH, "\"7\"")]).is_ok());
        assert!(of(&[(IF_MATCH, "\"6\""), (IF_MATCH, "\"7\"")]).is_ok());
        for value in ["\"6\"", "W/\"7\"", "7", "", "\"7"] {
            let error = of(&[(IF_MATCH, value)]).unwrap_err();
            assert_eq!(error.kind(), Kind::PreconditionFailed, "{value}");
        }
    }

    #[test]
    fn an_http_date_is_an_imf_fixdate_truncated_to_the_second_5_6_7() {
        assert_eq!(http_date(validators().last_modified), SAME);
        assert_eq!(
            http_date(Timestamp::from_micros(-1)),
            "Thu, 01 Jan 1970 00:00:00 GMT"
        );
        assert_eq!(
            http_date(Timestamp::from_micros(i64::MAX)),
            "Fri, 31 Dec 9999 23:59:59 GMT"
        );
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut rng = rand::rng();
        let alphabet = b"\"\"W/*abc, \t\xe9:0123456789 GMTueNov";
        let names = [
            IF_MATCH,
            IF_NONE_MATCH,
            IF_MODIFIED_SINCE,
            IF_UNMODIFIED_SINCE,
            IF_RANGE,
        ];
        for _ in 0..50_000 {
            let mut headers = HeaderMap::new();
            for _ in 0..rng.random_range(0..4) {
                let length = rng.random_range(0..32);
                let bytes: Vec<u8> = if rng.random() {
                    (0..length).map(|_| rng.random()).collect()
                } else {
                    (0..length)
                        .map(|_| alphabet[rng.random_range(0..alphabet.len())])
                        .collect()
                };
                if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                    headers.append(&names[rng.random_range(0..names.len())], value);
                }
            }
            let _ = evaluate(&headers, &Method::GET, &validators());
            let _ = evaluate(&headers, &Method::DELETE, &validators());
            let _ = range_applies(&headers, &validators());
            let _ = if_match(&headers, "\"abc\"");
        }
    }
}
