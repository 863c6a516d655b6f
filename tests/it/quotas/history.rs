//! Replaced contents, and a quota of a thousand bytes.

use serde_json::Value;

use super::{assert_usage, path, refused, remove, upload};
use crate::harness::client::{Answer, Client, id, send};
use crate::harness::raw;
use crate::harness::service::{Service, on_every_pair};

async fn put(client: &Client, file: &Value, size: usize) -> Answer {
    let request = client.put(&format!("{}/content", path(file)));
    send(request.body(vec![b'y'; size])).await
}

async fn restore(client: &Client, file: &Value, version: u64) -> Answer {
    let path = format!("{}/versions/{version}/restore", path(file));
    send(client.post(&path)).await
}

mod kept {
    use super::*;

    on_every_pair!(
        with [("BOX_QUOTA__MAX_BYTES", "1000"), ("BOX_VERSIONS__KEEP", "3")];
        versions_count_as_long_as_they_are_kept,
        a_restored_version_counts_again,
        a_failed_replacement_gives_its_room_back,
    );
}

mod two {
    use super::*;

    on_every_pair!(
        with [("BOX_QUOTA__MAX_BYTES", "1000"), ("BOX_VERSIONS__KEEP", "1")];
        what_is_trimmed_makes_room,
    );
}

mod none {
    use super::*;

    on_every_pair!(
        with [("BOX_QUOTA__MAX_BYTES", "1000")];
        what_is_replaced_counts_no_more,
    );
}

async fn versions_count_as_long_as_they_are_kept(service: &Service) {
    let client = service.client("acme");
    let file = upload(&client, 400).await;
    put(&client, &file, 300).await.json(200);
    assert_usage(&client, 700, 1).await;
    put(&client, &file, 301)
        .await
        .problem(403, "quota-exceeded");
    assert_usage(&client, 700, 1).await;
    put(&client, &file, 300).await.json(200);
    assert_usage(&client, 1000, 1).await;
    put(&client, &file, 0).await.json(200);
    refused(&client, 1).await;
    assert_usage(&client, 1000, 1).await;
    // A copy is of what is current alone.
    let copy = send(client.post(&format!("{}/copy", path(&file)))).await;
    copy.json(201);
    assert_usage(&client, 1000, 2).await;
    service.assert_holds(4).await;
    remove(&client, &file).await;
    assert_usage(&client, 0, 1).await;
    upload(&client, 1000).await;
    service.assert_holds(2).await;
}

async fn a_restored_version_counts_again(service: &Service) {
    let client = service.client("acme");
    let file = upload(&client, 400).await;
    put(&client, &file, 200).await.json(200);
    restore(&client, &file, 1).await.json(200);
    assert_usage(&client, 1000, 1).await;
    restore(&client, &file, 1)
        .await
        .problem(403, "quota-exceeded");
    restore(&client, &file, 2)
        .await
        .problem(403, "quota-exceeded");
    assert_usage(&client, 1000, 1).await;
    assert_eq!(client.content(id(&file)).await, [b'x'; 400]);
    service.assert_holds(2).await;
    remove(&client, &file).await;
    assert_usage(&client, 0, 0).await;
    service.assert_holds(0).await;
}

async fn a_failed_replacement_gives_its_room_back(service: &Service) {
    let client = service.client("acme");
    let file = upload(&client, 400).await;
    for _ in 0..3 {
        let request = client.put(&format!("{}/content", path(&file)));
        let request = request.header("repr-digest", crate::harness::content::digest(b"other"));
        let answer = send(request.body(vec![b'y'; 600])).await;
        answer.problem(422, "checksum-mismatch");
        let request = client.put(&format!("{}/content", path(&file)));
        let request = request.header("if-match", "\"other\"");
        let answer = send(request.body(vec![b'y'; 600])).await;
        answer.problem(412, "precondition-failed");
        assert_usage(&client, 400, 1).await;
    }
    put(&client, &file, 600).await.json(200);
    assert_usage(&client, 1000, 1).await;
    service.assert_holds(2).await;
}

async fn what_is_trimmed_makes_room(service: &Service) {
    let client = service.client("acme");
    let file = upload(&client, 300).await;
    put(&client, &file, 300).await.json(200);
    assert_usage(&client, 600, 1).await;
    // For a moment three contents are there, and there is room for them.
    put(&client, &file, 400).await.json(200);
    assert_usage(&client, 700, 1).await;
    restore(&client, &file, 2).await.json(200);
    assert_usage(&client, 700, 1).await;
    put(&client, &file, 100).await.json(200);
    assert_usage(&client, 400, 1).await;
    put(&client, &file, 0).await.json(200);
    assert_usage(&client, 100, 1).await;
    upload(&client, 900).await;
    refused(&client, 1).await;
    service.assert_holds(3).await;
}

async fn what_is_replaced_counts_no_more(service: &Service) {
    let client = service.client("acme");
    let file = upload(&client, 300).await;
    put(&client, &file, 500).await.json(200);
    assert_usage(&client, 500, 1).await;
    put(&client, &file, 100).await.json(200);
    assert_usage(&client, 100, 1).await;
    let other = upload(&client, 900).await;
    refused(&client, 1).await;
    put(&client, &file, 1001)
        .await
        .problem(403, "quota-exceeded");
    // Without a byte of the body.
    let line = format!("PUT {}/content", path(&file));
    let answer = raw::exchange(service, &line, &["content-length: 1001"], b"").await;
    answer.problem(403, "quota-exceeded");
    put(&client, &other, 901)
        .await
        .problem(403, "quota-exceeded");
    put(&client, &other, 0).await.json(200);
    assert_usage(&client, 100, 2).await;
    service.assert_holds(2).await;
}
