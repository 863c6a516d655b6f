//! Uploads in parts that come in any order, and requests that are signed for others to make.

use box_service::objects::{Completion, Multipart, SignedRequest};
use reqwest::StatusCode;

use super::*;

/// S3's least part but for the last one.
const PART: usize = 5 * MIB;
const TTL: Duration = Duration::from_secs(60);

fn uploads(fixture: &Fixture, key: &ObjectKey) -> Multipart {
    fixture.objects.multipart(key, fixture.lease()).unwrap()
}

async fn send(request: &SignedRequest, bytes: &Bytes) -> reqwest::Response {
    let mut put = reqwest::Client::new().put(&request.url);
    for (name, value) in &request.headers {
        put = put.header(name, value);
    }
    put.body(bytes.clone()).send().await.unwrap()
}

async fn numbers(uploads: &Multipart, upload: &str) -> Vec<(u32, u64)> {
    let page = uploads.list_parts(upload, 0).await.unwrap().unwrap();
    assert_eq!(page.next, None);
    let parts = page.parts.into_iter();
    parts.map(|part| (part.number, part.size)).collect()
}

#[tokio::test]
async fn a_directory_has_none() {
    let fixture = Fixture::local();
    let key = fixture.key();
    assert!(fixture.objects.multipart(&key, fixture.lease()).is_none());
    let signed = fixture
        .objects
        .presign_put(&key, None, TTL, &[])
        .await
        .unwrap();
    assert_eq!(signed, None);
}

#[tokio::test]
async fn parts_with_gaps_in_any_order_become_an_object() {
    let Some(fixture) = Fixture::s3() else {
        return;
    };
    let key = fixture.key();
    let uploads = uploads(&fixture, &key);
    let content = content(2 * PART + 77);
    let upload = uploads.create(true).await.unwrap();
    assert_eq!(numbers(&uploads, &upload).await, []);
    let mut sent = Vec::new();
    for (number, range) in [
        (9_000, 2 * PART..content.len()),
        (3, 0..PART),
        (17, PART..2 * PART),
    ] {
        let bytes = pieces(&content.slice(range), MIB);
        let etag = uploads.put_part(&upload, number, bytes).await.unwrap();
        sent.push((number, etag));
    }
    let size = content.len() as u64;
    let part = PART as u64;
    assert_eq!(
        numbers(&uploads, &upload).await,
        [(3, part), (17, part), (9_000, 77)]
    );
    let behind = uploads.list_parts(&upload, 3).await.unwrap().unwrap();
    assert_eq!(behind.parts.len(), 2);
    for stored in &behind.parts {
        assert!(
            sent.contains(&(stored.number, stored.etag.clone())),
            "{stored:?}"
        );
    }
    assert_eq!(fixture.objects.head(&key).await.unwrap(), None);
    sent.sort();
    let done = uploads.complete(&upload, &sent, size).await.unwrap();
    assert_eq!(done, Completion::Done);
    same(&fixture.get(&key, 0..size).await.unwrap(), &content);
    // Again, it is as it was; and with another size, it is something else.
    let again = uploads.complete(&upload, &sent, size).await.unwrap();
    assert_eq!(again, Completion::Done);
    let other = uploads.complete(&upload, &sent, size + 1).await.unwrap();
    assert_eq!(other, Completion::Gone);
    assert_eq!(uploads.list_parts(&upload, 0).await.unwrap(), None);
    assert!(uploads.settled());
    assert!(fixture.objects.erase(&key, 1).await.unwrap());
    assert!(fixture.listed().await.is_empty());
}

#[tokio::test]
async fn a_part_is_sent_again_in_its_place() {
    let Some(fixture) = Fixture::s3() else {
        return;
    };
    let key = fixture.key();
    let uploads = uploads(&fixture, &key);
    let upload = uploads.create(true).await.unwrap();
    let mut last = String::new();
    for bytes in ["first, and longer", "second"] {
        let bytes = vec![Bytes::from_static(bytes.as_bytes())];
        last = uploads.put_part(&upload, 1, bytes).await.unwrap();
    }
    let page = uploads.list_parts(&upload, 0).await.unwrap().unwrap();
    // A store may list the first one, too.
    assert!(
        page.parts
            .iter()
            .any(|part| part.etag == last && part.size == 6)
    );
    let parts = [(1, last)];
    let done = uploads.complete(&upload, &parts, 6).await.unwrap();
    assert_eq!(done, Completion::Done);
    same(&fixture.get(&key, 0..6).await.unwrap(), b"second");
}

