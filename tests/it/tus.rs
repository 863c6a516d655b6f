//! tus 1.0.0. tests/data/tus.tsv has each sentence of the protocol, and the tests that hold it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::RequestBuilder;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::client::{Answer, Client, send};
use crate::harness::content::{MIB, noise};
use crate::harness::raw;
use crate::harness::service::{Pair, Service, on_every_pair};

mod clients;
mod keys;
mod kill;
mod last_part;
mod protocol;
mod sizes;
mod waiting;

on_every_pair!(
    bytes_come_in_pieces_and_become_a_file,
    a_request_that_does_not_speak_tus_is_refused,
    what_is_malformed_changes_nothing,
    a_length_may_come_later,
    an_upload_may_begin_with_bytes,
    a_checksum_holds_or_the_bytes_are_not_kept,
    a_declared_sha256_decides_at_the_end,
    what_came_before_a_connection_broke_is_kept,
    a_silent_writer_gives_way,
    an_upload_ends_when_it_is_told_to_and_when_its_time_has_come,
    replicas_take_turns,
    single_bytes_do_not_pile_up,
    a_quota_is_reserved_and_given_back,
    uploads_in_progress_are_listed,
);

const BYTES: &str = "application/offset+octet-stream";

fn tus(request: RequestBuilder) -> RequestBuilder {
    request.header("tus-resumable", "1.0.0")
}

async fn create(client: &Client, length: usize) -> String {
    let request = tus(client.post("/v1/uploads/tus")).header("upload-length", length);
    begun(send(request).await)
}

/// The path of an upload that was answered.
fn begun(answer: Answer) -> String {
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.header("tus-resumable"), "1.0.0");
    answer.header("location").to_owned()
}

fn patch(client: &Client, path: &str, offset: usize, bytes: &[u8]) -> RequestBuilder {
    tus(client.patch(path))
        .header("content-type", BYTES)
        .header("upload-offset", offset)
        .body(bytes.to_vec())
}

async fn head(client: &Client, path: &str) -> Answer {
    send(tus(client.head(path))).await
}

async fn offset(client: &Client, path: &str) -> String {
    let answer = head(client, path).await;
    assert_eq!(answer.status, 200);
    answer.header("upload-offset").to_owned()
}

/// "The Server MUST always include the Upload-Offset header in the response for a HEAD request"; "If the
/// size of the upload is known, the Server MUST include the Upload-Length header in the response"; "The
/// Server MUST prevent the client and/or proxies from caching the response by adding the Cache-Control:
/// no-store header"; "The Server MUST acknowledge successful PATCH requests with the 204 No Content status.
/// It MUST include the Upload-Offset header containing the new offset"; "If an upload contains additional
/// metadata, responses to HEAD requests MUST include the Upload-Metadata header and its value as specified
/// by the Client during the creation"; "The Upload-Expires response header indicates the time after which
/// the unfinished upload expires."
async fn bytes_come_in_pieces_and_become_a_file(service: &Service) {
    let client = service.client("acme");
    let bytes = noise(3 * MIB + 17);
    let said =
        "filename YS9iLnR4dA==,filetype dGV4dC9wbGFpbg==,metadata eyJrIjoxfQ==,own,other eA==";
    let request = tus(client.post("/v1/uploads/tus"))
        .header("upload-length", bytes.len())
        .header("upload-metadata", said);
    let path = begun(send(request).await);
    let mut at = 0;
    for end in [1, MIB, MIB + 5, 3 * MIB, bytes.len()] {
        let answer = head(&client, &path).await;
        assert_eq!(answer.header("upload-offset"), at.to_string());
        assert_eq!(answer.header("upload-length"), bytes.len().to_string());
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("upload-metadata"), said);
        assert!(!answer.headers.contains_key("box-file-id"));
        let answer = send(patch(&client, &path, at, &bytes[at..end])).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_eq!(answer.header("upload-offset"), end.to_string());
        assert_eq!(
            answer.header("upload-expires"),
            "Sun, 01 Feb 2026 12:00:00 GMT"
        );
        at = end;
    }
    let answer = head(&client, &path).await;
    assert_eq!(answer.header("upload-offset"), bytes.len().to_string());
    let id = answer.header("box-file-id").to_owned();
    assert!(client.content(&id).await == bytes);
    let file = send(client.get(&format!("/v1/files/{id}"))).await.json(200);
    assert_eq!(file["name"], "a/b.txt");
    assert_eq!(file["content_type"], "text/plain");
    assert_eq!(file["metadata"], json!({"k": 1}));
    assert_eq!(file["sha256"], hex::encode(Sha256::digest(&bytes)));
    let usage = send(client.get("/v1/usage")).await.json(200);
    assert_eq!(
        (&usage["files"], &usage["bytes"]),
        (&json!(1), &json!(bytes.len()))
    );
    // Nothing can be added to it, and asking again for its end changes nothing.
    let answer = send(patch(&client, &path, at, b"")).await;
    assert_eq!(answer.header("box-file-id"), id);
    assert_eq!(send(patch(&client, &path, at, b"x")).await.status, 413);
    assert!(client.content(&id).await == bytes);
    service.assert_holds(1).await;
}

