use std::ffi::OsString;
use std::path::Path;

use figment::providers::{Format as _, Toml};
use figment::value::Dict;
use serde_json::json;

use super::*;

mod issuers;
mod lifecycle;
mod telemetry;

const SECRET: &str = "0123456789012345678901234567890123456789";

/// A file that goes with the test. Its path is long: [`Case::told`] shortens it.
struct Case {
    directory: tempfile::TempDir,
    sources: Sources,
}

impl Case {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            sources: Sources::default(),
        }
    }

    fn file(mut self, text: &str) -> Self {
        let path = self.directory.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        self.sources.file = Some(path);
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.sources.variables.push((name.into(), value.into()));
        self
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        Config::load(&self.sources)
    }

    fn loaded(&self) -> Loaded {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    fn refused(&self) -> String {
        let error = self.load().expect_err("this must be refused").to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        self.told(&error)
    }

    fn told(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.directory.path().display()), "")
    }

    fn entry(&self, key: &str) -> (Value, String) {
        let entries = self.loaded().entries;
        let entry = entries.into_iter().find(|entry| entry.key == key).unwrap();
        (entry.value, self.told(&entry.source))
    }
}

#[test]
fn without_any_source_all_is_default() {
    let loaded = Case::new().loaded();
    let config = loaded.config;
    assert_eq!(&*config.environment, "development");
    assert!(config.environment.is_development());
    assert_eq!(config.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(config.public_url().as_str(), "http://127.0.0.1:8080/");
    assert_eq!(config.database_url().expose(), "sqlite:./box-data/box.db");
    assert!(matches!(
        config.store_settings(),
        objects::Settings::Local { directory, fsync: true } if directory == Path::new("./box-data/objects")
    ));
    assert_eq!(config.store.lease, Duration::from_secs(30));
    assert_eq!(config.limits.max_file_size.bytes(), 5 << 40);
    assert_eq!(config.trash.keep, Duration::from_secs(30 * 24 * 3_600));
    assert!(config.auth.secret.is_none());
    assert!(loaded.entries.iter().all(|entry| entry.source == "default"));
}

#[test]
fn each_source_wins_over_the_one_before() {
    let mut case = Case::new();
    let listen = |case: &Case| case.entry("listen");
    let found = |value: &str, source: &str| (json!(value), source.to_owned());
    assert_eq!(listen(&case), found("127.0.0.1:8080", "default"));
    case = case.file("listen = '127.0.0.1:1'\n[environments.staging]\nlisten = '127.0.0.1:2'");
    assert_eq!(listen(&case), found("127.0.0.1:1", "file config.toml"));
    case = case.variable("BOX_ENVIRONMENT", "staging");
    assert_eq!(
        listen(&case),
        found("127.0.0.1:2", "file config.toml [environments.staging]")
    );
    case = case.variable("BOX_LISTEN", "127.0.0.1:3");
    assert_eq!(listen(&case), found("127.0.0.1:3", "BOX_LISTEN"));
    case.sources.overrides.listen = Some("127.0.0.1:4".parse().unwrap());
    assert_eq!(listen(&case), found("127.0.0.1:4", "--listen"));
    case.sources.overrides.data_dir = Some("/srv/box".into());
    assert_eq!(case.entry("data_dir"), found("/srv/box", "--data-dir"));
    assert_eq!(
        case.loaded().config.database_url().expose(),
        "sqlite:/srv/box/box.db"
    );
}

#[test]
fn the_environment_in_force_may_come_from_anywhere() {
    let overlays =
        "[environments.staging.trash]\nkeep = '1d'\n[environments.production]\ntrash.keep = '2d'\n";
    let keep = |case: &Case| case.entry("trash.keep").0;
    assert_eq!(keep(&Case::new().file(overlays)), json!("30d"));
    let mut case = Case::new().file(&format!("environment = 'staging'\n{overlays}"));
    assert_eq!(keep(&case), json!("1d"));
    case.sources.overrides.environment = Some("production".into());
    assert_eq!(keep(&case), json!("2d"));
    assert_eq!(
        case.entry("environment"),
        (json!("production"), "--environment".into())
    );
}

#[test]
fn an_overlay_leaves_the_other_keys_of_its_section_alone() {
    let case = Case::new().file(
        "environment = 'staging'\n[store]\nurl = 's3://files'\nregion = 'eu-west-1'\n[environments.staging]\nstore.url = 's3://staging/box'\nlimits.denied_content_types = ['text/html']\n",
    );
    assert_eq!(case.entry("store.region").1, "file config.toml");
    assert_eq!(
        case.entry("store.url").1,
        "file config.toml [environments.staging]"
    );
    let objects::Settings::S3(settings) = case.loaded().config.store_settings() else {
        panic!("not S3");
    };
    assert_eq!(
        (settings.bucket.as_str(), settings.prefix.as_str()),
        ("staging", "box")
    );
    assert_eq!(settings.region.as_deref(), Some("eu-west-1"));
    assert!(!settings.path_style);
}

#[test]
fn the_file_may_be_named_by_a_variable_and_a_flag_wins() {
    let case = Case::new().file("trash.keep = '1d'");
    let named = case.sources.file.clone().unwrap();
    let by_variable = |file: Option<PathBuf>| {
        Config::load(&Sources::new(
            file,
            [("BOX_CONFIG", &named)],
            Overrides::default(),
        ))
    };
    assert_eq!(
        by_variable(None).unwrap().config.trash.keep,
        Duration::from_secs(86_400)
    );
    let error = by_variable(Some("/nowhere/box.toml".into()))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("/nowhere/box.toml: can't be read: "),
        "{error}"
    );
    let empty = Case::new()
        .variable("BOX_CONFIG", "")
        .variable("PATH", "/bin");
    assert_eq!(
        empty.loaded().config.trash.keep,
        Duration::from_secs(30 * 86_400)
    );
}

