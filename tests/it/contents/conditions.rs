//! Conditional downloads (RFC 9110, 13).

use std::time::Duration;

use crate::harness::client::{Answer, id, send};
use crate::harness::raw;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    who_has_the_content_gets_304,
    who_has_it_by_date_gets_304,
    if_match_names_the_content,
    conditions_come_before_ranges,
    a_304_has_no_body_on_the_wire,
);

const MODIFIED: &str = "Sat, 31 Jan 2026 12:00:00 GMT";
const BEFORE: &str = "Sat, 31 Jan 2026 11:59:59 GMT";
const AFTER: &str = "Sat, 31 Jan 2026 12:00:01 GMT";

/// The content's path and tag.
async fn uploaded(service: &Service) -> (String, String) {
    let client = service.client("acme");
    let request = client.post("/v1/files?name=a").body("content");
    let answer = send(request).await;
    let path = format!("/v1/files/{}/content", id(&answer.json(201)));
    service.clock.advance(Duration::from_secs(3600));
    (path, answer.header("etag").to_owned())
}

/// GET and HEAD with these fields, which must agree.
async fn ask(service: &Service, path: &str, fields: &[(&str, &str)]) -> Answer {
    let client = service.client("acme");
    let (mut get, mut head) = (client.get(path), client.head(path));
    for (name, value) in fields {
        get = get.header(*name, *value);
        head = head.header(*name, *value);
    }
    let (get, head) = (send(get).await, send(head).await);
    if !fields.iter().any(|(name, _)| *name == "range") {
        assert_eq!(get.status, head.status, "{fields:?}");
    }
    assert!(head.body.is_empty());
    match get.status {
        200 => assert_eq!(get.body, b"content", "{fields:?}"),
        304 => assert!(get.body.is_empty(), "{fields:?}"),
        412 => drop(get.problem(412, "precondition-failed")),
        _ => {}
    }
    get
}

async fn who_has_the_content_gets_304(service: &Service) {
    let (path, tag) = uploaded(service).await;
    let weak = format!("W/{tag}");
    let among = format!("\"x\", {tag} , \"y\"");
    for (field, status) in [
        (tag.as_str(), 304),
        (weak.as_str(), 304),
        (among.as_str(), 304),
        ("*", 304),
        ("\"other\"", 200),
        ("\"x\", \"y\"", 200),
        (tag.trim_matches('"'), 200),
        ("\"\"", 200),
    ] {
        let answer = ask(service, &path, &[("if-none-match", field)]).await;
        assert_eq!(answer.status, status, "{field}");
        assert_eq!(answer.header("etag"), tag);
    }
}

async fn who_has_it_by_date_gets_304(service: &Service) {
    let (path, tag) = uploaded(service).await;
    let plain = ask(service, &path, &[]).await;
    assert_eq!(plain.header("last-modified"), MODIFIED);
    for (date, status) in [
        (MODIFIED, 304),
        (AFTER, 304),
        ("Saturday, 31-Jan-26 12:00:00 GMT", 304),
        ("Sat Jan 31 12:00:00 2026", 304),
        (BEFORE, 200),
        ("nonsense", 200),
        ("2026-01-31T12:00:00Z", 200),
    ] {
        let answer = ask(service, &path, &[("if-modified-since", date)]).await;
        assert_eq!(answer.status, status, "{date}");
    }
    // Tags are the better witnesses.
    for (tag, date, status) in [("\"other\"", AFTER, 200), (&tag, BEFORE, 304)] {
        let fields = [("if-none-match", tag), ("if-modified-since", date)];
        assert_eq!(ask(service, &path, &fields).await.status, status);
    }
}

async fn if_match_names_the_content(service: &Service) {
    let (path, tag) = uploaded(service).await;
    let weak = format!("W/{tag}");
    let among = format!("\"x\",{tag}");
    for (field, status) in [
        (tag.as_str(), 200),
        (among.as_str(), 200),
        ("*", 200),
        ("\"other\"", 412),
        ("\"1\"", 412),
        (weak.as_str(), 412),
    ] {
        let answer = ask(service, &path, &[("if-match", field)]).await;
        assert_eq!(answer.status, status, "{field}");
    }
    for (date, status) in [(MODIFIED, 200), (AFTER, 200), (BEFORE, 412)] {
        let answer = ask(service, &path, &[("if-unmodified-since", date)]).await;
        assert_eq!(answer.status, status, "{date}");
        // Beside a tag the date says nothing.
        let fields = [("if-match", &*tag), ("if-unmodified-since", date)];
        assert_eq!(ask(service, &path, &fields).await.status, 200);
    }
}

async fn conditions_come_before_ranges(service: &Service) {
    let (path, tag) = uploaded(service).await;
    for (condition, range, status) in [
        (("if-none-match", &*tag), "bytes=0-1", 304),
        (("if-none-match", &*tag), "bytes=500-", 304),
        (("if-none-match", "\"other\""), "bytes=0-1", 206),
        (("if-match", "\"other\""), "bytes=0-1", 412),
        (("if-match", "\"other\""), "bytes=500-", 412),
        (("if-match", &*tag), "bytes=0-1", 206),
        (("if-match", &*tag), "bytes=500-", 416),
    ] {
        let answer = ask(service, &path, &[condition, ("range", range)]).await;
        assert_eq!(answer.status, status, "{condition:?} {range}");
    }
    // First If-Match, then If-None-Match.
    let fields = [("if-match", "\"other\""), ("if-none-match", &*tag)];
    assert_eq!(ask(service, &path, &fields).await.status, 412);
}

async fn a_304_has_no_body_on_the_wire(service: &Service) {
    let (path, tag) = uploaded(service).await;
    let field = format!("if-none-match: {tag}");
    for method in ["GET", "HEAD"] {
        let line = format!("{method} {path}");
        let answer = raw::to_the_end(service, &line, &[&field]).await;
        assert_eq!((answer.status, answer.body.len()), (304, 0));
    }
}
