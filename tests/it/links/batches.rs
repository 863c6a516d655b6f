//! Many links at once, each on its own.

use serde_json::{Value, json};

use super::{ELSEWHERE, elsewhere, follow, get};
use crate::harness::client::{Answer, id, send};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    each_of_many_has_an_outcome,
    lines_are_answered_with_lines,
    lines_are_answered_while_they_come,
    lines_behind_one_that_cant_be_read_are_not_made,
    ten_thousand_are_made_at_once,
    what_cant_be_taken_apart_makes_nothing,
);

async fn post(service: &Service, content_type: &str, body: String) -> Answer {
    let request = service.client("acme").post("/v1/links/batch");
    send(request.header("content-type", content_type).body(body)).await
}

async fn each_of_many_has_an_outcome(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("f", "content").await;
    elsewhere(&service.client("other"), "taken").await;
    let later = service.clock.now().plus(std::time::Duration::from_secs(60));
    let items = json!([
        {"slug": "b", "url": ELSEWHERE, "max_uses": 2, "expires_at": later.to_string()},
        {"slug": "taken", "url": ELSEWHERE},
        {"slug": "a", "file_id": id(&file), "disposition": "inline"},
        {"slug": "b", "url": ELSEWHERE},
        {"slug": "c", "url": "ftp://example.com"},
        {"slug": "d", "file_id": "019ab1c2-0000-7000-8000-000000000000"},
        {"slug": "e", "url": ELSEWHERE, "password": "secret"},
        {"slug": "f", "url": ELSEWHERE, "password": ""},
        {"url": ELSEWHERE},
        "f",
        {"url": ELSEWHERE, "more": 1},
    ]);
    let body = json!({"items": items}).to_string();
    let answer = post(service, "application/json", body).await.json(200);
    let outcomes = answer["items"].as_array().unwrap();
    let statuses: Vec<u64> = (outcomes.iter())
        .map(|one| one["status"].as_u64().unwrap())
        .collect();
    assert_eq!(
        statuses,
        [201, 409, 201, 409, 422, 422, 201, 422, 201, 422, 422],
        "{answer}"
    );
    assert_eq!(outcomes[0], json!({"index": 0, "status": 201, "slug": "b"}));
    assert_eq!(
        outcomes[1],
        json!({"index": 1, "status": 409, "type": "urn:box-service:problem:conflict"})
    );
    for (index, pointer) in [
        (4, "/url"),
        (5, "/file_id"),
        (7, "/password"),
        (10, "/more"),
    ] {
        assert_eq!(outcomes[index]["errors"][0]["pointer"], pointer, "{answer}");
    }
    let made = get(&client, "b").await;
    assert_eq!(
        (&made["max_uses"], &made["expires_at"], &made["uses"]),
        (&json!(2), &json!(later.to_string()), &json!(0))
    );
    assert_eq!(follow(service, "a").await.body, b"content");
    let slug = outcomes[8]["slug"].as_str().unwrap();
    assert_eq!(follow(service, slug).await.status, 302);
    let page = send(client.get("/v1/links")).await.json(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 4);
    follow(service, "e").await.problem(403, "password-required");
    let right = service.stranger().get("/l/e");
    assert_eq!(
        send(right.header("x-link-password", "secret")).await.status,
        302
    );
}

async fn lines_are_answered_with_lines(service: &Service) {
    let line = |slug: &str| json!({"slug": slug, "url": ELSEWHERE}).to_string();
    let body = format!("{}\n\n{{\r\n{}", line("a"), line("b"));
    let answer = post(service, "application/x-ndjson", body).await;
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let text = answer.text();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines,
        [
            json!({"index": 0, "status": 201, "slug": "a"}),
            json!({"index": 1, "status": 400, "type": "urn:box-service:problem:malformed-json"}),
            json!({"index": 2, "status": 201, "slug": "b"}),
        ]
    );
    assert_eq!(follow(service, "b").await.status, 302);
}

/// `n` lines of links with slugs from `first`.
fn numbered(first: usize, n: usize) -> String {
    (first..first + n)
        .map(|number| {
            format!(
                "{}\n",
                json!({"slug": format!("n/{number}"), "url": ELSEWHERE})
            )
        })
        .collect()
}

