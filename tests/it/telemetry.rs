//! Traces and errors as a collector is handed them: of the binary, which alone sets its logs up.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use box_service::objects::Objects;
use box_service::objects::keys::Named;
use futures::TryStreamExt;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::{Value, json};

use crate::harness::binary::{Binary, Logged};
use crate::harness::client::{Client, id, send};
use crate::harness::collector::{Collector, attributes, text};
use crate::harness::connection::until;
use crate::harness::front::pass_on;
use crate::harness::origin::Origin;
use crate::harness::service::{Pair, config, s3_variables};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Makes of each `async fn name(pair: Pair)` a test over every pair.
macro_rules! over_every_pair {
    ($($name:ident),+ $(,)?) => {
        over_every_pair!(@pair sqlite_local SqliteLocal; $($name),+);
        over_every_pair!(@pair postgres_local PostgresLocal; $($name),+);
        over_every_pair!(@pair postgres_s3 PostgresS3; $($name),+);
    };
    (@pair $module:ident $pair:ident; $($name:ident),+) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::harness::service::Pair::$pair).await;
            })+
        }
    };
}

mod outages;
mod redaction;

over_every_pair!(
    a_request_is_a_trace_down_to_database_and_store,
    an_error_is_a_record_of_its_trace,
    items_of_imports_are_traces_and_origins_are_told_nothing,
);

/// A service whose log has all lines, and a collector for it.
async fn observed(pair: Pair, settings: &[(&str, &str)]) -> Option<(Binary, Collector)> {
    let collector = Collector::start().await;
    let mut all = vec![
        ("BOX_LOG__LEVEL", "info"),
        ("BOX_TELEMETRY__ENDPOINT", collector.url.as_str()),
    ];
    all.extend(settings);
    let binary = Binary::over(pair, &all).await?;
    Some((binary, collector))
}

/// The log line of the request with this id, once it is there.
async fn line_of(running: &Logged, request_id: &str) -> Value {
    let find = || {
        let lines = running.lines().into_iter();
        let mut lines = lines.filter(|line| line["message"] == "request");
        lines.find(|line| line["request_id"] == request_id)
    };
    until("the line is there", || std::future::ready(find().is_some())).await;
    find().unwrap()
}

/// Deletes every object behind the service's back.
async fn lose_bytes(binary: &Binary) {
    let config = config(binary.variables());
    let objects = Objects::open(&config.store_settings(), &config.environment).unwrap();
    let listed: Vec<_> = objects.list().try_collect().await.unwrap();
    for listed in listed {
        if let Named::Object { tenant, id } = objects.root().parse(&listed.path) {
            let key = objects.root().object(&tenant, id);
            objects.erase(&key, 1).await.unwrap();
        }
    }
}