#[test]
fn unknown_keys_are_named_with_their_place() {
    for (file, place) in [
        (
            "listne = '127.0.0.1:1'",
            "config.toml: listne: unknown key; the keys here are environment, listen, ",
        ),
        (
            "[store]\nleese = '30s'",
            "config.toml: store.leese: unknown key; the keys here are url, ",
        ),
        (
            "[quotas]\nmax_files = 1",
            "config.toml: quotas: unknown key",
        ),
        (
            "[quota.tenants.acme]\nmax_fils = 1",
            "config.toml: quota.tenants.acme.max_fils: unknown key",
        ),
        (
            "[environments.staging.store]\nleese = '30s'",
            "config.toml [environments.staging]: store.leese: unknown key",
        ),
        (
            "[environments.staging.environments.x]\n",
            "config.toml [environments.staging]: environments: unknown key",
        ),
    ] {
        let error = Case::new().file(file).refused();
        assert!(error.starts_with(place), "{error}");
    }
}

#[test]
fn unknown_variables_are_named() {
    let refused = |name| Case::new().variable(name, "x").refused();
    assert!(refused("BOX_LISTNE").starts_with("BOX_LISTNE: unknown variable"));
    assert!(refused("BOX_STORE__LEESE").starts_with("BOX_STORE__LEESE: unknown variable"));
    assert!(refused("BOX_").starts_with("BOX_: unknown variable"));
    assert!(refused("BOX_STORE").starts_with("BOX_STORE: unknown variable"));
    assert_eq!(
        refused("BOX_STORE_SECRET_ACCESS_KEY"),
        "BOX_STORE_SECRET_ACCESS_KEY: unknown variable; store.secret_access_key is BOX_STORE__SECRET_ACCESS_KEY"
    );
    assert!(refused("BOX_listen").contains("listen is BOX_LISTEN"));
    assert!(refused("BOX_PORT_8080_TCP").contains("enableServiceLinks"));
    Case::new()
        .variable("BOXES", "x")
        .variable("box_listen", "x")
        .loaded();
}

