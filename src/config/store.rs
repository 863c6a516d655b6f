//! `[store]`: where the bytes are.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Violation;
use super::leaf::{self, Leaf, http_url, unlike};
use super::secret::Secret;
use super::units::short;
use crate::objects::{CALL_TIMEOUT, S3Settings, Settings};

/// Writers renew at a third of the lease, so that two thirds of it are left at the worst, and
/// those must outlast a call to the store and the renewal itself.
pub const SHORTEST_LEASE: Duration = Duration::from_secs(2 * CALL_TIMEOUT.as_secs());
/// What a crash left is only cleaned away when its lease is over.
pub const LONGEST_LEASE: Duration = Duration::from_secs(3_600);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// `file:{data_dir}/objects` when unset: see [`super::Config::store_url`].
    #[serde(with = "leaf")]
    pub url: Option<StoreUrl>,
    /// Where S3 is, for what isn't AWS.
    #[serde(with = "leaf")]
    pub endpoint: Option<Endpoint>,
    #[serde(with = "leaf")]
    pub region: Option<String>,
    /// Together with the secret, or neither: then AWS's own chain finds the credentials.
    #[serde(with = "leaf")]
    pub access_key_id: Option<String>,
    #[serde(with = "leaf")]
    pub secret_access_key: Option<Secret>,
    /// Whether the endpoint may be plain http.
    #[serde(with = "leaf")]
    pub allow_http: bool,
    /// Whether the bucket goes in the path rather than in the host's name; when unset, exactly
    /// where there is an endpoint: see [`Store::uses_path_style`].
    #[serde(with = "leaf")]
    pub path_style: Option<bool>,
    /// Local store only: whether an answered write has reached the disk.
    #[serde(with = "leaf")]
    pub fsync: bool,
    /// How long after its time-out a request may still reach the store; `box fsck --repair` leaves
    /// keys alone that are younger.
    #[serde(with = "leaf")]
    pub request_horizon: Duration,
    /// How long a writer's right to its key lasts without renewal; [`SHORTEST_LEASE`] to
    /// [`LONGEST_LEASE`].
    #[serde(with = "leaf")]
    pub lease: Duration,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: None,
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            allow_http: false,
            path_style: None,
            fsync: true,
            request_horizon: Duration::from_secs(3_600),
            lease: Duration::from_secs(30),
        }
    }
}

impl Store {
    pub fn uses_path_style(&self) -> bool {
        self.path_style.unwrap_or(self.endpoint.is_some())
    }

