//! Imports: their receipt, the fetch of an item to its file, and what changes many items at once.

use std::sync::Arc;

use box_service::domain::imports::{Ends, Grant, Import, ItemState, Offered, State};
use box_service::domain::{Caller, Domain};
use box_service::error::{Error, Result};
use box_service::id::{ClaimId, ImportId, Tenant};
use futures::future::join_all;
use tokio::sync::Semaphore;

use crate::harness::origin::{Origin, head, ok};

use super::site::Site;
use super::uploads::{once, sniff};
use super::view::{Seen, View};
use super::walk::{Operation, walk_on_every_pair};

walk_on_every_pair!(
    import_received: Received,
    import_item: Item,
    import_items_together: ItemsTogether,
    import_item_that_fails: ItemThatFails,
    import_cancelled: Cancelled,
    import_retried: Retried,
);

const TOGETHER: usize = 4;

const OPEN: &[(&str, &str)] = &[("BOX_FETCH__ALLOW_NETWORKS", "127.0.0.0/8")];

/// An import, and where its items come from.
#[derive(Debug)]
struct Given {
    _origin: Origin,
    import: ImportId,
}

async fn received(domain: &Domain, caller: &Caller, urls: &[String], key: bool) -> Result<Import> {
    let mut receiving = domain.import_receive(caller).await?;
    for (index, url) in urls.iter().enumerate() {
        let offered = Offered {
            url: url.clone(),
            name: Some(name(index)),
            ..Offered::default()
        };
        receiving.push(offered).await?;
    }
    let options = domain.import_options(Default::default())?;
    let key = key.then(|| once("k").unwrap());
    receiving
        .finish(options, key.as_ref().map(|once| (once, [7; 32])))
        .await
}

fn name(index: usize) -> String {
    match index {
        0 => "new".to_owned(),
        _ => format!("new-{index}"),
    }
}

/// One item, whose origin answers so.
async fn given(site: &Site, caller: &Caller, answer: crate::harness::origin::Act) -> Given {
    let origin = Origin::start().await;
    let url = origin.answers("/new", vec![vec![answer]]);
    let import = received(&site.calm, caller, &[url], false).await.unwrap();
    Given {
        _origin: origin,
        import: import.id,
    }
}

/// Fetches what there is to fetch of an import, as a process does that has just started; the import
/// then.
async fn work(domain: &Domain, tenant: &Tenant, id: ImportId) -> Result<Import> {
    domain.import_take_up().await?;
    for import in domain.import_claimable(None, 1_000).await? {
        if import.id != id {
            continue;
        }
        let candidates = domain.import_candidates(&import, 10).await?;
        let numbers = candidates.into_iter().map(|(number, _)| number).collect();
        let claim = ClaimId::new(domain.clock.now());
        let grants = vec![Grant { import, numbers }];
        let works = domain.import_claim(claim, grants).await?;
        let items = works.iter().map(|work| {
            let large = Arc::new(Semaphore::new(1));
            domain.import_item(work, sniff, (), large, Default::default())
        });
        join_all(items).await;
    }
    domain.import_finish().await?;
    let import = exact(domain, tenant, id).await?;
    if import.state == State::Running {
        return Err(Error::unavailable("an item is still to be done"));
    }
    Ok(import)
}

/// The import, whose counts are what there is.
async fn exact(domain: &Domain, tenant: &Tenant, id: ImportId) -> Result<Import> {
    let items = domain.import_items(tenant, id, None, None, 1_000).await?;
    let import = domain.import_get(tenant, id).await?.unwrap();
    let mut counts = import.counts;
    for state in ItemState::ALL {
        let found = items.iter().filter(|item| item.state == state).count();
        assert_eq!(
            *counts.of(state),
            i64::try_from(found).unwrap(),
            "{state:?}"
        );
    }
    let bytes: i64 = items.iter().filter_map(|item| item.bytes).sum();
    assert_eq!(counts.bytes, bytes);
    Ok(import)
}

struct Received;

/// With a key, so that it is made once.
impl Operation for Received {
    const NAME: &'static str = "import received";
    const REPEATS: bool = true;
    type Given = ();

    async fn prepare(&self, _: &Site, _: &Caller) {}

    async fn run(&self, domain: &Domain, caller: &Caller, (): &()) -> Result<()> {
        domain.import_sweep().await?;
        let urls = ["http://example.com/a", "ftp://example.com/"].map(str::to_owned);
        let made = received(domain, caller, &urls, true).await?;
        let all = domain.import_list(&caller.tenant, None, 1_000).await?;
        let own: Vec<_> = all
            .iter()
            .filter(|import| import.created_by == caller.subject)
            .collect();
        assert_eq!(own.len(), 1);
        assert_eq!((own[0].id, own[0].counts.total()), (made.id, 2));
        exact(domain, &caller.tenant, made.id).await.map(drop)
    }

