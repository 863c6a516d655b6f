//! What operators, browsers and tools see: request ids, problems, health, CORS, and the description
//! of the API.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use box_service::http::{Access, docs, routes};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::client::{Answer, id, send};
use crate::harness::connection::until;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    bytes_that_are_out_of_reach_are_not_forgotten,
    a_request_id_is_kept_or_made,
    what_is_not_there_is_a_problem,
    a_method_that_a_path_lacks_is_refused_with_those_it_has,
    no_answer_lets_a_browser_guess_or_run_it,
    health_tells_each_part,
    health_tells_when_the_store_is_gone_and_when_it_is_back,
    health_tells_when_the_database_is_gone,
    an_upload_that_the_store_fails_leaves_nothing,
    no_origin_may_call_unless_configured,
    the_docs_need_no_other_host,
);

async fn a_request_id_is_kept_or_made(service: &Service) {
    let client = service.client("acme");
    let longest = "a".repeat(128);
    for kept in ["a", "A-z_0.9", longest.as_str()] {
        let answer = send(client.get("/v1/me").header("x-request-id", kept)).await;
        assert_eq!(answer.header("x-request-id"), kept);
    }
    let too_long = "a".repeat(129);
    let mut made = BTreeSet::new();
    for odd in ["", "a b", "a/b", "é", "{}", too_long.as_str()] {
        let answer = send(client.get("/v1/me").header("x-request-id", odd)).await;
        let id = answer.header("x-request-id").to_owned();
        assert_ne!(id, odd);
        assert!(is_request_id(&id), "{id}");
        made.insert(id);
    }
    // Every answer has one: where nothing is, for a stranger, and without a body.
    for request in [
        client.get("/nothing"),
        service.stranger().get("/v1/files"),
        client.request(Method::PUT, "/v1/files"),
        client.head("/health/live"),
        client.get("/openapi.json"),
    ] {
        let id = send(request).await.header("x-request-id").to_owned();
        assert!(is_request_id(&id), "{id}");
        made.insert(id);
    }
    assert_eq!(made.len(), 11, "an id was made twice: {made:?}");
}

fn is_request_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

async fn what_is_not_there_is_a_problem(service: &Service) {
    let client = service.client("acme");
    for path in [
        "/",
        "/nothing",
        "/v1",
        "/v1/",
        "/v1/nothing",
        "/v1/files/",
        "/v1//files",
        "/V1/files",
        "/v2/files",
        "/docs/nothing.js",
        "/docs/../Cargo.toml",
        "/docs/%2e%2e%2fCargo.toml",
        "/health/nothing",
        "/.box-service",
    ] {
        let request = client.get(path).header("x-request-id", "mine");
        let problem = send(request).await.problem(404, "not-found");
        assert_eq!(problem["instance"], "urn:box-service:request:mine");
    }
    let answer = send(client.head("/nothing")).await;
    assert_eq!((answer.status, answer.body.len()), (404, 0));
    send(client.post("/nothing").body("x"))
        .await
        .problem(404, "not-found");
    service.assert_holds(0).await;
}

/// The methods of each path of the table.
fn methods() -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut methods: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for route in routes() {
        let of_path = methods.entry(route.path).or_default();
        of_path.insert(route.method.to_string());
        if route.method == Method::GET {
            of_path.insert("HEAD".to_owned());
        }
    }
    methods
}

async fn a_method_that_a_path_lacks_is_refused_with_those_it_has(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "x").await;
    for (path, has) in methods() {
        let path = path.replace("{id}", id(&file)).replace("{file}", "x.css");
        for method in [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE",
        ] {
            if has.contains(method) {
                continue;
            }
            let request = client.request(method.parse().unwrap(), &path);
            let answer = send(request).await;
            assert_eq!(answer.status, 405, "{method} {path}: {}", answer.text());
            let allow: BTreeSet<String> = answer
                .header("allow")
                .split(',')
                .map(|method| method.trim().to_owned())
                .collect();
            assert_eq!(allow, has, "{method} {path}");
            if method != "HEAD" {
                answer.problem(405, "method-not-allowed");
            }
        }
    }
    service.assert_holds(1).await;
}

