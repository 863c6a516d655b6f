use crate::clock::Timestamp;
use crate::domain::files::{After, Sort, SortBy, SortKey};
use crate::id::FileId;

use super::super::list::Cursor;
use super::take;

/// Of any row: the cursor behind it is read as that row, in its own order and in no other. Of any
/// text: where it is read as a row, that row is one that a cursor can name.
///
/// The input: the order in one byte, an id in 16, a number in 8, a name; the same rest is the
/// text of a cursor.
pub fn cursor(mut input: &[u8]) {
    let [order] = take(&mut input);
    let sort = sort(order);
    if let Ok(text) = std::str::from_utf8(input) {
        any_text(text, sort);
    }
    let id = FileId::from_uuid(uuid::Uuid::from_bytes(take(&mut input)));
    let number = u64::from_le_bytes(take(&mut input));
    let Ok(name) = std::str::from_utf8(input) else {
        return;
    };
    let key = match sort.by {
        // What is no time in RFC 3339 is in no row: years 0 to 9999.
        SortBy::CreatedAt | SortBy::UpdatedAt => {
            let micros = i64::from_le_bytes(number.to_le_bytes());
            SortKey::Time(Timestamp::from_datetime(
                Timestamp::from_micros(micros).to_datetime(),
            ))
        }
        SortBy::Name => SortKey::Name(name.replace('\0', "")),
        SortBy::Size => SortKey::Size(number),
    };
    let after = After { key, id };
    let text = Cursor::behind(after.clone(), sort);
    for other in (0..8).map(self::sort) {
        let wanted = (other == sort).then(|| after.clone());
        assert_eq!(Cursor::read(&text, other), wanted, "{text} in {other:?}");
    }
}

fn any_text(text: &str, sort: Sort) {
    let Some(after) = Cursor::read(text, sort) else {
        return;
    };
    if let SortKey::Name(name) = &after.key {
        assert!(!name.contains('\0'), "{name:?}");
    }
    // Times may have been beyond the calendar's ends, where writing them moves them.
    let written = Cursor::behind(after, sort);
    let read = Cursor::read(&written, sort).expect("what was written can be read");
    assert_eq!(Cursor::behind(read, sort), written);
}

fn sort(byte: u8) -> Sort {
    let orders = [
        SortBy::CreatedAt,
        SortBy::UpdatedAt,
        SortBy::Name,
        SortBy::Size,
    ];
    Sort {
        by: orders[usize::from(byte % 4)],
        descending: byte & 4 != 0,
    }
}
