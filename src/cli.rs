//! The commands of the binary `box`.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::app;
use crate::auth::{Scope, Tokens};
use crate::clock::Clock;
use crate::config::{Config, Loaded, Overrides, Size, Sources, parse_duration};
use crate::domain::audit::Anchor;
use crate::http::docs;
use crate::id::{ClaimId, Tenant};
use crate::telemetry;

mod audit;
mod config;
mod data_dir;
mod doctor;
mod fsck;
mod health;
mod lifecycle;
mod serve;

type Failure = Box<dyn std::error::Error>;

/// With commit and day where the build knew them: `build.rs`.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), env!("BUILT_OF"));

/// A file service between your applications and your bucket.
#[derive(Parser)]
#[command(name = "box", version = VERSION, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct SourceArgs {
    /// The configuration file, in TOML [env: BOX_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The environment whose table of the file counts [env: BOX_ENVIRONMENT]
    #[arg(long, global = true, value_name = "NAME")]
    environment: Option<String>,
    /// Where the service keeps what it keeps on this machine [env: BOX_DATA_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API until SIGTERM or SIGINT
    Serve {
        /// The address and port to listen on [env: BOX_LISTEN]
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
    },
    /// Print a token for the API
    Token(TokenArgs),
    /// Bring the database's schema up to date
    Migrate,
    /// Check that the database and the store agree: exit status 0 when they do, 1 when not
    Fsck(FsckArgs),
    /// Look after the record of what happened
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Let files go by the rules of the configuration, and tell the bucket what to do by itself
    Lifecycle {
        #[command(subcommand)]
        command: LifecycleCommand,
    },
    /// Try all that the service needs, and say what is wrong: exit status 0 when nothing is, 1 when something is
    Doctor {
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the OpenAPI document
    Openapi,
    /// Ask the service on this machine whether it is ready: exit status 0 when it is, 1 when not
    Healthcheck,
    /// Print, check and compare configurations
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Args)]
struct TokenArgs {
    /// Whose files it is for: 1 to 64 of A-Z a-z 0-9 _ -
    #[arg(long, value_parser = read_tenant)]
    tenant: Tenant,
    /// Who will use it
    #[arg(long, value_parser = read_subject)]
    subject: String,
    /// What it allows, as "files:read files:write"
    #[arg(long, value_parser = read_scopes)]
    scopes: Scopes,
    /// How long it is valid: 30m, 12h, 30d
    #[arg(long, value_parser = read_ttl, default_value = "1h")]
    ttl: Duration,
}

#[derive(Args)]
struct FsckArgs {
    /// Mend what can be mended without losing anything
    #[arg(long)]
    repair: bool,
    /// Put a database right that was restored from a backup: quarantine what it knows nothing of
    #[arg(long, conflicts_with = "repair")]
    after_restore: bool,
    /// Read every object and compare its checksum
    #[arg(long)]
    verify_checksums: bool,
    /// How much is read for that a second at most: 50MiB, 1GB; 0 is as much as there is
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "50MiB",
        requires = "verify_checksums"
    )]
    rate: Size,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Verify the chains of events: exit status 0 when they are intact, 1 when not, 2 when that could not be checked
    Verify(AuditVerifyArgs),
}

