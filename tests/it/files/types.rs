//! The type of what is uploaded: declared or found, allowed or not.

use crate::harness::client::{Client, id, send};
use crate::harness::content::PNG;
use crate::harness::raw;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    the_declared_type_is_kept,
    a_type_that_nobody_declared_is_found_in_the_bytes,
    a_name_does_not_make_a_type,
    encoded_content_is_refused,
    what_is_no_type_is_refused,
);

const HTML: &[u8] = b"<!DOCTYPE html><html><script>alert(1)</script></html>";

async fn upload(client: &Client, name: &str, declared: Option<&str>, content: &[u8]) -> String {
    let mut request = client.post(&format!("/v1/files?name={name}"));
    if let Some(declared) = declared {
        request = request.header("content-type", declared);
    }
    let file = send(request.body(content.to_vec())).await.json(201);
    let answer = send(client.get(&format!("/v1/files/{}/content", id(&file)))).await;
    assert_eq!(answer.header("content-type"), file["content_type"]);
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    file["content_type"].as_str().unwrap().to_owned()
}

async fn the_declared_type_is_kept(service: &Service) {
    let client = service.client("acme");
    for declared in [
        "text/plain; charset=utf-8",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "image/svg+xml",
        "x-own/type",
    ] {
        assert_eq!(upload(&client, "a", Some(declared), PNG).await, declared);
    }
}

async fn a_type_that_nobody_declared_is_found_in_the_bytes(service: &Service) {
    let client = service.client("acme");
    for declared in [None, Some("application/octet-stream")] {
        assert_eq!(upload(&client, "a", declared, PNG).await, "image/png");
        let gif = b"GIF89a\x01\0\x01\0\0\0\0;";
        assert_eq!(upload(&client, "a", declared, gif).await, "image/gif");
        let unknown = b"\x01\x02\x03\xff\xfe";
        assert_eq!(
            upload(&client, "a", declared, unknown).await,
            "application/octet-stream"
        );
        let text = upload(
            &client,
            "a",
            declared,
            "grüße
"
            .as_bytes(),
        )
        .await;
        assert_eq!(text, "text/plain; charset=utf-8");
    }
}

async fn a_name_does_not_make_a_type(service: &Service) {
    let client = service.client("acme");
    for declared in [None, Some("application/octet-stream")] {
        let found = upload(&client, "a.png", declared, HTML).await;
        assert!(!found.starts_with("image/"), "{found}");
    }
}

async fn encoded_content_is_refused(service: &Service) {
    let client = service.client("acme");
    for encoding in ["gzip", "br", "identity, gzip", "nonsense"] {
        let request = client
            .post("/v1/files")
            .header("content-encoding", encoding)
            .body("x");
        send(request).await.problem(415, "unsupported-media-type");
        let fields = [
            &*format!("content-encoding: {encoding}"),
            "content-length: 10",
        ];
        let answer = raw::exchange(service, "POST /v1/files", &fields, b"").await;
        answer.problem(415, "unsupported-media-type");
    }
    service.assert_holds(0).await;
}

async fn what_is_no_type_is_refused(service: &Service) {
    let client = service.client("acme");
    for declared in [
        "nonsense",
        "text/",
        "/plain",
        "text/plain; charset",
        "*/*",
        "a b/c",
    ] {
        let request = client
            .post("/v1/files")
            .header("content-type", declared)
            .body("x");
        let answer = send(request).await;
        assert!(matches!(answer.status, 415 | 422), "{declared} {answer:?}");
    }
    service.assert_holds(0).await;
}

mod allowed {
    //! Where only some types may come in, and one of those not.

    use super::{HTML, PNG};
    use crate::harness::client::send;
    use crate::harness::raw;
    use crate::harness::service::{Service, on_every_pair};

    on_every_pair!(
        with [
            ("BOX_LIMITS__ALLOWED_CONTENT_TYPES", "image/*,text/plain,text/html"),
            ("BOX_LIMITS__DENIED_CONTENT_TYPES", "image/svg+xml,text/html"),
        ];
        only_allowed_types_come_in,
        a_type_that_was_found_must_be_allowed_too,
        a_form_gets_no_other_types_in,
    );

    async fn only_allowed_types_come_in(service: &Service) {
        let client = service.client("acme");
        for declared in ["image/png", "IMAGE/JPEG", "text/plain; charset=utf-8"] {
            let request = client.post("/v1/files").header("content-type", declared);
            send(request.body("x")).await.json(201);
        }
        service.assert_holds(3).await;
        for declared in [
            "image/svg+xml",
            "Image/SVG+XML; a=b",
            "text/html",
            "text/html;charset=utf-8",
            "text/css",
            "application/pdf",
        ] {
            let fields = [&*format!("content-type: {declared}"), "content-length: 10"];
            let answer = raw::exchange(service, "POST /v1/files", &fields, b"").await;
            answer.problem(415, "unsupported-media-type");
        }
        service.assert_holds(3).await;
    }

    async fn a_type_that_was_found_must_be_allowed_too(service: &Service) {
        let client = service.client("acme");
        for declared in [None, Some("application/octet-stream")] {
            for (content, allowed) in [
                (PNG, true),
                (HTML, false),
                (b"%PDF-1.7\n", false),
                (b"\x01\x02\xff", false),
            ] {
                let mut request = client.post("/v1/files");
                if let Some(declared) = declared {
                    request = request.header("content-type", declared);
                }
                let answer = send(request.body(content)).await;
                if allowed {
                    answer.json(201);
                } else {
                    answer.problem(415, "unsupported-media-type");
                }
            }
        }
        service.assert_holds(2).await;
    }

    async fn a_form_gets_no_other_types_in(service: &Service) {
        let client = service.client("acme");
        for (properties, part) in [
            (r#"{"content_type":"text/html"}"#, "image/png"),
            ("{}", "text/html"),
            ("{}", "application/pdf"),
        ] {
            let form = format!(
                "--b\r\ncontent-disposition: form-data; name=\"properties\"\r\n\r\n{properties}\r\n\
                 --b\r\ncontent-disposition: form-data; name=\"file\"\r\ncontent-type: {part}\r\n\r\n\
                 x\r\n--b--\r\n"
            );
            let request = client
                .post("/v1/files")
                .header("content-type", "multipart/form-data; boundary=b");
            send(request.body(form))
                .await
                .problem(415, "unsupported-media-type");
        }
        service.assert_holds(0).await;
    }
}
