//! Origins that misbehave, and what becomes of their items.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{done, items, start};
use crate::harness::client::{id, send};
use crate::harness::content::noise;
use crate::harness::origin::{Act, Origin, head, ok};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    with crate::imports::OPEN;
    what_may_pass_is_tried_again,
    a_wait_that_was_asked_for_is_kept,
    what_breaks_off_is_taken_up_again,
    what_has_changed_is_begun_anew,
    what_is_declared_must_come,
    a_compressed_answer_is_decoded,
    a_file_is_named_and_typed,
);

fn error(item: &Value) -> &str {
    item["error"]["type"].as_str().unwrap_or("none")
}

/// Answers a client that wants TLS in plain text.
async fn no_tls() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _ = tcp.read(&mut [0; 4096]).await;
            let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    format!("https://{address}/")
}

async fn what_may_pass_is_tried_again(service: &Service) {
    let origin = Origin::start().await;
    let busy = vec![head("503 Service Unavailable\ncontent-length: 0")];
    let url = origin.answers(
        "/busy",
        vec![busy.clone(), vec![Act::Reset], vec![ok("", b"at last")]],
    );
    let never = origin.answers("/never", vec![busy]);
    let gone = origin.answers(
        "/gone",
        vec![vec![head("404 Not Found\ncontent-length: 0")]],
    );
    let client = service.client("acme");
    let import = done(service, &client, &start(&client, &[url, never, gone]).await).await;
    let found = items(&client, &import).await;
    assert_eq!(
        (&found[0]["state"], &found[0]["attempts"]),
        (&json!("done"), &json!(3))
    );
    assert_eq!(
        (error(&found[1]), &found[1]["attempts"]),
        ("http-status", &json!(5))
    );
    assert_eq!(
        (error(&found[2]), &found[2]["attempts"]),
        ("http-status", &json!(1))
    );
    assert_eq!(
        client.content(found[0]["file_id"].as_str().unwrap()).await,
        b"at last"
    );
    service.assert_holds(1).await;
}

async fn a_wait_that_was_asked_for_is_kept(service: &Service) {
    let origin = Origin::start().await;
    let later = vec![head(
        "429 Too Many Requests\nretry-after: 600\ncontent-length: 0",
    )];
    let url = origin.answers("/later", vec![later, vec![ok("", b"x")]]);
    let client = service.client("acme");
    let import = start(&client, &[url]).await;
    let asked = |count: usize| {
        let origin = &origin;
        super::until(&client, &import, move |now| {
            origin.seen("/later").len() >= count && now["counts"]["fetching"] == 0
        })
    };
    asked(1).await;
    let claimable = || async {
        let found = service.app.domain.import_claimable(None, 10).await;
        found.unwrap().len()
    };
    service.clock.advance(Duration::from_secs(590));
    assert_eq!(claimable().await, 0);
    assert_eq!(origin.seen("/later").len(), 1);
    service.clock.advance(Duration::from_secs(20));
    asked(2).await;
    let import = done(service, &client, &import).await;
    assert_eq!(import["counts"]["done"], 1);
}

async fn what_breaks_off_is_taken_up_again(service: &Service) {
    let origin = Origin::start().await;
    let content = noise(300_000);
    let partly = |status: &str, from: usize, to: usize, fields: &str| {
        let lines = format!(
            "{status}\ncontent-length: {}\n{fields}",
            content.len() - from
        );
        vec![
            head(&lines),
            // And then it closes, rather than resets, so that all of it arrives.
            Act::Send(content[from..to].to_vec()),
        ]
    };
    let range = |from: usize| {
        format!(
            "etag: \"v1\"\ncontent-range: bytes {from}-{}/{}",
            content.len() - 1,
            content.len()
        )
    };
    let url = origin.answers(
        "/file",
        vec![
            partly("200 OK", 0, 100_000, "etag: \"v1\""),
            partly("206 Partial Content", 100_000, 200_000, &range(100_000)),
            partly("206 Partial Content", 200_000, 300_000, &range(200_000)),
        ],
    );
    let client = service.client("acme");
    let sha256 = hex::encode(Sha256::digest(&content));
    let body = json!({"items": [{"url": url, "sha256": sha256}], "options": {"attempts": 1}});
    let import = send(client.post("/v1/imports").json(&body)).await.json(202);
    let import = done(service, &client, &import).await;
    let item = &items(&client, &import).await[0];
    assert_eq!(
        (&item["state"], &item["attempts"]),
        (&json!("done"), &json!(1)),
        "{item}"
    );
    assert!(client.content(item["file_id"].as_str().unwrap()).await == content);
    let seen = origin.seen("/file");
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[1].headers["range"], "bytes=100000-");
    assert_eq!(seen[1].headers["if-range"], "\"v1\"");
}

