//! Whatever is a secret, wherever somebody can put one: none of it is in the log, in spans or in records.

use super::*;

/// What nobody may find again, and where it was put.
#[derive(Default)]
struct Secrets(Vec<(&'static str, String)>);

impl Secrets {
    /// A text that is nowhere else.
    fn make(&mut self, place: &'static str) -> String {
        let text = format!("s3cret{}x", self.0.len());
        self.0.push((place, text.clone()));
        text
    }

    fn keep(&mut self, place: &'static str, text: &str) {
        assert!(text.len() >= 8, "{place}: {text:?} could be anywhere");
        self.0.push((place, text.to_owned()));
    }

    /// What is between two texts, of a URL for example.
    fn keep_part(&mut self, place: &'static str, text: &str, after: &str, until: &str) {
        let part = text
            .split(after)
            .nth(1)
            .and_then(|rest| rest.split(until).next());
        self.keep(
            place,
            part.unwrap_or_else(|| panic!("no {after} in {text}")),
        );
    }
}

over_every_pair!(no_secret_is_told);

async fn no_secret_is_told(pair: Pair) {
    let mut secrets = Secrets::default();
    let headers = format!(
        "authorization=Bearer%20{}",
        secrets.make("a header for the collector")
    );
    let signing = secrets.make("auth.secret").repeat(5);
    let urls = secrets.make("urls.secret").repeat(5);
    let audit = secrets.make("audit.key").repeat(5);
    let settings = [
        ("BOX_LOG__LEVEL", "debug,box_service=trace"),
        ("BOX_TELEMETRY__LOGS", "warn"),
        ("BOX_TELEMETRY__HEADERS", headers.as_str()),
        ("BOX_AUTH__SECRET", signing.as_str()),
        ("BOX_URLS__SECRET", urls.as_str()),
        ("BOX_AUDIT__KEY", audit.as_str()),
        ("BOX_FETCH__ALLOW_NETWORKS", "127.0.0.0/8"),
        ("BOX_DATABASE__TIMEOUT", "2s"),
    ];
    let Some((binary, collector)) = observed(pair, &settings).await else {
        return;
    };
    let database = secrets.make("the database's password");
    let binary = with_password(binary, &database);
    let running = binary.start_logged().await;
    let everything = "files:read files:write files:delete imports:read imports:write links:read links:write admin";
    let token = binary.token(everything);
    secrets.keep("a token", &token);
    let client = Client::new(&binary.url, Some(token.clone()));
    let stranger = Client::new(&binary.url, None);

    files(&mut secrets, &binary, &client).await;
    odd_requests(&mut secrets, &client, &stranger, &token).await;
    links(&mut secrets, &client, &stranger).await;
    imports(&mut secrets, &client).await;
    // And what is said when something fails.
    lose_bytes(&binary).await;
    let list = send(client.get("/v1/files")).await.json(200);
    for file in list["items"].as_array().unwrap() {
        let path = format!("/v1/files/{}/content", id(file));
        assert!(send(client.get(&path)).await.status >= 500);
    }
    let log = running.stop().await;

    for (name, value) in binary.variables() {
        if name == "BOX_STORE__SECRET_ACCESS_KEY" {
            secrets.keep("the store's secret key", value);
        }
    }
    let received = collector.received();
    assert!(log.lines().count() > 50 && received.spans.len() > 50 && !received.records.is_empty());
    let mut leaks = Vec::new();
    for (place, secret) in &secrets.0 {
        let lines = log.lines().filter(|line| line.contains(secret.as_str()));
        leaks.extend(lines.map(|line| format!("{place} is in the log: {line}")));
        for body in &received.bodies {
            if String::from_utf8_lossy(body).contains(secret.as_str()) {
                leaks.push(format!("{place} was handed over"));
            }
        }
    }
    assert!(leaks.is_empty(), "{leaks:#?}");
    let told = received
        .headers
        .iter()
        .all(|headers| headers.contains_key("authorization"));
    assert!(told, "the collector was not shown its token");
}

/// Where it has one: PostgreSQL here lets everybody in, whatever password they give.
fn with_password(binary: Binary, password: &str) -> Binary {
    let url = binary
        .variables()
        .iter()
        .find(|(name, _)| name == "BOX_DATABASE__URL");
    let mut url: url::Url = url.unwrap().1.parse().unwrap();
    if url.scheme() == "sqlite" {
        return binary;
    }
    url.set_password(Some(password)).unwrap();
    binary.with(&[("BOX_DATABASE__URL", url.as_str())])
}

async fn files(secrets: &mut Secrets, binary: &Binary, client: &Client) {
    let key = secrets.make("an Idempotency-Key");
    let name = secrets.make("a name");
    let metadata = json!({"k": secrets.make("metadata")}).to_string();
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("name", &name)
        .append_pair("metadata", &metadata)
        .finish();
    let request = client
        .post(&format!("/v1/files?{query}"))
        .header("idempotency-key", key)
        .header("cookie", format!("session={}", secrets.make("a cookie")));
    let file = send(request.body("content")).await.json(201);
    let file = id(&file).to_owned();
    client.content(&file).await;
    let redirected = send(client.get(&format!("/v1/files/{file}/content?redirect=true"))).await;
    let location = redirected.header("location");
    if location.contains("X-Amz-Signature=") {
        secrets.keep_part("a pre-signed query", location, "X-Amz-Signature=", "&");
    } else {
        secrets.keep_part("where content is redirected to", location, "/s/", "?");
    }
    for method in ["GET", "PUT"] {
        let body = if method == "GET" {
            json!({"method": method, "expires_in_s": 100_000})
        } else {
            json!({"method": method, "expires_in_s": 600, "content_type": "text/plain", "max_size": 4})
        };
        let path = format!("/v1/files/{file}/signed-urls");
        let signed = send(client.post(&path).json(&body)).await.json(200);
        let url = signed["url"].as_str().unwrap();
        let seal = url.split("/s/").nth(1).unwrap();
        secrets.keep("a signed URL", seal);
        let holder = Client::new(&format!("{}/s/{seal}", binary.url), None);
        if method == "GET" {
            assert_eq!(send(holder.get("")).await.status, 200);
        } else {
            let put = holder
                .put("")
                .header("content-type", "text/plain")
                .body("abc");
            send(put).await;
        }
        // Not as it was sealed.
        send(Client::new(&format!("{}/s/{seal}x", binary.url), None).get("")).await;
    }
    let direct = json!({"name": secrets.make("a name of a direct upload"), "size": 6});
    let direct = send(client.post("/v1/uploads").json(&direct))
        .await
        .json(201);
    let url = direct["put"]["url"].as_str().unwrap();
    if url.contains("X-Amz-Signature=") {
        secrets.keep_part("a pre-signed PUT", url, "X-Amz-Signature=", "&");
    } else {
        secrets.keep("a URL of a direct upload", url.rsplit('/').next().unwrap());
    }
}

/// Secrets where they do not belong, so that errors tell of them.
async fn odd_requests(secrets: &mut Secrets, client: &Client, stranger: &Client, token: &str) {
    let mut queries = vec![];
    for key in [
        "token",
        "cursor",
        "order",
        "limit",
        "metadata",
        "created_after",
        "access_token",
    ] {
        queries.push(format!("/v1/files?{key}={}", secrets.make("a query")));
    }
    queries.push(format!("/v1/files/{}", secrets.make("an id")));
    queries.push(format!("/l/{}", secrets.make("a slug")));
    queries.push(format!("/s/{}", secrets.make("a seal that is none")));
    queries.push(format!("/{}", secrets.make("a path")));
    for path in &queries {
        send(client.get(path)).await;
        send(stranger.get(path)).await;
    }
    for scheme in ["Bearer", "Basic", "Token"] {
        let value = format!("{scheme} {}", secrets.make("credentials"));
        let request = stranger.get("/v1/me").header("authorization", value);
        send(request).await.problem(401, "unauthenticated");
    }
    let forged = format!("{token}x");
    send(stranger.get("/v1/me").bearer_auth(forged))
        .await
        .problem(401, "unauthenticated");
    let mut bodies = vec![
        format!("{{\"password\": \"{}\"", secrets.make("broken JSON")),
        json!({"url": secrets.make("no URL")}).to_string(),
        json!({"url": format!("https://user:{}@example.com", secrets.make("userinfo"))}).to_string(),
        json!({"url": "https://example.com", "slug": {"a": secrets.make("a value of another type")}}).to_string(),
        json!({"url": "https://example.com", "expires_at": secrets.make("no time")}).to_string(),
    ];
    // A password that someone took for a number.
    secrets.keep("a number", "7318529460");
    bodies.push("{\"url\": \"https://example.com\", \"password\": 7318529460}".to_owned());
    for body in bodies {
        let request = client
            .post("/v1/links")
            .header("content-type", "application/json");
        let answer = send(request.body(body.clone())).await;
        assert!(
            (400..500).contains(&answer.status),
            "{body}: {}",
            answer.text()
        );
    }
    for (name, value) in [
        ("if-match", "an ETag"),
        ("range", "a range"),
        ("content-type", "a type"),
        ("repr-digest", "a digest"),
        ("idempotency-key", "a key that is none"),
        ("traceparent", "a trace that is none"),
        ("x-request-id", "an id that is none"),
        ("x-forwarded-for", "an address that is none"),
        ("user-agent", "a client's name"),
        ("upload-metadata", "metadata of tus"),
    ] {
        let odd = format!("{} é\"", secrets.make(value));
        let odd = reqwest::header::HeaderValue::from_bytes(odd.as_bytes()).unwrap();
        send(
            client
                .post("/v1/files?name=odd")
                .header(name, odd)
                .body("x"),
        )
        .await;
    }
}

async fn links(secrets: &mut Secrets, client: &Client, stranger: &Client) {
    let password = secrets.make("a link's password");
    let url = format!(
        "https://example.com/?key={}",
        secrets.make("where a link leads")
    );
    let body = json!({"slug": "guarded", "url": url, "password": password});
    send(client.post("/v1/links").json(&body)).await.json(201);
    let try_it = |password: String| {
        stranger
            .get("/l/guarded")
            .header("x-link-password", password)
    };
    assert_eq!(send(try_it(password.clone())).await.status, 302);
    let wrong = secrets.make("a wrong password");
    send(try_it(wrong)).await.problem(403, "password-required");
    let form = stranger
        .post("/l/guarded")
        .body(format!("password={password}"));
    let form = form.header("content-type", "application/x-www-form-urlencoded");
    let unlocked = send(form).await;
    let cookie = unlocked.header("set-cookie").to_owned();
    secrets.keep_part("the cookie of a link", &cookie, "=", ";");
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(
        send(stranger.get("/l/guarded").header("cookie", cookie))
            .await
            .status,
        302
    );
}

async fn imports(secrets: &mut Secrets, client: &Client) {
    let origin = Origin::start().await;
    let key = secrets.make("a query of an item");
    let path = format!("/a?key={key}");
    let header = secrets.make("a header of an item");
    let away = format!(
        "http://127.0.0.1:1/?key={}",
        secrets.make("a query of one that fails")
    );
    let userinfo = format!(
        "http://user:{}@127.0.0.1:1/",
        secrets.make("userinfo of an item")
    );
    let nowhere = format!(
        "http://nowhere.invalid/{}",
        secrets.make("a path of an item")
    );
    for url in [origin.file(&path, b"content"), away, userinfo, nowhere] {
        let item = json!({"url": url, "headers": {"authorization": format!("Bearer {header}")}});
        let body = json!({"items": [item], "options": {"attempts": 1}});
        let answer = send(client.post("/v1/imports").json(&body)).await;
        if answer.status != 202 {
            continue;
        }
        let import = answer.json(202);
        let path = format!("/v1/imports/{}", id(&import));
        until("it has ended", || async {
            send(client.get(&path)).await.json(200)["state"] == "done"
        })
        .await;
    }
    assert_eq!(origin.seen(&path).len(), 1);
}
