//! Where values come from, and which one wins: defaults, the file, its table for the
//! environment in force, variables, flags.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::{Config, ConfigError, Environment, show};

const PREFIX: &str = "BOX_";
const FILE_VARIABLE: &str = "BOX_CONFIG";
const OVERLAYS: &str = "environments";

/// Variables that OpenTelemetry gives a name, and the keys that they set: those of our own win.
const STANDARD: [(&str, &str); 3] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.endpoint"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "telemetry.headers"),
    ("OTEL_SERVICE_NAME", "telemetry.service_name"),
];

/// Everything outside the program that a configuration is made from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`; else `BOX_CONFIG` names the file; with neither there is none.
    pub file: Option<PathBuf>,
    /// The environment's variables; those that don't start with `BOX_` are passed over, but for three of
    /// OpenTelemetry's.
    pub variables: Vec<(OsString, OsString)>,
    pub overrides: Overrides,
}

/// What the command line sets. It wins over everything else.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--environment`
    pub environment: Option<String>,
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
}

impl Sources {
    /// The variables of this process, with what the command line said.
    pub fn of_process(file: Option<PathBuf>, overrides: Overrides) -> Self {
        Self::new(file, std::env::vars_os(), overrides)
    }

    pub fn new<K: Into<OsString>, V: Into<OsString>>(
        file: Option<PathBuf>,
        variables: impl IntoIterator<Item = (K, V)>,
        overrides: Overrides,
    ) -> Self {
        Self {
            file,
            variables: variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            overrides,
        }
    }

    pub(super) fn file(&self) -> Option<PathBuf> {
        self.file.clone().or_else(|| {
            self.variables
                .iter()
                .find(|(name, value)| name == FILE_VARIABLE && !value.is_empty())
                .map(|(_, value)| value.into())
        })
    }
}

/// All layers that count, with their provenance, and what they amount to.
pub(super) fn read(sources: &Sources) -> Result<(Figment, Config), ConfigError> {
    let keys = show::keys();
    let (file, overlays) = match sources.file() {
        Some(path) => read_file(&path)?,
        None => (None, Vec::new()),
    };
    let mut outer = standard(sources);
    for (name, value) in &sources.variables {
        outer.extend(variable(&keys, name, value)?);
    }
    outer.extend(flags(&sources.overrides)?);

    // Each layer is a configuration of its own, all keys having defaults: so that what is wrong
    // is found in the layer that says it, also where another one covers it, and in the tables of
    // other environments before the day they are needed.
    for layer in file.iter().chain(&overlays).chain(&outer) {
        layer.check(&keys)?;
    }

    let environment = merge(file.iter().chain(&outer))?.1.environment;
    let overlay = overlays
        .iter()
        .find(|overlay| overlay.environment.as_ref() == Some(&environment));
    merge(file.iter().chain(overlay).chain(&outer))
}

/// What is wrong with each value by itself, in the order of the layers; each is told once.
pub(super) fn problems(sources: &Sources) -> Result<Vec<ConfigError>, ConfigError> {
    let keys = show::keys();
    let mut found = Vec::new();
    let mut layers = Vec::new();
    if let Some(path) = sources.file() {
        std::fs::metadata(&path).map_err(|problem| unreadable(&path, &problem))?;
        match read_file(&path) {
            Ok((file, overlays)) => layers.extend(file.into_iter().chain(overlays)),
            Err(problem) => found.push(problem),
        }
    }
    layers.extend(standard(sources));
    for (name, value) in &sources.variables {
        match variable(&keys, name, value) {
            Ok(layer) => layers.extend(layer),
            Err(problem) => found.push(problem),
        }
    }
    match flags(&sources.overrides) {
        Ok(flags) => layers.extend(flags),
        Err(problem) => found.push(problem),
    }
    for layer in &layers {
        let problems = layer.by_key().into_iter();
        let mut problems: Vec<_> = problems.filter_map(|one| one.check(&keys).err()).collect();
        // What shows only in the whole.
        if problems.is_empty() {
            problems.extend(layer.check(&keys).err());
        }
        for problem in problems {
            if !found.contains(&problem) {
                found.push(problem);
            }
        }
    }
    Ok(found)
}

