//! Who asks too often, uploads too much at once, sends too slowly or connects too many times; and whose
//! word on a client's address is taken.

use std::time::Duration;

use box_service::auth::Scope;
use reqwest::RequestBuilder;

use crate::harness::client::{Answer, id, send};
use crate::harness::connection::{Raw, request, until};
use crate::harness::service::{Service, on_every_pair};

mod principal {
    use super::*;

    on_every_pair!(
        with [("BOX_RATE__PRINCIPAL_READS", "2/1m"), ("BOX_RATE__PRINCIPAL_WRITES", "1/1h")];
        a_principal_may_ask_so_often_and_is_told_what_is_left,
        a_class_and_a_principal_have_their_own,
    );
}

mod address {
    use super::*;

    on_every_pair!(
        with [
            ("BOX_RATE__ADDRESS_READS", "3/1m"),
            ("BOX_TRUSTED_PROXIES", "127.0.0.0/8"),
        ];
        an_address_is_what_trusted_proxies_say,
        who_guesses_tokens_is_slowed_down,
    );
}

mod stranger {
    use super::*;

    on_every_pair!(
        with [("BOX_RATE__ADDRESS_READS", "3/1m")];
        what_strangers_say_of_their_address_is_nothing,
    );
}

mod rfc7239 {
    use super::*;

    on_every_pair!(
        with [("BOX_TRUSTED_PROXIES", "127.0.0.0/8"), ("BOX_FORWARDED_BY", "forwarded")];
        forwarded_is_read_where_proxies_write_it,
    );
}

mod off {
    use super::*;

    on_every_pair!(without_limits_nothing_is_told,);
}

mod uploads {
    use super::*;

    on_every_pair!(
        with [("BOX_LIMITS__UPLOADS_PER_TENANT", "1")];
        a_tenant_has_so_many_uploads_at_a_time,
    );
}

mod slow {
    use super::*;

    on_every_pair!(
        with [
            ("BOX_LIMITS__MIN_BODY_RATE", "1MiB"),
            ("BOX_LIMITS__MIN_BODY_GRACE", "2s"),
        ];
        a_body_that_is_too_slow_is_answered_408,
    );
}

mod connections {
    use super::*;

    on_every_pair!(
        with [("BOX_LIMITS__MAX_CONNECTIONS_PER_ADDRESS", "2")];
        an_address_has_so_many_connections,
    );
}

mod proxied {
    use super::*;

    on_every_pair!(
        with [
            ("BOX_LIMITS__MAX_CONNECTIONS_PER_ADDRESS", "1"),
            ("BOX_TRUSTED_PROXIES", "127.0.0.1/32"),
        ];
        a_trusted_proxy_has_as_many_connections_as_it_likes,
    );
}

const ME: &str = "/v1/me";

fn told(answer: &Answer) -> [&str; 2] {
    [
        answer.header("ratelimit-policy"),
        answer.header("ratelimit"),
    ]
}

async fn a_principal_may_ask_so_often_and_is_told_what_is_left(service: &Service) {
    let client = service.client("acme");
    let policy = "\"principal-reads\";q=2;w=60";
    for left in [
        "\"principal-reads\";r=1;t=30",
        "\"principal-reads\";r=0;t=60",
    ] {
        let answer = send(client.get(ME)).await;
        answer.json(200);
        assert_eq!(told(&answer), [policy, left]);
    }
    let refused = send(client.get(ME)).await;
    refused.problem(429, "rate-limited");
    assert_eq!(told(&refused), [policy, "\"principal-reads\";r=0;t=30"]);
    assert_eq!(refused.header("retry-after"), "30");
    let counted = &service.app.domain.metrics.refusals;
    assert_eq!((counted.principal.get(), counted.address.get()), (1, 0));
    // Errors of other kinds have it too, and count.
    service.clock.advance(Duration::from_secs(30));
    let absent = send(client.get("/v1/files/none")).await;
    absent.problem(404, "not-found");
    assert_eq!(told(&absent), [policy, "\"principal-reads\";r=0;t=60"]);
    send(client.get(ME)).await.problem(429, "rate-limited");
    service.clock.advance(Duration::from_secs(3_600));
    send(client.get(ME)).await.json(200);
}

