//! `/metrics`: what it shows, to whom, and that the page and its documentation agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use box_service::auth::Scope;
use serde_json::json;

use crate::harness::client::{Client, id, send};
use crate::harness::connection::until;
use crate::harness::origin::{Origin, head};
use crate::harness::service::{Pair, Service, on_every_pair};
use crate::imports;

mod watching;

use watching::dashboard_and_alerts_name_what_there_is;

on_every_pair!(
    with [crate::imports::OPEN[0], ("BOX_REAPER__DELAY", "1h")];
    requests_are_counted_by_route,
    what_becomes_of_bytes_and_items_is_counted,
    documentation_and_page_agree,
    dashboard_and_alerts_name_what_there_is,
);

/// The samples of a page: name and labels as they stand there, and the value.
struct Page {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Page {
    async fn of(service: &Service) -> Self {
        let client = service.client_with("acme", &[Scope::Admin]);
        Self::from(&client).await
    }

    async fn from(client: &Client) -> Self {
        let answer = send(client.get("/metrics")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(
            answer.header("content-type"),
            "text/plain; version=0.0.4; charset=utf-8"
        );
        assert_eq!(answer.header("cache-control"), "no-store");
        let text = answer.text().to_owned();
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap();
                (name.to_owned(), value.parse().unwrap())
            })
            .collect();
        Self { text, samples }
    }

    fn get(&self, sample: &str) -> f64 {
        let value = self.samples.get(sample);
        *value.unwrap_or_else(|| panic!("{sample} is not in {}", self.text))
    }
}

async fn requests_are_counted_by_route(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", vec![7; 1000]).await;
    let path = format!("/v1/files/{}", id(&file));
    assert_eq!(client.content(id(&file)).await.len(), 1000);
    for _ in 0..3 {
        send(client.get(&path)).await.json(200);
    }
    send(client.head(&path)).await;
    send(client.get("/v1/files/none"))
        .await
        .problem(404, "not-found");
    send(service.stranger().get(&path))
        .await
        .problem(401, "unauthenticated");
    send(client.get(&format!("/nothing/{}", id(&file))))
        .await
        .problem(404, "not-found");
    let odd = client.request("PURGE".parse().unwrap(), &path);
    send(odd).await.problem(405, "method-not-allowed");

    // Counted once the answer has been handed over, which its reader may see a little earlier.
    until("all requests are counted", || async {
        Page::of(service)
            .await
            .get("box_http_requests_total{route=\"none\",method=\"none\",status=\"4xx\"}")
            == 2.0
    })
    .await;
    let page = Page::of(service).await;
    let requests = |method: &str, route: &str, status: &str| {
        page.get(&format!(
            "box_http_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}}"
        ))
    };
    // HEAD is answered by the route of GET.
    assert_eq!(requests("GET", "/v1/files/{id}", "2xx"), 4.0);
    assert_eq!(requests("GET", "/v1/files/{id}", "4xx"), 2.0);
    assert_eq!(requests("POST", "/v1/files", "2xx"), 1.0);
    let took = "box_http_request_duration_seconds";
    let labels = "route=\"/v1/files/{id}\",method=\"GET\"";
    assert_eq!(page.get(&format!("{took}_count{{{labels}}}")), 6.0);
    assert_eq!(
        page.get("box_http_received_bytes_total{route=\"/v1/files\",method=\"POST\"}"),
        1000.0
    );
    assert_eq!(
        page.get("box_http_sent_bytes_total{route=\"/v1/files/{id}/content\",method=\"GET\"}"),
        1000.0
    );
    // The one that asks.
    assert_eq!(page.get("box_http_requests_active"), 1.0);
    assert!(page.get("box_http_connections") >= 1.0);
    // Nothing of a request but its template becomes a label.
    assert!(!page.text.contains(id(&file)) && !page.text.contains("acme"));
}

