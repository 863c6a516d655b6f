//! An import as it comes in: item by item, kept chunk by chunk, and unseen until the last one is there.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures::FutureExt;
use serde_json::json;
use sha2::{Digest, Sha256};
use url::Url;

use crate::error::{Error, Invalid, Kind, Result};
use crate::fetch::policy::{HEADERS, URL_BYTES};
use crate::id::{ImportId, Tenant};
use crate::metadata::events::Event;
use crate::metadata::imports::{Ended, Import, NewItem};

use super::super::files::Metadata;
use super::super::once::{self, Key, Once};
use super::super::properties::{metadata_fault, name_fault, text_fault};
use super::super::{Caller, Domain};
use super::{OnDuplicate, Options, seen};

/// Items that are kept in one transaction, and about how many bytes of them.
const CHUNK: usize = 1_000;
const CHUNK_BYTES: usize = 1024 * 1024;

/// How long the sender of an import may be silent before it counts as gone.
const LEASE: Duration = Duration::from_secs(300);

/// Items of an abandoned import that are removed in one transaction.
const REMOVED: u32 = 1_000;

/// Of an item's header field, in bytes.
const HEADER_BYTES: usize = 8 * 1024;

/// An item as its sender writes it.
#[derive(Clone, Debug, Default)]
pub struct Offered {
    pub url: String,
    pub name: Option<String>,
    pub metadata: Option<Metadata>,
    pub size: Option<u64>,
    /// In hexadecimal digits.
    pub sha256: Option<String>,
    pub md5: Option<String>,
    pub headers: Option<BTreeMap<String, String>>,
}

/// An import that is being received.
pub struct Receiving {
    domain: Domain,
    id: ImportId,
    caller: Caller,
    count: u32,
    chunk: Vec<NewItem>,
    chunk_bytes: usize,
    /// The URLs that came, each as half of its SHA-256.
    urls: HashSet<[u8; 16]>,
    duplicates: Vec<i64>,
}

impl Domain {
    pub async fn import_receive(&self, caller: &Caller) -> Result<Receiving> {
        let now = self.clock.now();
        let id = ImportId::new(now);
        self.metadata
            .write(caller.clone(), move |tx, caller| {
                async move {
                    tx.import_insert(id, &caller.tenant, &caller.subject, now, now.plus(LEASE))
                        .await
                }
                .boxed()
            })
            .await?;
        Ok(Receiving {
            domain: self.clone(),
            id,
            caller: caller.clone(),
            count: 0,
            chunk: Vec::new(),
            chunk_bytes: 0,
            urls: HashSet::new(),
            duplicates: Vec::new(),
        })
    }

    /// What is wrong with an item, if anything, by the names of its fields.
    pub fn import_item_check(&self, offered: &Offered) -> Vec<Invalid> {
        self.checked(offered).err().unwrap_or_default()
    }