async fn a_class_and_a_principal_have_their_own(service: &Service) {
    let client = service.client("acme");
    for status in [200, 200, 429] {
        assert_eq!(send(client.get(ME)).await.status, status);
    }
    client.upload("a", "x").await;
    let refused = send(client.post("/v1/files?name=b").body("x")).await;
    refused.problem(429, "rate-limited");
    assert_eq!(refused.header("retry-after"), "3600");
    // The same subject of another tenant.
    send(service.client("globex").get(ME)).await.json(200);
    let year = Duration::from_secs(365 * 86_400);
    let tenant = "acme".parse().unwrap();
    let tokens = &service.app.tokens;
    let other = tokens.issue(&tenant, "other", Scope::ALL, year).unwrap();
    let stranger = service.stranger();
    send(stranger.get(ME).bearer_auth(other)).await.json(200);
    // Who keeps the service running is never limited.
    for _ in 0..5 {
        let live = send(client.get("/health/live")).await;
        live.json(200);
        assert!(!live.headers.contains_key("ratelimit"));
    }
    service.assert_holds(1).await;
}

fn said(request: RequestBuilder, addresses: &str) -> RequestBuilder {
    request.header("x-forwarded-for", addresses)
}

async fn an_address_is_what_trusted_proxies_say(service: &Service) {
    let client = service.client("acme");
    // Whatever the client made up to the left of what its proxy saw.
    for (made_up, status) in [
        ("", 200),
        ("1.1.1.1, ", 200),
        ("::1, ", 200),
        ("127.0.0.1, ", 429),
    ] {
        let addresses = format!("{made_up}203.0.113.7, 127.0.0.9");
        let answer = send(said(client.get(ME), &addresses)).await;
        assert_eq!(answer.status, status, "{addresses}");
        assert_eq!(
            answer.header("ratelimit-policy"),
            "\"address-reads\";q=3;w=60"
        );
    }
    // A /64 is one client.
    for (address, status) in [
        ("2001:db8::1", 200),
        ("2001:db8::2", 200),
        ("[2001:db8::3]:80", 200),
        ("2001:db8::4", 429),
        ("2001:db8:0:1::1", 200),
    ] {
        let answer = send(said(client.get(ME), address)).await;
        assert_eq!(answer.status, status, "{address}");
    }
    let upload = client.post("/v1/files?name=a").body("x");
    send(said(upload, "198.51.100.1, 203.0.113.7"))
        .await
        .json(201);
    assert_eq!(
        service
            .count("events WHERE remote_ip = '203.0.113.7'")
            .await,
        1
    );
    assert_eq!(service.count("events").await, 1);
}

async fn who_guesses_tokens_is_slowed_down(service: &Service) {
    let guesser = service.stranger();
    for status in [401, 401, 401, 429] {
        let answer = send(said(guesser.get(ME).bearer_auth("guess"), "203.0.113.7")).await;
        assert_eq!(answer.status, status);
    }
    // Also with what would be right.
    let client = service.client("acme");
    let refused = send(said(client.get(ME), "203.0.113.7")).await;
    refused.problem(429, "rate-limited");
    // Signed URLs have no principal, but an address.
    let refused = send(said(guesser.get("/s/guess"), "203.0.113.7")).await;
    refused.problem(429, "rate-limited");
    send(said(client.get(ME), "203.0.113.8")).await.json(200);
    assert_eq!(service.app.domain.metrics.refusals.address.get(), 3);
}

async fn what_strangers_say_of_their_address_is_nothing(service: &Service) {
    let client = service.client("acme");
    for (number, status) in [200, 200, 200, 429].into_iter().enumerate() {
        let address = format!("203.0.113.{number}");
        let request = said(client.get(ME), &address).header("forwarded", format!("for={address}"));
        assert_eq!(send(request).await.status, status);
    }
    let upload = client.post("/v1/files?name=a").body("x");
    send(said(upload, "203.0.113.7")).await.json(201);
    assert_eq!(
        service.count("events WHERE remote_ip = '127.0.0.1'").await,
        1
    );
}

async fn forwarded_is_read_where_proxies_write_it(service: &Service) {
    let client = service.client("acme");
    let upload = client.post("/v1/files?name=a").body("x");
    let upload =
        said(upload, "6.6.6.6").header("forwarded", "for=6.6.6.6, for=\"[2001:db8::7]:80\"");
    send(upload).await.json(201);
    assert_eq!(
        service
            .count("events WHERE remote_ip = '2001:db8::7'")
            .await,
        1
    );
    assert_eq!(service.count("events").await, 1);
}

