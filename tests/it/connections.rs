//! Clients that stall, break off, send what nobody wants, or stay; and a service that stops on them.

use std::time::{Duration, Instant};

use box_service::auth::Scope;
use box_service::id::ObjectId;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::harness::client::{id, send};
use crate::harness::connection::{Raw, request, until};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    a_body_that_breaks_off_leaves_nothing,
    an_upload_is_whole_or_absent_when_its_client_hangs_up,
    a_refusal_is_read_by_who_still_sends,
    who_waits_to_be_asked_is_asked_unless_refused,
    an_answer_before_the_end_of_a_body_says_that_it_is_the_last,
    a_download_that_fails_midway_ends_as_a_failure,
    a_stop_lets_requests_in_flight_finish,
);

mod short {
    use super::*;

    on_every_pair!(
        with [("BOX_LIMITS__IDLE_TIMEOUT", "300ms"), ("BOX_LIMITS__HEADER_TIMEOUT", "200ms")];
        a_body_that_stalls_is_answered_408_and_leaves_nothing,
        a_head_that_stalls_is_answered_408,
        a_connection_that_sends_nothing_is_closed,
        a_stalled_connection_keeps_no_place,
    );
}

mod patient {
    use super::*;

    on_every_pair!(
        with [("BOX_LIMITS__HEADER_TIMEOUT", "60s")];
        others_are_served_beside_connections_that_hang,
    );
}

mod idle {
    use super::*;

    on_every_pair!(
        with [("BOX_LIMITS__IDLE_TIMEOUT", "1s")];
        a_connection_is_kept_until_the_idle_timeout,
        a_body_that_trickles_is_taken,
    );
}

mod one {
    use super::*;

    on_every_pair!(
        with [("BOX_LIMITS__MAX_CONNECTIONS", "1"), ("BOX_LIMITS__IDLE_TIMEOUT", "500ms")];
        a_client_that_reads_nothing_is_cut_off,
    );
}

mod two {
    use super::*;

    on_every_pair!(
        with [("BOX_LIMITS__MAX_CONNECTIONS", "2")];
        a_connection_beyond_the_limit_waits_for_another_to_close,
    );
}

mod small {
    use super::*;

    on_every_pair!(
        with [
            ("BOX_LIMITS__MAX_FILE_SIZE", "1MiB"),
            ("BOX_LIMITS__DENIED_CONTENT_TYPES", "text/html"),
        ];
        what_is_too_large_is_refused_to_who_still_sends,
    );
}

mod hasty {
    use super::*;

    on_every_pair!(
        with [("BOX_LIMITS__SHUTDOWN_GRACE", "200ms")];
        a_stop_cuts_off_what_stalls_and_leaves_nothing,
    );
}

const LARGE: usize = 32 << 20;

/// The head of an upload of a type that needs no first bytes to be known.
fn upload(service: &Service, lines: &str) -> String {
    let token = service.token("acme", Scope::ALL);
    let lines = format!("content-type: text/plain\r\n{lines}");
    request("POST", "/v1/files", &token, &lines)
}

fn get(service: &Service, path: &str, lines: &str) -> String {
    request("GET", path, &service.token("acme", Scope::ALL), lines)
}

async fn until_intended(service: &Service) {
    until("an upload has begun", || async {
        service.count("objects WHERE state = 'writing'").await > 0
    })
    .await;
}

/// Nothing is being written, and nothing stays of what was.
async fn leaves_nothing(service: &Service) {
    until("what was written is given up", || async {
        // What was committed ahead and nobody took is no upload's.
        service.domain().intents_give_back().await;
        service.count("objects WHERE state = 'writing'").await == 0
    })
    .await;
    assert_eq!(service.count("files").await, 0);
    service.assert_holds(0).await;
}

const FORM: &str =
    "POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n";
const FORM_START: &str = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\ncontent-type: text/plain\r\n\r\nbegun";

fn form(service: &Service, lines: &str) -> String {
    let token = service.token("acme", Scope::ALL);
    format!("{FORM}authorization: Bearer {token}\r\n{lines}\r\n{FORM_START}")
}

async fn a_body_that_stalls_is_answered_408_and_leaves_nothing(service: &Service) {
    for stalled in [
        upload(service, "content-length: 1000\r\n") + "begun",
        upload(service, "content-length: 1000\r\n"),
        upload(service, "transfer-encoding: chunked\r\n") + "5\r\nbegun\r\n",
        upload(service, "transfer-encoding: chunked\r\n") + "5\r\nbe",
        form(service, "content-length: 1000\r\n"),
        form(service, "transfer-encoding: chunked\r\n").replace(FORM_START, "5\r\n--b\r\n\r\n"),
    ] {
        let mut raw = Raw::open(service.address()).await;
        raw.send(&stalled).await;
        let answer = raw.answer().await;
        answer.problem(408, "request-timeout");
        assert_eq!(answer.header("connection"), "close");
        assert_eq!(raw.until_closed().await, b"");
    }
    leaves_nothing(service).await;
}