    fn checked(&self, offered: &Offered) -> Result<Url, Vec<Invalid>> {
        let mut invalid = Vec::new();
        let mut refuse = |pointer: &str, detail: String| {
            invalid.push(Invalid {
                pointer: pointer.to_owned(),
                detail,
            });
        };
        let url = Url::parse(&offered.url);
        match &url {
            Err(error) => refuse("/url", format!("is no URL: {error}")),
            Ok(_) if offered.url.chars().any(char::is_control) => {
                refuse("/url", "must have no control character".to_owned());
            }
            Ok(url) => {
                // Whether its address may be connected to is seen when it is: it may change.
                if let Err(refusal @ crate::fetch::Refusal::Url(_)) =
                    self.fetcher.policy().check(url)
                {
                    refuse("/url", refusal.to_string());
                }
            }
        }
        if let Some(fault) = offered.name.as_deref().and_then(name_fault) {
            refuse("/name", fault.to_owned());
        }
        if let Some(fault) = offered.metadata.as_ref().and_then(metadata_fault) {
            refuse("/metadata", fault.to_owned());
        }
        let most = self.import_file_bytes();
        if offered.size.is_some_and(|size| size > most) {
            refuse("/size", format!("must be at most {most}"));
        }
        for (pointer, digits, length) in
            [("/sha256", &offered.sha256, 64), ("/md5", &offered.md5, 32)]
        {
            if digits
                .as_ref()
                .is_some_and(|digits| !is_hex(digits, length))
            {
                refuse(pointer, format!("must be {length} hexadecimal digits"));
            }
        }
        for (name, value) in offered.headers.iter().flatten() {
            let known = HEADERS
                .iter()
                .any(|header| header.eq_ignore_ascii_case(name));
            let pointer = format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"));
            if !known {
                refuse(&pointer, format!("must be one of {}", HEADERS.join(", ")));
            } else if value.len() > HEADER_BYTES
                || !value.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~'))
            {
                refuse(
                    &pointer,
                    "must be at most 8 KiB of visible ASCII".to_owned(),
                );
            }
        }
        match url {
            Ok(url) if invalid.is_empty() => Ok(url),
            _ => Err(invalid),
        }
    }

    /// The largest file that an item may become.
    pub(super) fn import_file_bytes(&self) -> u64 {
        let limits = &self.rules.limits;
        let imports = &self.rules.imports;
        limits
            .max_file_size
            .bytes()
            .min(imports.max_file_size.bytes())
    }

    /// Removes what is left of imports whose senders are gone, and those that were kept for long enough.
    pub async fn import_sweep(&self) -> Result<()> {
        self.imports_expire().await?;
        loop {
            let now = self.clock.now();
            let mut reader = self.metadata.reader().await?;
            let abandoned = reader.conn().import_abandoned(now).await?;
            drop(reader);
            let Some(id) = abandoned else { return Ok(()) };
            loop {
                let gone = self
                    .metadata
                    .write((), move |tx, ()| {
                        async move { tx.import_remove(id, now, REMOVED).await }.boxed()
                    })
                    .await?;
                if gone {
                    break;
                }
            }
        }
    }
}

impl Domain {
    /// Gives imports that ended long ago to the sweep: nobody sees them from here on.
    async fn imports_expire(&self) -> Result<()> {
        const AT_ONCE: u32 = 100;
        loop {
            let now = self.clock.now();
            let ended = now.minus(self.rules.imports.keep);
            let mut reader = self.metadata.reader().await?;
            let found = reader.conn().import_kept(ended, AT_ONCE).await?;
            drop(reader);
            let all = found.len() < AT_ONCE as usize;
            for (id, tenant) in found {
                let event = self.event(&Caller::service(tenant), "import.expired", id, json!({}));
                self.metadata
                    .write(event, move |tx, event: &Event| {
                        async move {
                            // Somebody may have had it tried again meanwhile.
                            if tx.import_expire(&event.tenant, id, ended, now).await? {
                                tx.event_insert(event).await?;
                            }
                            Ok(())
                        }
                        .boxed()
                    })
                    .await?;
            }
            if all {
                return Ok(());
            }
        }
    }
}

impl Receiving {
    /// Takes the next item. One that can't be fetched is kept as one that failed.
    ///
    /// # Errors
    /// `InvalidRequest`: there are more items than an import may have.
    pub async fn push(&mut self, offered: Offered) -> Result<()> {
        let fault = self.domain.checked(&offered);
        let item = match fault {
            Ok(url) => self.sound(offered, url)?,
            Err(invalid) => faulty(&offered.url, &invalid),
        };
        self.keep(item).await
    }

    /// Takes an item that can't be read.
    ///
    /// # Errors
    /// As [`Receiving::push`].
    pub async fn push_faulty(&mut self, url: &str, invalid: &[Invalid]) -> Result<()> {
        self.keep(faulty(url, invalid)).await
    }

