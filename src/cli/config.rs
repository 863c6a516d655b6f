//! `box config check` and `box config diff`.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::app;
use crate::auth::Tokens;
use crate::clock::Clock;
use crate::config::{Config, Difference, Sources};
use crate::fetch::Fetcher;

use super::{Failure, print, run_async};

pub(super) fn check(sources: &Sources, json: bool) -> Result<ExitCode, Failure> {
    let mut problems = Config::problems(sources)?;
    if problems.is_empty() {
        let config = Config::load(sources)?.config;
        run_async(async {
            problems = unusable(&config);
            Ok(ExitCode::SUCCESS)
        })?;
    }
    if json {
        print(&format!("{}\n", json!({"problems": problems})))?;
    } else if problems.is_empty() {
        print("the configuration is valid\n")?;
    } else {
        print(&format!("{}\n", problems.join("\n")))?;
    }
    Ok(if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// What is valid as a text, and what this machine can't make anything of.
fn unusable(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    if config.auth.secret.is_none()
        && config.auth.issuers.is_empty()
        && !config.environment.is_development()
    {
        problems.push(format!(
            "auth.secret: is not set, nor are auth.issuers, and only the environment \"development\" makes a secret up (this is {:?})",
            &*config.environment
        ));
    }
    let clock = Clock::system();
    let secret = config.auth.secret.as_ref();
    let tokens = Tokens::new(secret, &config.auth.issuers, clock.clone());
    let fetcher = Fetcher::new(config.fetch.settings(), clock);
    for (key, problem) in [
        ("auth", tokens.err()),
        ("fetch.ca_file", fetcher.err()),
        ("audit.key", app::audit_keys(config, None).err()),
    ] {
        problems.extend(problem.map(|problem| format!("{key}: {problem}")));
    }
    problems
}

pub(super) fn diff(sources: &Sources, a: &str, b: &str, json: bool) -> Result<ExitCode, Failure> {
    let found = Config::diff(sources, a, b)?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&found)?))?;
    } else {
        let lines: String = found.iter().map(line).collect();
        print(&lines)?;
    }
    Ok(if found.iter().all(|difference| difference.equal) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn line(difference: &Difference) -> String {
    let shown = |value: &Value| match value {
        Value::Null => "(unset)".to_owned(),
        value => value.to_string(),
    };
    let note = match (difference.secret, difference.equal) {
        (false, _) => "",
        (true, true) => "  (secret: equal)",
        (true, false) => "  (secret: different)",
    };
    let (a, b) = (shown(&difference.a), shown(&difference.b));
    format!("{}: {a} | {b}{note}\n", difference.key)
}