async fn a_head_that_stalls_is_answered_408(service: &Service) {
    for fragment in [
        "G",
        "GET /health/live HTTP/1.1",
        "GET /health/live HTTP/1.1\r\nhost: x\r\n",
    ] {
        let mut raw = Raw::open(service.address()).await;
        raw.send(fragment).await;
        timed_out(&mut raw).await;
        // The same as the second request of a connection.
        let mut raw = Raw::open(service.address()).await;
        raw.send(get(service, "/v1/me", "")).await;
        raw.answer().await.json(200);
        raw.send(fragment).await;
        timed_out(&mut raw).await;
    }
}

async fn timed_out(raw: &mut Raw) {
    let answer = raw.answer().await;
    let problem = answer.json(408);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(problem["type"], "urn:box-service:problem:request-timeout");
    assert_eq!(problem["status"], 408);
    assert_eq!(answer.header("connection"), "close");
    assert_eq!(raw.until_closed().await, b"");
}

async fn a_connection_that_sends_nothing_is_closed(service: &Service) {
    let mut raw = Raw::open(service.address()).await;
    assert_eq!(raw.until_closed().await, b"", "an answer to no request");
}

async fn a_stalled_connection_keeps_no_place(service: &Service) {
    // Many at once, each with an upload that says nothing more.
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::open(service.address()).await;
        raw.send(upload(service, "content-length: 1000\r\n")).await;
        stalled.push(raw);
    }
    for mut raw in stalled {
        assert_eq!(raw.answer().await.status, 408);
        raw.until_closed().await;
    }
    leaves_nothing(service).await;
}

async fn a_connection_is_kept_until_the_idle_timeout(service: &Service) {
    let mut raw = Raw::open(service.address()).await;
    for path in ["/v1/me", "/v1/files", "/nothing", "/v1/me"] {
        raw.send(get(service, path, "")).await;
        let answer = raw.answer().await;
        assert!(matches!(answer.status, 200 | 404), "{answer:?}");
        assert!(!answer.headers.contains_key("connection"), "{answer:?}");
    }
    let began = Instant::now();
    raw.send(get(service, "/v1/me", "")).await;
    raw.answer().await.json(200);
    assert_eq!(raw.until_closed().await, b"");
    let kept = began.elapsed();
    assert!(kept >= Duration::from_secs(1), "closed after {kept:?}");
}

async fn a_body_that_trickles_is_taken(service: &Service) {
    let mut raw = Raw::open(service.address()).await;
    raw.send(upload(service, "content-length: 8\r\n")).await;
    // Longer than the time-out in all, and never as long without a byte.
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        raw.send("x").await;
    }
    let file = raw.answer().await.json(201);
    assert_eq!(file["size"], 8);
    assert_eq!(service.client("acme").content(id(&file)).await, b"xxxxxxxx");
    service.assert_holds(1).await;
}

async fn a_client_that_reads_nothing_is_cut_off(service: &Service) {
    if service.local_store().is_none() {
        return;
    }
    let file = service.client("acme").upload("large", vec![7; LARGE]).await;
    let mut deaf = Raw::open(service.address()).await;
    let path = format!("/v1/files/{}/content", id(&file));
    deaf.send(get(service, &path, "")).await;
    assert_eq!(deaf.head().await.0, 200);
    // There is one place, and the client that reads nothing has it.
    let mut next = Raw::open(service.address()).await;
    next.send(get(service, "/health/live", "")).await;
    assert!(next.is_silent());
    next.answer().await.json(200);
    let received = deaf.until_gone().await.len();
    assert!(received < LARGE, "all of it came");
}

async fn a_connection_beyond_the_limit_waits_for_another_to_close(service: &Service) {
    let live = get(service, "/health/live", "");
    let mut first = Raw::open(service.address()).await;
    let mut second = Raw::open(service.address()).await;
    for raw in [&mut first, &mut second] {
        raw.send(&live).await;
        raw.answer().await.json(200);
    }
    let mut third = Raw::open(service.address()).await;
    third.send(&live).await;
    for _ in 0..20 {
        second.send(&live).await;
        second.answer().await.json(200);
        assert!(third.is_silent(), "a third was served beside two");
    }
    drop(first);
    third.answer().await.json(200);
    // Those that are served are not disturbed.
    second.send(&live).await;
    second.answer().await.json(200);
}

