//! Connections: accepted, bounded in number and time, and drained when the service stops.

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::app::App;
use crate::http::{self, Peer, Proxies};
use crate::metrics::{Active, Counter, Gauge};
use crate::places::{Place, Places};
use crate::workers;

mod read;
mod stream;

use read::Read;
use stream::{Activity, Stream, Timeouts};

/// How long uploads that were cut off may take to give their objects up. What takes longer is left
/// to the leases.
const ABANDON: Duration = Duration::from_secs(5);

/// After a failed accept: the likely reason is a lack of file descriptors, which won't end at once.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Connections of who watches: they are few, and must not be kept out by those of clients.
const ADMIN_CONNECTIONS: usize = 100;

/// Serves `listener` until `stop` is ready, and `admin` where there is one; then lets the requests in
/// flight finish for `limits.shutdown_grace`, cuts off what still runs, and closes the database.
pub async fn serve(
    app: App,
    listener: TcpListener,
    admin: Option<TcpListener>,
    stop: impl Future<Output = ()>,
) {
    let stopping = app.stopping.clone();
    let reaper = tokio::spawn(workers::reaper(
        app.domain.clone(),
        app.config.reaper.interval,
        stopping.clone(),
    ));
    let importer = tokio::spawn(workers::importer(app.domain.clone(), stopping.clone()));
    let links = tokio::spawn(workers::links(app.domain.clone(), stopping.clone()));
    let generation = tokio::spawn(workers::generation(app.domain.clone(), stopping.clone()));
    let hasher = tokio::spawn(workers::hasher(app.domain.clone(), stopping.clone()));
    let lifecycle = tokio::spawn(workers::lifecycle(
        app.domain.clone(),
        app.config.lifecycle.interval,
        stopping.clone(),
    ));
    // Until requests have ended: the last ones are noted too.
    let ended = CancellationToken::new();
    let auditor = tokio::spawn(workers::auditor(
        app.domain.clone(),
        app.config.audit.interval,
        ended.clone(),
    ));

    let connections = Connections::new(&app);
    let watchers = Connections::of_admin(&app);
    let watched = async {
        if let Some(listener) = admin {
            watchers.accept(listener).await;
        }
        std::future::pending::<()>().await
    };
    let served = async {
        tokio::select! {
            () = stop => {}
            () = connections.accept(listener) => {}
        }
        stopping.cancel();
        tracing::info!("stopping: no new connections, requests in flight may finish");
        connections.drain(app.config.limits.shutdown_grace).await;
    };
    // Who watches sees the end of the others.
    tokio::select! {
        () = served => {}
        () = watched => {}
    }
    watchers.drain(Duration::ZERO).await;

    app.tasks.close();
    if tokio::time::timeout(ABANDON, app.tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!("uploads that were cut off are left to their leases");
    }
    let _ = reaper.await;
    let _ = importer.await;
    let _ = generation.await;
    let _ = hasher.await;
    let _ = lifecycle.await;
    let _ = links.await;
    if let Err(error) = app.domain.link_uses_flush().await {
        tracing::warn!(%error, "the last uses of links could not be written");
    }
    ended.cancel();
    let _ = auditor.await;
    app.domain.intents_give_back().await;
    app.domain.metadata.close().await;
    tracing::info!("stopped");
}

/// The most that a connection reads at once, and so the longest head of a request, in bytes. Bodies
/// come in buffers of this size: larger ones, freed by other threads, would leave more memory unused.
const READ: usize = 128 * 1024;

struct Connections {
    router: axum::Router,
    timeouts: Timeouts,
    permits: std::sync::Arc<Semaphore>,
    /// Those of one address.
    places: Places<IpAddr>,
    proxies: Proxies,
    refused: Counter,
    open: Gauge,
    graceful: GracefulShutdown,
    /// Cancelled when the time to finish is over.
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Connections {
    fn new(app: &App) -> Self {
        let most = usize::try_from(app.config.limits.max_connections).unwrap_or(usize::MAX);
        let open = app.domain.metrics.http.connections.clone();
        let bound = &app.domain.metrics.http.connections_max;
        bound.set(app.config.limits.max_connections.into());
        Self {
            places: Places::new(app.config.limits.max_connections_per_address),
            ..Self::answering(app, http::router(app), most, open)
        }
    }

    fn of_admin(app: &App) -> Self {
        let router = http::admin_router(app);
        Self::answering(app, router, ADMIN_CONNECTIONS, Gauge::default())
    }

    fn answering(app: &App, router: axum::Router, most: usize, open: Gauge) -> Self {
        let limits = &app.config.limits;
        Self {
            router,
            timeouts: Timeouts {
                head: limits.header_timeout,
                idle: limits.idle_timeout,
            },
            permits: std::sync::Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            places: Places::new(0),
            proxies: Proxies::new(&app.config),
            refused: app.domain.metrics.refusals.connections.clone(),
            open,
            graceful: GracefulShutdown::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Goes on until it is dropped. Connections beyond the limit of all wait in the system's queue; those
    /// beyond the limit of their address are closed, so that they keep nobody waiting.
    async fn accept(&self, listener: TcpListener) {
        loop {
            let Ok(permit) = self.permits.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((tcp, peer)) => {
                    let Some(place) = self.place(peer.ip()) else {
                        self.refused.inc();
                        tracing::debug!(%peer, "a connection too many of one address");
                        continue;
                    };
                    let serving = self.serve(tcp, Peer(peer));
                    let cut = self.cut.clone();
                    let counted = Active::count(&self.open);
                    self.tasks.spawn(async move {
                        tokio::select! {
                            () = serving => {}
                            () = cut.cancelled() => {}
                        }
                        drop((permit, place, counted));
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// None where this address has all the connections that it may have.
    fn place(&self, ip: IpAddr) -> Option<Place<IpAddr>> {
        if self.proxies.trusts(ip) {
            return Some(Place::uncounted());
        }
        self.places.take(&http::network(ip))
    }

    fn serve(&self, tcp: TcpStream, peer: Peer) -> impl Future<Output = ()> + use<> {
        // Else a small answer waits for the acknowledgement of its head.
        let _ = tcp.set_nodelay(true);
        let activity = Activity::new(&self.timeouts);
        let stream = Stream::new(tcp, activity.clone(), self.timeouts);
        let router = self.router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let answering = activity.begin();
            request.extensions_mut().insert(peer);
            let overridden = http::override_method(&mut request);
            let read = Read::new(request.body());
            let taken = read.clone();
            let request = request.map(|body| Body::new(taken.watching(body)));
            let answer = router.clone().oneshot(request);
            async move {
                let mut response: Response<Body> = answer.await?;
                if overridden {
                    // A HEAD that came by POST has no bytes, and its answer must not promise any.
                    response.headers_mut().remove(CONTENT_LENGTH);
                }
                if response.status().is_client_error() || response.status().is_server_error() {
                    read.close_unless_whole(response.headers_mut());
                }
                // Held until the last of the body is handed over.
                Ok::<_, Infallible>(response.map(|body| {
                    body.map_frame(move |frame| {
                        let _ = &answering;
                        frame
                    })
                }))
            }
        });
        // The stream keeps the time: hyper's own bounds the head and an idle connection alike.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_buf_size(READ)
            .serve_connection(TokioIo::new(stream), service);
        let watched = self.graceful.watch(connection);
        async move {
            if let Err(error) = watched.await {
                tracing::debug!(%error, "a connection ended with an error");
            }
        }
    }

    async fn drain(self, grace: Duration) {
        if tokio::time::timeout(grace, self.graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("requests that still run are cut off");
            self.cut.cancel();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}
