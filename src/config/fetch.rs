//! `[fetch]`: what URLs may lead to, and how long they are waited for.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::leaf::{self, Leaf, unlike};
use super::{Violation, positive};
use crate::fetch;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fetch {
    /// Beside the addresses that are public.
    #[serde(with = "leaf")]
    pub allow_networks: Vec<IpNet>,
    /// Empty: all.
    #[serde(with = "leaf")]
    pub allow_ports: Vec<u16>,
    /// Until a connection stands; above 0.
    #[serde(with = "leaf")]
    pub connect_timeout: Duration,
    /// From then on until an answer begins; above 0.
    #[serde(with = "leaf")]
    pub first_byte_timeout: Duration,
    /// Without a byte of a body; above 0.
    #[serde(with = "leaf")]
    pub stall_timeout: Duration,
    /// In PEM: authorities that are trusted beside the system's.
    #[serde(with = "leaf")]
    pub ca_file: Option<PathBuf>,
    /// For a whole attempt, unless the import says less; above 0.
    #[serde(with = "leaf")]
    pub timeout: Duration,
}

impl Default for Fetch {
    fn default() -> Self {
        Self {
            allow_networks: Vec::new(),
            allow_ports: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            ca_file: None,
            timeout: Duration::from_secs(3_600),
        }
    }
}

impl Fetch {
    pub(super) fn check(&self) -> Result<(), Violation> {
        positive("fetch.connect_timeout", self.connect_timeout)?;
        positive("fetch.first_byte_timeout", self.first_byte_timeout)?;
        positive("fetch.stall_timeout", self.stall_timeout)?;
        positive("fetch.timeout", self.timeout)
    }

    pub fn settings(&self) -> fetch::Settings {
        fetch::Settings {
            policy: fetch::Policy {
                allow_networks: self.allow_networks.clone(),
                allow_ports: self.allow_ports.clone(),
            },
            connect_timeout: self.connect_timeout,
            first_byte_timeout: self.first_byte_timeout,
            stall_timeout: self.stall_timeout,
            ca_file: self.ca_file.clone(),
        }
    }
}

impl Leaf for IpNet {
    const EXPECTED: &'static str = "networks such as 10.1.0.0/16 or fd00::/8";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map(|network: Self| network.trunc())
            .map_err(|_| unlike::<Self>(text))
    }

    fn show(&self) -> Value {
        Value::String(self.to_string())
    }
}