async fn without_limits_nothing_is_told(service: &Service) {
    let answer = send(service.client("acme").get(ME)).await;
    answer.json(200);
    assert!(!answer.headers.contains_key("ratelimit"));
    assert!(!answer.headers.contains_key("ratelimit-policy"));
}

/// The head of an upload, and some of its ten bytes.
fn begun(service: &Service, tenant: &str) -> String {
    let token = service.token(tenant, Scope::ALL);
    let lines = "content-type: text/plain\r\ncontent-length: 10\r\n";
    request("POST", "/v1/files", &token, lines) + "begun"
}

async fn a_tenant_has_so_many_uploads_at_a_time(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "x").await;
    let content = format!("/v1/files/{}/content", id(&file));
    let signed = format!("/v1/files/{}/signed-urls", id(&file));
    let signed = client
        .post(&signed)
        .json(&serde_json::json!({"method": "PUT", "expires_in_s": 60}));
    let signed = send(signed).await.json(200);
    let path = signed["url"].as_str().unwrap().split("/s/").nth(1).unwrap();
    let path = format!("/s/{path}");

    let mut first = Raw::open(service.address()).await;
    first.send(begun(service, "acme")).await;
    let writing = || async {
        service
            .count("objects WHERE state = 'writing' AND tenant = 'acme'")
            .await
            > 0
    };
    until("an upload has begun", writing).await;
    for request in [
        client.post("/v1/files?name=b").body("x"),
        client.put(&content).body("y"),
        service.stranger().put(&path).body("z"),
    ] {
        let refused = send(request).await;
        refused.problem(429, "rate-limited");
        assert_eq!(refused.header("retry-after"), "5");
    }
    assert_eq!(service.app.domain.metrics.refusals.uploads.get(), 3);
    // Others, and what is no upload, go on.
    service.client("globex").upload("c", "x").await;
    send(client.get(ME)).await.json(200);

    first.send("ended").await;
    first.answer().await.json(201);
    let freed = || async { send(client.put(&content).body("y")).await.status == 200 };
    until("the place is given back", freed).await;

    // A client that goes away gives its place back, too.
    let mut gone = Raw::open(service.address()).await;
    gone.send(begun(service, "acme")).await;
    // Looked at from outside: a request that tried would itself have the place now and then, and the upload
    // would be the one that is refused.
    until("it has begun", writing).await;
    drop(gone);
    until("the place is given back", freed).await;
}

async fn a_body_that_is_too_slow_is_answered_408(service: &Service) {
    let mut raw = Raw::open(service.address()).await;
    raw.send(begun(service, "acme")).await;
    let problem = raw.answer().await.problem(408, "request-timeout");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("The body came slower than 1048576 bytes a second"),
        "{detail}"
    );
    service.client("acme").upload("a", vec![7; 100_000]).await;
    until("what was written is given up", || async {
        service.domain().intents_give_back().await;
        service.count("objects WHERE state = 'writing'").await == 0
    })
    .await;
    service.assert_holds(1).await;
}

const LIVE: &str = "GET /health/live HTTP/1.1\r\nhost: box.test\r\n\r\n";

async fn served(service: &Service) -> Raw {
    let mut raw = Raw::open(service.address()).await;
    raw.send(LIVE).await;
    raw.answer().await.json(200);
    raw
}

async fn an_address_has_so_many_connections(service: &Service) {
    let first = served(service).await;
    let mut second = served(service).await;
    for refused in 1..4 {
        let mut third = Raw::open(service.address()).await;
        third.sends(LIVE).await;
        assert_eq!(third.until_gone().await, b"");
        assert_eq!(
            service.app.domain.metrics.refusals.connections.get(),
            refused
        );
    }
    // Those that are served are not disturbed.
    second.send(LIVE).await;
    second.answer().await.json(200);
    drop(first);
    until("the place is given back", || async {
        let mut third = Raw::open(service.address()).await;
        third.sends(LIVE).await && third.is_answered().await
    })
    .await;
}

async fn a_trusted_proxy_has_as_many_connections_as_it_likes(service: &Service) {
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(served(service).await);
    }
    assert_eq!(service.app.domain.metrics.refusals.connections.get(), 0);
}