#[tokio::test]
async fn parts_that_make_no_object_are_refused_and_stay() {
    let Some(fixture) = Fixture::s3() else {
        return;
    };
    let key = fixture.key();
    let uploads = uploads(&fixture, &key);
    let upload = uploads.create(true).await.unwrap();
    let bytes = || vec![content(1_000)];
    let etag = uploads.put_part(&upload, 1, bytes()).await.unwrap();
    let wrong = [(1, "\"00000000000000000000000000000000\"".to_owned())];
    let missing = [(2, etag.clone())];
    for parts in [&wrong, &missing] {
        let outcome = uploads.complete(&upload, parts, 1_000).await.unwrap();
        assert_eq!(outcome, Completion::Refused("InvalidPart".into()));
        assert_eq!(numbers(&uploads, &upload).await, [(1, 1_000)]);
    }
    let second = uploads.put_part(&upload, 2, bytes()).await.unwrap();
    let parts = [(1, etag), (2, second)];
    let outcome = uploads.complete(&upload, &parts, 2_000).await.unwrap();
    assert_eq!(outcome, Completion::Refused("EntityTooSmall".into()));
    assert!(uploads.settled());
    uploads.abort(&upload).await.unwrap();
    uploads.abort(&upload).await.unwrap();
    assert_eq!(uploads.list_parts(&upload, 0).await.unwrap(), None);
    let put = uploads.put_part(&upload, 1, bytes()).await;
    assert_eq!(put.unwrap_err().kind(), Kind::NotFound);
    let outcome = uploads.complete(&upload, &parts, 2_000).await.unwrap();
    assert_eq!(outcome, Completion::Gone);
    assert!(fixture.listed().await.is_empty());
}

#[tokio::test]
async fn a_second_upload_of_a_key_does_not_write_over_it() {
    let Some(fixture) = Fixture::s3() else {
        return;
    };
    let key = fixture.key();
    let uploads = uploads(&fixture, &key);
    let mut begun = Vec::new();
    for bytes in ["first", "the other one"] {
        let upload = uploads.create(true).await.unwrap();
        let bytes = Bytes::from_static(bytes.as_bytes());
        let etag = uploads.put_part(&upload, 1, vec![bytes]).await.unwrap();
        begun.push((upload, [(1, etag)]));
    }
    let (upload, parts) = &begun[0];
    let done = uploads.complete(upload, parts, 5).await.unwrap();
    assert_eq!(done, Completion::Done);
    let (upload, parts) = &begun[1];
    let late = uploads.complete(upload, parts, 13).await.unwrap();
    assert_eq!(late, Completion::Gone);
    same(&fixture.get(&key, 0..5).await.unwrap(), b"first");
    assert!(fixture.objects.erase(&key, 1).await.unwrap());
    assert!(fixture.listed().await.is_empty());
}

#[tokio::test]
async fn a_short_lease_refuses_to_begin_or_end_one() {
    let Some(fixture) = Fixture::s3() else {
        return;
    };
    let key = fixture.key();
    let lease = Lease::new(
        fixture.clock.now().plus(CALL_TIMEOUT / 2),
        fixture.clock.clone(),
    );
    let uploads = fixture.objects.multipart(&key, lease).unwrap();
    let errors = [
        uploads.create(false).await.unwrap_err(),
        uploads.put_part("u", 1, Vec::new()).await.unwrap_err(),
        uploads.complete("u", &[], 0).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), Kind::Unavailable);
    }
    assert!(uploads.settled());
    assert!(fixture.listed().await.is_empty());
}

