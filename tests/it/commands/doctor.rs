//! `box doctor`, beside a service that is well, and with each part of one broken.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::{Place, SECRET};
use crate::harness::front::pass_on;
use crate::harness::service::s3_variables;

/// One line of the report.
#[derive(Debug)]
struct Line {
    check: String,
    status: String,
    told: String,
}

/// The exit status, and the report.
#[track_caller]
fn examined(place: &Place, variables: &[(&str, &str)]) -> (Option<i32>, Vec<Line>) {
    let found = place.run_with(&["doctor", "--json"], variables);
    let report: Value = serde_json::from_str(&found.out).unwrap_or_else(|_| panic!("{found:?}"));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let lines = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| Line {
            check: text(finding, "check"),
            status: text(finding, "status"),
            told: format!("{} | {}", text(finding, "detail"), text(finding, "advice")),
        })
        .collect();
    (found.status, lines)
}

/// The one problem there is says each of `words`, and the exit status tells of it.
#[track_caller]
fn one_problem(
    place: &Place,
    variables: &[(&str, &str)],
    check: &str,
    words: &[&str],
) -> Vec<Line> {
    let (status, lines) = examined(place, variables);
    assert_eq!(status, Some(1), "{lines:?}");
    let problems: Vec<_> = lines
        .iter()
        .filter(|line| line.status == "problem")
        .collect();
    assert_eq!(problems.len(), 1, "{lines:?}");
    assert_eq!(problems[0].check, check, "{lines:?}");
    for word in words {
        assert!(problems[0].told.contains(word), "no {word} in {lines:?}");
    }
    // Each problem comes with something to do.
    assert!(!problems[0].told.ends_with("| "), "{lines:?}");
    lines
}

#[track_caller]
fn all_well(place: &Place, variables: &[(&str, &str)]) -> Vec<Line> {
    let (status, lines) = examined(place, variables);
    assert_eq!(status, Some(0), "{lines:?}");
    assert!(lines.iter().all(|line| line.status == "ok"), "{lines:?}");
    // Neither a key nor a row is left.
    let fsck = place.run_with(&["fsck", "--json"], variables).succeeded();
    let report: Value = serde_json::from_str(&fsck).unwrap();
    assert_eq!(
        (&report["objects"], &report["keys"]),
        (&0.into(), &0.into()),
        "{report}"
    );
    lines
}

/// A place whose few connections need no more files than any system gives.
fn place(variables: &mut Vec<(&str, &str)>) -> Place {
    variables.push(("BOX_LIMITS__MAX_CONNECTIONS", "10"));
    let place = Place::new();
    place.run_with(&["migrate"], variables).succeeded();
    place
}

#[test]
fn a_service_that_is_well_has_nothing_said_against_it() {
    let mut variables = vec![];
    let place = place(&mut variables);
    let lines = all_well(&place, &variables);
    for check in [
        "limits",
        "data_dir",
        "disk",
        "secret",
        "database",
        "store",
        "small object",
        "large object, deleted",
    ] {
        assert!(
            lines.iter().any(|line| line.check == check),
            "no {check} in {lines:?}"
        );
    }
    let told = place.run_with(&["doctor"], &variables).succeeded();
    assert_eq!(told.lines().count(), lines.len(), "{told}");
    assert!(told.lines().all(|line| line.starts_with("ok ")), "{told}");
}

#[test]
fn a_database_that_is_not_migrated_is_told() {
    let place = Place::new();
    let variables = [("BOX_LIMITS__MAX_CONNECTIONS", "10")];
    let lines = one_problem(&place, &variables, "database", &["box migrate"]);
    assert!(
        lines
            .iter()
            .any(|line| line.check == "store" && line.status == "unchecked"),
        "{lines:?}"
    );
}

#[test]
fn a_database_that_is_away_is_told_without_its_password() {
    let mut variables = vec![];
    let place = place(&mut variables);
    variables.extend([
        (
            "BOX_DATABASE__URL",
            "postgres://box:hunter2@127.0.0.1:1/box",
        ),
        ("BOX_DATABASE__TIMEOUT", "500ms"),
    ]);
    let lines = one_problem(&place, &variables, "database", &["127.0.0.1"]);
    assert!(!format!("{lines:?}").contains("hunter2"), "{lines:?}");
}

