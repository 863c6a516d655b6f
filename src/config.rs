//! What the service is told from outside: defaults, a TOML file, `BOX_*` variables, flags.
//!
//! A section is a struct here or in a file below. There is no key that does nothing: one is
//! added together with what obeys it, and with its line in `config.example.toml`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

mod archive;
mod audit;
mod auth;
mod cors;
mod database;
mod diff;
mod fetch;
mod imports;
mod layers;
mod leaf;
mod lifecycle;
mod limits;
mod links;
mod quota;
mod rate;
mod secret;
mod show;
mod store;
mod tables;
mod telemetry;
#[cfg(test)]
mod tests;
mod units;
mod uploads;
mod urls;

use leaf::{Leaf, unlike};

pub use archive::Archive;
pub use audit::Audit;
pub use auth::{Auth, Issuer, JwksUrl, Tenants};
pub use cors::{Cors, Origin};
pub use database::{Database, DatabaseUrl};
pub use diff::Difference;
pub use fetch::Fetch;
pub use imports::Imports;
pub use layers::{Overrides, Sources};
pub use lifecycle::{Lifecycle, LifecycleRule, StorageClass, Transition};
pub use limits::{ContentTypePattern, Limits};
pub use links::{HostPattern, Links};
pub use quota::{Quota, TenantQuota};
pub use rate::{Rate, RateLimits};
pub use secret::{MASK, Secret, SigningSecrets};
pub use show::Entry;
pub use store::{Endpoint, LONGEST_LEASE, SHORTEST_LEASE, Store, StoreUrl};
pub use telemetry::{Headers, Ratio, RecordLevel, Telemetry};
pub use units::{Size, parse_duration, short};
pub use uploads::Uploads;
pub use urls::Urls;

use crate::objects;

/// The whole configuration. Serialised, it shows what was set, its secrets masked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    #[serde(with = "leaf")]
    pub environment: Environment,
    /// Port 0 takes a free one.
    #[serde(with = "leaf")]
    pub listen: SocketAddr,
    /// Where metrics are served without a token; None: they need the scope `admin` on `listen`.
    #[serde(with = "leaf")]
    pub admin_listen: Option<SocketAddr>,
    /// From `listen` when unset: see [`Config::public_url`].
    #[serde(with = "leaf")]
    pub public_url: Option<Url>,
    /// Whose word on where a request came from is taken.
    #[serde(with = "leaf")]
    pub trusted_proxies: Vec<IpNet>,
    /// The field in which they say it.
    #[serde(with = "leaf")]
    pub forwarded_by: ForwardedBy,
    /// Relative to the working directory, or absolute.
    #[serde(with = "leaf")]
    pub data_dir: PathBuf,
    pub database: Database,
    pub store: Store,
    pub auth: Auth,
    pub limits: Limits,
    pub rate: RateLimits,
    pub quota: Quota,
    pub trash: Trash,
    pub versions: Versions,
    pub archive: Archive,
    pub uploads: Uploads,
    pub imports: Imports,
    pub links: Links,
    pub fetch: Fetch,
    pub cors: Cors,
    pub urls: Urls,
    pub reaper: Reaper,
    pub lifecycle: Lifecycle,
    pub audit: Audit,
    pub log: Log,
    pub telemetry: Telemetry,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            environment: Environment::default(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            admin_listen: None,
            public_url: None,
            trusted_proxies: Vec::new(),
            forwarded_by: ForwardedBy::default(),
            data_dir: PathBuf::from("./box-data"),
            database: Database::default(),
            store: Store::default(),
            auth: Auth::default(),
            limits: Limits::default(),
            rate: RateLimits::default(),
            quota: Quota::default(),
            trash: Trash::default(),
            versions: Versions::default(),
            archive: Archive::default(),
            uploads: Uploads::default(),
            imports: Imports::default(),
            links: Links::default(),
            fetch: Fetch::default(),
            cors: Cors::default(),
            urls: Urls::default(),
            reaper: Reaper::default(),
            lifecycle: Lifecycle::default(),
            audit: Audit::default(),
            log: Log::default(),
            telemetry: Telemetry::default(),
        }
    }
}

