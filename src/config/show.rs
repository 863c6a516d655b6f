//! `config show`: every key, its value in force, and where it came from.

use figment::Figment;
use serde::Serialize;
use serde_json::Value;

use super::leaf::Leaf;
use super::{Config, Loaded};

/// One key. Secrets are masked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// `store.url`
    pub key: String,
    /// Null where nothing is set and nothing follows from other keys.
    pub value: Value,
    /// `default`, `file config.toml`, `file config.toml [environments.staging]`, `BOX_LISTEN`, `--listen`.
    pub source: String,
}

/// Every key there is: those without a section first, then section by section, by name.
pub(super) fn keys() -> Vec<String> {
    values(&Config::default())
        .into_iter()
        .map(|(key, _)| key)
        .collect()
}

pub(super) fn entries(config: &Config, figment: &Figment) -> Vec<Entry> {
    values(config)
        .into_iter()
        .map(|(key, value)| Entry {
            source: source(figment, &key),
            key,
            value,
        })
        .collect()
}

pub(super) fn source(figment: &Figment, key: &str) -> String {
    figment.find_metadata(key).map_or_else(
        || "default".to_owned(),
        |metadata| metadata.name.to_string(),
    )
}

fn values(config: &Config) -> Vec<(String, Value)> {
    let mut top = Vec::new();
    let mut sections = Vec::new();
    if let Ok(Value::Object(tree)) = serde_json::to_value(config) {
        for (name, value) in tree {
            match value {
                Value::Object(_) => flatten(&name, value, &mut sections),
                value => top.push((name, value)),
            }
        }
    }
    // serde_json keeps another order where some crate in the build asks it to.
    top.sort_by(|a, b| a.0.cmp(&b.0));
    sections.sort_by(|a, b| a.0.cmp(&b.0));
    top.append(&mut sections);
    for (key, value) in &mut top {
        match key.as_str() {
            "public_url" => *value = config.public_url().show(),
            "database.url" => *value = config.database_url().show(),
            "store.url" => *value = config.store_url().show(),
            "store.path_style" => *value = config.store.uses_path_style().show(),
            _ => {}
        }
    }
    top
}

/// A table within a section has as many keys as it has values: none where it is empty.
fn flatten(key: &str, value: Value, flat: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(table) => {
            for (name, value) in table {
                flatten(&format!("{key}.{name}"), value, flat);
            }
        }
        value => flat.push((key.to_owned(), value)),
    }
}

impl Loaded {
    /// One `key = value  # source` a line; the values are TOML, and "" is what isn't set.
    pub fn show(&self) -> String {
        self.entries
            .iter()
            .map(|entry| {
                format!(
                    "{} = {}  # {}\n",
                    entry.key,
                    toml_literal(&entry.value),
                    entry.source
                )
            })
            .collect()
    }

    /// The list of entries: `[{"key", "value", "source"}, …]`.
    pub fn show_json(&self) -> Value {
        self.entries
            .iter()
            .map(|entry| {
                serde_json::json!({"key": entry.key, "value": entry.value, "source": entry.source})
            })
            .collect()
    }
}

/// JSON's strings, numbers and booleans are TOML's too, all but one character of them.
fn toml_literal(value: &Value) -> String {
    match value {
        Value::Null => "\"\"".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(toml_literal).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(table) => {
            let mut pairs: Vec<String> = table
                .iter()
                .map(|(key, value)| format!("{key} = {}", toml_literal(value)))
                .collect();
            pairs.sort();
            format!("{{ {} }}", pairs.join(", "))
        }
        other => other.to_string().replace('\u{7f}', "\\u007f"),
    }
}
