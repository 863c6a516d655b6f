//! Replacements that are refused or break off, and leave what was there.

use serde_json::Value;

use super::{NEVER, content_path, path, put, shown};
use crate::harness::client::{id, send};
use crate::harness::connection::{Raw, until};
use crate::harness::content::MIB;
use crate::harness::raw;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    what_is_trashed_or_not_there_is_not_replaced,
    what_is_wrong_with_a_replacement_is_told_before_its_body_is_read,
    a_replacement_that_breaks_off_leaves_what_was_there,
    a_file_that_is_trashed_under_way_is_not_replaced,
);

async fn what_is_trashed_or_not_there_is_not_replaced(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "first").await;
    let foreign = put(&service.client("other"), &file, "second").await;
    foreign.problem(404, "not-found");
    for absent in [NEVER, "x", "%00"] {
        let request = client.put(&format!("/v1/files/{absent}/content"));
        send(request.body("second")).await.problem(404, "not-found");
        // Without a byte of the body.
        let line = format!("PUT /v1/files/{absent}/content");
        let answer = raw::exchange(service, &line, &["content-length: 5"], b"").await;
        answer.problem(404, "not-found");
    }
    assert_eq!(send(client.delete(&path(&file))).await.status, 204);
    let trashed = shown(&client, &file).await;
    put(&client, &file, "second").await.problem(410, "gone");
    let line = format!("PUT {}", content_path(&file));
    let answer = raw::exchange(service, &line, &["content-length: 5"], b"").await;
    answer.problem(410, "gone");
    assert_eq!(shown(&client, &file).await, trashed);
    let restore = client.post(&format!("{}/restore", path(&file)));
    send(restore).await.json(200);
    assert_eq!(client.content(id(&file)).await, b"first");
    service.assert_holds(1).await;
}

async fn what_is_wrong_with_a_replacement_is_told_before_its_body_is_read(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "first").await;
    for (query, field, status) in [
        ("?nonsense=1", "x: y", 422),
        ("?name=b", "x: y", 422),
        ("?metadata=%7B%7D", "x: y", 422),
        ("?sha256=x", "x: y", 422),
        ("", "content-type: nonsense", 422),
        ("", "content-encoding: gzip", 415),
    ] {
        let line = format!("PUT {}{query}", content_path(&file));
        let fields = ["content-length: 10", field];
        let answer = raw::exchange(service, &line, &fields, b"").await;
        assert_eq!(answer.status, status, "{query} {field} {answer:?}");
    }
    assert_eq!(shown(&client, &file).await, file);
    assert_eq!(client.content(id(&file)).await, b"first");
    service.assert_holds(1).await;
}

/// A replacement of which less is sent than was declared.
async fn begun(service: &Service, file: &Value) -> tokio::net::TcpStream {
    let line = format!("PUT {}", content_path(file));
    let fields = ["content-length: 3000000", "content-type: a/b"];
    let stream = raw::send(service, &line, &fields, &[7; 2 * MIB]).await;
    until("the replacement has begun", || async {
        service.count("objects WHERE state = 'writing'").await > 0
    })
    .await;
    stream
}

async fn a_replacement_that_breaks_off_leaves_what_was_there(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "first").await;
    for _ in 0..3 {
        drop(begun(service, &file).await);
        until("the replacement is given up", || async {
            service.count("objects WHERE state = 'writing'").await == 0
        })
        .await;
        assert_eq!(shown(&client, &file).await, file);
        assert_eq!(client.content(id(&file)).await, b"first");
    }
    service.assert_holds(1).await;
}

async fn a_file_that_is_trashed_under_way_is_not_replaced(service: &Service) {
    use tokio::io::AsyncWriteExt;

    let client = service.client("acme");
    for permanent in [false, true] {
        let file = client.upload("a", "first").await;
        let mut stream = begun(service, &file).await;
        let delete = format!("{}?permanent={permanent}", path(&file));
        assert_eq!(send(client.delete(&delete)).await.status, 204);
        stream
            .write_all(&vec![7; 3_000_000 - 2 * MIB])
            .await
            .unwrap();
        let answer = Raw::over(stream).answer().await;
        if permanent {
            answer.problem(404, "not-found");
            send(client.get(&path(&file)))
                .await
                .problem(404, "not-found");
        } else {
            answer.problem(410, "gone");
            assert_eq!(shown(&client, &file).await["version"], 1);
        }
    }
    service.assert_holds(1).await;
}

mod small {
    //! Where a file may have 1 MiB at most.

    use super::super::{content_path, put, shown};
    use crate::harness::client::{id, send};
    use crate::harness::content::{MIB, noise};
    use crate::harness::raw;
    use crate::harness::service::{Service, on_every_pair};

    on_every_pair!(
        with [
            ("BOX_LIMITS__MAX_FILE_SIZE", "1MiB"),
            ("BOX_LIMITS__DENIED_CONTENT_TYPES", "text/html"),
        ];
        limits_are_those_of_uploads,
    );

    async fn limits_are_those_of_uploads(service: &Service) {
        let client = service.client("acme");
        let file = client.upload("a", "first").await;
        let line = format!("PUT {}", content_path(&file));
        let length = format!("content-length: {}", MIB + 1);
        let answer = raw::exchange(service, &line, &[&length], b"").await;
        answer.problem(413, "payload-too-large");
        let body = [raw::chunk(&noise(MIB)), raw::chunk(b"x"), raw::chunk(b"")].concat();
        let fields = ["transfer-encoding: chunked"];
        let answer = raw::exchange(service, &line, &fields, &body).await;
        answer.problem(413, "payload-too-large");
        let request = client.put(&content_path(&file));
        let request = request.header("content-type", "text/html").body("x");
        assert_eq!(send(request).await.status, 415);
        assert_eq!(shown(&client, &file).await, file);
        assert_eq!(client.content(id(&file)).await, b"first");
        let exact = put(&client, &file, noise(MIB)).await;
        assert_eq!(exact.json(200)["size"], MIB);
        service.assert_holds(1).await;
    }
}
