//! Who may do what: every route of the table is walked without a token, without the scope, and with
//! another tenant's ids.

use box_service::auth::Scope;
use box_service::http::{Access, Route, Takes, routes};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::harness::client::{Answer, Client, id, put_signed, send};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    no_route_lets_a_stranger_in,
    no_route_lets_in_who_lacks_its_scope,
    no_route_shows_another_tenants_things,
    a_token_is_checked_before_everything_else,
    the_order_of_checks_is_token_scope_length,
    me_is_what_the_token_says,
);

/// A file, an import, a link and an upload of a tenant.
struct Things {
    file: Value,
    import: Value,
    link: Value,
    upload: Value,
    /// All of its bytes are there.
    direct: Value,
}

impl Things {
    async fn of(service: &Service, client: &Client) -> Self {
        let items = json!({"items": [{"url": "ftp://example.com/secret"}]});
        let import = send(client.post("/v1/imports").json(&items)).await;
        let upload = client
            .post("/v1/uploads/tus")
            .header("tus-resumable", "1.0.0")
            .header("upload-length", 1)
            // secret
            .header("upload-metadata", "filename c2VjcmV0");
        let upload = send(upload).await;
        assert_eq!(upload.status, 201, "{}", upload.text());
        let upload = upload.header("location").rsplit('/').next().unwrap();
        let direct = json!({"name": "secret", "size": 6});
        let direct = send(client.post("/v1/uploads").json(&direct))
            .await
            .json(201);
        let put = put_signed(&service.url, &direct["put"], b"secret").await;
        assert_eq!(put.status, 200, "{}", put.text());
        Self {
            file: client.upload("secret-name", "secret").await,
            import: import.json(202),
            link: send(
                client
                    .post("/v1/links")
                    .json(&json!({"url": "https://secret.example.com/"})),
            )
            .await
            .json(201),
            upload: json!({"id": upload}),
            direct,
        }
    }

    /// The id that the route wants, if it wants one.
    fn id(&self, route: &Route) -> &str {
        if route.path.contains("slug}") {
            return self.link["slug"].as_str().unwrap();
        }
        if matches!(route.operation, Some("signUploadParts" | "completeUpload")) {
            return id(&self.direct);
        }
        id(if route.path.starts_with("/v1/imports") {
            &self.import
        } else if route.path.starts_with("/v1/uploads") {
            &self.upload
        } else {
            &self.file
        })
    }
}

/// Sends what the route takes, with `id` where it wants one.
async fn call(client: &Client, route: &Route, id: &str) -> Answer {
    let path = route
        .path
        .replace("{id}", id)
        .replace("{slug}", id)
        .replace("{*slug}", id)
        .replace("{version}", "1")
        .replace("{token}", "forged.token")
        .replace("{file}", "index.css");
    assert!(!path.contains('{'), "what is to stand in {path}?");
    let request = client.request(route.method.clone(), &path);
    let request = match (route.takes, route.operation) {
        (_, Some("headTusUpload" | "deleteTusUpload")) => request.header("tus-resumable", "1.0.0"),
        (_, Some("createTusUpload" | "appendTusUpload")) => request
            .header("tus-resumable", "1.0.0")
            .header("content-type", "application/offset+octet-stream")
            .header("upload-offset", 0)
            .header("upload-length", 1)
            .body("x"),
        (Takes::Nothing, _) => request,
        (Takes::File, _) => request.body("x"),
        (Takes::Json, Some("batchDeleteFiles")) => request.json(&json!({"ids": [id]})),
        (Takes::Json, Some("createSignedUrl")) => {
            request.json(&json!({"method": "HEAD", "expires_in_s": 60}))
        }
        (Takes::Json, Some("createLink")) => request.json(&json!({"url": "https://example.com/"})),
        (Takes::Json, Some("unlockLink")) => request
            .header("content-type", "application/x-www-form-urlencoded")
            .body("password=x"),
        (Takes::Json, Some("createUpload")) => request.json(&json!({"name": "a", "size": 1})),
        (Takes::Json, Some("signUploadParts")) => request.json(&json!({"from": 1, "to": 1})),
        (Takes::Json | Takes::Parts, _) => request.json(&json!({})),
        (Takes::Ids, _) => request.json(&json!({"ids": [id]})),
        (Takes::Items, _) => request.json(&json!({"items": [{"url": "ftp://example.com/"}]})),
    };
    send(request).await
}

