//! Deletions of many files at once, with an outcome for each.

use serde_json::{Value, json};

use super::{NEVER, path, shown, trash};
use crate::harness::client::{Answer, Client, id, send};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    each_id_has_its_outcome_in_order,
    a_permanent_batch_removes_the_bytes,
    an_id_that_comes_twice_has_two_outcomes,
    other_tenants_files_are_not_there_and_stay,
    a_batch_has_one_to_a_thousand_ids,
    invalid_batches_delete_nothing,
    batches_at_once_do_not_lock_each_other_up,
);

async fn batch(client: &Client, body: &Value) -> Answer {
    send(client.post("/v1/files/batch-delete").json(body)).await
}

/// Id, status and problem of each outcome.
fn outcomes(answer: &Answer) -> Vec<(String, u64, Option<String>)> {
    let answer = answer.json(200);
    assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
    let items = answer["items"].as_array().unwrap();
    let outcome = |item: &Value| {
        let problem = item
            .get("type")
            .map(|name| name.as_str().unwrap().to_owned());
        assert_eq!(
            item.as_object().unwrap().len(),
            2 + usize::from(problem.is_some())
        );
        let status = item["status"].as_u64().unwrap();
        (id(item).to_owned(), status, problem)
    };
    items.iter().map(outcome).collect()
}

fn gone(id: &str) -> (String, u64, Option<String>) {
    (id.to_owned(), 204, None)
}

fn absent(id: &str) -> (String, u64, Option<String>) {
    let problem = "urn:box-service:problem:not-found".to_owned();
    (id.to_owned(), 404, Some(problem))
}

async fn uploads(client: &Client, count: usize) -> Vec<Value> {
    let mut files = Vec::new();
    for index in 0..count {
        files.push(client.upload(&format!("{index}"), "content").await);
    }
    files
}

async fn each_id_has_its_outcome_in_order(service: &Service) {
    let client = service.client("acme");
    let files = uploads(&client, 4).await;
    let ids: Vec<&str> = files.iter().map(id).collect();
    trash(&client, &files[3]).await;
    let asked = json!({"ids": [ids[2], NEVER, ids[0], "", "no id", ids[3], "\u{0}"]});
    let answer = batch(&client, &asked).await;
    assert_eq!(
        outcomes(&answer),
        [
            gone(ids[2]),
            absent(NEVER),
            gone(ids[0]),
            absent(""),
            absent("no id"),
            gone(ids[3]),
            absent("\u{0}"),
        ]
    );
    for (file, trashed) in files.iter().zip([true, false, true, true]) {
        let shown = shown(&client, file).await;
        assert_eq!(shown["trashed_at"].is_string(), trashed);
    }
    // Each can come back.
    let restore = client.post(&format!("{}/restore", path(&files[2])));
    send(restore).await.json(200);
    assert_eq!(client.content(ids[2]).await, b"content");
    let answer = batch(&client, &json!({"ids": [ids[1]], "permanent": false})).await;
    assert_eq!(outcomes(&answer), [gone(ids[1])]);
    service.assert_holds(4).await;
}

async fn a_permanent_batch_removes_the_bytes(service: &Service) {
    let client = service.client("acme");
    let files = uploads(&client, 3).await;
    let ids: Vec<&str> = files.iter().map(id).collect();
    trash(&client, &files[0]).await;
    let copied = client.post(&format!("{}/copy", path(&files[1])));
    let copied = send(copied).await.json(201);
    let asked = json!({"ids": [ids[0], ids[1], NEVER], "permanent": true});
    let answer = batch(&client, &asked).await;
    let expected = [gone(ids[0]), gone(ids[1]), absent(NEVER)];
    assert_eq!(outcomes(&answer), expected);
    for file in &files[..2] {
        send(client.get(&path(file)))
            .await
            .problem(404, "not-found");
    }
    service.assert_holds(2).await;
    assert_eq!(client.content(id(&copied)).await, b"content");
    let answer = batch(&client, &asked).await;
    assert_eq!(outcomes(&answer), [ids[0], ids[1], NEVER].map(absent));
    let answer = batch(
        &client,
        &json!({"ids": [id(&copied), ids[2]], "permanent": true}),
    )
    .await;
    assert_eq!(outcomes(&answer), [gone(id(&copied)), gone(ids[2])]);
    service.assert_holds(0).await;
}

async fn an_id_that_comes_twice_has_two_outcomes(service: &Service) {
    let client = service.client("acme");
    let files = uploads(&client, 2).await;
    let ids: Vec<&str> = files.iter().map(id).collect();
    let asked = json!({"ids": [ids[0], ids[1], ids[0]]});
    let answer = batch(&client, &asked).await;
    assert_eq!(outcomes(&answer), [ids[0], ids[1], ids[0]].map(gone));
    assert_eq!(shown(&client, &files[0]).await["revision"], 2);
    let asked = json!({"ids": [ids[0], ids[0], ids[0]], "permanent": true});
    let answer = batch(&client, &asked).await;
    // As one after the other would have it: the second time it is not there.
    let expected = [gone(ids[0]), absent(ids[0]), absent(ids[0])];
    assert_eq!(outcomes(&answer), expected);
    service.assert_holds(1).await;
}