#[tokio::test]
async fn parts_come_by_signed_requests() {
    let Some(fixture) = Fixture::s3() else {
        return;
    };
    let key = fixture.key();
    let uploads = uploads(&fixture, &key);
    let content = content(PART + 5);
    let upload = uploads.create(false).await.unwrap();
    let mut sent = Vec::new();
    for (number, range) in [(2, PART..PART + 5), (1, 0..PART)] {
        let request = uploads
            .presign_part(&upload, number, None, TTL)
            .await
            .unwrap();
        assert_eq!(request.expires_in, TTL);
        let answer = send(&request, &content.slice(range)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
        sent.push((number, etag));
        // The number is signed.
        let forged = SignedRequest {
            url: request.url.replace("partNumber=", "partNumber=3"),
            ..request
        };
        let answer = send(&forged, &Bytes::from_static(b"forged")).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    }
    sent.sort();
    let size = content.len() as u64;
    let done = uploads.complete(&upload, &sent, size).await.unwrap();
    assert_eq!(done, Completion::Done);
    same(&fixture.get(&key, 0..size).await.unwrap(), &content);
    // What is still signed is good for nothing.
    let late = uploads.presign_part(&upload, 1, None, TTL).await.unwrap();
    let answer = send(&late, &Bytes::from_static(b"late")).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_signed_put_writes_once_and_as_it_was_signed() {
    let Some(fixture) = Fixture::s3() else {
        return;
    };
    let key = fixture.key();
    let checksum = [("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=".to_owned())];
    let wrong = fixture
        .objects
        .presign_put(&key, None, TTL, &checksum)
        .await
        .unwrap()
        .unwrap();
    let bytes = Bytes::from_static(b"once");
    assert_eq!(send(&wrong, &bytes).await.status(), StatusCode::BAD_REQUEST);
    let request = fixture
        .objects
        .presign_put(&key, None, TTL, &[])
        .await
        .unwrap()
        .unwrap();
    assert_eq!(request.headers, [("if-none-match".into(), "*".into())]);
    let careless = SignedRequest {
        headers: Vec::new(),
        ..request.clone()
    };
    assert_eq!(
        send(&careless, &bytes).await.status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(fixture.objects.head(&key).await.unwrap(), None);
    assert_eq!(send(&request, &bytes).await.status(), StatusCode::OK);
    let second = send(&request, &Bytes::from_static(b"twice")).await;
    assert_eq!(second.status(), StatusCode::PRECONDITION_FAILED);
    same(&fixture.get(&key, 0..4).await.unwrap(), b"once");
}

#[tokio::test]
async fn a_signed_request_is_of_so_many_bytes() {
    let Some(fixture) = Fixture::s3() else {
        return;
    };
    let key = fixture.key();
    let uploads = uploads(&fixture, &key);
    let upload = uploads.create(false).await.unwrap();
    let put = fixture.objects.presign_put(&key, Some(4), TTL, &[]);
    let put = put.await.unwrap().unwrap();
    assert_eq!(put.headers, [("if-none-match".into(), "*".into())]);
    let part = uploads
        .presign_part(&upload, 1, Some(4), TTL)
        .await
        .unwrap();
    assert_eq!(part.headers, []);
    for request in [put, part] {
        for wrong in [&b"five!"[..], b"six", b""] {
            let answer = send(&request, &Bytes::from_static(wrong)).await;
            assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        }
        let answer = send(&request, &Bytes::from_static(b"four")).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn the_store_tells_what_it_knows_of_the_bytes() {
    let Some(fixture) = Fixture::s3() else {
        return;
    };
    let objects = &fixture.objects;
    let key = fixture.key();
    assert_eq!(objects.head_checked(&key).await.unwrap(), None);
    let bytes = content(1_000);
    fixture.put(&key, &bytes, 1_000).await;
    let checked = objects.head_checked(&key).await.unwrap().unwrap();
    assert_eq!(checked.size, 1_000);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes);
    // What it does not know is read.
    assert!(
        checked
            .crc64nvme
            .is_none_or(|told| told == crc.to_be_bytes())
    );
    let probe = fixture.key();
    let refused = objects.signed_put_is_refused(&probe, bytes).await.unwrap();
    assert_eq!(refused, Some(true));
}
