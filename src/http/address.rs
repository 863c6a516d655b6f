//! Where a request came from, said by those who are believed: the one place that reads
//! `X-Forwarded-For` and `Forwarded`.
//!
//! A proxy adds the address that it was called from behind those that it was told. So they are read
//! from the right: as long as the one who speaks is a proxy of our own, the address before it is
//! believed. What stands further to the left is the client's own words.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::config::{Config, ForwardedBy};

/// The client's address: the connection's, or what trusted proxies say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(pub IpAddr);

/// Whose word on a client's address is taken.
#[derive(Clone, Debug)]
pub struct Proxies {
    trusted: Vec<IpNet>,
    by: ForwardedBy,
}

impl Proxies {
    pub fn new(config: &Config) -> Self {
        Self {
            trusted: config.trusted_proxies.clone(),
            by: config.forwarded_by,
        }
    }

    pub fn trusts(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.trusted.iter().any(|network| network.contains(&ip))
    }

    /// The first address from the right that is no trusted proxy's. What can't be read, or is hidden on
    /// purpose, ends the search: then it is the last one that was believed.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.trusts(client) {
            return client;
        }
        let (name, read): (_, fn(&str) -> Option<IpAddr>) = match self.by {
            ForwardedBy::XForwardedFor => (HeaderName::from_static("x-forwarded-for"), node),
            ForwardedBy::Forwarded => (HeaderName::from_static("forwarded"), forwarded_for),
        };
        for line in headers.get_all(name).iter().rev() {
            let Ok(line) = line.to_str() else {
                return client;
            };
            for hop in line.rsplit(',') {
                let Some(ip) = read(hop.trim()) else {
                    return client;
                };
                client = ip;
                if !self.trusts(client) {
                    return client;
                }
            }
        }
        client
    }
}

/// Whom limits take an address for. One client has at least a /64 of IPv6 to choose from.
pub fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip => ip,
    }
}

/// An address as proxies write it: alone, in brackets, with a port.
fn node(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse()
        .ok()
        .or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
        .or_else(|| bracketed().map(IpAddr::V6))
        .map(|ip: IpAddr| ip.to_canonical())
}

/// The `for` of one element (RFC 7239, section 4). An element that was cut at a comma within quotes is
/// not whole, and so not read: nobody can make one up within a value that a proxy quotes.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut found = None;
    for pair in element.split(';') {
        let (name, value) = pair.trim().split_once('=')?;
        let value = match value.strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"')?,
            None => value,
        };
        if value.contains(['"', '\\']) {
            return None;
        }
        if name.eq_ignore_ascii_case("for") && found.replace(value).is_some() {
            return None;
        }
    }
    node(found?)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn proxies(trusted: &[&str], by: ForwardedBy) -> Proxies {
        Proxies {
            trusted: trusted.iter().map(|text| text.parse().unwrap()).collect(),
            by,
        }
    }

    fn client(by: ForwardedBy, peer: &str, lines: &[&str]) -> String {
        let proxies = proxies(&["10.0.0.0/8", "fd00::/8", "127.0.0.1/32"], by);
        let mut headers = HeaderMap::new();
        // The other header is whoever's.
        let (name, other) = match by {
            ForwardedBy::XForwardedFor => ("x-forwarded-for", "forwarded"),
            ForwardedBy::Forwarded => ("forwarded", "x-forwarded-for"),
        };
        headers.insert(other, HeaderValue::from_static("for=6.6.6.6"));
        for line in lines {
            headers.append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn hops_are_believed_from_the_right_as_far_as_they_are_proxies() {
        for (peer, lines, expected) in [
            // A stranger's word is nothing.
            ("8.8.8.8", &["1.2.3.4"][..], "8.8.8.8"),
            ("8.8.8.8", &["10.0.0.1"], "8.8.8.8"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            // What the client made up stands to the left of what the proxy saw.
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6", "1.2.3.4,10.0.0.2"], "1.2.3.4"),
            ("10.0.0.1", &["10.0.0.9, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            // All are ours: the one that called first.
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // What can't be read ends it.
            ("10.0.0.1", &["1.2.3.4, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["1.2.3.4,"], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4 5.6.7.8"], "10.0.0.1"),
            ("10.0.0.1", &["0x7f000001"], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4, \u{e4}"], "10.0.0.1"),
            // Spellings.
            ("::ffff:10.0.0.1", &["1.2.3.4:5678"], "1.2.3.4"),
            ("10.0.0.1", &["::ffff:1.2.3.4"], "1.2.3.4"),
            ("fd00::1", &["2001:DB8::1"], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]"], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]:443, fd00::2"], "2001:db8::1"),
        ] {
            let found = client(ForwardedBy::XForwardedFor, peer, lines);
            assert_eq!(found, expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn elements_of_forwarded_are_read_whole_or_not_at_all() {
        for (lines, expected) in [
            (&["for=1.2.3.4"][..], "1.2.3.4"),
            (&["For=\"1.2.3.4:80\";proto=https;by=10.0.0.1"], "1.2.3.4"),
            (&["by=10.0.0.1; for=\"[2001:db8::1]:4711\""], "2001:db8::1"),
            (&["for=6.6.6.6, for=1.2.3.4, for=10.0.0.2"], "1.2.3.4"),
            (&["for=6.6.6.6", "for=1.2.3.4"], "1.2.3.4"),
            (&["for=1.2.3.4, for=unknown"], "10.0.0.1"),
            (&["for=1.2.3.4, for=_hidden"], "10.0.0.1"),
            (&["for=1.2.3.4, proto=https"], "10.0.0.1"),
            (&["1.2.3.4"], "10.0.0.1"),
            (&["for=1.2.3.4;for=5.6.7.8"], "10.0.0.1"),
            // A quote that the client left open hides it, and makes it nobody else.
            (&["for=\"6.6.6.6, for=1.2.3.4"], "1.2.3.4"),
            (&["for=1.2.3.4;host=\"x,for=6.6.6.6;y=z\""], "10.0.0.1"),
            (&["for=1.2.3.4;host=\"x,for=6.6.6.6;y=\\\"z\""], "10.0.0.1"),
        ] {
            let found = client(ForwardedBy::Forwarded, "10.0.0.1", lines);
            assert_eq!(found, expected, "{lines:?}");
        }
        assert_eq!(
            client(ForwardedBy::Forwarded, "8.8.8.8", &["for=1.2.3.4"]),
            "8.8.8.8"
        );
    }

    #[test]
    fn limits_take_a_client_for_its_network() {
        for (ip, of) in [
            ("1.2.3.4", "1.2.3.4"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            assert_eq!(network(ip.parse().unwrap()).to_string(), of);
        }
    }
}
