//! Parts of a content (RFC 9110, 14).

use crate::harness::client::{Answer, Client, id, send};
use crate::harness::content::{MIB, digest, noise};
use crate::harness::raw::position;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    one_range_is_that_part,
    several_ranges_are_that_many_parts,
    ranges_of_a_large_file_are_its_bytes,
    a_range_outside_is_not_satisfiable,
    a_range_that_cannot_be_parsed_is_ignored,
    too_many_ranges_get_the_whole,
    ranges_of_an_empty_file_are_not_satisfiable,
    if_range_takes_the_tag_of_this_very_content,
    if_range_takes_the_date_of_this_very_content,
);

const SIZE: usize = 1000;

async fn get(client: &Client, path: &str, range: &str) -> Answer {
    send(client.get(path).header("range", range)).await
}

async fn uploaded(client: &Client, content: &[u8]) -> String {
    let file = client.upload("a.bin", content).await;
    format!("/v1/files/{}/content", id(&file))
}

fn assert_whole(answer: &Answer, content: &[u8], why: &str) {
    assert_eq!(answer.status, 200, "{why}");
    assert!(answer.body == content, "{why}");
    assert!(answer.headers.get("content-range").is_none(), "{why}");
}

fn assert_single(answer: &Answer, content: &[u8], first: usize, last: usize) {
    assert_eq!(answer.status, 206, "{first}-{last}");
    assert!(answer.body == content[first..=last], "{first}-{last}");
    let said = format!("bytes {first}-{last}/{}", content.len());
    assert_eq!(answer.header("content-range"), said);
    let length = (last - first + 1).to_string();
    assert_eq!(answer.header("content-length"), length);
    // Of the whole, not of the part (RFC 9530, 3).
    assert_eq!(answer.header("repr-digest"), digest(content));
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let policy = answer.header("content-security-policy");
    assert_eq!(policy, "sandbox; default-src 'none'");
    assert!(answer.header("etag").starts_with('"'));
}

async fn one_range_is_that_part(service: &Service) {
    let client = service.client("acme");
    let content = noise(SIZE);
    let path = uploaded(&client, &content).await;
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=0-99", 0, 99),
        ("bytes=500-500", 500, 500),
        ("bytes=999-999", 999, 999),
        ("bytes=990-", 990, 999),
        ("bytes=0-", 0, 999),
        ("bytes=990-5000", 990, 999),
        ("bytes=990-18446744073709551615", 990, 999),
        ("bytes=-1", 999, 999),
        ("bytes=-1000", 0, 999),
        ("bytes=-5000", 0, 999),
        ("Bytes=0-1", 0, 1),
        ("bytes= 0-1", 0, 1),
        ("bytes=0-1,", 0, 1),
    ] {
        let answer = get(&client, &path, range).await;
        assert_single(&answer, &content, first, last);
    }
}

/// The parts of a `multipart/byteranges` (RFC 9110, 14.6): first, last and bytes of each.
fn parts(answer: &Answer, size: usize) -> Vec<(usize, usize, Vec<u8>)> {
    assert_eq!(answer.status, 206);
    assert!(answer.headers.get("content-range").is_none());
    let said = answer.header("content-type");
    let boundary = said
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap_or_else(|| panic!("{said}"))
        .trim_matches('"');
    let mut rest = &answer.body[..];
    let mut parts = Vec::new();
    let delimiter = format!("--{boundary}");
    // The first delimiter may come without a line before it.
    if let Some(behind) = rest.strip_prefix(b"\r\n") {
        rest = behind;
    }
    loop {
        rest = rest.strip_prefix(delimiter.as_bytes()).unwrap();
        if let Some(end) = rest.strip_prefix(b"--") {
            assert!(end.is_empty() || end == b"\r\n", "{end:?}");
            return parts;
        }
        rest = rest.strip_prefix(b"\r\n").unwrap();
        let end = position(rest, b"\r\n\r\n").unwrap();
        let head = std::str::from_utf8(&rest[..end]).unwrap();
        rest = &rest[end + 4..];
        let (mut range, mut content_type) = (None, None);
        for line in head.split("\r\n") {
            let (name, value) = line.split_once(':').unwrap();
            match name.to_ascii_lowercase().as_str() {
                "content-range" => range = Some(value.trim()),
                "content-type" => content_type = Some(value.trim()),
                other => panic!("{other}"),
            }
        }
        assert_eq!(content_type, Some("application/octet-stream"));
        let range = range.unwrap().strip_prefix("bytes ").unwrap();
        let (range, total) = range.split_once('/').unwrap();
        assert_eq!(total, size.to_string());
        let (first, last) = range.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let (bytes, behind) = rest.split_at(last - first + 1);
        parts.push((first, last, bytes.to_vec()));
        rest = behind.strip_prefix(b"\r\n").unwrap();
    }
}

