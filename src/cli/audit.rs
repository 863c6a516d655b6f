//! `box audit`.

use std::process::ExitCode;

use crate::app;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::audit::{Report, Standing};

use super::{AuditVerifyArgs, FAILED, Failure, data_dir, print};

/// Exit status 0: all chains are intact; 1: one is not; 2: something could not be checked.
pub(super) async fn verify(config: Config, args: AuditVerifyArgs) -> Result<ExitCode, Failure> {
    let secrets = match &config.audit.key {
        Some(_) => None,
        None => data_dir::signing_secrets(&config)?,
    };
    let mut domain = app::open_domain(&config, false, Clock::system()).await?;
    domain.audit_keys = app::audit_keys(&config, secrets.as_ref())?;
    let mut outcome = Ok(());
    let mut worst = Standing::Intact;
    let mut chains = 0_u64;
    let mut tell = |report: &Report| {
        worst = worst.max(report.standing());
        let text = if args.json {
            json(report)
        } else {
            Ok(text(report))
        };
        let separator = match (args.json, chains) {
            (false, _) => "",
            (true, 0) => "[",
            (true, _) => ",\n",
        };
        chains += 1;
        if outcome.is_ok() {
            outcome = text.and_then(|text| {
                print(&format!("{separator}{text}")).map_err(|error| error.to_string())
            });
        }
    };
    let verified = domain
        .audit_verify(args.tenant.as_ref(), &args.anchor, &mut tell)
        .await;
    domain.metadata.close().await;
    verified?;
    outcome?;
    if args.json {
        print(if chains == 0 { "[]\n" } else { "]\n" })?;
    }
    Ok(match worst {
        Standing::Intact => ExitCode::SUCCESS,
        Standing::Broken => ExitCode::from(1),
        Standing::Unchecked => ExitCode::from(FAILED),
    })
}

fn json(report: &Report) -> Result<String, String> {
    serde_json::to_string(report).map_err(|error| error.to_string())
}

fn text(report: &Report) -> String {
    let Report {
        tenant,
        first,
        last,
        hash,
        ..
    } = report;
    let mut text = match last {
        0 => format!("{tenant}: no events\n"),
        _ => format!("{tenant}: {first} to {last}, {tenant}:{last}:{hash}\n"),
    };
    for fault in &report.faults {
        text.push_str(&format!("{tenant}: {fault}\n"));
    }
    for what in &report.unchecked {
        text.push_str(&format!("{tenant}: not checked: {what}\n"));
    }
    text
}
