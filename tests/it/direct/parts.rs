//! Uploads in parts.

use super::*;

on_every_pair!(
    with [("BOX_UPLOADS__SINGLE_MAX", "1MiB")];
    parts_come_in_any_order_and_at_once,
    parts_need_not_be_named,
    the_last_of_a_part_wins,
    what_is_missing_or_wrong_is_told,
    urls_are_for_the_parts_that_there_are,
    a_terabyte_is_divided,
    up_to_the_bound_an_upload_is_one_request,
);

const PART: usize = 8 * MIB;

/// The bytes of each part.
fn cut(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.chunks(PART).collect()
}

async fn urls(client: &Client, upload: &Value, count: usize) -> Vec<Value> {
    let signed = sign(client, upload, 1, u32::try_from(count).unwrap())
        .await
        .json(200);
    let items = signed["items"].as_array().unwrap().clone();
    let numbers: Vec<u64> = items
        .iter()
        .map(|item| item["number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (1..=count as u64).collect::<Vec<_>>());
    items
}

async fn parts_come_in_any_order_and_at_once(service: &Service) {
    let client = service.client("acme");
    let bytes = noise(2 * PART + 12_345);
    let upload = begun(&client, bytes.len()).await;
    assert_eq!(upload["strategy"], "multipart");
    assert_eq!(
        (&upload["part_size"], &upload["put"]),
        (&json!(PART), &Value::Null)
    );
    let urls = urls(&client, &upload, 3).await;
    assert_eq!(urls[0]["expires_at"], upload["expires_at"]);
    let parts = cut(&bytes);
    let etags = tokio::join!(
        sent(service, &urls[2], parts[2]),
        sent(service, &urls[0], parts[0]),
        sent(service, &urls[1], parts[1]),
    );
    let named = [(1, &etags.1), (2, &etags.2), (3, &etags.0)]
        .map(|(number, etag)| json!({"number": number, "etag": etag}));
    let seen = look(&client, &upload).await.json(200);
    assert_eq!(seen["offset"], bytes.len());
    for (seen, named) in seen["parts"].as_array().unwrap().iter().zip(&named) {
        assert_eq!(
            (&seen["number"], &seen["etag"]),
            (&named["number"], &named["etag"])
        );
    }
    let made = complete(&client, &upload, json!({"parts": named}))
        .await
        .json(201);
    assert!(client.content(id(&made)).await == bytes);
    let again = complete(&client, &upload, json!({"parts": named})).await;
    assert_eq!(again.json(200)["id"], made["id"]);
    assert_eq!(hashed(&client, id(&made)).await["sha256"], sha256(&bytes));
    // What comes late changes nothing.
    let late = follow(service, &urls[0], parts[1]).await;
    assert!((400..500).contains(&late.status), "{late:?}");
    assert!(client.content(id(&made)).await == bytes);
    service.assert_holds(1).await;
}

async fn parts_need_not_be_named(service: &Service) {
    let client = service.client("acme");
    let bytes = noise(PART + 1);
    let upload = begun(&client, bytes.len()).await;
    let urls = urls(&client, &upload, 2).await;
    for (url, part) in urls.iter().zip(cut(&bytes)) {
        sent(service, url, part).await;
    }
    let made = complete(&client, &upload, json!({})).await.json(201);
    assert!(client.content(id(&made)).await == bytes);
    // By its first bytes, of which there is no telling.
    assert_eq!(made["content_type"], "application/octet-stream");
    service.assert_holds(1).await;
}

async fn the_last_of_a_part_wins(service: &Service) {
    let client = service.client("acme");
    let bytes = noise(PART + 7);
    let upload = begun(&client, bytes.len()).await;
    let urls = urls(&client, &upload, 2).await;
    let parts = cut(&bytes);
    let mut other = parts[0].to_vec();
    other.reverse();
    sent(service, &urls[0], &other).await;
    sent(service, &urls[1], parts[1]).await;
    // As often as it likes, the same or another.
    let first = sent(service, &urls[0], parts[0]).await;
    assert_eq!(sent(service, &urls[0], parts[0]).await, first);
    let second = sent(service, &urls[1], parts[1]).await;
    let stale = json!({"parts": [{"number": 1, "etag": "x"}, {"number": 2, "etag": "y"}]});
    let refused = complete(&client, &upload, stale)
        .await
        .problem(409, "conflict");
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.contains("part 1 has the ETag") && detail.contains("part 2 has the ETag"),
        "{detail}"
    );
    let named = json!({"parts": [{"number": 1, "etag": first}, {"number": 2, "etag": second}]});
    let made = complete(&client, &upload, named).await.json(201);
    assert!(client.content(id(&made)).await == bytes);
    service.assert_holds(1).await;
}

async fn what_is_missing_or_wrong_is_told(service: &Service) {
    let client = service.client("acme");
    let bytes = noise(2 * PART + 1);
    let upload = begun(&client, bytes.len()).await;
    complete(&client, &upload, json!({}))
        .await
        .problem(409, "conflict");
    let urls = urls(&client, &upload, 3).await;
    let parts = cut(&bytes);
    for wrong in [&parts[0][1..], b""] {
        let answer = follow(service, &urls[0], wrong).await;
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
    let mut named = Vec::new();
    for number in [1, 3] {
        let etag = sent(service, &urls[number - 1], parts[number - 1]).await;
        named.push(json!({"number": number, "etag": etag}));
    }
    let missing = complete(&client, &upload, json!({}))
        .await
        .problem(409, "conflict");
    assert!(
        missing["detail"]
            .as_str()
            .unwrap()
            .contains("part 2 is not there"),
        "{missing}"
    );
    let answer = complete(&client, &upload, json!({"parts": named})).await;
    answer.invalid(&["/parts/1/number", "/parts"]);
    for malformed in [
        json!({"parts": [{"number": 1}]}),
        json!({"parts": {}}),
        json!({"all": true}),
    ] {
        complete(&client, &upload, malformed)
            .await
            .problem(422, "invalid-request");
    }
    let etag = sent(service, &urls[1], parts[1]).await;
    // Its quotes are no part of it.
    named.insert(1, json!({"number": 2, "etag": etag.trim_matches('"')}));
    let made = complete(&client, &upload, json!({"parts": named}))
        .await
        .json(201);
    assert!(client.content(id(&made)).await == bytes);
    service.assert_holds(1).await;
}

async fn urls_are_for_the_parts_that_there_are(service: &Service) {
    let client = service.client("acme");
    let upload = begun(&client, 3 * PART).await;
    for (from, to, pointers) in [
        (0, 1, &["/from"][..]),
        (1, 4, &["/to"]),
        (2, 1, &["/to"]),
        (4, 4, &["/from", "/to"]),
    ] {
        sign(&client, &upload, from, to).await.invalid(pointers);
    }
    let path = format!("/v1/uploads/{}/parts", id(&upload));
    for malformed in [
        json!({"from": 1}),
        json!({"from": 1, "to": 1, "x": 1}),
        json!({"from": "1", "to": 1}),
    ] {
        send(client.post(&path).json(&malformed))
            .await
            .problem(422, "invalid-request");
    }
    // Asking puts the upload's end off, and with it that of the URLs.
    service.clock.advance(Duration::from_secs(3_600));
    let signed = sign(&client, &upload, 2, 2).await.json(200);
    assert_eq!(
        signed["items"][0]["expires_at"],
        "2026-02-01T13:00:00.123456Z"
    );
    let seen = look(&client, &upload).await.json(200);
    assert_eq!(seen["expires_at"], "2026-02-01T13:00:00.123456Z");
    service.assert_holds(0).await;
}

async fn a_terabyte_is_divided(service: &Service) {
    let client = service.client("acme");
    for (size, part_size, count) in [(1_u64 << 40, 117 * MIB, 8_963), (5 << 40, 583 * MIB, 8_993)] {
        let upload = begin(&client, json!({"name": "large", "size": size}))
            .await
            .json(201);
        assert_eq!(upload["part_size"], part_size);
        let signed = sign(&client, &upload, count - 999, count).await.json(200);
        assert_eq!(signed["items"].as_array().unwrap().len(), 1_000);
        sign(&client, &upload, count - 1_000, count)
            .await
            .invalid(&["/to"]);
        sign(&client, &upload, count, count + 1)
            .await
            .invalid(&["/to"]);
        let path = format!("/v1/uploads/{}", id(&upload));
        assert_eq!(send(client.delete(&path)).await.status, 204);
    }
    service.assert_holds(0).await;
}

async fn up_to_the_bound_an_upload_is_one_request(service: &Service) {
    let client = service.client("acme");
    for (size, strategy) in [(MIB, "single"), (MIB + 1, "multipart")] {
        let upload = begun(&client, size).await;
        assert_eq!(upload["strategy"], strategy, "{size}");
        assert_eq!(upload["put"].is_null(), strategy == "multipart", "{size}");
    }
    // No store has the SHA-256 of parts.
    for (size, status) in [(MIB, 201), (MIB + 1, 422)] {
        let body = json!({"name": "a", "size": size, "sha256": "0".repeat(64)});
        assert_eq!(begin(&client, body).await.status, status, "{size}");
    }
}
