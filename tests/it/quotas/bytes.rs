//! A quota of a thousand bytes.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{assert_usage, path, refused, remove, trash, until_written, upload};
use crate::harness::client::{id, send};
use crate::harness::connection::Raw;
use crate::harness::content::{digest, escape};
use crate::harness::raw;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    with [("BOX_QUOTA__MAX_BYTES", "1000")];
    what_fits_exactly_is_taken_and_a_byte_more_is_not,
    a_declared_length_is_refused_before_the_body_is_read,
    a_body_of_unknown_length_is_stopped_when_it_exceeds,
    a_form_counts_as_its_file,
    the_trash_counts_until_it_is_emptied,
    copies_count_though_no_bytes_move,
    failures_give_the_room_back,
    what_is_under_way_has_its_room_reserved,
    an_upload_that_lost_its_lease_gives_its_room_back,
    what_expires_makes_room,
    a_replay_needs_no_room,
    tenants_have_each_their_own,
);

async fn what_fits_exactly_is_taken_and_a_byte_more_is_not(service: &Service) {
    let client = service.client("acme");
    let usage = send(client.get("/v1/usage")).await.json(200);
    let empty = json!({"bytes": 0, "files": 0, "max_bytes": 1000, "max_files": null});
    assert_eq!(usage, empty);
    refused(&client, 1001).await;
    assert_usage(&client, 0, 0).await;
    let most = upload(&client, 999).await;
    refused(&client, 2).await;
    let last = upload(&client, 1).await;
    assert_usage(&client, 1000, 2).await;
    refused(&client, 1).await;
    // Nothing always fits.
    upload(&client, 0).await;
    assert_usage(&client, 1000, 3).await;
    remove(&client, &last).await;
    assert_usage(&client, 999, 2).await;
    refused(&client, 2).await;
    remove(&client, &most).await;
    upload(&client, 1000).await;
    assert_usage(&client, 1000, 2).await;
    service.assert_holds(2).await;
}

async fn a_declared_length_is_refused_before_the_body_is_read(service: &Service) {
    let client = service.client("acme");
    upload(&client, 400).await;
    for length in [601, 1000, 5_000_000] {
        let field = format!("content-length: {length}");
        let line = "POST /v1/files?name=a";
        // Also where the bytes are to decide the type.
        for fields in [vec![&*field], vec![&*field, "content-type: a/b"]] {
            let answer = raw::exchange(service, line, &fields, b"").await;
            let problem = answer.problem(403, "quota-exceeded");
            assert!(problem.get("errors").is_none(), "{problem}");
        }
    }
    assert_eq!(service.count("objects WHERE state = 'writing'").await, 0);
    upload(&client, 600).await;
    assert_usage(&client, 1000, 2).await;
    service.assert_holds(2).await;
}

async fn a_body_of_unknown_length_is_stopped_when_it_exceeds(service: &Service) {
    let client = service.client("acme");
    let line = "POST /v1/files?name=a";
    let fields = ["transfer-encoding: chunked", "content-type: a/b"];
    let half = raw::chunk(&[b'x'; 500]);
    let end = raw::chunk(b"");
    for body in [
        [&*half, &half, &raw::chunk(b"x")].concat(),
        raw::chunk(&[b'x'; 1001]),
        raw::chunk(&[b'x'; 100_000]),
    ] {
        // Its end never comes.
        let answer = raw::exchange(service, line, &fields, &body).await;
        answer.problem(403, "quota-exceeded");
        assert_usage(&client, 0, 0).await;
    }
    let body = [&*half, &half, &end].concat();
    let answer = raw::exchange(service, line, &fields, &body).await;
    let file = answer.json(201);
    assert_eq!(file["size"], 1000);
    assert_usage(&client, 1000, 1).await;
    let body = [&*raw::chunk(b"x"), &end].concat();
    let answer = raw::exchange(service, line, &fields, &body).await;
    answer.problem(403, "quota-exceeded");
    let answer = raw::exchange(service, line, &fields, &end).await;
    assert_eq!(answer.json(201)["size"], 0);
    assert_usage(&client, 1000, 2).await;
    service.assert_holds(2).await;
}

