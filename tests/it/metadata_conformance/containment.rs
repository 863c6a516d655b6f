//! `metadata @> wanted`: one table of what it means, for both databases.
//!
//! The answers are those of PostgreSQL's manual, section 8.14.3: an object contains one whose every
//! member it has and contains; an array contains one whose every element some element of its own
//! contains, whatever their order and number; a scalar contains its equal. That a bare scalar is
//! contained in an array holds for whole documents only, and metadata is an object.

use std::collections::BTreeSet;

use box_service::id::FileId;
use box_service::metadata::files::Metadata;
use box_service::metadata::search::Filter;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::{Number, Value, json};
use sqlx::{Connection, PgConnection};

use super::lists::{by_name, filter, list};
use super::{Fixture, file_id};
use crate::harness::database::Kind;

conformance!(
    containment_is_as_the_table_says,
    containment_of_any_in_any_is_as_the_model_says,
    containment_of_random_metadata_is_as_the_model_says,
    a_number_contains_itself,
    a_large_number_is_rounded_on_sqlite,
    containment_goes_as_deep_as_metadata_does,
    a_hundred_values_are_looked_for_at_once,
    containment_goes_with_other_filters,
    a_file_is_found_by_what_it_has_now,
);

mod table;
use table::{ROUNDED, table};

fn read(text: &str) -> Metadata {
    serde_json::from_str(text).unwrap()
}

async fn store(fixture: &Fixture, all: &[Metadata]) {
    let object = fixture.live().await;
    for (number, metadata) in (1..).zip(all) {
        let mut file = fixture.file(number, object);
        file.metadata = metadata.clone();
        fixture.insert(&file).await;
    }
}

/// The files whose metadata contains this.
async fn containing(fixture: &Fixture, wanted: &Metadata) -> BTreeSet<FileId> {
    let filter = Filter {
        metadata: Some(wanted.clone()),
        ..filter(fixture)
    };
    let files = list(fixture, &filter, &by_name()).await;
    files.into_iter().map(|file| file.id).collect()
}

/// Each wanted, over all that is stored.
async fn compare_with_model(fixture: &Fixture, stored: &[Metadata], wanted: &[Metadata]) {
    store(fixture, stored).await;
    for wanted in wanted {
        let model: BTreeSet<FileId> = (1..)
            .zip(stored)
            .filter(|(_, stored)| has_members(stored, wanted))
            .map(|(number, _)| file_id(number))
            .collect();
        let found = containing(fixture, wanted).await;
        let told = |ids: BTreeSet<FileId>| -> Vec<&Metadata> {
            let number = |id: &FileId| id.as_uuid().as_u128() as usize - 1;
            ids.iter().map(|id| &stored[number(id)]).collect()
        };
        assert_eq!(told(found), told(model), "contain {wanted:?}");
    }
}

async fn containment_is_as_the_table_says(fixture: Fixture) {
    let stored: Vec<Metadata> = table().map(|(stored, _, _)| read(stored)).collect();
    store(&fixture, &stored).await;
    for (number, (stored, wanted, contains)) in (1..).zip(table()) {
        let found = containing(&fixture, &read(wanted)).await;
        assert_eq!(
            found.contains(&file_id(number)),
            contains,
            "{stored} contains {wanted}"
        );
        let modelled = has_members(&read(stored), &read(wanted));
        assert_eq!(modelled, contains, "the model: {stored} contains {wanted}");
    }
    if fixture.kind != Kind::Postgres {
        return;
    }
    // Its own operator, past the store.
    let mut conn = PgConnection::connect(fixture.database.url()).await.unwrap();
    for (stored, wanted, contains) in table() {
        let found: bool = sqlx::query_scalar("SELECT CAST($1 AS jsonb) @> CAST($2 AS jsonb)")
            .bind(stored)
            .bind(wanted)
            .fetch_one(&mut conn)
            .await
            .unwrap();
        assert_eq!(found, contains, "{stored} @> {wanted}");
    }
}

async fn containment_of_any_in_any_is_as_the_model_says(fixture: Fixture) {
    let all: BTreeSet<&str> = table()
        .flat_map(|(stored, wanted, _)| [stored, wanted])
        .collect();
    let all: Vec<Metadata> = all.into_iter().map(read).collect();
    compare_with_model(&fixture, &all, &all).await;
}

