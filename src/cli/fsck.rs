//! `box fsck`.

use std::process::ExitCode;

use crate::app;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::fsck::{Looked, Options, Problem};

use super::{Failure, FsckArgs, print};

pub(super) async fn check(config: Config, args: FsckArgs) -> Result<ExitCode, Failure> {
    let domain = app::open_domain(&config, false, Clock::system()).await?;
    let options = Options {
        repair: args.repair,
        after_restore: args.after_restore,
        verify_checksums: args.verify_checksums,
        rate: Some(args.rate.bytes()).filter(|rate| *rate > 0),
    };
    let mut printer = Printer {
        json: args.json,
        problems: 0,
        outcome: Ok(()),
    };
    printer.start();
    let looked = domain
        .fsck_each(options, &mut |problem| printer.problem(&problem))
        .await?;
    domain.metadata.close().await;
    printer.end(looked);
    printer.outcome?;
    Ok(if printer.problems == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// Prints as it goes, so that it need not hold what may be millions.
struct Printer {
    json: bool,
    problems: u64,
    /// What went wrong first.
    outcome: Result<(), String>,
}

impl Printer {
    fn print(&mut self, text: &str) {
        if self.outcome.is_ok() {
            self.outcome = print(text).map_err(|error| error.to_string());
        }
    }

    fn start(&mut self) {
        if self.json {
            self.print("{\"problems\":[");
        }
    }

    fn problem(&mut self, problem: &Problem) {
        let text = if self.json {
            let separator = if self.problems == 0 { "\n" } else { ",\n" };
            match serde_json::to_string(problem) {
                Ok(json) => format!("{separator}{json}"),
                Err(error) => {
                    self.outcome = Err(error.to_string());
                    return;
                }
            }
        } else {
            format!("{problem}\n")
        };
        self.problems += 1;
        self.print(&text);
    }

    fn end(&mut self, looked: Looked) {
        let Looked { objects, keys } = looked;
        let text = if self.json {
            format!("],\"objects\":{objects},\"keys\":{keys}}}\n")
        } else {
            format!(
                "{objects} objects, {keys} keys, {} problems\n",
                self.problems
            )
        };
        self.print(&text);
    }
}
