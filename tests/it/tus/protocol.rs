//! What tests/data/tus.tsv names beside the tests of the module above, and that it names what there is.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;

use super::{BYTES, begun, create, head, offset, patch, tus};
use crate::harness::client::{Answer, send};
use crate::harness::connection::Raw;
use crate::harness::content::{MIB, noise};
use crate::harness::service::{Service, on_every_pair};
use crate::harness::{connection, raw};
use box_service::auth::Scope;

on_every_pair!(
    every_answer_says_the_version,
    the_method_may_stand_in_a_header,
    what_the_service_can_do_is_told,
    when_an_upload_expires_is_told,
    bytes_with_a_checksum_come_whole_or_not_at_all,
    metadata_is_pairs_of_a_key_and_a_value,
    the_rules_of_patch_hold_for_first_bytes,
    what_is_not_there_is_not_found,
);

mod impatient {
    use super::*;

    on_every_pair!(with [("BOX_LIMITS__IDLE_TIMEOUT", "1s")]; who_sends_nothing_is_cut_off);
}

/// A test that is named is there, and so is each sentence but those that say why it is not.
#[test]
fn every_sentence_is_held_by_a_test() {
    let tests = [include_str!("../tus.rs"), include_str!("protocol.rs")].concat();
    let mut sentences = 0;
    for line in include_str!("../../data/tus.tsv").lines() {
        if line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split('\t').collect();
        let [_, sentence, held, why] = fields[..] else {
            panic!("{line:?} has not four fields");
        };
        assert!(held.is_empty() != why.is_empty(), "{sentence}");
        for name in held.split_whitespace() {
            assert!(
                tests.contains(&format!("async fn {name}(")),
                "{name} of {sentence:?}"
            );
        }
        sentences += 1;
    }
    assert_eq!(sentences, 104);
}

async fn every_answer_says_the_version(service: &Service) {
    let client = service.client("acme");
    let path = create(&client, 3).await;
    let begin = || tus(client.post("/v1/uploads/tus"));
    let bytes = |offset: usize| patch(&client, &path, offset, b"abc");
    let requests = [
        (201, begin().header("upload-length", 1)),
        (400, begin()),
        (413, begin().header("upload-length", u64::MAX / 4)),
        (
            422,
            begin()
                .header("upload-length", 1)
                .header("upload-metadata", "filename Li4="),
        ),
        (200, tus(client.head(&path))),
        (401, tus(service.stranger().head(&path))),
        (
            403,
            tus(service.client_with("acme", &[Scope::FilesRead]).head(&path)),
        ),
        (404, tus(client.head("/v1/uploads/tus/none"))),
        (404, tus(client.head("/v1/uploads/tus/none/of/these"))),
        (405, tus(client.put(&path))),
        (409, bytes(1)),
        (412, client.head(&path)),
        (415, bytes(0).header("content-encoding", "gzip")),
        (460, bytes(0).header("upload-checksum", "crc32 AAAAAA==")),
        (204, bytes(0)),
        (204, tus(client.delete(&path))),
    ];
    for (status, request) in requests {
        let answer = send(request).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header("tus-resumable"), "1.0.0", "{status}");
    }
}

async fn the_method_may_stand_in_a_header(service: &Service) {
    let client = service.client("acme");
    let path = create(&client, 3).await;
    let said = |actual: Method, method: &str| {
        tus(client.request(actual, &path)).header("x-http-method-override", method)
    };
    for actual in [Method::POST, Method::GET, Method::DELETE] {
        let answer = send(said(actual, "HEAD")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("upload-offset"), "0");
        assert!(answer.body.is_empty());
    }
    let absent = tus(client.post("/v1/uploads/tus/none")).header("x-http-method-override", "HEAD");
    assert_eq!(send(absent).await.status, 404);
    for (actual, at) in [(Method::POST, 0), (Method::DELETE, 1), (Method::PUT, 2)] {
        let request = said(actual, "PATCH")
            .header("content-type", BYTES)
            .header("upload-offset", at)
            .body("x");
        assert_eq!(send(request).await.status, 204);
        assert_eq!(offset(&client, &path).await, (at + 1).to_string());
    }
    for method in ["", "?", "patch", "BREW"] {
        send(said(Method::DELETE, method))
            .await
            .problem(405, "method-not-allowed");
    }
    assert_eq!(offset(&client, &path).await, "3");
    let answer = send(
        client
            .get("/v1/uploads/tus")
            .header("x-http-method-override", "OPTIONS"),
    )
    .await;
    assert_eq!(
        (answer.status, answer.header("tus-version")),
        (204, "1.0.0")
    );
    assert_eq!(send(said(Method::PATCH, "DELETE")).await.status, 204);
    assert_eq!(head(&client, &path).await.status, 404);
    // Elsewhere it means nothing.
    let request = client
        .get("/v1/files")
        .header("x-http-method-override", "DELETE");
    send(request).await.json(200);
}

