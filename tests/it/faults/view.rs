//! All that a client can see of its tenant, to compare before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use box_service::clock::Timestamp;
use box_service::domain::Domain;
use box_service::domain::files::{Content, File, Filter, Metadata, Page, Sort, SortBy};
use box_service::domain::links::Wanted;
use box_service::id::{FileId, Tenant};
use futures::TryStreamExt;
use sha2::{Digest, Sha256};

/// Files by name, which the tests keep unique, and what happened to those that are gone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    pub files: BTreeMap<String, Seen>,
    pub gone: BTreeMap<FileId, Vec<String>>,
    /// By their slugs.
    pub links: BTreeMap<String, SeenLink>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SeenLink {
    pub url: String,
    pub revision: i64,
    pub disabled: bool,
    pub uses: i64,
    pub has_password: bool,
    pub happened: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// None for one that was not there before.
    pub id: Option<FileId>,
    pub metadata: Metadata,
    pub revision: i64,
    pub trashed: bool,
    pub expires_at: Option<Timestamp>,
    /// By a legal hold.
    pub held: bool,
    /// The current one first.
    pub contents: Vec<Held>,
    /// The actions of its events, sorted: many happen at the same time here.
    pub happened: Vec<String>,
}

/// The bytes of one content, as they were read.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub version: i64,
    pub content_type: String,
    pub size: u64,
    pub sha256: String,
}

impl Held {
    pub fn new(version: i64, bytes: &[u8]) -> Self {
        Self {
            version,
            content_type: "text/plain".to_owned(),
            size: bytes.len() as u64,
            sha256: hex::encode(Sha256::digest(bytes)),
        }
    }
}

impl Seen {
    /// A file that was just uploaded.
    pub fn new(bytes: &[u8]) -> Self {
        Self {
            id: None,
            metadata: Metadata::new(),
            revision: 1,
            trashed: false,
            expires_at: None,
            held: false,
            contents: vec![Held::new(1, bytes)],
            happened: vec!["file.created".to_owned()],
        }
    }

    pub fn happens(&mut self, action: &str) {
        self.revision += 1;
        self.happened.push(action.to_owned());
        self.happened.sort();
    }
}

impl View {
    /// What there is now; `before`: what is known from an earlier look.
    pub async fn of(domain: &Domain, tenant: &Tenant, before: &BTreeSet<FileId>) -> Self {
        let mut view = Self::default();
        let (mut bytes, mut files) = (0, 0);
        let mut missing = before.clone();
        for trashed in [false, true] {
            for file in list(domain, tenant, trashed).await {
                missing.remove(&file.id);
                let name = file.name.clone();
                let known = before.contains(&file.id);
                let seen = seen(domain, file, known).await;
                files += 1;
                bytes += seen.contents.iter().map(|held| held.size).sum::<u64>();
                let twice = view.files.insert(name.clone(), seen);
                assert!(twice.is_none(), "there are two files {name}");
            }
        }
        let wanted = Wanted::default();
        let (links, more) = domain.link_list(tenant, &wanted, "", 1_000).await.unwrap();
        assert_eq!(more, None, "there are more links than are looked at");
        for link in links {
            let seen = SeenLink {
                url: link.url.unwrap_or_default(),
                revision: link.revision,
                disabled: link.disabled,
                uses: link.uses,
                has_password: link.has_password,
                happened: actions(domain, tenant, &link.slug).await,
            };
            view.links.insert(link.slug, seen);
        }
        for id in missing {
            let actions = actions(domain, tenant, id).await;
            view.gone.insert(id, actions);
        }
        let usage = domain.usage(tenant).await.unwrap();
        let used = (usage.bytes.unsigned_abs(), usage.files);
        assert_eq!(used, (bytes, files), "the usage is not that of {view:#?}");
        view
    }

    /// Takes a file away for good.
    pub fn remove(&mut self, name: &str, action: &str) {
        let mut seen = self.files.remove(name).unwrap();
        seen.happens(action);
        self.gone.insert(seen.id.unwrap(), seen.happened);
    }

    pub fn file(&mut self, name: &str) -> &mut Seen {
        self.files.get_mut(name).unwrap()
    }

    /// Whether each file is as in one of the two, wholly.
    pub fn is_between(&self, old: &Self, new: &Self) -> bool {
        let names = self
            .files
            .keys()
            .chain(old.files.keys())
            .chain(new.files.keys());
        let ids = self
            .gone
            .keys()
            .chain(old.gone.keys())
            .chain(new.gone.keys());
        let of = |view: &Self, name: &str| view.files.get(name).cloned();
        names.into_iter().all(|name| {
            let seen = of(self, name);
            seen == of(old, name) || seen == of(new, name)
        }) && ids.into_iter().all(|id| {
            let gone = self.gone.get(id);
            gone == old.gone.get(id) || gone == new.gone.get(id)
        })
    }
}

pub async fn list(domain: &Domain, tenant: &Tenant, trashed: bool) -> Vec<File> {
    let filter = Filter {
        trashed,
        // Those too that have expired and are not removed yet.
        now: Timestamp::from_micros(0),
        ..Filter::new(tenant.clone(), domain.clock.now())
    };
    let page = Page {
        sort: Sort {
            by: SortBy::Name,
            descending: false,
        },
        after: None,
        limit: 1_000,
    };
    domain.file_list(&filter, &page).await.unwrap()
}

async fn seen(domain: &Domain, file: File, known: bool) -> Seen {
    let mut contents = vec![held(domain, file.version, &Content::from(&file)).await];
    let mut reader = domain.metadata.reader().await.unwrap();
    let versions = reader
        .conn()
        .version_list(&file.tenant, file.id, file.version, 100)
        .await
        .unwrap();
    drop(reader);
    for version in versions {
        contents.push(held(domain, version.version, &Content::from(&version)).await);
    }
    Seen {
        id: known.then_some(file.id),
        happened: actions(domain, &file.tenant, file.id).await,
        metadata: file.metadata,
        revision: file.revision,
        trashed: file.trashed_at.is_some(),
        expires_at: file.expires_at,
        held: file.legal_hold,
        contents,
    }
}

async fn held(domain: &Domain, version: i64, content: &Content) -> Held {
    let bytes = read(domain, content, 0..content.size).await;
    let held = Held {
        content_type: content.content_type.clone(),
        ..Held::new(version, &bytes)
    };
    // Bytes that did not come through the service are hashed afterwards.
    let told = content.sha256.map(hex::encode);
    assert!(told.is_none_or(|told| told == held.sha256), "{content:?}");
    held
}

pub async fn read(domain: &Domain, content: &Content, range: Range<u64>) -> Vec<u8> {
    if range.is_empty() {
        return Vec::new();
    }
    let mut stream = domain.content_read(content, range).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.try_next().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    bytes
}

async fn actions(domain: &Domain, tenant: &Tenant, id: impl ToString) -> Vec<String> {
    let mut reader = domain.metadata.reader().await.unwrap();
    let actions = reader.conn().event_actions(tenant, &id.to_string()).await;
    let mut actions = actions.unwrap();
    actions.sort();
    actions
}