#[test]
fn a_wrong_value_is_told_with_its_source_its_key_and_what_was_expected() {
    for (file, told) in [
        (
            "listen = 8080",
            "config.toml: listen: expected an IP address and a port, such as 127.0.0.1:8080 or [::]:8080, found a number",
        ),
        (
            "[database]\nmax_connections = 'many'",
            "config.toml: database.max_connections: expected a whole number from 0 to 4294967295, found \"many\"",
        ),
        (
            "[database]\nmax_connections = -1",
            "config.toml: database.max_connections: expected a whole number from 0 to 4294967295, found \"-1\"",
        ),
        (
            "[database]\nmax_connections = 0",
            "config.toml: database.max_connections: must be at least 1",
        ),
        (
            "[database]\ntimeout = 10",
            "config.toml: database.timeout: expected a duration such as 250ms, 10s, 5m, 1h or 30d, or 0, found \"10\" (a unit is missing)",
        ),
        (
            "[limits]\nmax_file_size = 1.5",
            "config.toml: limits.max_file_size: expected a size such as 64KiB, 100MB or 5GiB, or a whole number of bytes, found a number with a fraction",
        ),
        (
            "[limits]\nidle_timeout = '0s'",
            "config.toml: limits.idle_timeout: must be more than 0",
        ),
        (
            "[limits]\nallowed_content_types = ['image/*', 'png']",
            "config.toml: limits.allowed_content_types: expected content types such as image/png or image/*, found \"png\"",
        ),
        (
            "fetch.allow_ports = [80, 65536]",
            "config.toml: fetch.allow_ports: expected a whole number from 0 to 65535, found \"65536\"",
        ),
        (
            "fetch.allow_networks = ['10.0.0.0/8', '10.0.0.0/33']",
            "config.toml: fetch.allow_networks: expected networks such as 10.1.0.0/16 or fd00::/8, found \"10.0.0.0/33\"",
        ),
        (
            "imports.concurrency = 1001",
            "config.toml: imports.concurrency: must be 1 to 1000",
        ),
        (
            "uploads.single_max = 5368709121",
            "config.toml: uploads.single_max: must be at most 5GiB",
        ),
        (
            "[limits]\nallowed_content_types = [1]",
            "config.toml: limits.allowed_content_types: expected content types such as image/png or image/*, found \"1\"",
        ),
        (
            "[store]\nfsync = 'yes'",
            "config.toml: store.fsync: expected true or false, found \"yes\"",
        ),
        (
            "[log]\nformat = 'xml'",
            "config.toml: log.format: expected auto, json or pretty, found \"xml\"",
        ),
        (
            "environment = 'Production'",
            "config.toml: environment: expected the name of an environment (1 to 32 of a-z, 0-9 and -, such as production), found \"Production\"",
        ),
        (
            "database = 5",
            "config.toml: database: expected a table of keys",
        ),
        (
            "database = ['sqlite:x']",
            "config.toml: database: expected a table of keys",
        ),
        (
            "[listen]\nport = 1",
            "config.toml: listen: expected an IP address and a port, such as 127.0.0.1:8080 or [::]:8080, found a table or a date",
        ),
        (
            "environments = 5",
            "config.toml: environments: expected tables such as [environments.production]",
        ),
        (
            "environments.staging = 5",
            "config.toml [environments.staging]: expected a table of keys",
        ),
        (
            "[environments.staging]\nenvironment = 'x'",
            "config.toml [environments.staging]: environment: a table that counts in one environment can't name another",
        ),
        (
            "[environments.staging]\ntrash.keep = 'long'",
            "config.toml [environments.staging]: trash.keep: expected a duration such as 250ms, 10s, 5m, 1h or 30d, or 0, found \"long\"",
        ),
    ] {
        assert_eq!(Case::new().file(file).refused(), told);
    }
    let error = Case::new().variable("BOX_LISTEN", "localhost:80").refused();
    assert!(
        error.starts_with("BOX_LISTEN: expected an IP address"),
        "{error}"
    );
    let error = Case::new().file("[log]\nlevel = 'verbose'").refused();
    assert!(
        error.starts_with("config.toml: log.level: \"verbose\" is no log filter"),
        "{error}"
    );
    let mut case = Case::new();
    case.sources.overrides.environment = Some("a b".into());
    assert!(
        case.refused()
            .starts_with("--environment: expected the name")
    );
}

#[test]
fn a_wrong_value_is_refused_where_a_later_source_covers_it() {
    let case = Case::new()
        .file("listen = 'here'")
        .variable("BOX_LISTEN", "127.0.0.1:1");
    assert!(case.refused().starts_with("config.toml: listen: "));
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    for (file, told) in [
        (
            "[store]\nlease = '10s'",
            "config.toml: store.lease: 10s is too short: at least 30s, since",
        ),
        (
            "[store]\nlease = '2h'",
            "config.toml: store.lease: 2h is too long: at most 1h, since",
        ),
        (
            "[store]\nendpoint = 'http://s3.local:9000'",
            "config.toml: store.endpoint: an http endpoint needs store.allow_http = true",
        ),
        (
            "[store]\naccess_key_id = 'k'",
            "config.toml: store.access_key_id: store.secret_access_key is missing",
        ),
        (
            "[store]\nsecret_access_key = 'k'",
            "config.toml: store.secret_access_key: store.access_key_id is missing",
        ),
        (
            "[limits]\nmax_file_size = '6TiB'\n[store]\nurl = 's3://files'",
            "config.toml: limits.max_file_size: S3 holds no object larger than 5TiB",
        ),
        (
            "[reaper]\ninterval = 0",
            "config.toml: reaper.interval: must be more than 0",
        ),
    ] {
        let error = Case::new().file(file).refused();
        assert!(error.starts_with(told), "{error}");
    }
    let error = Case::new().variable("BOX_STORE__LEASE", "1s").refused();
    assert!(
        error.starts_with("BOX_STORE__LEASE: 1s is too short"),
        "{error}"
    );
    Case::new()
        .file("[limits]\nmax_file_size = '6TiB'")
        .loaded();
}

