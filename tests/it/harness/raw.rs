//! One exchange over a bare connection: what no well-behaved client sends, and each byte of what
//! comes back.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::Answer;
use super::service::Service;
use box_service::auth::Scope;

/// Sends a head of this request line and these fields, with a token of every scope, and then `body`
/// as it is, which may be less than was declared. Reads one answer: the body that its
/// Content-Length declares, and no end of the connection is awaited.
pub async fn exchange(service: &Service, line: &str, fields: &[&str], body: &[u8]) -> Answer {
    let mut stream = send(service, line, fields, body).await;
    let mut received = Vec::new();
    let end = loop {
        if let Some(end) = position(&received, b"\r\n\r\n") {
            break end + 4;
        }
        assert!(stream.read_buf(&mut received).await.unwrap() > 0, "no head");
    };
    let (status, headers) = head(&received[..end]);
    let length: usize = headers["content-length"].to_str().unwrap().parse().unwrap();
    while received.len() < end + length {
        assert!(stream.read_buf(&mut received).await.unwrap() > 0, "cut off");
    }
    Answer {
        status,
        headers,
        body: received[end..end + length].to_vec(),
    }
}

/// As `exchange`, with `Connection: close`; the body is everything until the connection ends,
/// whatever was declared.
pub async fn to_the_end(service: &Service, line: &str, fields: &[&str]) -> Answer {
    let mut all = fields.to_vec();
    all.push("connection: close");
    let mut stream = send(service, line, &all, b"").await;
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    let end = position(&received, b"\r\n\r\n").unwrap() + 4;
    let (status, headers) = head(&received[..end]);
    Answer {
        status,
        headers,
        body: received[end..].to_vec(),
    }
}

/// The connection after head and body were sent.
pub async fn send(service: &Service, line: &str, fields: &[&str], body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(service.address()).await.unwrap();
    let token = service.token("acme", Scope::ALL);
    let mut request = format!("{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n");
    for field in fields {
        request.push_str(field);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    stream
}

/// One chunk of a body of unknown length, without the empty one that ends it.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

pub fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

fn head(bytes: &[u8]) -> (u16, HeaderMap) {
    let text = std::str::from_utf8(bytes).unwrap().trim_end();
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap();
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        let name: HeaderName = name.parse().unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    });
    (status, headers.collect())
}