#[derive(Args)]
struct AuditVerifyArgs {
    /// Only this one's
    #[arg(long, value_parser = read_tenant)]
    tenant: Option<Tenant>,
    /// An end of a chain that was written down elsewhere, and must still be part of it; may be given again
    #[arg(long, value_name = "TENANT:NUMBER:HASH")]
    anchor: Vec<Anchor>,
    /// Print a list of {tenant, first, last, hash, faults, unchecked}
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum LifecycleCommand {
    /// Go through lifecycle.rules once, as the service does every lifecycle.interval
    Run(LifecycleRunArgs),
    /// Give the bucket its rules: show the difference first, and leave the rules of others alone
    Apply {
        /// Only show the difference
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Args)]
struct LifecycleRunArgs {
    /// Only show what would go; what two rules want is shown twice
    #[arg(long)]
    dry_run: bool,
    /// Print {items: [{rule, action, tenant, file_id, name, size, updated_at}], files, bytes, dry_run}
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print what is in force, and where each value came from
    Show {
        /// As a list of {key, value, source}
        #[arg(long)]
        json: bool,
    },
    /// Check the configuration without starting: exit status 0 when it is valid, 1 when not, 2 when it can't be read
    Check {
        /// Print {problems: […]}
        #[arg(long)]
        json: bool,
    },
    /// Compare two environments of the file, or two files, without variables: exit status 0 when they are the same, 1 when not, 2 when that can't be told
    Diff {
        /// An environment's name, or a file: what has a dot or a slash in it
        a: String,
        /// The other one
        b: String,
        /// Print a list of {key, a, b, secret, equal}
        #[arg(long)]
        json: bool,
    },
}

/// The commands' exit status for what could not be done; 1 is an answer of some.
const FAILED: u8 = 2;

pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell when this fails.
            let _ = writeln!(std::io::stderr(), "box: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn execute(cli: Cli) -> Result<ExitCode, Failure> {
    if let Command::Openapi = cli.command {
        print(&docs::json())?;
        return Ok(ExitCode::SUCCESS);
    }
    let listen = match &cli.command {
        Command::Serve { listen } => *listen,
        _ => None,
    };
    let sources = Sources::of_process(
        cli.sources.config,
        Overrides {
            environment: cli.sources.environment,
            listen,
            data_dir: cli.sources.data_dir,
        },
    );
    match &cli.command {
        Command::Config {
            command: ConfigCommand::Check { json },
        } => return config::check(&sources, *json),
        Command::Config {
            command: ConfigCommand::Diff { a, b, json },
        } => return config::diff(&sources, a, b, *json),
        _ => {}
    }
    let loaded = Config::load(&sources)?;
    match cli.command {
        Command::Config {
            command: ConfigCommand::Show { json },
        } => show(&loaded, json),
        Command::Token(args) => token(&loaded.config, &args),
        Command::Healthcheck => run_async(health::check(loaded.config)),
        Command::Serve { .. } => {
            let exporter = init_telemetry(&loaded.config)?;
            run_async(serve::serve(loaded.config, exporter))
        }
        Command::Migrate => {
            init_log(&loaded.config)?;
            run_async(migrate(loaded.config))
        }
        Command::Fsck(args) => {
            init_log(&loaded.config)?;
            run_async(fsck::check(loaded.config, args))
        }
        Command::Audit {
            command: AuditCommand::Verify(args),
        } => {
            init_log(&loaded.config)?;
            run_async(audit::verify(loaded.config, args))
        }
        Command::Lifecycle {
            command: LifecycleCommand::Run(args),
        } => {
            init_log(&loaded.config)?;
            run_async(lifecycle::run(loaded.config, args))
        }
        Command::Lifecycle {
            command: LifecycleCommand::Apply { dry_run },
        } => {
            init_log(&loaded.config)?;
            run_async(lifecycle::apply(loaded.config, dry_run))
        }
        Command::Doctor { json } => run_async(doctor::examine(loaded.config, json)),
        // Done above.
        Command::Openapi | Command::Config { .. } => Ok(ExitCode::SUCCESS),
    }
}

fn run_async(
    command: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(command)
}

fn init_log(config: &Config) -> Result<(), Failure> {
    let terminal = std::io::stderr().is_terminal();
    let level = config.log.level.as_str();
    telemetry::init(config.log.format, level, terminal, None)?;
    Ok(())
}

/// Logs, and what a collector is handed: of a service, not of a command that ends by itself.
fn init_telemetry(config: &Config) -> Result<Option<telemetry::Exporter>, Failure> {
    let terminal = std::io::stderr().is_terminal();
    let level = config.log.level.as_str();
    let instance = ClaimId::new(Clock::system().now()).to_string();
    let collector = config.telemetry.settings(&config.environment, instance);
    let exporter = telemetry::init(config.log.format, level, terminal, collector)?;
    Ok(exporter)
}

/// As `println!`, which panics where a pipe was closed.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn show(loaded: &Loaded, json: bool) -> Result<ExitCode, Failure> {
    if json {
        let text = serde_json::to_string_pretty(&loaded.show_json())?;
        print(&format!("{text}\n"))?;
    } else {
        print(&loaded.show())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn token(config: &Config, args: &TokenArgs) -> Result<ExitCode, Failure> {
    let secrets = data_dir::signing_secrets(config)?.ok_or(
        "there is no secret to sign with: tokens come from auth.issuers alone, unless auth.secret is set too",
    )?;
    let token = Tokens::new(Some(&secrets), &[], Clock::system())?.issue(
        &args.tenant,
        &args.subject,
        &args.scopes.0,
        args.ttl,
    )?;
    print(&format!("{token}\n"))?;
    Ok(ExitCode::SUCCESS)
}

async fn migrate(config: Config) -> Result<ExitCode, Failure> {
    data_dir::make(&config)?;
    let metadata = app::open_metadata(&config, true).await?;
    metadata.close().await;
    print("the database's schema is up to date\n")?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Clone)]
struct Scopes(Vec<Scope>);

fn read_tenant(text: &str) -> Result<Tenant, String> {
    text.parse()
        .map_err(|()| "a tenant is 1 to 64 of A-Z a-z 0-9 _ -".to_owned())
}

fn read_subject(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("a subject has 1 to 255 bytes".to_owned())
    }
}

fn read_ttl(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it must be valid for a while".to_owned()),
        ttl => Ok(ttl),
    }
}

fn read_scopes(text: &str) -> Result<Scopes, String> {
    let unknown = |word: &str| {
        let known: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
        format!("{word:?} is none of {}", known.join(", "))
    };
    text.split([' ', ','])
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().map_err(|()| unknown(word)))
        .collect::<Result<_, _>>()
        .map(Scopes)
}
