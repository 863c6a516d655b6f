//! What differs between the two databases.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::types::Json;
use sqlx::{Database, Decode, Encode, Postgres, QueryBuilder, Sqlite, Type};
use time::OffsetDateTime;

use crate::clock::Timestamp;
use crate::id::{FileId, Tenant};

use super::containment;
use super::files::Metadata;

/// What stands in a query for a `$n`.
#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    Bytes(Vec<u8>),
    Number(i64),
    Time(Timestamp),
    File(FileId),
    Tenant(Tenant),
}

macro_rules! values {
    ($($variant:ident($type:ty)),+) => {
        $(impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        })+
    };
}

values!(
    Text(String),
    Bytes(Vec<u8>),
    Number(i64),
    Time(Timestamp),
    File(FileId),
    Tenant(Tenant)
);

/// A query for either database.
pub(super) trait Values {
    /// The next `$n`.
    fn push_value(&mut self, value: impl Into<Value>) -> &mut Self;
}

impl<DB: Dialect> Values for QueryBuilder<DB> {
    fn push_value(&mut self, value: impl Into<Value>) -> &mut Self {
        DB::push_value(self, value.into());
        self
    }
}

/// What a query that is put together from pieces must say differently.
pub(super) trait Dialect: Database {
    fn push_value(query: &mut QueryBuilder<Self>, value: Value);

    /// The end of `CAST(… AS`, for text that is compared by its bytes.
    const TEXT_BY_BYTES: &'static str;

    /// Behind a table's name: to read by this index.
    fn by_index(index: &str) -> String;

    /// Where the first slash of a text is, in characters from 1; 0 when it has none.
    fn slash_in(text: &str) -> String;

    /// ` AND …`: whether the JSON object in a column contains another one.
    fn push_contains(query: &mut QueryBuilder<Self>, column: &str, wanted: &Metadata);
}

macro_rules! push_value {
    () => {
        fn push_value(query: &mut QueryBuilder<Self>, value: Value) {
            match value {
                Value::Text(text) => query.push_bind(text),
                Value::Bytes(bytes) => query.push_bind(bytes),
                Value::Number(number) => query.push_bind(number),
                Value::Time(at) => query.push_bind(at),
                Value::File(id) => query.push_bind(id),
                Value::Tenant(tenant) => query.push_bind(tenant),
            };
        }
    };
}

impl Dialect for Postgres {
    push_value!();

    const TEXT_BY_BYTES: &'static str = "TEXT) COLLATE \"C\"";

    /// Its statistics tell it.
    fn by_index(_index: &str) -> String {
        String::new()
    }

    fn slash_in(text: &str) -> String {
        format!("strpos({text}, '/')")
    }

    fn push_contains(query: &mut QueryBuilder<Self>, column: &str, wanted: &Metadata) {
        query.push(format_args!(" AND {column} @> "));
        query.push_bind(Json(wanted.clone()));
        // As the index has it.
        query.push(format_args!(" AND {column} <> '{{}}'"));
    }
}

impl Dialect for Sqlite {
    push_value!();

    const TEXT_BY_BYTES: &'static str = "TEXT)";

    /// It has none of values.
    fn by_index(index: &str) -> String {
        format!(" INDEXED BY {index}")
    }

    fn slash_in(text: &str) -> String {
        format!("instr({text}, '/')")
    }

    fn push_contains(query: &mut QueryBuilder<Self>, column: &str, wanted: &Metadata) {
        containment::push(query, column, wanted);
    }
}

/// `timestamptz` on PostgreSQL; on SQLite an integer of microseconds, which sorts as time does
/// (the text that sqlx would write does not).
impl Type<Postgres> for Timestamp {
    fn type_info() -> sqlx::postgres::PgTypeInfo {
        <OffsetDateTime as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Timestamp {
    fn encode_by_ref(
        &self,
        buf: &mut sqlx::postgres::PgArgumentBuffer,
    ) -> Result<IsNull, BoxDynError> {
        <OffsetDateTime as Encode<Postgres>>::encode(self.to_datetime(), buf)
    }
}

impl Decode<'_, Postgres> for Timestamp {
    fn decode(value: sqlx::postgres::PgValueRef<'_>) -> Result<Self, BoxDynError> {
        <OffsetDateTime as Decode<Postgres>>::decode(value).map(Self::from_datetime)
    }
}

impl Type<Sqlite> for Timestamp {
    fn type_info() -> sqlx::sqlite::SqliteTypeInfo {
        <i64 as Type<Sqlite>>::type_info()
    }

    fn compatible(ty: &sqlx::sqlite::SqliteTypeInfo) -> bool {
        <i64 as Type<Sqlite>>::compatible(ty)
    }
}

impl<'q> Encode<'q, Sqlite> for Timestamp {
    fn encode_by_ref(
        &self,
        buf: &mut sqlx::sqlite::SqliteArgumentsBuffer,
    ) -> Result<IsNull, BoxDynError> {
        <i64 as Encode<'q, Sqlite>>::encode(self.as_micros(), buf)
    }
}

impl Decode<'_, Sqlite> for Timestamp {
    fn decode(value: sqlx::sqlite::SqliteValueRef<'_>) -> Result<Self, BoxDynError> {
        <i64 as Decode<Sqlite>>::decode(value).map(Self::from_micros)
    }
}

/// Whether an error code says that the database is away, full or overloaded, rather than that a
/// statement is wrong.
///
/// PostgreSQL (appendix A of its manual): classes 08 connection, 53 resources, 57 operator
/// intervention (statement time-out too), 58 system, lock_not_available, read-only after a
/// failover; 40001 and 40P01 are left once every attempt has given way.
/// SQLite's primary result codes: BUSY 5, LOCKED 6, NOMEM 7, READONLY 8, IOERR 10, FULL 13,
/// CANTOPEN 14, PROTOCOL 15; an extended code holds its primary one in the low byte.
pub(super) fn is_away(code: &str) -> bool {
    if code.len() == 5 {
        return ["08", "53", "57", "58"].contains(&&code[..2])
            || ["40001", "40P01", "55P03", "25006"].contains(&code);
    }
    code.parse::<u32>()
        .is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 7 | 8 | 10 | 13 | 14 | 15))
}

#[cfg(test)]
mod tests {
    use super::is_away;

    #[test]
    fn an_error_code_tells_away_from_wrong() {
        for away in ["57014", "08006", "53300", "5", "261", "13", "3338"] {
            assert!(is_away(away), "{away}");
        }
        for wrong in ["23505", "42P01", "19", "2067", "1"] {
            assert!(!is_away(wrong), "{wrong}");
        }
    }
}
