//! Links: slugs that lead to a file or to an external URL, for whoever has them.
//!
//! A slug is looked up by the primary key alone; those that are asked for often are kept in memory
//! (`hot`). Uses are gathered and written ten times a second (`uses`), but for links that have a most: each of
//! those is counted in the database before it is answered.

use std::sync::Arc;

use futures::FutureExt;
use serde_json::json;
use url::Url;

use crate::clock::Timestamp;
use crate::error::{Error, Invalid, Kind, Result};
use crate::id::{FileId, Tenant};
use crate::metadata::Conn;

pub use crate::metadata::links::Link;
pub use making::LinkBatch;

use super::{Caller, Domain};

mod following;
mod hot;
mod making;
mod passwords;
mod uses;

use hot::Hot;
use passwords::Passwords;
use uses::Gathered;

/// The longest slug, URL and password, in bytes.
const SLUG_BYTES: usize = 128;
const URL_BYTES: usize = 8 * 1024;
const PASSWORD_BYTES: usize = 256;

/// Links that a list looks at for one page.
const LOOKED_AT: u32 = 10_000;
const AT_ONCE: u32 = 1_000;

/// Slugs that are freed in one transaction.
const SWEPT: u32 = 1_000;

/// What a process knows of links. Cheap to clone.
#[derive(Clone, Default)]
pub struct Links(Arc<Inner>);

#[derive(Default)]
struct Inner {
    hot: Hot,
    gathered: Gathered,
    passwords: Passwords,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Active,
    Expired,
    Spent,
    Disabled,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Active, Self::Expired, Self::Spent, Self::Disabled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Spent => "spent",
            Self::Disabled => "disabled",
        }
    }

    pub fn of(link: &Link, now: Timestamp) -> Self {
        if link.disabled {
            Self::Disabled
        } else if link.expires_at.is_some_and(|at| at <= now) {
            Self::Expired
        } else if link.max_uses.is_some_and(|most| link.uses >= most) {
            Self::Spent
        } else {
            Self::Active
        }
    }
}

/// A link that is to be made.
#[derive(Clone, Debug, Default)]
pub struct NewLink {
    /// None: one is made.
    pub slug: Option<String>,
    pub url: Option<String>,
    pub file_id: Option<FileId>,
    pub expires_at: Option<Timestamp>,
    pub max_uses: Option<i64>,
    pub password: Option<String>,
    pub disposition: Option<&'static str>,
}

/// What is to become different. None: stays; None within: none any more.
#[derive(Clone, Debug, Default)]
pub struct LinkPatch {
    pub url: Option<Option<String>>,
    pub file_id: Option<Option<FileId>>,
    pub expires_at: Option<Option<Timestamp>>,
    pub max_uses: Option<Option<i64>>,
    pub password: Option<Option<String>>,
    pub disposition: Option<Option<&'static str>>,
    pub disabled: Option<bool>,
}

/// Which links a list shows.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub prefix: String,
    pub file_id: Option<FileId>,
    pub state: Option<State>,
}

/// Whether a caller who named a revision may change a link that is in this one.
pub type Precondition = Arc<dyn Fn(&Link) -> Result<()> + Send + Sync>;

/// Why a text is no slug.
pub fn slug_fault(slug: &str) -> Option<&'static str> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    if !(1..=SLUG_BYTES).contains(&slug.len()) {
        Some("must have 1 to 128 characters")
    } else if !slug.bytes().all(legal) {
        Some("must consist of A-Z, a-z, 0-9, -, _ and ., with / between")
    } else if slug.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("must not have an empty part, nor . or .. as a part")
    } else if slug == "batch" {
        Some("is reserved")
    } else {
        None
    }
}

fn gone(detail: &'static str) -> Error {
    Error::new(Kind::Gone, detail)
}

fn taken() -> Error {
    Error::new(Kind::Conflict, "The slug is taken.")
}

/// What every part of a link must be, however it came to be so.
struct Faults(Vec<Invalid>);

impl Faults {
    fn say(&mut self, pointer: &str, detail: impl Into<String>) {
        self.0.push(Invalid {
            pointer: pointer.to_owned(),
            detail: detail.into(),
        });
    }

    fn end(self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Error::invalid_many(self.0))
        }
    }
}

