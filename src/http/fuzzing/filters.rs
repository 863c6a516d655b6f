use axum::http::Uri;
use serde_json::Value;

use crate::clock::Timestamp;
use crate::domain::files::{ContentTypes, Metadata, SortBy, SortKey};
use crate::error::Kind;
use crate::id::Tenant;

use super::super::list::Asked;

/// Of any query of `GET /v1/files`: it is refused with 422 and the reason, or keeps to every bound
/// that the API's description has.
pub fn filters(input: &[u8]) {
    let Ok(query) = std::str::from_utf8(input) else {
        return;
    };
    let Ok(uri) = format!("/v1/files?{query}").parse::<Uri>() else {
        return;
    };
    let tenant: Tenant = "acme".parse().expect("it is a tenant");
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    let asked = match Asked::read(&uri, tenant.clone(), now) {
        Ok(asked) => asked,
        Err(error) => {
            assert_eq!(error.kind(), Kind::InvalidRequest, "{query}: {error:?}");
            let parts = error.invalid_parts();
            assert!(!parts.is_empty(), "{query}");
            assert!(
                parts.iter().all(|part| part.pointer.starts_with('/')),
                "{query}"
            );
            return;
        }
    };

    assert!((1..=1000).contains(&asked.limit));
    assert!(!asked.folders || asked.sort.by == SortBy::Name);
    if let Some(after) = &asked.after {
        let fits = match &after.key {
            SortKey::Time(_) => {
                matches!(asked.sort.by, SortBy::CreatedAt | SortBy::UpdatedAt)
            }
            SortKey::Name(name) => asked.sort.by == SortBy::Name && !name.contains('\0'),
            SortKey::Size(_) => asked.sort.by == SortBy::Size,
        };
        assert!(fits, "{asked:?}");
    }
    let filter = &asked.filter;
    // Nothing that a query says changes whose files are listed.
    assert_eq!((&filter.tenant, filter.now), (&tenant, now));
    for text in [&filter.prefix, &filter.name].into_iter().flatten() {
        assert!(!text.contains('\0'), "{text:?}");
    }
    if let Some(types) = &filter.content_type {
        content_type(types);
    }
    if let Some(metadata) = &filter.metadata {
        let text = serde_json::to_string(metadata).expect("it came out of JSON");
        assert!(text.len() <= 64 * 1024);
        assert!(!text.contains("\\u0000"), "{text}");
        let (depth, values) = extent(metadata);
        assert!(
            depth <= 16 && values <= 100,
            "{depth} deep, {values} values"
        );
    }
    for time in [filter.created_after, filter.created_before]
        .into_iter()
        .flatten()
    {
        // Both databases hold it, and JSON shows it.
        let text = time.to_string();
        assert!(Timestamp::parse(&text).is_some(), "{text}");
    }
}

fn content_type(types: &ContentTypes) {
    match types {
        ContentTypes::Exactly(text) => {
            assert!((3..=255).contains(&text.trim().len()), "{text:?}");
            assert!(
                text.chars().all(|c| matches!(c, '\t' | ' '..='~')),
                "{text:?}"
            );
            assert!(text.contains('/'), "{text:?}");
        }
        // Token characters (RFC 9110 section 5.6.2), and no wildcard: it becomes part of a LIKE.
        ContentTypes::Kind(kind) => assert!(
            !kind.is_empty()
                && kind
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "!#$&-^_.+%'`|~".contains(c)),
            "{kind:?}"
        ),
    }
}

/// How deep it is nested, and how many values it has at any depth.
fn extent(metadata: &Metadata) -> (usize, usize) {
    let mut waiting: Vec<(usize, &Value)> = metadata.values().map(|value| (2, value)).collect();
    let (mut deepest, mut count) = (1, 0);
    while let Some((depth, value)) = waiting.pop() {
        count += 1;
        match value {
            Value::Array(items) => {
                deepest = deepest.max(depth);
                waiting.extend(items.iter().map(|item| (depth + 1, item)));
            }
            Value::Object(members) => {
                deepest = deepest.max(depth);
                waiting.extend(members.values().map(|member| (depth + 1, member)));
            }
            _ => {}
        }
    }
    (deepest, count)
}
