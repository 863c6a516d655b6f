use serde_json::{Map, Value};

use crate::domain::files::Metadata;
use crate::domain::properties::{merge, metadata_fault};

use super::split;

/// Of any two JSON objects: the second, as a patch of the first, does what RFC 7396 says, and doing it
/// again changes nothing.
///
/// The input: the target, U+0000, the patch.
pub fn merge_patch(input: &[u8]) {
    let (target, patch) = split(input, 0);
    let read = |text: &[u8]| serde_json::from_slice::<Metadata>(text).ok();
    let (Some(target), Some(patch)) = (read(target), read(patch)) else {
        return;
    };
    let mut merged = target.clone();
    merge(&mut merged, patch.clone());
    let wanted = as_the_rfc_says(Value::Object(target), &Value::Object(patch.clone()));
    assert_eq!(Value::Object(merged.clone()), wanted);
    let mut again = merged.clone();
    merge(&mut again, patch);
    assert_eq!(again, merged);

    // What a file may have is stored as JSON, and read back as it was.
    if metadata_fault(&merged).is_none() {
        let text = serde_json::to_vec(&merged).expect("it came out of JSON");
        assert_eq!(read(&text), Some(merged));
    }
}

/// The pseudocode of RFC 7396, section 2, line by line.
fn as_the_rfc_says(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut target = match target {
        Value::Object(target) => target,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let member = target.get(name).cloned().unwrap_or(Value::Null);
            target.insert(name.clone(), as_the_rfc_says(member, value));
        }
    }
    Value::Object(target)
}