/// The environments that a file has tables for.
pub(super) fn environments(file: &Path) -> Result<Vec<Environment>, ConfigError> {
    let (_, overlays) = read_file(file)?;
    Ok(overlays
        .into_iter()
        .filter_map(|overlay| overlay.environment)
        .collect())
}

fn unreadable(path: &Path, problem: &std::io::Error) -> ConfigError {
    ConfigError::new(format!("{}: can't be read: {problem}", path.display()))
}

fn merge<'a>(layers: impl Iterator<Item = &'a Layer>) -> Result<(Figment, Config), ConfigError> {
    let figment = layers.fold(Figment::new(), |figment, layer| figment.merge(layer));
    let config = figment
        .extract()
        .map_err(|error| refusal("configuration", error))?;
    Ok((figment, config))
}

/// Values of one source.
struct Layer {
    /// As `config show` tells it.
    source: String,
    /// As an error tells it.
    place: String,
    /// The one that it is laid over the rest for; None where it always counts.
    environment: Option<Environment>,
    values: Dict,
}

impl Provider for &Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

impl Layer {
    /// The same, a layer for each key.
    fn by_key(&self) -> Vec<Self> {
        let one = |values| Self {
            source: self.source.clone(),
            place: self.place.clone(),
            environment: self.environment.clone(),
            values,
        };
        let mut layers = Vec::new();
        for (name, value) in &self.values {
            match value {
                Value::Dict(tag, section) => layers.extend(section.iter().map(|(key, value)| {
                    let section = Dict::from([(key.clone(), value.clone())]);
                    one(Dict::from([(name.clone(), Value::Dict(*tag, section))]))
                })),
                value => layers.push(one(Dict::from([(name.clone(), value.clone())]))),
            }
        }
        layers
    }

    fn check(&self, keys: &[String]) -> Result<(), ConfigError> {
        // A section would also be read from a list, its keys by position.
        for (name, value) in &self.values {
            let section = keys.iter().any(|key| {
                key.split_once('.')
                    .is_some_and(|(section, _)| section == name)
            });
            if section && !matches!(value, Value::Dict(..)) {
                return Err(ConfigError::at(
                    &self.place,
                    name,
                    "expected a table of keys",
                ));
            }
        }
        Figment::from(self)
            .extract::<Config>()
            .map(drop)
            .map_err(|error| refusal(&self.place, error))
    }
}

fn refusal(place: &str, error: figment::Error) -> ConfigError {
    let mut path = error.path;
    let problem = match error.kind {
        Kind::UnknownField(_, known) => {
            format!("unknown key; the keys here are {}", known.join(", "))
        }
        Kind::MissingField(field) => {
            path.push(field.into_owned());
            "is missing".to_owned()
        }
        other => other.to_string(),
    };
    // A position in a list is told where a key follows it: `auth.issuers[0].audience`. The items
    // of other lists speak for themselves.
    let is_position = |part: &String| part.parse::<usize>().is_ok();
    if path.last().is_some_and(is_position) {
        path.pop();
    }
    let mut key = String::new();
    for part in &path {
        if is_position(part) {
            key.push_str(&format!("[{part}]"));
        } else {
            if !key.is_empty() {
                key.push('.');
            }
            key.push_str(part);
        }
    }
    ConfigError::at(place, &key, problem)
}

fn read_file(path: &Path) -> Result<(Option<Layer>, Vec<Layer>), ConfigError> {
    let place = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|problem| unreadable(path, &problem))?;
    // Not the error's own text, which quotes the line: it may hold a secret.
    let mut values: Dict = Toml::from_str(&text).map_err(|error| {
        let line = error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| before.matches('\n').count() + 1);
        let message = error.message().replace('\n', ", ");
        ConfigError::new(format!("{place}: line {line}: {message}"))
    })?;

    let mut overlays = Vec::new();
    match values.remove(OVERLAYS) {
        None => {}
        Some(Value::Dict(_, tables)) => {
            for (name, table) in tables {
                overlays.push(overlay(&place, &name, table)?);
            }
        }
        Some(_) => {
            let problem = "expected tables such as [environments.production]";
            return Err(ConfigError::at(&place, OVERLAYS, problem));
        }
    }
    let file = Layer {
        source: format!("file {place}"),
        place,
        environment: None,
        values,
    };
    Ok((Some(file), overlays))
}