/// `[trash]`: what becomes of deleted files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trash {
    /// How long a deleted file can be restored; 0 turns the trash off.
    #[serde(with = "leaf")]
    pub keep: Duration,
}

impl Default for Trash {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(30 * 86_400),
        }
    }
}

/// `[versions]`: what becomes of contents that are replaced.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Versions {
    /// How many earlier contents of a file are kept; 0: none.
    #[serde(with = "leaf")]
    pub keep: u32,
    /// For how long after they were replaced; None: for as long as the file.
    #[serde(with = "leaf")]
    pub max_age: Option<Duration>,
}

/// `[reaper]`: when the keys of dead objects are deleted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reaper {
    /// The time between two rounds; above 0.
    #[serde(with = "leaf")]
    pub interval: Duration,
    /// How long a dead object's bytes are kept, for a database that is restored from a backup.
    #[serde(with = "leaf")]
    pub delay: Duration,
}

impl Default for Reaper {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            delay: Duration::ZERO,
        }
    }
}

/// `[log]`: what goes to standard error.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    #[serde(with = "leaf")]
    pub format: crate::telemetry::Format,
    /// A filter that [`crate::telemetry::filter`] takes.
    #[serde(with = "leaf")]
    pub level: LogLevel,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: crate::telemetry::Format::Auto,
            level: LogLevel("info".to_owned()),
        }
    }
}

/// A configuration, and where each of its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Every key, in an order that does not change.
    pub entries: Vec<Entry>,
}

impl Config {
    /// Reads all sources. A later one wins: defaults, the file, the file's table for the
    /// environment in force, variables, overrides.
    ///
    /// # Errors
    /// A file that can't be read or parsed, a key or a `BOX_*` variable that doesn't exist, a
    /// value that isn't one of its key, values that don't go together: one line that names the
    /// source and the key.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        let (figment, config) = layers::read(sources)?;
        config
            .check()
            .map_err(|violation| violated(&figment, violation))?;
        let entries = show::entries(&config, &figment);
        Ok(Loaded { config, entries })
    }

    /// All that is wrong with a configuration, as far as one problem does not hide another: of values
    /// that don't go together, one for each section.
    ///
    /// # Errors
    /// A file that can't be read.
    pub fn problems(sources: &Sources) -> Result<Vec<String>, ConfigError> {
        let found = layers::problems(sources)?;
        if !found.is_empty() {
            return Ok(found.into_iter().map(|problem| problem.0).collect());
        }
        let (figment, config) = layers::read(sources)?;
        let violations = config.violations().into_iter();
        Ok(violations
            .map(|violation| violated(&figment, violation).0)
            .collect())
    }

    fn check(&self) -> Result<(), Violation> {
        self.violations().into_iter().next().map_or(Ok(()), Err)
    }

    /// The first one of each section.
    fn violations(&self) -> Vec<Violation> {
        [
            self.database.check(),
            self.store.check(),
            self.auth.check(&self.environment),
            self.limits.check(),
            self.archive.check(),
            self.uploads.check(),
            self.rate.check(),
            self.imports.check(),
            self.fetch.check(),
            self.lifecycle.check(&self.trash),
            self.audit.check(),
            self.telemetry.check(),
            self.check_others(),
        ]
        .into_iter()
        .filter_map(Result::err)
        .collect()
    }

    fn check_others(&self) -> Result<(), Violation> {
        positive("reaper.interval", self.reaper.interval)?;
        let largest = Limits::default().max_file_size;
        if matches!(self.store_url(), StoreUrl::S3 { .. }) && self.limits.max_file_size > largest {
            return Err(Violation::new(
                "limits.max_file_size",
                format!("S3 holds no object larger than {largest}"),
            ));
        }
        Ok(())
    }

    /// Where the service is reached from outside; its path ends with a slash, so that joining a
    /// relative path stays below it.
    pub fn public_url(&self) -> Url {
        self.public_url_at(self.listen)
    }

    /// [`Config::public_url`] for the address that was bound: another one than `listen` where that has port 0.
    pub fn public_url_at(&self, bound: SocketAddr) -> Url {
        if let Some(url) = &self.public_url {
            return url.clone();
        }
        // "All addresses" is nowhere a client can go.
        let ip = match bound.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let address = SocketAddr::new(ip, bound.port());
        Url::parse(&format!("http://{address}/"))
            .expect("an IP address without a zone, and a port, are the authority of a URL")
    }

    pub fn database_url(&self) -> DatabaseUrl {
        let default = || DatabaseUrl::sqlite(&self.data_dir.join("box.db"));
        self.database.url.clone().unwrap_or_else(default)
    }

    pub fn store_url(&self) -> StoreUrl {
        let default = || StoreUrl::File(self.data_dir.join("objects"));
        self.store.url.clone().unwrap_or_else(default)
    }

    pub fn store_settings(&self) -> objects::Settings {
        self.store.settings(&self.store_url())
    }
}

