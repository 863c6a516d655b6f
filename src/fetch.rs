//! Outgoing HTTP to whatever a URL names, which may be anything: guarded against addresses that only
//! this machine should reach, bounded in time, and resumed where a transfer breaks.
//!
//! No address is connected to that [`Policy`] does not allow. A host that is an address is checked
//! before each request, on every hop; a name's addresses are checked in the resolver that the
//! connection is made with. Proxies of the environment are not asked.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_DISPOSITION, CONTENT_ENCODING, HeaderMap, HeaderValue, IF_RANGE,
    LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Certificate, Response, StatusCode};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::trace::span_within;

pub mod address;
mod body;
mod name;
pub mod policy;

pub use body::ByteStream;
pub use name::of_url as name_of_url;
pub use policy::{Policy, Refusal};

const REDIRECTS: usize = 5;

/// The longest wait that an origin may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// How long an unused connection is kept. How many there are is bounded by who fetches: a bound here
/// would close those that the next item needs.
const POOL_IDLE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct Settings {
    pub policy: Policy,
    /// Until a connection stands, its name resolved and TLS agreed on.
    pub connect_timeout: Duration,
    /// From then on until the head of an answer has come.
    pub first_byte_timeout: Duration,
    /// Without a byte of a body.
    pub stall_timeout: Duration,
    /// In PEM: authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Fetcher {
    http: reqwest::Client,
    policy: Arc<Policy>,
    settings: Arc<Settings>,
    clock: Clock,
}

/// What kind of failure it was, as a report names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    BadUrl,
    BlockedAddress,
    Dns,
    Connect,
    Tls,
    Timeout,
    HttpStatus,
    Redirects,
}

impl Fault {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadUrl => "bad-url",
            Self::BlockedAddress => "blocked-address",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::HttpStatus => "http-status",
            Self::Redirects => "redirects",
        }
    }
}

/// Why there are no bytes, or no more of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    pub fault: Fault,
    /// For whoever asked for the URL.
    pub detail: String,
    pub status: Option<u16>,
    /// Whether it may pass.
    pub retry: bool,
    /// Not before this has gone by.
    pub retry_after: Option<Duration>,
}

impl Failure {
    fn new(fault: Fault, detail: impl Into<String>) -> Self {
        Self {
            fault,
            detail: detail.into(),
            status: None,
            retry: false,
            retry_after: None,
        }
    }

    /// The same, where it may pass.
    fn passing(fault: Fault, detail: impl Into<String>) -> Self {
        Self {
            retry: true,
            ..Self::new(fault, detail)
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let fault = match refusal {
            Refusal::Url(_) => Fault::BadUrl,
            Refusal::Address => Fault::BlockedAddress,
        };
        Self::new(fault, refusal.to_string())
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub url: Url,
    /// Of those in [`policy::HEADERS`]. Not sent past the URL's own origin.
    pub headers: HeaderMap,
    /// When all of it must be over.
    pub deadline: Instant,
}

/// An answer whose body is about to come.
pub struct Transfer {
    pub status: u16,
    /// Of the body, in bytes, where it is known.
    pub length: Option<u64>,
    /// Where it came from in the end.
    pub url: Url,
    /// What the origin calls it.
    pub name: Option<String>,
    /// Decoded. It ends with an error, never cleanly, where bytes are missing.
    pub body: ByteStream,
}

impl Fetcher {
    /// # Errors
    /// There is no resolver or no TLS on this system; certificates that can't be read.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self> {
        let policy = Arc::new(settings.policy.clone());
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("box-service/", env!("CARGO_PKG_VERSION")))
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .dns_resolver(policy::Guarded(policy.clone()))
                .connect_timeout(settings.connect_timeout)
                .pool_idle_timeout(POOL_IDLE)
                .http2_initial_stream_window_size(256 * 1024)
                .http2_initial_connection_window_size(1024 * 1024)
        };
        let authorities = match &settings.ca_file {
            Some(file) => authorities(file)?,
            None => Vec::new(),
        };
        let merged = builder().tls_certs_merge(authorities.clone());
        let http = merged.build().or_else(|error| {
            tracing::warn!(%error, "this system's certificates can't be read: no others are trusted than those of fetch.ca_file");
            builder().tls_certs_only(authorities).build()
        });
        Ok(Self {
            http: http.map_err(Error::internal)?,
            policy,
            settings: Arc::new(settings),
            clock,
        })
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Asks for a URL, and goes where it is sent on to.
    ///
    /// # Errors
    /// Why there is nothing to be had: an answer other than 200 among them.
    pub async fn get(&self, request: Request) -> Result<Transfer, Failure> {
        let Request {
            mut url,
            mut headers,
            deadline,
        } = request;
        for _ in 0..=REDIRECTS {
            let response = self.send(&url, &headers, deadline).await?;
            if !is_redirect(response.status()) {
                return self.transfer(response, url, headers, deadline);
            }
            let next = redirected(&url, &response)?;
            // They were meant for the one that was asked, and for nobody it points at.
            if next.origin() != url.origin() {
                headers.clear();
            }
            url = next;
        }
        Err(Failure::new(
            Fault::Redirects,
            format!("more than {REDIRECTS} redirects"),
        ))
    }

