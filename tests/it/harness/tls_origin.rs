//! An origin that speaks TLS, with certificates of an authority that only a test knows, and HTTP/2 where
//! it is asked for.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use time::{Duration, OffsetDateTime};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What is wrong with an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// Its certificate is for another host.
    Host,
    Expired,
    /// It wants a certificate of its client's.
    WantsClient,
}

#[derive(Clone, Default)]
struct Shared {
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<(Version, String)>>>,
}

/// Answers every path with its own name. Ends with its test.
pub struct TlsOrigin {
    /// `https://localhost:PORT`
    pub url: String,
    shared: Shared,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for TlsOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    fn server(&self, protocols: &[&str], flaw: Flaw) -> ServerConfig {
        let host = match flaw {
            Flaw::Host => "elsewhere.test",
            _ => "localhost",
        };
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        if flaw == Flaw::Expired {
            params.not_after = OffsetDateTime::UNIX_EPOCH + Duration::days(365);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let builder = ServerConfig::builder();
        let builder = if flaw == Flaw::WantsClient {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.0.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = protocols
            .iter()
            .map(|protocol| protocol.as_bytes().to_vec())
            .collect();
        config
    }
}

impl TlsOrigin {
    /// Offers these protocols (ALPN), the first one rather than the next.
    pub async fn start(authority: &Authority, protocols: &[&str], flaw: Flaw) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(authority.server(protocols, flaw)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Shared::default();
        let ours = shared.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), ours.clone());
                connections.spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                    let service = service_fn(move |request| answer(request, shared.clone()));
                    let io = TokioIo::new(tls);
                    // It ends with an error when the client has gone.
                    if http2 {
                        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = server.serve_connection(io, service).await;
                    } else {
                        let server = hyper::server::conn::http1::Builder::new();
                        let _ = server.serve_connection(io, service).await;
                    }
                });
            }
        });
        Self {
            url: format!("https://localhost:{port}"),
            shared,
            task,
        }
    }

    /// Connections on which TLS was agreed on.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub fn seen(&self) -> Vec<(Version, String)> {
        self.shared.seen.lock().unwrap().clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Shared,
) -> Result<Response<http_body_util::Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let seen = (request.version(), path.clone());
    shared.seen.lock().unwrap().push(seen);
    Ok(Response::new(http_body_util::Full::from(path)))
}
