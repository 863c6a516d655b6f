//! Files that must stay: until a time comes, or until a hold is lifted.

use std::time::Duration;

use box_service::auth::Scope;
use serde_json::{Value, json};

use crate::harness::client::{Answer, Client, id, send};
use crate::harness::content::escape;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    with [("BOX_VERSIONS__KEEP", "2"), ("BOX_VERSIONS__MAX_AGE", "10d")];
    what_is_held_is_neither_deleted_nor_replaced,
    a_retention_ends_with_its_time,
    a_retention_is_extended_by_a_writer_and_shortened_by_an_admin,
    a_legal_hold_is_lifted_by_an_admin,
    a_file_comes_with_its_holds,
    what_is_held_does_not_expire,
    versions_of_what_is_held_stay,
    a_copy_is_not_held,
    holds_are_told_in_events,
    of_a_hold_and_a_deletion_at_once_one_wins,
);

const DAY: Duration = Duration::from_secs(86_400);

fn path(file: &Value) -> String {
    format!("/v1/files/{}", id(file))
}

async fn patch(client: &Client, file: &Value, change: Value) -> Answer {
    send(client.patch(&path(file)).json(&change)).await
}

async fn shown(client: &Client, file: &Value) -> Value {
    send(client.get(&path(file))).await.json(200)
}

/// A time so long after now, as it is shown.
fn after(service: &Service, duration: Duration) -> Value {
    json!(service.clock.now().plus(duration))
}

/// A client that may do all with files, and no more.
fn writer(service: &Service) -> Client {
    let scopes = [Scope::FilesRead, Scope::FilesWrite, Scope::FilesDelete];
    service.client_with("acme", &scopes)
}

/// Every way to take a file's content away is refused, and changes nothing.
async fn assert_held(client: &Client, file: &Value, told: &str) {
    let before = shown(client, file).await;
    let file_path = path(file);
    for request in [
        client.delete(&file_path),
        client.delete(&format!("{file_path}?permanent=true")),
        // Whether the state is the one that was meant does not matter then (RFC 9110, 13.2.1).
        client.delete(&file_path).header("if-match", "\"99\""),
        client.put(&format!("{file_path}/content")).body("new"),
        client.post(&format!("{file_path}/versions/1/restore")),
    ] {
        let problem = send(request).await.problem(409, "conflict");
        assert!(
            problem["detail"].as_str().unwrap().contains(told),
            "{problem}"
        );
    }
    let other = client.upload("other", "other").await;
    for permanent in [false, true] {
        let batch = json!({"ids": [id(file), id(&other)], "permanent": permanent});
        let request = client.post("/v1/files/batch-delete").json(&batch);
        let items = send(request).await.json(200)["items"].clone();
        assert_eq!(
            items[0],
            json!({"id": id(file), "status": 409, "type": "urn:box-service:problem:conflict"})
        );
        assert_eq!(items[1], json!({"id": id(&other), "status": 204}));
    }
    assert_eq!(shown(client, file).await, before);
}

async fn held(service: &Service, client: &Client) -> Value {
    let file = client.upload("a", "one").await;
    let replaced = client.put(&format!("{}/content", path(&file))).body("two");
    send(replaced).await.json(200);
    service.clock.advance(DAY);
    file
}

