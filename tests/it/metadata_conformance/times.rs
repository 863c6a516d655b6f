//! Times: to the microsecond, in order, before 1970 too.

use box_service::clock::Timestamp;
use box_service::metadata::search::{Filter, Page, Sort, SortBy};

use super::{Fixture, at, file_id};

conformance!(
    times_are_kept_to_the_microsecond,
    times_sort,
    a_time_past_the_calendar_is_past_all_that_is_in_it,
);

/// In no order.
fn times() -> Vec<Timestamp> {
    let mut times: Vec<Timestamp> = [
        0,
        1,
        -1,
        1_700_000_000_123_456,
        -1_000_001,
        -999_999,
        999_999,
    ]
    .map(Timestamp::from_micros)
    .into();
    times.extend(
        [
            "9999-12-31T23:59:59.999999Z",
            "0000-01-01T00:00:00Z",
            "1582-10-15T00:00:00.000001Z",
            "1969-12-31T23:59:59.5Z",
            // Where PostgreSQL begins to count.
            "2000-01-01T00:00:00Z",
            "1999-12-31T23:59:59.999999Z",
        ]
        .map(|text| Timestamp::parse(text).unwrap()),
    );
    times
}

async fn times_are_kept_to_the_microsecond(fixture: Fixture) {
    let object = fixture.live().await;
    for (number, time) in (1..).zip(times()) {
        let mut file = fixture.file(number, object);
        file.created_at = time;
        file.updated_at = time;
        file.expires_at = Some(time);
        file.trashed_at = Some(time);
        fixture.insert(&file).await;
        assert_eq!(fixture.get(file.id).await.unwrap(), file);
    }
}

async fn times_sort(fixture: Fixture) {
    let object = fixture.live().await;
    for (number, time) in (1..).zip(times()) {
        let mut file = fixture.file(number, object);
        file.created_at = time;
        fixture.insert(&file).await;
    }
    let mut wanted = times();
    wanted.sort();
    for descending in [false, true] {
        let filter = Filter::new(fixture.tenant.clone(), at(0));
        let page = Page {
            sort: Sort {
                by: SortBy::CreatedAt,
                descending,
            },
            after: None,
            limit: 100,
        };
        let mut reader = fixture.reader().await;
        let files = reader.conn().file_list(&filter, &page).await.unwrap();
        let found: Vec<Timestamp> = files.iter().map(|file| file.created_at).collect();
        assert_eq!(found, wanted);
        wanted.reverse();
    }
}

/// `now` less a time to keep that an operator meant as "for ever".
async fn a_time_past_the_calendar_is_past_all_that_is_in_it(fixture: Fixture) {
    let object = fixture.live().await;
    let mut file = fixture.file(1, object);
    file.trashed_at = Timestamp::parse("1815-12-10T00:00:00Z");
    file.expires_at = Timestamp::parse("2500-01-01T00:00:00Z");
    fixture.insert(&file).await;
    let mut reader = fixture.reader().await;
    for (time, wanted) in [
        (i64::MIN, vec![]),
        (i64::MAX, vec![(fixture.tenant.clone(), file_id(1))]),
    ] {
        let time = Timestamp::from_micros(time);
        let trashed = reader.conn().file_trashed_before(time, 10).await.unwrap();
        assert_eq!(trashed, wanted);
        let expired = reader.conn().file_expired(time, 10).await.unwrap();
        assert_eq!(expired, wanted);
    }
}
