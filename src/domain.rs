//! The rules. What must hold stands here and in the modules below; who asks (HTTP, a worker,
//! the command line) and where it is kept (metadata, objects) do not matter.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, OnceCell};

use crate::clock::Clock;
use crate::config::{self, Archive, Imports, Limits, Quota};
use crate::fetch::Fetcher;
use crate::id::{ClaimId, Tenant};
use crate::metadata::Metadata;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::places::Places;

pub use ahead::Ahead;
pub use links::Links;

mod ahead;
pub mod archives;
pub mod audit;
pub mod changes;
mod content;
pub mod deployment;
pub mod doctor;
pub mod files;
pub mod fsck;
mod hashes;
pub mod health;
pub mod holds;
pub mod imports;
pub mod lifecycle;
pub mod links;
pub mod once;
pub mod properties;
pub mod quota;
pub mod reaper;
pub mod removal;
mod standing;
pub mod uploads;
pub mod versions;

/// What an operator decides.
#[derive(Clone, Debug)]
pub struct Rules {
    pub limits: Limits,
    /// How long a writer may be silent before another may decide about its object.
    pub lease: Duration,
    /// How long a request that the store took may still have an effect.
    pub request_horizon: Duration,
    /// What each tenant may keep.
    pub quota: Quota,
    pub archive: Archive,
    pub imports: Imports,
    pub links: config::Links,
    /// How long an upload waits for its next bytes.
    pub uploads_expiry: Duration,
    /// Up to how many bytes a direct upload is one request.
    pub uploads_single_max: u64,
    /// How long one attempt at a URL may take.
    pub fetch_timeout: Duration,
    /// How many earlier contents of a file are kept, and for how long after they were replaced.
    pub versions_keep: u32,
    pub versions_max_age: Option<Duration>,
    /// How long deleted files stay in the trash; zero: there is none.
    pub trash_keep: Duration,
    /// How long the bytes of a deleted file stay.
    pub reaper_delay: Duration,
    pub lifecycle: config::Lifecycle,
    /// How long events are kept; None: for ever.
    pub audit_keep: Option<Duration>,
    /// Whether refused and signed access is noted.
    pub audit_access: bool,
}

/// The domain, over one database and one store. Cheap to clone.
#[derive(Clone)]
pub struct Domain {
    pub metadata: Metadata,
    pub objects: Objects,
    pub clock: Clock,
    pub rules: Arc<Rules>,
    /// Told when an object has died, so that the reaper need not wait for its next round.
    pub died: Arc<Notify>,
    /// Told when an object is to be hashed.
    pub unhashed: Arc<Notify>,
    /// Whether the store was found to keep what a signed request wrote from being written over.
    pub signed_puts: Arc<OnceCell<bool>>,
    /// One round at a time in this process: a second one would find the rows claimed, and end
    /// before what is due is done.
    pub reaping: Arc<Mutex<()>>,
    pub fetcher: Fetcher,
    /// Told when there are items to fetch, or some that are not to be fetched any more.
    pub queued: Arc<Notify>,
    /// Items of imports that are about to end.
    pub ends: Arc<imports::Ends>,
    /// Whether the database was found to be older than the store.
    pub older: Arc<AtomicBool>,
    pub ahead: Ahead,
    /// Archives that are being sent.
    pub archives: Places<Tenant>,
    pub links: Links,
    /// Of this process, in the leases that it takes.
    pub process: ClaimId,
    /// What ends of chains are signed with; None: they are not.
    pub audit_keys: Option<Arc<audit::Keys>>,
    pub sampled: Arc<audit::Sampled>,
    pub metrics: Metrics,
}

/// On whose behalf something is done, for the event that tells of it.
#[derive(Clone, Debug)]
pub struct Caller {
    pub tenant: Tenant,
    pub subject: String,
    pub request_id: Option<String>,
    pub remote_ip: Option<String>,
}

impl Caller {
    /// The service itself, at work in a tenant.
    pub fn service(tenant: Tenant) -> Self {
        Self {
            tenant,
            subject: "box-service".to_owned(),
            request_id: None,
            remote_ip: None,
        }
    }
}
