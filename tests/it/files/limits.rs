//! Uploads where a file may have 1 MiB at most.

use crate::harness::client::{id, send};
use crate::harness::content::{MIB, noise};
use crate::harness::raw;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    with [("BOX_LIMITS__MAX_FILE_SIZE", "1MiB")];
    a_file_may_be_as_large_as_the_limit,
    a_declared_length_beyond_the_limit_is_refused_before_the_body,
    a_body_of_unknown_length_is_refused_at_the_byte_beyond_the_limit,
    a_part_beyond_the_limit_is_refused_while_it_is_read,
    nothing_else_is_asked_of_who_declares_too_much,
);

const OPENING: &[u8] = b"--b\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\n";

async fn a_file_may_be_as_large_as_the_limit(service: &Service) {
    let client = service.client("acme");
    let content = noise(MIB);
    let raw = client.upload("a", content.clone()).await;
    assert_eq!(raw["size"], MIB);
    assert_eq!(client.content(id(&raw)).await, content);

    // A form of such a file is longer than that.
    let form = [OPENING, &content, b"\r\n--b--\r\n"].concat();
    let request = client
        .post("/v1/files")
        .header("content-type", "multipart/form-data; boundary=b");
    let part = send(request.body(form)).await.json(201);
    assert_eq!(part["size"], MIB);

    let body = [raw::chunk(&content), raw::chunk(b"")].concat();
    let fields = ["transfer-encoding: chunked"];
    let answer = raw::exchange(service, "POST /v1/files", &fields, &body).await;
    assert_eq!(answer.json(201)["size"], MIB);
    service.assert_holds(3).await;
}

async fn a_declared_length_beyond_the_limit_is_refused_before_the_body(service: &Service) {
    for length in ["1048577", "10995116277760"] {
        let fields = [format!("content-length: {length}")];
        let answer = raw::exchange(service, "POST /v1/files", &[&fields[0]], b"").await;
        answer.problem(413, "payload-too-large");
    }
    let fields = [
        "content-type: multipart/form-data; boundary=b",
        "content-length: 10000000",
    ];
    let answer = raw::exchange(service, "POST /v1/files", &fields, b"").await;
    answer.problem(413, "payload-too-large");
    service.assert_holds(0).await;
}

async fn a_body_of_unknown_length_is_refused_at_the_byte_beyond_the_limit(service: &Service) {
    let body = [raw::chunk(&noise(MIB)), raw::chunk(b"x")].concat();
    let fields = ["transfer-encoding: chunked"];
    let answer = raw::exchange(service, "POST /v1/files", &fields, &body).await;
    answer.problem(413, "payload-too-large");
    service.assert_holds(0).await;
}

async fn a_part_beyond_the_limit_is_refused_while_it_is_read(service: &Service) {
    let part = [OPENING, &noise(MIB + 1), b"\r\n--b--\r\n"].concat();
    let length = format!("content-length: {}", part.len());
    let declared = ["content-type: multipart/form-data; boundary=b", &length];
    let answer = raw::exchange(service, "POST /v1/files", &declared, &part).await;
    answer.problem(413, "payload-too-large");

    let unknown = [declared[0], "transfer-encoding: chunked"];
    let chunk = raw::chunk(&part);
    let answer = raw::exchange(service, "POST /v1/files", &unknown, &chunk).await;
    answer.problem(413, "payload-too-large");
    service.assert_holds(0).await;
}

async fn nothing_else_is_asked_of_who_declares_too_much(service: &Service) {
    let fields = [
        "content-length: 1048577",
        "content-encoding: gzip",
        "repr-digest: nonsense",
    ];
    let line = "POST /v1/files?nonsense=1&name=..";
    let answer = raw::exchange(service, line, &fields, b"").await;
    answer.problem(413, "payload-too-large");
}
