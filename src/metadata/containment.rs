//! `metadata @> object` on SQLite, with the meaning that PostgreSQL gives it (its manual, section
//! 8.14.3): an object contains one whose members it has, each of which it contains; an array
//! contains one whose every element is contained in one of its own, in any order; what is neither
//! contains its equal.
//!
//! Values and names are bound, never written into a JSON path.

use serde_json::Value;
use sqlx::{QueryBuilder, Sqlite};

use super::files::Metadata;

/// ` AND …`: whether the JSON object `column` contains `wanted`.
pub(super) fn push(query: &mut QueryBuilder<Sqlite>, column: &str, wanted: &Metadata) {
    push_members(query, column, wanted, 1);
}

/// `inside` is an expression for the text of a JSON object. `depth` numbers the names of tables.
fn push_members(query: &mut QueryBuilder<Sqlite>, inside: &str, wanted: &Metadata, depth: usize) {
    for (name, value) in wanted {
        query.push(format_args!(
            " AND EXISTS (SELECT 1 FROM json_each({inside}) j{depth} WHERE j{depth}.key = "
        ));
        query.push_bind(name.clone());
        push_value(query, value, depth);
        query.push(")");
    }
}

/// Whether the row of `json_each` called `j{depth}` contains `wanted`.
fn push_value(query: &mut QueryBuilder<Sqlite>, wanted: &Value, depth: usize) {
    let row = format!("j{depth}");
    let is = |kind: &str| format!(" AND {row}.type = '{kind}'");
    match wanted {
        Value::Null => {
            query.push(is("null"));
        }
        Value::Bool(true) => {
            query.push(is("true"));
        }
        Value::Bool(false) => {
            query.push(is("false"));
        }
        Value::String(text) => {
            query.push(is("text"));
            query.push(format_args!(" AND {row}.atom = "));
            query.push_bind(text.clone());
        }
        Value::Number(number) => {
            // As text, for SQLite to read it as it reads what is stored: bound as a float, some would
            // differ in the last bit. An integer past 63 bits it reads as a float too.
            query.push(format_args!(
                " AND {row}.type IN ('integer', 'real') AND {row}.atom = json_extract("
            ));
            query.push_bind(number.to_string()).push(", '$')");
        }
        Value::Object(members) => {
            query.push(is("object"));
            push_members(query, &format!("{row}.value"), members, depth + 1);
        }
        Value::Array(elements) => {
            query.push(is("array"));
            let inner = depth + 1;
            for element in elements {
                query.push(format_args!(
                    " AND EXISTS (SELECT 1 FROM json_each({row}.value) j{inner} WHERE 1"
                ));
                push_value(query, element, inner);
                query.push(")");
            }
        }
    }
}