    fn done(&self, (): &(), _: &mut View) {}
}

struct Item;

/// From the claim to the file, and the end of its import.
impl Operation for Item {
    const NAME: &'static str = "import of an item";
    const LEASED: bool = true;
    const REPEATS: bool = true;
    const VARIABLES: &'static [(&'static str, &'static str)] = OPEN;
    type Given = Given;

    async fn prepare(&self, site: &Site, caller: &Caller) -> Given {
        given(site, caller, ok("", b"bytes")).await
    }

    async fn run(&self, domain: &Domain, caller: &Caller, given: &Given) -> Result<()> {
        let import = work(domain, &caller.tenant, given.import).await?;
        assert_eq!((import.counts.done, import.counts.bytes), (1, 5));
        Ok(())
    }

    fn done(&self, _: &Given, view: &mut View) {
        view.files.insert("new".into(), Seen::new(b"bytes"));
    }
}

/// What comes while the transaction of another one runs ends in one of its own.
struct ItemsTogether;

impl Operation for ItemsTogether {
    const NAME: &'static str = "import of items that end together";
    const MANY: bool = true;
    const LEASED: bool = true;
    const REPEATS: bool = true;
    const VARIABLES: &'static [(&'static str, &'static str)] = OPEN;
    type Given = Given;

    async fn prepare(&self, site: &Site, caller: &Caller) -> Given {
        let origin = Origin::start().await;
        let urls: Vec<String> = (0..TOGETHER)
            .map(|number| origin.file(&format!("/{number}"), b"bytes"))
            .collect();
        let import = received(&site.calm, caller, &urls, false).await.unwrap();
        Given {
            _origin: origin,
            import: import.id,
        }
    }

    async fn run(&self, domain: &Domain, caller: &Caller, given: &Given) -> Result<()> {
        let domain = Domain {
            ends: Arc::new(Ends::new(1)),
            ..domain.clone()
        };
        let import = work(&domain, &caller.tenant, given.import).await?;
        let all = i64::try_from(TOGETHER).unwrap();
        assert_eq!((import.counts.done, import.counts.bytes), (all, all * 5));
        Ok(())
    }

    fn done(&self, _: &Given, view: &mut View) {
        for index in 0..TOGETHER {
            view.files.insert(name(index), Seen::new(b"bytes"));
        }
    }
}

struct ItemThatFails;

impl Operation for ItemThatFails {
    const NAME: &'static str = "import of an item that fails";
    const REPEATS: bool = true;
    const VARIABLES: &'static [(&'static str, &'static str)] = OPEN;
    type Given = Given;

    async fn prepare(&self, site: &Site, caller: &Caller) -> Given {
        given(site, caller, head("404 Not Found\ncontent-length: 0")).await
    }

    async fn run(&self, domain: &Domain, caller: &Caller, given: &Given) -> Result<()> {
        let import = work(domain, &caller.tenant, given.import).await?;
        assert_eq!(import.counts.failed, 1);
        Ok(())
    }

    fn done(&self, _: &Given, _: &mut View) {}
}

struct Cancelled;

impl Operation for Cancelled {
    const NAME: &'static str = "import cancelled";
    const REPEATS: bool = true;
    type Given = Given;

    async fn prepare(&self, site: &Site, caller: &Caller) -> Given {
        given(site, caller, ok("", b"bytes")).await
    }

    async fn run(&self, domain: &Domain, caller: &Caller, given: &Given) -> Result<()> {
        let import = domain.import_cancel(caller, given.import).await?;
        assert_eq!(
            (import.state, import.counts.cancelled),
            (State::Cancelled, 1)
        );
        exact(domain, &caller.tenant, import.id).await.map(drop)
    }

    fn done(&self, _: &Given, _: &mut View) {}
}

struct Retried;

impl Operation for Retried {
    const NAME: &'static str = "import tried again";
    const REPEATS: bool = true;
    const VARIABLES: &'static [(&'static str, &'static str)] = OPEN;
    type Given = Given;

    async fn prepare(&self, site: &Site, caller: &Caller) -> Given {
        let given = given(site, caller, head("404 Not Found\ncontent-length: 0")).await;
        let import = work(&site.calm, &caller.tenant, given.import)
            .await
            .unwrap();
        assert_eq!((import.state, import.counts.failed), (State::Done, 1));
        given
    }

    async fn run(&self, domain: &Domain, caller: &Caller, given: &Given) -> Result<()> {
        let import = domain.import_retry(caller, given.import).await?;
        assert_eq!((import.state, import.counts.pending), (State::Running, 1));
        exact(domain, &caller.tenant, import.id).await.map(drop)
    }

    fn done(&self, _: &Given, _: &mut View) {}
}
