//! Links: made, changed, deleted, and used as often as they may be.

use box_service::domain::links::{LinkBatch, LinkPatch, NewLink};
use box_service::domain::{Caller, Domain, Links};
use box_service::error::{Error, Result};

use super::site::Site;
use super::uploads::once;
use super::view::{SeenLink, View};
use super::walk::{Operation, walk_on_every_pair};

walk_on_every_pair!(
    link_made: Made,
    links_made_together: MadeTogether,
    link_changed: Changed,
    link_deleted: Deleted,
    link_used: Used,
    link_uses_written: UsesWritten,
);

const URL: &str = "https://example.com/";

/// Of the caller's own, for all are of one tenant.
fn slug(caller: &Caller) -> String {
    format!("{}/link", caller.subject)
}

fn new(caller: &Caller) -> NewLink {
    NewLink {
        slug: Some(slug(caller)),
        url: Some(URL.to_owned()),
        max_uses: Some(1),
        ..NewLink::default()
    }
}

/// Its slug.
async fn given(site: &Site, caller: &Caller) -> String {
    let made = site.calm.link_create(caller, new(caller), None).await;
    made.unwrap().slug
}

struct Made;

/// With a key, so that it is made once.
impl Operation for Made {
    const NAME: &'static str = "link made with a key";
    const REPEATS: bool = true;
    type Given = String;

    async fn prepare(&self, _: &Site, caller: &Caller) -> String {
        slug(caller)
    }

    async fn run(&self, domain: &Domain, caller: &Caller, slug: &String) -> Result<()> {
        let made = domain.link_create(caller, new(caller), once("k")).await?;
        assert_eq!((&made.slug, made.revision), (slug, 1));
        Ok(())
    }

    fn done(&self, slug: &String, view: &mut View) {
        let seen = SeenLink {
            url: URL.to_owned(),
            revision: 1,
            disabled: false,
            uses: 0,
            has_password: false,
            happened: vec!["link.created".to_owned()],
        };
        view.links.insert(slug.clone(), seen);
    }
}

struct MadeTogether;

/// A chunk of a batch: all or none of it.
impl Operation for MadeTogether {
    const NAME: &'static str = "links made together";
    type Given = [String; 2];

    async fn prepare(&self, _: &Site, caller: &Caller) -> [String; 2] {
        ["a", "b"].map(|name| format!("{}/{name}", caller.subject))
    }

    async fn run(&self, domain: &Domain, caller: &Caller, slugs: &[String; 2]) -> Result<()> {
        let new = slugs.clone().map(|slug| {
            Ok(NewLink {
                slug: Some(slug),
                ..new(caller)
            })
        });
        let mut batch = LinkBatch::new(domain.clone(), caller.clone());
        let made: Result<Vec<String>> = batch.make(new.into()).await.into_iter().collect();
        assert_eq!(made?, slugs);
        Ok(())
    }

    fn done(&self, slugs: &[String; 2], view: &mut View) {
        for slug in slugs {
            let seen = SeenLink {
                url: URL.to_owned(),
                revision: 1,
                disabled: false,
                uses: 0,
                has_password: false,
                // The batch has one for all.
                happened: Vec::new(),
            };
            view.links.insert(slug.clone(), seen);
        }
    }
}

struct Changed;

impl Operation for Changed {
    const NAME: &'static str = "link changed";
    const REPEATS: bool = true;
    type Given = String;

    async fn prepare(&self, site: &Site, caller: &Caller) -> String {
        given(site, caller).await
    }

    async fn run(&self, domain: &Domain, caller: &Caller, slug: &String) -> Result<()> {
        let patch = LinkPatch {
            disabled: Some(true),
            ..LinkPatch::default()
        };
        let anyone = std::sync::Arc::new(|_: &_| Ok(()));
        let made = domain.link_patch(caller, slug, patch, anyone).await?;
        assert_eq!((made.revision, made.disabled), (2, true));
        Ok(())
    }

    fn done(&self, slug: &String, view: &mut View) {
        let seen = view.links.get_mut(slug).unwrap();
        seen.revision = 2;
        seen.disabled = true;
        seen.happened.push("link.updated".to_owned());
    }
}

struct Deleted;

impl Operation for Deleted {
    const NAME: &'static str = "link deleted";
    const REPEATS: bool = true;
    type Given = String;

    async fn prepare(&self, site: &Site, caller: &Caller) -> String {
        given(site, caller).await
    }

    async fn run(&self, domain: &Domain, caller: &Caller, slug: &String) -> Result<()> {
        let anyone = std::sync::Arc::new(|_: &_| Ok(()));
        domain.link_delete(caller, slug, anyone).await?;
        let mut reader = domain.metadata.reader().await?;
        let mut happened = reader.conn().event_actions(&caller.tenant, slug).await?;
        happened.sort();
        assert_eq!(happened, ["link.created", "link.deleted"]);
        Ok(())
    }

    fn done(&self, slug: &String, view: &mut View) {
        view.links.remove(slug);
    }
}

struct Used;

/// The only use that it has, so that doing it again changes no more.
impl Operation for Used {
    const NAME: &'static str = "link used";
    const REPEATS: bool = true;
    type Given = String;

    async fn prepare(&self, site: &Site, caller: &Caller) -> String {
        given(site, caller).await
    }

    async fn run(&self, domain: &Domain, _: &Caller, slug: &String) -> Result<()> {
        let link = domain.link_resolve(slug).await?;
        if domain.link_use(&link).await? {
            return Ok(());
        }
        Err(Error::internal("somebody else used it"))
    }

    fn done(&self, slug: &String, view: &mut View) {
        view.links.get_mut(slug).unwrap().uses = 1;
    }
}

struct UsesWritten;

/// Of a link without a most. What could not be written is kept in memory, which here ends with the run.
impl Operation for UsesWritten {
    const NAME: &'static str = "uses of a link written";
    type Given = String;

    async fn prepare(&self, site: &Site, caller: &Caller) -> String {
        let new = NewLink {
            max_uses: None,
            ..new(caller)
        };
        let made = site.calm.link_create(caller, new, None).await;
        made.unwrap().slug
    }

    async fn run(&self, domain: &Domain, _: &Caller, slug: &String) -> Result<()> {
        let domain = Domain {
            links: Links::default(),
            ..domain.clone()
        };
        for _ in 0..2 {
            let link = domain.link_resolve(slug).await?;
            assert!(domain.link_use(&link).await?);
        }
        domain.link_uses_flush().await
    }

    fn done(&self, slug: &String, view: &mut View) {
        view.links.get_mut(slug).unwrap().uses = 2;
    }
}