async fn what_the_service_can_do_is_told(service: &Service) {
    let client = service.client("acme");
    let most = service.app.config.limits.max_file_size.bytes();
    // Whatever version the client says.
    for version in [None, Some("1.0.0"), Some("0.2.2")] {
        let mut request = client.request(Method::OPTIONS, "/v1/uploads/tus");
        if let Some(version) = version {
            request = request.header("tus-resumable", version);
        }
        let answer = send(request).await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("tus-version"), "1.0.0");
        let mut extensions: Vec<&str> = answer.header("tus-extension").split(',').collect();
        extensions.sort_unstable();
        let offered = [
            "checksum",
            "creation",
            "creation-defer-length",
            "creation-with-upload",
            "expiration",
            "termination",
        ];
        assert_eq!(extensions, offered);
        let mut algorithms: Vec<&str> =
            answer.header("tus-checksum-algorithm").split(',').collect();
        algorithms.sort_unstable();
        assert_eq!(algorithms, ["crc32", "md5", "sha1", "sha256"]);
        assert_eq!(answer.header("tus-max-size"), most.to_string());
    }
}

fn expires(answer: &Answer) -> std::time::SystemTime {
    let text = answer.header("upload-expires");
    let time = httpdate::parse_http_date(text).unwrap();
    assert_eq!(httpdate::fmt_http_date(time), text);
    time
}

async fn when_an_upload_expires_is_told(service: &Service) {
    let client = service.client("acme");
    let request = tus(client.post("/v1/uploads/tus")).header("upload-length", 2);
    let answer = send(request).await;
    let first = expires(&answer);
    let path = begun(answer);
    let hour = Duration::from_secs(3_600);
    service.clock.advance(hour);
    assert_eq!(expires(&head(&client, &path).await), first);
    let answer = send(patch(&client, &path, 0, b"a")).await;
    assert_eq!(expires(&answer), first + hour);
    // It holds: a second before, and then.
    let day = Duration::from_secs(86_400);
    service.clock.advance(day - Duration::from_secs(1));
    assert_eq!(head(&client, &path).await.status, 200);
    service.clock.advance(Duration::from_secs(1));
    assert_eq!(head(&client, &path).await.status, 404);
}

async fn bytes_with_a_checksum_come_whole_or_not_at_all(service: &Service) {
    let client = service.client("acme");
    let bytes = noise(2 * MIB);
    let path = create(&client, bytes.len()).await;
    let fields = [
        "tus-resumable: 1.0.0",
        &format!("content-type: {BYTES}"),
        "upload-offset: 0",
        "upload-checksum: sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=",
        &format!("content-length: {}", bytes.len()),
    ];
    let line = format!("PATCH {path}");
    let mut broken = Raw::over(raw::send(service, &line, &fields, &bytes[..MIB]).await);
    broken.finish_sending().await;
    broken.answer().await.problem(400, "bad-request");
    assert_eq!(offset(&client, &path).await, "0");
    let request = patch(&client, &path, 0, b"abc").header("upload-checksum", "sha512 AAAA");
    send(request).await.problem(400, "bad-request");
    assert_eq!(offset(&client, &path).await, "0");
    let request = patch(&client, &path, 0, b"").header("upload-checksum", "crc32 AAAAAQ==");
    send(request).await.problem(460, "checksum-mismatch");
    let request = patch(&client, &path, 0, b"").header("upload-checksum", "crc32 AAAAAA==");
    assert_eq!(send(request).await.status, 204);
    let answer = send(patch(&client, &path, 0, &bytes)).await;
    assert!(client.content(answer.header("box-file-id")).await == bytes);
    service.assert_holds(1).await;
}

