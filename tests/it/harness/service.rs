//! A whole service in this process, over each pair of database and store, called over TCP as
//! clients call it. Its clock stands still unless a test moves it.

use std::sync::Mutex;
use std::time::Duration;

use box_service::app::{self, App};
use box_service::auth::Scope;
use box_service::clock::{Clock, Timestamp};
use box_service::config::{Config, Overrides, SigningSecrets, Sources};
use box_service::domain::fsck;
use box_service::id::ObjectId;
use box_service::server;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::database::{Database, Kind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    SqliteLocal,
    PostgresLocal,
    PostgresS3,
}

pub struct Service {
    pub pair: Pair,
    pub app: App,
    pub clock: Clock,
    /// `http://127.0.0.1:PORT`
    pub url: String,
    /// The same of `admin_listen`, where it is configured.
    pub admin_url: Option<String>,
    /// What the configuration was made from, to start another service over the same parts.
    pub variables: Vec<(String, String)>,
    stop: CancellationToken,
    serving: Mutex<Option<tokio::task::JoinHandle<()>>>,
    /// None where they are another service's.
    _parts: Option<Parts>,
}

/// Removed when the test ends.
pub struct Parts {
    _database: Database,
    _directory: tempfile::TempDir,
}

impl Parts {
    /// An empty database and an empty store, and the variables that lead to them. None where the pair
    /// is to be skipped.
    pub async fn create(
        pair: Pair,
        variables: &[(&str, &str)],
    ) -> Option<(Self, Vec<(String, String)>)> {
        let kind = match pair {
            Pair::SqliteLocal => Kind::Sqlite,
            Pair::PostgresLocal | Pair::PostgresS3 => Kind::Postgres,
        };
        let database = Database::create(kind).await?;
        let directory = tempfile::tempdir().unwrap();
        let mut all: Vec<(String, String)> = [
            ("BOX_ENVIRONMENT", "test"),
            ("BOX_LISTEN", "127.0.0.1:0"),
            ("BOX_AUTH__SECRET", SECRET),
            ("BOX_DATABASE__MAX_CONNECTIONS", "5"),
            ("BOX_STORE__FSYNC", "false"),
            // Tests call the reaper themselves, when they want it.
            ("BOX_REAPER__INTERVAL", "1d"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        all.push((
            "BOX_DATA_DIR".into(),
            directory.path().display().to_string(),
        ));
        all.push(("BOX_DATABASE__URL".into(), database.url().to_owned()));
        match pair {
            Pair::SqliteLocal | Pair::PostgresLocal => {
                let path = directory.path().join("objects");
                all.push(("BOX_STORE__URL".into(), format!("file:{}", path.display())));
            }
            Pair::PostgresS3 => all.extend(s3_variables()?),
        }
        let all = laid_over(all, variables);
        let parts = Self {
            _database: database,
            _directory: directory,
        };
        Some((parts, all))
    }
}

/// When every test begins.
pub fn start_of_time() -> Clock {
    Clock::manual(Timestamp::parse("2026-01-31T12:00:00.123456Z").unwrap())
}

const SECRET: &str = "a secret of thirty-two bytes and some more";

impl Service {
    /// With `BOX_*` variables of the test's own. None where the pair is to be skipped.
    pub async fn start_with(pair: Pair, variables: &[(&str, &str)]) -> Option<Self> {
        let (parts, all) = Parts::create(pair, variables).await?;
        let clock = start_of_time();
        Some(Self::run(pair, all, clock, Some(parts)).await)
    }

    async fn run(
        pair: Pair,
        variables: Vec<(String, String)>,
        clock: Clock,
        parts: Option<Parts>,
    ) -> Self {
        let config = config(&variables);
        let secrets = config.auth.secret.clone();
        let app = App::open(config, secrets.as_ref(), clock.clone())
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (admin, admin_url) = match app.config.admin_listen {
            None => (None, None),
            Some(listen) => {
                let listener = TcpListener::bind(listen).await.unwrap();
                let url = format!("http://{}", listener.local_addr().unwrap());
                (Some(listener), Some(url))
            }
        };
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server::serve(
            app.clone(),
            listener,
            admin,
            stop.clone().cancelled_owned(),
        ));
        Self {
            pair,
            app,
            clock,
            url,
            admin_url,
            variables,
            stop,
            serving: Mutex::new(Some(serving)),
            _parts: parts,
        }
    }

    /// Another service over the same database and store, with the same clock. Not for SQLite past
    /// what one process may do: it has one writer.
    pub async fn another(&self) -> Self {
        Self::run(self.pair, self.variables.clone(), self.clock.clone(), None).await
    }

    /// A service with some variables of its own, and the rest of this one's.
    pub async fn another_with(&self, variables: &[(&str, &str)]) -> Self {
        let variables = laid_over(self.variables.clone(), variables);
        Self::run(self.pair, variables, self.clock.clone(), None).await
    }

    /// A token that is valid for a year by the service's clock.
    pub fn token(&self, tenant: &str, scopes: &[Scope]) -> String {
        let year = Duration::from_secs(365 * 86_400);
        self.app
            .tokens
            .issue(&tenant.parse().unwrap(), "tester", scopes, year)
            .unwrap()
    }

    /// A client of this tenant with every scope.
    pub fn client(&self, tenant: &str) -> Client {
        self.client_with(tenant, Scope::ALL)
    }

    pub fn client_with(&self, tenant: &str, scopes: &[Scope]) -> Client {
        Client::new(&self.url, Some(self.token(tenant, scopes)))
    }

    pub fn stranger(&self) -> Client {
        Client::new(&self.url, None)
    }

    /// Host and port, for connections that are no client's.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Lets everything that is due, or becomes due with time, be done: leases run out, and dead
    /// objects' rows and keys go.
    pub async fn settle(&self) {
        self.app.domain.reap().await.unwrap();
        self.clock.advance(Duration::from_secs(86_400));
        self.app.domain.reap().await.unwrap();
        // Until nothing that was signed before can have an effect.
        self.clock.advance(Duration::from_secs(2 * 3_600));
        self.app.domain.reap().await.unwrap();
    }

    /// What `box fsck` says, with checksums verified.
    pub async fn fsck(&self) -> fsck::Report {
        let options = fsck::Options {
            verify_checksums: true,
            ..fsck::Options::default()
        };
        self.app.domain.fsck(options).await.unwrap()
    }

    /// The same of a service that has stopped, once all that was due is done.
    pub async fn fsck_after_stop(&self) -> fsck::Report {
        let config = &self.app.config;
        let domain = app::open_domain(config, false, self.clock.clone())
            .await
            .unwrap();
        domain.reap().await.unwrap();
        self.clock.advance(Duration::from_secs(86_400));
        domain.reap().await.unwrap();
        let report = domain.fsck(fsck::Options::default()).await.unwrap();
        domain.metadata.close().await;
        report
    }

    /// Database and store agree, and hold `objects` objects, every one of them live.
    pub async fn assert_holds(&self, objects: u64) {
        self.settle().await;
        let report = self.fsck().await;
        assert_eq!(report.problems.len(), 0, "{report}");
        assert_eq!((report.objects, report.keys), (objects, objects));
    }

    /// Asks the service to stop, as a signal does.
    pub fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Answers when the service has stopped.
    pub async fn stop(&self) {
        self.ask_to_stop();
        let serving = self.serving.lock().unwrap().take();
        if let Some(serving) = serving {
            serving.await.unwrap();
        }
    }

    /// What every test ends with: nothing is left that should not be there.
    pub async fn end(self) {
        if self.stop.is_cancelled() {
            return self.stop().await;
        }
        self.settle().await;
        let report = self.fsck().await;
        assert_eq!(report.problems.len(), 0, "{report}");
        assert_eq!(report.objects, report.keys, "{report}");
        self.stop().await;
    }
}

/// `base`, but for the variables that `changes` sets.
pub fn laid_over(
    mut base: Vec<(String, String)>,
    changes: &[(&str, &str)],
) -> Vec<(String, String)> {
    for (name, value) in changes {
        base.retain(|(known, _)| known != name);
        base.push(((*name).to_owned(), (*value).to_owned()));
    }
    base
}

pub fn config(variables: &[(String, String)]) -> Config {
    let sources = Sources::new(None, variables.to_vec(), Overrides::default());
    Config::load(&sources).unwrap().config
}

pub fn secrets() -> SigningSecrets {
    SECRET.parse().unwrap()
}

/// Where the S3 server is, and a prefix of the test's own in its bucket.
pub fn s3_variables() -> Option<Vec<(String, String)>> {
    let Ok(endpoint) = std::env::var("BOXTEST_S3_ENDPOINT") else {
        let required = std::env::var("BOXTEST_REQUIRE").is_ok_and(|value| value == "1");
        assert!(
            !required,
            "BOXTEST_S3_ENDPOINT is not set, and BOXTEST_REQUIRE is"
        );
        eprintln!("skipped: BOXTEST_S3_ENDPOINT is not set");
        return None;
    };
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let prefix = ObjectId::new(Clock::system().now());
    let bucket = variable("BOXTEST_S3_BUCKET");
    Some(
        [
            ("BOX_STORE__URL", format!("s3://{bucket}/it/{prefix}")),
            ("BOX_STORE__ENDPOINT", endpoint),
            ("BOX_STORE__ALLOW_HTTP", "true".to_owned()),
            (
                "BOX_STORE__ACCESS_KEY_ID",
                variable("BOXTEST_S3_ACCESS_KEY"),
            ),
            (
                "BOX_STORE__SECRET_ACCESS_KEY",
                variable("BOXTEST_S3_SECRET_KEY"),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec(),
    )
}

/// Makes of each `async fn name(service: &Service)` a test over every pair, on a fresh service;
/// `with [("BOX_…", "…")]` before the names configures it.
macro_rules! on_every_pair {
    (with $variables:expr; $($name:ident),+ $(,)?) => {
        on_every_pair!(@pair sqlite_local SqliteLocal; $variables; $($name),+);
        on_every_pair!(@pair postgres_local PostgresLocal; $variables; $($name),+);
        on_every_pair!(@pair postgres_s3 PostgresS3; $variables; $($name),+);
    };
    (@pair $module:ident $pair:ident; $variables:expr; $($name:ident),+) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let pair = $crate::harness::service::Pair::$pair;
                let service = $crate::harness::service::Service::start_with(pair, &$variables).await;
                if let Some(service) = service {
                    super::$name(&service).await;
                    service.end().await;
                }
            })+
        }
    };
    ($($name:ident),+ $(,)?) => {
        on_every_pair!(with []; $($name),+);
    };
}
pub(crate) use on_every_pair;