async fn what_is_held_is_neither_deleted_nor_replaced(service: &Service) {
    let client = writer(service);
    let file = held(service, &client).await;
    let until = after(service, DAY);
    let kept = patch(&client, &file, json!({"retention_until": until}))
        .await
        .json(200);
    assert_eq!(
        (
            &kept["retention_until"],
            &kept["legal_hold"],
            &kept["revision"]
        ),
        (&until, &json!(false), &json!(3))
    );
    assert_held(
        &client,
        &file,
        "is retained: until 2026-02-02T12:00:00.123456Z",
    )
    .await;
    let kept = patch(&client, &file, json!({"legal_hold": true}))
        .await
        .json(200);
    assert_eq!(kept["legal_hold"], true);
    assert_held(&client, &file, "legal hold").await;

    // A URL that was signed for this state is refused as well.
    let signed = client.post(&format!("{}/signed-urls", path(&file)));
    let signed = signed.json(&json!({"method": "PUT", "expires_in_s": 60}));
    let url = send(signed).await.json(200)["url"]
        .as_str()
        .unwrap()
        .to_owned();
    let token = url.rsplit_once("/s/").unwrap().1;
    let put = service.stranger().put(&format!("/s/{token}")).body("new");
    send(put).await.problem(409, "conflict");

    // All else goes on: reading, properties, and what changes nothing.
    assert_eq!(client.content(id(&file)).await, b"two");
    let renamed = patch(&client, &file, json!({"name": "b", "metadata": {"k": 1}})).await;
    assert_eq!(renamed.json(200)["name"], "b");
    let current = client.post(&format!("{}/versions/2/restore", path(&file)));
    send(current).await.json(200);
    for query in ["", "?prefix=b&sort=name", "?delimiter=/"] {
        let page = send(client.get(&format!("/v1/files{query}")))
            .await
            .json(200);
        assert_eq!(page["items"][0]["legal_hold"], true, "{query}");
        assert_eq!(page["items"][0]["retention_until"], until, "{query}");
    }
    // The other one of the batch went to the trash, and then for good.
    service.assert_holds(2).await;
}

async fn a_retention_ends_with_its_time(service: &Service) {
    let client = writer(service);
    let file = held(service, &client).await;
    let until = after(service, DAY);
    patch(&client, &file, json!({"retention_until": until}))
        .await
        .json(200);
    let moment = Duration::from_micros(1);
    service.clock.advance(DAY - moment);
    assert_held(&client, &file, "is retained").await;
    service.clock.advance(moment);
    // What is over can be taken back by anybody.
    let change = patch(&client, &file, json!({"retention_until": null})).await;
    assert_eq!(change.json(200)["retention_until"], Value::Null);
    let put = client
        .put(&format!("{}/content", path(&file)))
        .body("three");
    assert_eq!(send(put).await.json(200)["version"], 3);
    assert_eq!(send(client.delete(&path(&file))).await.status, 204);
    let trashed = patch(&client, &file, json!({"legal_hold": true})).await;
    trashed.problem(409, "conflict");
}