    /// One request, and the head of its answer.
    async fn send(
        &self,
        url: &Url,
        headers: &HeaderMap,
        deadline: Instant,
    ) -> Result<Response, Failure> {
        self.policy.check(url)?;
        // Nothing of it behind the host, which may be a secret; and no `traceparent` to strangers.
        let span = span_within!(
            "fetch",
            otel.kind = "client",
            http.request.method = "GET",
            http.response.status_code = tracing::field::Empty,
            server.address = url.host_str(),
            server.port = url.port_or_known_default().map(i64::from),
        );
        let failed = |failure: Failure| {
            span.record("error.type", failure.fault.as_str());
            span.record("otel.status_code", "ERROR");
            failure
        };
        // As it is: then its length is known, and it can be taken up again where it broke.
        let request = self
            .http
            .get(url.clone())
            .header(ACCEPT_ENCODING, "identity")
            .headers(headers.clone());
        let Settings {
            connect_timeout,
            first_byte_timeout,
            ..
        } = *self.settings;
        let until = deadline.min(Instant::now() + connect_timeout + first_byte_timeout);
        match timeout_at(until, request.send()).await {
            Ok(Ok(response)) => {
                // The resolver has seen to it; a second look costs nothing.
                let peer = response.remote_addr();
                if peer.is_some_and(|peer| !self.policy.allows(peer.ip())) {
                    return Err(failed(Refusal::Address.into()));
                }
                let status = i64::from(response.status().as_u16());
                span.record("http.response.status_code", status);
                Ok(response)
            }
            Ok(Err(error)) => Err(failed(failure(&error))),
            Err(_) => {
                let late = Failure::passing(Fault::Timeout, "no answer came in time");
                Err(failed(late))
            }
        }
    }

    fn transfer(
        &self,
        response: Response,
        url: Url,
        headers: HeaderMap,
        deadline: Instant,
    ) -> Result<Transfer, Failure> {
        let status = response.status();
        if status != StatusCode::OK {
            return Err(self.refused(&response));
        }
        let fields = response.headers();
        let codings = body::codings(fields)?;
        let name = fields
            .get(CONTENT_DISPOSITION)
            .and_then(name::of_disposition);
        let length = response.content_length().filter(|_| codings.is_empty());
        Ok(Transfer {
            status: status.as_u16(),
            length,
            name,
            body: body::stream(
                self.clone(),
                response,
                url.clone(),
                headers,
                deadline,
                codings,
            ),
            url,
        })
    }

