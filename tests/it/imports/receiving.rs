//! What comes in: formats, bad lines, dry runs, limits, and requests that are sent twice.

use serde_json::{Value, json};

use super::{assert_exact, done, get, items, start};
use crate::harness::client::{Answer, Client, send};
use crate::harness::origin::Origin;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    with [crate::imports::OPEN[0], ("BOX_IMPORTS__MAX_ITEMS", "5000")];
    every_format_says_the_same,
    a_bad_line_is_an_item_that_failed,
    a_dry_run_keeps_nothing,
    what_cant_be_taken_apart_leaves_nothing,
    an_import_has_a_most,
    options_are_bounded,
    duplicates_are_kept_or_skipped,
    an_import_is_made_once,
    what_is_half_received_is_removed,
);

pub async fn post(
    client: &Client,
    query: &str,
    content_type: &str,
    body: impl Into<String>,
) -> Answer {
    let request = client.post(&format!("/v1/imports{query}"));
    let request = request.header("content-type", content_type);
    send(request.body(body.into())).await
}

async fn every_format_says_the_same(service: &Service) {
    let origin = Origin::start().await;
    let (a, b) = (
        origin.file("/a.txt", b"bytes"),
        origin.file("/b.txt", b"other"),
    );
    let md5 = "4b3a6218bb3e3a7303e8a171a60fcf92";
    let bodies = [
        (
            "application/json",
            json!({"options": {"attempts": 2}, "items": [{"url": a, "size": 5, "md5": md5}, {"url": b}]}).to_string(),
        ),
        (
            "application/x-ndjson; charset=utf-8",
            format!("{{\"url\":\"{a}\",\"size\":5,\"md5\":\"{md5}\"}}\n{{\"url\":\"{b}\"}}\n"),
        ),
        ("text/csv", format!("url,size,md5,name\r\n{a},5,{md5},\r\n\"{b}\",,,\r\n")),
        (
            "text/tab-separated-values",
            format!("TsvHttpData-1.0\n{a}\t5\tSzpiGLs+OnMD6KFxpg/Pkg==\n{b}\n"),
        ),
    ];
    let client = service.client("acme");
    for (content_type, body) in bodies {
        let query = if content_type == "application/json" {
            ""
        } else {
            "?attempts=2"
        };
        let answer = post(&client, query, content_type, body).await;
        let import = answer.json(202);
        let location = format!("/v1/imports/{}", import["id"].as_str().unwrap());
        assert_eq!(answer.header("location"), location);
        assert_eq!(import["options"]["attempts"], 2);
        let import = done(service, &client, &import).await;
        assert_eq!(
            import["counts"],
            json!({"total": 2, "pending": 0, "fetching": 0, "done": 2, "failed": 0, "cancelled": 0})
        );
        assert_eq!(
            (&import["state"], &import["bytes_done"]),
            (&json!("done"), &json!(10))
        );
        assert!(import["finished_at"].is_string());
        let found = items(&client, &import).await;
        assert_eq!((&found[0]["url"], &found[1]["url"]), (&json!(a), &json!(b)));
        assert_eq!(
            (
                &found[0]["index"],
                &found[0]["bytes"],
                &found[0]["http_status"]
            ),
            (&json!(0), &json!(5), &json!(200))
        );
        for (item, content) in found.iter().zip(["bytes", "other"]) {
            let file = item["file_id"].as_str().unwrap();
            assert_eq!(client.content(file).await, content.as_bytes());
        }
    }
    service.assert_holds(8).await;
}

/// Lines that are wrong, and the part of each.
fn bad_lines() -> Vec<(Value, &'static str)> {
    let fine = "http://example.com/";
    vec![
        (json!({"url": "nonsense"}), "/url"),
        (json!({"url": "ftp://example.com/"}), "/url"),
        (json!({"url": "http://user:password@example.com/"}), "/url"),
        (json!({"url": "http://example.com/\u{0}"}), "/url"),
        (
            json!({"url": format!("http://example.com/{}", "x".repeat(9000))}),
            "/url",
        ),
        (json!({"url": fine, "name": "../x"}), "/name"),
        (
            json!({"url": fine, "metadata": {"a": "\u{0}"}}),
            "/metadata",
        ),
        (json!({"url": fine, "size": 1u64 << 40}), "/size"),
        (json!({"url": fine, "size": -1}), "/size"),
        (json!({"url": fine, "sha256": "abc"}), "/sha256"),
        (json!({"url": fine, "md5": "x".repeat(32)}), "/md5"),
        (
            json!({"url": fine, "headers": {"host": "x"}}),
            "/headers/host",
        ),
        (
            json!({"url": fine, "headers": {"\u{0}": "x"}}),
            "/headers/\u{0}",
        ),
        (
            json!({"url": fine, "headers": {"accept": "a\nb"}}),
            "/headers/accept",
        ),
        (json!({"url": fine, "surprise": 1}), "/surprise"),
        (json!({}), ""),
        (json!([]), ""),
    ]
}

