//! `box doctor`: whether what the service needs is there and does what it must. It runs beside the service.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::HeaderMap;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use crate::app;
use crate::auth::Tokens;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::Domain;
use crate::domain::doctor::Probe;
use crate::error::Error;

use super::{Failure, data_dir, print};

mod cors;

/// How long one thing that is tried may take, retries included.
const PATIENCE: Duration = Duration::from_secs(60);

/// Above what S3 takes as one request where the length is known, so that it goes in parts.
const LARGE: usize = 9 * 1024 * 1024;

/// In bytes: with less, a disk is as good as full.
const ROOM: u64 = 1024 * 1024 * 1024;

/// S3 refuses requests that are signed 15 min off; issuers' tokens are refused much sooner.
const SKEW: Duration = Duration::from_secs(30);

/// File descriptors beside those of connections: the database's, the store's, logs.
const DESCRIPTORS: u64 = 256;

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Problem,
    /// It hangs on something that was a problem.
    Unchecked,
}

#[derive(Serialize)]
struct Finding {
    check: String,
    status: Status,
    detail: String,
    /// What to do about it.
    advice: Option<&'static str>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        check: impl Into<String>,
        status: Status,
        detail: impl Into<String>,
        advice: Option<&'static str>,
    ) {
        self.0.push(Finding {
            check: check.into(),
            status,
            detail: detail.into(),
            advice,
        });
    }

    fn ok(&mut self, check: impl Into<String>, detail: impl Into<String>) {
        self.add(check, Status::Ok, detail, None);
    }

    fn problem(
        &mut self,
        check: impl Into<String>,
        detail: impl Into<String>,
        advice: &'static str,
    ) {
        self.add(check, Status::Problem, detail, Some(advice));
    }

    fn unchecked(&mut self, check: &str, behind: &str) {
        self.add(
            check,
            Status::Unchecked,
            format!("not tried: {behind}"),
            None,
        );
    }

    /// The value, or a problem.
    fn take<T>(&mut self, check: &str, tried: Result<T, Error>, advice: &'static str) -> Option<T> {
        match tried {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(check, error.story(), advice_for(&error, advice));
                None
            }
        }
    }
}

pub(super) async fn examine(config: Config, json: bool) -> Result<ExitCode, Failure> {
    let mut findings = Findings::default();
    descriptors(&config, &mut findings);
    directory(&config, &mut findings);
    secret(&config, &mut findings);
    issuers(&config, &mut findings).await?;
    service(&config, &mut findings).await;
    let found = findings.0;
    print(&if json {
        in_json(&found)?
    } else {
        in_words(&found)
    })?;
    // What was not tried hangs on a problem.
    Ok(
        if found.iter().all(|finding| finding.status == Status::Ok) {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(1)
        },
    )
}

fn in_json(found: &[Finding]) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(&serde_json::json!({ "checks": found }))?;
    Ok(format!("{text}\n"))
}

fn in_words(found: &[Finding]) -> String {
    let mut text = String::new();
    for finding in found {
        let word = match finding.status {
            Status::Ok => "ok       ",
            Status::Problem => "PROBLEM  ",
            Status::Unchecked => "unchecked",
        };
        text.push_str(&format!("{word} {}: {}\n", finding.check, finding.detail));
        if let Some(advice) = finding.advice {
            text.push_str(&format!("          → {advice}\n"));
        }
    }
    text
}

fn descriptors(config: &Config, findings: &mut Findings) {
    let wanted = u64::from(config.limits.max_connections) * 2 + DESCRIPTORS;
    match getrlimit(Resource::Nofile).maximum {
        Some(most) if most < wanted => findings.problem(
            "limits",
            format!("{most} file descriptors, and limits.max_connections may need {wanted}"),
            "raise the hard limit (ulimit -Hn, LimitNOFILE=), or lower limits.max_connections",
        ),
        most => findings.ok(
            "limits",
            most.map_or("file descriptors without limit".to_owned(), |most| {
                format!("{most} file descriptors")
            }),
        ),
    }
}