    /// The rest of a body from `offset` on, of the same representation.
    async fn resume(
        &self,
        url: &Url,
        headers: &HeaderMap,
        offset: u64,
        validator: &HeaderValue,
        deadline: Instant,
    ) -> Result<Response, Failure> {
        let mut headers = headers.clone();
        if let Ok(range) = HeaderValue::try_from(format!("bytes={offset}-")) {
            headers.insert(RANGE, range);
        }
        headers.insert(IF_RANGE, validator.clone());
        let response = self.send(url, &headers, deadline).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::OK => Err(Failure {
                status: Some(200),
                ..Failure::passing(
                    Fault::Connect,
                    "the transfer broke off, and can't be taken up again there",
                )
            }),
            _ => Err(self.refused(&response)),
        }
    }

    fn refused(&self, response: &Response) -> Failure {
        let status = response.status();
        Failure {
            status: Some(status.as_u16()),
            retry: matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504),
            retry_after: response
                .headers()
                .get(RETRY_AFTER)
                .and_then(|value| self.retry_after(value)),
            ..Failure::new(Fault::HttpStatus, format!("the answer was {status}"))
        }
    }

    /// Seconds or a date (RFC 9110, section 10.2.3).
    fn retry_after(&self, value: &HeaderValue) -> Option<Duration> {
        let text = value.to_str().ok()?.trim();
        let wait = match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => {
                let at = httpdate::parse_http_date(text).ok()?;
                let at = at.duration_since(std::time::UNIX_EPOCH).ok()?;
                let now = Duration::from_millis(self.clock.now().as_unix_millis());
                at.saturating_sub(now)
            }
        };
        Some(wait.min(LONGEST_RETRY_AFTER))
    }
}

/// The certificates of a file.
fn authorities(file: &Path) -> Result<Vec<Certificate>> {
    let refused = |error: Box<dyn StdError + Send + Sync>| {
        let detail = format!(
            "can't take certificates from fetch.ca_file {}",
            file.display()
        );
        Error::unavailable(error).detailed(detail)
    };
    let text = std::fs::read(file).map_err(|error| refused(error.into()))?;
    let found = Certificate::from_pem_bundle(&text).map_err(|error| refused(error.into()))?;
    if found.is_empty() {
        return Err(refused("there are none".into()));
    }
    Ok(found)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn redirected(url: &Url, response: &Response) -> Result<Url, Failure> {
    let location = response
        .headers()
        .get(LOCATION)
        .and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
        .and_then(|text| url.join(text).ok());
    location.ok_or_else(|| Failure {
        status: Some(response.status().as_u16()),
        ..Failure::new(Fault::Redirects, "a redirect leads to no URL")
    })
}

/// What an error of the client's means. Its text is not shown: it may name addresses.
fn failure(error: &reqwest::Error) -> Failure {
    let mut parsed = false;
    let secure = error.url().is_some_and(|url| url.scheme() == "https");
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return refusal.clone().into();
        }
        // HTTP/2 keeps of an I/O error its kind and its text: TLS says so of what came.
        let invalid = error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData);
        if invalid && secure || error.is::<rustls::Error>() {
            return Failure::new(Fault::Tls, "no TLS connection could be agreed on");
        }
        parsed |= error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_parse);
        // An I/O error hands out what its own cause comes from, not the cause itself.
        cause = match error.downcast_ref::<std::io::Error>() {
            Some(error) => error
                .get_ref()
                .map(|within| within as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    if error.is_dns() {
        return Failure::new(Fault::Dns, "the host's name could not be resolved");
    }
    if error.is_timeout() {
        return Failure::passing(Fault::Timeout, "the host could not be reached in time");
    }
    if parsed {
        return Failure::new(Fault::Connect, "the answer is no HTTP");
    }
    let detail = if error.is_connect() {
        "the host could not be reached"
    } else {
        "the connection broke off"
    };
    Failure::passing(Fault::Connect, detail)
}

fn encodings(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONTENT_ENCODING)
        .into_iter()
        .flat_map(|value| value.to_str().unwrap_or("?").split(','))
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
}