async fn a_body_that_breaks_off_leaves_nothing(service: &Service) {
    for begun in [
        upload(service, "content-length: 1000\r\n") + "begun",
        upload(service, "transfer-encoding: chunked\r\n") + "5\r\nbegun\r\n",
        upload(service, "transfer-encoding: chunked\r\n") + "5\r\nbe",
        form(service, "content-length: 1000\r\n"),
    ] {
        let mut raw = Raw::open(service.address()).await;
        raw.send(&begun).await;
        until_intended(service).await;
        drop(raw);
        leaves_nothing(service).await;

        // One who only sends no more may still read what is wrong.
        let mut raw = Raw::open(service.address()).await;
        raw.send(&begun).await;
        until_intended(service).await;
        raw.finish_sending().await;
        let said = String::from_utf8(raw.until_gone().await).unwrap();
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 400 "),
            "{said}"
        );
        leaves_nothing(service).await;
    }
    for garbage in ["zz\r\n", "5\r\nbegunXX", "-1\r\n", "fffffffffffffffff\r\n"] {
        let mut raw = Raw::open(service.address()).await;
        let begun = upload(service, "transfer-encoding: chunked\r\n") + "5\r\nbegun\r\n";
        raw.send(&begun).await;
        until_intended(service).await;
        raw.send(garbage).await;
        let answer = raw.answer().await;
        answer.problem(400, "bad-request");
        raw.until_gone().await;
        leaves_nothing(service).await;
    }
}

async fn an_upload_is_whole_or_absent_when_its_client_hangs_up(service: &Service) {
    for length in [1, 1_000, 100_000, 3_000_000] {
        for _ in 0..3 {
            let mut raw = Raw::open(service.address()).await;
            let head = upload(service, &format!("content-length: {length}\r\n"));
            raw.send(head).await;
            raw.send(vec![b'w'; length]).await;
            drop(raw);
        }
    }
    // Which ends when all that was begun has ended.
    service.stop().await;
    let after = service.another().await;
    assert_eq!(after.count("objects WHERE state = 'writing'").await, 0);
    let client = after.client("acme");
    let page = send(client.get("/v1/files")).await.json(200);
    let files = page["items"].as_array().unwrap();
    for file in files {
        let content = client.content(id(file)).await;
        assert!(content.iter().all(|byte| *byte == b'w'));
        assert_eq!(content.len() as u64, file["size"].as_u64().unwrap());
    }
    after.assert_holds(files.len() as u64).await;
    after.stop().await;
}

async fn a_refusal_is_read_by_who_still_sends(service: &Service) {
    let stranger = format!("POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: {LARGE}\r\n\r\n");
    let reader = service.token("acme", &[Scope::FilesRead]);
    let length = format!("content-length: {LARGE}\r\n");
    let packed = format!("{length}content-encoding: gzip\r\n");
    for (head, status, name) in [
        (stranger, 401, "unauthenticated"),
        (
            request("POST", "/v1/files", &reader, &length),
            403,
            "forbidden",
        ),
        (upload(service, &packed), 415, "unsupported-media-type"),
        (
            upload(
                service,
                "transfer-encoding: chunked\r\ncontent-encoding: gzip\r\n",
            ),
            415,
            "unsupported-media-type",
        ),
        (
            upload(service, &length).replace("/v1/files", "/v1/files?odd=1"),
            422,
            "invalid-request",
        ),
        (
            upload(service, &length).replace("/v1/files", "/nothing"),
            404,
            "not-found",
        ),
        (
            upload(service, &length).replace("POST", "PUT"),
            405,
            "method-not-allowed",
        ),
    ] {
        let mut raw = Raw::open(service.address()).await;
        let chunked = head.contains("chunked");
        raw.send(&head).await;
        // As a simple client does: all of it first, and only then a look at the answer.
        let chunk = vec![b'x'; 64 << 10];
        for _ in 0..(4 << 20) / chunk.len() {
            if chunked {
                raw.send("10000\r\n").await;
            }
            raw.send(&chunk).await;
            if chunked {
                raw.send("\r\n").await;
            }
        }
        raw.answer().await.problem(status, name);
    }
    // And with a client of the usual kind, which sends all of it.
    let answer = send(service.stranger().post("/v1/files").body(vec![0; LARGE])).await;
    answer.problem(401, "unauthenticated");
    service.assert_holds(0).await;
}