/// Never put together from two contents.
async fn what_has_changed_is_begun_anew(service: &Service) {
    let origin = Origin::start().await;
    let broken = |fields: &str| {
        let lines = format!("200 OK\ncontent-length: 9\n{fields}");
        vec![head(&lines), Act::Send(b"old".to_vec())]
    };
    let whole = vec![ok("etag: \"v2\"\r\n", b"new whole")];
    let changed = origin.answers("/changed", vec![broken("etag: \"v1\""), whole.clone()]);
    let weak = origin.answers("/weak", vec![broken("etag: W/\"v1\""), whole.clone()]);
    let other = vec![
        head("206 Partial Content\ncontent-length: 2\ncontent-range: bytes 7-8/9"),
        Act::Send(b"xx".to_vec()),
    ];
    let lying = origin.answers("/lying", vec![broken("etag: \"v1\""), other]);
    let client = service.client("acme");
    let import = done(
        service,
        &client,
        &start(&client, &[changed, weak, lying]).await,
    )
    .await;
    let found = items(&client, &import).await;
    for item in &found[..2] {
        assert_eq!(item["attempts"], 2, "{item}");
        assert_eq!(
            client.content(item["file_id"].as_str().unwrap()).await,
            b"new whole"
        );
    }
    assert!(!origin.seen("/weak")[1].headers.contains_key("range"));
    assert_eq!(error(&found[2]), "connect");
    service.assert_holds(2).await;
}

