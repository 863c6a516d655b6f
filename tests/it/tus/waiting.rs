//! What happens while bytes are waited for.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::connection::until;

use super::*;

on_every_pair!(
    bytes_are_asked_for_once_they_are_wanted,
    no_connection_to_the_database_is_held_meanwhile,
);

/// The next head that comes.
async fn next_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// `Expect: 100-continue` (RFC 9110, section 10.1.1).
async fn bytes_are_asked_for_once_they_are_wanted(service: &Service) {
    let client = service.client("acme");
    let path = create(&client, 3).await;
    let line = format!("PATCH {path}");
    let waiting = |at: usize| {
        let fields = [
            "tus-resumable: 1.0.0".to_owned(),
            format!("content-type: {BYTES}"),
            format!("upload-offset: {at}"),
            "content-length: 3".to_owned(),
            "expect: 100-continue".to_owned(),
        ];
        let line = line.clone();
        async move {
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            raw::send(service, &line, &fields, b"").await
        }
    };
    let head = next_head(&mut waiting(1).await).await;
    assert!(head.starts_with("HTTP/1.1 409 "), "{head}");
    let mut stream = waiting(0).await;
    let head = next_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
    stream.write_all(b"abc").await.unwrap();
    let head = next_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
    assert_eq!(offset(&client, &path).await, "3");
}

async fn no_connection_to_the_database_is_held_meanwhile(service: &Service) {
    let client = service.client("acme");
    let domain = &service.app.domain;
    // More than there are connections.
    let (_, _, most) = domain.metadata.connections();
    let mut waiting = Vec::new();
    for _ in 0..most + 2 {
        let line = format!("PATCH {}", create(&client, 6).await);
        let fields = [
            "tus-resumable: 1.0.0",
            &format!("content-type: {BYTES}"),
            "upload-offset: 0",
            "content-length: 6",
        ];
        waiting.push(raw::send(service, &line, &fields, b"abc").await);
    }
    until("all write", || async {
        domain.metrics.uploads.active.get() == waiting.len() as i64
    })
    .await;
    until("no connection is lent", || async {
        domain.metadata.connections().0 == 0
    })
    .await;
    let listed = send(client.get("/v1/uploads")).await.json(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), waiting.len());
    for mut stream in waiting {
        stream.write_all(b"def").await.unwrap();
        let head = next_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
    }
    service.assert_holds(u64::from(most) + 2).await;
}