#[test]
fn broken_toml_is_told_by_its_line_without_quoting_it() {
    let error = Case::new().file("\n[auth]\nsecret = 's3cret\n").refused();
    assert!(error.starts_with("config.toml: line 3: "), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
    let error = Case::new().file("listen = 'a'\nlisten = 'b'").refused();
    assert!(
        error.contains("line 2") && error.contains("duplicate"),
        "{error}"
    );
}

#[test]
fn variables_are_text_and_lists_are_separated_by_commas() {
    let case = Case::new()
        .variable("BOX_AUTH__SECRET", SECRET)
        .variable(
            "BOX_LIMITS__ALLOWED_CONTENT_TYPES",
            "image/*, application/pdf,",
        )
        .variable(
            "BOX_CORS__ALLOW_ORIGINS",
            "https://a.example,https://b.example",
        )
        .variable("BOX_DATABASE__MAX_CONNECTIONS", "7")
        .variable("BOX_STORE__FSYNC", "false")
        .variable("BOX_TRASH__KEEP", "0")
        .variable("BOX_STORE__REGION", "")
        .variable("BOX_STORE__ACCESS_KEY_ID", "[1]")
        .variable("BOX_STORE__SECRET_ACCESS_KEY", "true");
    let config = case.loaded().config;
    assert_eq!(config.auth.secret.unwrap().signing().expose(), SECRET);
    let types: Vec<String> = config
        .limits
        .allowed_content_types
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(types, ["image/*", "application/pdf"]);
    assert_eq!(config.cors.allow_origins.len(), 2);
    assert_eq!(config.database.max_connections, 7);
    assert!(!config.store.fsync);
    assert_eq!(config.trash.keep, Duration::ZERO);
    assert_eq!(config.store.region, None);
    assert_eq!(config.store.access_key_id.as_deref(), Some("[1]"));
    assert_eq!(config.store.secret_access_key.unwrap().expose(), "true");
    assert_eq!(
        case.entry("store.region"),
        (Value::Null, "BOX_STORE__REGION".into())
    );
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let value = OsString::from_vec(vec![0xff]);
    let sources = Sources::new(None, [("BOX_DATA_DIR", value)], Overrides::default());
    assert_eq!(
        Config::load(&sources).unwrap_err().to_string(),
        "BOX_DATA_DIR: expected UTF-8 text"
    );
}

#[test]
fn every_key_takes_its_own_default_as_the_text_of_a_variable() {
    let defaults = Case::new().loaded().entries;
    for entry in &defaults {
        let text = match &entry.value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            Value::Array(list) if list.is_empty() => String::new(),
            other => other.to_string(),
        };
        let name = layers::variable_of(&entry.key);
        let case = Case::new().variable(&name, &text);
        assert_eq!(case.entry(&entry.key), (entry.value.clone(), name));
    }
}

#[test]
fn a_secret_that_is_too_short_is_refused_and_not_repeated() {
    let short = Case::new().variable("BOX_AUTH__SECRET", "hunter2hunter2");
    assert_eq!(
        short.refused(),
        "BOX_AUTH__SECRET: a secret must have at least 32 bytes, and number 1 has 14"
    );
    let number = Case::new().file("[auth]\nsecret = 123456789012345678");
    assert_eq!(
        number.refused(),
        "config.toml: auth.secret: expected text (in quotes): secrets separated by commas, found a number"
    );
    let misplaced = Case::new().file("auth = 'hunter2hunter2'");
    assert_eq!(
        misplaced.refused(),
        "config.toml: auth: expected a table of keys"
    );
}

#[test]
fn nothing_that_is_shown_holds_a_secret() {
    let case = Case::new()
        .variable("BOX_AUTH__SECRET", &format!("{SECRET},{SECRET}"))
        .variable("BOX_STORE__ACCESS_KEY_ID", "AKIA")
        .variable("BOX_STORE__SECRET_ACCESS_KEY", "s3cret")
        .variable("BOX_DATABASE__URL", "postgres://box:s3cret@db/box");
    let loaded = case.loaded();
    assert_eq!(
        loaded.config.database_url().expose(),
        "postgres://box:s3cret@db/box"
    );
    for text in [
        loaded.show(),
        loaded.show_json().to_string(),
        format!("{loaded:?}"),
        serde_json::to_string(&loaded.config).unwrap(),
    ] {
        assert!(!text.contains("s3cret") && !text.contains(SECRET), "{text}");
        assert!(text.contains("postgres://box:********@db/box"), "{text}");
    }
}

