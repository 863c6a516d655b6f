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
    task: tokio::task::JoinHandle<()>,
}

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
        let task = tokio::spawn({
            let ways = ways.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let way = ways.lock().unwrap().last().unwrap().subscribe();
                    tokio::spawn(pass(client, server.clone(), way));
                }
            }
        });
        Self {
            address,
            ways,
            task,
        }
    }

    pub fn is(&self, way: Way) {
        let ways = self.ways.lock().unwrap();
        ways.last().unwrap().send_replace(way);
    }

    /// Another machine takes the server's place: what was connected to the first stays silent for ever.
    pub fn is_replaced(&self) {
        self.is(Way::Silent);
        let mut ways = self.ways.lock().unwrap();
        ways.push(watch::Sender::new(Way::Open));
    }
}

async fn pass(client: TcpStream, server: String, mut way: watch::Receiver<Way>) {
    let mut closed = way.clone();
    let passing = async {
        way.wait_for(|way| *way == Way::Open).await.ok()?;
        let server = TcpStream::connect(server).await.ok()?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::join!(
            copy(from_client, to_server, way.clone()),
            copy(from_server, to_client, way.clone()),
        );
        Some(())
    };
    tokio::select! {
        _ = passing => {}
        _ = closed.wait_for(|way| *way == Way::Closed) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if way.wait_for(|way| *way == Way::Open).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