/// "The Tus-Resumable header MUST be included in every request and response except for OPTIONS requests";
/// "If the version specified by the Client is not supported by the Server, it MUST respond with the 412
/// Precondition Failed status and MUST include the Tus-Version header into the response. In addition, the
/// Server MUST NOT process the request".
async fn a_request_that_does_not_speak_tus_is_refused(service: &Service) {
    let client = service.client("acme");
    let path = create(&client, 3).await;
    let dumb = [
        client.post("/v1/uploads/tus").header("upload-length", 3),
        client.head(&path),
        client
            .patch(&path)
            .header("content-type", BYTES)
            .header("upload-offset", 0)
            .body("abc"),
        client.delete(&path),
    ];
    for request in dumb {
        for version in [None, Some("0.2.2")] {
            let request = request.try_clone().unwrap();
            let answer = send(match version {
                None => request,
                Some(version) => request.header("tus-resumable", version),
            })
            .await;
            assert_eq!(answer.status, 412);
            assert_eq!(answer.header("tus-version"), "1.0.0");
            assert_eq!(answer.header("tus-resumable"), "1.0.0");
        }
    }
    assert_eq!(offset(&client, &path).await, "0");
}

/// "All PATCH requests MUST use Content-Type: application/offset+octet-stream, otherwise the server SHOULD
/// return a 415"; "If the offsets do not match, the Server MUST respond with the 409 Conflict status without
/// modifying the upload resource"; "The Upload-Length … value MUST be a non-negative integer"; "The request
/// MUST include … Upload-Length [or] Upload-Defer-Length"; "If the length of the upload exceeds the maximum
/// … the Server MUST respond with the 413"; "All keys MUST be unique".
async fn what_is_malformed_changes_nothing(service: &Service) {
    let client = service.client("acme");
    let path = create(&client, 3).await;
    let wrong = tus(client.patch(&path))
        .header("content-type", "text/plain")
        .header("upload-offset", 0)
        .body("abc");
    send(wrong).await.problem(415, "unsupported-media-type");
    let answer = send(patch(&client, &path, 1, b"bc")).await;
    answer.problem(409, "conflict");
    let answer = send(patch(&client, &path, 0, b"abcd")).await;
    answer.problem(413, "payload-too-large");
    for text in ["", "-1", "+1", "1.5", "x", "99999999999999999999"] {
        let request = tus(client.patch(&path))
            .header("content-type", BYTES)
            .header("upload-offset", text);
        send(request).await.problem(400, "bad-request");
    }
    let nowhere = tus(client.patch(&path))
        .header("content-type", BYTES)
        .body("abc");
    send(nowhere).await.problem(400, "bad-request");
    assert_eq!(offset(&client, &path).await, "0");
    let begin = |fields: &[(&str, &str)]| {
        let mut request = tus(client.post("/v1/uploads/tus"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        send(request)
    };
    for fields in [
        &[][..],
        &[("upload-length", "-1")],
        &[("upload-length", "1"), ("upload-defer-length", "1")],
        &[("upload-defer-length", "2")],
        &[("upload-length", "1"), ("upload-metadata", "a YQ==,a YQ==")],
        &[("upload-length", "1"), ("upload-metadata", "a ?")],
        &[("upload-length", "1"), ("upload-metadata", ",")],
        &[("upload-length", "1"), ("upload-concat", "partial")],
    ] {
        begin(fields).await.problem(400, "bad-request");
    }
    let most = service.app.config.limits.max_file_size.bytes();
    let answer = begin(&[("upload-length", &(most + 1).to_string())]).await;
    answer.problem(413, "payload-too-large");
    let answer = begin(&[("upload-length", "1"), ("upload-metadata", "filename Li4=")]).await;
    answer.invalid(&["/name"]);
}

/// "Once it is known the Client MUST set the Upload-Length header in the next PATCH request. Once set the
/// length MUST NOT be changed"; "As long as the length of the upload is not known, the Server MUST set
/// Upload-Defer-Length: 1 in all responses to HEAD requests."
async fn a_length_may_come_later(service: &Service) {
    let client = service.client("acme");
    let request = tus(client.post("/v1/uploads/tus")).header("upload-defer-length", 1);
    let path = begun(send(request).await);
    assert_eq!(send(patch(&client, &path, 0, b"abc")).await.status, 204);
    let answer = head(&client, &path).await;
    assert_eq!(answer.header("upload-defer-length"), "1");
    assert!(!answer.headers.contains_key("upload-length"));
    let request = patch(&client, &path, 3, b"").header("upload-length", 2);
    send(request).await.problem(400, "bad-request");
    let request = patch(&client, &path, 3, b"d").header("upload-length", 5);
    assert_eq!(send(request).await.status, 204);
    assert_eq!(head(&client, &path).await.header("upload-length"), "5");
    let request = patch(&client, &path, 4, b"e").header("upload-length", 6);
    send(request).await.problem(400, "bad-request");
    let answer = send(patch(&client, &path, 4, b"e")).await;
    assert_eq!(client.content(answer.header("box-file-id")).await, b"abcde");
    // It may come last, and without bytes.
    let request = tus(client.post("/v1/uploads/tus")).header("upload-defer-length", 1);
    let path = begun(send(request).await);
    assert_eq!(send(patch(&client, &path, 0, b"abc")).await.status, 204);
    let request = patch(&client, &path, 3, b"").header("upload-length", 3);
    let answer = send(request).await;
    assert_eq!(client.content(answer.header("box-file-id")).await, b"abc");
    service.assert_holds(2).await;
}

/// "The Client MAY include parts of the upload in the initial Creation request"; "The Client MUST include
/// Content-Type: application/offset+octet-stream"; "The Server MUST include the Upload-Offset header in the
/// response". "In case the Upload-Length is 0, the Server … SHOULD treat it as complete".
async fn an_upload_may_begin_with_bytes(service: &Service) {
    let client = service.client("acme");
    for (sent, length) in [("abc", 3), ("ab", 3), ("", 0)] {
        let mut request = tus(client.post("/v1/uploads/tus")).header("upload-length", length);
        if !sent.is_empty() {
            request = request.header("content-type", BYTES).body(sent);
        }
        let answer = send(request).await;
        assert_eq!(answer.header("upload-offset"), sent.len().to_string());
        let whole = sent.len() == length;
        assert_eq!(answer.headers.contains_key("box-file-id"), whole);
        if whole {
            let content = client.content(answer.header("box-file-id")).await;
            assert_eq!(content, sent.as_bytes());
        }
        begun(answer);
    }
    let request = tus(client.post("/v1/uploads/tus"))
        .header("upload-length", 3)
        .header("content-type", "text/plain")
        .body("abc");
    send(request).await.problem(415, "unsupported-media-type");
}

/// "The Server MAY respond with … 400 Bad Request if the checksum algorithm is not supported by the server,
/// 460 Checksum Mismatch if the checksums mismatch, or 204"; "In the case of a checksum mismatch, the
/// uploaded chunk MUST be discarded and the upload and its offset MUST NOT be updated"; "The Server MUST
/// support at least the SHA1 checksum algorithm identified by sha1."
async fn a_checksum_holds_or_the_bytes_are_not_kept(service: &Service) {
    let client = service.client("acme");
    let path = create(&client, 12).await;
    let good = [
        ("sha1", "qZk+NkcGgWq6PiVxeFDCbJzQ2J0="),
        ("sha256", "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="),
        ("md5", "kAFQmDzST7DWlj99KOF/cg=="),
        ("crc32", "NSRBwg=="),
    ];
    for (index, (algorithm, checksum)) in good.into_iter().enumerate() {
        let at = index * 3;
        let checked = |bytes: &[u8], checksum: &str| {
            let request = patch(&client, &path, at, bytes);
            send(request.header("upload-checksum", format!("{algorithm} {checksum}")))
        };
        checked(b"abd", checksum)
            .await
            .problem(460, "checksum-mismatch");
        assert_eq!(offset(&client, &path).await, at.to_string());
        checked(b"abc", "AAAA").await.problem(400, "bad-request");
        assert_eq!(checked(b"abc", checksum).await.status, 204);
    }
    let request = patch(&client, &path, 12, b"").header("upload-checksum", "sha512 AAAA");
    send(request).await.problem(400, "bad-request");
    let answer = head(&client, &path).await;
    assert_eq!(
        client.content(answer.header("box-file-id")).await,
        b"abcabcabcabc"
    );
}

async fn a_declared_sha256_decides_at_the_end(service: &Service) {
    let client = service.client("acme");
    for (sent, holds) in [("abc", true), ("abd", false)] {
        let declared = hex::encode(Sha256::digest("abc"));
        let request = tus(client.post("/v1/uploads/tus"))
            .header("upload-length", 3)
            .header(
                "upload-metadata",
                format!("sha256 {}", STANDARD.encode(declared)),
            );
        let path = begun(send(request).await);
        let answer = send(patch(&client, &path, 0, sent.as_bytes())).await;
        if holds {
            assert_eq!(answer.status, 204);
        } else {
            answer.problem(460, "checksum-mismatch");
            assert_eq!(head(&client, &path).await.status, 404);
        }
    }
    service.assert_holds(1).await;
}

/// "The Server SHOULD always attempt to store as much of the received data as possible."
async fn what_came_before_a_connection_broke_is_kept(service: &Service) {
    let client = service.client("acme");
    let bytes = noise(2 * MIB);
    let path = create(&client, bytes.len()).await;
    let fields = [
        "tus-resumable: 1.0.0",
        &format!("content-type: {BYTES}"),
        "upload-offset: 0",
        &format!("content-length: {}", bytes.len()),
    ];
    let line = format!("PATCH {path}");
    let came = MIB + 100;
    drop(raw::send(service, &line, &fields, &bytes[..came]).await);
    let patience = tokio::time::Instant::now() + Duration::from_secs(60);
    while offset(&client, &path).await == "0" {
        assert!(tokio::time::Instant::now() < patience, "nothing is kept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(offset(&client, &path).await, came.to_string());
    let answer = send(patch(&client, &path, came, &bytes[came..])).await;
    assert!(client.content(answer.header("box-file-id")).await == bytes);
    service.assert_holds(1).await;
}

/// One writes at a time; who is sent nothing more gives way to who asks.
async fn a_silent_writer_gives_way(service: &Service) {
    let client = service.client("acme");
    let path = create(&client, 6).await;
    let fields = [
        "tus-resumable: 1.0.0",
        &format!("content-type: {BYTES}"),
        "upload-offset: 0",
        "content-length: 6",
    ];
    let line = format!("PATCH {path}");
    let silent = raw::send(service, &line, &fields, b"abc").await;
    // It may come before the other one has begun.
    loop {
        let answer = send(patch(&client, &path, 3, b"def")).await;
        match answer.status {
            204 => break,
            409 | 423 => {}
            _ => panic!("{answer:?}"),
        }
    }
    drop(silent);
    let answer = head(&client, &path).await;
    assert_eq!(
        client.content(answer.header("box-file-id")).await,
        b"abcdef"
    );
}

/// "The Server MAY respond with 404 or 410 [for an upload that] has expired"; "When receiving a DELETE request
/// for an existing upload the Server SHOULD free associated resources and MUST respond with the 204 No
/// Content status … For all future requests to this URL the Server SHOULD respond with the 404 or 410."
async fn an_upload_ends_when_it_is_told_to_and_when_its_time_has_come(service: &Service) {
    let client = service.client("acme");
    let bytes = noise(MIB);
    for way in ["tus", "plain", "time"] {
        let path = create(&client, 2 * MIB).await;
        assert_eq!(send(patch(&client, &path, 0, &bytes)).await.status, 204);
        match way {
            "tus" => assert_eq!(send(tus(client.delete(&path))).await.status, 204),
            "plain" => {
                let path = path.replace("/tus", "");
                assert_eq!(send(client.delete(&path)).await.status, 204);
            }
            _ => {
                service.clock.advance(Duration::from_secs(86_399));
                assert_eq!(head(&client, &path).await.status, 200);
                service.clock.advance(Duration::from_secs(1));
            }
        }
        assert_eq!(head(&client, &path).await.status, 404);
        assert_eq!(send(patch(&client, &path, MIB, &bytes)).await.status, 404);
        assert_eq!(send(tus(client.delete(&path))).await.status, 404);
        service.assert_holds(0).await;
    }
}

/// Any of them takes the next piece.
async fn replicas_take_turns(service: &Service) {
    if service.pair == Pair::SqliteLocal {
        return;
    }
    let other = service.another().await;
    let clients = [service.client("acme"), other.client("acme")];
    // On S3 enough for parts that one replica begins and another one fills.
    let (size, piece) = match service.pair {
        Pair::PostgresS3 => (20 * MIB + 1, 3 * MIB + 1),
        _ => (4 * MIB + 1, 700_001),
    };
    let bytes = noise(size);
    let path = create(&clients[0], bytes.len()).await;
    let mut at = 0;
    for (index, piece) in bytes.chunks(piece).enumerate() {
        let client = &clients[index % 2];
        let answer = send(patch(client, &path, at, piece)).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        at += piece.len();
        assert_eq!(
            offset(&clients[(index + 1) % 2], &path).await,
            at.to_string()
        );
    }
    let id = head(&clients[1], &path)
        .await
        .header("box-file-id")
        .to_owned();
    assert!(clients[0].content(&id).await == bytes);
    other.stop().await;
}

async fn single_bytes_do_not_pile_up(service: &Service) {
    let client = service.client("acme");
    let bytes = noise(70);
    let path = create(&client, bytes.len()).await;
    for (at, byte) in bytes.iter().enumerate() {
        assert_eq!(send(patch(&client, &path, at, &[*byte])).await.status, 204);
        let pieces = service.count("upload_pieces").await;
        assert!(pieces <= 33, "{pieces} after {at}");
    }
    let answer = head(&client, &path).await;
    assert!(client.content(answer.header("box-file-id")).await == bytes);
    service.assert_holds(1).await;
}

async fn a_quota_is_reserved_and_given_back(service: &Service) {
    let limited = service
        .another_with(&[("BOX_QUOTA__MAX_BYTES", "10")])
        .await;
    let client = limited.client("acme");
    let path = create(&client, 8).await;
    let request = tus(client.post("/v1/uploads/tus")).header("upload-length", 3);
    send(request).await.problem(403, "quota-exceeded");
    assert_eq!(send(tus(client.delete(&path))).await.status, 204);
    let request = tus(client.post("/v1/uploads/tus")).header("upload-defer-length", 1);
    let path = begun(send(request).await);
    assert_eq!(
        send(patch(&client, &path, 0, b"12345678")).await.status,
        204
    );
    let answer = send(patch(&client, &path, 8, b"901")).await;
    answer.problem(403, "quota-exceeded");
    let request = patch(&client, &path, 8, b"90").header("upload-length", 10);
    assert_eq!(send(request).await.status, 204);
    let usage = send(client.get("/v1/usage")).await.json(200);
    assert_eq!(usage["bytes"], 10);
    limited.stop().await;
}

async fn uploads_in_progress_are_listed(service: &Service) {
    let client = service.client("acme");
    let first = create(&client, 3).await;
    service.clock.advance(Duration::from_secs(1));
    let second = create(&client, 4).await;
    send(patch(&client, &second, 0, b"ab")).await;
    let page = send(client.get("/v1/uploads?limit=1")).await.json(200);
    let item = &page["items"][0];
    assert!(second.ends_with(item["id"].as_str().unwrap()));
    assert_eq!(item["strategy"], "tus");
    assert_eq!((&item["offset"], &item["size"]), (&json!(2), &json!(4)));
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = send(client.get(&format!("/v1/uploads?cursor={cursor}")))
        .await
        .json(200);
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    assert!(first.ends_with(rest["items"][0]["id"].as_str().unwrap()));
    let one = send(client.get(&first.replace("/tus", ""))).await.json(200);
    assert_eq!(one, rest["items"][0]);
    let others = send(service.client("other").get("/v1/uploads"))
        .await
        .json(200);
    assert_eq!(others["items"], json!([]));
}