async fn what_becomes_of_bytes_and_items_is_counted(service: &Service) {
    let origin = Origin::start().await;
    let gone = vec![head("404 Not Found\ncontent-length: 0")];
    let busy = vec![head("503 Service Unavailable\ncontent-length: 0")];
    let client = service.client("acme");
    let urls = [
        origin.file("/a", b"bytes"),
        origin.answers("/gone", vec![gone]),
        origin.answers("/busy", vec![busy]),
    ];
    let items: Vec<_> = urls.iter().map(|url| json!({"url": url})).collect();
    let body = json!({"items": items, "options": {"attempts": 2}});
    let import = send(client.post("/v1/imports").json(&body)).await.json(202);
    imports::done(service, &client, &import).await;
    let held = origin.answers("/held", vec![vec![crate::harness::origin::Act::Stall]]);
    let running = imports::start(&client, &[held]).await;
    origin.until_busy(1).await;
    service.clock.advance(Duration::from_secs(5));

    let file = client.upload("b", "twelve bytes").await;
    let wrong = client.post(&format!("/v1/files?sha256={}", "0".repeat(64)));
    send(wrong.body("x")).await;
    let path = format!("/v1/files/{}?permanent=true", id(&file));
    assert_eq!(send(client.delete(&path)).await.status, 204);

    let page = Page::of(service).await;
    for (sample, wanted) in [
        ("box_import_items_total{outcome=\"done\"}", 1.0),
        ("box_import_items_total{outcome=\"failed\"}", 2.0),
        ("box_import_items_total{outcome=\"cancelled\"}", 0.0),
        ("box_import_errors_total{error=\"http-status\"}", 3.0),
        ("box_import_errors_total{error=\"dns\"}", 0.0),
        ("box_import_retries_total", 1.0),
        ("box_import_bytes_total", 5.0),
        ("box_import_items_active", 1.0),
        ("box_imports_running", 1.0),
        ("box_import_queue_items{state=\"pending\"}", 0.0),
        ("box_import_queue_items{state=\"fetching\"}", 1.0),
        ("box_import_oldest_claim_age_seconds", 5.0),
        ("box_import_oldest_pending_age_seconds", 0.0),
        ("box_uploads_total{outcome=\"stored\"}", 3.0),
        ("box_uploads_total{outcome=\"failed\"}", 0.0),
        ("box_uploads_active", 0.0),
        ("box_upload_bytes_total", 18.0),
        ("box_database_up", 1.0),
        ("box_hasher_waiting", 0.0),
        ("box_hasher_lag_seconds", 0.0),
        ("box_hasher_failures_total", 0.0),
        ("box_reaper_due", 0.0),
        ("box_reaper_lag_seconds", 0.0),
        ("box_reaper_failures_total", 0.0),
    ] {
        assert_eq!(page.get(sample), wanted, "{sample} in {}", page.text);
    }
    // The one that reads these numbers is given back by now.
    let connections = |state: &str| {
        let sample = format!("box_database_connections{{state=\"{state}\"}}");
        page.get(&sample)
    };
    let most = page.get("box_database_connections_max");
    assert_eq!(most, 5.0);
    assert!((1.0..=most).contains(&(connections("used") + connections("idle"))));
    let puts = page.get("box_store_calls_total{operation=\"put\",outcome=\"ok\"}");
    let timed = page.get("box_store_call_duration_seconds_count{operation=\"put\"}");
    assert!(puts >= 3.0 && timed >= puts, "{}", page.text);

    // What was deleted, and what was given up, is due once the delay is over. The reaper's own loop
    // waits meanwhile, or it could be there before the look.
    let round = service.app.domain.reaping.lock().await;
    service.clock.advance(Duration::from_secs(2 * 3_600));
    let page = Page::of(service).await;
    assert!(page.get("box_reaper_due") >= 1.0);
    let lag = page.get("box_reaper_lag_seconds");
    assert!(lag > 0.0 && lag <= 7_205.0, "{lag}");
    assert!(page.get("box_database_wait_seconds_count") > 10.0);
    drop(round);
    imports::act(&client, &running, "cancel").await;
    origin.until_busy(0).await;
    service.settle().await;
    let page = Page::of(service).await;
    assert_eq!(page.get("box_reaper_due"), 0.0);
    assert!(page.get("box_reaper_deleted_total") >= 2.0);
    assert_eq!(
        page.get("box_import_items_total{outcome=\"cancelled\"}"),
        1.0
    );
    let now = service.clock.now().as_unix_millis() as f64 / 1_000.0;
    let last_run = page.get("box_reaper_last_run_timestamp_seconds");
    assert!((now - last_run).abs() < 0.01, "{last_run} at {now}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// By name: the type, and the names of the labels.
type Described = BTreeMap<String, (String, BTreeSet<String>)>;

fn shown(page: &str) -> Described {
    let mut described = Described::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            described.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        }
    }
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let labels = line.split_once('{').map_or("", |(_, rest)| rest);
        let of_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .filter(|name| described.contains_key(*name));
        let (_, known) = described.get_mut(of_histogram.unwrap_or(name)).unwrap();
        for label in labels
            .split("\",")
            .filter_map(|label| label.split_once('='))
        {
            if label.0 != "le" {
                known.insert(label.0.to_owned());
            }
        }
    }
    described
}

/// The rows `| `name` | type | `label`, `label` | what |` of the documentation.
fn documented(text: &str) -> Described {
    text.lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, name, kind, labels, what, _] = cells[..] else {
                return None;
            };
            let name = name.strip_prefix('`')?.strip_suffix('`')?;
            (name.starts_with("box_") && !what.is_empty()).then(|| {
                let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned);
                (name.to_owned(), (kind.to_owned(), labels.collect()))
            })
        })
        .collect()
}

async fn documentation_and_page_agree(service: &Service) {
    let text = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let page = Page::of(service).await;
    let documented = documented(&text);
    assert!(documented.len() > 20, "{documented:?}");
    assert_eq!(documented, shown(&page.text));
}

/// A database that is gone is told of, and hides nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_without_the_database() {
    let Some(service) = Service::start_with(Pair::SqliteLocal, &[]).await else {
        return;
    };
    assert_eq!(Page::of(&service).await.get("box_database_up"), 1.0);
    service.app.domain.metadata.close().await;
    let page = Page::of(&service).await;
    assert_eq!(page.get("box_database_up"), 0.0);
    assert!(page.get("box_reaper_due").is_nan());
    assert!(page.get("box_http_connections") >= 1.0);
}

/// Where they have an address of their own, they are there only, without a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_have_an_address_of_their_own() {
    let settings = [("BOX_ADMIN_LISTEN", "127.0.0.1:0")];
    let Some(service) = Service::start_with(Pair::SqliteLocal, &settings).await else {
        return;
    };
    let admin = service.client_with("acme", &[Scope::Admin]);
    send(admin.get("/metrics")).await.problem(404, "not-found");
    send(service.stranger().get("/metrics"))
        .await
        .problem(401, "unauthenticated");

    let watcher = Client::new(service.admin_url.as_ref().unwrap(), None);
    let page = Page::from(&watcher).await;
    let refused = "box_http_requests_total{route=\"/metrics\",method=\"GET\",status=\"4xx\"}";
    assert_eq!(page.get(refused), 2.0);
    for path in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(send(watcher.get(path)).await.status, 200, "{path}");
    }
    for path in ["/v1/files", "/openapi.json", "/docs"] {
        send(watcher.get(path)).await.problem(404, "not-found");
    }
    service.end().await;
}