async fn what_is_declared_must_come(service: &Service) {
    let origin = Origin::start().await;
    let url = origin.file("/file", b"bytes");
    let unknown = origin.answers(
        "/chunks",
        vec![vec![
            head("200 OK\ntransfer-encoding: chunked"),
            Act::Send(b"5\r\nbytes\r\n0\r\n\r\n".to_vec()),
        ]],
    );
    let sha256 = hex::encode(Sha256::digest(b"bytes"));
    let md5 = "4b3a6218bb3e3a7303e8a171a60fcf92";
    let other = "0".repeat(64);
    let client = service.client("acme");
    let body = json!({"items": [
        {"url": url, "size": 5, "sha256": sha256, "md5": md5},
        {"url": unknown, "size": 5, "sha256": sha256.to_uppercase(), "md5": md5},
        {"url": url, "size": 4},
        {"url": unknown, "size": 4},
        {"url": unknown, "size": 6},
        {"url": url, "sha256": other},
        {"url": url, "md5": &other[..32]},
    ]});
    let import = send(client.post("/v1/imports").json(&body)).await.json(202);
    let import = done(service, &client, &import).await;
    let found: Vec<String> = items(&client, &import)
        .await
        .iter()
        .map(|item| format!("{} {}", item["state"].as_str().unwrap(), error(item)))
        .collect();
    assert_eq!(
        found,
        [
            "done none",
            "done none",
            "failed size-mismatch",
            "failed size-mismatch",
            "failed size-mismatch",
            "failed checksum-mismatch",
            "failed checksum-mismatch",
        ]
    );
    assert_eq!(import["bytes_done"], 10);
    service.assert_holds(2).await;
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

async fn a_compressed_answer_is_decoded(service: &Service) {
    let origin = Origin::start().await;
    let content = "text ".repeat(50_000);
    let packed = gzip(content.as_bytes());
    let url = origin.answers(
        "/gzip",
        vec![vec![ok("content-encoding: gzip\r\n", &packed)]],
    );
    let cut = &packed[..packed.len() / 2];
    let half = origin.answers("/half", vec![vec![ok("content-encoding: gzip\r\n", cut)]]);
    // A file that is one, rather than is sent as one, stays so.
    let file = origin.file("/file.gz", &packed);
    let client = service.client("acme");
    let import = done(service, &client, &start(&client, &[url, half, file]).await).await;
    let found = items(&client, &import).await;
    assert!(client.content(found[0]["file_id"].as_str().unwrap()).await == content.as_bytes());
    assert_eq!(error(&found[1]), "connect");
    assert!(client.content(found[2]["file_id"].as_str().unwrap()).await == packed);
    assert_eq!(
        origin.seen("/gzip")[0].headers["accept-encoding"],
        "identity"
    );
}

async fn a_file_is_named_and_typed(service: &Service) {
    let origin = Origin::start().await;
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    let own = origin.file("/a/own.bin", b"x");
    let said = origin.answers(
        "/said",
        vec![vec![ok(
            "content-disposition: attachment; filename=\"../../said.txt\"\r\n",
            b"x",
        )]],
    );
    let path = origin.file("/a/b%20c.png?query", png);
    let odd = origin.file("/%2e%2e%2f..", b"<html>");
    let lying = origin.answers(
        "/lying",
        vec![vec![ok(
            "content-type: image/png\r\n",
            b"<script>alert(1)</script>",
        )]],
    );
    let client = service.client("acme");
    let body = json!({
        "items": [
            {"url": own, "name": "folder/mine", "metadata": {"k": [1, {"l": null}]}},
            {"url": said}, {"url": path}, {"url": odd}, {"url": lying},
        ],
        "options": {"allow_content_types": ["text/plain", "image/*"]},
    });
    let import = send(client.post("/v1/imports").json(&body)).await.json(202);
    let import = done(service, &client, &import).await;
    let found = items(&client, &import).await;
    let mut files = Vec::new();
    for item in &found[..3] {
        let path = format!("/v1/files/{}", item["file_id"].as_str().unwrap());
        files.push(send(client.get(&path)).await.json(200));
    }
    let names: Vec<&str> = files
        .iter()
        .map(|file| file["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["folder/mine", "said.txt", "b c.png"]);
    assert_eq!(files[0]["metadata"], json!({"k": [1, {"l": null}]}));
    assert_eq!(files[0]["created_by"], "tester");
    assert_eq!(files[2]["content_type"], "image/png");
    // What the bytes are counts, not what the origin says.
    assert_eq!(
        (error(&found[3]), error(&found[4])),
        ("content-type", "content-type")
    );
    assert_eq!(client.content(id(&files[2])).await, png);
}

/// Where silence is not borne for long.
mod impatient {
    use super::*;

    on_every_pair!(
        with [crate::imports::OPEN[0], ("BOX_FETCH__STALL_TIMEOUT", "1s")];
        each_way_to_fail_has_its_reason,
    );

    async fn each_way_to_fail_has_its_reason(service: &Service) {
        let origin = Origin::start().await;
        let sent = |text: &str| Act::Send(text.as_bytes().to_vec());
        let cases: Vec<(&str, Vec<Act>, &str)> = vec![
            ("/stall", vec![Act::Stall], "timeout"),
            (
                "/stall-within",
                vec![head("200 OK\ncontent-length: 9"), sent("x"), Act::Stall],
                "timeout",
            ),
            ("/reset", vec![Act::Reset], "connect"),
            (
                "/reset-within",
                vec![head("200 OK\ncontent-length: 9"), sent("x"), Act::Reset],
                "connect",
            ),
            (
                "/truncated",
                vec![head("200 OK\ncontent-length: 9"), sent("x")],
                "connect",
            ),
            (
                "/truncated-chunks",
                vec![head("200 OK\ntransfer-encoding: chunked"), sent("5\r\nab")],
                "connect",
            ),
            ("/no-http", vec![sent("SSH-2.0-OpenSSH_9.2\r\n")], "connect"),
            (
                "/two-lengths",
                vec![
                    head("200 OK\ncontent-length: 1\ncontent-length: 2"),
                    sent("ab"),
                ],
                "connect",
            ),
            (
                "/gone",
                vec![head("410 Gone\ncontent-length: 0")],
                "http-status",
            ),
            (
                "/partial",
                vec![head("206 Partial Content\ncontent-length: 1"), sent("a")],
                "http-status",
            ),
            ("/empty", vec![head("204 No Content")], "http-status"),
            (
                "/brotli",
                vec![ok("content-encoding: br\r\n", b"x")],
                "connect",
            ),
            (
                "/no-gzip",
                vec![ok("content-encoding: gzip\r\n", b"no gzip at all")],
                "connect",
            ),
        ];
        let mut urls: Vec<String> = cases
            .iter()
            .map(|(path, answer, _)| origin.answers(path, vec![answer.clone()]))
            .collect();
        let mut wanted: Vec<&str> = cases.iter().map(|(_, _, error)| *error).collect();
        urls.push("http://no-such-host.invalid/".to_owned());
        wanted.push("dns");
        // Nobody listens there any more.
        urls.push(Origin::start().await.url.clone());
        wanted.push("connect");
        urls.push(no_tls().await);
        wanted.push("tls");
        let client = service.client("acme");
        let body: Vec<Value> = urls.iter().map(|url| json!({"url": url})).collect();
        let body = json!({"items": body, "options": {"attempts": 1, "timeout_s": 5}});
        let import = send(client.post("/v1/imports").json(&body)).await.json(202);
        let import = done(service, &client, &import).await;
        let found = items(&client, &import).await;
        for (item, wanted) in found.iter().zip(wanted) {
            assert_eq!(error(item), wanted, "{item}");
            assert_eq!(
                (&item["state"], &item["attempts"]),
                (&json!("failed"), &json!(1))
            );
        }
        assert_eq!(found[8]["http_status"], 410);
        service.assert_holds(0).await;
    }
}

mod limited {
    use super::*;

    on_every_pair!(
        with [
            crate::imports::OPEN[0],
            ("BOX_IMPORTS__MAX_FILE_SIZE", "1MiB"),
            ("BOX_IMPORTS__ATTEMPTS", "1"),
            ("BOX_QUOTA__MAX_BYTES", "3MiB"),
        ];
        no_answer_is_endless,
        no_answer_takes_for_ever,
    );

    /// Over the limits of one item and of the tenant.
    async fn no_answer_is_endless(service: &Service) {
        let origin = Origin::start().await;
        let zeros = vec![0; 64 * 1024];
        let announced = origin.file("/announced", &vec![0; (1 << 20) + 1]);
        let endless = origin.answers(
            "/endless",
            vec![vec![
                head("200 OK\nconnection: close"),
                Act::Endless(zeros.clone()),
            ]],
        );
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100_000);
        let bomb = origin.answers("/bomb", vec![vec![ok("content-encoding: gzip\r\n", &bomb)]]);
        let mut urls = vec![announced, endless, bomb];
        for number in 0..4 {
            urls.push(origin.file(&format!("/{number}"), &vec![number; 1 << 20]));
        }
        let client = service.client("acme");
        let body: Vec<Value> = urls.iter().map(|url| json!({"url": url})).collect();
        let body = json!({"items": body});
        let import = send(client.post("/v1/imports").json(&body)).await.json(202);
        let import = done(service, &client, &import).await;
        let found = items(&client, &import).await;
        for item in &found[..3] {
            let reason = error(item);
            assert!(["too-large", "quota"].contains(&reason), "{item}");
        }
        assert_eq!(error(&found[0]), "too-large");
        // Others may have had the room while the endless one took some.
        let stored = found[3..]
            .iter()
            .filter(|item| item["state"] == "done")
            .count();
        let refused = found[3..]
            .iter()
            .filter(|item| error(item) == "quota")
            .count();
        assert!(
            (1..=3).contains(&stored) && stored + refused == 4,
            "{found:?}"
        );
        service.assert_holds(stored as u64).await;
    }

    /// Never silent for long, and never done.
    async fn no_answer_takes_for_ever(service: &Service) {
        let origin = Origin::start().await;
        let mut drip = vec![head("200 OK\ncontent-length: 1000")];
        for _ in 0..1_000 {
            drip.extend([
                Act::Send(b"x".to_vec()),
                Act::Wait(Duration::from_millis(100)),
            ]);
        }
        let url = origin.answers("/drip", vec![drip]);
        let client = service.client("acme");
        let body = json!({"items": [{"url": url}], "options": {"timeout_s": 1}});
        let import = send(client.post("/v1/imports").json(&body)).await.json(202);
        let import = done(service, &client, &import).await;
        assert_eq!(error(&items(&client, &import).await[0]), "timeout");
        service.assert_holds(0).await;
    }
}
