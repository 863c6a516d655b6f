use std::ops::Range;

use axum::http::header::RANGE;
use axum::http::{HeaderMap, HeaderValue, Method};

use super::super::range::{Multipart, Ranges, parse, requested};
use super::take;

/// Of any `Range`, for a representation of any size: it is read as the grammar says, and what is
/// answered is no more than twice the whole, and laid out as its length says.
///
/// The input: how far the size is shifted, the size in 8 bytes, the field's value.
pub fn range(mut input: &[u8]) {
    let [shift] = take(&mut input);
    let size = u64::from_le_bytes(take(&mut input)) >> (shift % 64);
    let Ok(value) = HeaderValue::from_bytes(input) else {
        return;
    };
    let text = value.to_str().ok().map(str::to_owned);
    let headers = HeaderMap::from_iter([(RANGE, value)]);
    let ranges = requested(&Method::GET, &headers, size);
    assert_eq!(requested(&Method::PUT, &headers, size), Ranges::Whole);
    match text {
        Some(text) => {
            assert_eq!(ranges, parse(&text, size));
            assert_eq!(ranges, expected(&text, size), "{text:?} of {size}");
        }
        None => assert_eq!(ranges, Ranges::Whole),
    }

    let ranges = match ranges {
        Ranges::Whole | Ranges::Unsatisfiable => return,
        Ranges::One(one) => vec![one],
        Ranges::Many(many) => many,
    };
    let bytes: u128 = ranges.iter().map(length).sum();
    assert!(bytes <= 2 * u128::from(size), "{ranges:?} of {size}");
    let layout = Multipart::new(&ranges, size, "text/plain", "boundary");
    let heads: usize = layout.parts.iter().map(|part| part.head.len()).sum();
    let whole = bytes + (heads + layout.closing.len()) as u128;
    assert_eq!(
        u128::from(layout.length),
        whole.min(u128::from(u64::MAX)),
        "{ranges:?} of {size}"
    );
    assert!(layout.parts.iter().map(|part| &part.range).eq(&ranges));
}

fn length(range: &Range<u64>) -> u128 {
    u128::from(range.end) - u128::from(range.start)
}

/// RFC 9110 sections 14.1.1 and 14.2 once more, in numbers that don't overflow.
fn expected(text: &str, size: u64) -> Ranges {
    let blank = |c: char| c == ' ' || c == '\t';
    let text = text.trim_matches(blank);
    let Some(at) = text.find('=') else {
        return Ranges::Whole;
    };
    if !text[..at].eq_ignore_ascii_case("bytes") {
        return Ranges::Whole;
    }
    let specs: Vec<&str> = text[at + 1..]
        .split(',')
        .map(|spec| spec.trim_matches(blank))
        .filter(|spec| !spec.is_empty())
        .collect();
    let Some(asked) = specs.iter().map(|spec| selected(spec, size)).collect() else {
        return Ranges::Whole;
    };
    let asked: Vec<Range<u64>> = asked;
    if specs.is_empty() || specs.len() > 16 {
        return Ranges::Whole;
    }
    let given: Vec<Range<u64>> = asked
        .into_iter()
        .filter(|range| !range.is_empty())
        .collect();
    let meets = |i: usize, j: usize| {
        i != j && given[i].start.max(given[j].start) < given[i].end.min(given[j].end)
    };
    let overlapping = (0..given.len())
        .filter(|i| (0..given.len()).any(|j| meets(*i, j)))
        .count();
    let small = given.iter().filter(|range| length(range) < 1024).count();
    let ascending = given.windows(2).all(|two| two[0].start <= two[1].start);
    if overlapping > 2 || (small > 4 && !ascending) {
        return Ranges::Whole;
    }
    match given.len() {
        0 => Ranges::Unsatisfiable,
        1 => Ranges::One(given[0].clone()),
        _ => Ranges::Many(given),
    }
}

/// The bytes of one `range-spec`, which may be none; None where the grammar has no such thing.
fn selected(spec: &str, size: u64) -> Option<Range<u64>> {
    let number = |text: &str| -> Option<u128> {
        if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
            // All that is longer than 30 digits is as good as infinite.
            let digits = text.trim_start_matches('0');
            let near = if digits.len() > 30 {
                "9".repeat(30)
            } else {
                format!("0{digits}")
            };
            near.parse().ok()
        } else {
            None
        }
    };
    let (first, last) = spec.split_once('-')?;
    let size = u128::from(size);
    let (from, to) = match (first, last) {
        ("", last) => (size.saturating_sub(number(last)?), size),
        (first, "") => (number(first)?, size),
        (first, last) => {
            let (from, to) = (number(first)?, number(last)?);
            let width = first.len().max(last.len());
            if format!("{last:0>width$}") < format!("{first:0>width$}") {
                return None;
            }
            (from, to + 1)
        }
    };
    let narrow = |at: u128| u64::try_from(at.min(size)).expect("it is at most the size");
    Some(narrow(from)..narrow(to))
}
