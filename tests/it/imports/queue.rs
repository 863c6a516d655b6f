//! The queue: bounds, fairness, cancelling, trying again, and processes that die.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use box_service::app;
use box_service::clock::Timestamp;
use box_service::domain::imports::{Grant, Import, Offered, State, Work};
use box_service::domain::{Caller, Domain};
use box_service::id::{ClaimId, ImportId, Tenant};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::receiving::post;
use super::{act, assert_exact, done, get, items, start, until};
use crate::harness::client::send;
use crate::harness::origin::{Act, Origin, head, ok};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    with crate::imports::OPEN;
    bounds_are_kept,
    a_slow_import_does_not_hold_others_up,
    cancelling_stops_what_runs,
    only_what_failed_is_tried_again,
    what_a_dead_process_had_is_taken_up,
    an_item_that_nobody_works_on_is_taken_up,
    an_item_ends_once_whoever_has_it,
    a_stop_gives_back_what_was_claimed,
    another_tenant_sees_nothing,
);

/// An answer that comes when the test lets it.
fn held(held: &CancellationToken) -> Vec<Act> {
    vec![Act::Hold(held.clone()), ok("", b"x")]
}

async fn bounds_are_kept(service: &Service) {
    let client = service.client("acme");
    for (options, most) in [
        (json!({}), 16),
        (json!({"concurrency": 3}), 3),
        (json!({"per_host": 2}), 2),
    ] {
        let origin = Origin::start().await;
        let hold = CancellationToken::new();
        // Those that come later are at work together for a while, too.
        let answer = vec![
            Act::Hold(hold.clone()),
            Act::Wait(Duration::from_millis(20)),
            ok("", b"x"),
        ];
        let urls: Vec<Value> = (0..40)
            .map(|number| {
                let answers = vec![answer.clone()];
                json!({"url": origin.answers(&format!("/{number}"), answers)})
            })
            .collect();
        let body = json!({"items": urls, "options": options});
        let import = post(&client, "", "application/json", body.to_string())
            .await
            .json(202);
        origin.until_busy(most).await;
        hold.cancel();
        let import = done(service, &client, &import).await;
        assert_eq!(import["counts"]["done"], 40);
        assert_eq!(origin.most_at_a_time(), most, "with {options}");
    }
}

/// Of the same tenant, and of another.
async fn a_slow_import_does_not_hold_others_up(service: &Service) {
    let (slow_origin, origin) = (Origin::start().await, Origin::start().await);
    let client = service.client("acme");
    let stalled: Vec<String> = (0..400)
        .map(|number| slow_origin.answers(&format!("/{number}"), vec![vec![Act::Stall]]))
        .collect();
    let blocked = start(&client, &stalled).await;
    until(&client, &blocked, |now| now["counts"]["fetching"] != 0).await;
    for other in [&client, &service.client("other")] {
        let import = start(other, &[origin.file("/a", b"x")]).await;
        until(other, &import, |now| now["state"] == "done").await;
    }
    let now = act(&client, &blocked, "cancel").await;
    assert_eq!(now["counts"]["cancelled"], 400, "{now}");
}

async fn cancelling_stops_what_runs(service: &Service) {
    let origin = Origin::start().await;
    let endless = vec![head("200 OK\netag: \"x\""), Act::Endless(vec![7; 1024])];
    let mut urls = vec![
        origin.file("/a", b"x"),
        origin.answers("/endless", vec![endless]),
    ];
    let hold = CancellationToken::new();
    urls.extend((0..50).map(|number| origin.answers(&format!("/{number}"), vec![held(&hold)])));
    let client = service.client("acme");
    let import = start(&client, &urls).await;
    until(&client, &import, |now| now["counts"]["done"] == 1).await;
    origin.until_busy(16).await;
    let cancelled = act(&client, &import, "cancel").await;
    assert_eq!(
        (&cancelled["state"], &cancelled["counts"]["cancelled"]),
        (&json!("cancelled"), &json!(51))
    );
    assert_exact(service, &cancelled).await;
    let asked: usize = (0..50)
        .map(|number| origin.seen(&format!("/{number}")).len())
        .sum();
    origin.until_busy(0).await;
    let later: usize = (0..50)
        .map(|number| origin.seen(&format!("/{number}")).len())
        .sum();
    assert!(later <= asked + 16, "{later} requests, {asked} before");
    assert_eq!(get(&client, &import).await, cancelled);
    assert_eq!(act(&client, &import, "cancel").await, cancelled);
    // Nothing is left of what was on its way.
    service.assert_holds(1).await;
}

