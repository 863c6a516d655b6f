//! Files that go by the rules of the configuration.

use std::time::Duration;

use box_service::domain::lifecycle::{Action, Due};
use serde_json::{Value, json};

use crate::harness::client::{Client, id, send};
use crate::harness::content::escape;
use crate::harness::service::{Service, on_every_pair};

/// Every condition alone, two together, and one of a tenant.
const RULES: &str = r#"[
    {"name": "logs", "prefix": "logs/", "trash_after": "10d"},
    {"name": "pictures", "content_type": "image/*", "expire_after": "20d"},
    {"name": "tables", "content_type": "text/csv", "metadata": {"kind": "export"}, "expire_after": "5d"},
    {"name": "small", "tenant": "globex", "expire_after": "1d"}
]"#;

on_every_pair!(
    with [("BOX_LIFECYCLE__RULES", super::RULES), ("BOX_TRASH__KEEP", "30d")];
    a_rule_is_of_what_all_of_it_is_true_of,
    a_change_begins_the_time_anew,
    what_is_held_in_the_trash_or_expired_is_passed_over,
    a_dry_run_lets_nothing_go,
    what_went_by_a_rule_is_told_and_restored,
    more_go_than_one_look_finds,
    of_two_processes_one_is_at_it,
    what_changed_since_it_was_found_stays,
);

const DAY: Duration = Duration::from_secs(86_400);

fn path(file: &Value) -> String {
    format!("/v1/files/{}", id(file))
}

async fn upload(client: &Client, name: &str, content_type: &str, metadata: Value) -> Value {
    let metadata = escape(&metadata.to_string());
    let request = client.post(&format!("/v1/files?name={name}&metadata={metadata}"));
    let request = request.header("content-type", content_type).body("content");
    send(request).await.json(201)
}

async fn plain(client: &Client, name: &str) -> Value {
    upload(client, name, "text/plain", json!({})).await
}

/// Rule, action and name of what would go now.
async fn due(service: &Service) -> Vec<(String, Action, String)> {
    let mut found = Vec::new();
    let mut told = |due: &Due<'_>| {
        found.push((due.rule.to_owned(), due.action, due.file.name.clone()));
    };
    service
        .domain()
        .lifecycle_run(true, &mut told)
        .await
        .unwrap();
    found
}

async fn round(service: &Service) -> u64 {
    service.domain().lifecycle_round().await.unwrap()
}

/// What happened to a file, in order.
async fn events(service: &Service, client: &Client, file: &Value) -> Vec<Value> {
    service.domain().audit_seal().await.unwrap();
    let page = client.get(&format!("/v1/audit-events?target={}", id(file)));
    let page = send(page).await.json(200);
    let events = page["items"].as_array().unwrap().iter();
    events
        .map(|event| json!([event["action"], event["detail"]]))
        .collect()
}

/// Names that are listed, in order.
async fn names(client: &Client, trashed: bool) -> Vec<String> {
    let page = client.get(&format!("/v1/files?sort=name&trashed={trashed}&limit=1000"));
    let page = send(page).await.json(200);
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["name"].as_str().unwrap().to_owned())
        .collect()
}

