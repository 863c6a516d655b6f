//! One service, put together from its configuration: what the handlers, the workers and the
//! commands share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Seal, Tokens};
use crate::clock::Clock;
use crate::config::{Config, SigningSecrets};
use crate::domain::audit::Keys;
use crate::domain::health::Health;
use crate::domain::imports::Ends;
use crate::domain::{Ahead, Domain, Links, Rules};
use crate::error::Result;
use crate::faults::Faults;
use crate::fetch::Fetcher;
use crate::id::{ClaimId, Tenant};
use crate::metadata::{self, Metadata};
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::places::Places;

/// Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub config: Arc<Config>,
    pub domain: Domain,
    pub tokens: Arc<Tokens>,
    /// What seals signed URLs; None: there is no secret for it.
    pub seal: Option<Arc<Seal>>,
    pub health: Arc<Health>,
    /// Uploads that are taken in now.
    pub uploads: Places<Tenant>,
    /// What must run to its end though the request that began it is gone.
    pub tasks: TaskTracker,
    /// Cancelled once the service is to stop.
    pub stopping: CancellationToken,
}

impl App {
    /// Connects to the database and the store, and makes sure that they are those of this
    /// environment and of each other. Without secrets, the tokens are those of the configured issuers.
    ///
    /// # Errors
    /// What can't be reached, or belongs to another deployment: a text for the operator.
    pub async fn open(
        config: Config,
        secrets: Option<&SigningSecrets>,
        clock: Clock,
    ) -> Result<Self> {
        let tokens = Tokens::new(secrets, &config.auth.issuers, clock.clone())?;
        let seal = config.urls.secret.as_ref().or(secrets);
        let seal = seal.map(Seal::new).transpose()?.map(Arc::new);
        let mut domain = open_domain(&config, config.database.migrate, clock).await?;
        domain.audit_keys = audit_keys(&config, secrets)?;
        domain.generation_raise().await?;
        Ok(Self {
            health: Arc::new(Health::new(domain.clone())),
            uploads: Places::new(config.limits.uploads_per_tenant),
            domain,
            tokens: Arc::new(tokens),
            seal,
            config: Arc::new(config),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        })
    }
}

/// What ends of audit chains are signed with: `auth.secret`, or the generated secret, where `audit.key` is not set.
///
/// # Errors
/// `Internal`: the library can't compute an HMAC.
pub fn audit_keys(config: &Config, secrets: Option<&SigningSecrets>) -> Result<Option<Arc<Keys>>> {
    let secret = config.audit.key.as_ref().or(config.auth.secret.as_ref());
    let keys = secret.or(secrets).map(Keys::new).transpose()?;
    Ok(keys.map(Arc::new))
}

/// The domain alone, for the commands that serve nothing.
///
/// # Errors
/// As [`App::open`].
pub async fn open_domain(config: &Config, migrate: bool, clock: Clock) -> Result<Domain> {
    open_domain_with(config, migrate, clock, Faults::none()).await
}

/// The same, with fault points, for the tests that walk them. No configuration leads here.
///
/// # Errors
/// As [`App::open`].
pub async fn open_domain_with(
    config: &Config,
    migrate: bool,
    clock: Clock,
    faults: Faults,
) -> Result<Domain> {
    let metrics = Metrics::default();
    let metadata = open_metadata_with(config, migrate, faults.clone())
        .await?
        .measured_by(metrics.database.waits.clone());
    let objects = Objects::open_with(
        &config.store_settings(),
        &config.environment,
        faults,
        metrics.store.clone(),
    )
    .map_err(|error| error.detailed(format!("can't open the store {}", config.store_url())))?;
    let fetcher = Fetcher::new(config.fetch.settings(), clock.clone())?;
    let ends = Arc::new(Ends::of(&metadata));
    let process = ClaimId::new(clock.now());
    let audit_keys = audit_keys(config, None)?;
    let domain = Domain {
        metadata,
        objects,
        clock,
        rules: Arc::new(Rules {
            limits: config.limits.clone(),
            lease: config.store.lease,
            request_horizon: config.store.request_horizon,
            quota: config.quota.clone(),
            archive: config.archive.clone(),
            imports: config.imports.clone(),
            links: config.links.clone(),
            uploads_expiry: config.uploads.expiry,
            uploads_single_max: config.uploads.single_max.bytes(),
            fetch_timeout: config.fetch.timeout,
            trash_keep: config.trash.keep,
            versions_keep: config.versions.keep,
            versions_max_age: config.versions.max_age,
            reaper_delay: config.reaper.delay,
            lifecycle: config.lifecycle.clone(),
            audit_keep: config.audit.keep,
            audit_access: config.audit.access,
        }),
        died: Arc::default(),
        unhashed: Arc::default(),
        signed_puts: Arc::default(),
        reaping: Arc::default(),
        fetcher,
        queued: Arc::default(),
        ends,
        older: Arc::default(),
        ahead: Ahead::default(),
        archives: Places::new(config.archive.per_tenant),
        links: Links::default(),
        process,
        audit_keys,
        sampled: Arc::default(),
        metrics,
    };
    domain
        .deployment_claim(&config.environment)
        .await
        .map_err(|error| {
            error.detailed(format!(
                "can't use the database {} with the store {}",
                config.database_url(),
                config.store_url()
            ))
        })?;
    Ok(domain)
}

/// The database alone.
///
/// # Errors
/// As [`App::open`].
pub async fn open_metadata(config: &Config, migrate: bool) -> Result<Metadata> {
    open_metadata_with(config, migrate, Faults::none()).await
}

async fn open_metadata_with(config: &Config, migrate: bool, faults: Faults) -> Result<Metadata> {
    Metadata::open_with(&metadata_settings(config, migrate), faults)
        .await
        .map_err(|error| {
            error.detailed(format!("can't open the database {}", config.database_url()))
        })
}

fn metadata_settings(config: &Config, migrate: bool) -> metadata::Settings {
    metadata::Settings {
        url: config.database_url().expose().to_owned(),
        max_connections: config.database.max_connections,
        timeout: config.database.timeout,
        migrate,
    }
}