fn assert_parts(answer: &Answer, content: &[u8], expected: &[(usize, usize)]) {
    let parts = parts(answer, content.len());
    let found: Vec<_> = parts.iter().map(|part| (part.0, part.1)).collect();
    assert_eq!(found, expected);
    for (first, last, bytes) in parts {
        assert!(bytes == content[first..=last], "{first}-{last}");
    }
    let length = answer.header("content-length");
    assert_eq!(length, answer.body.len().to_string());
    assert_eq!(answer.header("repr-digest"), digest(content));
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
}

async fn several_ranges_are_that_many_parts(service: &Service) {
    let client = service.client("acme");
    let content = noise(SIZE);
    let path = uploaded(&client, &content).await;
    for (range, expected) in [
        ("bytes=0-9,20-29", &[(0, 9), (20, 29)][..]),
        ("bytes=0-0, 999-999", &[(0, 0), (999, 999)]),
        ("bytes=0-9 ,\t20-29", &[(0, 9), (20, 29)]),
        ("bytes=0-9,-10", &[(0, 9), (990, 999)]),
        ("bytes=0-9,20-29,100-", &[(0, 9), (20, 29), (100, 999)]),
    ] {
        let answer = get(&client, &path, range).await;
        assert_parts(&answer, &content, expected);
    }
    // Those outside are left out; one that remains may come in either form.
    let answer = get(&client, &path, "bytes=0-9,20-29,5000-6000").await;
    assert_parts(&answer, &content, &[(0, 9), (20, 29)]);
    let answer = get(&client, &path, "bytes=0-9,5000-6000").await;
    if answer.headers.contains_key("content-range") {
        assert_single(&answer, &content, 0, 9);
    } else {
        assert_parts(&answer, &content, &[(0, 9)]);
    }
}

async fn ranges_of_a_large_file_are_its_bytes(service: &Service) {
    let client = service.client("acme");
    let content = noise(20 * MIB + 3);
    let path = uploaded(&client, &content).await;
    for (first, last) in [
        (0, 3 * MIB),
        (5 * MIB - 1, 5 * MIB),
        (7 * MIB + 11, 17 * MIB + 13),
        (20 * MIB - 1, 20 * MIB + 2),
    ] {
        let range = format!("bytes={first}-{last}");
        let answer = get(&client, &path, &range).await;
        assert_single(&answer, &content, first, last);
    }
    let expected = [
        (0, 2 * MIB),
        (8 * MIB - 7, 9 * MIB),
        (19 * MIB, 20 * MIB + 2),
    ];
    let ranges = expected.map(|(first, last)| format!("{first}-{last}"));
    let range = format!("bytes={}", ranges.join(","));
    let answer = get(&client, &path, &range).await;
    assert_parts(&answer, &content, &expected);
}

async fn a_range_outside_is_not_satisfiable(service: &Service) {
    let client = service.client("acme");
    let path = uploaded(&client, &noise(SIZE)).await;
    for range in [
        "bytes=1000-",
        "bytes=1000-1000",
        "bytes=5000-6000",
        "bytes=-0",
        "bytes=1000-1001,2000-",
        "bytes=18446744073709551615-",
    ] {
        let answer = get(&client, &path, range).await;
        answer.problem(416, "range-not-satisfiable");
        assert_eq!(answer.header("content-range"), "bytes */1000", "{range}");
    }
}

