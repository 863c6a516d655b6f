//! The binary, as it is started and read by people and scripts.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use box_service::http::docs;
use serde_json::{Value, json};

use crate::harness::client::{Client, send};
use crate::harness::connection::until;
use crate::harness::database::{Database, Kind};
use crate::harness::service::s3_variables;

mod doctor;
mod lifecycle;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A directory to work in, whose name no shell takes as it is.
struct Place {
    directory: PathBuf,
    _root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("it's a place");
        std::fs::create_dir(&directory).unwrap();
        Self {
            directory,
            _root: root,
        }
    }

    /// The binary, with nothing of this test's own environment but where programs are.
    fn command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_box"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(variables.iter().copied())
            .current_dir(&self.directory)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with(arguments, &[])
    }

    fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Outcome {
        Outcome::of(self.command(arguments, variables).output().unwrap())
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

#[derive(Debug)]
struct Outcome {
    status: Option<i32>,
    out: String,
    err: String,
}

impl Outcome {
    fn of(output: Output) -> Self {
        Self {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn succeeded(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.out
    }

    /// It failed, without a panic, and said each of `words` on standard error.
    #[track_caller]
    fn refused(self, words: &[&str]) -> String {
        assert!(!matches!(self.status, None | Some(0 | 101)), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
        self.err
    }
}

/// `box serve`, killed when the test ends.
struct Running {
    child: Child,
    url: String,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    async fn start(place: &Place, variables: &[(&str, &str)]) -> Self {
        Self::start_at(place, "127.0.0.1:0", variables).await
    }

    async fn start_at(place: &Place, listen: &str, variables: &[(&str, &str)]) -> Self {
        let mut child = place
            .command(&["serve", "--listen", listen], variables)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, reader) = gather(child.stdout.take().unwrap());
        let (err, other) = gather(child.stderr.take().unwrap());
        let mut running = Self {
            child,
            url: String::new(),
            out,
            err,
            readers: vec![reader, other],
        };
        let log = running.err.clone();
        until("it listens", || {
            running.alive();
            std::future::ready(log.lock().unwrap().contains("\"listening\""))
        })
        .await;
        let lines = running.log();
        let line = lines.iter().find(|line| line["message"] == "listening");
        let address = line.unwrap()["address"].as_str().unwrap();
        running.url = format!("http://{address}");
        running
    }

    fn alive(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}: {}", self.logged());
    }

    fn printed(&self) -> String {
        self.out.lock().unwrap().clone()
    }

    fn logged(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    fn port(&self) -> &str {
        self.url.rsplit(':').next().unwrap()
    }

    /// The lines of the log, which are JSON where standard error is no terminal.
    fn log(&self) -> Vec<Value> {
        let text = self.logged();
        let read = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        text.lines().map(read).collect()
    }

    /// Asks it to stop and waits for it: exit status, standard output, log.
    fn signal(mut self, signal: &str) -> Outcome {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
        let status = self.child.wait().unwrap().code();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        Outcome {
            status,
            out: self.printed(),
            err: self.logged(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gather(stream: impl Read + Send + 'static) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let text = Arc::new(Mutex::new(String::new()));
    let gathered = text.clone();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let mut text = gathered.lock().unwrap();
            text.push_str(&line.unwrap());
            text.push('\n');
        }
    });
    (text, reader)
}

fn token(place: &Place, variables: &[(&str, &str)]) -> String {
    let arguments = [
        "token",
        "--tenant",
        "demo",
        "--subject",
        "me",
        "--scopes",
        "files:read files:write",
        "--ttl",
        "1h",
    ];
    place
        .run_with(&arguments, variables)
        .succeeded()
        .trim()
        .to_owned()
}

fn has_curl() -> bool {
    let found = Command::new("curl").arg("--version").output().is_ok();
    let required = std::env::var("BOXTEST_REQUIRE").is_ok_and(|value| value == "1");
    assert!(
        found || !required,
        "curl is missing, and BOXTEST_REQUIRE is set"
    );
    if !found {
        eprintln!("skipped: curl is missing");
    }
    found
}

#[tokio::test]
async fn what_serve_prints_works_as_it_is_printed() {
    if !has_curl() {
        return;
    }
    let place = Place::new();
    let serving = Running::start(&place, &[]).await;
    let printed = serving.out.clone();
    until("the commands are printed", || async {
        printed.lock().unwrap().matches("curl ").count() == 2
    })
    .await;
    let text = serving.printed();
    let script: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("TOKEN=") || line.contains("curl "))
        .collect();
    assert_eq!(script.len(), 3, "{text}");
    // In another terminal, which stands somewhere else.
    let output = Command::new("sh")
        .args(["-c", &script.join("\n")])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir("/")
        .output()
        .unwrap();
    let said = Outcome::of(output).succeeded();
    let mut answers = serde_json::Deserializer::from_str(&said).into_iter::<Value>();
    let file = answers.next().unwrap().unwrap();
    let page = answers.next().unwrap().unwrap();
    assert_eq!(file["name"], "hello.txt", "{said}");
    assert_eq!(page["items"], json!([file]), "{said}");

    assert!(text.contains(&format!("{}/docs", serving.url)));
    let stranger = Client::new(&serving.url, None);
    assert!(send(stranger.get("/docs")).await.status < 400);
    assert_eq!(serving.signal("TERM").status, Some(0));
    assert_eq!(place.run(&["fsck", "--verify-checksums"]).status, Some(0));
}

#[tokio::test]
async fn the_secret_is_its_owners_and_outlives_a_restart() {
    let place = Place::new();
    let serving = Running::start(&place, &[]).await;
    let path = place.path("box-data/secret");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    let secret = std::fs::read(&path).unwrap();
    assert!(secret.len() >= 32);
    let early = token(&place, &[]);
    assert_eq!(serving.signal("TERM").status, Some(0));

    let serving = Running::start(&place, &[]).await;
    assert_eq!(std::fs::read(&path).unwrap(), secret);
    let client = Client::new(&serving.url, Some(early));
    assert_eq!(send(client.get("/v1/me")).await.json(200)["tenant"], "demo");
    let outcome = serving.signal("INT");
    assert_eq!(outcome.status, Some(0));
    let secret = String::from_utf8(secret).unwrap();
    assert!(!outcome.out.contains(secret.trim()) && !outcome.err.contains(secret.trim()));
    let other = Place::new();
    token(&other, &[]);
    let made = std::fs::read_to_string(other.path("box-data/secret")).unwrap();
    assert_ne!(made, secret, "a secret was made twice");
}

#[tokio::test]
async fn a_data_directory_has_one_service() {
    let place = Place::new();
    let serving = Running::start(&place, &[]).await;
    let second = place.run(&["serve", "--listen", "127.0.0.1:0"]);
    second.refused(&["box-data", "another process"]);
    let client = Client::new(&serving.url, Some(token(&place, &[])));
    client.upload("still", "here").await;
    // The lock goes with its process, however that ends.
    assert_eq!(serving.signal("KILL").status, None);
    let serving = Running::start(&place, &[]).await;
    assert_eq!(serving.signal("TERM").status, Some(0));
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let place = Place::new();
    place
        .run(&["serve", "--listen", &address])
        .refused(&[address.as_str()]);
}

#[tokio::test]
async fn outside_development_a_secret_is_wanted() {
    let place = Place::new();
    let production = [("BOX_ENVIRONMENT", "production")];
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    place
        .run_with(&serve, &production)
        .refused(&["auth.secret", "auth.issuers"]);
    place
        .run_with(
            &[
                "token",
                "--tenant",
                "a",
                "--subject",
                "b",
                "--scopes",
                "files:read",
            ],
            &production,
        )
        .refused(&["auth.secret"]);
    assert!(!place.path("box-data/secret").exists());
    let short = [
        ("BOX_ENVIRONMENT", "production"),
        ("BOX_AUTH__SECRET", "too-short-a-secret"),
    ];
    let said = place
        .run_with(&serve, &short)
        .refused(&["BOX_AUTH__SECRET", "32 bytes"]);
    assert!(!said.contains("too-short-a-secret"), "{said}");

    let full = [
        ("BOX_ENVIRONMENT", "production"),
        ("BOX_AUTH__SECRET", SECRET),
    ];
    let serving = Running::start(&place, &full).await;
    let client = Client::new(&serving.url, Some(token(&place, &full)));
    client.upload("a", "x").await;
    assert!(!place.path("box-data/secret").exists());
    assert_eq!(serving.printed(), "", "the lines for a first try");
    assert_eq!(serving.signal("TERM").status, Some(0));
}

#[tokio::test]
async fn issuers_stand_in_for_a_secret() {
    let place = Place::new();
    place.write(
        "box.toml",
        "environment = \"production\"\n[[auth.issuers]]\nissuer = \"https://id.test\"\n\
         jwks_url = \"https://id.test/keys\"\naudience = \"box\"\ntenants = [\"demo\"]\n",
    );
    let file = [("BOX_CONFIG", "box.toml")];
    let shown = place.run_with(&["config", "show"], &file).succeeded();
    assert!(shown.contains("tenants = [\"demo\"]"), "{shown}");
    let arguments = [
        "token",
        "--tenant",
        "demo",
        "--subject",
        "me",
        "--scopes",
        "files:read",
    ];
    place
        .run_with(&arguments, &file)
        .refused(&["no secret to sign with", "auth.issuers"]);

    let serving = Running::start(&place, &file).await;
    assert!(!place.path("box-data/secret").exists());
    // Signed with a secret, as one of another service would be.
    let with_secret = [file[0], ("BOX_AUTH__SECRET", SECRET)];
    let token = token(&place, &with_secret);
    let client = Client::new(&serving.url, Some(token.clone()));
    assert_eq!(send(client.get("/v1/me")).await.status, 401);
    assert_eq!(serving.signal("TERM").status, Some(0));

    let serving = Running::start(&place, &with_secret).await;
    let client = Client::new(&serving.url, Some(token));
    assert_eq!(send(client.get("/v1/me")).await.status, 200);
    assert_eq!(serving.signal("TERM").status, Some(0));
}

#[test]
fn token_refuses_what_the_service_would() {
    let place = Place::new();
    let token = |tenant, scopes, ttl| {
        place.run(&[
            "token",
            "--tenant",
            tenant,
            "--subject",
            "me",
            "--scopes",
            scopes,
            "--ttl",
            ttl,
        ])
    };
    token("a", "files:read files:fly", "1h").refused(&["files:fly"]);
    token("a", "files:*", "1h").refused(&["files:*"]);
    let too_long = "a".repeat(65);
    for tenant in ["", "a/b", "a b", "..", too_long.as_str()] {
        token(tenant, "files:read", "1h").refused(&["tenant"]);
    }
    token("a", "files:read", "soon").refused(&["soon"]);
    token("a", "files:read", "0").refused(&["ttl"]);
    assert!(
        !place.path("box-data").exists(),
        "what was refused made a secret"
    );
    let jwt = token("a-Z_0", "files:read admin", "30d").succeeded();
    assert_eq!(jwt.trim().split('.').count(), 3);
    assert_eq!(jwt.lines().count(), 1);
}

#[test]
fn config_show_tells_each_value_and_where_it_came_from() {
    let place = Place::new();
    place.write(
        "box.toml",
        "listen = \"127.0.0.1:1111\"\n[limits]\nidle_timeout = \"7s\"\nheader_timeout = \"8s\"\n\
         [environments.staging]\nlimits.header_timeout = \"9s\"\n",
    );
    let variables = [
        ("BOX_ENVIRONMENT", "staging"),
        ("BOX_AUTH__SECRET", SECRET),
        (
            "BOX_DATABASE__URL",
            "postgres://box:hunter2@db.internal/box",
        ),
        ("BOX_STORE__URL", "s3://bucket/prefix"),
        ("BOX_STORE__ACCESS_KEY_ID", "the-access-key"),
        ("BOX_STORE__SECRET_ACCESS_KEY", "the-secret-key"),
        (
            "BOX_CORS__ALLOW_ORIGINS",
            "https://a.example,https://b.example",
        ),
        ("BOX_LISTEN", "127.0.0.1:2222"),
    ];
    let before = [
        "--config",
        "box.toml",
        "config",
        "show",
        "--json",
        "--data-dir",
        "there",
    ];
    let after = [
        "config",
        "show",
        "--json",
        "--data-dir",
        "there",
        "--config",
        "box.toml",
    ];
    let text = place.run_with(&before, &variables).succeeded();
    assert_eq!(text, place.run_with(&after, &variables).succeeded());
    for secret in [SECRET, "hunter2", "the-secret-key"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let list: Vec<Value> = serde_json::from_str(&text).unwrap();
    let entry = |key: &str| {
        let found: Vec<&Value> = list.iter().filter(|entry| entry["key"] == key).collect();
        assert_eq!(found.len(), 1, "{key} in {text}");
        let fields: Vec<&String> = found[0].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["key", "source", "value"]);
        (
            found[0]["value"].clone(),
            found[0]["source"].as_str().unwrap().to_owned(),
        )
    };
    for (key, value, source) in [
        ("environment", json!("staging"), "BOX_ENVIRONMENT"),
        ("listen", json!("127.0.0.1:2222"), "BOX_LISTEN"),
        ("data_dir", json!("there"), "--data-dir"),
        ("limits.idle_timeout", json!("7s"), "box.toml"),
        ("limits.header_timeout", json!("9s"), "box.toml"),
        ("limits.shutdown_grace", json!("30s"), "default"),
        (
            "database.url",
            json!("postgres://box:********@db.internal/box"),
            "BOX_DATABASE__URL",
        ),
        (
            "cors.allow_origins",
            json!(["https://a.example", "https://b.example"]),
            "BOX_CORS__ALLOW_ORIGINS",
        ),
    ] {
        let (shown, from) = entry(key);
        assert_eq!(shown, value, "{key}");
        assert!(from.contains(source), "{key} from {from}");
    }
    assert!(entry("limits.header_timeout").1.contains("staging"));
    for key in ["auth.secret", "store.secret_access_key"] {
        let (shown, from) = entry(key);
        assert!(
            shown.is_string() && from.starts_with("BOX_"),
            "{key} = {shown}"
        );
    }

    let plain = ["--config", "box.toml", "config", "show"];
    let text = place.run_with(&plain, &variables).succeeded();
    for secret in [SECRET, "hunter2", "the-secret-key"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert_eq!(text.lines().count(), list.len());
    assert!(
        text.contains("listen = \"127.0.0.1:2222\"  # BOX_LISTEN\n"),
        "{text}"
    );
    assert!(
        text.contains("limits.shutdown_grace = \"30s\"  # default\n"),
        "{text}"
    );

    let by_variable = [("BOX_CONFIG", "box.toml")];
    let text = place
        .run_with(&["config", "show"], &by_variable)
        .succeeded();
    assert!(text.contains("listen = \"127.0.0.1:1111\""), "{text}");
    // To look at it is not to make anything.
    assert!(!place.path("box-data").exists() && !place.path("there").exists());
}

#[test]
fn what_the_configuration_does_not_know_is_named() {
    let place = Place::new();
    place.write("typo.toml", "lissten = \"127.0.0.1:1\"\n");
    place.write("nested.toml", "[limits]\nidle_timeuot = \"1s\"\n");
    place.write(
        "quiet.toml",
        "[environments.other]\nlissten = \"127.0.0.1:1\"\n",
    );
    place.write("broken.toml", "listen = \n");
    for command in [
        vec!["config", "show"],
        vec!["serve"],
        vec!["migrate"],
        vec!["fsck"],
    ] {
        let with = |file| [command.clone(), vec!["--config", file]].concat();
        place
            .run(&with("typo.toml"))
            .refused(&["lissten", "typo.toml"]);
        place
            .run(&with("nested.toml"))
            .refused(&["limits.idle_timeuot", "nested.toml"]);
        place.run(&with("quiet.toml")).refused(&["lissten"]);
        place.run(&with("broken.toml")).refused(&["broken.toml"]);
        place.run(&with("absent.toml")).refused(&["absent.toml"]);
        place
            .run_with(&command, &[("BOX_LISSTEN", "127.0.0.1:1")])
            .refused(&["BOX_LISSTEN"]);
        place
            .run_with(&command, &[("BOX_LIMITS__IDLE_TIMEOUT", "soon")])
            .refused(&["BOX_LIMITS__IDLE_TIMEOUT", "soon"]);
    }
    assert!(!place.path("box-data").exists());
}

#[test]
fn the_example_is_the_defaults() {
    let place = Place::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
    let example = example.to_str().unwrap();
    let shown = place.run(&["config", "show"]).succeeded();
    assert_eq!(
        place
            .run(&["config", "show", "--config", example])
            .succeeded(),
        shown
    );
}

#[tokio::test]
async fn migrations_are_run_once_and_can_be_kept_for_oneself() {
    let place = Place::new();
    let by_hand = [("BOX_DATABASE__MIGRATE", "false")];
    place
        .run_with(&["serve", "--listen", "127.0.0.1:0"], &by_hand)
        .refused(&["box migrate"]);
    place.run(&["migrate"]).succeeded();
    place.run(&["migrate"]).succeeded();
    place.run_with(&["migrate"], &by_hand).succeeded();
    let serving = Running::start(&place, &by_hand).await;
    assert_eq!(serving.signal("TERM").status, Some(0));
}

#[test]
fn fsck_says_in_its_status_and_in_json_what_it_found() {
    let place = Place::new();
    place.run(&["migrate"]).succeeded();
    let clean = place.run(&["fsck", "--json"]);
    assert_eq!(clean.status, Some(0));
    let report: Value = serde_json::from_str(&clean.out).unwrap();
    assert_eq!(report, json!({"objects": 0, "keys": 0, "problems": []}));

    let stray = "box-data/objects/development/acme/stray.txt";
    std::fs::create_dir_all(place.path(stray).parent().unwrap()).unwrap();
    place.write(stray, "stray");
    let unknown = "development/acme/2026/01/019c13ec-9e7b-7ab6-9561-995ea75eee25";
    let path = format!("box-data/objects/{unknown}");
    std::fs::create_dir_all(place.path(&path).parent().unwrap()).unwrap();
    place.write(&path, "unknown");

    let found = place.run(&["fsck", "--json"]);
    assert_eq!(found.status, Some(1), "{found:?}");
    let mut report: Value = serde_json::from_str(&found.out).unwrap();
    let problems = report["problems"].as_array_mut().unwrap();
    problems.sort_by_key(|problem| problem["kind"].to_string());
    for problem in problems.iter_mut() {
        let detail = problem.as_object_mut().unwrap().remove("detail").unwrap();
        assert!(!detail.as_str().unwrap().is_empty());
    }
    let wanted = json!({"objects": 0, "keys": 2, "problems": [
        {"kind": "foreign-key", "key": "development/acme/stray.txt", "repaired": false},
        {"kind": "unknown-key", "key": unknown,
         "object_id": "019c13ec-9e7b-7ab6-9561-995ea75eee25", "repaired": false},
    ]});
    assert_eq!(report, wanted);

    let text = place.run(&["fsck"]);
    assert_eq!(text.status, Some(1));
    for word in [
        "foreign-key",
        "development/acme/stray.txt",
        "unknown-key",
        unknown,
    ] {
        assert!(text.out.contains(word), "no {word} in {}", text.out);
    }
    // It may be somebody's who is still at it.
    let young = place.run(&["fsck", "--repair"]);
    assert!(young.out.contains("young"), "{young:?}");
    let file = std::fs::File::options().write(true).open(place.path(&path));
    let january = UNIX_EPOCH + Duration::from_secs(1_769_900_000);
    file.unwrap().set_modified(january).unwrap();
    // One is quarantined; the other is nothing that this service may touch.
    let mended = place.run(&["fsck", "--repair", "--json"]);
    assert_eq!(mended.status, Some(1), "{mended:?}");
    let report: Value = serde_json::from_str(&mended.out).unwrap();
    for problem in report["problems"].as_array().unwrap() {
        assert_eq!(
            problem["repaired"],
            problem["kind"] == "unknown-key",
            "{report}"
        );
    }
    std::fs::remove_file(place.path(stray)).unwrap();
    assert_eq!(place.run(&["fsck"]).status, Some(0));
    assert_eq!(place.run(&["fsck", "--after-restore"]).status, Some(0));
    for odd in [
        &["fsck", "--after-restore", "--repair"][..],
        &["fsck", "--verify-checksums", "--rate", "fast"],
    ] {
        place.run(odd).refused(&[odd[2]]);
    }
    let read = place.run(&["fsck", "--verify-checksums", "--rate", "1GiB"]);
    assert_eq!(read.status, Some(0));
    // A database that can't be asked is not one that disagrees.
    let nowhere = [
        (
            "BOX_DATABASE__URL",
            "postgres://box:hunter2@127.0.0.1:1/box",
        ),
        ("BOX_DATABASE__TIMEOUT", "500ms"),
    ];
    let failed = place.run_with(&["fsck"], &nowhere);
    assert!(!matches!(failed.status, Some(0 | 1 | 101)), "{failed:?}");
    let said = failed.refused(&["127.0.0.1"]);
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn the_version_is_the_packages() {
    let place = Place::new();
    let told = place.run(&["--version"]);
    assert_eq!(told.status, Some(0));
    // Behind it may stand commit and day, as of the build.
    let version = told.out.trim_end().strip_prefix("box ").unwrap();
    let (version, build) = version.split_once(' ').unwrap_or((version, "()"));
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    assert!(build.starts_with('(') && build.ends_with(')'), "{build}");
}

#[test]
fn openapi_prints_the_document() {
    let place = Place::new();
    let text = place.run(&["openapi"]).succeeded();
    assert_eq!(text.trim_end(), docs::json().trim_end());
    assert!(!place.path("box-data").exists());
}

#[tokio::test]
async fn healthcheck_asks_the_service_on_this_machine() {
    let place = Place::new();
    let serving = Running::start(&place, &[]).await;
    let listen = format!("127.0.0.1:{}", serving.port());
    let check = |listen: &str| place.run_with(&["healthcheck"], &[("BOX_LISTEN", listen)]);
    check(&listen).succeeded();
    // A port that a client has is one on which nobody listens.
    let client = std::net::TcpStream::connect(&listen).unwrap();
    let silent = client.local_addr().unwrap().to_string();
    assert_eq!(check(&silent).status, Some(1));
    // Ready is more than alive.
    let store = place.path("box-data/objects");
    let away = place.path("away");
    std::fs::rename(&store, &away).unwrap();
    until("it is unhealthy", || async {
        check(&listen).status == Some(1)
    })
    .await;
    std::fs::rename(&away, &store).unwrap();
    assert_eq!(serving.signal("TERM").status, Some(0));
    assert_eq!(check(&listen).status, Some(1));

    // Everywhere is here too.
    let serving = Running::start_at(&place, "0.0.0.0:0", &[]).await;
    check(&format!("0.0.0.0:{}", serving.port())).succeeded();
}

#[tokio::test]
async fn a_request_is_one_log_line_that_its_id_finds() {
    let place = Place::new();
    let serving = Running::start(&place, &[]).await;
    let jwt = token(&place, &[]);
    let client = Client::new(&serving.url, Some(jwt.clone()));
    let request = client
        .post("/v1/files?name=private-name.txt")
        .header("x-request-id", "mine-1")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .body("x");
    send(request).await.json(201);
    send(
        client
            .get("/v1/files/nothing")
            .header("x-request-id", "mine-2"),
    )
    .await
    .problem(404, "not-found");
    let lines = |id: &str| -> Vec<Value> {
        let of_request = |line: &Value| line.to_string().contains(&format!("\"{id}\""));
        serving.log().into_iter().filter(of_request).collect()
    };
    until("both lines are written", || async {
        serving.logged().contains("mine-1") && serving.logged().contains("mine-2")
    })
    .await;
    let line = &lines("mine-1")[0];
    assert_eq!(lines("mine-1").len(), 1);
    for (field, value) in [
        ("method", json!("POST")),
        ("route", json!("/v1/files")),
        ("status", json!(201)),
        ("tenant", json!("demo")),
        ("trace_id", json!("0af7651916cd43dd8448eb211c80319c")),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!(lines("mine-2")[0]["status"], 404);
    let outcome = serving.signal("TERM");
    assert!(!outcome.err.contains("private-name"), "{}", outcome.err);
    assert!(!outcome.err.contains(&jwt));
}

#[tokio::test]
async fn no_secret_is_ever_logged() {
    let (Some(database), Some(mut variables)) =
        (Database::create(Kind::Postgres).await, s3_variables())
    else {
        return;
    };
    let mut url: url::Url = database.url().parse().unwrap();
    url.set_password(Some("hunter2-of-the-database")).unwrap();
    for (name, value) in [
        ("BOX_DATABASE__URL", url.as_str()),
        ("BOX_AUTH__SECRET", SECRET),
        ("BOX_ENVIRONMENT", "test"),
        ("BOX_LOG__LEVEL", "trace"),
    ] {
        variables.push((name.to_owned(), value.to_owned()));
    }
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let (_, s3_secret) = variables
        .iter()
        .find(|(name, _)| *name == "BOX_STORE__SECRET_ACCESS_KEY")
        .unwrap();
    let place = Place::new();
    let jwt = token(&place, &variables);
    let serving = Running::start(&place, &variables).await;
    let client = Client::new(&serving.url, Some(jwt.clone()));
    let file = client.upload("a", vec![b'x'; 20 << 20]).await;
    let id = file["id"].as_str().unwrap();
    client.content(id).await;
    let redirected = send(client.get(&format!("/v1/files/{id}/content?redirect=true"))).await;
    let location = redirected.header("location").to_owned();
    let forged = Client::new(&serving.url, Some(format!("{jwt}x")));
    send(forged.get("/v1/me"))
        .await
        .problem(401, "unauthenticated");
    let outcome = serving.signal("TERM");
    assert_eq!(outcome.status, Some(0));
    assert!(
        outcome.err.len() > 1_000,
        "nothing was logged: {}",
        outcome.err
    );
    let signature = location.split("X-Amz-Signature=").nth(1).unwrap();
    let signature = signature.split('&').next().unwrap();
    for secret in ["hunter2", SECRET, s3_secret, &jwt, signature] {
        let told = outcome.err.lines().find(|line| line.contains(secret));
        assert_eq!(told, None, "{secret} was logged");
        assert!(!outcome.out.contains(secret), "{secret} was printed");
    }
}

#[test]
fn a_configuration_is_checked_without_starting() {
    let place = Place::new();
    let check = |variables: &[(&str, &str)], arguments: &[&str]| {
        let all = [&["config", "check", "--json"], arguments].concat();
        let outcome = place.run_with(&all, variables);
        let found: Value = serde_json::from_str(&outcome.out).unwrap_or_default();
        let problems = found["problems"].as_array().cloned().unwrap_or_default();
        let problems: Vec<String> = problems
            .iter()
            .map(|problem| problem.as_str().unwrap().to_owned())
            .collect();
        (outcome.status, problems)
    };
    assert_eq!(check(&[], &[]), (Some(0), vec![]));
    assert_eq!(
        place.run(&["config", "check"]).succeeded(),
        "the configuration is valid\n"
    );
    // All of them, each with its key and where it stands.
    place.write(
        "wrong.toml",
        "lissten = \"127.0.0.1:1\"\n[store]\nlease = \"soon\"\n[limits]\nidle_timeuot = \"1s\"\nmax_connections = \"x\"\n
         [environments.production]\ndata_dirr = \"x\"\n",
    );
    let variables = [("BOX_LISSTEN", "x"), ("BOX_REAPER__DELAY", "never")];
    let (status, problems) = check(&variables, &["--config", "wrong.toml"]);
    assert_eq!(status, Some(1));
    for (key, place) in [
        ("lissten", "wrong.toml"),
        ("store.lease", "wrong.toml"),
        ("limits.idle_timeuot", "wrong.toml"),
        ("limits.max_connections", "wrong.toml"),
        ("data_dirr", "wrong.toml [environments.production]"),
        ("BOX_LISSTEN", ""),
        ("BOX_REAPER__DELAY", ""),
    ] {
        let told = |problem: &&String| problem.contains(key) && problem.contains(place);
        assert_eq!(
            problems.iter().filter(told).count(),
            1,
            "{key}: {problems:#?}"
        );
    }
    assert_eq!(problems.len(), 7, "{problems:#?}");
    // Values that don't go together, of each section.
    place.write(
        "odd.toml",
        "[store]\nlease = \"1ms\"\n[reaper]\ninterval = \"0\"\n[audit]\nkeep = \"1h\"\n",
    );
    let (status, problems) = check(&[], &["--config", "odd.toml"]);
    assert_eq!((status, problems.len()), (Some(1), 3), "{problems:#?}");
    for (key, problem) in ["store.lease", "audit.keep", "reaper.interval"]
        .iter()
        .zip(&problems)
    {
        assert!(
            problem.starts_with(&format!("odd.toml: {key}: ")),
            "{problem}"
        );
    }
    // What only this environment lacks, and what only this machine does.
    let (status, problems) = check(&[("BOX_ENVIRONMENT", "production")], &[]);
    assert_eq!(status, Some(1));
    assert!(problems[0].starts_with("auth.secret: "), "{problems:?}");
    let (status, problems) = check(&[("BOX_FETCH__CA_FILE", "absent.pem")], &[]);
    assert_eq!(status, Some(1));
    assert!(problems[0].starts_with("fetch.ca_file: "), "{problems:?}");
    place
        .run(&["config", "check", "--config", "absent.toml"])
        .refused(&["absent.toml"]);
    assert!(!place.path("box-data").exists());
}

#[test]
fn what_differs_between_two_environments_is_told() {
    let place = Place::new();
    let (one, two) = ("1".repeat(32), "2".repeat(32));
    place.write(
        "box.toml",
        &format!(
            "auth.secret = \"{one}\"\n[limits]\nmax_connections = 5\n
             [environments.staging]\nlisten = \"0.0.0.0:80\"\nurls.secret = \"{one}\"\n
             [environments.production]\nlisten = \"0.0.0.0:81\"\nlimits.max_connections = 5\nurls.secret = \"{two}\"\n
             quota.tenants.acme.max_files = 7\n
             [environments.twin]\nlisten = \"0.0.0.0:80\"\nurls.secret = \"{one}\"\n"
        ),
    );
    place.write(
        "staging.toml",
        &format!("listen = \"0.0.0.0:80\"\nauth.secret = \"{one}\"\n"),
    );
    let diff = |a: &str, b: &str| {
        let arguments = ["config", "diff", a, b, "--json", "--config", "box.toml"];
        // Of this process, and so of neither.
        let outcome = place.run_with(&arguments, &[("BOX_LISTEN", "127.0.0.1:9")]);
        let found: Value = serde_json::from_str(&outcome.out).unwrap_or_default();
        assert!(!outcome.out.contains(&one) && !outcome.out.contains(&two));
        (outcome.status, found)
    };
    let secret = |key: &str, equal: bool| json!({"key": key, "a": "********", "b": "********", "secret": true, "equal": equal});
    let (status, found) = diff("staging", "production");
    assert_eq!(status, Some(1), "{found}");
    let expected = json!([
        {"key": "listen", "a": "0.0.0.0:80", "b": "0.0.0.0:81", "secret": false, "equal": false},
        {"key": "public_url", "a": "http://127.0.0.1", "b": "http://127.0.0.1:81", "secret": false, "equal": false},
        secret("auth.secret", true),
        secret("urls.secret", false),
        {"key": "quota.tenants.acme.max_files", "a": null, "b": 7, "secret": false, "equal": false},
    ]);
    let found: Vec<&Value> = found.as_array().unwrap().iter().collect();
    for expected in expected.as_array().unwrap() {
        assert!(found.contains(&expected), "{expected} is not in {found:#?}");
    }
    let unequal = |found: &&&Value| found["equal"] == false;
    assert!(found.iter().filter(unequal).count() >= 4);

    let (status, found) = diff("staging", "twin");
    assert_eq!(status, Some(0), "{found}");
    assert_eq!(
        found,
        json!([secret("auth.secret", true), secret("urls.secret", true)])
    );
    // Two files, as they are without an environment.
    let (status, found) = diff("box.toml", "staging.toml");
    assert_eq!(status, Some(1), "{found}");
    let text = place.run(&["config", "diff", "box.toml", "./staging.toml"]);
    assert_eq!(text.status, Some(1));
    for line in [
        "listen: \"127.0.0.1:8080\" | \"0.0.0.0:80\"\n",
        "limits.max_connections: 5 | 10000\n",
        "auth.secret: \"********\" | \"********\"  (secret: equal)\n",
    ] {
        assert!(text.out.contains(line), "{line} is not in {}", text.out);
    }

    for (a, b, named) in [
        ("staging", "prodcution", "prodcution"),
        ("absent.toml", "box.toml", "absent.toml"),
    ] {
        let arguments = ["config", "diff", a, b, "--config", "box.toml"];
        place.run(&arguments).refused(&[named]);
    }
    place
        .run(&["config", "diff", "staging", "twin"])
        .refused(&["--config"]);
}

#[tokio::test]
async fn the_record_is_verified_by_a_command() {
    let place = Place::new();
    let verify = |arguments: &[&str], secret: &str| {
        let all = [&["audit", "verify", "--json"], arguments].concat();
        let outcome = place.run_with(&all, &[("BOX_AUDIT__KEY", secret)]);
        let found: Value = serde_json::from_str(&outcome.out).unwrap_or_default();
        (outcome.status, found)
    };
    place.run(&["audit", "verify"]).refused(&["box migrate"]);
    place.run(&["migrate"]).succeeded();
    assert_eq!(verify(&[], SECRET), (Some(0), json!([])));

    let variables = [("BOX_AUDIT__KEY", SECRET), ("BOX_AUDIT__INTERVAL", "10ms")];
    let serving = Running::start(&place, &variables).await;
    let scopes = "files:write audit:read";
    let token = [
        "token",
        "--tenant",
        "acme",
        "--subject",
        "me",
        "--scopes",
        scopes,
    ];
    let token = place.run(&token).succeeded();
    let client = Client::new(&serving.url, Some(token.trim().to_owned()));
    client.upload("a", "bytes").await;
    client.upload("b", "bytes").await;
    let head = async || {
        let answer = send(client.get("/v1/audit-events")).await;
        let head = answer.headers.get("box-audit-head");
        head.map_or(String::new(), |head| head.to_str().unwrap().to_owned())
    };
    until("two events are sealed", async || {
        head().await.starts_with("acme:2:")
    })
    .await;
    let head = head().await;
    let (status, found) = verify(&["--anchor", &head], SECRET);
    assert_eq!(status, Some(0), "{found}");
    assert_eq!(
        (&found[0]["tenant"], &found[0]["last"]),
        (&json!("acme"), &json!(2))
    );
    assert_eq!(serving.signal("TERM").status, Some(0));

    let text = place.run_with(&["audit", "verify"], &[("BOX_AUDIT__KEY", SECRET)]);
    assert_eq!(text.succeeded(), format!("acme: 1 to 2, {head}\n"));
    let (status, found) = verify(&["--tenant", "acme"], &"x".repeat(32));
    assert_eq!(status, Some(2), "{found}");
    let forged = format!("acme:2:{}", "0".repeat(64));
    let (status, found) = verify(&["--tenant", "acme", "--anchor", &forged], SECRET);
    assert_eq!(status, Some(1), "{found}");
    assert_eq!(found[0]["faults"], json!([{"wrong-anchor": {"seq": 2}}]));
    let (status, _) = verify(&["--anchor", "acme:2"], SECRET);
    assert_eq!(status, Some(2));
}
