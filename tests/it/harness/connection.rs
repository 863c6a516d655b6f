//! A connection that a test drives byte by byte, for what no well-behaved client does.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::Answer;

/// Longer than anything here takes on a busy machine: who waits as long waits for ever.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Raw {
    stream: TcpStream,
    /// What was received and not yet taken.
    received: Vec<u8>,
}

impl Raw {
    pub async fn open(address: &str) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            received: Vec::new(),
        }
    }

    /// The rest of an exchange that was begun elsewhere.
    pub fn over(stream: TcpStream) -> Self {
        Self {
            stream,
            received: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        patiently(self.stream.write_all(bytes.as_ref()))
            .await
            .unwrap();
    }

    /// The same, where the other side may be gone; whether it was not.
    pub async fn sends(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        patiently(self.stream.write_all(bytes.as_ref()))
            .await
            .is_ok()
    }

    /// The end of what this side sends; answers are still read.
    pub async fn finish_sending(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// The next answer, with its body, which must be framed by `Content-Length` or chunks.
    pub async fn answer(&mut self) -> Answer {
        let (status, headers) = self.head().await;
        let body = match headers.get("content-length") {
            Some(length) => self.take(length.to_str().unwrap().parse().unwrap()).await,
            None => self.chunks().await,
        };
        Answer {
            status,
            headers,
            body,
        }
    }

    /// The status and the header fields of the next answer.
    pub async fn head(&mut self) -> (u16, reqwest::header::HeaderMap) {
        let head = self.take_through(b"\r\n\r\n").await;
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let mut headers = reqwest::header::HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':').unwrap();
            let name: reqwest::header::HeaderName = name.parse().unwrap();
            headers.append(name, value.trim().parse().unwrap());
        }
        (status.parse().unwrap(), headers)
    }

    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.take_through(b"\r\n").await;
            let length = String::from_utf8(line).unwrap();
            let length = usize::from_str_radix(length.trim(), 16).unwrap();
            body.extend(self.take(length).await);
            assert_eq!(self.take(2).await, b"\r\n");
            if length == 0 {
                return body;
            }
        }
    }

    /// So many bytes of what comes next.
    pub async fn take(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() < length {
            assert!(self.receive().await, "closed within an answer");
        }
        self.received.drain(..length).collect()
    }

    async fn take_through(&mut self, mark: &[u8]) -> Vec<u8> {
        loop {
            let found = self.received.windows(mark.len()).position(|w| w == mark);
            if let Some(at) = found {
                return self.received.drain(..at + mark.len()).collect();
            }
            assert!(
                self.receive().await,
                "closed before an answer: {:?}",
                String::from_utf8_lossy(&self.received)
            );
        }
    }

    /// Receives some more; false at the end. A reset is a failure.
    async fn receive(&mut self) -> bool {
        patiently(self.stream.read_buf(&mut self.received))
            .await
            .unwrap()
            > 0
    }

    /// Waits until the other side closes; whatever came before that and was not taken.
    pub async fn until_closed(&mut self) -> Vec<u8> {
        while self.receive().await {}
        std::mem::take(&mut self.received)
    }

    /// The same, for a connection that may also be reset.
    pub async fn until_gone(&mut self) -> Vec<u8> {
        while matches!(
            patiently(self.stream.read_buf(&mut self.received)).await,
            Ok(1..)
        ) {}
        std::mem::take(&mut self.received)
    }

    /// Whether an answer begins before the other side closes.
    pub async fn is_answered(&mut self) -> bool {
        matches!(
            patiently(self.stream.read_buf(&mut self.received)).await,
            Ok(1..)
        )
    }

    /// Whether the connection is open and silent now.
    pub fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        self.received.is_empty()
            && matches!(self.stream.try_read(&mut byte), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
    }
}

async fn patiently<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("the other side did nothing for a long time")
}

/// Waits until `check` holds. What it waits for must come by itself.
pub async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let wait = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        panic!("waited in vain until {what}");
    }
}

/// A header block for a request of this client: method, path, and further lines that each end in CRLF.
pub fn request(method: &str, path: &str, token: &str, lines: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: box.test\r\nauthorization: Bearer {token}\r\n{lines}\r\n"
    )
}