async fn no_answer_lets_a_browser_guess_or_run_it(service: &Service) {
    let client = service.client("acme");
    let request = client
        .post("/v1/files?name=evil.html")
        .header("content-type", "text/html")
        .body("<script>alert(1)</script>");
    let file = send(request).await.json(201);
    let content = format!("/v1/files/{}/content", id(&file));
    let paths = [
        content.as_str(),
        "/v1/files",
        "/v1/me",
        "/nothing",
        "/health",
        "/docs/",
        "/openapi.json",
    ];
    for path in paths {
        let answer = send(client.get(path)).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
    let stranger = send(service.stranger().get(&content)).await;
    assert_eq!(stranger.header("x-content-type-options"), "nosniff");
    for path in [content.clone(), format!("{content}?disposition=inline")] {
        for method in [Method::GET, Method::HEAD] {
            let answer = send(client.request(method, &path)).await;
            assert_eq!(answer.status, 200);
            assert_eq!(
                answer.header("content-security-policy"),
                "sandbox; default-src 'none'"
            );
            assert!(
                answer
                    .header("content-disposition")
                    .starts_with("attachment")
            );
        }
    }
}

async fn health_tells_each_part(service: &Service) {
    let stranger = service.stranger();
    let live = send(stranger.get("/health/live")).await;
    assert_eq!(live.json(200), json!({"status": "ok"}));
    assert_eq!(
        send(stranger.get("/health/ready")).await.json(200)["status"],
        "ok"
    );
    let answer = send(stranger.get("/health")).await;
    // Or somebody's cache says that all is well.
    assert_eq!(answer.header("cache-control"), "no-store");
    let health = answer.json(200);
    assert_eq!(health["status"], "ok");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(keys(&health), ["parts", "status", "version"]);
    assert_eq!(keys(&health["parts"]), ["database", "store"]);
    for part in ["database", "store"] {
        let part = &health["parts"][part];
        assert_eq!(keys(part), ["latency_ms", "status"]);
        assert_eq!(part["status"], "ok");
        assert!(part["latency_ms"].as_f64().unwrap() >= 0.0, "{part}");
    }
    for path in ["/health", "/health/live", "/health/ready"] {
        let answer = send(stranger.head(path)).await;
        assert_eq!((answer.status, answer.body.len()), (200, 0));
    }
}

fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap();
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Waits until `/health/ready` answers so: what it says is up to a second old.
async fn until_ready_is(service: &Service, status: u16) -> Answer {
    let ready = || send(service.stranger().get("/health/ready"));
    until(&format!("ready is {status}"), || async {
        ready().await.status == status
    })
    .await;
    ready().await
}

async fn health_tells_when_the_store_is_gone_and_when_it_is_back(service: &Service) {
    let Some(store) = service.local_store() else {
        return;
    };
    let away = store.with_extension("away");
    until_ready_is(service, 200).await;
    std::fs::rename(&store, &away).unwrap();
    until_ready_is(service, 503)
        .await
        .problem(503, "unavailable");
    let health = send(service.stranger().get("/health")).await.json(503);
    assert_ne!(health["status"], "ok");
    assert_eq!(health["parts"]["database"]["status"], "ok");
    assert_ne!(health["parts"]["store"]["status"], "ok");
    assert_eq!(health["parts"]["store"]["latency_ms"], Value::Null);
    // It lives: a restart would not bring the store back.
    send(service.stranger().get("/health/live")).await.json(200);
    std::fs::rename(&away, &store).unwrap();
    until_ready_is(service, 200).await;
    service.client("acme").upload("a", "x").await;
}

async fn health_tells_when_the_database_is_gone(service: &Service) {
    // A service of its own over the same parts, as this one's database is still needed to look.
    let other = service.another().await;
    until_ready_is(&other, 200).await;
    other.domain().metadata.close().await;
    until_ready_is(&other, 503)
        .await
        .problem(503, "unavailable");
    let health = send(other.stranger().get("/health")).await.json(503);
    assert_ne!(health["status"], "ok");
    assert_ne!(health["parts"]["database"]["status"], "ok");
    assert_eq!(health["parts"]["store"]["status"], "ok");
    let client = other.client("acme");
    let answers = [
        send(client.get("/v1/files")).await,
        send(client.post("/v1/files").body("x")).await,
        send(client.get("/v1/files/01890a5d-ac96-774b-bcce-b302099a8057")).await,
    ];
    for answer in answers {
        answer.problem(503, "unavailable");
        let text = answer.text();
        assert!(!text.contains("sqlx") && !text.contains("Pool"), "{text}");
    }
    send(client.get("/health/live")).await.json(200);
    other.stop().await;
    service.assert_holds(0).await;
}

async fn an_upload_that_the_store_fails_leaves_nothing(service: &Service) {
    let Some(store) = service.local_store() else {
        return;
    };
    let client = service.client("acme");
    let kept = client.upload("kept", "kept").await;
    let away = store.with_extension("away");

    std::fs::rename(&store, &away).unwrap();
    refuse_upload(service).await;
    // A file where the directory was.
    std::fs::write(&store, "not a directory").unwrap();
    refuse_upload(service).await;
    std::fs::remove_file(&store).unwrap();
    std::fs::rename(&away, &store).unwrap();

    // Only the directory of objects on their way: the others can be read.
    let tmp = store.join("test/tmp");
    std::fs::rename(&tmp, &away).unwrap();
    std::fs::write(&tmp, "not a directory").unwrap();
    refuse_upload(service).await;
    assert_eq!(client.content(id(&kept)).await, b"kept");
    std::fs::remove_file(&tmp).unwrap();
    std::fs::rename(&away, &tmp).unwrap();

    let files = send(client.get("/v1/files")).await.json(200);
    assert_eq!(files["items"], json!([kept]));
    service.assert_holds(1).await;
    client.upload("again", "again").await;
    service.assert_holds(2).await;
}

async fn bytes_that_are_out_of_reach_are_not_forgotten(service: &Service) {
    let Some(store) = service.local_store() else {
        return;
    };
    let client = service.client("acme");
    let file = client.upload("a", "x").await;
    let away = store.with_extension("away");
    std::fs::rename(&store, &away).unwrap();
    let path = format!("/v1/files/{}?permanent=true", id(&file));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    service.settle().await;
    assert_eq!(service.count("objects WHERE state = 'dead'").await, 1);
    // An empty mount point is no store either.
    std::fs::create_dir(&store).unwrap();
    service.settle().await;
    assert_eq!(service.count("objects WHERE state = 'dead'").await, 1);
    std::fs::remove_dir(&store).unwrap();
    std::fs::rename(&away, &store).unwrap();
    service.assert_holds(0).await;
}

async fn refuse_upload(service: &Service) {
    let answer = send(service.client("acme").post("/v1/files").body("lost")).await;
    answer.problem(503, "unavailable");
    let directory = service.variable("BOX_DATA_DIR");
    assert!(!answer.text().contains(directory), "{}", answer.text());
    let file = service.count("files WHERE size = 4").await;
    assert_eq!(file, 1, "a file without its bytes");
}

async fn no_origin_may_call_unless_configured(service: &Service) {
    let client = service.client("acme");
    let preflight = preflight(service, "https://app.example.com", "POST").await;
    assert_eq!(preflight.status, 405);
    assert!(
        !preflight
            .headers
            .contains_key("access-control-allow-origin")
    );
    let request = client
        .get("/v1/me")
        .header("origin", "https://app.example.com");
    let answer = send(request).await;
    answer.json(200);
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
}

async fn preflight(service: &Service, origin: &str, method: &str) -> Answer {
    let request = service
        .stranger()
        .request(Method::OPTIONS, "/v1/files")
        .header("origin", origin)
        .header("access-control-request-method", method)
        .header(
            "access-control-request-headers",
            "authorization,content-type",
        );
    send(request).await
}

async fn a_configured_origin_may_call_and_no_other(service: &Service) {
    let origins = |answer: &Answer| {
        let values = answer.headers.get_all("access-control-allow-origin");
        values
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for origin in ["https://app.example.com", "http://localhost:5173"] {
        for method in ["POST", "GET", "DELETE"] {
            let answer = preflight(service, origin, method).await;
            assert!((200..300).contains(&answer.status), "{answer:?}");
            assert_eq!(origins(&answer), [origin]);
            assert!(
                answer
                    .header("access-control-allow-methods")
                    .contains(method)
            );
            let headers = answer.header("access-control-allow-headers").to_lowercase();
            assert!(
                headers == "*" || headers.contains("authorization"),
                "{headers}"
            );
            assert!(
                headers == "*" || headers.contains("content-type"),
                "{headers}"
            );
        }
        // Refusals too, or the page can't tell why.
        for (request, status) in [
            (service.client("acme").get("/v1/files"), 200),
            (service.stranger().get("/v1/files"), 401),
            (service.client("acme").get("/nothing"), 404),
        ] {
            let answer = send(request.header("origin", origin)).await;
            assert_eq!(
                (answer.status, origins(&answer)),
                (status, vec![origin.to_owned()])
            );
            assert!(answer.header("vary").to_lowercase().contains("origin"));
            let exposed = answer
                .header("access-control-expose-headers")
                .to_lowercase();
            for header in ["etag", "location", "x-request-id", "box-audit-head"] {
                assert!(exposed.contains(header), "{header} in {exposed}");
            }
        }
    }
    for origin in [
        "https://evil.example.com",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.evil.com",
        "null",
    ] {
        assert!(origins(&preflight(service, origin, "POST").await).is_empty());
        let request = service
            .client("acme")
            .get("/v1/files")
            .header("origin", origin);
        assert!(origins(&send(request).await).is_empty(), "{origin}");
    }
}

async fn the_docs_need_no_other_host(service: &Service) {
    let stranger = service.stranger();
    let entrance = send(stranger.get("/docs")).await;
    assert!((300..400).contains(&entrance.status), "{entrance:?}");
    let url: url::Url = format!("{}/docs", service.url).parse().unwrap();
    let page = url.join(entrance.header("location")).unwrap();
    assert_eq!(page.host_str(), Some("127.0.0.1"));
    let index = send(stranger.get(page.path())).await;
    assert_eq!(index.status, 200);
    assert!(index.header("content-type").starts_with("text/html"));
    let mut named = names(&index.text());
    assert!(named.iter().any(|name| name.ends_with(".js")), "{named:?}");
    assert!(named.iter().any(|name| name.ends_with(".css")), "{named:?}");
    named.retain(|name| !name.starts_with("data:"));
    for name in named {
        let url = page.join(&name).unwrap();
        assert_eq!(url.host_str(), Some("127.0.0.1"), "{name}");
        let answer = send(stranger.get(url.path())).await;
        assert_eq!(answer.status, 200, "{url}");
        assert!(!answer.body.is_empty());
        let kind = answer.header("content-type").to_owned();
        let wanted = match name.rsplit('.').next().unwrap() {
            "js" => "javascript",
            "css" => "text/css",
            "png" => "image/png",
            other => panic!("what is {other}?"),
        };
        assert!(kind.contains(wanted), "{name} is {kind}");
        // The bundle itself names a few hosts in its texts; these two say what is loaded.
        if name.ends_with("swagger-initializer.js") {
            no_other_host(&name, &answer.text());
            let text = answer.text();
            assert!(text.contains("openapi.json"), "{text}");
        }
    }
    no_other_host("index", &index.text());
    // What the bundle names all the same, the browser does not fetch.
    let policy = index.header("content-security-policy").to_owned();
    assert!(policy.contains("default-src 'none'") || policy.contains("default-src 'self'"));
    assert!(
        !policy.contains("http") && !policy.contains('*'),
        "{policy}"
    );
    let answer = send(stranger.get("/openapi.json")).await;
    assert!(answer.header("content-type").starts_with("application/"));
    assert_eq!(answer.json(200)["openapi"], "3.1.0");
}

fn no_other_host(name: &str, text: &str) {
    for scheme in ["http://", "https://", "src=\"//", "href=\"//"] {
        assert!(!text.contains(scheme), "{name} names a host: {text}");
    }
}

/// What `src` and `href` name in a page.
fn names(html: &str) -> Vec<String> {
    let mut names = Vec::new();
    for attribute in ["src=\"", "href=\""] {
        for rest in html.split(attribute).skip(1) {
            names.push(rest.split('"').next().unwrap().to_owned());
        }
    }
    names
}

#[test]
fn the_document_describes_every_route_and_nothing_else() {
    let document: Value = serde_json::from_str(&docs::json()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let schemes = document["components"]["securitySchemes"]
        .as_object()
        .unwrap();
    assert_eq!(schemes.len(), 1);
    let (scheme, description) = schemes.iter().next().unwrap();
    assert_eq!(description["type"], "http");
    assert_eq!(description["scheme"], "bearer");

    let mut described = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap().to_owned();
            let known = described.insert(name.clone(), (method.to_uppercase(), path, operation));
            assert!(known.is_none(), "{name} is described twice");
        }
    }
    for route in routes() {
        let Some(operation) = route.operation else {
            continue;
        };
        let (method, path, description) = described
            .remove(operation)
            .unwrap_or_else(|| panic!("{operation} is not described"));
        // OpenAPI has no word for a parameter with slashes.
        let known = route.path.replace("{*", "{");
        assert_eq!(
            (method.as_str(), path.as_str()),
            (route.method.as_str(), known.as_str())
        );
        let security = match route.access {
            Access::Public | Access::Signed => json!([]),
            Access::Token => json!([{scheme: []}]),
            Access::Scope(scope) => json!([{scheme: [scope.as_str()]}]),
        };
        assert_eq!(description["security"], security, "{operation}");
        for name in path.split(['{', '}']).skip(1).step_by(2) {
            let parameters = description["parameters"].as_array().unwrap();
            let wanted =
                |p: &&Value| p["name"] == name && p["in"] == "path" && p["required"] == true;
            assert!(parameters.iter().any(|p| wanted(&p)), "{operation}: {name}");
        }
        let responses = description["responses"].as_object().unwrap();
        let needs = match route.access {
            Access::Public | Access::Signed => 0,
            Access::Token | Access::Scope(_) => 1,
        };
        assert_eq!(
            usize::from(responses.contains_key("401")),
            needs,
            "{operation}"
        );
        assert!(
            responses.keys().any(|status| status < &"400".to_owned()),
            "{operation}"
        );
    }
    assert!(described.is_empty(), "no route: {:?}", described.keys());
    references(&document, &document);
}

/// Every `$ref` leads somewhere.
fn references(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get("$ref") {
                let pointer = target.strip_prefix('#').unwrap();
                assert!(
                    document.pointer(pointer).is_some(),
                    "{target} leads nowhere"
                );
            }
            fields
                .values()
                .for_each(|value| references(document, value));
        }
        Value::Array(values) => values.iter().for_each(|value| references(document, value)),
        _ => {}
    }
}

#[test]
fn the_document_in_the_repository_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let kept = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        kept.trim_end() == docs::json().trim_end(),
        "openapi.json is stale: run `cargo run -- openapi > openapi.json`"
    );
}

mod origins {
    use super::a_configured_origin_may_call_and_no_other;
    use crate::harness::service::on_every_pair;

    on_every_pair!(
        with [("BOX_CORS__ALLOW_ORIGINS", "https://app.example.com,http://localhost:5173")];
        a_configured_origin_may_call_and_no_other,
    );
}