async fn what_is_too_large_is_refused_to_who_still_sends(service: &Service) {
    let client = service.client("acme");
    let declared = client.post("/v1/files").body(vec![0; 4 << 20]);
    send(declared).await.problem(413, "payload-too-large");
    let html = client.post("/v1/files").header("content-type", "text/html");
    send(html.body(vec![0; 1 << 20]))
        .await
        .problem(415, "unsupported-media-type");

    // Without a declared length it is known only on the way.
    let mut raw = Raw::open(service.address()).await;
    raw.send(upload(service, "transfer-encoding: chunked\r\n"))
        .await;
    let chunk = vec![b'x'; 64 << 10];
    for _ in 0..64 {
        raw.send("10000\r\n").await;
        raw.send(&chunk).await;
        raw.send("\r\n").await;
    }
    raw.answer().await.problem(413, "payload-too-large");
    leaves_nothing(service).await;

    let mut raw = Raw::open(service.address()).await;
    let head = upload(
        service,
        "content-length: 4000000\r\nexpect: 100-continue\r\n",
    );
    raw.send(head).await;
    raw.answer().await.problem(413, "payload-too-large");
    let full = client.upload("full", vec![1; 1 << 20]).await;
    assert_eq!(full["size"], 1 << 20);
}

async fn who_waits_to_be_asked_is_asked_unless_refused(service: &Service) {
    let expect = "content-length: 5\r\nexpect: 100-continue\r\n";
    let reader = service.token("acme", &[Scope::FilesRead]);
    let unpacked = format!("{expect}content-encoding: gzip\r\n");
    for (head, status) in [
        (
            format!("POST /v1/files HTTP/1.1\r\nhost: x\r\n{expect}\r\n"),
            401,
        ),
        (request("POST", "/v1/files", &reader, expect), 403),
        (upload(service, &unpacked), 415),
        (
            upload(service, expect).replace("/v1/files", "/v1/files?odd=1"),
            422,
        ),
        (
            upload(service, expect).replace("/v1/files", "/v1/files?name="),
            422,
        ),
    ] {
        let mut raw = Raw::open(service.address()).await;
        raw.send(&head).await;
        assert_eq!(raw.answer().await.status, status, "{head}");
    }
    let mut raw = Raw::open(service.address()).await;
    raw.send(upload(service, expect)).await;
    assert_eq!(raw.head().await.0, 100);
    raw.send("asked").await;
    let file = raw.answer().await.json(201);
    assert_eq!(service.client("acme").content(id(&file)).await, b"asked");
    service.assert_holds(1).await;
}

/// `benches/floods.py` has the figures.
async fn others_are_served_beside_connections_that_hang(service: &Service) {
    let mut hanging = Vec::new();
    for _ in 0..100 {
        for begun in [
            String::new(),
            "POST /v1/files HTTP/1.1\r\nhost:".to_owned(),
            upload(service, "content-length: 1000000\r\n") + "begun",
        ] {
            let mut raw = Raw::open(service.address()).await;
            raw.send(begun).await;
            hanging.push(raw);
        }
    }
    // Some more are intended ahead.
    until("all uploads have begun", || async {
        service.count("objects WHERE state = 'writing'").await >= 100
    })
    .await;
    let client = service.client("acme");
    for round in 0..10 {
        let file = client.upload(&format!("f{round}"), "content").await;
        assert_eq!(client.content(id(&file)).await, b"content");
        for raw in hanging.iter_mut().skip(2).step_by(3) {
            raw.send("x").await;
        }
    }
    send(client.get("/v1/files")).await.json(200);
    assert!(hanging.iter_mut().all(Raw::is_silent));
    drop(hanging);
    until("what was begun is given up", || async {
        service.domain().reap().await.unwrap();
        service.count("objects WHERE state = 'writing'").await < 100
    })
    .await;
    service.assert_holds(10).await;
}

/// Where the local store has a file's bytes.
/// RFC 9112, 9.6: else the client would try the connection once more, and find it closed.
async fn an_answer_before_the_end_of_a_body_says_that_it_is_the_last(service: &Service) {
    let token = service.token("acme", Scope::ALL);
    let mut raw = Raw::open(service.address()).await;
    // What was read to its end, or had no body, is followed by more.
    for (method, path, lines, body, status) in [
        ("GET", "/v1/files/nothing", "", "", 404),
        (
            "POST",
            "/v1/files/batch-delete",
            "content-type: application/json\r\ncontent-length: 2\r\n",
            "[]",
            422,
        ),
        (
            "POST",
            "/v1/files?name=a%2F%2Fb",
            "content-length: 0\r\n",
            "",
            422,
        ),
    ] {
        raw.send(request(method, path, &token, lines) + body).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(answer.headers.get("connection"), None, "{path}");
    }
    raw.send(
        request(
            "POST",
            "/v1/files?name=a%2F%2Fb",
            &token,
            "content-length: 9\r\n",
        ) + "some",
    )
    .await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert_eq!(answer.header("connection"), "close");
    raw.until_closed().await;
}