async fn metadata_is_pairs_of_a_key_and_a_value(service: &Service) {
    let client = service.client("acme");
    let begin = |said: &str| {
        let request = tus(client.post("/v1/uploads/tus")).header("upload-length", 1);
        send(request.header("upload-metadata", said))
    };
    for said in [
        "a",
        "a ",
        "a YQ==",
        "a YQ==,b",
        "a YQ==, b Yg==",
        "a,b Yg==",
        "A YQ==,a YQ==",
    ] {
        let path = begun(begin(said).await);
        assert_eq!(
            head(&client, &path).await.header("upload-metadata"),
            said.trim()
        );
    }
    for said in [
        ",",
        "a,",
        ",a",
        "a YQ== b",
        "a  YQ==",
        "a Y",
        "a YQ",
        "a Y!==",
        "a YQ==,a Yg==",
    ] {
        begin(said).await.problem(400, "bad-request");
    }
    // What a value means is looked at before it becomes anything of a file's, or of a header field.
    for name in ["a\r\nset-cookie: b", "a\0b", "..", ""] {
        begin(&format!("filename {}", STANDARD.encode(name)))
            .await
            .invalid(&["/name"]);
    }
    let not_utf8 = format!("filename {}", STANDARD.encode(b"\xff"));
    begin(&not_utf8).await.invalid(&["/filename"]);
}

async fn the_rules_of_patch_hold_for_first_bytes(service: &Service) {
    let client = service.client("acme");
    let begin = |content_type: &str, body: &str| {
        tus(client.post("/v1/uploads/tus"))
            .header("upload-length", 3)
            .header("content-type", content_type)
            .body(body.to_owned())
    };
    send(begin("text/plain", "abc"))
        .await
        .problem(415, "unsupported-media-type");
    send(begin(BYTES, "abcd"))
        .await
        .problem(413, "payload-too-large");
    let checked = |sum: &str| begin(BYTES, "abc").header("upload-checksum", format!("crc32 {sum}"));
    send(checked("AAAAAA=="))
        .await
        .problem(460, "checksum-mismatch");
    send(begin(BYTES, "abc").header("upload-checksum", "sha512 AAAA"))
        .await
        .problem(400, "bad-request");
    // Whom nobody was told of is not there.
    let page = send(client.get("/v1/uploads")).await.json(200);
    assert_eq!(page["items"], serde_json::json!([]));
    let answer = send(checked("NSRBwg==")).await;
    assert_eq!((answer.status, answer.header("upload-offset")), (201, "3"));
    assert_eq!(client.content(answer.header("box-file-id")).await, b"abc");
    // As many as came.
    let fields = [
        "tus-resumable: 1.0.0",
        &format!("content-type: {BYTES}"),
        "upload-length: 9",
        "content-length: 9",
    ];
    let line = "POST /v1/uploads/tus";
    let mut broken = Raw::over(raw::send(service, line, &fields, b"abcde").await);
    broken.finish_sending().await;
    let answer = broken.answer().await;
    assert_eq!((answer.status, answer.header("upload-offset")), (201, "5"));
    let path = begun(answer);
    assert_eq!(send(patch(&client, &path, 5, b"fghi")).await.status, 204);
    service.assert_holds(2).await;
}

async fn what_is_not_there_is_not_found(service: &Service) {
    let client = service.client("acme");
    let others = create(&service.client("other"), 3).await;
    let never = "/v1/uploads/tus/01890a5d-ac96-774b-bcce-b302099a8057";
    for path in [others.as_str(), never, "/v1/uploads/tus/none"] {
        let answer = head(&client, path).await;
        assert_eq!(answer.status, 404);
        assert!(!answer.headers.contains_key("upload-offset"));
        send(patch(&client, path, 0, b"abc"))
            .await
            .problem(404, "not-found");
        send(tus(client.delete(path)))
            .await
            .problem(404, "not-found");
    }
}

async fn who_sends_nothing_is_cut_off(service: &Service) {
    let client = service.client("acme");
    let path = create(&client, 6).await;
    let lines = format!(
        "tus-resumable: 1.0.0\r\ncontent-type: {BYTES}\r\nupload-offset: 0\r\ncontent-length: 6\r\n"
    );
    let token = service.token("acme", Scope::ALL);
    let mut silent = Raw::open(service.address()).await;
    silent
        .send(connection::request("PATCH", &path, &token, &lines))
        .await;
    silent.send("abc").await;
    silent.answer().await.problem(408, "request-timeout");
    silent.until_gone().await;
    // What came is kept, and nobody waits for the rest.
    assert_eq!(offset(&client, &path).await, "3");
    assert_eq!(send(patch(&client, &path, 3, b"def")).await.status, 204);
}