impl Domain {
    /// The URL as it is kept: as every browser reads it.
    fn link_url(&self, text: &str) -> Result<String, &'static str> {
        if text.len() > URL_BYTES {
            return Err("must have at most 8 KiB");
        }
        // A parser passes over some of them, so that people would see another URL than browsers.
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("must not have control characters or spaces");
        }
        let url = Url::parse(text).map_err(|_| "must be a whole URL")?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("must be http or https");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold credentials");
        }
        match url.host() {
            None => return Err("must have a host"),
            Some(host) if !self.rules.links.allows(&host) => {
                return Err("leads to a host that this service's operator does not allow");
            }
            Some(_) => {}
        }
        let url = String::from(url);
        if url.len() > URL_BYTES {
            return Err("must have at most 8 KiB");
        }
        Ok(url)
    }

    /// Checks the parts that are given, and makes the URL what is kept.
    fn link_parts(
        &self,
        faults: &mut Faults,
        url: Option<&mut String>,
        expires_at: Option<Timestamp>,
        max_uses: Option<i64>,
        password: Option<&str>,
    ) {
        if let Some(url) = url {
            match self.link_url(url) {
                Ok(kept) => *url = kept,
                Err(fault) => faults.say("/url", fault),
            }
        }
        if expires_at.is_some_and(|at| at <= self.clock.now()) {
            faults.say("/expires_at", "must lie in the future");
        }
        if max_uses.is_some_and(|most| most < 1) {
            faults.say("/max_uses", "must be at least 1");
        }
        if password.is_some_and(|text| !(1..=PASSWORD_BYTES).contains(&text.len())) {
            faults.say("/password", "must have 1 to 256 bytes");
        }
    }

    /// # Errors
    /// `InvalidRequest` with every part that is wrong.
    fn link_check(&self, tenant: &Tenant, new: &mut NewLink) -> Result<()> {
        let mut faults = Faults(Vec::new());
        if let Some(slug) = &new.slug {
            let prefix = format!("{tenant}/");
            if let Some(fault) = slug_fault(slug) {
                faults.say("/slug", fault);
            } else if self.rules.links.tenant_prefix && !slug.starts_with(&prefix) {
                faults.say("/slug", format!("must begin with {prefix}"));
            }
        }
        if new.url.is_some() == new.file_id.is_some() {
            faults.say("", "must have one of url and file_id");
        }
        let (expires_at, max_uses) = (new.expires_at, new.max_uses);
        let password = new.password.as_deref();
        self.link_parts(
            &mut faults,
            new.url.as_mut(),
            expires_at,
            max_uses,
            password,
        );
        faults.end()
    }

    /// Deleted links that were deleted by then keep no slug from anybody.
    fn link_reserved(&self) -> Timestamp {
        self.clock.now().minus(self.rules.links.reserve)
    }

    /// The link; None where there is none, and where it is another tenant's.
    pub async fn link_get(&self, tenant: &Tenant, slug: &str) -> Result<Option<Link>> {
        let mut reader = self.metadata.reader().await?;
        reader.conn().link_get(tenant, slug).await
    }

    /// Links behind `after`, by their slugs, and where to go on. With a state there may be fewer than
    /// `limit` and more to come: a page looks at 10,000 links at most.
    pub async fn link_list(
        &self,
        tenant: &Tenant,
        wanted: &Wanted,
        after: &str,
        limit: u32,
    ) -> Result<(Vec<Link>, Option<String>)> {
        let now = self.clock.now();
        let mut reader = self.metadata.reader().await?;
        let (mut links, mut behind) = (Vec::new(), after.to_owned());
        let most = limit as usize;
        let step = if wanted.state.is_some() {
            AT_ONCE
        } else {
            limit + 1
        };
        for _ in 0..LOOKED_AT.div_ceil(step) {
            let found = reader
                .conn()
                .link_list(tenant, &wanted.prefix, wanted.file_id, &behind, step)
                .await?;
            let all = found.len() < step as usize;
            for link in found {
                let slug = link.slug.clone();
                if wanted
                    .state
                    .is_none_or(|state| State::of(&link, now) == state)
                {
                    if links.len() == most {
                        return Ok((links, Some(behind)));
                    }
                    links.push(link);
                }
                behind = slug;
            }
            if all {
                return Ok((links, None));
            }
        }
        Ok((links, Some(behind)))
    }

    /// A patch that changes nothing makes no new revision.
    ///
    /// # Errors
    /// `NotFound`; what `precondition` answers; `InvalidRequest`.
    pub async fn link_patch(
        &self,
        caller: &Caller,
        slug: &str,
        mut patch: LinkPatch,
        precondition: Precondition,
    ) -> Result<Link> {
        let mut faults = Faults(Vec::new());
        let url = patch.url.as_mut().and_then(Option::as_mut);
        let (expires_at, max_uses) = (patch.expires_at.flatten(), patch.max_uses.flatten());
        let password = patch.password.clone().flatten();
        self.link_parts(&mut faults, url, expires_at, max_uses, password.as_deref());
        faults.end()?;
        // Before it is hashed, which is dear.
        if self.link_get(&caller.tenant, slug).await?.is_none() {
            return Err(Error::not_found());
        }
        let password = match (&patch.password, password) {
            (None, _) => None,
            (Some(_), None) => Some(None),
            (Some(_), Some(text)) => Some(Some(self.links.0.passwords.hash(&text).await?)),
        };
        let now = self.clock.now();
        let event = self.event(caller, "link.updated", slug, patch.told());
        let input = (event, slug.to_owned(), patch, password, precondition);
        let patched = self
            .metadata
            .write(
                input,
                move |tx, (event, slug, patch, password, precondition)| {
                    async move {
                        let link = tx.link_lock(&event.tenant, slug).await?;
                        let link = link.ok_or_else(Error::not_found)?;
                        precondition(&link)?;
                        let mut changed = link.clone();
                        patch.apply(&mut changed);
                        if let Some(password) = password {
                            changed.password.clone_from(password);
                            changed.has_password = password.is_some();
                        }
                        if changed.url.is_some() == changed.file_id.is_some() {
                            return Err(Error::invalid("", "must leave one of url and file_id"));
                        }
                        if changed == link {
                            return Ok(link);
                        }
                        if changed.file_id != link.file_id {
                            leads_somewhere(tx, &changed, now).await?;
                        }
                        changed.revision += 1;
                        changed.updated_at = now;
                        tx.link_update(&changed).await?;
                        tx.event_insert(event).await?;
                        Ok(changed)
                    }
                    .boxed()
                },
            )
            .await;
        // Also where it failed: it may have been committed.
        self.links.0.hot.drop_one(slug);
        patched
    }

    /// The slug stays reserved to its tenant.
    ///
    /// # Errors
    /// `NotFound`; what `precondition` answers.
    pub async fn link_delete(
        &self,
        caller: &Caller,
        slug: &str,
        precondition: Precondition,
    ) -> Result<()> {
        let now = self.clock.now();
        let event = self.event(caller, "link.deleted", slug, json!({}));
        let input = (event, slug.to_owned(), precondition);
        let deleted = self
            .metadata
            .write(input, move |tx, (event, slug, precondition)| {
                async move {
                    let link = tx.link_lock(&event.tenant, slug).await?;
                    let mut link = link.ok_or_else(Error::not_found)?;
                    precondition(&link)?;
                    link.revision += 1;
                    link.updated_at = now;
                    link.deleted_at = Some(now);
                    link.password = None;
                    tx.link_update(&link).await?;
                    tx.event_insert(event).await
                }
                .boxed()
            })
            .await;
        self.links.0.hot.drop_one(slug);
        deleted
    }

    pub(super) async fn link_sweep(&self) -> Result<()> {
        loop {
            let before = self.link_reserved();
            let gone = self
                .metadata
                .write((), move |tx, ()| {
                    async move { tx.link_sweep(before, SWEPT).await }.boxed()
                })
                .await?;
            if gone < u64::from(SWEPT) {
                return Ok(());
            }
        }
    }
}

