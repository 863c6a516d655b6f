//! `box serve`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::server;
use crate::telemetry::Exporter;

use super::{Failure, data_dir, print};

pub(super) async fn serve(config: Config, exporter: Option<Exporter>) -> Result<ExitCode, Failure> {
    let signals = Signals::listen()?;
    let exporting = exporter.map(Exporter::start).transpose()?;
    let served = serve_until(config, signals).await;
    // Also what a service says that could not start.
    if let Some(exporting) = exporting {
        exporting.end().await;
    }
    served
}

async fn serve_until(config: Config, signals: Signals) -> Result<ExitCode, Failure> {
    raise_file_limit();
    refuse_huge_pages();
    let lock = if data_dir::is_used(&config) {
        data_dir::make(&config)?;
        Some(data_dir::lock(&config)?)
    } else {
        None
    };
    let secrets = data_dir::signing_secrets(&config)?;
    let app = App::open(config, secrets.as_ref(), Clock::system()).await?;
    // Else with the first direct upload.
    if let Err(error) = app.domain.takes_signed_puts().await {
        tracing::warn!(%error, "whether the store keeps what signed requests write is not known yet");
    }
    let listener = bind(app.config.listen).await?;
    let bound = listener.local_addr()?;
    let admin = match app.config.admin_listen {
        Some(listen) => Some(bind(listen).await?),
        None => None,
    };
    if let Some(admin) = &admin {
        tracing::info!(address = %admin.local_addr()?, "metrics");
    }
    tracing::info!(
        address = %bound,
        environment = %app.config.environment,
        database = %app.config.database_url(),
        store = %app.config.store_url(),
        collector = app.config.telemetry.endpoint.as_ref().map(tracing::field::display),
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    if app.config.environment.is_development() {
        print(&welcome(&app.config, bound))?;
    }
    server::serve(app, listener, admin, signals.stop()).await;
    drop(lock);
    Ok(ExitCode::SUCCESS)
}

async fn bind(listen: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(listen)
        .await
        .map_err(|error| format!("can't listen on {listen}: {error}").into())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Ready at the first signal. A second one ends the process at once: what it leaves behind is
    /// what a crash leaves.
    async fn stop(mut self) {
        self.next().await;
        tokio::spawn(async move {
            self.next().await;
            tracing::warn!("a second signal: ending at once");
            std::process::exit(130);
        });
    }
}

/// A connection takes a file descriptor and an upload another; the soft limit of 1,024 that most
/// systems start with is for the sake of `select`.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit on open files could not be raised");
        }
    }
}

/// Pages of 2 MiB are in memory as a whole however little of them is used: buffers that come and go took a
/// third more, and an idle service half as much again.
fn refuse_huge_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages could not be refused");
    }
}

/// Lines to copy for a first upload.
fn welcome(config: &Config, bound: SocketAddr) -> String {
    let url = config.public_url_at(bound);
    let program = std::env::current_exe().map_or_else(|_| "box".to_owned(), |path| quoted(&path));
    let auth = &config.auth;
    let token = if auth.secret.is_none() && !auth.issuers.is_empty() {
        "TOKEN=...  # from one of auth.issuers".to_owned()
    } else {
        let secret = if auth.secret.is_some() {
            String::new()
        } else {
            let directory = std::path::absolute(&config.data_dir);
            let directory = directory.as_deref().unwrap_or(&config.data_dir);
            format!(" --data-dir {}", quoted(directory))
        };
        format!(
            r#"TOKEN=$({program} token{secret} --tenant demo --subject me --scopes "files:read files:write files:delete" --ttl 12h)"#
        )
    };
    format!(
        r#"
Box Service is listening on {url}
The API is described at     {url}docs

A first upload, to copy into another terminal:

  {token}
  echo 'Hello, Box!' | curl -sS -H "Authorization: Bearer $TOKEN" -H 'Content-Type: text/plain' --data-binary @- '{url}v1/files?name=hello.txt'
  curl -sS -H "Authorization: Bearer $TOKEN" '{url}v1/files'

"#
    )
}

/// As one word of a shell's command.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c));
    if plain {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