fn overlay(file: &str, name: &str, table: Value) -> Result<Layer, ConfigError> {
    let place = format!("{file} [{OVERLAYS}.{name}]");
    let environment = name
        .parse()
        .map_err(|problem| ConfigError::new(format!("{place}: {problem}")))?;
    let Value::Dict(_, values) = table else {
        return Err(ConfigError::new(format!(
            "{place}: expected a table of keys"
        )));
    };
    if values.contains_key("environment") {
        return Err(ConfigError::at(
            &place,
            "environment",
            "a table that counts in one environment can't name another",
        ));
    }
    Ok(Layer {
        source: format!("file {place}"),
        place,
        environment: Some(environment),
        values,
    })
}

/// What OpenTelemetry's own variables set. An empty one sets nothing, as its specification has it.
fn standard(sources: &Sources) -> Vec<Layer> {
    let set = |name: &str| {
        let found = sources.variables.iter().find(|(known, _)| known == name);
        found.and_then(|(_, value)| value.to_str())
    };
    STANDARD
        .into_iter()
        .filter_map(|(name, key)| {
            let value = set(name).filter(|value| !value.is_empty())?;
            Some(Layer::of_one(key, value, name.to_owned()))
        })
        .collect()
}

fn variable(
    keys: &[String],
    name: &OsString,
    value: &OsString,
) -> Result<Option<Layer>, ConfigError> {
    let name = name.to_string_lossy();
    if !name.starts_with(PREFIX) || name == FILE_VARIABLE {
        return Ok(None);
    }
    let Some(key) = keys.iter().find(|key| name == variable_of(key)) else {
        return Err(ConfigError::new(unknown_variable(keys, &name)));
    };
    let Some(value) = value.to_str() else {
        return Err(ConfigError::new(format!("{name}: expected UTF-8 text")));
    };
    // Always text: what looks like a number or a list may be a secret.
    Ok(Some(Layer::of_one(key, value, name.into_owned())))
}

/// The variable of a key: `BOX_STORE__URL` for `store.url`.
pub(super) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// What the flag of a key is called, if it has one.
pub(super) fn flag_of(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

fn unknown_variable(keys: &[String], name: &str) -> String {
    let alike = |text: &str| text.to_uppercase().replace("__", "_");
    if let Some(key) = keys
        .iter()
        .find(|key| alike(&variable_of(key)) == alike(name))
    {
        return format!("{name}: unknown variable; {key} is {}", variable_of(key));
    }
    // A Service called `box` would otherwise stop every pod beside it without a hint.
    let injected = name.contains("_SERVICE_HOST") || name.contains("_PORT");
    let hint = if injected {
        " (Kubernetes sets such variables for a Service whose name starts with box: set enableServiceLinks: false)"
    } else {
        ""
    };
    format!(
        "{name}: unknown variable; section and key are separated by two underscores, as in BOX_STORE__URL{hint}"
    )
}

fn flags(overrides: &Overrides) -> Result<Vec<Layer>, ConfigError> {
    let mut layers = Vec::new();
    if let Some(environment) = &overrides.environment {
        layers.push(Layer::of_one(
            "environment",
            environment,
            flag_of("environment"),
        ));
    }
    if let Some(listen) = &overrides.listen {
        layers.push(Layer::of_one(
            "listen",
            &listen.to_string(),
            flag_of("listen"),
        ));
    }
    if let Some(data_dir) = &overrides.data_dir {
        let data_dir = data_dir
            .to_str()
            .ok_or_else(|| ConfigError::new("--data-dir: expected UTF-8 text"))?;
        layers.push(Layer::of_one("data_dir", data_dir, flag_of("data_dir")));
    }
    Ok(layers)
}

impl Layer {
    fn of_one(key: &str, text: &str, source: String) -> Self {
        let nested = figment::util::nest(key, Value::from(text));
        Self {
            place: source.clone(),
            source,
            environment: None,
            values: nested.into_dict().unwrap_or_default(),
        }
    }
}