async fn a_range_that_cannot_be_parsed_is_ignored(service: &Service) {
    let client = service.client("acme");
    let content = noise(SIZE);
    let path = uploaded(&client, &content).await;
    for range in [
        "",
        "x",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=--1",
        "bytes=a-b",
        "bytes=0",
        "bytes=0-x",
        "bytes=+0-1",
        "bytes=0x0-1",
        "bytes=5-2",
        "bytes=0-1,5-2",
        "bytes=0-1;2-3",
        "bytes 0-1",
        "bytes=0 - 1",
        "lines=0-1",
    ] {
        let answer = get(&client, &path, range).await;
        assert_whole(&answer, &content, range);
    }
}

async fn too_many_ranges_get_the_whole(service: &Service) {
    let client = service.client("acme");
    let content = noise(SIZE);
    let path = uploaded(&client, &content).await;
    let ranges = |count: usize| -> Vec<(usize, usize)> {
        (0..count).map(|at| (at * 20, at * 20 + 9)).collect()
    };
    let field = |ranges: &[(usize, usize)]| {
        let ranges: Vec<_> = ranges.iter().map(|(a, b)| format!("{a}-{b}")).collect();
        format!("bytes={}", ranges.join(","))
    };
    let most = ranges(16);
    let answer = get(&client, &path, &field(&most)).await;
    assert_parts(&answer, &content, &most);
    let answer = get(&client, &path, &field(&ranges(17))).await;
    assert_whole(&answer, &content, "17 ranges");
    // More than two that overlap.
    for range in [
        "bytes=0-,0-,0-",
        "bytes=0-100,50-150,80-200",
        "bytes=0-999,1-999,2-999,3-999",
    ] {
        let answer = get(&client, &path, range).await;
        assert_whole(&answer, &content, range);
    }
}

async fn ranges_of_an_empty_file_are_not_satisfiable(service: &Service) {
    let client = service.client("acme");
    let path = uploaded(&client, b"").await;
    for range in ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=0-0,-1"] {
        let answer = get(&client, &path, range).await;
        answer.problem(416, "range-not-satisfiable");
        assert_eq!(answer.header("content-range"), "bytes */0", "{range}");
    }
    assert_whole(&get(&client, &path, "bytes=x").await, b"", "x");
}

async fn if_range_takes_the_tag_of_this_very_content(service: &Service) {
    let client = service.client("acme");
    let content = noise(SIZE);
    let path = uploaded(&client, &content).await;
    let tag = send(client.head(&path)).await.header("etag").to_owned();
    let request = |range: &str, tag: &str| {
        let request = client.get(&path).header("range", range.to_owned());
        request.header("if-range", tag.to_owned())
    };
    let answer = send(request("bytes=0-9", &tag)).await;
    assert_single(&answer, &content, 0, 9);
    let answer = send(request("bytes=0-9,20-29", &tag)).await;
    assert_parts(&answer, &content, &[(0, 9), (20, 29)]);
    for other in ["\"other\"", &format!("W/{tag}"), "*", "nonsense", ""] {
        for range in ["bytes=0-9", "bytes=5000-"] {
            let answer = send(request(range, other)).await;
            assert_whole(&answer, &content, other);
        }
    }
    let answer = send(request("bytes=5000-", &tag)).await;
    answer.problem(416, "range-not-satisfiable");
    // Without a range it says nothing.
    let answer = send(client.get(&path).header("if-range", "\"other\"")).await;
    assert_whole(&answer, &content, "no range");
}

async fn if_range_takes_the_date_of_this_very_content(service: &Service) {
    let client = service.client("acme");
    let content = noise(SIZE);
    let path = uploaded(&client, &content).await;
    let day = std::time::Duration::from_secs(86_400);
    service.clock.advance(day);
    let date = send(client.head(&path)).await;
    let date = date.header("last-modified");
    assert_eq!(date, "Sat, 31 Jan 2026 12:00:00 GMT");
    let request = |date: &str| {
        let request = client.get(&path).header("range", "bytes=0-9");
        request.header("if-range", date.to_owned())
    };
    let answer = send(request(date)).await;
    assert_single(&answer, &content, 0, 9);
    // An exact match: a later date is no promise either.
    for other in [
        "Sat, 31 Jan 2026 11:59:59 GMT",
        "Sat, 31 Jan 2026 12:00:01 GMT",
        "Sun, 01 Feb 2026 12:00:00 GMT",
    ] {
        assert_whole(&send(request(other)).await, &content, other);
    }
}
