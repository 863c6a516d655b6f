//! Metadata that contains what is asked for, alike on both databases: as PostgreSQL's `@>` has it.

use serde_json::{Value, json};

use super::{found, items, page, upload};
use crate::harness::client::{id, send};
use crate::harness::content::escape;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    every_document_is_found_by_what_it_contains,
    odd_keys_are_keys_and_no_paths,
    numbers_are_equal_however_they_are_written,
    what_is_changed_is_found_by_what_it_is_now,
    what_is_found_by_metadata_is_paged,
    what_is_no_object_is_refused,
);

/// Each is stored, and asked for.
const DOCUMENTS: &[&str] = &[
    "{}",
    r#"{"a":1}"#,
    r#"{"a":1,"b":2}"#,
    r#"{"a":2}"#,
    r#"{"a":"1"}"#,
    r#"{"a":true}"#,
    r#"{"a":false}"#,
    r#"{"a":0}"#,
    r#"{"a":null}"#,
    r#"{"a":"null"}"#,
    r#"{"a":""}"#,
    r#"{"a":{}}"#,
    r#"{"a":[]}"#,
    r#"{"a":[1]}"#,
    r#"{"a":[1,1]}"#,
    r#"{"a":[1,2,3]}"#,
    r#"{"a":[3,1]}"#,
    r#"{"a":[[1,2],[3]]}"#,
    r#"{"a":[[1],[3]]}"#,
    r#"{"a":[[1,3]]}"#,
    r#"{"a":[[]]}"#,
    r#"{"a":[null]}"#,
    r#"{"a":[{}]}"#,
    r#"{"a":[{"b":1}]}"#,
    r#"{"a":[{"b":1,"c":2},{"d":3}]}"#,
    r#"{"a":[{"b":1},{"c":2}]}"#,
    r#"{"a":{"b":1}}"#,
    r#"{"a":{"b":1,"c":{"d":[1,{"e":"f"}]}}}"#,
    r#"{"a":{"c":{"d":[{"e":"f"}]}}}"#,
    r#"{"a":{"c":{"d":[{"e":null}]}}}"#,
    r#"{"a":{"c":{}}}"#,
    r#"{"a":{"b":null}}"#,
    r#"{"b":{"a":1}}"#,
    r#"{"A":1}"#,
    r#"{"a":"b"}"#,
    r#"{"a":"B"}"#,
    r#"{"a":"b "}"#,
    r#"{"a":"é"}"#,
    r#"{"a":"e\u0301"}"#,
    r#"{"a":["é","日本","\ud83e\udd80"]}"#,
    r#"{"a":["\u65e5\u672c"]}"#,
    r#"{"a":"it's \"quoted\" \\ \/ \n\t"}"#,
    r#"{"a":"%_*?"}"#,
    r#"{"a":"[1]"}"#,
    r#"{"a":"{}"}"#,
];

/// PostgreSQL's `whole @> part`, between objects.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part.iter().all(|(key, part)| {
            let whole = whole.get(key);
            whole.is_some_and(|whole| contains(whole, part))
        }),
        (Value::Array(whole), Value::Array(part)) => part
            .iter()
            .all(|part| whole.iter().any(|whole| contains(whole, part))),
        _ => whole == part,
    }
}

fn asked(metadata: &str) -> String {
    format!("metadata={}", escape(metadata))
}

async fn every_document_is_found_by_what_it_contains(service: &Service) {
    let client = service.client("acme");
    for (index, document) in DOCUMENTS.iter().enumerate() {
        let query = format!("&{}", asked(document));
        upload(&client, &format!("{index:03}"), &query, "").await;
    }
    let parsed = |text: &&str| -> Value { serde_json::from_str(text).unwrap() };
    let documents: Vec<Value> = DOCUMENTS.iter().map(parsed).collect();
    let others = [
        r#"{"z":1}"#,
        r#"{"a":[1,4]}"#,
        r#"{"a":[[2,1]]}"#,
        r#"{"a":[{"b":1,"d":3}]}"#,
        r#"{"a":1,"b":3}"#,
        r#"{"a":{"a":1}}"#,
        r#"{"":1}"#,
        r#"{"a":["b"]}"#,
        r#"{"a":[3,2,1,2]}"#,
    ];
    for text in DOCUMENTS.iter().chain(&others) {
        let part = parsed(text);
        let holders = (0..documents.len()).filter(|at| contains(&documents[*at], &part));
        let expected: Vec<String> = holders.map(|at| format!("{at:03}")).collect();
        assert_eq!(found(&client, &asked(text)).await, expected, "{text}");
    }
}