async fn containment_of_random_metadata_is_as_the_model_says(fixture: Fixture) {
    let mut random = StdRng::seed_from_u64(7);
    let stored: Vec<Metadata> = (0..300).map(|_| random_members(&mut random, 4)).collect();
    let wanted: Vec<Metadata> = (0..150).map(|_| random_members(&mut random, 3)).collect();
    compare_with_model(&fixture, &stored, &wanted).await;
}

/// Few names and few scalars, so that what is stored and what is wanted meet.
fn random_members(random: &mut StdRng, depth: u32) -> Metadata {
    const NAMES: [&str; 4] = ["a", "b", "", "[0]"];
    (0..random.random_range(0..3))
        .map(|_| {
            let name = NAMES[random.random_range(0..NAMES.len())];
            (name.to_owned(), random_value(random, depth))
        })
        .collect()
}

fn random_value(random: &mut StdRng, depth: u32) -> Value {
    const SCALARS: [&str; 8] = ["null", "true", "0", "1", "1.0", r#""1""#, r#""{""#, r#""""#];
    match random.random_range(0..4) {
        0 if depth > 0 => Value::Object(random_members(random, depth - 1)),
        1 if depth > 0 => (0..random.random_range(0..3))
            .map(|_| random_value(random, depth - 1))
            .collect(),
        _ => serde_json::from_str(SCALARS[random.random_range(0..SCALARS.len())]).unwrap(),
    }
}

/// However a database reads the text of a number, it must read what is stored and what is wanted alike.
async fn a_number_contains_itself(fixture: Fixture) {
    let mut random = StdRng::seed_from_u64(11);
    let mut numbers: Vec<Number> = [
        0.1 + 0.2,
        31.245270191439438,
        1e23,
        5e-324,
        f64::MIN_POSITIVE,
        f64::MAX,
        f64::MIN,
        f64::EPSILON,
        -0.0,
        9_007_199_254_740_993.0,
        1_152_921_504_606_846_976.0,
    ]
    .into_iter()
    .filter_map(Number::from_f64)
    .collect();
    for _ in 0..300 {
        // All magnitudes, what people measure, and whole numbers of all lengths.
        numbers.extend(Number::from_f64(f64::from_bits(random.next_u64())));
        numbers.extend(Number::from_f64(random.random_range(-1000.0..1000.0)));
        numbers.push((random.next_u64() >> random.random_range(0..64)).into());
    }
    let object = fixture.live().await;
    for (number, value) in (1..).zip(&numbers) {
        let mut file = fixture.file(number, object);
        file.metadata.insert("a".to_owned(), value.clone().into());
        fixture.insert(&file).await;
    }
    for (number, value) in (1..).zip(numbers) {
        let wanted = Metadata::from_iter([("a".to_owned(), value.clone().into())]);
        let found = containing(&fixture, &wanted).await;
        assert!(found.contains(&file_id(number)), "{value}");
    }
}

async fn a_large_number_is_rounded_on_sqlite(fixture: Fixture) {
    let stored: Vec<Metadata> = ROUNDED.iter().map(|(stored, _)| read(stored)).collect();
    store(&fixture, &stored).await;
    for (number, (stored, wanted)) in (1..).zip(ROUNDED) {
        assert!(!has_members(&read(stored), &read(wanted)));
        let found = containing(&fixture, &read(wanted)).await;
        assert_eq!(
            found.contains(&file_id(number)),
            fixture.kind == Kind::Sqlite,
            "{stored} contains {wanted}"
        );
    }
}

async fn containment_goes_as_deep_as_metadata_does(fixture: Fixture) {
    let nest = |mut value: Value, depth: usize, array: bool| -> Metadata {
        for level in 1..depth {
            value = if array && level % 2 == 1 {
                json!([0, value, []])
            } else {
                json!({ "a": value, "b": [] })
            };
        }
        Metadata::from_iter([("a".to_owned(), value)])
    };
    // With 16 levels of objects and arrays, and a scalar or an empty one within the last.
    let mut all = Vec::new();
    for array in [false, true] {
        for depth in [15, 16] {
            for value in [json!(1), json!(2), json!({}), json!([])] {
                all.push(nest(value, depth, array));
            }
        }
    }
    compare_with_model(&fixture, &all, &all).await;
}

/// As many as the service takes in a filter.
async fn a_hundred_values_are_looked_for_at_once(fixture: Fixture) {
    let wide = |numbers: std::ops::Range<i32>| -> Metadata {
        numbers.map(|n| (format!("name {n}"), n.into())).collect()
    };
    let long = |numbers: std::ops::Range<i32>| -> Metadata {
        Metadata::from_iter([("a".to_owned(), numbers.collect())])
    };
    let stored = [wide(0..101), wide(1..101), long(0..101), long(1..101)];
    let wanted = [wide(0..100), wide(1..101), long(0..99), long(1..100)];
    compare_with_model(&fixture, &stored, &wanted).await;
}

async fn containment_goes_with_other_filters(fixture: Fixture) {
    let object = fixture.live().await;
    for number in 1..=12_u128 {
        let mut file = fixture.file(number, object);
        file.metadata = read(if number % 2 == 0 {
            r#"{"a":{"b":[1]}}"#
        } else {
            r#"{"a":{"b":[2]}}"#
        });
        file.name = format!("{}/{number}", if number % 3 == 0 { "x" } else { "y" });
        if number == 12 {
            file.tenant = super::tenant("other");
        }
        fixture.insert(&file).await;
    }
    let filter = Filter {
        metadata: Some(read(r#"{"a":{"b":[1]}}"#)),
        prefix: Some("y/".to_owned()),
        ..filter(&fixture)
    };
    let found = list(&fixture, &filter, &by_name()).await;
    let found: BTreeSet<FileId> = found.into_iter().map(|file| file.id).collect();
    assert_eq!(found, [2, 4, 8, 10].map(file_id).into());
}

fn has_members(stored: &Metadata, wanted: &Metadata) -> bool {
    wanted.iter().all(|(name, wanted)| {
        stored
            .get(name)
            .is_some_and(|stored| contains(stored, wanted))
    })
}

fn contains(stored: &Value, wanted: &Value) -> bool {
    match (stored, wanted) {
        (Value::Object(stored), Value::Object(wanted)) => has_members(stored, wanted),
        (Value::Array(stored), Value::Array(wanted)) => wanted
            .iter()
            .all(|wanted| stored.iter().any(|stored| contains(stored, wanted))),
        (Value::Number(stored), Value::Number(wanted)) => decimal(stored) == decimal(wanted),
        _ => stored == wanted,
    }
}

/// Sign, digits without zeros around them, and the power of ten behind the last: a number has one.
fn decimal(number: &Number) -> (bool, String, i32) {
    let text = number.to_string();
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
    let kept = digits.trim_end_matches('0');
    let power = power.parse::<i32>().unwrap() - fraction.len() as i32;
    let power = power + (digits.len() - kept.len()) as i32;
    match kept.trim_start_matches('0') {
        "" => (false, String::new(), 0),
        kept => (whole.starts_with('-'), kept.to_owned(), power),
    }
}

/// However it is found, what it had before does not find it.
async fn a_file_is_found_by_what_it_has_now(fixture: Fixture) {
    let stored = [r#"{"a":"x","b":2.0,"c":true}"#, r#"{"a":"x"}"#].map(read);
    store(&fixture, &stored).await;
    let both = BTreeSet::from([file_id(1), file_id(2)]);
    let first = BTreeSet::from([file_id(1)]);
    assert_eq!(containing(&fixture, &stored[1]).await, both);
    for (text, expected) in [
        (r#"{"a":"y","b":3}"#, r#"{"a":"y"}"#),
        (r#"{"b":{"c":3}}"#, r#"{"b":{"c":3}}"#),
        (r#"{"b":-1e0,"d":["x"]}"#, r#"{"b":-1}"#),
    ] {
        let mut file = fixture.file(1, fixture.get(file_id(1)).await.unwrap().object_id);
        file.metadata = read(text);
        change!(fixture.metadata, file, |tx, file| tx.file_update(file))
            .await
            .unwrap();
        assert_eq!(containing(&fixture, &read(expected)).await, first, "{text}");
        for before in [r#"{"c":true}"#, r#"{"b":2}"#] {
            assert_eq!(containing(&fixture, &read(before)).await, BTreeSet::new());
        }
    }
    assert_eq!(
        containing(&fixture, &stored[1]).await,
        BTreeSet::from([file_id(2)])
    );
    let tenant = fixture.tenant.clone();
    change!(fixture.metadata, tenant, |tx, tenant| tx
        .file_delete(tenant, file_id(2)))
    .await
    .unwrap();
    assert_eq!(containing(&fixture, &stored[1]).await, BTreeSet::new());
}