/// Why there is no configuration, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// `config.toml: store.lease: 5s is too short …`, `BOX_STORE__LEASE: 5s is too short …`
    fn at(place: &str, key: &str, problem: impl fmt::Display) -> Self {
        let named = place == layers::variable_of(key) || place == layers::flag_of(key);
        if named || key.is_empty() {
            Self(format!("{place}: {problem}"))
        } else {
            Self(format!("{place}: {key}: {problem}"))
        }
    }
}

/// A value that is one of its key, but out of bounds or at odds with another.
struct Violation {
    key: &'static str,
    problem: String,
}

impl Violation {
    fn new(key: &'static str, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self { key, problem }
    }
}

fn violated(figment: &figment::Figment, violation: Violation) -> ConfigError {
    let place = show::source(figment, violation.key);
    let place = place.strip_prefix("file ").unwrap_or(&place);
    ConfigError::at(place, violation.key, violation.problem)
}

fn positive(key: &'static str, duration: Duration) -> Result<(), Violation> {
    if duration.is_zero() {
        return Err(Violation::new(key, "must be more than 0"));
    }
    Ok(())
}

fn at_least_one(key: &'static str, number: u32) -> Result<(), Violation> {
    if number == 0 {
        return Err(Violation::new(key, "must be at least 1"));
    }
    Ok(())
}

/// The name of a deployment, which is a part of its object keys: 1 to 32 of `[a-z0-9-]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Environment(String);

impl Environment {
    /// The only one where a missing secret is made up.
    pub const DEVELOPMENT: &str = "development";

    pub fn is_development(&self) -> bool {
        self.0 == Self::DEVELOPMENT
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self(Self::DEVELOPMENT.to_owned())
    }
}

impl Deref for Environment {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Environment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sound = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(sound) {
            Ok(Self(text.to_owned()))
        } else {
            Err(unlike::<Self>(text))
        }
    }
}

impl Leaf for Environment {
    const EXPECTED: &'static str =
        "the name of an environment (1 to 32 of a-z, 0-9 and -, such as production)";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> Value {
        Value::String(self.0.clone())
    }
}

/// The field of a request in which proxies tell the address that they were called from. One of the two:
/// a proxy that writes the one hands on the other as its client made it up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedBy {
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

impl Leaf for ForwardedBy {
    const EXPECTED: &'static str = "x-forwarded-for or forwarded";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "x-forwarded-for" => Ok(Self::XForwardedFor),
            "forwarded" => Ok(Self::Forwarded),
            _ => Err(unlike::<Self>(text)),
        }
    }

    fn show(&self) -> Value {
        let name = match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        };
        Value::String(name.to_owned())
    }
}

impl Leaf for crate::telemetry::Format {
    const EXPECTED: &'static str = "auto, json or pretty";

    fn parse(text: &str) -> Result<Self, String> {
        Self::from_name(text).ok_or_else(|| unlike::<Self>(text))
    }

    fn show(&self) -> Value {
        Value::String(self.name().to_owned())
    }
}

/// The text of a filter that is known to parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(String);

impl LogLevel {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Leaf for LogLevel {
    const EXPECTED: &'static str = "a level (off, error, warn, info, debug or trace), or a filter such as info,box_service=debug";

    fn parse(text: &str) -> Result<Self, String> {
        match crate::telemetry::filter(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(problem) => Err(problem.to_string()),
        }
    }

    fn show(&self) -> Value {
        Value::String(self.0.clone())
    }
}
