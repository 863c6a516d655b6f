//! What lies in `data_dir` beside the database and the objects: the generated secret and the lock.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::config::{Config, SigningSecrets, StoreUrl};

use super::Failure;

/// Makes the directory, for this user only.
pub(super) fn make(config: &Config) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir)
        .map_err(|error| format!("{}: {error}", config.data_dir.display()).into())
}

/// Whether anything of this service lies on this machine.
pub(super) fn is_used(config: &Config) -> bool {
    config.database_url().expose().starts_with("sqlite:")
        || matches!(config.store_url(), StoreUrl::File(_))
        || (config.auth.secret.is_none() && config.auth.issuers.is_empty())
}

/// Makes sure that no other process serves from the directory, for as long as the answer lives.
pub(super) fn lock(config: &Config) -> Result<File, Failure> {
    let path = config.data_dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(format!("another process serves from {}", config.data_dir.display()).into())
        }
        Err(TryLockError::Error(error)) => Err(format!("{}: {error}", path.display()).into()),
    }
}

/// The secrets that were configured; none where there are issuers instead; in development, else one
/// that is made on the first call and kept.
pub(super) fn signing_secrets(config: &Config) -> Result<Option<SigningSecrets>, Failure> {
    if config.auth.secret.is_some() || !config.auth.issuers.is_empty() {
        return Ok(config.auth.secret.clone());
    }
    if !config.environment.is_development() {
        return Err(format!(
            "neither auth.secret nor auth.issuers is set, and only the environment \"development\" makes a secret up (this is {:?}): set BOX_AUTH__SECRET to at least 32 random bytes, or name who signs tokens",
            &*config.environment
        )
        .into());
    }
    make(config)?;
    let path = config.data_dir.join("secret");
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            generate(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            fs::read_to_string(&path)
        }
        read => read,
    };
    text.map_err(|error| error.to_string())
        .and_then(|text| text.trim_end().parse())
        .map(Some)
        .map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Whole or not at all, and never over another process's: written aside, then linked to its name.
fn generate(path: &Path) -> std::io::Result<()> {
    let aside = path.with_extension(hex::encode(rand::random::<[u8; 8]>()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    writeln!(file, "{}", hex::encode(rand::random::<[u8; 32]>()))?;
    file.sync_all()?;
    let linked = match fs::hard_link(&aside, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    };
    fs::remove_file(&aside)?;
    linked
}