/// Only where anything of the service is to lie on this machine.
fn directory(config: &Config, findings: &mut Findings) {
    if !data_dir::is_used(config) {
        return;
    }
    let tried = data_dir::make(config).and_then(|()| Ok(tempfile(&config.data_dir)?));
    if let Err(error) = tried {
        let advice =
            "give the user that runs the service a directory that it may write to (data_dir)";
        findings.problem("data_dir", error.to_string(), advice);
        return;
    }
    findings.ok(
        "data_dir",
        format!("{} can be written to", config.data_dir.display()),
    );
    match rustix::fs::statvfs(&config.data_dir) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let told = format!("{} MiB free", free / (1024 * 1024));
            // A file system that counts no inodes has none.
            if free < ROOM || (found.f_files > 0 && found.f_favail == 0) {
                let told = format!("{told}, {} inodes", found.f_favail);
                findings.problem("disk", told, "make room: uploads fail on a full disk");
            } else {
                findings.ok("disk", told);
            }
        }
        Err(error) => findings.problem("disk", error.to_string(), "look at the file system"),
    }
}

/// A file comes and goes.
fn tempfile(directory: &std::path::Path) -> std::io::Result<()> {
    let path = directory.join(format!("doctor.{}", hex::encode(rand::random::<[u8; 8]>())));
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(path)
}

fn secret(config: &Config, findings: &mut Findings) {
    match data_dir::signing_secrets(config) {
        Ok(Some(_)) => findings.ok("secret", "tokens can be signed and verified"),
        Ok(None) => findings.ok("secret", "none: tokens are the issuers'"),
        Err(error) => findings.problem(
            "secret",
            error.to_string(),
            "set auth.secret, or auth.issuers",
        ),
    }
}

async fn issuers(config: &Config, findings: &mut Findings) -> Result<(), Failure> {
    let tokens = Tokens::new(None, &config.auth.issuers, Clock::system())?;
    for (issuer, asked) in tokens.ask_issuers().await {
        let check = format!("issuer {issuer}");
        let advice =
            "look at jwks_url, and whether it can be reached from here: its tokens get 503";
        if findings.take(&check, asked, advice).is_some() {
            findings.ok(check, "its keys can be had");
        }
    }
    Ok(())
}

/// The database, and by it the store: without its rows nothing may be written there.
async fn service(config: &Config, findings: &mut Findings) {
    let opened = in_time(app::open_metadata(config, false)).await;
    let advice = "look at database.url, and whether the server runs and lets this user in";
    let Some(metadata) = findings.take("database", opened, advice) else {
        findings.unchecked("store", "the database comes first");
        return;
    };
    findings.ok("database", "it answers, and its schema is not too old");
    metadata.close().await;

    let opened = in_time(app::open_domain(config, false, Clock::system())).await;
    let advice = "look at store.url, the bucket and its credentials";
    let Some(domain) = findings.take("store", opened, advice) else {
        return;
    };
    if domain.is_older() {
        findings.problem(
            "store",
            "the database is older than the store: it was restored from a backup",
            "box fsck --after-restore: see docs/operations.md",
        );
    } else {
        findings.ok("store", "it is this database's");
    }
    store(config, &domain, findings).await;
    domain.metadata.close().await;
}

async fn store(config: &Config, domain: &Domain, findings: &mut Findings) {
    let advice = "the credentials need PutObject, GetObject, DeleteObject, AbortMultipartUpload, \
                  ListMultipartUploadParts and ListBucketMultipartUploads (locally: the directory must be writable)";
    for (check, size) in [("small object", 1024), ("large object", LARGE)] {
        let content: Bytes = rand::random_iter::<u8>().take(size).collect();
        let written = in_time(domain.probe_write(content)).await;
        let Some(mut probe) = findings.take(check, written, advice) else {
            continue;
        };
        let read = in_time(domain.probe_read(&probe)).await;
        if findings.take(check, read, advice).is_some() {
            findings.ok(check, format!("{size} bytes were written and read"));
        }
        if size < LARGE {
            url(config, domain, &probe, findings).await;
            again(domain, &mut probe, findings).await;
        }
        let ended = in_time(domain.probe_end(probe)).await;
        let check = format!("{check}, deleted");
        if findings.take(&check, ended, advice).is_some() {
            findings.ok(check, "nothing is left");
        }
    }
}

