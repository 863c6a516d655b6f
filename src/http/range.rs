//! Range requests: which bytes are asked for, and how several ranges are laid out in one answer
//! (RFC 9110 sections 14 and 15.3.7).

use std::ops::Range;

use axum::http::header::RANGE;
use axum::http::{HeaderMap, Method};

/// More ranges than this in one request get the whole file.
const MAX_RANGES: usize = 16;
/// RFC 9110 section 14.2 lets a server ignore "more than two overlapping ranges".
const MAX_OVERLAPPING: usize = 2;
/// RFC 9110 section 14.2 lets a server ignore "many small ranges that are not listed in
/// ascending order"; many is more than this, small is shorter than [`SMALL`].
const MAX_SMALL_DISORDERED: usize = 4;
/// In bytes.
const SMALL: u64 = 1024;

/// The part of a representation that a request asks for. Ranges are of bytes, end exclusive,
/// never empty, and lie within the representation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// No range that must be honoured: 200 with everything.
    Whole,
    /// 206 with `Content-Range`.
    One(Range<u64>),
    /// 206 with `multipart/byteranges`; at least two, in the order asked for.
    Many(Vec<Range<u64>>),
    /// 416 with `Content-Range: bytes */size`.
    Unsatisfiable,
}

/// What the request's `Range` asks of a representation of `size` bytes.
///
/// `Range` has a meaning for GET only, and must be ignored with any other method (RFC 9110
/// section 14.2). It is no list field: several of them can't be combined and are ignored.
pub fn requested(method: &Method, headers: &HeaderMap, size: u64) -> Ranges {
    if method != Method::GET {
        return Ranges::Whole;
    }
    let mut values = headers.get_all(RANGE).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value
            .to_str()
            .map_or(Ranges::Whole, |text| parse(text, size)),
        _ => Ranges::Whole,
    }
}

/// Reads one `Range` field value (RFC 9110 section 14.1.1) against a representation of `size` bytes.
///
/// Ignored, so [`Ranges::Whole`]: what does not follow the grammar, a unit other than `bytes`,
/// more than 16 ranges, more than two ranges that overlap another one, and more than four ranges
/// of less than 1 KiB whose order is not ascending.
///
/// Ranges are answered as they were asked, one part each and in that order. Nothing is
/// coalesced: the limit on overlaps already bounds an answer to twice the size, and a client
/// gets the parts that it expects.
pub fn parse(text: &str, size: u64) -> Ranges {
    let Some((unit, set)) = text.trim_matches([' ', '\t']).split_once('=') else {
        return Ranges::Whole;
    };
    if !unit.eq_ignore_ascii_case("bytes") {
        return Ranges::Whole;
    }
    let mut asked = 0;
    let mut ranges = Vec::new();
    for spec in set.split(',').map(|spec| spec.trim_matches([' ', '\t'])) {
        // Empty list elements are to be ignored (RFC 9110 section 5.6.1.2).
        if spec.is_empty() {
            continue;
        }
        asked += 1;
        if asked > MAX_RANGES {
            return Ranges::Whole;
        }
        match parse_spec(spec, size) {
            None => return Ranges::Whole,
            Some(Spec::Unsatisfiable) => {}
            Some(Spec::Satisfiable(range)) => ranges.push(range),
        }
    }
    if asked == 0 || wasteful(&ranges) {
        return Ranges::Whole;
    }
    match ranges.as_slice() {
        [] => Ranges::Unsatisfiable,
        // One part needs no multipart (RFC 9110 section 15.3.7.2), however many were asked for.
        [one] => Ranges::One(one.clone()),
        _ => Ranges::Many(ranges),
    }
}

enum Spec {
    Satisfiable(Range<u64>),
    Unsatisfiable,
}

fn parse_spec(spec: &str, size: u64) -> Option<Spec> {
    let (first, last) = spec.split_once('-')?;
    let range = if first.is_empty() {
        let length = digits(last)?;
        size.saturating_sub(length)..size
    } else {
        let start = digits(first)?;
        let end = if last.is_empty() {
            size
        } else {
            let end = digits(last)?.saturating_add(1).min(size);
            if is_less(last, first) {
                return None;
            }
            end
        };
        start..end
    };
    Some(if range.is_empty() {
        Spec::Unsatisfiable
    } else {
        Spec::Satisfiable(range)
    })
}

/// `1*DIGIT`. A number past 64 bits lies past the end of anything: it saturates.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// Compares numbers of any length.
fn is_less(a: &str, b: &str) -> bool {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    (a.len(), a) < (b.len(), b)
}

