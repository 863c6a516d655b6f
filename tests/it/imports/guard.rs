//! What must not be reached: the corpus of attacks, and the ways past a check that is made too early.

use box_service::auth::Scope;
use box_service::fetch::address::is_public;
use box_service::fetch::{Policy, Refusal};
use serde_json::json;
use url::Url;

use super::{done, items, start};
use crate::harness::client::send;
use crate::harness::origin::{Origin, head};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    with crate::imports::OPEN;
    a_redirect_is_checked_like_its_origin,
    headers_stay_with_the_one_that_was_asked,
);

#[test]
fn every_attack_of_the_corpus_is_refused() {
    let corpus = include_str!("../../data/ssrf.tsv");
    let policy = Policy::default();
    let mut count = 0;
    for line in corpus.lines().filter(|line| !line.starts_with('#')) {
        let [verdict, url, source] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line:?} has not three fields");
        };
        let parsed = Url::parse(url);
        let checked = parsed.as_ref().map(|url| policy.check(url));
        let as_wanted = match verdict.split_once('=') {
            Some((_, address)) => checked == Ok(Ok(())) && !is_public(address.parse().unwrap()),
            None => match verdict {
                "address" => checked == Ok(Err(Refusal::Address)),
                "refused" => !matches!(checked, Ok(Ok(()) | Err(Refusal::Address))),
                "public" => checked == Ok(Ok(())),
                _ => panic!("{verdict}?"),
            },
        };
        assert!(as_wanted, "{url} ({source}) must be {verdict}: {checked:?}");
        count += 1;
    }
    assert!(count > 150, "only {count}");
}

async fn a_redirect_is_checked_like_its_origin(service: &Service) {
    let origin = Origin::start().await;
    let to = |path: &str, location: &str| {
        let lines = format!("302 Found\nlocation: {location}\ncontent-length: 0");
        origin.answers(path, vec![vec![head(&lines)]])
    };
    let urls = [
        to("/private", "http://10.0.0.1/"),
        to("/metadata", "http://169.254.169.254/latest/meta-data/"),
        to("/spelled", "http://2852039166/"),
        to("/scheme", "file:///etc/passwd"),
        to("/credentials", "http://a:b@127.0.0.1/"),
        to("/nowhere", "http://["),
        to("/loop", "/loop"),
    ];
    let client = service.client("acme");
    let import = done(service, &client, &start(&client, &urls).await).await;
    let found: Vec<_> = items(&client, &import)
        .await
        .iter()
        .map(|item| item["error"]["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        found,
        [
            "blocked-address",
            "blocked-address",
            "blocked-address",
            "bad-url",
            "bad-url",
            "redirects",
            "redirects"
        ]
    );
    // The first request, and five redirects.
    assert_eq!(origin.seen("/loop").len(), 6);
}

async fn headers_stay_with_the_one_that_was_asked(service: &Service) {
    let (origin, elsewhere) = (Origin::start().await, Origin::start().await);
    let away = elsewhere.file("/end", b"x");
    let lines =
        |location: &str| format!("307 Temporary Redirect\nlocation: {location}\ncontent-length: 0");
    let first = origin.answers("/first", vec![vec![head(&lines("/second"))]]);
    origin.answers("/second", vec![vec![head(&lines(&away))]]);
    let client = service.client_with("acme", &[Scope::ImportsWrite, Scope::ImportsRead]);
    let items_sent = json!({"items": [
        {"url": first, "headers": {"Authorization": "Bearer secret", "Cookie": "a=b"}},
        {"url": first, "headers": {"Host": "evil"}},
        {"url": first, "headers": {"X-Forwarded-For": "127.0.0.1"}},
        {"url": first, "headers": {"Metadata-Flavor": "Google"}},
        {"url": first, "headers": {"cookie": "a\r\nb: c"}},
    ]});
    let import = send(client.post("/v1/imports").json(&items_sent))
        .await
        .json(202);
    let import = done(service, &client, &import).await;
    assert_eq!(
        (&import["counts"]["done"], &import["counts"]["failed"]),
        (&json!(1), &json!(4))
    );
    for path in ["/first", "/second"] {
        assert_eq!(
            origin.seen(path)[0].headers["authorization"],
            "Bearer secret"
        );
    }
    let end = &elsewhere.seen("/end")[0].headers;
    assert!(
        !end.contains_key("authorization") && !end.contains_key("cookie"),
        "{end:?}"
    );
    // Nor do they stay where they were kept.
    assert_eq!(
        service
            .count("import_items WHERE headers IS NOT NULL")
            .await,
        0
    );
}

/// As the service is by default.
mod closed {
    use super::*;

    on_every_pair!(private_addresses_are_not_fetched);

    async fn private_addresses_are_not_fetched(service: &Service) {
        let origin = Origin::start().await;
        let port = Url::parse(&origin.file("/secret", b"secret"))
            .unwrap()
            .port()
            .unwrap();
        let client = service.client("acme");
        let hosts = [
            "127.0.0.1",
            "localhost",
            "2130706433",
            "0x7f.1",
            "[::ffff:7f00:1]",
            "0.0.0.0",
            "[::1]",
        ];
        let urls: Vec<String> = hosts
            .iter()
            .map(|host| format!("http://{host}:{port}/secret"))
            .collect();
        let import = done(service, &client, &start(&client, &urls).await).await;
        assert_eq!(import["counts"]["failed"], hosts.len());
        for item in items(&client, &import).await {
            assert_eq!(item["error"]["type"], "blocked-address", "{item}");
            // Who asks learns nothing of what the name means here.
            assert!(
                !item["error"]["detail"].as_str().unwrap().contains("127."),
                "{item}"
            );
        }
        assert_eq!(origin.seen("/secret").len(), 0);
    }
}