fn no_file() -> Error {
    Error::invalid("/file_id", "is no file's")
}

/// A link to a file must be to one of its tenant's.
async fn leads_somewhere(tx: &mut Conn<'_>, link: &Link, now: Timestamp) -> Result<()> {
    let Some(id) = link.file_id else {
        return Ok(());
    };
    let file = tx.file_get(&link.tenant, id).await?;
    match file.filter(|file| !file.has_expired(now)) {
        Some(_) => Ok(()),
        None => Err(no_file()),
    }
}

impl LinkPatch {
    fn apply(&self, link: &mut Link) {
        // Who sets the one takes the other away.
        if let Some(url) = &self.url {
            link.url.clone_from(url);
            if url.is_some() && self.file_id.is_none() {
                link.file_id = None;
            }
        }
        if let Some(file_id) = self.file_id {
            link.file_id = file_id;
            if file_id.is_some() && self.url.is_none() {
                link.url = None;
            }
        }
        if let Some(expires_at) = self.expires_at {
            link.expires_at = expires_at;
        }
        if let Some(max_uses) = self.max_uses {
            link.max_uses = max_uses;
        }
        if let Some(disposition) = self.disposition {
            link.disposition = disposition.map(str::to_owned);
        }
        if let Some(disabled) = self.disabled {
            link.disabled = disabled;
        }
    }

    /// The names of what it sets, for the event.
    fn told(&self) -> serde_json::Value {
        let set = [
            ("url", self.url.is_some()),
            ("file_id", self.file_id.is_some()),
            ("expires_at", self.expires_at.is_some()),
            ("max_uses", self.max_uses.is_some()),
            ("password", self.password.is_some()),
            ("disposition", self.disposition.is_some()),
            ("disabled", self.disabled.is_some()),
        ];
        let set = set.into_iter().filter(|(_, is_set)| *is_set);
        let names: Vec<&str> = set.map(|(name, _)| name).collect();
        json!({ "changed": names })
    }
}

#[cfg(test)]
mod tests {
    use super::slug_fault;

    #[test]
    fn a_slug_is_a_plain_path() {
        let longest = "x".repeat(128);
        for slug in ["a", "A-b_c.9", "a/b/c", "batch/1", "...", &longest] {
            assert_eq!(slug_fault(slug), None, "{slug}");
        }
        let long = "x".repeat(129);
        for bad in [
            "", "/", "a/", "/a", "a//b", ".", "a/..", "a b", "ä", "a~", "batch", &long,
        ] {
            assert!(slug_fault(bad).is_some(), "{bad}");
        }
    }
}