fn wasteful(ranges: &[Range<u64>]) -> bool {
    let overlaps = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
    let overlapping = ranges
        .iter()
        .enumerate()
        .filter(|(i, a)| {
            ranges
                .iter()
                .enumerate()
                .any(|(j, b)| *i != j && overlaps(a, b))
        })
        .count();
    let small = ranges.iter().filter(|r| r.end - r.start < SMALL).count();
    overlapping > MAX_OVERLAPPING
        || (small > MAX_SMALL_DISORDERED && !ranges.is_sorted_by_key(|range| range.start))
}

/// The value of `Content-Range` with a 206 (RFC 9110 section 14.4). `range` must not be empty.
pub fn content_range(range: &Range<u64>, size: u64) -> String {
    format!(
        "bytes {}-{}/{size}",
        range.start,
        range.end.saturating_sub(1)
    )
}

/// The value of `Content-Range` with a 416 (RFC 9110 section 14.4).
pub fn unsatisfied_range(size: u64) -> String {
    format!("bytes */{size}")
}

/// How the body of a `multipart/byteranges` answer is laid out (RFC 9110 section 14.6): for
/// each part its `head`, then its bytes of the file; at the end `closing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multipart {
    pub parts: Vec<Part>,
    /// The closing delimiter.
    pub closing: Vec<u8>,
    /// Of the whole body, in bytes: the answer's `Content-Length`.
    pub length: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The delimiter, the part's header fields and the empty line: goes before the bytes.
    pub head: Vec<u8>,
    /// Which bytes of the file follow `head`; end exclusive.
    pub range: Range<u64>,
}