async fn other_tenants_files_are_not_there_and_stay(service: &Service) {
    let (acme, other) = (service.client("acme"), service.client("other"));
    let theirs = other.upload("theirs", "theirs").await;
    let trashed = other.upload("trashed", "theirs").await;
    trash(&other, &trashed).await;
    let own = acme.upload("own", "own").await;
    let ids = [id(&theirs), id(&own), id(&trashed)];
    for permanent in [false, true] {
        let asked = json!({"ids": ids, "permanent": permanent});
        let answer = batch(&acme, &asked).await;
        let expected = [absent(ids[0]), gone(ids[1]), absent(ids[2])];
        assert_eq!(outcomes(&answer), expected);
        assert_eq!(shown(&other, &theirs).await, theirs);
        assert_eq!(shown(&other, &trashed).await["revision"], 2);
    }
    assert_eq!(other.content(id(&theirs)).await, b"theirs");
    service.assert_holds(2).await;
}

async fn a_batch_has_one_to_a_thousand_ids(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    for ids in [vec![], vec![id(&file); 1001]] {
        let answer = batch(&client, &json!({"ids": ids})).await;
        answer.invalid(&["/ids"]);
    }
    assert_eq!(shown(&client, &file).await, file);
    let mut ids = vec![NEVER; 999];
    ids.push(id(&file));
    let answer = batch(&client, &json!({"ids": ids})).await;
    let outcomes = outcomes(&answer);
    assert_eq!(outcomes.len(), 1000);
    assert_eq!(outcomes[999], gone(id(&file)));
    assert!(
        outcomes[..999]
            .iter()
            .all(|outcome| *outcome == absent(NEVER))
    );
}

async fn invalid_batches_delete_nothing(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    for (body, pointer) in [
        // What is not there can't be pointed at: the object that it is missing from is.
        (json!({}), ""),
        (json!({"ids": null}), "/ids"),
        (json!({"ids": id(&file)}), "/ids"),
        (json!({"ids": [id(&file), 1]}), "/ids/1"),
        (
            json!({"ids": [id(&file)], "permanent": "yes"}),
            "/permanent",
        ),
        (json!({"ids": [id(&file)], "nonsense": 1}), "/nonsense"),
    ] {
        let answer = batch(&client, &body).await;
        answer.invalid(&[pointer]);
    }
    for body in ["", "{", "[]x"] {
        let request = client
            .post("/v1/files/batch-delete")
            .header("content-type", "application/json");
        let answer = send(request.body(body)).await;
        answer.problem(400, "malformed-json");
    }
    let body = json!({"ids": [id(&file)]}).to_string();
    let request = client.post("/v1/files/batch-delete");
    let request = request
        .header("content-type", "text/plain")
        .body(body.clone());
    send(request).await.problem(415, "unsupported-media-type");
    let request = client.post("/v1/files/batch-delete?permanent=true");
    let request = request.header("content-type", "application/json");
    send(request.body(body)).await.invalid(&["/permanent"]);
    let large = json!({"ids": ["x".repeat(4 << 20)]});
    // By a client of its own: a connection on which more was sent than was read is closed.
    let answer = batch(&service.client("acme"), &large).await;
    answer.problem(413, "payload-too-large");
    assert_eq!(shown(&client, &file).await, file);
    service.assert_holds(1).await;
}

async fn batches_at_once_do_not_lock_each_other_up(service: &Service) {
    let client = service.client("acme");
    let mut files = uploads(&client, 20).await;
    for index in 0..10 {
        let copy = client.post(&format!("{}/copy", path(&files[index])));
        files.push(send(copy).await.json(201));
    }
    let ids: Vec<&str> = files.iter().map(id).collect();
    let reversed: Vec<&str> = ids.iter().rev().copied().collect();
    let forth = json!({"ids": ids, "permanent": true});
    let back = json!({"ids": reversed, "permanent": true});
    let trash = json!({"ids": ids});
    let (forth, back, trash) = tokio::join!(
        batch(&client, &forth),
        batch(&client, &back),
        batch(&client, &trash)
    );
    outcomes(&trash);
    let removed = |answer: &Answer| {
        let outcomes = outcomes(answer).into_iter();
        outcomes.filter(|outcome| outcome.1 == 204).count()
    };
    // Each file was removed by one of them.
    assert_eq!(removed(&forth) + removed(&back), files.len());
    service.assert_holds(0).await;
}

mod without_trash {
    //! Where what is deleted is gone.

    use serde_json::json;

    use super::{absent, batch, gone, outcomes};
    use crate::harness::client::id;
    use crate::harness::service::{Service, on_every_pair};

    on_every_pair!(
        with [("BOX_TRASH__KEEP", "0")];
        every_batch_is_final,
    );

    async fn every_batch_is_final(service: &Service) {
        let client = service.client("acme");
        let file = client.upload("a", "content").await;
        let asked = json!({"ids": [id(&file)]});
        let answer = batch(&client, &asked).await;
        assert_eq!(outcomes(&answer), [gone(id(&file))]);
        let answer = batch(&client, &asked).await;
        assert_eq!(outcomes(&answer), [absent(id(&file))]);
        service.assert_holds(0).await;
    }
}
