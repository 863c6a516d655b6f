//! A way to a server that can be cut: the server itself serves other tests too.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Nothing passes, and nobody is told: the server stands still, or its machine is gone.
    Silent,
    /// Every connection is closed, also a new one: the server is down.
    Closed,
}

pub struct Proxy {
    /// `127.0.0.1:PORT`
    pub address: String,
    /// The last one is that of connections to come; those before are of machines that are gone.
    ways: Arc<Mutex<Vec<watch::Sender<Way>>>>,
    break_after: BreakAfter,
    task: tokio::task::JoinHandle<()>,
}

/// How many bytes of clients still pass before the connection is broken that brings the next one. None: any.
type BreakAfter = Arc<Mutex<Option<usize>>>;

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ways = Arc::new(Mutex::new(vec![watch::Sender::new(Way::Open)]));
        let break_after = BreakAfter::default();
        let task = tokio::spawn({
            let (ways, break_after) = (ways.clone(), break_after.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let way = ways.lock().unwrap().last().unwrap().subscribe();
                    tokio::spawn(pass(client, server.clone(), way, break_after.clone()));
                }
            }
        });
        Self {
            address,
            ways,
            break_after,
            task,
        }
    }

    pub fn is(&self, way: Way) {
        let ways = self.ways.lock().unwrap();
        ways.last().unwrap().send_replace(way);
    }

    /// Breaks one connection, once clients have sent so many more bytes.
    pub fn breaks_after(&self, bytes: usize) {
        *self.break_after.lock().unwrap() = Some(bytes);
    }

    pub fn has_broken(&self) -> bool {
        self.break_after.lock().unwrap().is_none()
    }

    /// Another machine takes the server's place: what was connected to the first stays silent for ever.
    pub fn is_replaced(&self) {
        self.is(Way::Silent);
        let mut ways = self.ways.lock().unwrap();
        ways.push(watch::Sender::new(Way::Open));
    }
}

async fn pass(
    client: TcpStream,
    server: String,
    mut way: watch::Receiver<Way>,
    break_after: BreakAfter,
) {
    let mut closed = way.clone();
    let passing = async {
        way.wait_for(|way| *way == Way::Open).await.ok()?;
        let server = TcpStream::connect(server).await.ok()?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::try_join!(
            copy(from_client, to_server, way.clone(), Some(break_after)),
            copy(from_server, to_client, way.clone(), None),
        )
        .ok()?;
        Some(())
    };
    tokio::select! {
        _ = passing => {}
        _ = closed.wait_for(|way| *way == Way::Closed) => {}
    }
}

/// The connection is to end on both sides.
struct Broken;

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
    break_after: Option<BreakAfter>,
) -> Result<(), Broken> {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let passing = break_after
            .as_deref()
            .map_or(length, |left| passes(left, length));
        if way.wait_for(|way| *way == Way::Open).await.is_err()
            || to.write_all(&buffer[..passing]).await.is_err()
        {
            return Ok(());
        }
        if passing < length {
            return Err(Broken);
        }
    }
    Ok(())
}

/// How many of so many bytes pass; fewer than there are breaks the connection, and it alone.
fn passes(left: &Mutex<Option<usize>>, length: usize) -> usize {
    let mut left = left.lock().unwrap();
    let Some(bytes) = *left else { return length };
    *left = bytes.checked_sub(length);
    bytes.min(length)
}