async fn a_form_counts_as_its_file(service: &Service) {
    let client = service.client("acme");
    let form = |size: usize| {
        let opening = "--b\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\n";
        let body = format!("{opening}{}\r\n--b--\r\n", "x".repeat(size));
        let request = client.post("/v1/files");
        let request = request.header("content-type", "multipart/form-data; boundary=b");
        send(request.body(body))
    };
    form(1001).await.problem(403, "quota-exceeded");
    assert_usage(&client, 0, 0).await;
    assert_eq!(form(1000).await.json(201)["size"], 1000);
    assert_usage(&client, 1000, 1).await;
    form(1).await.problem(403, "quota-exceeded");
    form(0).await.json(201);
    service.assert_holds(2).await;
}

async fn the_trash_counts_until_it_is_emptied(service: &Service) {
    let client = service.client("acme");
    let file = upload(&client, 700).await;
    let small = upload(&client, 300).await;
    trash(&client, &file).await;
    assert_usage(&client, 1000, 2).await;
    refused(&client, 1).await;
    // To come back needs no room, which it has.
    let restore = client.post(&format!("{}/restore", path(&file)));
    send(restore).await.json(200);
    assert_usage(&client, 1000, 2).await;
    trash(&client, &file).await;
    trash(&client, &small).await;
    let asked = json!({"ids": [id(&file), id(&file), id(&small)], "permanent": true});
    let batch = client.post("/v1/files/batch-delete").json(&asked);
    send(batch).await.json(200);
    assert_usage(&client, 0, 0).await;
    let file = upload(&client, 1000).await;
    trash(&client, &file).await;
    service.clock.advance(Duration::from_secs(30 * 86_400));
    service.domain().sweep().await.unwrap();
    assert_usage(&client, 0, 0).await;
    upload(&client, 1000).await;
    service.assert_holds(1).await;
}

async fn copies_count_though_no_bytes_move(service: &Service) {
    let client = service.client("acme");
    let file = upload(&client, 400).await;
    let copy = |file| send(client.post(&format!("{}/copy", path(file))));
    let copied = copy(&file).await.json(201);
    assert_usage(&client, 800, 2).await;
    copy(&file).await.problem(403, "quota-exceeded");
    assert_usage(&client, 800, 2).await;
    upload(&client, 200).await;
    remove(&client, &file).await;
    assert_usage(&client, 600, 2).await;
    // The bytes are there still, and counted where they are.
    assert_eq!(client.content(id(&copied)).await, [b'x'; 400]);
    copy(&copied).await.json(201);
    assert_usage(&client, 1000, 3).await;
    service.assert_holds(2).await;
}

async fn failures_give_the_room_back(service: &Service) {
    let client = service.client("acme");
    for _ in 0..3 {
        let wrong = client.post("/v1/files?name=a");
        let wrong = wrong.header("repr-digest", digest(b"other"));
        let answer = send(wrong.body(vec![b'x'; 1000])).await;
        answer.problem(422, "checksum-mismatch");
        assert_usage(&client, 0, 0).await;
        let invalid = client.post("/v1/files?name=..").body(vec![b'x'; 1000]);
        send(invalid).await.invalid(&["/name"]);
        for fields in [
            ["content-length: 1000", "content-type: a/b"],
            ["transfer-encoding: chunked", "content-type: a/b"],
        ] {
            let body = raw::chunk(&[b'x'; 900]);
            let cut_off = raw::send(service, "POST /v1/files", &fields, &body).await;
            until_written(service, 1).await;
            drop(cut_off);
            until_written(service, 0).await;
        }
    }
    upload(&client, 1000).await;
    assert_usage(&client, 1000, 1).await;
    service.assert_holds(1).await;
}

