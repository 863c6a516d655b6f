//! How links are made: one, with a key or without, or many.

use std::collections::{HashMap, HashSet};

use futures::FutureExt;
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::id::Tenant;

use super::super::content::Claim;
use super::super::once::{self, Key, Once};
use super::super::{Caller, Domain};
use super::{Link, NewLink, leads_somewhere, no_file, taken};

/// Characters of a slug that is made: 59 bits.
const MADE: usize = 10;

/// How often a made slug may be taken: once is a coincidence, twice is none.
const MADE_ATTEMPTS: usize = 4;

impl Domain {
    /// # Errors
    /// `InvalidRequest`; `Conflict` where the slug is taken, or reserved to another tenant.
    pub async fn link_create(
        &self,
        caller: &Caller,
        mut new: NewLink,
        once: Option<Once>,
    ) -> Result<Link> {
        self.link_check(&caller.tenant, &mut new)?;
        let Some(once) = once else {
            let made = self.link_made(caller, &new, None).await?;
            return made.ok_or_else(|| Error::internal("a link without a key lost it"));
        };
        let key = once.key(caller);
        loop {
            let abandoned = match self.once_look(&once, &key).await? {
                Key::Free => None,
                Key::Abandoned(since) => Some(since),
                // The fingerprint covers all of the request.
                Key::Done(done) => return once::made(&done, &once.fingerprint),
            };
            let claim = (key.clone(), once.fingerprint, abandoned);
            if let Some(link) = self.link_made(caller, &new, Some(claim)).await? {
                return Ok(link);
            }
        }
    }

    /// None: another request has the key.
    async fn link_made(
        &self,
        caller: &Caller,
        new: &NewLink,
        claim: Option<Claim>,
    ) -> Result<Option<Link>> {
        let password = match &new.password {
            Some(password) => Some(self.links.0.passwords.hash(password).await?),
            None => None,
        };
        for attempt in 1.. {
            let slug = match &new.slug {
                Some(slug) => slug.clone(),
                None => self.link_slug(&caller.tenant),
            };
            let link = self.link_of(caller, new, slug, password.clone());
            match self.link_insert(caller, link, claim.clone()).await {
                Err(error)
                    if error.kind() == Kind::Conflict
                        && new.slug.is_none()
                        && attempt < MADE_ATTEMPTS => {}
                outcome => return outcome,
            }
        }
        Err(taken())
    }

    fn link_of(
        &self,
        caller: &Caller,
        new: &NewLink,
        slug: String,
        password: Option<String>,
    ) -> Link {
        let now = self.clock.now();
        Link {
            slug,
            tenant: caller.tenant.clone(),
            url: new.url.clone(),
            file_id: new.file_id,
            has_password: password.is_some(),
            password,
            disposition: new.disposition.map(str::to_owned),
            disabled: false,
            expires_at: new.expires_at,
            max_uses: new.max_uses,
            uses: 0,
            last_used_at: None,
            revision: 1,
            created_at: now,
            updated_at: now,
            created_by: caller.subject.clone(),
            deleted_at: None,
        }
    }

    async fn link_insert(
        &self,
        caller: &Caller,
        link: Link,
        claim: Option<Claim>,
    ) -> Result<Option<Link>> {
        let slug = link.slug.clone();
        let event = self.event(caller, "link.created", &slug, json!({}));
        let (now, expired, reserved) = (link.created_at, self.once_expired(), self.link_reserved());
        let made = self
            .metadata
            .write((event, link, claim), move |tx, (event, link, claim)| {
                async move {
                    leads_somewhere(tx, link, now).await?;
                    if !once::record(tx, claim.as_ref(), link, now, expired).await? {
                        return Ok(None);
                    }
                    if !tx.link_insert(link, reserved).await? {
                        return Err(taken());
                    }
                    tx.event_insert(event).await?;
                    Ok(Some(link.clone()))
                }
                .boxed()
            })
            .await;
        // A deleted one of the same slug may be known here.
        self.links.0.hot.drop_one(&slug);
        made
    }

