//! How an import goes: pages of items, the report, and events.

use std::time::Duration;

use serde_json::{Value, json};

use super::{done, items, start};
use crate::harness::client::{Client, send};
use crate::harness::origin::{Act, Origin, head, ok};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    with crate::imports::OPEN;
    items_are_listed_by_state,
    a_report_is_the_same_as_csv,
    events_tell_until_it_is_done,
    a_stop_ends_events_at_once,
);

fn path(import: &Value, rest: &str) -> String {
    format!("/v1/imports/{}/{rest}", import["id"].as_str().unwrap())
}

async fn some(service: &Service, client: &Client, origin: &Origin) -> Value {
    let urls = [
        origin.file("/a,b", b"x"),
        origin.answers(
            "/gone",
            vec![vec![head("404 Not Found\ncontent-length: 0")]],
        ),
        origin.file("/c", b"yz"),
    ];
    done(service, client, &start(client, &urls).await).await
}

async fn items_are_listed_by_state(service: &Service) {
    let origin = Origin::start().await;
    let client = service.client("acme");
    let import = some(service, &client, &origin).await;
    for (state, indices) in [
        ("done", vec![0, 2]),
        ("failed", vec![1]),
        ("pending", vec![]),
    ] {
        let page = send(client.get(&path(&import, &format!("items?state={state}"))))
            .await
            .json(200);
        let found: Vec<i64> = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["index"].as_i64().unwrap())
            .collect();
        assert_eq!(found, indices, "{state}");
    }
    let first = send(client.get(&path(&import, "items?limit=2")))
        .await
        .json(200);
    let next = first["next_cursor"].as_str().unwrap();
    let rest = send(client.get(&path(&import, &format!("items?cursor={next}"))))
        .await
        .json(200);
    assert_eq!(
        (&rest["items"][0]["index"], &rest["next_cursor"]),
        (&json!(2), &Value::Null)
    );
    send(client.get(&path(&import, "items?state=odd")))
        .await
        .invalid(&["/state"]);
    send(client.get(&path(&import, "items?cursor=odd")))
        .await
        .invalid(&["/cursor"]);
}

async fn a_report_is_the_same_as_csv(service: &Service) {
    let origin = Origin::start().await;
    let client = service.client("acme");
    let import = some(service, &client, &origin).await;
    let request = client
        .get(&path(&import, "items"))
        .header("accept", "text/csv");
    let answer = send(request).await;
    assert!(answer.header("content-type").starts_with("text/csv"));
    let text = answer.text();
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(
        lines[0],
        "index,url,state,attempts,http_status,error_type,error_detail,file_id,bytes"
    );
    let found = items(&client, &import).await;
    let file = |index: usize| found[index]["file_id"].as_str().unwrap();
    let url = &origin.url;
    assert_eq!(
        lines[1],
        format!("0,\"{url}/a,b\",done,1,200,,,{},1", file(0))
    );
    assert_eq!(
        lines[2],
        format!("1,{url}/gone,failed,1,404,http-status,the answer was 404 Not Found,,")
    );
    assert_eq!(lines[3], format!("2,{url}/c,done,1,200,,,{},2", file(2)));
    assert_eq!(lines[4..], [""]);
}

/// What came until the stream ended: the id, the name and the data of each event.
async fn watch(
    client: &Client,
    import: &Value,
    last: Option<&str>,
) -> Vec<(String, String, Value)> {
    read(listen(client, import, last).await).await
}

/// An answer that goes on.
async fn listen(client: &Client, import: &Value, last: Option<&str>) -> reqwest::Response {
    let mut request = client.get(&path(import, "events"));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    answer
}

async fn read(answer: reqwest::Response) -> Vec<(String, String, Value)> {
    answer
        .text()
        .await
        .unwrap()
        .split("\n\n")
        .filter(|event| event.starts_with("id"))
        .map(|event| {
            let field = |name: &str| {
                let line = event.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap().to_owned()
            };
            (
                field("id: "),
                field("event: "),
                serde_json::from_str(&field("data: ")).unwrap(),
            )
        })
        .collect()
}

async fn events_tell_until_it_is_done(service: &Service) {
    let origin = Origin::start().await;
    let client = service.client("acme");
    let slow = vec![Act::Wait(Duration::from_millis(1_500)), ok("", b"x")];
    let urls = [origin.file("/a", b"x"), origin.answers("/slow", vec![slow])];
    let import = start(&client, &urls).await;
    let began = std::time::Instant::now();
    let events = watch(&client, &import, None).await;
    let seconds = began.elapsed().as_secs();
    let (id, name, data) = events.last().unwrap();
    assert_eq!((id.as_str(), name.as_str()), ("2", "done"));
    assert_eq!(
        (&data["state"], &data["counts"]["done"]),
        (&json!("done"), &json!(2))
    );
    // The first and the last, and one a second at most.
    let most = usize::try_from(seconds).unwrap() + 3;
    assert!((2..=most).contains(&events.len()), "{events:?}");
    assert!(
        events[..events.len() - 1]
            .iter()
            .all(|(_, name, _)| name == "progress")
    );
    let again = watch(&client, &import, Some("2")).await;
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].1, "done");
}

async fn a_stop_ends_events_at_once(service: &Service) {
    let origin = Origin::start().await;
    let client = service.client("acme");
    let import = start(&client, &[origin.answers("/slow", vec![vec![Act::Stall]])]).await;
    let answer = listen(&client, &import, None).await;
    let began = std::time::Instant::now();
    let (events, ()) = tokio::join!(read(answer), service.stop());
    assert!(events.iter().all(|(_, name, _)| name == "progress"));
    // Far below `limits.shutdown_grace`, after which it would be cut off.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
}