async fn bytes_of(service: &Service, file: &Value) -> Option<std::path::PathBuf> {
    let store = service.local_store()?;
    let path = format!("/v1/files/{}/content", id(file));
    let answer = send(service.client("acme").head(&path)).await;
    let object: ObjectId = answer.header("etag").trim_matches('"').parse().unwrap();
    let root = service.domain().objects.root();
    let key = root.object(&"acme".parse().unwrap(), object);
    Some(store.join(key.path()))
}

async fn a_download_that_fails_midway_ends_as_a_failure(service: &Service) {
    let client = service.client("acme");
    let content = vec![7; LARGE];
    let file = client.upload("large", content.clone()).await;
    let Some(bytes) = bytes_of(service, &file).await else {
        return;
    };
    let path = format!("/v1/files/{}/content", id(&file));
    let mut response = client.get(&path).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.chunk().await.unwrap().unwrap();
    let open = std::fs::OpenOptions::new()
        .write(true)
        .open(&bytes)
        .unwrap();
    open.set_len(100_000).unwrap();
    let failed = loop {
        match response.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(failed, "a file that was cut short looked whole");
    // Before the first byte there is an answer that says so.
    let answer = send(client.get(&path).header("range", "bytes=1000000-1000009")).await;
    answer.problem(503, "unavailable");
    std::fs::write(&bytes, &content).unwrap();
    assert_eq!(client.content(id(&file)).await.len(), LARGE);
}

async fn a_stop_lets_requests_in_flight_finish(service: &Service) {
    let client = service.client("acme");
    let large = client.upload("large", vec![7; LARGE]).await;
    let mut uploading = Raw::open(service.address()).await;
    uploading
        .send(upload(service, "content-length: 10\r\n") + "first")
        .await;
    until_intended(service).await;
    let mut downloading = Raw::open(service.address()).await;
    let path = format!("/v1/files/{}/content", id(&large));
    downloading.send(get(service, &path, "")).await;
    assert_eq!(downloading.head().await.0, 200);
    let mut idle = Raw::open(service.address()).await;
    idle.send(get(service, "/health/ready", "")).await;
    idle.answer().await.json(200);
    // The head of a request that comes after the stop, on a connection from before it.
    let mut late = Raw::open(service.address()).await;
    let ready = get(service, "/health/ready", "");
    late.send(&ready[..20]).await;

    service.ask_to_stop();
    until("new connections are refused", || async {
        TcpStream::connect(service.address()).await.is_err()
    })
    .await;
    assert_eq!(idle.until_gone().await, b"", "an idle connection is closed");
    // Who looks whether to send more hears no.
    if late.sends(&ready[20..]).await {
        let said = String::from_utf8(late.until_gone().await).unwrap();
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 503 "),
            "{said}"
        );
    }
    assert_eq!(downloading.take(LARGE).await, vec![7; LARGE]);
    uploading.send("-last").await;
    let answer = uploading.answer().await;
    let file = answer.json(201);
    assert_eq!(answer.header("connection"), "close");
    assert_eq!(uploading.until_closed().await, b"");

    service.stop().await;
    let after = service.another().await;
    assert_eq!(after.client("acme").content(id(&file)).await, b"first-last");
    after.assert_holds(2).await;
    after.stop().await;
}

async fn a_stop_cuts_off_what_stalls_and_leaves_nothing(service: &Service) {
    let mut stalled = Vec::new();
    // With a key, each has an intent of its own, and no more.
    for begun in [
        upload(service, "content-length: 10\r\nidempotency-key: a\r\n") + "first",
        upload(
            service,
            "transfer-encoding: chunked\r\nidempotency-key: b\r\n",
        ) + "5\r\nfirst\r\n",
        form(service, "content-length: 1000\r\nidempotency-key: c\r\n"),
    ] {
        let mut raw = Raw::open(service.address()).await;
        raw.send(begun).await;
        stalled.push(raw);
    }
    until("all have begun", || async {
        service.count("objects WHERE state = 'writing'").await == 3
    })
    .await;
    service.stop().await;
    for mut raw in stalled {
        let said = String::from_utf8(raw.until_gone().await).unwrap();
        assert!(!said.contains(" 201 "), "{said}");
    }
    let after = service.another().await;
    assert_eq!(after.count("files").await, 0);
    after.assert_holds(0).await;
    after.stop().await;
}
