//! What was declared of the bytes is compared before there is a file.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;

on_every_pair!(
    with [("BOX_UPLOADS__SINGLE_MAX", "1MiB")];
    one_put_is_of_the_declared_bytes,
    parts_are_of_the_declared_bytes,
    hashes_come_to_copies_and_versions_too,
    a_type_that_is_not_accepted_makes_no_file,
    a_store_that_writes_over_things_is_sent_parts,
);

fn crc64nvme(bytes: &[u8]) -> String {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes);
    STANDARD.encode(crc.to_be_bytes())
}

async fn one_put_is_of_the_declared_bytes(service: &Service) {
    let client = service.client("acme");
    let (bytes, others) = (noise(1_000), vec![7; 1_000]);
    for declared in [
        json!({"sha256": sha256(&bytes)}),
        json!({"crc64nvme": crc64nvme(&bytes)}),
        json!({"sha256": sha256(&bytes), "crc64nvme": crc64nvme(&bytes)}),
    ] {
        let mut asked = json!({"name": "a", "size": 1_000});
        asked
            .as_object_mut()
            .unwrap()
            .extend(declared.as_object().unwrap().clone());
        let upload = begin(&client, asked).await.json(201);
        let refused = follow(service, &upload["put"], &others).await;
        assert!((400..500).contains(&refused.status), "{refused:?}");
        complete(&client, &upload, json!({}))
            .await
            .problem(409, "conflict");
        sent(service, &upload["put"], &bytes).await;
        let made = complete(&client, &upload, json!({})).await.json(201);
        // It is known already.
        if declared["sha256"].is_string() {
            assert_eq!(made["sha256"], declared["sha256"]);
        }
        assert!(client.content(id(&made)).await == bytes);
    }
    service.assert_holds(3).await;
}

async fn parts_are_of_the_declared_bytes(service: &Service) {
    let client = service.client("acme");
    let bytes = noise(8 * MIB + 1_000);
    for (declared, is_right) in [(crc64nvme(&bytes), true), (crc64nvme(b"others"), false)] {
        let asked = json!({"name": "a", "size": bytes.len(), "crc64nvme": declared});
        let upload = begin(&client, asked).await.json(201);
        let urls = sign(&client, &upload, 1, 2).await.json(200);
        for (part, at) in bytes.chunks(8 * MIB).zip(0..) {
            sent(service, &urls["items"][at], part).await;
        }
        let completed = complete(&client, &upload, json!({})).await;
        if is_right {
            let made = completed.json(201);
            assert!(client.content(id(&made)).await == bytes);
        } else {
            let problem = completed.problem(422, "checksum-mismatch");
            assert!(
                problem["detail"].as_str().unwrap().contains("CRC-64"),
                "{problem}"
            );
            // It can't become right.
            complete(&client, &upload, json!({}))
                .await
                .problem(404, "not-found");
        }
    }
    let usage = send(client.get("/v1/usage")).await.json(200);
    assert_eq!(usage["files"], 1);
    service.assert_holds(1).await;
}

async fn hashes_come_to_copies_and_versions_too(service: &Service) {
    let service = service.another_with(&[("BOX_VERSIONS__KEEP", "2")]).await;
    let client = service.client("acme");
    let bytes = noise(9 * MIB);
    let upload = begun(&client, bytes.len()).await;
    let urls = sign(&client, &upload, 1, 2).await.json(200);
    for (part, at) in bytes.chunks(8 * MIB).zip(0..) {
        sent(&service, &urls["items"][at], part).await;
    }
    let made = complete(&client, &upload, json!({})).await.json(201);
    let copy = send(client.post(&format!("/v1/files/{}/copy", id(&made))))
        .await
        .json(201);
    let content = client.put(&format!("/v1/files/{}/content", id(&made)));
    send(content.body("new")).await.json(200);
    assert_eq!(hashed(&client, id(&copy)).await["sha256"], sha256(&bytes));
    let versions = send(client.get(&format!("/v1/files/{}/versions", id(&made))))
        .await
        .json(200);
    assert_eq!(versions["items"][1]["sha256"], sha256(&bytes));
    assert_eq!(versions["items"][1]["size"], bytes.len());
    let found = send(client.get(&format!("/v1/files?sha256={}", sha256(&bytes))))
        .await
        .json(200);
    assert_eq!(found["items"][0]["id"], copy["id"]);
    service.assert_holds(2).await;
}

async fn a_type_that_is_not_accepted_makes_no_file(service: &Service) {
    let service = service
        .another_with(&[("BOX_LIMITS__DENIED_CONTENT_TYPES", "image/*")])
        .await;
    let client = service.client("acme");
    let asked = json!({"name": "a", "size": 8, "content_type": "image/png"});
    begin(&client, asked)
        .await
        .problem(415, "unsupported-media-type");
    let upload = begun(&client, 8).await;
    sent(&service, &upload["put"], b"\x89PNG\r\n\x1a\n").await;
    let refused = complete(&client, &upload, json!({})).await;
    refused.problem(415, "unsupported-media-type");
    complete(&client, &upload, json!({}))
        .await
        .problem(404, "not-found");
    service.assert_holds(0).await;
}

async fn a_store_that_writes_over_things_is_sent_parts(service: &Service) {
    // As the look at start has found.
    let service = service.another().await;
    service.app.domain.signed_puts.set(false).unwrap();
    let client = service.client("acme");
    let bytes = noise(1_000);
    for (declared, is_right) in [(sha256(&bytes), true), (sha256(b"others"), false)] {
        let asked = json!({"name": "a", "size": 1_000, "sha256": declared});
        let upload = begin(&client, asked).await.json(201);
        assert_eq!(
            (&upload["strategy"], &upload["put"]),
            (&json!("multipart"), &Value::Null)
        );
        let urls = sign(&client, &upload, 1, 1).await.json(200);
        sent(&service, &urls["items"][0], &bytes).await;
        let completed = complete(&client, &upload, json!({})).await;
        if is_right {
            let made = completed.json(201);
            assert_eq!(made["sha256"], declared);
            assert!(client.content(id(&made)).await == bytes);
        } else {
            completed.problem(422, "checksum-mismatch");
        }
    }
    service.assert_holds(1).await;
}