    /// Makes links, each on its own, as [`LinkBatch::make`] says.
    async fn link_create_chunk(
        &self,
        caller: &Caller,
        new: Vec<Result<NewLink>>,
    ) -> Vec<Result<String>> {
        let mut slugs = HashSet::new();
        let mut checked: Vec<Result<Link>> = Vec::with_capacity(new.len());
        for new in new {
            let link = match new {
                Ok(new) => self.link_of_many(caller, new, &mut slugs).await,
                Err(error) => Err(error),
            };
            checked.push(link);
        }
        let mut links: Vec<Link> = checked
            .iter()
            .filter_map(|one| one.as_ref().ok().cloned())
            .collect();
        // In one order, so that two who ask for the same slugs don't wait for each other.
        links.sort_by(|a, b| a.slug.cmp(&b.slug));
        let made = self.link_insert_many(caller, links).await;
        for slug in &slugs {
            self.links.0.hot.drop_one(slug);
        }
        checked
            .into_iter()
            .map(|link| {
                let link = link?;
                match &made {
                    Ok(made) if made.no_file.contains(&link.slug) => Err(no_file()),
                    Ok(made) if made.slugs.contains(&link.slug) => Ok(link.slug),
                    Ok(_) => Err(taken()),
                    Err(error) => Err(Error::new(
                        error.kind(),
                        "The link may not be made: try again.",
                    )),
                }
            })
            .collect()
    }

    /// One of many, unless its slug is among `slugs` already. Passwords are hashed one after the other, so
    /// that a turn is left for those who follow links.
    async fn link_of_many(
        &self,
        caller: &Caller,
        mut new: NewLink,
        slugs: &mut HashSet<String>,
    ) -> Result<Link> {
        self.link_check(&caller.tenant, &mut new)?;
        let slug = match new.slug.take() {
            Some(slug) => slug,
            None => self.link_slug(&caller.tenant),
        };
        if !slugs.insert(slug.clone()) {
            return Err(taken());
        }
        let password = match &new.password {
            Some(password) => Some(self.links.0.passwords.hash(password).await?),
            None => None,
        };
        Ok(self.link_of(caller, &new, slug, password))
    }

    async fn link_insert_many(&self, caller: &Caller, links: Vec<Link>) -> Result<MadeMany> {
        if links.is_empty() {
            return Ok(MadeMany::default());
        }
        let now = self.clock.now();
        let reserved = self.link_reserved();
        let event = self.event(caller, "link.created", "batch", json!({}));
        let outcome = self
            .metadata
            .write((event, links), move |tx, (event, links)| {
                async move {
                    let mut files = HashMap::new();
                    let mut made = MadeMany::default();
                    let mut good = Vec::with_capacity(links.len());
                    for link in links {
                        let there = match link.file_id {
                            None => true,
                            Some(id) => match files.get(&id) {
                                Some(there) => *there,
                                None => {
                                    let file = tx.file_get(&event.tenant, id).await?;
                                    let there = file.is_some_and(|file| !file.has_expired(now));
                                    files.insert(id, there);
                                    there
                                }
                            },
                        };
                        if there {
                            good.push(link.clone());
                        } else {
                            made.no_file.insert(link.slug.clone());
                        }
                    }
                    let slugs = tx.link_insert_many(&good, reserved).await?;
                    if !slugs.is_empty() {
                        let mut event = event.clone();
                        event.detail = json!({ "slugs": slugs });
                        tx.event_insert(&event).await?;
                    }
                    made.slugs = slugs.into_iter().collect();
                    Ok(made)
                }
                .boxed()
            })
            .await;
        if let Err(error) = &outcome {
            tracing::warn!(%error, "a chunk of links could not be made");
        }
        outcome
    }

    fn link_slug(&self, tenant: &Tenant) -> String {
        const LETTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut slug = String::new();
        if self.rules.links.tenant_prefix {
            slug.push_str(tenant.as_str());
            slug.push('/');
        }
        for _ in 0..MADE {
            slug.push(char::from(LETTERS[rand::random_range(0..LETTERS.len())]));
        }
        slug
    }
}

/// What became of many links that were to be made: of those in neither, the slug is taken.
#[derive(Default)]
struct MadeMany {
    slugs: HashSet<String>,
    no_file: HashSet<String>,
}

/// Makes many links, a chunk after the other.
pub struct LinkBatch {
    domain: Domain,
    caller: Caller,
    away: bool,
}

impl LinkBatch {
    /// Links that share a transaction and an event at the most.
    pub const CHUNK: usize = 1_000;

    pub fn new(domain: Domain, caller: Caller) -> Self {
        Self {
            domain,
            caller,
            away: false,
        }
    }

    /// Makes the links of a chunk, each on its own, in one transaction with one event, and tells in the
    /// order given what became of each: its slug, or why there is none. Where the database is away none
    /// of them is made, nor any of the chunks behind.
    pub async fn make(&mut self, new: Vec<Result<NewLink>>) -> Vec<Result<String>> {
        if self.away {
            let unknown = || Error::unavailable("a chunk before this one failed");
            return new.iter().map(|_| Err(unknown())).collect();
        }
        let made = self.domain.link_create_chunk(&self.caller, new).await;
        self.away = made
            .iter()
            .any(|one| matches!(one, Err(error) if error.kind() == Kind::Unavailable));
        made
    }
}
