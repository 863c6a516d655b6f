//! `config diff`: in what two configurations differ.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::{Config, ConfigError, Environment, Loaded, MASK, Overrides, Sources, layers, show};

/// A key whose values are not the same, or that is a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub key: String,
    /// Secrets are masked.
    pub a: Value,
    pub b: Value,
    /// Whether it is a secret: then this is all that is told of it.
    pub secret: bool,
    pub equal: bool,
}

impl Config {
    /// Compares two environments of the file in force, or two files. Variables and flags don't count: they
    /// are of the process that compares. Of equal values only secrets are told of, for where they are
    /// meant to differ.
    ///
    /// # Errors
    /// Files that can't be read or are not valid, an environment that the file has no table for.
    pub fn diff(sources: &Sources, a: &str, b: &str) -> Result<Vec<Difference>, ConfigError> {
        let (a, b) = (Side::read(sources, a)?, Side::read(sources, b)?);
        let mut found = Vec::new();
        for entry in &a.loaded.entries {
            let other = b.loaded.entries.iter().find(|other| other.key == entry.key);
            let other = other.map_or(Value::Null, |other| other.value.clone());
            found.extend(difference(&entry.key, entry.value.clone(), other, &a, &b));
        }
        // Quotas of tenants that only the other one names.
        for entry in &b.loaded.entries {
            if !a.loaded.entries.iter().any(|known| known.key == entry.key) {
                let value = entry.value.clone();
                found.extend(difference(&entry.key, Value::Null, value, &a, &b));
            }
        }
        // By its name, each environment would differ from every other.
        if a.environment && b.environment {
            found.retain(|difference| difference.key != "environment");
        }
        Ok(found)
    }
}

fn difference(key: &str, a: Value, b: Value, left: &Side, right: &Side) -> Option<Difference> {
    let masked = |value: &Value| value.as_str().is_some_and(|text| text.contains(MASK));
    let secret = masked(&a) || masked(&b);
    let equal = a == b && (!secret || left.text(key) == right.text(key));
    (secret || !equal).then(|| Difference {
        key: key.to_owned(),
        a,
        b,
        secret,
        equal,
    })
}

struct Side {
    loaded: Loaded,
    figment: figment::Figment,
    /// Or a file.
    environment: bool,
}

impl Side {
    /// The name of an environment has neither a dot nor a slash in it, and what is no such name is a file.
    fn read(sources: &Sources, text: &str) -> Result<Self, ConfigError> {
        let environment = text.parse::<Environment>().ok();
        let file = match &environment {
            Some(_) => sources.file().ok_or_else(|| {
                ConfigError::new(format!(
                    "{text} is the name of an environment, and there is no file to look for it: name one with --config (or ./{text}, if that is a file)"
                ))
            })?,
            None => PathBuf::from(text),
        };
        if let Some(environment) = &environment
            && !environment.is_development()
            && !layers::environments(&file)?.contains(environment)
        {
            let file = file.display();
            return Err(ConfigError::new(format!(
                "{file}: there is no table [environments.{text}]"
            )));
        }
        let sources = Sources {
            file: Some(file),
            variables: Vec::new(),
            overrides: Overrides {
                environment: environment.as_ref().map(ToString::to_string),
                ..Overrides::default()
            },
        };
        let (figment, config) = layers::read(&sources)?;
        Ok(Self {
            loaded: Loaded {
                entries: show::entries(&config, &figment),
                config,
            },
            figment,
            environment: environment.is_some(),
        })
    }

    /// As it was configured, secrets too.
    fn text(&self, key: &str) -> Option<String> {
        let value = self.figment.find_value(key).ok()?;
        value.into_string()
    }
}