/// Two services that claim one empty store at the same time are told apart by this alone.
async fn again(domain: &Domain, probe: &mut Probe, findings: &mut Findings) {
    let advice = "use a store that honours If-None-Match: with this one, two deployments can claim one prefix";
    let refused = in_time(domain.probe_again(probe)).await;
    match findings.take("conditional write", refused, advice) {
        Some(Some(true)) => findings.ok("conditional write", "a second write is refused"),
        Some(Some(false)) => findings.problem(
            "conditional write",
            "the store wrote over an object though it was told not to",
            advice,
        ),
        Some(None) | None => {}
    }
}

async fn url(config: &Config, domain: &Domain, probe: &Probe, findings: &mut Findings) {
    let check = "signed URL";
    let advice = "pre-signed URLs have to be reachable: look at store.endpoint";
    let made = in_time(domain.probe_url(probe)).await;
    let Some(Some(url)) = findings.take(check, made, advice) else {
        return;
    };
    let asked = in_time(ask(Method::GET, &url, HeaderMap::new())).await;
    let Some(answer) = findings.take(check, asked, advice) else {
        return;
    };
    if !answer.status().is_success() {
        let told = format!("it answers {}", answer.status());
        findings.problem(check, told, advice);
        return;
    }
    findings.ok(check, "it leads to the object");
    skew(answer.headers(), findings);
    for origin in &config.cors.allow_origins {
        cors::look(&url, origin.as_str(), findings).await;
    }
}

async fn ask(method: Method, url: &str, headers: HeaderMap) -> Result<reqwest::Response, Error> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(Error::internal)?;
    // Without the URL, which is a secret for as long as it is good.
    client
        .request(method, url)
        .headers(headers)
        .send()
        .await
        .map_err(|error| Error::unavailable(error.without_url()))
}

/// By the store's clock; a store that tells no time is asked nothing.
fn skew(headers: &HeaderMap, findings: &mut Findings) {
    let theirs = headers
        .get("date")
        .and_then(|date| date.to_str().ok())
        .and_then(|date| httpdate::parse_http_date(date).ok());
    let Some(theirs) = theirs else { return };
    let ours = SystemTime::UNIX_EPOCH
        + Duration::from_micros(u64::try_from(Clock::system().now().as_micros()).unwrap_or(0));
    let apart = match ours.duration_since(theirs) {
        Ok(behind) => behind,
        Err(ahead) => ahead.duration(),
    };
    let told = format!("{} s from the store's", apart.as_secs());
    if apart > SKEW {
        let advice = "set this machine's clock (NTP): S3 refuses what is signed 15 min off";
        findings.problem("clock", told, advice);
    } else {
        findings.ok("clock", told);
    }
}

async fn in_time<T>(tried: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(PATIENCE, tried)
        .await
        .unwrap_or_else(|_| Err(Error::unavailable("no answer in time")))
}

/// What stores and databases say for themselves is better than a guess.
fn advice_for(error: &Error, otherwise: &'static str) -> &'static str {
    const KNOWN: [(&str, &str); 8] = [
        (
            "NoSuchBucket",
            "make the bucket, or name another one in store.url",
        ),
        (
            "SignatureDoesNotMatch",
            "store.secret_access_key is not the secret of store.access_key_id",
        ),
        (
            "InvalidAccessKeyId",
            "the store does not know store.access_key_id",
        ),
        ("RequestTimeTooSkewed", "set this machine's clock (NTP)"),
        (
            "AccessDenied",
            "the bucket's policy denies these credentials what the service needs",
        ),
        ("box migrate", "run `box migrate`"),
        (
            "belongs to",
            "look at environment, database.url and store.url: two deployments are mixed up",
        ),
        (
            "password authentication failed",
            "the password in database.url is not this user's",
        ),
    ];
    let story = error.story();
    KNOWN
        .iter()
        .find(|(said, _)| story.contains(said))
        .map_or(otherwise, |(_, advice)| advice)
}