async fn what_is_under_way_has_its_room_reserved(service: &Service) {
    let client = service.client("acme");
    let fields = ["content-length: 600", "content-type: a/b"];
    let mut slow = raw::send(service, "POST /v1/files?name=a", &fields, &[b'x'; 10]).await;
    until_written(service, 1).await;
    refused(&client, 401).await;
    upload(&client, 400).await;
    refused(&client, 1).await;
    // What is kept is what is there.
    assert_usage(&client, 400, 1).await;
    slow.write_all(&[b'x'; 590]).await.unwrap();
    let file = Raw::over(slow).answer().await.json(201);
    assert_eq!(file["size"], 600);
    assert_usage(&client, 1000, 2).await;
    service.assert_holds(2).await;
}

async fn an_upload_that_lost_its_lease_gives_its_room_back(service: &Service) {
    let client = service.client("acme");
    let fields = ["content-length: 600", "content-type: a/b"];
    let mut slow = raw::send(service, "POST /v1/files?name=a", &fields, &[b'x'; 10]).await;
    until_written(service, 1).await;
    refused(&client, 401).await;
    service.settle().await;
    upload(&client, 1000).await;
    assert_usage(&client, 1000, 1).await;
    slow.write_all(&[b'x'; 590]).await.unwrap();
    let late = Raw::over(slow).answer().await;
    assert!((400..600).contains(&late.status), "{late:?}");
    assert_usage(&client, 1000, 1).await;
    service.assert_holds(1).await;
}

async fn what_expires_makes_room(service: &Service) {
    let client = service.client("acme");
    let time = escape("2026-01-31T13:00:00Z");
    let request = client.post(&format!("/v1/files?name=a&expires_at={time}"));
    send(request.body(vec![b'x'; 1000])).await.json(201);
    refused(&client, 1).await;
    service.clock.advance(Duration::from_secs(3600));
    service.domain().sweep().await.unwrap();
    assert_usage(&client, 0, 0).await;
    upload(&client, 1000).await;
    service.assert_holds(1).await;
}

async fn a_replay_needs_no_room(service: &Service) {
    let client = service.client("acme");
    let request = || {
        let request = client
            .post("/v1/files?name=a")
            .header("idempotency-key", "k1");
        request.body(vec![b'x'; 600])
    };
    // A refusal holds no key.
    let filler = upload(&client, 500).await;
    send(request()).await.problem(403, "quota-exceeded");
    remove(&client, &filler).await;
    let first = send(request()).await.json(201);
    upload(&client, 400).await;
    assert_eq!(send(request()).await.json(201), first);
    assert_usage(&client, 1000, 2).await;
    let form = || {
        let request = client.post("/v1/files").header("idempotency-key", "k2");
        let request = request.header("content-type", "multipart/form-data; boundary=b");
        request.body("--b\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\nx\r\n--b--\r\n")
    };
    send(form()).await.problem(403, "quota-exceeded");
    remove(&client, &first).await;
    let formed = send(form()).await.json(201);
    let copy = || {
        let request = client.post(&format!("{}/copy", path(&formed)));
        request.header("idempotency-key", "k3")
    };
    let copied = send(copy()).await.json(201);
    upload(&client, 598).await;
    assert_eq!(send(form()).await.json(201), formed);
    assert_eq!(send(copy()).await.json(201), copied);
    assert_eq!(send(request()).await.json(201), first);
    assert_usage(&client, 1000, 4).await;
    service.assert_holds(3).await;
}

async fn tenants_have_each_their_own(service: &Service) {
    let (acme, other) = (service.client("acme"), service.client("other"));
    upload(&acme, 1000).await;
    refused(&acme, 1).await;
    assert_usage(&other, 0, 0).await;
    upload(&other, 1000).await;
    refused(&other, 1).await;
    assert_usage(&acme, 1000, 1).await;
    service.assert_holds(2).await;
}
