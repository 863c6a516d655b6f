//! What `box --version` tells of the source: commit and date. Reproducible: the date is the commit's, or
//! `SOURCE_DATE_EPOCH`, and never the time of the build.
//!
//! Only a release build asks git. A debug build tells its version alone, so that a commit does not have
//! the crate compiled again. Where there is no git, as in the image's build, `SOURCE_COMMIT` tells.

use std::env;
use std::path::Path;
use std::process::Command;

/// What the binary is made of: changes here make it another one than the commit's.
const SOURCES: [&str; 5] = ["build.rs", "Cargo.toml", "Cargo.lock", "migrations", "src"];

fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_COMMIT");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    // sqlx::migrate! does not see a file that is new.
    for path in ["build.rs", "migrations"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let told = env::var("SOURCE_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty() && commit != "unknown");
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let mut epoch = env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|seconds| seconds.parse().ok());
    let commit = match told {
        Some(commit) => Some(short(&commit)),
        None if release => {
            let commit = from_git();
            if commit.is_some() {
                epoch = epoch.or_else(|| git(&["log", "-1", "--format=%ct"])?.parse().ok());
            }
            commit
        }
        None => None,
    };
    let words: Vec<String> = commit.into_iter().chain(epoch.map(date)).collect();
    let build = if words.is_empty() {
        String::new()
    } else {
        format!(" ({})", words.join(" "))
    };
    // Not BOX_…: `cargo run` gives it to the service, which refuses such variables that it does not know.
    println!("cargo::rustc-env=BUILT_OF={build}");
}

/// The commit, and whether the sources are still its own.
fn from_git() -> Option<String> {
    // A checkout of this repository, and not one that it was unpacked in.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = env::var("CARGO_MANIFEST_DIR").ok()?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    let commit = short(&git(&["rev-parse", "HEAD"])?);
    // A commit moves one of these. A path that is not there would have this run every time.
    for name in ["HEAD", "logs/HEAD", "packed-refs"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    for path in SOURCES {
        println!("cargo::rerun-if-changed={path}");
    }
    let mut asked = vec!["status", "--porcelain", "--"];
    asked.extend(SOURCES);
    Some(match git(&asked)?.as_str() {
        "" => commit,
        _ => format!("{commit}+changes"),
    })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn short(commit: &str) -> String {
    commit.chars().take(12).collect()
}

/// The day in UTC, as 2026-11-25. After Howard Hinnant's `civil_from_days`: years begin in March, so that the
/// leap day is a year's last.
fn date(epoch: u64) -> String {
    let days = epoch / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + next)
}
