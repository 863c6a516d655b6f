//! `[links]`: slugs that lead to files and to external URLs.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::{Host, Url};

use super::leaf::{self, Leaf, unlike};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Links {
    /// Whether every slug of a tenant begins with its name and a slash.
    #[serde(with = "leaf")]
    pub tenant_prefix: bool,
    /// How long the slug of a deleted link is kept for its tenant.
    #[serde(with = "leaf")]
    pub reserve: Duration,
    /// The hosts that links may lead to; empty: all.
    #[serde(with = "leaf")]
    pub allow_hosts: Vec<HostPattern>,
    /// Hosts that links may not lead to, whatever is allowed.
    #[serde(with = "leaf")]
    pub deny_hosts: Vec<HostPattern>,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            tenant_prefix: false,
            reserve: Duration::from_secs(180 * 86_400),
            allow_hosts: Vec::new(),
            deny_hosts: Vec::new(),
        }
    }
}

impl Links {
    /// Whether links may lead to this host.
    pub fn allows(&self, host: &Host<&str>) -> bool {
        let among = |patterns: &[HostPattern]| patterns.iter().any(|one| one.matches(host));
        !among(&self.deny_hosts) && (self.allow_hosts.is_empty() || among(&self.allow_hosts))
    }
}

/// A host as URLs are read: a name or an address, or with `*.` before it all names below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    below: bool,
    host: String,
}

impl HostPattern {
    fn matches(&self, host: &Host<&str>) -> bool {
        let host = host.to_string();
        // The dot of the root changes nothing of what a name means.
        let host = host.trim_end_matches('.');
        if self.below {
            host.strip_suffix(&self.host)
                .is_some_and(|rest| rest.ends_with('.'))
        } else {
            host == self.host
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stars = if self.below { "*." } else { "" };
        write!(f, "{stars}{}", self.host)
    }
}

impl Leaf for HostPattern {
    const EXPECTED: &'static str = "hosts such as example.com, *.example.com or 192.0.2.1";

    fn parse(text: &str) -> Result<Self, String> {
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        // As the URLs of links are read: in lower case, in ASCII, addresses in one spelling.
        let url = Url::parse(&format!("http://{name}/")).map_err(|_| unlike::<Self>(text))?;
        let plain = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.port().is_none()
            && url.username().is_empty()
            && url.password().is_none()
            && !name.contains(['*', '/', '@', '?', '#'])
            // A port that is the scheme's own is not kept.
            && (!name.contains(':') || name.ends_with(']'));
        match url.host() {
            Some(Host::Domain(host)) if plain => Ok(Self {
                below,
                host: host.trim_end_matches('.').to_owned(),
            }),
            Some(address) if plain && !below => Ok(Self {
                below,
                host: address.to_string(),
            }),
            _ => Err(unlike::<Self>(text)),
        }
    }

    fn show(&self) -> Value {
        Value::String(self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, url: &str) -> bool {
        let url = Url::parse(url).unwrap();
        HostPattern::parse(pattern)
            .unwrap()
            .matches(&url.host().unwrap())
    }

    #[test]
    fn a_host_is_meant_in_every_spelling() {
        for url in [
            "http://example.com/",
            "https://EXAMPLE.com:8443/x",
            "http://example.com./",
        ] {
            assert!(matches("Example.com", url), "{url}");
            assert!(!matches("*.example.com", url), "{url}");
        }
        assert!(matches("*.example.com", "http://a.b.example.com/"));
        assert!(!matches("*.example.com", "http://badexample.com/"));
        assert!(!matches("example.com", "http://a.example.com/"));
        assert!(matches("127.0.0.1", "http://2130706433/"));
        assert!(matches("[::1]", "http://[0:0::1]/"));
        for bad in [
            "",
            "http://a",
            "a/b",
            "a:80",
            "u@a",
            "a b",
            "*.127.0.0.1",
            "*.*.a",
        ] {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