    fn sound(&mut self, offered: Offered, mut url: Url) -> Result<NewItem> {
        url.set_fragment(None);
        let digest = Sha256::digest(url.as_str());
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        if !self.urls.insert(half) {
            self.duplicates.push(i64::from(self.count));
        }
        let headers = offered.headers.filter(|headers| !headers.is_empty());
        Ok(NewItem {
            host: host(&url),
            url: offered.url,
            name: offered.name,
            metadata: offered.metadata,
            size: offered.size,
            sha256: offered.sha256.map(|digits| digits.to_ascii_lowercase()),
            md5: offered.md5.map(|digits| digits.to_ascii_lowercase()),
            headers: headers
                .map(|headers| serde_json::to_string(&headers).map_err(Error::internal))
                .transpose()?,
            ..NewItem::default()
        })
    }

    async fn keep(&mut self, mut item: NewItem) -> Result<()> {
        let most = self.domain.rules.imports.max_items;
        if self.count == most {
            let detail = format!("an import may have at most {most} items");
            return Err(Error::invalid("/items", detail));
        }
        item.number = self.count;
        self.count += 1;
        self.chunk_bytes += item.url.len() + 512;
        self.chunk_bytes += item.headers.as_ref().map_or(0, String::len);
        // Metadata is at most 64 KiB; what it really takes is not worth another look at it.
        self.chunk_bytes += item.metadata.as_ref().map_or(0, |_| 8 * 1024);
        self.chunk.push(item);
        if self.chunk.len() >= CHUNK || self.chunk_bytes >= CHUNK_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let id = self.id;
        let now = self.domain.clock.now();
        let input = (self.caller.tenant.clone(), std::mem::take(&mut self.chunk));
        self.chunk_bytes = 0;
        let kept = self
            .domain
            .metadata
            .write(input, move |tx, (tenant, items)| {
                async move {
                    tx.import_items_insert(id, tenant, items, now, now.plus(LEASE))
                        .await
                }
                .boxed()
            })
            .await?;
        if kept { Ok(()) } else { Err(too_slow()) }
    }

    /// Makes the import seen, and its items ready to be fetched.
    ///
    /// `once`: the request, and the SHA-256 of its body.
    ///
    /// # Errors
    /// `InvalidRequest` for an import of nothing. Then, and on any other error, nothing of it is seen.
    pub async fn finish(
        mut self,
        options: Options,
        once: Option<(&Once, [u8; 32])>,
    ) -> Result<Import> {
        if self.count == 0 {
            self.abandon().await;
            return Err(Error::invalid("/items", "must have at least one item"));
        }
        self.flush().await?;
        let (id, domain) = (self.id, self.domain.clone());
        let now = domain.clock.now();
        let count = self.count;
        let event = domain.event(&self.caller, "import.created", id, json!({"items": count}));
        let duplicates = match options.on_duplicate {
            OnDuplicate::Keep => Vec::new(),
            OnDuplicate::Skip => std::mem::take(&mut self.duplicates),
        };
        let options = serde_json::to_string(&options).map_err(Error::internal)?;
        let record = match once {
            Some((once, sha256)) => Some((
                once.key(&self.caller),
                once.fingerprint,
                once::done(sha256, &id)?,
            )),
            None => None,
        };
        let expired = domain.once_expired();
        let input = (event, options, duplicates, record);
        let begun = domain
            .metadata
            .write(input, move |tx, (event, options, duplicates, record)| {
                async move {
                    if let Some((key, fingerprint, done)) = record {
                        if let Some(known) = tx.idempotency_get(key).await?
                            && known.created_at <= expired
                        {
                            tx.idempotency_forget(key, known.created_at, expired)
                                .await?;
                        }
                        if !tx.idempotency_record(key, fingerprint, done, now).await? {
                            return Ok(None);
                        }
                    }
                    if !duplicates.is_empty() {
                        let ended = Ended {
                            error: Some((
                                "duplicate",
                                "an earlier item has the same URL".to_owned(),
                            )),
                            ..Ended::default()
                        };
                        tx.import_items_drop(id, &event.tenant, duplicates, &ended)
                            .await?;
                    }
                    if !tx.import_begin(id, &event.tenant, options, now).await? {
                        return Err(too_slow());
                    }
                    tx.event_insert(event).await?;
                    seen(tx, &event.tenant, id).await.map(Some)
                }
                .boxed()
            })
            .await?;
        if let Some(import) = begun {
            domain.queued.notify_one();
            return Ok(import);
        }
        let Some((once, sha256)) = once else {
            return Err(Error::internal("an import without a key lost it"));
        };
        // Another request with the same key was the first to end.
        let tenant = self.caller.tenant.clone();
        let key = once.key(&self.caller);
        self.abandon().await;
        match domain.once_look(once, &key).await? {
            Key::Done(done) => {
                domain
                    .import_made(&tenant, once::made(&done, &sha256)?)
                    .await
            }
            Key::Free | Key::Abandoned(_) => {
                Err(Error::unavailable("the request's key was taken over"))
            }
        }
    }