async fn no_route_lets_a_stranger_in(service: &Service) {
    let things = Things::of(service, &service.client("acme")).await;
    for route in routes() {
        let answer = call(&service.stranger(), &route, things.id(&route)).await;
        if route.access == Access::Public {
            assert!(answer.status < 400, "{} {answer:?}", route.path);
        } else if route.access == Access::Signed {
            assert_eq!(answer.status, 403, "{} {answer:?}", route.path);
        } else if route.method == reqwest::Method::HEAD {
            assert_eq!(answer.status, 401, "{}", route.path);
        } else {
            answer.problem(401, "unauthenticated");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    service.assert_holds(1).await;
}

async fn no_route_lets_in_who_lacks_its_scope(service: &Service) {
    for route in routes() {
        let Access::Scope(needed) = route.access else {
            continue;
        };
        let things = Things::of(service, &service.client("acme")).await;
        let others: Vec<Scope> = Scope::ALL
            .iter()
            .copied()
            .filter(|scope| *scope != needed)
            .collect();
        let answer = call(
            &service.client_with("acme", &others),
            &route,
            things.id(&route),
        )
        .await;
        assert_eq!(answer.status, 403, "{} {}", route.method, route.path);
        if route.method != reqwest::Method::HEAD {
            let problem = answer.problem(403, "forbidden");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(needed.as_str()), "{detail}");
        }
        let answer = call(
            &service.client_with("acme", &[needed]),
            &route,
            things.id(&route),
        )
        .await;
        assert!(answer.status < 400, "{} {answer:?}", route.path);
    }
}

/// What another tenant gets of each route that a token opens. A new route fails here until it says.
#[derive(Debug, PartialEq)]
enum Foreign {
    /// 404, exactly as for an id that never was.
    NotFound,
    /// The same, for each of several.
    NotFoundWithin,
    /// 422, exactly as for an id that never was.
    Invalid,
    /// Its own things only.
    Own,
    /// What is nobody's: numbers of the whole service.
    Numbers,
}

fn foreign(operation: &str) -> Foreign {
    match operation {
        "getFile"
        | "updateFile"
        | "deleteFile"
        | "restoreFile"
        | "copyFile"
        | "getFileContent"
        | "headFileContent"
        | "replaceFileContent"
        | "listFileVersions"
        | "getFileVersionContent"
        | "restoreFileVersion"
        | "getImport"
        | "listImportItems"
        | "watchImport"
        | "cancelImport"
        | "retryImport"
        | "headTusUpload"
        | "appendTusUpload"
        | "deleteTusUpload"
        | "getUpload"
        | "abortUpload"
        | "signUploadParts"
        | "completeUpload"
        | "createSignedUrl"
        | "getLink"
        | "updateLink"
        | "deleteLink" => Foreign::NotFound,
        "batchDeleteFiles" => Foreign::NotFoundWithin,
        "archiveFiles" => Foreign::Invalid,
        "uploadFile" | "listFiles" | "createImport" | "listImports" | "createLink"
        | "createLinks" | "listLinks" | "listAuditEvents" | "getUsage" | "getMe" | "getTus"
        | "createTusUpload" | "createUpload" | "listUploads" => Foreign::Own,
        "getMetrics" => Foreign::Numbers,
        other => panic!("what does another tenant get of {other}?"),
    }
}

async fn no_route_shows_another_tenants_things(service: &Service) {
    let owner = service.client("acme");
    let other = service.client("other");
    let things = Things::of(service, &owner).await;
    let file = &things.file;
    let never = "01890a5d-ac96-774b-bcce-b302099a8057";
    for route in routes() {
        if matches!(route.access, Access::Public | Access::Signed) {
            continue;
        }
        let answer = call(&other, &route, things.id(&route)).await;
        assert!(!answer.text().contains("secret"), "{}", answer.text());
        match foreign(route.operation.unwrap()) {
            kind @ (Foreign::NotFound | Foreign::Invalid) => {
                let status = if kind == Foreign::Invalid { 422 } else { 404 };
                assert_eq!(answer.status, status, "{} {}", route.method, route.path);
                let absent = call(&other, &route, never).await;
                assert_eq!(without_request(&answer), without_request(&absent));
                // Nor is there another answer for what is no id at all.
                let odd = call(&other, &route, "no-id").await;
                assert_eq!(without_request(&answer), without_request(&odd));
            }
            Foreign::NotFoundWithin => {
                let item = &answer.json(200)["items"][0];
                assert_eq!((&item["status"], &item["id"]), (&json!(404), &file["id"]));
                let absent = call(&other, &route, never).await.json(200);
                assert_eq!(item["type"], absent["items"][0]["type"]);
            }
            Foreign::Own | Foreign::Numbers => {
                assert!(answer.status < 400, "{} {answer:?}", route.path);
                assert!(
                    !answer.text().contains(things.id(&route)),
                    "{}",
                    answer.text()
                );
            }
        }
    }
    assert_eq!(owner.content(id(file)).await, b"secret");
}

/// Status and body, but for the request's own id.
fn without_request(answer: &Answer) -> (u16, Value) {
    let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if let Some(problem) = body.as_object_mut() {
        problem.remove("instance");
    }
    (answer.status, body)
}

async fn a_token_is_checked_before_everything_else(service: &Service) {
    let token = service.token("acme", &[Scope::FilesRead]);
    let forged = format!("{}x", &token[..token.len() - 1]);
    for (scheme, token, status) in [
        ("Bearer", token.as_str(), 200),
        ("bearer", token.as_str(), 200),
        ("Basic", token.as_str(), 401),
        ("Bearer", forged.as_str(), 401),
        ("Bearer", "", 401),
        ("Bearer", "a.b.c", 401),
    ] {
        let request = service
            .stranger()
            .get("/v1/files")
            .header("authorization", format!("{scheme} {token}"));
        assert_eq!(send(request).await.status, status, "{scheme} {token}");
    }
    service
        .clock
        .advance(std::time::Duration::from_secs(366 * 86_400));
    let late = Client::new(&service.url, Some(token));
    send(late.get("/v1/files"))
        .await
        .problem(401, "unauthenticated");
}

async fn the_order_of_checks_is_token_scope_length(service: &Service) {
    let token = |scope| service.token("acme", &[scope]);
    for (token, status) in [
        (None, 401),
        (Some(token(Scope::FilesRead)), 403),
        (Some(token(Scope::FilesWrite)), 413),
    ] {
        assert_eq!(status_of_head_alone(service, token).await, status);
    }
}

/// What answers the head of an upload that declares far too much and has a query of nonsense. No
/// body follows: who answers did not wait for it.
async fn status_of_head_alone(service: &Service, token: Option<String>) -> u16 {
    let mut stream = TcpStream::connect(service.address()).await.unwrap();
    let authorization = token.map_or_else(String::new, |token| {
        format!("authorization: Bearer {token}\r\n")
    });
    let length = 10_u64 << 40;
    let head = format!(
        "POST /v1/files?nonsense=1 HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{authorization}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

async fn me_is_what_the_token_says(service: &Service) {
    let client = service.client_with("acme", &[Scope::FilesRead, Scope::LinksWrite]);
    let me = send(client.get("/v1/me")).await.json(200);
    assert_eq!(
        me,
        json!({"tenant": "acme", "subject": "tester", "scopes": ["files:read", "links:write"],
               "expires_at": "2027-01-31T12:00:00.000000Z"})
    );
}
