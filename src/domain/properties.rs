//! What a caller may say of a file: its name, its metadata, and changes of them.

use serde_json::Value;

use crate::metadata::files::Metadata;

/// In bytes.
pub const NAME_BYTES: usize = 1024;
pub const METADATA_BYTES: usize = 64 * 1024;
pub const METADATA_DEPTH: usize = 16;

/// What is wrong with a name, if anything.
pub fn name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > NAME_BYTES {
        Some("must have 1 to 1,024 bytes")
    } else if name.chars().any(char::is_control) {
        Some("must have no control character")
    } else if name
        .split('/')
        .any(|segment| matches!(segment, "" | "." | ".."))
    {
        Some("must have no empty, . or .. segment between slashes")
    } else {
        None
    }
}

/// What makes a text one that no stored text can be equal to, if anything: PostgreSQL has no U+0000.
pub fn text_fault(text: &str) -> Option<&'static str> {
    text.contains('\0').then_some("must have no U+0000")
}

/// What is wrong with metadata, if anything.
pub fn metadata_fault(metadata: &Metadata) -> Option<&'static str> {
    fn depth(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
            serde_json::Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
    fn has_nul(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::String(text) => text_fault(text).is_some(),
            serde_json::Value::Array(items) => items.iter().any(has_nul),
            serde_json::Value::Object(fields) => fields
                .iter()
                .any(|(name, value)| text_fault(name).is_some() || has_nul(value)),
            _ => false,
        }
    }
    let nested = 1 + metadata.values().map(depth).max().unwrap_or(0);
    let length = serde_json::to_vec(metadata).map_or(usize::MAX, |text| text.len());
    if length > METADATA_BYTES {
        Some("must have at most 64 KiB as JSON")
    } else if nested > METADATA_DEPTH {
        Some("must be nested at most 16 deep")
    } else if metadata
        .iter()
        .any(|(name, value)| text_fault(name).is_some() || has_nul(value))
    {
        Some("must have no U+0000")
    } else {
        None
    }
}

/// Changes `target` as a JSON Merge Patch says (RFC 7396, section 2): null takes a member away, an
/// object is merged into one, all else replaces what was there.
pub fn merge(target: &mut Metadata, patch: Metadata) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(&name);
            }
            Value::Object(patch) => {
                let member = target.entry(name).or_insert(Value::Null);
                if !member.is_object() {
                    *member = Value::Object(Metadata::new());
                }
                if let Value::Object(member) = member {
                    merge(member, patch);
                }
            }
            value => {
                target.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_path_without_tricks() {
        for good in ["a", "a/b.txt", "Ünï/名前", "...", "a b"] {
            assert_eq!(name_fault(good), None, "{good}");
        }
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "a/../b",
            ".",
            "a\nb",
            &"x".repeat(1025),
        ] {
            assert!(name_fault(bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn metadata_has_bounds() {
        let nest = |depth: usize| {
            let mut value = serde_json::json!(1);
            for _ in 1..depth {
                value = serde_json::json!({ "a": value });
            }
            serde_json::from_value::<Metadata>(serde_json::json!({ "a": value })).unwrap()
        };
        assert_eq!(metadata_fault(&nest(16)), None);
        assert!(metadata_fault(&nest(17)).is_some());
        let nul: Metadata = serde_json::from_value(serde_json::json!({"a": ["\u{0}"]})).unwrap();
        assert!(metadata_fault(&nul).is_some());
    }

    /// The examples of RFC 7396, appendix A, whose target and patch are objects.
    #[test]
    fn a_patch_is_merged_as_the_rfc_says() {
        for (target, patch, wanted) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            (
                r#"{}"#,
                r#"{"a":{"bb":{"ccc":null}}}"#,
                r#"{"a":{"bb":{}}}"#,
            ),
        ] {
            let mut target: Metadata = serde_json::from_str(target).unwrap();
            merge(&mut target, serde_json::from_str(patch).unwrap());
            let wanted: Metadata = serde_json::from_str(wanted).unwrap();
            assert_eq!(target, wanted, "{patch}");
        }
    }
}
