//! `[database]`: where the rows are.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::leaf::{self, Leaf, unlike};
use super::secret::MASK;
use super::{Violation, at_least_one, positive};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `sqlite:{data_dir}/box.db` when unset: see [`super::Config::database_url`].
    #[serde(with = "leaf")]
    pub url: Option<DatabaseUrl>,
    /// How many connections one process opens at most; at least 1.
    #[serde(with = "leaf")]
    pub max_connections: u32,
    /// Whether `serve` migrates by itself.
    #[serde(with = "leaf")]
    pub migrate: bool,
    /// How long waiting for a connection, and one statement, may take; above 0.
    #[serde(with = "leaf")]
    pub timeout: Duration,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            max_connections: 20,
            migrate: true,
            timeout: Duration::from_secs(10),
        }
    }
}

impl Database {
    pub(super) fn check(&self) -> Result<(), Violation> {
        at_least_one("database.max_connections", self.max_connections)?;
        positive("database.timeout", self.timeout)
    }
}

/// The address of a database. Shown with its password masked; [`DatabaseUrl::expose`] gives it whole.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

/// What sqlx would read as something other than a part of the path.
const NOT_IN_SQLITE_PATH: &AsciiSet = &CONTROLS.add(b'%').add(b'?');

impl DatabaseUrl {
    /// The SQLite database in the file at `path`.
    pub fn sqlite(path: &Path) -> Self {
        let path = path.to_string_lossy();
        Self(format!(
            "sqlite:{}",
            utf8_percent_encode(&path, NOT_IN_SQLITE_PATH)
        ))
    }

    /// The whole address, with its password.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_sqlite(&self) -> bool {
        self.0.starts_with("sqlite:")
    }
}

impl Leaf for DatabaseUrl {
    const EXPECTED: &'static str =
        "sqlite:PATH, or a URL such as postgres://user:password@host:5432/name";

    fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            if path.trim_start_matches('/').is_empty() {
                return Err(unlike::<Self>(text));
            }
            return Ok(Self(text.to_owned()));
        }
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(unlike::<Self>(text));
        }
        match Url::parse(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(problem) => Err(format!(
                "expected {}: {problem} (a password needs its special characters percent-encoded)",
                Self::EXPECTED
            )),
        }
    }

    fn show(&self) -> Value {
        Value::String(self.to_string())
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_sqlite() {
            return f.write_str(&self.0);
        }
        let Ok(mut url) = Url::parse(&self.0) else {
            return f.write_str(MASK);
        };
        if url.password().is_some() && url.set_password(Some(MASK)).is_err() {
            return f.write_str(MASK);
        }
        // PostgreSQL takes a password among the parameters too.
        if let Some(query) = url.query() {
            let masked: Vec<String> = query
                .split('&')
                .map(|pair| match pair.split_once('=') {
                    Some((name, _)) if name.to_ascii_lowercase().contains("password") => {
                        format!("{name}={MASK}")
                    }
                    _ => pair.to_owned(),
                })
                .collect();
            url.set_query(Some(&masked.join("&")));
        }
        f.write_str(url.as_str())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_masked_wherever_it_stands() {
        for (url, shown) in [
            ("sqlite:./box.db", "sqlite:./box.db"),
            ("postgres://box@db/box", "postgres://box@db/box"),
            (
                "postgresql://box:s3cret@db:5433/box",
                "postgresql://box:********@db:5433/box",
            ),
            (
                "postgres:///box?host=/run/postgresql&password=s3cret&sslmode=require",
                "postgres:///box?host=/run/postgresql&password=********&sslmode=require",
            ),
        ] {
            let parsed = DatabaseUrl::parse(url).unwrap();
            assert_eq!(parsed.expose(), url);
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(format!("{parsed:?}"), shown);
        }
    }

    #[test]
    fn other_databases_are_refused_without_repeating_a_password() {
        for url in [
            "",
            "box.db",
            "sqlite:",
            "sqlite://",
            "mysql://root:s3cret@db/box",
            "postgres:box",
            "postgres://box:s3cret@/box",
            "postgres://box:s3cret#@db:port/box",
        ] {
            let problem = DatabaseUrl::parse(url).unwrap_err();
            assert!(problem.contains("expected sqlite:PATH"), "{problem}");
            assert!(!problem.contains("s3cret"), "{problem}");
        }
    }

    #[test]
    fn a_path_that_looks_like_a_query_stays_a_path() {
        let url = DatabaseUrl::sqlite(Path::new("/srv/what?/100%/box.db"));
        assert_eq!(url.expose(), "sqlite:/srv/what%3F/100%25/box.db");
    }
}
