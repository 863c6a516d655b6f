//! Direct uploads: begun and completed here, and their bytes sent where the answer says.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::client::{Answer, Client, id, put_signed, send};
use crate::harness::content::{MIB, noise};
use crate::harness::service::{Pair, Service, on_every_pair};

mod checks;
mod ends;
mod parts;

on_every_pair!(
    one_put_becomes_a_file,
    nothing_at_all_becomes_a_file,
    bytes_are_written_once,
    what_is_begun_twice_with_a_key_is_one_upload,
    a_quota_is_reserved_and_given_back,
    bad_requests_begin_nothing,
    what_is_not_there_is_not_found,
);

/// Begins an upload; what it was answered with.
async fn begin(client: &Client, body: Value) -> Answer {
    send(client.post("/v1/uploads").json(&body)).await
}

async fn begun(client: &Client, size: usize) -> Value {
    begin(client, json!({"name": "a.bin", "size": size}))
        .await
        .json(201)
}

async fn follow(service: &Service, signed: &Value, bytes: &[u8]) -> Answer {
    put_signed(&service.url, signed, bytes).await
}

/// The same of one that must be taken; the ETag.
async fn sent(service: &Service, signed: &Value, bytes: &[u8]) -> String {
    let answer = follow(service, signed, bytes).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("etag").to_owned()
}

async fn complete(client: &Client, upload: &Value, body: Value) -> Answer {
    let path = format!("/v1/uploads/{}/complete", id(upload));
    send(client.post(&path).json(&body)).await
}

async fn sign(client: &Client, upload: &Value, from: u32, to: u32) -> Answer {
    let path = format!("/v1/uploads/{}/parts", id(upload));
    send(client.post(&path).json(&json!({"from": from, "to": to}))).await
}

async fn look(client: &Client, upload: &Value) -> Answer {
    send(client.get(&format!("/v1/uploads/{}", id(upload)))).await
}

async fn file(client: &Client, id: &str) -> Value {
    send(client.get(&format!("/v1/files/{id}"))).await.json(200)
}

