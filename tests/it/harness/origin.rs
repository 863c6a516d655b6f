//! An origin for imports, which answers each path as a test has said, and misbehaves where it should.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::connection::until;

/// What is done on a connection once the head of a request has come.
#[derive(Clone, Debug)]
pub enum Act {
    Send(Vec<u8>),
    Wait(Duration),
    /// Waits until the test cancels it, or the other side is gone.
    Hold(CancellationToken),
    /// Says nothing more, and does not close before the other side does.
    Stall,
    /// Closes so that the other side is told of an error.
    Reset,
    /// Sends these bytes until nobody takes them any more.
    Endless(Vec<u8>),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
}

type Answers = HashMap<String, Vec<Vec<Act>>>;

#[derive(Clone, Debug, Default)]
struct Shared {
    answers: Arc<Mutex<Answers>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Requests at work now, and the most there were at a time.
    busy: Arc<Mutex<(usize, usize)>>,
}

/// Ends with its test.
#[derive(Debug)]
pub struct Origin {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    shared: Shared,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Shared::default();
        let ours = shared.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                connections.spawn(serve(tcp, ours.clone()));
            }
        });
        Self { url, shared, task }
    }

    /// Answers a path: the first request to it with the first of these, and so on; the last again and
    /// again.
    pub fn answers(&self, path: &str, answers: Vec<Vec<Act>>) -> String {
        let mut all = self.shared.answers.lock().unwrap();
        all.insert(path.to_owned(), answers);
        format!("{}{path}", self.url)
    }

    /// Answers a path with these bytes, as a sound server does.
    pub fn file(&self, path: &str, content: &[u8]) -> String {
        self.answers(path, vec![vec![ok("", content)]])
    }

    pub fn seen(&self, path: &str) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter()
            .filter(|seen| seen.path == path)
            .cloned()
            .collect()
    }

    /// Waits until so many requests are at work, neither more nor less.
    pub async fn until_busy(&self, requests: usize) {
        until(&format!("{requests} requests are at work"), || async {
            self.shared.busy.lock().unwrap().0 == requests
        })
        .await;
    }

    pub fn most_at_a_time(&self) -> usize {
        self.shared.busy.lock().unwrap().1
    }
}

/// 200 with a length and further fields, each with its line's end.
pub fn ok(fields: &str, content: &[u8]) -> Act {
    let length = content.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{fields}\r\n");
    Act::Send([head.as_bytes(), content].concat())
}

/// A head as it stands here, with its last empty line.
pub fn head(lines: &str) -> Act {
    Act::Send(format!("HTTP/1.1 {}\r\n\r\n", lines.replace('\n', "\r\n")).into_bytes())
}

async fn serve(mut tcp: TcpStream, shared: Shared) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            let mut chunk = [0; 4096];
            match tcp.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(read) => buffer.extend_from_slice(&chunk[..read]),
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end + 4);
        let mut lines = head.lines();
        let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let seen = Seen {
            path: path.clone(),
            headers,
        };
        let (answer, closes) = {
            let mut all = shared.seen.lock().unwrap();
            let before = all.iter().filter(|seen| seen.path == path).count();
            all.push(seen);
            let answers = shared.answers.lock().unwrap();
            let answer = match answers.get(&path) {
                Some(answers) => answers[before.min(answers.len() - 1)].clone(),
                None => vec![self::head("404 Not Found\ncontent-length: 0")],
            };
            let closes = !framed(&answer);
            (answer, closes)
        };
        {
            let mut busy = shared.busy.lock().unwrap();
            busy.0 += 1;
            busy.1 = busy.1.max(busy.0);
        }
        let goes_on = act(&mut tcp, answer).await;
        shared.busy.lock().unwrap().0 -= 1;
        if !goes_on || closes {
            return;
        }
    }
}

/// Whether an answer says where it ends, and goes as far.
fn framed(answer: &[Act]) -> bool {
    let sent: Vec<u8> = answer
        .iter()
        .flat_map(|act| match act {
            Act::Send(bytes) => bytes.clone(),
            _ => Vec::new(),
        })
        .collect();
    let Some(end) = sent.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&sent[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|length| length.trim().parse().ok());
    length == Some(sent.len() - end - 4)
}

async fn act(tcp: &mut TcpStream, answer: Vec<Act>) -> bool {
    for act in answer {
        let done = match act {
            Act::Send(bytes) => tcp.write_all(&bytes).await,
            Act::Wait(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Act::Hold(held) => {
                tokio::select! {
                    () = held.cancelled() => {}
                    () = gone(&*tcp) => return false,
                }
                Ok(())
            }
            Act::Stall => {
                gone(&*tcp).await;
                return false;
            }
            Act::Reset => {
                let _ = tcp.set_zero_linger();
                return false;
            }
            Act::Endless(bytes) => loop {
                if let Err(error) = tcp.write_all(&bytes).await {
                    break Err(error);
                }
            },
        };
        if done.is_err() {
            return false;
        }
    }
    true
}

/// Ready when the other side has closed the connection, which sends nothing more before.
async fn gone(tcp: &TcpStream) {
    while matches!(tcp.peek(&mut [0]).await, Ok(1..)) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