async fn a_bad_line_is_an_item_that_failed(service: &Service) {
    let origin = Origin::start().await;
    let client = service.client("acme");
    let mut lines: Vec<Value> = bad_lines().into_iter().map(|(line, _)| line).collect();
    lines.push(json!({"url": origin.file("/a", b"x")}));
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    let bodies = [
        ("application/json", json!({"items": lines}).to_string()),
        ("application/x-ndjson", text.join("\n")),
    ];
    for (content_type, body) in bodies {
        let import = post(&client, "", content_type, body).await.json(202);
        let import = done(service, &client, &import).await;
        let bad = lines.len() - 1;
        assert_eq!(
            (&import["counts"]["failed"], &import["counts"]["done"]),
            (&json!(bad), &json!(1))
        );
        let found = items(&client, &import).await;
        for item in &found[..bad] {
            assert_eq!(item["error"]["type"], "bad-url", "{item}");
            assert_eq!(item["attempts"], 0);
            assert!(!item.to_string().contains("password"), "{item}");
        }
        // What can't be fetched at all is not tried again.
        let path = format!("/v1/imports/{}/retry", import["id"].as_str().unwrap());
        assert_eq!(
            send(client.post(&path)).await.json(200)["counts"]["failed"],
            bad
        );
    }
}

async fn a_dry_run_keeps_nothing(service: &Service) {
    let client = service.client("acme");
    let mut lines: Vec<String> = bad_lines()
        .iter()
        .map(|(line, _)| line.to_string())
        .collect();
    lines.push(json!({"url": "http://example.com/"}).to_string());
    let tried = post(
        &client,
        "?dry_run=true",
        "application/x-ndjson",
        lines.join("\n"),
    )
    .await
    .json(200);
    assert_eq!(
        (&tried["total"], &tried["valid"]),
        (&json!(lines.len()), &json!(1))
    );
    let errors = tried["errors"].as_array().unwrap();
    for (index, (line, pointer)) in bad_lines().iter().enumerate() {
        let error = errors.iter().find(|error| error["index"] == index);
        assert_eq!(error.unwrap()["pointer"], *pointer, "{line}");
    }
    assert_eq!(service.count("imports").await, 0);
    let page = send(client.get("/v1/imports")).await.json(200);
    assert_eq!(page, json!({"items": [], "next_cursor": null}));
}

async fn what_cant_be_taken_apart_leaves_nothing(service: &Service) {
    let client = service.client("acme");
    let many = "{\"url\":\"http://example.com/\"},".repeat(2_500);
    for (content_type, body) in [
        ("application/json", format!("{{\"items\":[{many}")),
        (
            "application/json",
            format!("{{\"items\":[{many}nonsense]}}"),
        ),
        ("application/json", "{\"items\":[]}".to_owned()),
        ("application/json", String::new()),
        ("application/x-ndjson", String::new()),
        ("text/csv", "name\nx\n".to_owned()),
        (
            "text/tab-separated-values",
            "http://example.com/\n".to_owned(),
        ),
    ] {
        post(&client, "", content_type, body)
            .await
            .problem(422, "invalid-request");
    }
    post(&client, "", "text/plain", "x")
        .await
        .problem(415, "unsupported-media-type");
    service.app.domain.import_sweep().await.unwrap();
    for table in ["imports", "import_items", "import_counts"] {
        assert_eq!(service.count(table).await, 0, "{table}");
    }
}