async fn a_retention_is_extended_by_a_writer_and_shortened_by_an_admin(service: &Service) {
    let (writer, admin) = (writer(service), service.client("acme"));
    let file = writer.upload("a", "content").await;
    let days = |days: u32| after(service, DAY * days);
    for (until, status) in [
        (days(5), 200),
        (days(6), 200),
        (days(6), 200),
        (days(5), 403),
    ] {
        let answer = patch(&writer, &file, json!({"retention_until": until})).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    let cleared = patch(&writer, &file, json!({"retention_until": null})).await;
    let problem = cleared.problem(403, "forbidden");
    assert!(
        problem["detail"].as_str().unwrap().contains("admin"),
        "{problem}"
    );
    // It says nothing of the rest of the patch: all or nothing.
    let both = patch(
        &writer,
        &file,
        json!({"name": "b", "retention_until": null}),
    )
    .await;
    both.problem(403, "forbidden");
    assert_eq!(shown(&writer, &file).await["retention_until"], days(6));
    assert_eq!(shown(&writer, &file).await["name"], "a");

    for now in ["2026-01-31T12:00:00.123456Z", "2020-01-01T00:00:00Z"] {
        let answer = patch(&admin, &file, json!({"retention_until": now})).await;
        answer.invalid(&["/retention_until"]);
    }
    let sooner = patch(&admin, &file, json!({"retention_until": days(1)})).await;
    assert_eq!(sooner.json(200)["retention_until"], days(1));
    // Without the scope for changes, admin changes nothing.
    let bare = service.client_with("acme", &[Scope::Admin]);
    patch(&bare, &file, json!({"retention_until": null}))
        .await
        .problem(403, "forbidden");
    let cleared = patch(&admin, &file, json!({"retention_until": null})).await;
    assert_eq!(cleared.json(200)["retention_until"], Value::Null);
    assert_eq!(send(writer.delete(&path(&file))).await.status, 204);
}

async fn a_legal_hold_is_lifted_by_an_admin(service: &Service) {
    let (writer, admin) = (writer(service), service.client("acme"));
    let file = writer.upload("a", "content").await;
    patch(&writer, &file, json!({"legal_hold": null}))
        .await
        .invalid(&["/legal_hold"]);
    patch(&writer, &file, json!({"legal_hold": true}))
        .await
        .json(200);
    let again = patch(&writer, &file, json!({"legal_hold": true})).await;
    assert_eq!(again.json(200)["revision"], 2);
    patch(&writer, &file, json!({"legal_hold": false}))
        .await
        .problem(403, "forbidden");
    let refused = "events WHERE action = 'access.refused'";
    service.domain().access_write().await.unwrap();
    assert_eq!(service.count(refused).await, 1);
    service.clock.advance(DAY * 1000);
    let admin_again = service.client("acme");
    assert_eq!(send(admin.delete(&path(&file))).await.status, 401);
    send(admin_again.delete(&path(&file)))
        .await
        .problem(409, "conflict");
    let lifted = patch(&admin_again, &file, json!({"legal_hold": false})).await;
    assert_eq!(lifted.json(200)["legal_hold"], false);
    assert_eq!(send(admin_again.delete(&path(&file))).await.status, 204);
}

async fn a_file_comes_with_its_holds(service: &Service) {
    let client = writer(service);
    let until = after(service, DAY);
    let query = escape(until.as_str().unwrap());
    let raw = client.post(&format!(
        "/v1/files?name=a&retention_until={query}&legal_hold=true"
    ));
    let raw = send(raw.header("idempotency-key", "k").body("content"))
        .await
        .json(201);
    let properties = json!({"name": "b", "retention_until": until, "legal_hold": true});
    let part = |text: String| reqwest::multipart::Part::text(text);
    let form = reqwest::multipart::Form::new()
        .part("properties", part(properties.to_string()))
        .part("file", part("content".to_owned()).file_name("b"));
    let form = send(client.post("/v1/files").multipart(form))
        .await
        .json(201);
    for file in [&raw, &form] {
        assert_eq!(file["retention_until"], until);
        assert_eq!(file["legal_hold"], true);
        assert_eq!(shown(&client, file).await, *file);
        send(client.delete(&path(file)))
            .await
            .problem(409, "conflict");
    }
    // The second one of two equal requests is told of the holds too.
    let again = client.post(&format!(
        "/v1/files?name=a&retention_until={query}&legal_hold=true"
    ));
    let again = send(again.header("idempotency-key", "k").body("content")).await;
    assert_eq!(again.json(201), raw);
    for (query, pointer) in [
        ("retention_until=soon", "/retention_until"),
        ("retention_until=2026-01-31T12:00:00Z", "/retention_until"),
        ("legal_hold=yes", "/legal_hold"),
    ] {
        let refused = client.post(&format!("/v1/files?{query}")).body("content");
        send(refused).await.invalid(&[pointer]);
    }
    service.assert_holds(2).await;
}

async fn what_is_held_does_not_expire(service: &Service) {
    let (client, admin) = (writer(service), service.client("acme"));
    let until = after(service, DAY * 3);
    let expires = after(service, DAY);
    let mut files = Vec::new();
    for change in [
        json!({"expires_at": expires, "retention_until": until}),
        json!({"expires_at": expires, "legal_hold": true}),
        json!({"expires_at": expires}),
    ] {
        let file = client.upload("a", "content").await;
        patch(&client, &file, change).await.json(200);
        files.push(file);
    }
    service.clock.advance(DAY * 2);
    let count = async || {
        let page = send(client.get("/v1/files?sort=name")).await.json(200);
        page["items"].as_array().unwrap().len()
    };
    // Seen as long as it is held; and the sweep ends.
    assert_eq!(count().await, 2);
    assert_eq!(service.domain().sweep().await.unwrap(), 1);
    assert_eq!(service.domain().sweep().await.unwrap(), 0);
    assert_eq!(client.content(id(&files[0])).await, b"content");
    let refused = send(client.delete(&path(&files[1]))).await;
    refused.problem(409, "conflict");

    service.clock.advance(DAY);
    assert_eq!(count().await, 1);
    send(client.get(&path(&files[0])))
        .await
        .problem(404, "not-found");
    assert_eq!(service.domain().sweep().await.unwrap(), 1);
    let lifted = patch(&admin, &files[1], json!({"legal_hold": false})).await;
    lifted.json(200);
    assert_eq!(count().await, 0);
    assert_eq!(service.domain().sweep().await.unwrap(), 1);
    service.assert_holds(0).await;
}

async fn versions_of_what_is_held_stay(service: &Service) {
    let (client, admin) = (writer(service), service.client("acme"));
    let file = held(service, &client).await;
    patch(&client, &file, json!({"legal_hold": true}))
        .await
        .json(200);
    service.clock.advance(DAY * 20);
    let earlier = format!("{}/versions/1/content", path(&file));
    for _ in 0..2 {
        service.domain().sweep().await.unwrap();
        assert_eq!(send(client.get(&earlier)).await.body, b"one");
    }
    patch(&admin, &file, json!({"legal_hold": false}))
        .await
        .json(200);
    service.domain().sweep().await.unwrap();
    send(client.get(&earlier)).await.problem(404, "not-found");
    service.assert_holds(1).await;
}

async fn a_copy_is_not_held(service: &Service) {
    let client = writer(service);
    let file = client.upload("a", "content").await;
    let held = json!({"legal_hold": true, "retention_until": after(service, DAY)});
    patch(&client, &file, held).await.json(200);
    let copy = send(client.post(&format!("{}/copy", path(&file))))
        .await
        .json(201);
    assert_eq!(copy["legal_hold"], false);
    assert_eq!(copy["retention_until"], Value::Null);
    let gone = client.delete(&format!("{}?permanent=true", path(&copy)));
    assert_eq!(send(gone).await.status, 204);
    service.assert_holds(1).await;
}

async fn holds_are_told_in_events(service: &Service) {
    let client = service.client("acme");
    let made = send(client.post("/v1/files?legal_hold=true").body("a"))
        .await
        .json(201);
    let until = after(service, DAY);
    for change in [
        json!({"retention_until": until}),
        json!({"legal_hold": false, "name": "b"}),
        json!({"retention_until": null}),
    ] {
        service.clock.advance(Duration::from_secs(1));
        patch(&client, &made, change).await.json(200);
    }
    service.domain().audit_seal().await.unwrap();
    let page = send(client.get("/v1/audit-events")).await.json(200);
    let told: Vec<&Value> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["detail"])
        .collect();
    assert_eq!(
        told,
        [
            &json!({"legal_hold": true}),
            &json!({"changed": ["retention_until"], "retention_until": until}),
            &json!({"changed": ["name", "legal_hold"], "legal_hold": false}),
            &json!({"changed": ["retention_until"], "retention_until": null}),
        ]
    );
}

/// Whichever is first: then there is a file with a hold, or neither.
async fn of_a_hold_and_a_deletion_at_once_one_wins(service: &Service) {
    let client = writer(service);
    for _ in 0..10 {
        let file = client.upload("a", "content").await;
        let hold = patch(&client, &file, json!({"legal_hold": true}));
        let gone = send(client.delete(&format!("{}?permanent=true", path(&file))));
        let (hold, gone) = tokio::join!(hold, gone);
        match (hold.status, gone.status) {
            (200, 409) => assert_eq!(shown(&client, &file).await["legal_hold"], true),
            (404, 204) => {
                send(client.get(&path(&file)))
                    .await
                    .problem(404, "not-found");
            }
            other => panic!("{other:?}"),
        }
    }
}