#[test]
fn a_directory_that_can_not_be_written_to_is_told() {
    let mut variables = vec![("BOX_AUTH__SECRET", SECRET)];
    let place = place(&mut variables);
    // Root may write anywhere, but not below a file.
    let (database, store) = (
        place.path("box-data/box.db"),
        place.path("box-data/objects"),
    );
    let database = format!("sqlite:{}", database.to_str().unwrap());
    let store = format!("file:{}", store.to_str().unwrap().replace(' ', "%20"));
    variables.extend([
        ("BOX_DATABASE__URL", database.as_str()),
        ("BOX_STORE__URL", store.as_str()),
        ("BOX_DATA_DIR", "/dev/null/box"),
    ]);
    one_problem(
        &place,
        &variables,
        "data_dir",
        &["/dev/null/box", "data_dir"],
    );
}

#[test]
fn an_issuer_that_is_down_is_told() {
    let mut variables = vec![(
        "BOX_AUTH__ISSUERS",
        r#"[{"issuer": "https://id.example.com/", "jwks_url": "http://127.0.0.1:1/keys", "audience": ["box"], "tenants": ["*"]}]"#,
    )];
    let place = place(&mut variables);
    one_problem(
        &place,
        &variables,
        "issuer https://id.example.com/",
        &["jwks_url"],
    );
}

#[test]
fn too_few_files_for_the_connections_are_told() {
    let mut variables = vec![];
    let place = place(&mut variables);
    variables.push(("BOX_LIMITS__MAX_CONNECTIONS", "4000000000"));
    one_problem(
        &place,
        &variables,
        "limits",
        &["limits.max_connections", "ulimit"],
    );
}

#[test]
fn outside_development_a_secret_is_asked_for() {
    let mut variables = vec![("BOX_ENVIRONMENT", "production")];
    let place = place(&mut variables);
    one_problem(&place, &variables, "secret", &["BOX_AUTH__SECRET"]);
}

/// The variables of an S3 of this test's own, with some replaced.
pub(super) fn on_s3<'a>(
    s3: &'a [(String, String)],
    replaced: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let own = s3.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let mut variables: Vec<_> = own
        .filter(|(key, _)| !replaced.iter().any(|(other, _)| other == key))
        .collect();
    variables.extend(replaced);
    variables
}

#[test]
fn an_s3_that_is_well_has_nothing_said_against_it() {
    let Some(s3) = s3_variables() else { return };
    let mut variables = on_s3(&s3, &[]);
    let place = place(&mut variables);
    let lines = all_well(&place, &variables);
    for check in [
        "conditional write",
        "signed URL",
        "clock",
        "large object, deleted",
    ] {
        assert!(
            lines.iter().any(|line| line.check == check),
            "no {check} in {lines:?}"
        );
    }
}

#[test]
fn a_wrong_secret_and_a_bucket_that_is_not_there_are_told() {
    let Some(s3) = s3_variables() else { return };
    for (replaced, words) in [
        (
            ("BOX_STORE__SECRET_ACCESS_KEY", "wrong"),
            &["store.secret_access_key"][..],
        ),
        (
            ("BOX_STORE__ACCESS_KEY_ID", "stranger"),
            &["store.access_key_id"],
        ),
        (
            ("BOX_STORE__URL", "s3://no-such-bucket/it"),
            &["NoSuchBucket", "make the bucket"],
        ),
    ] {
        let mut variables = on_s3(&s3, &[replaced]);
        let place = place(&mut variables);
        one_problem(&place, &variables, "store", words);
    }
}

/// What is wrong with a store.
#[derive(Clone, Copy)]
enum Odd {
    /// A write that it should refuse is said to have been made.
    NoConditions,
    /// Its clock is an hour behind.
    Late,
    /// Pages of this origin may read it, and write with these header fields, and no others.
    Lets(&'static str, &'static str),
}

/// In front of the store, and with something wrong.
async fn odd(store: String, odd: Odd) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let written = Arc::new(Mutex::new(HashSet::new()));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let service = axum::Router::new().fallback(move |request: Request| {
        let (store, client, written) = (store.clone(), client.clone(), written.clone());
        async move { forwarded(&store, &client, &written, odd, request).await }
    });
    tokio::spawn(async move { axum::serve(listener, service).await });
    format!("http://{address}")
}