/// The file, once it is hashed.
async fn hashed(client: &Client, id: &str) -> Value {
    for _ in 0..300 {
        let file = file(client, id).await;
        if !file["sha256"].is_null() {
            return file;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{id} is not hashed");
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

async fn one_put_becomes_a_file(service: &Service) {
    let client = service.client("acme");
    let bytes = noise(100_000);
    let asked = json!({
        "name": "a/b.txt", "size": bytes.len(), "content_type": "text/plain",
        "metadata": {"k": 1}, "expires_at": "2026-03-01T00:00:00Z",
    });
    let answer = begin(&client, asked).await;
    let upload = answer.json(201);
    let path = format!("/v1/uploads/{}", id(&upload));
    assert_eq!(answer.header("location"), path);
    assert_eq!(upload["strategy"], "single");
    assert_eq!(upload["size"], bytes.len());
    assert_eq!(
        (&upload["part_size"], &upload["offset"]),
        (&Value::Null, &json!(0))
    );
    assert_eq!(upload["expires_at"], "2026-02-01T12:00:00.123456Z");
    assert_eq!(upload["put"]["expires_at"], upload["expires_at"]);
    let stores_own = service.pair == Pair::PostgresS3;
    let url = upload["put"]["url"].as_str().unwrap();
    assert_eq!(!url.contains("/s/ey"), stores_own, "{url}");
    // The URL is a secret: nobody is told again by asking.
    assert_eq!(look(&client, &upload).await.json(200)["put"], Value::Null);

    sent(service, &upload["put"], &bytes).await;
    let list = send(client.get("/v1/files")).await.json(200);
    assert_eq!(list["items"], json!([]));
    let answer = complete(&client, &upload, json!({})).await;
    let made = answer.json(201);
    assert_eq!(
        answer.header("location"),
        format!("/v1/files/{}", id(&made))
    );
    assert_eq!(
        (&made["name"], &made["content_type"]),
        (&json!("a/b.txt"), &json!("text/plain"))
    );
    assert_eq!(
        (&made["metadata"], &made["size"]),
        (&json!({"k": 1}), &json!(bytes.len()))
    );
    assert_eq!(made["expires_at"], "2026-03-01T00:00:00.000000Z");
    assert_eq!(
        (&made["version"], &made["revision"]),
        (&json!(1), &json!(1))
    );
    assert!(client.content(id(&made)).await == bytes);
    assert_eq!(hashed(&client, id(&made)).await["sha256"], sha256(&bytes));

    let again = complete(&client, &upload, json!({})).await;
    assert_eq!(again.json(200)["id"], made["id"]);
    let seen = look(&client, &upload).await.json(200);
    assert_eq!(
        (&seen["offset"], &seen["parts"]),
        (&json!(bytes.len()), &json!([]))
    );
    let usage = send(client.get("/v1/usage")).await.json(200);
    assert_eq!(
        (&usage["files"], &usage["bytes"]),
        (&json!(1), &json!(bytes.len()))
    );
    service.assert_holds(1).await;
}

async fn nothing_at_all_becomes_a_file(service: &Service) {
    let client = service.client("acme");
    let upload = begun(&client, 0).await;
    complete(&client, &upload, json!({}))
        .await
        .problem(409, "conflict");
    sent(service, &upload["put"], b"").await;
    let made = complete(&client, &upload, json!({})).await.json(201);
    assert_eq!(made["size"], 0);
    assert_eq!(hashed(&client, id(&made)).await["sha256"], sha256(b""));
    service.assert_holds(1).await;
}

async fn bytes_are_written_once(service: &Service) {
    let client = service.client("acme");
    let upload = begun(&client, 5).await;
    // Neither fewer nor more than were declared.
    for wrong in [&b"four"[..], b"and six", b""] {
        let answer = follow(service, &upload["put"], wrong).await;
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
    sent(service, &upload["put"], b"first").await;
    let second = follow(service, &upload["put"], b"other").await;
    assert_eq!(second.status, 412, "{}", second.text());
    let made = complete(&client, &upload, json!({})).await.json(201);
    let third = follow(service, &upload["put"], b"third").await;
    assert!(matches!(third.status, 409 | 412), "{third:?}");
    assert_eq!(client.content(id(&made)).await, b"first");
    service.assert_holds(1).await;
}

async fn what_is_begun_twice_with_a_key_is_one_upload(service: &Service) {
    let client = service.client("acme");
    let begin = |key: &str, size: usize| {
        let body = json!({"name": "a", "size": size});
        let request = client.post("/v1/uploads").header("idempotency-key", key);
        send(request.json(&body))
    };
    let first = begin("k", 3).await.json(201);
    let second = begin("k", 3).await.json(201);
    assert_eq!(first["id"], second["id"]);
    begin("k", 4).await.invalid(&["/Idempotency-Key"]);
    assert_ne!(begin("other", 3).await.json(201)["id"], first["id"]);
    // Either URL is good.
    sent(service, &second["put"], b"abc").await;
    assert_eq!(follow(service, &first["put"], b"abc").await.status, 412);
    let made = complete(&client, &first, json!({})).await.json(201);
    let third = begin("k", 3).await.json(201);
    assert_eq!((&third["id"], &third["put"]), (&first["id"], &Value::Null));
    assert_eq!(client.content(id(&made)).await, b"abc");
    let path = format!("/v1/uploads/{}", id(&first));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    begin("k", 3).await.problem(410, "gone");
    assert_eq!(client.content(id(&made)).await, b"abc");
    service.assert_holds(1).await;
}

async fn a_quota_is_reserved_and_given_back(service: &Service) {
    let service = service
        .another_with(&[
            ("BOX_QUOTA__MAX_BYTES", "100"),
            ("BOX_QUOTA__MAX_FILES", "2"),
        ])
        .await;
    let client = service.client("acme");
    let first = begun(&client, 60).await;
    let refused = begin(&client, json!({"name": "b", "size": 41})).await;
    refused.problem(403, "quota-exceeded");
    let path = format!("/v1/uploads/{}", id(&first));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    let second = begun(&client, 100).await;
    sent(&service, &second["put"], &noise(100)).await;
    complete(&client, &second, json!({})).await.json(201);
    let usage = send(client.get("/v1/usage")).await.json(200);
    assert_eq!(usage["bytes"], 100);
    begin(&client, json!({"name": "b", "size": 1}))
        .await
        .problem(403, "quota-exceeded");
    service.assert_holds(1).await;
}

async fn bad_requests_begin_nothing(service: &Service) {
    let client = service.client("acme");
    for (body, pointers) in [
        (json!({"name": "", "size": 1}), &["/name"][..]),
        (json!({"name": "a/../b", "size": 1}), &["/name"]),
        (
            json!({"name": "a", "size": 1, "expires_at": "2020-01-01T00:00:00Z"}),
            &["/expires_at"],
        ),
        (json!({"name": "a", "size": -1}), &["/size"]),
        (json!({"name": "a", "size": "1"}), &["/size"]),
        (
            json!({"name": "a", "size": 1, "sha256": "ab"}),
            &["/sha256"],
        ),
        (
            json!({"name": "a", "size": 200 * MIB, "sha256": "0".repeat(64)}),
            &["/sha256"],
        ),
        (
            json!({"name": "a", "size": 1, "crc64nvme": "AAAA"}),
            &["/crc64nvme"],
        ),
        (
            json!({"name": "a", "size": 1, "crc64nvme": "?"}),
            &["/crc64nvme"],
        ),
        (
            json!({"name": "a", "size": 1, "metadata": 7}),
            &["/metadata"],
        ),
        (json!([]), &[""]),
    ] {
        let answer = begin(&client, body.clone()).await;
        assert_eq!(answer.status, 422, "{body}: {}", answer.text());
        answer.invalid(pointers);
    }
    for missing in [
        json!({"size": 1}),
        json!({"name": "a"}),
        json!({"name": "a", "size": 1, "x": 1}),
    ] {
        begin(&client, missing)
            .await
            .problem(422, "invalid-request");
    }
    let large = json!({"name": "a", "size": 6_u64 << 40});
    begin(&client, large)
        .await
        .problem(413, "payload-too-large");
    let query = client
        .post("/v1/uploads?x=1")
        .json(&json!({"name": "a", "size": 1}));
    send(query).await.invalid(&["/x"]);
    let uploads = send(client.get("/v1/uploads")).await.json(200);
    assert_eq!(uploads["items"], json!([]));
    service.assert_holds(0).await;
}

async fn what_is_not_there_is_not_found(service: &Service) {
    let client = service.client("acme");
    let upload = begun(&client, 1).await;
    let other = service.client("other");
    for (client, upload) in [
        (&other, &upload),
        (
            &client,
            &json!({"id": "01890a5d-ac96-774b-bcce-b302099a8057"}),
        ),
    ] {
        complete(client, upload, json!({}))
            .await
            .problem(404, "not-found");
        sign(client, upload, 1, 1).await.problem(404, "not-found");
        look(client, upload).await.problem(404, "not-found");
    }
    let tus = client
        .post("/v1/uploads/tus")
        .header("tus-resumable", "1.0.0");
    let tus = send(tus.header("upload-length", 1)).await;
    let tus = json!({"id": tus.header("location").rsplit('/').next().unwrap()});
    complete(&client, &tus, json!({}))
        .await
        .problem(409, "conflict");
    sign(&client, &tus, 1, 1).await.problem(409, "conflict");
    // Nor does the other protocol take a direct one.
    let head = client.head(&format!("/v1/uploads/tus/{}", id(&upload)));
    assert_eq!(
        send(head.header("tus-resumable", "1.0.0")).await.status,
        404
    );
    service.assert_holds(0).await;
}