    /// Gives up what was received: it is removed at the next sweep.
    pub async fn abandon(self) {
        let id = self.id;
        let now = self.domain.clock.now();
        let abandoned = self
            .domain
            .metadata
            .write((), move |tx, ()| {
                async move { tx.import_abandon(id, now).await }.boxed()
            })
            .await;
        if let Err(error) = abandoned {
            // Its lease runs out.
            tracing::warn!(import = %id, %error, "an import could not be abandoned");
        }
    }
}

impl Domain {
    /// What an earlier request with the same key made; None where there was none.
    ///
    /// # Errors
    /// As `once_look`; `InvalidRequest` when that one's body was another.
    pub async fn import_once(&self, caller: &Caller, once: &Once) -> Result<Option<Earlier>> {
        match self.once_look(once, &once.key(caller)).await? {
            Key::Free | Key::Abandoned(_) => Ok(None),
            Key::Done(done) => Ok(Some(Earlier {
                done,
                tenant: caller.tenant.clone(),
            })),
        }
    }

    async fn import_made(&self, tenant: &Tenant, id: ImportId) -> Result<Import> {
        self.import_get(tenant, id)
            .await?
            .ok_or_else(Error::not_found)
    }
}

/// What an earlier request with the same key made.
pub struct Earlier {
    done: crate::metadata::idempotency::Done,
    tenant: Tenant,
}

impl Earlier {
    /// The import that it made, as it is now.
    ///
    /// # Errors
    /// `InvalidRequest` when its body was another.
    pub async fn import(&self, domain: &Domain, body_sha256: &[u8; 32]) -> Result<Import> {
        let id = once::made(&self.done, body_sha256)?;
        domain.import_made(&self.tenant, id).await
    }
}

fn too_slow() -> Error {
    Error::new(
        Kind::RequestTimeout,
        "The items came too slowly: nothing of the import is kept.",
    )
}

fn faulty(url: &str, invalid: &[Invalid]) -> NewItem {
    let detail: Vec<String> = invalid
        .iter()
        .map(|part| format!("{}: {}", part.pointer, part.detail))
        .collect();
    NewItem {
        url: shown(url),
        fault: Some(detail.join("; ").replace('\0', "\u{fffd}")),
        ..NewItem::default()
    }
}

/// What is kept of a text that should be a URL: no credentials, nothing that a database refuses.
fn shown(text: &str) -> String {
    if let Ok(mut url) = Url::parse(text) {
        let redacted = !url.username().is_empty() || url.password().is_some();
        if redacted && url.set_username("").is_ok() && url.set_password(None).is_ok() {
            return shown(url.as_str());
        }
    }
    let mut end = text.len().min(URL_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    match text_fault(&text[..end]) {
        None => text[..end].to_owned(),
        Some(_) => text[..end].replace('\0', "\u{fffd}"),
    }
}

/// With its port: another one is another server.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