async fn only_what_failed_is_tried_again(service: &Service) {
    let origin = Origin::start().await;
    let gone = vec![head("404 Not Found\ncontent-length: 0")];
    let urls = [
        origin.file("/a", b"x"),
        origin.answers("/b", vec![gone.clone(), vec![ok("", b"yes")]]),
        origin.answers("/c", vec![gone]),
        "ftp://example.com/".to_owned(),
    ];
    let client = service.client("acme");
    let import = done(service, &client, &start(&client, &urls).await).await;
    assert_eq!(
        (&import["counts"]["done"], &import["counts"]["failed"]),
        (&json!(1), &json!(3))
    );
    let again = act(&client, &import, "retry").await;
    assert_eq!(
        (&again["state"], &again["finished_at"]),
        (&json!("running"), &Value::Null)
    );
    let import = done(service, &client, &again).await;
    assert_eq!(
        (&import["counts"]["done"], &import["counts"]["failed"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(origin.seen("/a").len(), 1);
    assert_eq!((origin.seen("/b").len(), origin.seen("/c").len()), (2, 2));
    let found = items(&client, &import).await;
    assert_eq!(
        (&found[1]["attempts"], &found[1]["error"]),
        (&json!(2), &Value::Null)
    );
    service.assert_holds(2).await;
}

async fn what_a_dead_process_had_is_taken_up(service: &Service) {
    let origin = Origin::start().await;
    let urls: Vec<String> = (0..20)
        .map(|number| origin.file(&format!("/{number}"), b"x"))
        .collect();
    let (site, import) = Site::with(service, &urls).await;
    let claim = ClaimId::new(Timestamp::from_micros(1));
    assert_eq!(site.claim_all(claim).await.len(), 20);
    assert_eq!(site.claim_all(claim).await.len(), 0);
    // It lives for as long as it says so.
    service.clock.advance(Duration::from_secs(20));
    assert_eq!(site.renew(claim, import, 0..20).await, 20);
    service.clock.advance(Duration::from_secs(20));
    assert_eq!(site.domain.import_take_up().await.unwrap(), 0);
    service.clock.advance(Duration::from_secs(11));
    assert_eq!(site.domain.import_take_up().await.unwrap(), 20);
    assert_eq!(site.renew(claim, import, 0..20).await, 0);
    let other = ClaimId::new(Timestamp::from_micros(2));
    for work in site.claim_all(other).await {
        assert_eq!(work.item.held.attempts, 2);
        site.run(&work).await;
    }
    let import = site.end(&import).await;
    assert_eq!((import.counts.done, import.counts.total()), (20, 20));
}

/// Its process lives, and never heard that it has it, or could not end it.
async fn an_item_that_nobody_works_on_is_taken_up(service: &Service) {
    let origin = Origin::start().await;
    let urls = ["/a", "/b"].map(|path| origin.file(path, b"x"));
    let (site, import) = Site::with(service, &urls).await;
    let claim = ClaimId::new(Timestamp::from_micros(1));
    let works = site.claim_all(claim).await;
    service.clock.advance(Duration::from_secs(20));
    assert_eq!(site.renew(claim, import, 0..1).await, 1);
    service.clock.advance(Duration::from_secs(11));
    assert_eq!(site.domain.import_take_up().await.unwrap(), 1);
    assert_eq!(site.renew(claim, import, 0..2).await, 1);
    site.run(&works[0]).await;
    for work in site.claim_all(claim).await {
        assert_eq!((work.item.held.number, work.item.failures), (1, 1));
        site.run(&work).await;
    }
    let import = site.end(&import).await;
    assert_eq!((import.counts.done, import.counts.total()), (2, 2));
}

/// Two that believe to have it fetch it to its end: one file comes of it.
async fn an_item_ends_once_whoever_has_it(service: &Service) {
    let origin = Origin::start().await;
    let (site, import) = Site::with(service, &[origin.file("/a", b"x")]).await;
    let first = site
        .claim_all(ClaimId::new(Timestamp::from_micros(1)))
        .await
        .remove(0);
    service.clock.advance(Duration::from_secs(31));
    assert_eq!(site.domain.import_take_up().await.unwrap(), 1);
    let second = site
        .claim_all(ClaimId::new(Timestamp::from_micros(2)))
        .await
        .remove(0);
    tokio::join!(site.run(&first), site.run(&second));
    site.run(&first).await;
    assert_eq!(origin.seen("/a").len(), 3);
    let import = site.end(&import).await;
    assert_eq!(
        (
            import.counts.done,
            import.counts.total(),
            import.counts.bytes
        ),
        (1, 1, 1)
    );
    assert_eq!(service.count("files").await, 1);
}

/// The service's database and store without the service, so that nobody else claims.
struct Site {
    domain: Domain,
    tenant: Tenant,
}

impl Site {
    async fn with(service: &Service, urls: &[String]) -> (Self, ImportId) {
        service.stop().await;
        let config = &service.app.config;
        let domain = app::open_domain(config, false, service.clock.clone())
            .await
            .unwrap();
        let caller = Caller::service("acme".parse().unwrap());
        let mut receiving = domain.import_receive(&caller).await.unwrap();
        for url in urls {
            let offered = Offered {
                url: url.clone(),
                ..Default::default()
            };
            receiving.push(offered).await.unwrap();
        }
        let options = domain.import_options(Default::default()).unwrap();
        let import = receiving.finish(options, None).await.unwrap();
        let site = Self {
            domain,
            tenant: caller.tenant,
        };
        (site, import.id)
    }

    /// Claims all that there is.
    async fn claim_all(&self, claim: ClaimId) -> Vec<Work> {
        let mut all = Vec::new();
        for import in self.domain.import_claimable(None, 100).await.unwrap() {
            let found = self.domain.import_candidates(&import, 1_000).await.unwrap();
            let numbers = found.into_iter().map(|(number, _)| number).collect();
            let grant = Grant { import, numbers };
            all.extend(self.domain.import_claim(claim, vec![grant]).await.unwrap());
        }
        all
    }

    /// How many of them are still held.
    async fn renew(&self, claim: ClaimId, import: ImportId, numbers: Range<i64>) -> usize {
        let items = BTreeMap::from([(import, numbers.collect())]);
        self.domain.import_renew(claim, items).await.unwrap().len()
    }

    async fn run(&self, work: &Work) {
        let large = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
        self.domain
            .import_item(work, |_, _| "text/plain", (), large, Default::default())
            .await;
    }

    /// The import once it is done, and everything agrees.
    async fn end(self, import: &ImportId) -> Import {
        assert_eq!(self.domain.import_finish().await.unwrap(), 1);
        let import = self
            .domain
            .import_get(&self.tenant, *import)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(import.state, State::Done);
        self.domain.reap().await.unwrap();
        self.domain.clock.advance(Duration::from_secs(86_400));
        self.domain.reap().await.unwrap();
        let report = self.domain.fsck(Default::default()).await.unwrap();
        assert_eq!(report.problems.len(), 0, "{report}");
        self.domain.metadata.close().await;
        import
    }
}

async fn a_stop_gives_back_what_was_claimed(service: &Service) {
    let origin = Origin::start().await;
    let path = |number: u32| format!("/{number}");
    let urls: Vec<String> = (0..16)
        .map(|number| origin.answers(&path(number), vec![vec![Act::Stall], vec![ok("", b"x")]]))
        .collect();
    let client = service.client("acme");
    let import = start(&client, &urls).await;
    origin.until_busy(16).await;
    service.stop().await;
    let (pending, held) = (
        "import_items WHERE state = 'pending'",
        "import_items WHERE claim IS NOT NULL",
    );
    assert_eq!(
        (service.count(pending).await, service.count(held).await),
        (16, 0)
    );
    let next = service.another().await;
    let client = next.client("acme");
    let import = done(&next, &client, &import).await;
    assert_eq!(import["counts"]["done"], 16);
    next.end().await;
}

async fn another_tenant_sees_nothing(service: &Service) {
    let origin = Origin::start().await;
    let client = service.client("acme");
    let import = done(
        service,
        &client,
        &start(&client, &[origin.file("/a", b"x")]).await,
    )
    .await;
    let other = service.client("other");
    let path = format!("/v1/imports/{}", import["id"].as_str().unwrap());
    for path in [
        path.clone(),
        format!("{path}/items"),
        format!("{path}/events"),
    ] {
        send(other.get(&path)).await.problem(404, "not-found");
    }
    for what in ["cancel", "retry"] {
        send(other.post(&format!("{path}/{what}")))
            .await
            .problem(404, "not-found");
    }
    assert_eq!(
        send(other.get("/v1/imports")).await.json(200)["items"],
        json!([])
    );
}
