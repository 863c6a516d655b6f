//! What may be fetched: which URLs, from which addresses, with which header fields.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::address::is_public;

/// The longest URL, in bytes.
pub const URL_BYTES: usize = 8 * 1024;

/// The header fields that an item may set. None of them changes how a message is framed or where it
/// goes; none is what the metadata services of clouds ask for.
pub const HEADERS: [&str; 8] = [
    "accept",
    "accept-language",
    "authorization",
    "cookie",
    "origin",
    "referer",
    "user-agent",
    "x-api-key",
];

#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Beside the public ones.
    pub allow_networks: Vec<IpNet>,
    /// Empty: all.
    pub allow_ports: Vec<u16>,
}

/// Why something is not fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Url(&'static str),
    /// Not which one: the answer of a private resolver is nobody's business.
    #[error("the host's address is not a public one")]
    Address,
}

impl Policy {
    pub fn allows(&self, address: IpAddr) -> bool {
        is_public(address)
            || self
                .allow_networks
                .iter()
                .any(|network| network.contains(&address))
    }

    /// Checks all of a URL that can be checked without resolving its host. An address is checked here
    /// in every spelling, as the parser has read it; a name is checked once it is resolved.
    ///
    /// # Errors
    /// Why it is not fetched.
    pub fn check(&self, url: &Url) -> Result<(), Refusal> {
        if url.as_str().len() > URL_BYTES {
            return Err(Refusal::Url("the URL is longer than 8 KiB"));
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refusal::Url("the URL is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::Url("the URL holds credentials"));
        }
        let port = url.port_or_known_default().unwrap_or(0);
        if port == 0 || (!self.allow_ports.is_empty() && !self.allow_ports.contains(&port)) {
            return Err(Refusal::Url(
                "the URL's port is not one that is fetched from",
            ));
        }
        let address: IpAddr = match url.host() {
            None => return Err(Refusal::Url("the URL has no host")),
            Some(Host::Domain("")) => return Err(Refusal::Url("the URL has no host")),
            Some(Host::Domain(_)) => return Ok(()),
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
        };
        if self.allows(address) {
            Ok(())
        } else {
            Err(Refusal::Address)
        }
    }
}

/// Resolves names to the addresses that may be connected to, and to no others: what is checked is what
/// is used, so that a name can't mean another address a moment later.
pub(super) struct Guarded(pub Arc<Policy>);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found
                .filter(|address| policy.allows(address.ip()))
                .collect();
            if allowed.is_empty() {
                return Err(Refusal::Address.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}