async fn odd_keys_are_keys_and_no_paths(service: &Service) {
    let client = service.client("acme");
    let keys = [
        "a.b",
        "a",
        "$",
        "$.a",
        "$[0]",
        "[0]",
        "0",
        "#-1",
        "",
        " ",
        "'",
        "\"",
        "\\",
        "\"]",
        "a'); DROP TABLE files; --",
        "ключ",
        "🦀",
        "\n",
        "?",
        "$1",
        "a/b~0",
        "%",
        "_",
    ];
    for (index, key) in keys.iter().enumerate() {
        let metadata = json!({*key: "v", "own": {*key: [index]}}).to_string();
        let query = format!("&{}", asked(&metadata));
        upload(&client, &format!("{index:03}"), &query, "").await;
    }
    let nested = format!("&{}", asked(r#"{"a":{"b":"v"},"x":["v"]}"#));
    upload(&client, "nested", &nested, "").await;
    for (index, key) in keys.iter().enumerate() {
        let expected = [format!("{index:03}")];
        for part in [
            json!({*key: "v"}),
            json!({"own": {*key: []}}),
            json!({"own": {*key: [index]}, *key: "v"}),
        ] {
            let query = asked(&part.to_string());
            assert_eq!(found(&client, &query).await, expected, "{part}");
        }
        let none = asked(&json!({"own": {*key: [index + 1]}}).to_string());
        assert_eq!(found(&client, &none).await.len(), 0);
    }
}

async fn numbers_are_equal_however_they_are_written(service: &Service) {
    let client = service.client("acme");
    for (index, written) in [
        &["1", "1.0", "1e0", "10e-1", "1.000"][..],
        &["0", "0.0", "-0", "-0.0", "0e5"],
        &["-1", "-1.0"],
        &["0.1", "1e-1", "0.10"],
        &["100", "1e2", "1E+2", "100.0"],
        &["9007199254740993"],
        &["9007199254740995"],
        &["9223372036854775807"],
        &["-9223372036854775808"],
        &["1e300", "1.0e300"],
        &["5e-324"],
    ]
    .iter()
    .enumerate()
    {
        for text in *written {
            let query = format!("&{}", asked(&format!(r#"{{"n":{text},"l":[{text}]}}"#)));
            upload(&client, &format!("{index:02} {text}"), &query, "").await;
        }
        let mut expected: Vec<String> = written.iter().map(|t| format!("{index:02} {t}")).collect();
        expected.sort_unstable();
        for text in *written {
            for part in [format!(r#"{{"n":{text}}}"#), format!(r#"{{"l":[{text}]}}"#)] {
                assert_eq!(found(&client, &asked(&part)).await, expected, "{part}");
            }
            // Nor is a number the text of one, or a truth value.
            for part in [
                format!(r#"{{"n":"{text}"}}"#),
                format!(r#"{{"l":["{text}"]}}"#),
                r#"{"n":true}"#.into(),
                r#"{"n":false}"#.into(),
                r#"{"n":null}"#.into(),
            ] {
                assert_eq!(found(&client, &asked(&part)).await.len(), 0, "{part}");
            }
        }
    }
}

async fn what_is_changed_is_found_by_what_it_is_now(service: &Service) {
    let client = service.client("acme");
    let query = format!("&{}", asked(r#"{"state":"draft","by":{"name":"x"}}"#));
    let file = upload(&client, "a", &query, "").await;
    let path = format!("/v1/files/{}", id(&file));
    let change = json!({"metadata": {"state": "done", "by": {"name": null}}});
    send(client.patch(&path).json(&change)).await.json(200);
    for (part, files) in [
        (r#"{"state":"draft"}"#, 0),
        (r#"{"state":"done"}"#, 1),
        (r#"{"by":{"name":"x"}}"#, 0),
        (r#"{"by":{}}"#, 1),
        ("{}", 1),
    ] {
        assert_eq!(found(&client, &asked(part)).await.len(), files, "{part}");
    }
    let other = service.client("other");
    assert_eq!(found(&other, &asked("{}")).await.len(), 0);
}

async fn what_is_found_by_metadata_is_paged(service: &Service) {
    let client = service.client("acme");
    for index in 0..20 {
        let metadata = json!({"tags": [format!("t{}", index % 3), "all"], "n": index});
        let query = format!("&{}", asked(&metadata.to_string()));
        upload(&client, &format!("{index:02}"), &query, "").await;
        service.clock.advance(std::time::Duration::from_secs(1));
    }
    let query = asked(r#"{"tags":["t1"]}"#);
    let expected = ["01", "04", "07", "10", "13", "16", "19"];
    for limit in [1, 2, 3, 6, 7, 8] {
        for sort in ["name", "created_at", "updated_at", "size"] {
            let files = items(&client, &format!("{query}&sort={sort}"), limit).await;
            assert_eq!(super::names(&files), expected, "{sort} by {limit}");
        }
    }
    let all = page(&client, &format!("{}&limit=1", asked(r#"{"n":19}"#))).await;
    assert_eq!((all.items.len(), all.cursor), (1, None));
}

async fn what_is_no_object_is_refused(service: &Service) {
    let client = service.client("acme");
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(16), "]".repeat(16));
    let deeper = format!("{{\"a\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    for metadata in [
        "",
        "x",
        "[]",
        "1",
        "\"a\"",
        "true",
        "{",
        "{}x",
        "{a:1}",
        r#"{"a":1e400}"#,
        r#"{"a":"\u0000"}"#,
        r#"{"\u0000":1}"#,
        r#"{"a":"\ud800"}"#,
        &deep,
        &deeper,
    ] {
        let path = format!("/v1/files?{}", asked(metadata));
        send(client.get(&path)).await.invalid(&["/metadata"]);
    }
    let not_utf8 = "/v1/files?metadata=%7B%22a%22:%22%ff%22%7D";
    send(client.get(not_utf8)).await.invalid(&["/metadata"]);
}