async fn forwarded(
    store: &str,
    client: &reqwest::Client,
    written: &Mutex<HashSet<String>>,
    odd: Odd,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().unwrap().to_string();
    let body = to_bytes(body, 64 * 1024 * 1024).await.unwrap();
    if matches!(odd, Odd::NoConditions)
        && head.method == "PUT"
        && !written.lock().unwrap().insert(path.clone())
        && head.headers.contains_key("if-none-match")
    {
        return ([("etag", "\"written-over\"")], "").into_response();
    }
    if let Odd::Lets(origin, fields) = odd
        && head.method == "OPTIONS"
    {
        assert_eq!(head.headers["access-control-request-method"], "PUT");
        // A signature would be one for GET.
        assert!(!path.contains('?'), "{path}");
        let allowed = [
            ("access-control-allow-origin", origin),
            ("access-control-allow-methods", "GET, PUT, HEAD"),
            ("access-control-allow-headers", fields),
        ];
        return (allowed, "").into_response();
    }
    let mut response = pass_on(store, client, head, body).await;
    let headers = response.headers_mut();
    match odd {
        Odd::NoConditions => {}
        Odd::Late => {
            let date = headers["date"].to_str().unwrap();
            let then = httpdate::parse_http_date(date).unwrap() - Duration::from_secs(3_600);
            let date = httpdate::fmt_http_date(then).parse().unwrap();
            headers.insert("date", date);
        }
        Odd::Lets(origin, _) => {
            headers.insert("access-control-allow-origin", origin.parse().unwrap());
        }
    }
    response
}

/// What doctor says of a store that is odd. None where there is no S3.
async fn told_of<T>(
    wrong: Odd,
    more: &[(&str, &str)],
    look: impl FnOnce(&Place, &[(&str, &str)]) -> T,
) -> Option<T> {
    let s3 = s3_variables()?;
    let (_, endpoint) = s3
        .iter()
        .find(|(key, _)| key == "BOX_STORE__ENDPOINT")
        .unwrap();
    let endpoint = odd(endpoint.clone(), wrong).await;
    let changed = [&[("BOX_STORE__ENDPOINT", endpoint.as_str())], more].concat();
    let mut variables = on_s3(&s3, &changed);
    Some(tokio::task::block_in_place(|| {
        let place = place(&mut variables);
        look(&place, &variables)
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_conditional_writes_is_told() {
    told_of(Odd::NoConditions, &[], |place, variables| {
        one_problem(place, variables, "conditional write", &["If-None-Match"]);
        let fsck = place.run_with(&["fsck", "--json"], variables).succeeded();
        assert!(fsck.contains("\"objects\":0,\"keys\":0"), "{fsck}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_apart_are_told() {
    told_of(Odd::Late, &[], |place, variables| {
        one_problem(place, variables, "clock", &["NTP"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_the_bucket_does_not_know_is_told() {
    const LET: &str = "https://app.example.com";
    const NOT: &str = "https://other.example.com";
    let both = format!("{LET},{NOT}");
    let origins = [("BOX_CORS__ALLOW_ORIGINS", both.as_str())];
    told_of(Odd::Lets(LET, "*"), &origins, |place, variables| {
        let (status, lines) = examined(place, variables);
        assert_eq!(status, Some(1), "{lines:?}");
        for what in ["", "a PUT from "] {
            let of = |origin: &str| {
                let check = format!("CORS of the bucket for {what}{origin}");
                let line = lines.iter().find(|line| line.check == check);
                line.unwrap_or_else(|| panic!("no {check} in {lines:?}"))
            };
            assert_eq!(of(LET).status, "ok", "{lines:?}");
            assert_eq!(of(NOT).status, "problem", "{lines:?}");
            assert!(of(NOT).told.contains("CORS"), "{lines:?}");
        }
        let problems = lines.iter().filter(|line| line.status != "ok");
        assert_eq!(problems.count(), 2, "{lines:?}");
    })
    .await;
}

/// A page of that origin may read, and its upload would be refused before it is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_fields_that_the_bucket_does_not_let_through_are_told() {
    const LET: &str = "https://app.example.com";
    let origins = [("BOX_CORS__ALLOW_ORIGINS", LET)];
    let fields = "Content-Type, X-Amz-Checksum-Crc64nvme, X-Amz-Checksum-Sha256";
    told_of(Odd::Lets(LET, fields), &origins, |place, variables| {
        let check = format!("CORS of the bucket for a PUT from {LET}");
        let words = ["if-none-match", "AllowedHeaders *", "AllowedMethods PUT"];
        let lines = one_problem(place, variables, &check, &words);
        assert!(
            !format!("{lines:?}").contains("x-amz-checksum"),
            "{lines:?}"
        );
    })
    .await;
}