    pub(super) fn check(&self) -> Result<(), Violation> {
        if self.lease < SHORTEST_LEASE {
            return Err(Violation::new(
                "store.lease",
                format!(
                    "{} is too short: at least {}, since a lease must outlast a call to the store ({}) that starts just before the lease is renewed, at a third of it",
                    short(self.lease),
                    short(SHORTEST_LEASE),
                    short(CALL_TIMEOUT)
                ),
            ));
        }
        if self.lease > LONGEST_LEASE {
            return Err(Violation::new(
                "store.lease",
                format!(
                    "{} is too long: at most {}, since what a crash leaves is kept until its lease is over",
                    short(self.lease),
                    short(LONGEST_LEASE)
                ),
            ));
        }
        if let Some(endpoint) = &self.endpoint
            && endpoint.is_plain()
            && !self.allow_http
        {
            return Err(Violation::new(
                "store.endpoint",
                "an http endpoint needs store.allow_http = true",
            ));
        }
        match (&self.access_key_id, &self.secret_access_key) {
            (Some(_), None) => Err(Violation::new(
                "store.access_key_id",
                "store.secret_access_key is missing: set both, or neither",
            )),
            (None, Some(_)) => Err(Violation::new(
                "store.secret_access_key",
                "store.access_key_id is missing: set both, or neither",
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn settings(&self, url: &StoreUrl) -> Settings {
        match url {
            StoreUrl::File(directory) => Settings::Local {
                directory: directory.clone(),
                fsync: self.fsync,
            },
            StoreUrl::S3 { bucket, prefix } => Settings::S3(S3Settings {
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                endpoint: self.endpoint.as_ref().map(|endpoint| endpoint.0.clone()),
                region: self.region.clone(),
                access_key_id: self.access_key_id.clone(),
                secret_access_key: self
                    .secret_access_key
                    .as_ref()
                    .map(|secret| secret.expose().to_owned()),
                allow_http: self.allow_http,
                path_style: self.uses_path_style(),
            }),
        }
    }
}

/// `file:PATH` or `s3://BUCKET/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// Relative to the working directory, or absolute.
    File(PathBuf),
    S3 {
        bucket: String,
        /// Without slashes at its ends; may be empty.
        prefix: String,
    },
}

/// What reads as something else in a URL. The rest stays as people write it.
const NOT_IN_FILE_PATH: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#');

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => {
                let path = path.to_string_lossy();
                write!(f, "file:{}", utf8_percent_encode(&path, NOT_IN_FILE_PATH))
            }
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl Leaf for StoreUrl {
    const EXPECTED: &'static str = "file:PATH or s3://BUCKET/PREFIX";

    fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("file:") {
            let path = match rest.strip_prefix("//") {
                Some(path) if path.starts_with('/') => path,
                Some(_) => {
                    return Err(
                        "after file:// comes an absolute path (file:///srv/box); a relative one is file:srv/box"
                            .to_owned(),
                    );
                }
                None => rest,
            };
            let path = percent_decode_str(path)
                .decode_utf8()
                .map_err(|_| unlike::<Self>(text))?;
            if path.is_empty() || path.contains('\0') {
                return Err(unlike::<Self>(text));
            }
            return Ok(Self::File(Path::new(path.as_ref()).to_owned()));
        }
        let Some(rest) = text.strip_prefix("s3://") else {
            return Err(unlike::<Self>(text));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        if bucket.is_empty()
            || !bucket
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
        {
            return Err(unlike::<Self>(text));
        }
        // Stores differ in what they make of the rest: some refuse `..`, some don't list `a//b`.
        let sound = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-._=+,:".contains(c))
        };
        if !prefix.is_empty() && !prefix.split('/').all(sound) {
            return Err(
                "the prefix of an s3 URL is made of letters, digits and -._=+,: between single slashes"
                    .to_owned(),
            );
        }
        Ok(Self::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    fn show(&self) -> Value {
        Value::String(self.to_string())
    }
}

/// An http or https URL without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(String);

impl Endpoint {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_plain(&self) -> bool {
        self.0.starts_with("http:")
    }
}

impl Leaf for Endpoint {
    const EXPECTED: &'static str = <url::Url as Leaf>::EXPECTED;

    fn parse(text: &str) -> Result<Self, String> {
        let url = http_url(text)?;
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }

    fn show(&self) -> Value {
        Value::String(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_urls_round_trip() {
        for (text, url, shown) in [
            (
                "file:./box-data/objects",
                StoreUrl::File("./box-data/objects".into()),
                "file:./box-data/objects",
            ),
            (
                "file:///srv/box",
                StoreUrl::File("/srv/box".into()),
                "file:/srv/box",
            ),
            (
                "file:/srv/my files",
                StoreUrl::File("/srv/my files".into()),
                "file:/srv/my files",
            ),
            (
                "file:/srv/100%25",
                StoreUrl::File("/srv/100%".into()),
                "file:/srv/100%25",
            ),
            (
                "s3://files",
                StoreUrl::S3 {
                    bucket: "files".into(),
                    prefix: String::new(),
                },
                "s3://files",
            ),
            (
                "s3://files/a/b=c/",
                StoreUrl::S3 {
                    bucket: "files".into(),
                    prefix: "a/b=c".into(),
                },
                "s3://files/a/b=c",
            ),
        ] {
            let parsed = StoreUrl::parse(text).unwrap();
            assert_eq!(parsed, url);
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(StoreUrl::parse(shown).unwrap(), url);
        }
    }

    #[test]
    fn other_stores_are_refused() {
        for text in [
            "",
            "file:",
            "file://relative",
            "file:%FF",
            "/srv/box",
            "s3:files",
            "s3://",
            "s3:///prefix",
            "s3://key:secret@files",
            "s3://files/a//b",
            "s3://files/../b",
            "s3://files/a?b",
            "gs://files",
        ] {
            let problem = StoreUrl::parse(text).unwrap_err();
            assert!(!problem.contains("key:secret"), "{problem}");
        }
    }

    #[test]
    fn the_path_style_follows_the_endpoint_unless_it_is_set() {
        let mut store = Store::default();
        assert!(!store.uses_path_style());
        store.endpoint = Some(Endpoint::parse("https://s3.example.com/").unwrap());
        assert!(store.uses_path_style());
        store.path_style = Some(false);
        assert!(!store.uses_path_style());
        assert_eq!(store.endpoint.unwrap().as_str(), "https://s3.example.com");
    }

    #[test]
    fn leases_have_bounds() {
        for (seconds, fits) in [
            (5, false),
            (29, false),
            (30, true),
            (3_600, true),
            (3_601, false),
        ] {
            let store = Store {
                lease: Duration::from_secs(seconds),
                ..Store::default()
            };
            assert_eq!(store.check().is_ok(), fits, "{seconds}");
        }
    }
}
