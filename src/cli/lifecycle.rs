//! `box lifecycle`: what the rules let go, and what the bucket is told to do by itself.

use std::process::ExitCode;

use serde::Serialize;

use crate::app;
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::domain::lifecycle::{Action, Due};
use crate::id::{FileId, Tenant};

use super::{Failure, LifecycleRunArgs, print};

pub(super) async fn run(config: Config, args: LifecycleRunArgs) -> Result<ExitCode, Failure> {
    let domain = app::open_domain(&config, false, Clock::system()).await?;
    let mut report = Report {
        json: args.json,
        files: 0,
        bytes: 0,
        outcome: Ok(()),
    };
    report.start();
    domain
        .lifecycle_run(args.dry_run, &mut |due| report.file(due))
        .await?;
    domain.metadata.close().await;
    report.end(args.dry_run);
    report.outcome?;
    Ok(ExitCode::SUCCESS)
}

/// Printed as it goes, so that it need not hold what may be millions.
struct Report {
    json: bool,
    files: u64,
    bytes: u64,
    /// What went wrong first.
    outcome: Result<(), String>,
}

#[derive(Serialize)]
struct Item<'a> {
    rule: &'a str,
    action: &'static str,
    tenant: &'a Tenant,
    file_id: FileId,
    name: &'a str,
    size: u64,
    updated_at: Timestamp,
}

impl<'a> Item<'a> {
    fn of(due: &Due<'a>) -> Self {
        let file = due.file;
        Self {
            rule: due.rule,
            action: match due.action {
                Action::Trash => "trash",
                Action::Expire => "expire",
            },
            tenant: &file.tenant,
            file_id: file.id,
            name: &file.name,
            size: file.size,
            updated_at: file.updated_at,
        }
    }
}

impl Report {
    fn print(&mut self, text: &str) {
        if self.outcome.is_ok() {
            self.outcome = print(text).map_err(|error| error.to_string());
        }
    }

    fn start(&mut self) {
        if self.json {
            self.print("{\"items\":[");
        }
    }

    fn file(&mut self, due: &Due<'_>) {
        let item = Item::of(due);
        let text = if self.json {
            let separator = if self.files == 0 { "\n" } else { ",\n" };
            match serde_json::to_string(&item) {
                Ok(json) => format!("{separator}{json}"),
                Err(error) => {
                    self.outcome = Err(error.to_string());
                    return;
                }
            }
        } else {
            format!(
                "{} {} {} {:?}, last changed {}, by the rule {}\n",
                item.action, item.tenant, item.file_id, item.name, item.updated_at, item.rule
            )
        };
        self.files += 1;
        self.bytes += item.size;
        self.print(&text);
    }

    fn end(&mut self, dry_run: bool) {
        let Self { files, bytes, .. } = self;
        let text = if self.json {
            format!("],\"files\":{files},\"bytes\":{bytes},\"dry_run\":{dry_run}}}\n")
        } else if dry_run {
            format!("{files} files of {bytes} bytes would go\n")
        } else {
            format!("{files} files of {bytes} bytes went\n")
        };
        self.print(&text);
    }
}

pub(super) async fn apply(config: Config, dry_run: bool) -> Result<ExitCode, Failure> {
    let domain = app::open_domain(&config, false, Clock::system()).await?;
    let plan = domain.bucket_plan().await?.ok_or_else(|| {
        format!(
            "the store {} is a directory: only a bucket of S3 has rules that it carries out by itself",
            config.store_url()
        )
    })?;
    let mut text: String = plan
        .changes
        .iter()
        .map(|change| format!("{change}\n"))
        .collect();
    for id in &plan.others {
        text.push_str(&format!("  {id}: not ours, stays as it is\n"));
    }
    if plan.changes.is_empty() {
        text.push_str("the bucket has the rules that it is to have: nothing is written\n");
    } else if dry_run {
        text.push_str("nothing is written: this was a dry run\n");
    }
    print(&text)?;
    if !plan.changes.is_empty() && !dry_run {
        domain.bucket_apply(&plan).await?;
        print("written\n")?;
    }
    domain.metadata.close().await;
    Ok(ExitCode::SUCCESS)
}
