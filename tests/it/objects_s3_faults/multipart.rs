//! What the calls of an upload in parts make of answers that are lost, or that say something else.

use box_service::objects::{Completion, Multipart};

use super::*;

const PARTS: [(u32, String); 0] = [];

impl Fake {
    fn uploads(&self) -> Multipart {
        let lease = Lease::new(self.clock.now().plus(CALL_TIMEOUT * 2), self.clock.clone());
        self.objects.multipart(&self.key(), lease).unwrap()
    }
}

/// The first Complete is carried out, and its answer lost; then `size` is at the key.
async fn complete_is_lost(answer_then: &'static str, size: Option<u64>) -> (Completion, bool) {
    let fake = Fake::new(move |request, before| match request.method.as_str() {
        "POST" if before == 0 => None,
        "POST" => refused(answer_then, "NoSuchUpload"),
        "HEAD" => match size {
            Some(size) => Some(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n")),
            None => answer("404 Not Found", "", ""),
        },
        _ => well(request),
    })
    .await;
    let uploads = fake.uploads();
    let completed = uploads.complete("u", &PARTS, 7).await.unwrap();
    assert_eq!(fake.count("POST uploadId=u"), 2);
    (completed, uploads.settled())
}

#[tokio::test]
async fn a_complete_whose_answer_is_lost_is_found_out() {
    for status in ["404 Not Found", "200 OK", "412 Precondition Failed"] {
        let done = complete_is_lost(status, Some(7)).await;
        assert_eq!(done, (Completion::Done, false));
        for wrong in [None, Some(6)] {
            let gone = complete_is_lost(status, wrong).await;
            assert_eq!(gone, (Completion::Gone, false));
        }
    }
}

#[tokio::test]
async fn a_complete_asks_for_an_empty_key_and_is_tried_again_while_nothing_is_known() {
    let fake = Fake::new(|request, before| {
        assert!(request.headers.contains("if-none-match: *\r\n"));
        match before {
            0 => refused("200 OK", "InternalError"),
            1 => refused("409 Conflict", "ConditionalRequestConflict"),
            _ => well(request),
        }
    })
    .await;
    let uploads = fake.uploads();
    let completed = uploads.complete("u", &PARTS, 7).await.unwrap();
    assert_eq!(completed, Completion::Done);
    assert!(!uploads.settled());
}

#[tokio::test]
async fn a_refusal_is_told_and_leaves_no_doubt() {
    let fake = Fake::new(|_, _| refused("400 Bad Request", "InvalidPart")).await;
    let uploads = fake.uploads();
    let completed = uploads.complete("u", &PARTS, 7).await.unwrap();
    assert_eq!(completed, Completion::Refused("InvalidPart".into()));
    assert_eq!(fake.count("POST"), 1);
    assert!(uploads.settled());

    let fake = Fake::new(|_, _| refused("403 Forbidden", "AccessDenied")).await;
    let uploads = fake.uploads();
    let denied = uploads.complete("u", &PARTS, 7).await.unwrap_err();
    assert_eq!(denied.kind(), Kind::Unavailable);
    let denied = uploads.create(false).await.unwrap_err();
    assert_eq!(denied.kind(), Kind::Unavailable);
    assert_eq!(fake.count("POST"), 2);
    assert!(uploads.settled());
}

#[tokio::test]
async fn an_upload_that_may_have_begun_twice_leaves_a_doubt() {
    for checked in [true, false] {
        let fake =
            Fake::new(|request, before| if before == 0 { None } else { well(request) }).await;
        let uploads = fake.uploads();
        assert_eq!(uploads.create(checked).await.unwrap(), "u1");
        assert!(!uploads.settled());
    }
}

#[tokio::test]
async fn a_list_of_parts_is_tried_again_and_never_ends_early() {
    let page = "<ListPartsResult><IsTruncated>true</IsTruncated>\
        <Part><PartNumber>4</PartNumber><ETag>\"e\"</ETag><Size>9</Size></Part></ListPartsResult>";
    let fake = Fake::new(move |request, before| match before {
        _ if request.query.contains("marker=4") => answer("200 OK", "", page),
        0 => None,
        1 => refused("500 Internal Server Error", "InternalError"),
        _ => answer("200 OK", "", page),
    })
    .await;
    let uploads = fake.uploads();
    let first = uploads.list_parts("u", 0).await.unwrap().unwrap();
    assert_eq!((first.next, first.parts.len()), (Some(4), 1));
    // The second page says the same again: a store that turns in a circle.
    let circle = uploads.list_parts("u", 4).await.unwrap_err();
    assert_eq!(circle.kind(), Kind::Unavailable);

    let fake = Fake::new(|_, _| refused("404 Not Found", "NoSuchUpload")).await;
    assert_eq!(fake.uploads().list_parts("u", 0).await.unwrap(), None);
    let fake = Fake::new(|_, _| refused("404 Not Found", "NoSuchBucket")).await;
    let error = fake.uploads().list_parts("u", 0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_store_that_writes_over_what_is_there_is_found_out() {
    for (second, refused) in [("412 Precondition Failed", true), ("200 OK", false)] {
        let fake = Fake::new(move |request, before| {
            assert!(request.headers.contains("if-none-match: *\r\n"));
            assert!(request.query.contains("x-amz-signature="));
            let status = if before == 0 { "200 OK" } else { second };
            answer(status, "etag: \"e\"\r\n", "")
        })
        .await;
        let bytes = Bytes::from_static(b"bytes");
        let found = fake.objects.signed_put_is_refused(&fake.key(), bytes).await;
        assert_eq!(found.unwrap(), Some(refused));
        assert_eq!(fake.count("PUT"), 2);
    }
    // What says neither leaves it open.
    for (first, second) in [
        ("403 Forbidden", "200 OK"),
        ("200 OK", "503 Service Unavailable"),
    ] {
        let fake =
            Fake::new(move |_, before| refused(if before == 0 { first } else { second }, "X"))
                .await;
        let bytes = Bytes::from_static(b"bytes");
        let found = fake.objects.signed_put_is_refused(&fake.key(), bytes).await;
        assert_eq!(found.unwrap_err().kind(), Kind::Unavailable);
    }
}
