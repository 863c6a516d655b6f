//! What is shipped for those who watch: a dashboard and alerts, that name what there is and are explained.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::service::Service;

use super::{Page, root, shown};

/// Labels that Prometheus adds.
const ADDED: [&str; 3] = ["instance", "job", "le"];

fn alerts() -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("deploy/prometheus/alerts.yml")).unwrap();
    let rules: Value = serde_yaml_ng::from_str(&text).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    let rules = groups
        .iter()
        .map(|group| group["rules"].as_array().unwrap());
    rules.flatten().cloned().collect()
}

/// Every `expr` of a document.
fn expressions(document: &Value, found: &mut Vec<String>) {
    match document {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "expr" => found.push(text.clone()),
                    value => expressions(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

/// A label, and the values that it may have.
type Matcher = (String, Vec<String>);

/// The service's metrics in an expression, each with its matchers.
fn selected(expression: &str) -> Vec<(String, Vec<Matcher>)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("box_") {
        let name: String = rest[at..].chars().take_while(|c| word(*c)).collect();
        rest = &rest[at + name.len()..];
        let mut matchers = Vec::new();
        if let Some(mut inside) = rest.strip_prefix('{') {
            while let Some((label, behind)) = inside.split_once('=') {
                let behind = behind.strip_prefix('~').unwrap_or(behind);
                let quoted = behind.strip_prefix('"').unwrap();
                let (value, behind) = quoted.split_once('"').unwrap();
                let values = value.split('|').map(str::to_owned).collect();
                matchers.push((label.to_owned(), values));
                inside = behind.strip_prefix(',').unwrap_or("");
                rest = behind;
            }
        }
        found.push((name, matchers));
    }
    found
}

pub(super) async fn dashboard_and_alerts_name_what_there_is(service: &Service) {
    let text = std::fs::read_to_string(root().join("deploy/grafana/box-service.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    let panels = found.len();
    for alert in alerts() {
        expressions(&alert, &mut found);
    }
    assert!(panels > 20 && found.len() > panels + 10, "{found:?}");

    let page = Page::of(service).await;
    let shown = shown(&page.text);
    let mut named = BTreeSet::new();
    for expression in &found {
        let selected = selected(expression);
        // What Prometheus itself says of its targets.
        assert!(
            !selected.is_empty() || expression.contains("up{"),
            "{expression}"
        );
        for (name, matchers) in selected {
            let of_histogram = name.strip_suffix("_bucket").unwrap_or(&name);
            assert!(shown.contains_key(of_histogram), "{name} in {expression}");
            named.insert(of_histogram.to_owned());
            for (label, values) in matchers {
                if ADDED.contains(&label.as_str()) {
                    continue;
                }
                for value in values {
                    let pair = format!("{label}=\"{value}\"");
                    let is_there = page.samples.keys().any(|sample| {
                        sample.starts_with(&format!("{name}{{")) && sample.contains(&pair)
                    });
                    assert!(is_there, "{name} has no {pair}: {expression}");
                }
            }
        }
    }
    // A metric that nobody looks at is shown for nothing.
    let unseen: Vec<_> = shown.keys().filter(|name| !named.contains(*name)).collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}

#[test]
fn each_alert_has_its_section_in_the_run_book() {
    let text = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let sections: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("### Box"))
        .collect();
    let alerts = alerts();
    let names: BTreeSet<&str> = alerts
        .iter()
        .map(|alert| {
            alert["alert"]
                .as_str()
                .unwrap()
                .strip_prefix("Box")
                .unwrap()
        })
        .collect();
    assert_eq!(names.len(), alerts.len(), "two alerts have one name");
    assert_eq!(sections, names);
    for alert in &alerts {
        let severity = alert["labels"]["severity"].as_str();
        assert!(matches!(severity, Some("page" | "ticket")), "{alert}");
        assert!(alert["annotations"]["summary"].is_string(), "{alert}");
    }
}