#[test]
fn show_is_toml_with_the_source_behind() {
    let case = Case::new()
        .file("[limits]\nallowed_content_types = ['image/*']\n[log]\nlevel = \"info,box_service[{a=\\\"b\\\"}]=debug\"")
        .variable("BOX_STORE__ENDPOINT", "https://s3.example.com");
    let loaded = case.loaded();
    let text = case.told(&loaded.show());
    for line in [
        "environment = \"development\"  # default",
        "public_url = \"http://127.0.0.1:8080\"  # default",
        "database.max_connections = 20  # default",
        "store.path_style = true  # default",
        "store.endpoint = \"https://s3.example.com\"  # BOX_STORE__ENDPOINT",
        "auth.secret = \"\"  # default",
        "limits.allowed_content_types = [\"image/*\"]  # file config.toml",
        "limits.max_file_size = \"5TiB\"  # default",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    // What is shown can be put into a file, and means the same.
    let again = Case::new().file(&loaded.show()).loaded();
    let values = |loaded: &Loaded| -> Vec<Value> {
        loaded
            .entries
            .iter()
            .map(|entry| entry.value.clone())
            .collect()
    };
    assert_eq!(values(&again), values(&loaded));

    let json = loaded.show_json();
    assert_eq!(json.as_array().unwrap().len(), loaded.entries.len());
    let shown = json!({"key": "data_dir", "value": "./box-data", "source": "default"});
    assert!(json.as_array().unwrap().contains(&shown));
}

#[test]
fn the_public_url_is_one_that_a_client_can_reach() {
    let url = |listen: &str| {
        Case::new()
            .variable("BOX_LISTEN", listen)
            .loaded()
            .config
            .public_url()
    };
    assert_eq!(url("0.0.0.0:8080").as_str(), "http://127.0.0.1:8080/");
    assert_eq!(url("[::]:8080").as_str(), "http://[::1]:8080/");
    assert_eq!(url("[fe80::1%2]:80").as_str(), "http://[fe80::1]/");
    let config = Case::new()
        .variable("BOX_LISTEN", "127.0.0.1:0")
        .loaded()
        .config;
    let bound = "127.0.0.1:4711".parse().unwrap();
    assert_eq!(
        config.public_url_at(bound).as_str(),
        "http://127.0.0.1:4711/"
    );
    let set = Case::new()
        .variable("BOX_PUBLIC_URL", "https://example.com/files")
        .loaded()
        .config;
    assert_eq!(
        set.public_url_at(bound).join("s/x").unwrap().as_str(),
        "https://example.com/files/s/x"
    );
    for text in [
        "example.com",
        "ftp://example.com",
        "https://u:s3cret@example.com",
        "https://example.com/?q",
    ] {
        let error = Case::new().variable("BOX_PUBLIC_URL", text).refused();
        assert!(
            error.starts_with("BOX_PUBLIC_URL: ") && !error.contains("s3cret"),
            "{error}"
        );
    }
}

#[test]
fn the_example_names_every_key_and_its_default() {
    let example = include_str!("../../config.example.toml");
    let defaults = Case::new().loaded();
    let shape = |loaded: &Loaded| -> Vec<(String, Value)> {
        let pair = |entry: &Entry| (entry.key.clone(), entry.value.clone());
        loaded.entries.iter().map(pair).collect()
    };

    // Untouched it changes nothing.
    let untouched = Case::new().file(example).loaded();
    assert!(
        untouched
            .entries
            .iter()
            .all(|entry| entry.source == "default")
    );

    // Prose has a space behind the #, and settings have none.
    let uncommented: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => setting,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let _: Dict = Toml::from_str(&uncommented).unwrap();
    let case = Case::new().file(&uncommented);
    let loaded = case.loaded();
    assert_eq!(shape(&loaded), shape(&defaults));
    for entry in &loaded.entries {
        assert_eq!(
            case.told(&entry.source),
            "file config.toml",
            "{} is missing",
            entry.key
        );
    }

    // So must the tables at its end be read.
    let tables: String = example
        .lines()
        .filter_map(|line| line.strip_prefix("#     "))
        .flat_map(|line| [line, "\n"])
        .collect();
    let case = Case::new()
        .file(&tables)
        .variable("BOX_ENVIRONMENT", "production");
    let config = case.loaded().config;
    assert_eq!(config.reaper.delay, Duration::from_secs(86_400));
    // Its claims have the names that are the default.
    let issuers = Case::new()
        .file(issuers::MINIMAL)
        .loaded()
        .config
        .auth
        .issuers;
    assert_eq!(config.auth.issuers, issuers);
}