async fn a_rule_is_of_what_all_of_it_is_true_of(service: &Service) {
    let (client, other) = (service.client("acme"), service.client("globex"));
    plain(&client, "logs/a").await;
    plain(&client, "logs").await;
    plain(&client, "other/logs/a").await;
    upload(&client, "picture", "image/png", json!({})).await;
    upload(&client, "imagery", "imagery/png", json!({})).await;
    upload(
        &client,
        "table",
        "text/csv",
        json!({"kind": "export", "n": [1]}),
    )
    .await;
    upload(
        &client,
        "table-of-another-kind",
        "text/csv",
        json!({"kind": "x"}),
    )
    .await;
    upload(
        &client,
        "table-with-parameters",
        "text/csv; charset=utf-8",
        json!({"kind": "export"}),
    )
    .await;
    plain(&client, "export").await;
    plain(&other, "anything").await;
    let begun = service.clock.now();
    let moment = Duration::from_micros(1);
    let until = |days: u32| {
        let wait = begun.plus(DAY * days).since(service.clock.now());
        service.clock.advance(wait);
    };
    service.clock.advance(DAY - moment);
    assert_eq!(round(service).await, 0);
    until(1);
    assert_eq!(round(service).await, 1);
    assert_eq!(names(&other, false).await, [""; 0]);
    until(5);
    let table = ("tables".to_owned(), Action::Expire, "table".to_owned());
    assert_eq!(due(service).await, [table]);
    assert_eq!(round(service).await, 1);
    until(10);
    assert_eq!(round(service).await, 1);
    assert_eq!(names(&client, true).await, ["logs/a"]);
    until(20);
    assert_eq!(round(service).await, 1);
    until(1000);
    assert_eq!(round(service).await, 0);
    assert_eq!(
        names(&service.client("acme"), false).await,
        [
            "export",
            "imagery",
            "logs",
            "other/logs/a",
            "table-of-another-kind",
            "table-with-parameters"
        ]
    );
    service.assert_holds(7).await;
}

async fn a_change_begins_the_time_anew(service: &Service) {
    let client = service.client("acme");
    let file = plain(&client, "logs/a").await;
    service.clock.advance(DAY * 9);
    let patch = client
        .patch(&path(&file))
        .json(&json!({"metadata": {"k": 1}}));
    send(patch).await.json(200);
    service.clock.advance(DAY * 9);
    assert_eq!(round(service).await, 0);
    service.clock.advance(DAY);
    assert_eq!(round(service).await, 1);
    // So does the way out of the trash.
    send(client.post(&format!("{}/restore", path(&file))))
        .await
        .json(200);
    assert_eq!(round(service).await, 0);
    service.clock.advance(DAY * 10);
    assert_eq!(round(service).await, 1);
}

async fn what_is_held_in_the_trash_or_expired_is_passed_over(service: &Service) {
    let client = service.client("globex");
    let held = plain(&client, "held").await;
    let hold = client
        .patch(&path(&held))
        .json(&json!({"legal_hold": true}));
    send(hold).await.json(200);
    let until = service.clock.now().plus(DAY * 3);
    let retained = plain(&client, "retained").await;
    let retain = client
        .patch(&path(&retained))
        .json(&json!({"retention_until": until}));
    send(retain).await.json(200);
    let trashed = plain(&client, "trashed").await;
    assert_eq!(send(client.delete(&path(&trashed))).await.status, 204);
    let time = escape(&service.clock.now().plus(DAY).to_string());
    let expired = client.post(&format!("/v1/files?name=expired&expires_at={time}"));
    let expired = send(expired.body("content")).await.json(201);
    service.clock.advance(DAY * 2);
    assert_eq!(due(service).await.len(), 0);
    assert_eq!(round(service).await, 0);
    service.clock.advance(DAY);
    assert_eq!(round(service).await, 1);
    assert_eq!(names(&client, false).await, ["held"]);
    assert_eq!(names(&client, true).await, ["trashed"]);
    assert_eq!(
        events(service, &client, &expired).await,
        [json!(["file.created", {}])]
    );
    // The bytes of all but what was retained.
    service.assert_holds(3).await;
}

async fn a_dry_run_lets_nothing_go(service: &Service) {
    let client = service.client("globex");
    // Two rules want it.
    plain(&client, "logs/a").await;
    service.clock.advance(DAY * 10);
    let expected = [("logs", Action::Trash), ("small", Action::Expire)]
        .map(|(rule, action)| (rule.to_owned(), action, "logs/a".to_owned()));
    assert_eq!(due(service).await, expected);
    assert_eq!(due(service).await, expected);
    assert_eq!(names(&client, false).await, ["logs/a"]);
    let mut told = 0;
    let mut tell = |_: &Due<'_>| told += 1;
    service
        .domain()
        .lifecycle_run(false, &mut tell)
        .await
        .unwrap();
    // The first one has it.
    assert_eq!(told, 1);
    assert_eq!(names(&client, true).await, ["logs/a"]);
    assert_eq!(due(service).await.len(), 0);
}