async fn lines_are_answered_while_they_come(service: &Service) {
    let (send_more, more) = futures::channel::mpsc::unbounded::<Result<String, std::io::Error>>();
    send_more.unbounded_send(Ok(numbered(0, 1_000))).unwrap();
    let request = service
        .client("acme")
        .post("/v1/links/batch")
        .header("content-type", "application/x-ndjson")
        .body(reqwest::Body::wrap_stream(more));
    let mut answer = request.send().await.unwrap();
    let mut text = Vec::new();
    let lines = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count();
    while lines(&text) < 1_000 {
        text.extend(answer.chunk().await.unwrap().expect("the first thousand"));
    }
    // They are there before the rest was sent.
    assert_eq!(follow(service, "n/999").await.status, 302);
    follow(service, "n/1000").await.problem(404, "not-found");
    send_more.unbounded_send(Ok(numbered(1_000, 1))).unwrap();
    drop(send_more);
    while let Some(more) = answer.chunk().await.unwrap() {
        text.extend(more);
    }
    assert_eq!(lines(&text), 1_001);
    assert_eq!(follow(service, "n/1000").await.status, 302);
}

async fn lines_behind_one_that_cant_be_read_are_not_made(service: &Service) {
    let ndjson = "application/x-ndjson";
    let last = |answer: Answer| -> Value {
        assert_eq!(answer.status, 200);
        serde_json::from_str(answer.text().lines().last().unwrap()).unwrap()
    };
    let long = format!(
        "{}{}\n{}",
        numbered(0, 1_001),
        "x".repeat(17 * 1024),
        numbered(2_000, 1)
    );
    let outcome = last(post(service, ndjson, long).await);
    assert_eq!(
        (&outcome["index"], &outcome["status"]),
        (&json!(1_001), &json!(422))
    );
    assert_eq!(follow(service, "n/1000").await.status, 302);
    follow(service, "n/2000").await.problem(404, "not-found");
    let many = numbered(10_000, 10_002);
    let outcome = last(post(service, ndjson, many).await);
    assert_eq!(
        (&outcome["index"], &outcome["status"]),
        (&json!(10_000), &json!(413))
    );
    assert_eq!(follow(service, "n/19999").await.status, 302);
    follow(service, "n/20000").await.problem(404, "not-found");
}

async fn ten_thousand_are_made_at_once(service: &Service) {
    let item = |number| json!({"slug": format!("n/{number}"), "url": ELSEWHERE});
    let items: Vec<Value> = (0..10_000).map(item).collect();
    let body = json!({"items": items}).to_string();
    let answer = post(service, "application/json", body.clone())
        .await
        .json(200);
    let all = |status: u16, answer: &Value| {
        let items = answer["items"].as_array().unwrap();
        assert_eq!(items.len(), 10_000);
        items.iter().all(|one| one["status"] == status)
    };
    assert!(all(201, &answer));
    let again = post(service, "application/json", body).await.json(200);
    assert!(all(409, &again));
    assert_eq!(follow(service, "n/9999").await.status, 302);
    let mut reader = service.app.domain.metadata.reader().await.unwrap();
    let tenant = "acme".parse().unwrap();
    let events = reader.conn().event_actions(&tenant, "batch").await.unwrap();
    assert_eq!(events, ["link.created"; 10]);
}

async fn what_cant_be_taken_apart_makes_nothing(service: &Service) {
    let client = service.client("acme");
    let json = "application/json";
    post(service, json, "{".into())
        .await
        .problem(400, "malformed-json");
    post(service, json, "{}".into())
        .await
        .problem(422, "invalid-request");
    for items in [0, 10_001] {
        let items: Vec<Value> = (0..items).map(|_| json!({"url": ELSEWHERE})).collect();
        let body = json!({"items": items}).to_string();
        post(service, json, body).await.invalid(&["/items"]);
    }
    let ndjson = "application/x-ndjson";
    post(service, ndjson, "\n".into())
        .await
        .invalid(&["/items"]);
    let long = "x".repeat(16 * 1024 * 1024 + 1);
    post(service, json, long)
        .await
        .problem(413, "payload-too-large");
    post(service, "text/csv", "a".into())
        .await
        .problem(415, "unsupported-media-type");
    let page = send(client.get("/v1/links")).await.json(200);
    assert_eq!(page["items"], json!([]));
}