fn hex_of(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

async fn a_request_is_a_trace_down_to_database_and_store(pair: Pair) {
    let settings = [
        ("BOX_TELEMETRY__SERVICE_NAME", "files"),
        ("BOX_TELEMETRY__HEADERS", "x-tenant=acme%2Cinc"),
        ("BOX_TELEMETRY__SAMPLING", "0.0"),
    ];
    let Some((binary, collector)) = observed(pair, &settings).await else {
        return;
    };
    let running = binary.start_logged().await;
    let client = binary.client("files:read files:write");
    let request = client
        .post("/v1/files?name=a")
        .header("x-request-id", "traced")
        .header("traceparent", format!("00-{TRACE}-{PARENT}-01"))
        .header("tracestate", "vendor=1");
    let file = send(request.body("content")).await.json(201);
    let request = client
        .get(&format!("/v1/files/{}/content", id(&file)))
        .header("x-request-id", "not-sampled");
    assert_eq!(send(request).await.body, b"content");
    let traced = line_of(&running, "traced").await;
    assert_eq!(traced["trace_id"], TRACE);
    // It has one all the same, to be found by in other logs.
    let other = line_of(&running, "not-sampled").await;
    let other = other["trace_id"].as_str().unwrap().to_owned();
    assert_eq!((other.len(), other == TRACE), (32, false));
    running.stop().await;

    let received = collector.received();
    assert_eq!(received.headers[0]["x-tenant"], "acme,inc");
    assert_eq!(received.resource["service.name"], "files");
    assert_eq!(received.resource["deployment.environment.name"], "test");
    assert!(received.resource.contains_key("service.instance.id"));
    // By the ratio there is no other, neither the second request's nor one of the workers'.
    let strangers = received.spans.iter();
    let strangers: Vec<_> = strangers
        .filter(|span| span.trace_id != hex_of(TRACE))
        .collect();
    assert!(strangers.is_empty(), "{strangers:#?}");

    let server = received.one(TRACE, "POST /v1/files");
    assert_eq!(server.parent_span_id, hex_of(PARENT));
    assert_eq!(server.trace_state, "vendor=1");
    assert_eq!(server.kind(), SpanKind::Server);
    assert!(server.end_time_unix_nano > server.start_time_unix_nano);
    let told = attributes(&server.attributes);
    for (name, value) in [
        ("http.request.method", json!("POST")),
        ("http.route", json!("/v1/files")),
        ("http.response.status_code", json!(201)),
        ("box.tenant", json!("acme")),
        ("client.address", json!("127.0.0.1")),
        ("request_id", json!("traced")),
    ] {
        assert_eq!(told.get(name), Some(&value), "{name} in {told:?}");
    }
    let deed = received.one(TRACE, "uploadFile");
    assert_eq!(deed.parent_span_id, server.span_id);
    let database = if pair == Pair::SqliteLocal {
        "sqlite"
    } else {
        "postgresql"
    };
    let writes = received.named(TRACE, "database write");
    assert!(!writes.is_empty(), "{:#?}", received.tree(TRACE));
    for write in writes {
        assert!(
            received.is_below(write, deed),
            "{:#?}",
            received.tree(TRACE)
        );
        assert_eq!(write.kind(), SpanKind::Client);
        let told = attributes(&write.attributes);
        assert_eq!(told["db.system.name"], database);
        let function = told["code.function.name"].as_str().unwrap();
        assert!(function.starts_with("box_service::domain::"), "{function}");
    }
    let put = received.one(TRACE, "store put");
    assert!(received.is_below(put, deed), "{:#?}", received.tree(TRACE));
    let store = if pair == Pair::PostgresS3 {
        "s3"
    } else {
        "directory"
    };
    assert_eq!(attributes(&put.attributes)["box.store"], store);
    if pair == Pair::PostgresS3 {
        assert_eq!(
            attributes(&put.attributes)["http.response.status_code"],
            200
        );
    }
}

async fn an_error_is_a_record_of_its_trace(pair: Pair) {
    let Some((binary, collector)) = observed(pair, &[]).await else {
        return;
    };
    let running = binary.start_logged().await;
    let client = binary.client("files:read files:write");
    let file = client.upload("a", "content").await;
    lose_bytes(&binary).await;
    let request = client
        .get(&format!("/v1/files/{}/content", id(&file)))
        .header("x-request-id", "failing");
    let answer = send(request).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    let line = line_of(&running, "failing").await;
    let trace = line["trace_id"].as_str().unwrap().to_owned();
    // One that is nobody's fault here is not told of.
    send(client.get("/v1/files/nothing"))
        .await
        .problem(404, "not-found");
    running.stop().await;

    let received = collector.received();
    let server = received.one(&trace, "GET /v1/files/{id}/content");
    assert!(server.parent_span_id.is_empty());
    assert_eq!(server.status.as_ref().unwrap().code(), StatusCode::Error);
    let get = received.one(&trace, "store get");
    assert!(received.is_below(get, server));
    assert!(
        !received.named(&trace, "database read").is_empty(),
        "{:#?}",
        received.tree(&trace)
    );
    let [record] = received.records.as_slice() else {
        panic!("{:#?}", received.records);
    };
    assert_eq!(
        (record.severity_text.as_str(), text(record)),
        ("ERROR", "request")
    );
    assert_eq!(record.trace_id, hex_of(&trace));
    assert_eq!(record.span_id, server.span_id);
    assert!(record.time_unix_nano >= server.start_time_unix_nano);
    let told = attributes(&record.attributes);
    for (name, value) in [
        ("request_id", json!("failing")),
        ("status", json!(500)),
        ("route", json!("/v1/files/{id}/content")),
        ("error", line["error"].clone()),
    ] {
        assert_eq!(told.get(name), Some(&value), "{name} in {told:?}");
    }
}

async fn items_of_imports_are_traces_and_origins_are_told_nothing(pair: Pair) {
    let settings = [("BOX_FETCH__ALLOW_NETWORKS", "127.0.0.0/8")];
    let Some((binary, collector)) = observed(pair, &settings).await else {
        return;
    };
    let origin = Origin::start().await;
    let running = binary.start_logged().await;
    let client = binary.client("imports:read imports:write");
    let items = json!({"items": [{"url": origin.file("/a?key=1", b"content")}]});
    let import = send(client.post("/v1/imports").json(&items))
        .await
        .json(202);
    let path = format!("/v1/imports/{}", id(&import));
    until("it has ended", || async {
        send(client.get(&path)).await.json(200)["state"] == "done"
    })
    .await;
    running.stop().await;

    let received = collector.received();
    let spans = received.spans.iter();
    let items: Vec<_> = spans.filter(|span| span.name == "import item").collect();
    let [item] = items.as_slice() else {
        panic!("{items:#?}");
    };
    let told = attributes(&item.attributes);
    assert_eq!(told["import"], id(&import));
    assert_eq!(
        (&told["number"], &told["tenant"]),
        (&json!(0), &json!("acme"))
    );
    let trace = hex::encode(&item.trace_id);
    let fetch = received.one(&trace, "fetch");
    assert_eq!(fetch.parent_span_id, item.span_id);
    let told = attributes(&fetch.attributes);
    assert_eq!(told["server.address"], "127.0.0.1");
    assert_eq!(told["http.response.status_code"], 200);
    for name in ["store put", "database write"] {
        assert!(
            !received.named(&trace, name).is_empty(),
            "{:#?}",
            received.tree(&trace)
        );
    }
    let seen = &origin.seen("/a?key=1")[0];
    assert!(!seen.headers.contains_key("traceparent"), "{seen:?}");
}

/// An S3 that notes which trace asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_told_which_span_asks() {
    let Some(variables) = s3_variables() else {
        return;
    };
    let (_, store) = variables
        .iter()
        .find(|(name, _)| name == "BOX_STORE__ENDPOINT")
        .unwrap();
    let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let noting = {
        let (store, seen, http) = (store.clone(), seen.clone(), reqwest::Client::new());
        move |request: axum::extract::Request| {
            let (store, seen, http) = (store.clone(), seen.clone(), http.clone());
            async move {
                let (head, body) = request.into_parts();
                if let Some(told) = head.headers.get("traceparent") {
                    let told = told.to_str().unwrap().to_owned();
                    seen.lock().unwrap().push((head.method.to_string(), told));
                }
                let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
                pass_on(&store, &http, head, body).await
            }
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let front = tokio::spawn(async move {
        let _ = axum::serve(listener, axum::Router::new().fallback(noting)).await;
    });
    let settings = [("BOX_STORE__ENDPOINT", endpoint.as_str())];
    let Some((binary, collector)) = observed(Pair::PostgresS3, &settings).await else {
        return;
    };
    let running = binary.start_logged().await;
    let client = binary.client("files:write");
    let traced = |flags: &str| {
        client
            .post("/v1/files?name=a")
            .header("traceparent", format!("00-{TRACE}-{PARENT}-{flags}"))
            // In parts, each sent by a task of its own.
            .body(vec![0; 20 << 20])
    };
    send(traced("01")).await.json(201);
    let told = seen.lock().unwrap().clone();
    // Of what is not recorded, nothing is told.
    send(traced("00")).await.json(201);
    assert_eq!(seen.lock().unwrap().len(), told.len());
    running.stop().await;
    front.abort();

    let received = collector.received();
    let parts = received.named(TRACE, "store put-part");
    assert!(parts.len() > 1, "{:#?}", received.tree(TRACE));
    let server = received.one(TRACE, "POST /v1/files");
    for part in parts {
        assert!(
            received.is_below(part, server),
            "{:#?}",
            received.tree(TRACE)
        );
        let told_of = format!("00-{TRACE}-{}-01", hex::encode(&part.span_id));
        assert!(told.contains(&("PUT".to_owned(), told_of)), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_asks_by_itself_makes_no_traces() {
    let settings = [("BOX_REAPER__INTERVAL", "50ms")];
    let Some((binary, collector)) = observed(Pair::SqliteLocal, &settings).await else {
        return;
    };
    let running = binary.start_logged().await;
    let stranger = Client::new(&binary.url, None);
    for path in ["/health", "/health/ready", "/health/live"] {
        assert_eq!(send(stranger.get(path)).await.status, 200);
    }
    let admin = binary.client("admin");
    until("the reaper has run", || async {
        let page = send(admin.get("/metrics")).await.text();
        !page.contains("box_reaper_last_run_timestamp_seconds 0")
    })
    .await;
    // What no route answers is somebody's.
    send(stranger.get("/nowhere"))
        .await
        .problem(404, "not-found");
    running.stop().await;
    let spans = collector.received().spans;
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["GET none"]);
}