async fn an_import_has_a_most(service: &Service) {
    let client = service.client("acme");
    let line = "{\"url\":\"ftp://example.com/\"}\n";
    let import = post(&client, "", "application/x-ndjson", line.repeat(5_000))
        .await
        .json(202);
    assert_eq!(import["counts"]["total"], 5_000);
    assert_exact(service, &import).await;
    post(&client, "", "application/x-ndjson", line.repeat(5_001))
        .await
        .invalid(&["/items"]);
    assert_eq!(
        send(client.get("/v1/imports")).await.json(200)["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

async fn options_are_bounded(service: &Service) {
    let client = service.client("acme");
    for (options, pointer) in [
        (json!({"concurrency": 0}), "/options/concurrency"),
        (json!({"concurrency": 101}), "/options/concurrency"),
        (json!({"per_host": 17}), "/options/per_host"),
        (json!({"attempts": 21}), "/options/attempts"),
        (json!({"timeout_s": 3601}), "/options/timeout_s"),
        (json!({"on_duplicate": "drop"}), "/options/on_duplicate"),
        (
            json!({"allow_content_types": ["image"]}),
            "/options/allow_content_types",
        ),
        (json!({"surprise": 1}), "/options/surprise"),
    ] {
        let body = json!({"items": [{"url": "http://example.com/"}], "options": options});
        post(&client, "", "application/json", body.to_string())
            .await
            .invalid(&[pointer]);
        post(
            &client,
            "?dry_run=true",
            "application/json",
            body.to_string(),
        )
        .await
        .invalid(&[pointer]);
    }
    post(&client, "?concurrency=0", "text/csv", "url\nx")
        .await
        .invalid(&["/options/concurrency"]);
    post(&client, "?concurrency=1", "application/json", "{}")
        .await
        .invalid(&["/concurrency"]);
}

async fn duplicates_are_kept_or_skipped(service: &Service) {
    let origin = Origin::start().await;
    let url = origin.file("/a", b"x");
    let same = [
        url.clone(),
        url.replace("http:", "HTTP:"),
        format!("{url}#part"),
        url.replace("/a", "/b/../a"),
    ];
    let client = service.client("acme");
    let body: Vec<Value> = same.iter().map(|url| json!({"url": url})).collect();
    for (mode, made) in [("keep", 4), ("skip", 1)] {
        let body = json!({"items": body, "options": {"on_duplicate": mode}});
        let import = post(&client, "", "application/json", body.to_string())
            .await
            .json(202);
        let import = done(service, &client, &import).await;
        assert_eq!(
            (&import["counts"]["done"], &import["counts"]["cancelled"]),
            (&json!(made), &json!(4 - made))
        );
        let found = items(&client, &import).await;
        assert_eq!(found[0]["state"], "done");
        if mode == "skip" {
            assert_eq!(found[3]["error"]["type"], "duplicate");
        }
    }
}

async fn an_import_is_made_once(service: &Service) {
    let origin = Origin::start().await;
    let client = service.client("acme");
    let body = json!({"items": [{"url": origin.file("/a", b"x")}]}).to_string();
    let ask = |key: &str, body: &str| {
        let request = client.post("/v1/imports").header("idempotency-key", key);
        send(
            request
                .header("content-type", "application/json")
                .body(body.to_owned()),
        )
    };
    let (one, two) = tokio::join!(ask("k", &body), ask("k", &body));
    let (one, two) = (one.json(202), two.json(202));
    assert_eq!(one["id"], two["id"]);
    let three = ask("k", &body).await.json(202);
    assert_eq!(one["id"], three["id"]);
    ask("k", &body.replace("/a", "/b"))
        .await
        .invalid(&["/Idempotency-Key"]);
    // Ids sort by time, and this clock stands still.
    service.clock.advance(std::time::Duration::from_secs(1));
    assert_ne!(ask("other", &body).await.json(202)["id"], one["id"]);
    let page = send(client.get("/v1/imports?limit=1")).await.json(200);
    let next = page["next_cursor"].as_str().unwrap();
    let rest = send(client.get(&format!("/v1/imports?cursor={next}")))
        .await
        .json(200);
    assert_eq!(
        (&rest["items"][0]["id"], &rest["next_cursor"]),
        (&one["id"], &Value::Null)
    );
    done(service, &client, &one).await;
}

/// Nobody sees it before it is complete, and nothing of it stays when its sender is gone.
async fn what_is_half_received_is_removed(service: &Service) {
    let client = service.client("acme");
    let domain = &service.app.domain;
    let caller = box_service::domain::Caller::service("acme".parse().unwrap());
    let mut receiving = domain.import_receive(&caller).await.unwrap();
    for _ in 0..1_500 {
        let offered = box_service::domain::imports::Offered {
            url: "http://example.com/".to_owned(),
            ..Default::default()
        };
        receiving.push(offered).await.unwrap();
    }
    drop(receiving);
    assert_eq!(service.count("import_items").await, 1_000);
    domain.import_sweep().await.unwrap();
    assert_eq!(service.count("import_items").await, 1_000);
    assert_eq!(
        send(client.get("/v1/imports")).await.json(200)["items"],
        json!([])
    );
    service.clock.advance(std::time::Duration::from_secs(301));
    domain.import_sweep().await.unwrap();
    for table in ["imports", "import_items", "import_counts"] {
        assert_eq!(service.count(table).await, 0, "{table}");
    }
    let import = start(&client, &["ftp://x/".to_owned()]).await;
    assert_eq!(get(&client, &import).await["counts"]["failed"], 1);
}