impl Multipart {
    /// Lays out `ranges` of a file of `size` bytes in the order given.
    ///
    /// `content_type` is the file's own, as [`super::media_type::parse`] normalised it.
    /// `boundary` is 1 to 70 letters and digits (RFC 2046 section 5.1.1), and random enough that
    /// no content can hold it.
    pub fn new(ranges: &[Range<u64>], size: u64, content_type: &str, boundary: &str) -> Self {
        let mut length: u64 = 0;
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let line_end = if parts.is_empty() { "" } else { "\r\n" };
            let head = format!(
                "{line_end}--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {}\r\n\r\n",
                content_range(range, size)
            )
            .into_bytes();
            length = length
                .saturating_add(head.len() as u64)
                .saturating_add(range.end.saturating_sub(range.start));
            parts.push(Part {
                head,
                range: range.clone(),
            });
        }
        let closing = format!("\r\n--{boundary}--\r\n").into_bytes();
        Self {
            length: length.saturating_add(closing.len() as u64),
            parts,
            closing,
        }
    }

    /// The answer's own `Content-Type`.
    pub fn content_type(boundary: &str) -> String {
        format!("multipart/byteranges; boundary={boundary}")
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use rand::RngExt;

    use super::*;

    fn many(ranges: &[Range<u64>]) -> Ranges {
        Ranges::Many(ranges.to_vec())
    }

    #[test]
    fn the_examples_of_section_14_1_2_select_what_it_says() {
        let size = 10_000;
        assert_eq!(parse("bytes=0-499", size), Ranges::One(0..500));
        assert_eq!(parse("bytes=500-999", size), Ranges::One(500..1000));
        assert_eq!(parse("bytes=-500", size), Ranges::One(9_500..10_000));
        assert_eq!(parse("bytes=9500-", size), Ranges::One(9_500..10_000));
        assert_eq!(parse("bytes=0-0,-1", size), many(&[0..1, 9_999..10_000]));
        assert_eq!(
            parse("bytes= 0-999, 4500-5499, -1000", size),
            many(&[0..1000, 4_500..5_500, 9_000..10_000])
        );
        assert_eq!(
            parse("bytes=500-600,601-999", size),
            many(&[500..601, 601..1000])
        );
        assert_eq!(
            parse("bytes=500-700,601-999", size),
            many(&[500..701, 601..1000])
        );
    }

    #[test]
    fn the_unit_is_case_insensitive_and_another_is_ignored_14_1() {
        assert_eq!(parse("BYTES=1-2", 10), Ranges::One(1..3));
        assert_eq!(parse("Bytes=1-2", 10), Ranges::One(1..3));
        assert_eq!(parse("lines=1-2", 10), Ranges::Whole);
        assert_eq!(parse("byte=1-2", 10), Ranges::Whole);
    }

    #[test]
    fn what_the_grammar_of_14_1_1_does_not_allow_is_ignored() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes= , ,",
            "bytes=-",
            "bytes=--1",
            "bytes=a-b",
            "bytes=1",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes=1-+2",
            "bytes=1 - 2",
            "bytes=1-x",
            "bytes 1-2",
            "bytes =1-2",
            "=1-2",
            "bytes=0x1-2",
            "bytes=1-2;3-4",
            "bytes=1.0-2",
            "bytes=\u{661}-\u{662}",
            "bytes=0-1,x",
            "bytes=x,0-1",
            "bytes==0-1",
        ] {
            assert_eq!(parse(text, 10), Ranges::Whole, "{text:?}");
        }
    }

    #[test]
    fn a_last_position_before_the_first_makes_the_whole_set_invalid_14_1_1() {
        assert_eq!(parse("bytes=5-4", 10), Ranges::Whole);
        assert_eq!(parse("bytes=0-1,5-4", 10), Ranges::Whole);
        assert_eq!(parse("bytes=99-98", 10), Ranges::Whole);
        // Past 64 bits too, and whatever zeros are in front.
        let (max, above) = ("18446744073709551615", "18446744073709551616");
        let within = |first: &str, last: &str| parse(&format!("bytes={first}-{last}"), 10);
        assert_eq!(within(above, max), Ranges::Whole);
        assert_eq!(within(max, above), Ranges::Unsatisfiable);
        assert_eq!(within(&"9".repeat(40), above), Ranges::Whole);
        assert_eq!(within(above, "0000000000000000000001"), Ranges::Whole);
        assert_eq!(within("0000000000000000000001", "3"), Ranges::One(1..4));
    }

    #[test]
    fn empty_list_elements_and_optional_whitespace_are_tolerated_5_6_1() {
        assert_eq!(parse(" bytes=,0-1 ,\t, 4-5,", 10), many(&[0..2, 4..6]));
    }

    #[test]
    fn positions_past_the_end_are_clamped_14_1_2() {
        assert_eq!(parse("bytes=5-99", 10), Ranges::One(5..10));
        assert_eq!(parse("bytes=-99", 10), Ranges::One(0..10));
        assert_eq!(parse("bytes=9-9", 10), Ranges::One(9..10));
    }

    #[test]
    fn ranges_outside_the_representation_are_unsatisfiable_15_5_17() {
        assert_eq!(parse("bytes=10-", 10), Ranges::Unsatisfiable);
        assert_eq!(parse("bytes=10-20", 10), Ranges::Unsatisfiable);
        assert_eq!(parse("bytes=10-11,12-13", 10), Ranges::Unsatisfiable);
        assert_eq!(parse("bytes=-0", 10), Ranges::Unsatisfiable);
    }

    #[test]
    fn the_satisfiable_ones_of_a_set_are_answered_and_the_others_dropped_14_1_2() {
        assert_eq!(parse("bytes=10-,0-1", 10), Ranges::One(0..2));
        assert_eq!(parse("bytes=-0,0-1,99-,4-5", 10), many(&[0..2, 4..6]));
    }

    #[test]
    fn any_range_of_an_empty_representation_is_unsatisfiable() {
        for text in [
            "bytes=0-",
            "bytes=0-0",
            "bytes=-5",
            "bytes=-0",
            "bytes=0-,-1",
        ] {
            assert_eq!(parse(text, 0), Ranges::Unsatisfiable, "{text}");
        }
    }

    #[test]
    fn numbers_past_64_bits_are_clamped_or_unsatisfiable_14_1_1() {
        let huge = "9".repeat(40);
        assert_eq!(parse(&format!("bytes=3-{huge}"), 10), Ranges::One(3..10));
        assert_eq!(
            parse("bytes=3-18446744073709551615", 10),
            Ranges::One(3..10)
        );
        assert_eq!(parse(&format!("bytes=-{huge}"), 10), Ranges::One(0..10));
        assert_eq!(parse(&format!("bytes={huge}-"), 10), Ranges::Unsatisfiable);
        assert_eq!(
            parse(&format!("bytes={huge}-{huge}"), u64::MAX),
            Ranges::Unsatisfiable
        );
        assert_eq!(parse(&format!("bytes={huge}-5"), 10), Ranges::Whole);
        assert_eq!(
            parse("bytes=000000000000000000000000003-4", 10),
            Ranges::One(3..5)
        );
    }

    #[test]
    fn sixteen_ranges_are_answered_and_seventeen_get_the_whole() {
        let set = |n: usize| {
            let specs: Vec<_> = (0..n).map(|i| format!("{0}-{0}", i * 2)).collect();
            format!("bytes={}", specs.join(","))
        };
        assert!(matches!(parse(&set(16), 1000), Ranges::Many(r) if r.len() == 16));
        assert_eq!(parse(&set(17), 1000), Ranges::Whole);
        assert_eq!(parse(&set(17), 0), Ranges::Whole);
    }

    #[test]
    fn two_overlapping_ranges_are_answered_and_three_get_the_whole_14_2() {
        assert_eq!(parse("bytes=0-,0-", 10), many(&[0..10, 0..10]));
        assert_eq!(parse("bytes=5-9,0-6", 10), many(&[5..10, 0..7]));
        assert_eq!(parse("bytes=0-,0-,0-", 10), Ranges::Whole);
        assert_eq!(parse("bytes=0-3,2-5,4-7", 10), Ranges::Whole);
        assert_eq!(parse("bytes=0-1,1-2,5-6,6-7", 10), Ranges::Whole);
        // Adjacent is not overlapping.
        assert_eq!(parse("bytes=0-1,2-3,4-5", 10), many(&[0..2, 2..4, 4..6]));
    }

    #[test]
    fn many_small_ranges_out_of_order_get_the_whole_14_2() {
        assert_eq!(parse("bytes=8-8,6-6,4-4,2-2,0-0", 10), Ranges::Whole);
        assert_eq!(
            parse("bytes=6-6,4-4,2-2,0-0", 10),
            many(&[6..7, 4..5, 2..3, 0..1])
        );
        assert!(matches!(
            parse("bytes=0-0,2-2,4-4,6-6,8-8", 10),
            Ranges::Many(_)
        ));
        let large = "bytes=8000-9023,6000-7023,4000-5023,2000-3023,0-1023";
        assert!(matches!(parse(large, 10_000), Ranges::Many(_)));
    }

    #[test]
    fn the_order_asked_for_is_kept_15_3_7_2() {
        assert_eq!(parse("bytes=6-7,0-1,3-4", 10), many(&[6..8, 0..2, 3..5]));
    }

    #[test]
    fn only_a_get_with_exactly_one_range_field_is_read_14_2() {
        let mut headers = HeaderMap::new();
        assert_eq!(requested(&Method::GET, &headers, 10), Ranges::Whole);
        headers.append(RANGE, HeaderValue::from_static("bytes=0-1"));
        assert_eq!(requested(&Method::GET, &headers, 10), Ranges::One(0..2));
        assert_eq!(requested(&Method::HEAD, &headers, 10), Ranges::Whole);
        assert_eq!(requested(&Method::PUT, &headers, 10), Ranges::Whole);
        headers.append(RANGE, HeaderValue::from_static("bytes=4-5"));
        assert_eq!(requested(&Method::GET, &headers, 10), Ranges::Whole);
    }

    #[test]
    fn a_range_field_that_is_no_text_is_ignored() {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_bytes(b"bytes=0-1\xff").unwrap();
        headers.insert(RANGE, value);
        assert_eq!(requested(&Method::GET, &headers, 10), Ranges::Whole);
    }

    #[test]
    fn content_range_names_the_last_byte_inclusively_14_4() {
        assert_eq!(content_range(&(42..1234), 1234), "bytes 42-1233/1234");
        assert_eq!(unsatisfied_range(1234), "bytes */1234");
    }

    #[test]
    fn a_multipart_body_is_laid_out_as_14_6_shows_and_its_length_is_exact() {
        let content = b"0123456789";
        let layout = Multipart::new(&[7..10, 0..2], 10, "text/plain", "SEP");
        let mut body = Vec::new();
        for part in &layout.parts {
            body.extend_from_slice(&part.head);
            body.extend_from_slice(&content[part.range.start as usize..part.range.end as usize]);
        }
        body.extend_from_slice(&layout.closing);
        assert_eq!(
            String::from_utf8(body.clone()).unwrap(),
            "--SEP\r\nContent-Type: text/plain\r\nContent-Range: bytes 7-9/10\r\n\r\n789\
             \r\n--SEP\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01\
             \r\n--SEP--\r\n"
        );
        assert_eq!(layout.length, body.len() as u64);
        assert_eq!(
            Multipart::content_type("SEP"),
            "multipart/byteranges; boundary=SEP"
        );
    }

    #[test]
    fn random_text_never_panics_and_every_range_lies_within_the_size() {
        let mut rng = rand::rng();
        let alphabet = b"bytes=0123456789-, \tx\xc3";
        for _ in 0..50_000 {
            let length = rng.random_range(0..40);
            let mut bytes: Vec<u8> = (0..length)
                .map(|_| alphabet[rng.random_range(0..alphabet.len())])
                .collect();
            if rng.random() {
                bytes.splice(0..0, *b"bytes=");
            }
            let text = String::from_utf8_lossy(&bytes);
            let size = match rng.random_range(0..4) {
                0 => 0,
                1 => u64::MAX,
                _ => rng.random_range(0..100),
            };
            let ranges = match parse(&text, size) {
                Ranges::Whole | Ranges::Unsatisfiable => continue,
                Ranges::One(range) => vec![range],
                Ranges::Many(ranges) => {
                    assert!((2..=MAX_RANGES).contains(&ranges.len()));
                    ranges
                }
            };
            for range in &ranges {
                assert!(range.start < range.end && range.end <= size, "{text}");
            }
            let _ = Multipart::new(&ranges, size, "a/b", "x");
        }
    }
}