async fn what_went_by_a_rule_is_told_and_restored(service: &Service) {
    let client = service.client("acme");
    let log = plain(&client, "logs/a").await;
    let picture = upload(&client, "picture", "image/png", json!({})).await;
    service.clock.advance(DAY * 20);
    assert_eq!(round(service).await, 2);
    for (file, told) in [
        (&log, json!(["file.trashed", {"rule": "logs"}])),
        (&picture, json!(["file.expired", {"rule": "pictures"}])),
    ] {
        let created = json!(["file.created", {}]);
        assert_eq!(events(service, &client, file).await, [created, told]);
    }
    assert_eq!(send(client.get(&path(&picture))).await.status, 404);
    send(client.post(&format!("{}/restore", path(&log))))
        .await
        .json(200);
    assert_eq!(client.content(id(&log)).await, b"content");
    // In the trash it would have been for as long as any other.
    service.assert_holds(1).await;
}

async fn more_go_than_one_look_finds(service: &Service) {
    let client = service.client("acme");
    for index in 0..130 {
        plain(&client, &format!("logs/{index}")).await;
        plain(&client, &format!("kept/{index}")).await;
    }
    service.clock.advance(DAY * 10);
    assert_eq!(round(service).await, 130);
    assert_eq!(names(&client, false).await.len(), 130);
    assert_eq!(round(service).await, 0);
}

async fn of_two_processes_one_is_at_it(service: &Service) {
    // SQLite has one process.
    if service.variable("BOX_DATABASE__URL").starts_with("sqlite:") {
        return;
    }
    let other = service.another().await;
    let client = service.client("acme");
    let seconds = Duration::from_secs;
    plain(&client, "logs/a").await;
    service.clock.advance(seconds(10));
    plain(&client, "logs/b").await;
    service.clock.advance(DAY * 10 - seconds(10));
    assert_eq!(round(&other).await, 1);
    service.clock.advance(seconds(10));
    // Its lease runs, of 30 s.
    assert_eq!(round(service).await, 0);
    service.clock.advance(seconds(20));
    assert_eq!(round(service).await, 1);
    other.stop().await;
}

/// Found, and restored, changed or held before its turn comes.
async fn what_changed_since_it_was_found_stays(service: &Service) {
    let client = service.client("acme");
    let mut files = Vec::new();
    for name in ["logs/a", "logs/b", "logs/c"] {
        files.push(plain(&client, name).await);
        service.clock.advance(Duration::from_secs(1));
    }
    service.clock.advance(DAY * 10);
    // Told of the first one, somebody changes the others, which were found with it.
    let (changed, held) = (path(&files[1]), path(&files[2]));
    let handle = tokio::runtime::Handle::current();
    let mut told = Vec::new();
    let mut tell = |due: &Due<'_>| {
        told.push(due.file.name.clone());
        if due.file.name == "logs/a" {
            let changes = async {
                let patch = client.patch(&changed).json(&json!({"metadata": {"k": 1}}));
                send(patch).await.json(200);
                let patch = client.patch(&held).json(&json!({"legal_hold": true}));
                send(patch).await.json(200);
            };
            tokio::task::block_in_place(|| handle.block_on(changes));
        }
    };
    service
        .domain()
        .lifecycle_run(false, &mut tell)
        .await
        .unwrap();
    assert_eq!(told, ["logs/a"]);
    assert_eq!(names(&client, false).await, ["logs/b", "logs/c"]);
}
