//! How SQLite goes about a list: what is found is tested over both databases, in tests/it.

use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{AssertSqlSafe, QueryBuilder, Sqlite, SqlitePool};

use super::*;
use crate::metadata::SQLITE_MIGRATIONS;

#[test]
fn the_end_of_a_prefix_sorts_behind_all_that_begins_with_it() {
    assert_eq!(after_prefix("a/"), Some("a0".to_owned()));
    assert_eq!(after_prefix("a\u{10ffff}"), Some("b".to_owned()));
    assert_eq!(after_prefix("\u{d7ff}"), Some("\u{e000}".to_owned()));
    assert_eq!(after_prefix("\u{10ffff}"), None);
}

async fn database() -> SqlitePool {
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect("sqlite::memory:")
        .await
        .unwrap();
    SQLITE_MIGRATIONS.run(&pool).await.unwrap();
    pool
}

/// The steps that look for files, but not for one by its id or its place.
async fn plan(database: &SqlitePool, query: QueryBuilder<Sqlite>) -> Vec<String> {
    let sql = format!("EXPLAIN QUERY PLAN {}", query.sql().as_str());
    let steps: Vec<(i64, i64, i64, String)> = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_all(database)
        .await
        .unwrap();
    steps
        .into_iter()
        .map(|(_, _, _, step)| step)
        .filter(|step| {
            step.contains(" f ") && !step.contains("(id=?)") && !step.contains("(rowid=?)")
        })
        .collect()
}

/// The query for a page as SQLite is asked it.
async fn chosen(database: &SqlitePool, filter: &Filter, page: &Page) -> QueryBuilder<Sqlite> {
    let mut conn = database.acquire().await.unwrap();
    let access = access::of_page(&mut conn, filter, page).await.unwrap();
    packed::list(|query| access.push_page(query, filter, page))
}

fn filter() -> Filter {
    let mut filter = Filter::new("acme".parse().unwrap(), Timestamp::from_micros(0));
    filter.prefix = Some("a/".to_owned());
    filter
}

fn after(key: SortKey) -> Option<After> {
    Some(After {
        key,
        id: FileId::from_uuid(Uuid::nil()),
    })
}

/// From the prefix's end, each step would read all that was passed over before.
#[tokio::test]
async fn each_step_through_a_folder_begins_where_the_last_one_ended() {
    let database = database().await;
    let name = after(SortKey::Name("a/b".to_owned()));
    for after in [None, name.as_ref()] {
        assert_eq!(
            plan(&database, packed::folder(&filter(), false, after, 10)).await,
            ["SEARCH f USING INDEX files_by_name (tenant=? AND (name,id)>(?,?) AND name<?)"]
        );
        assert_eq!(
            plan(&database, packed::folder(&filter(), true, after, 10)).await,
            ["SEARCH f USING INDEX files_by_name (tenant=? AND name>? AND (name,id)<(?,?))"]
        );
    }
}

#[tokio::test]
async fn a_page_begins_where_the_last_one_ended() {
    let database = database().await;
    let named = filter();
    let sized = Filter {
        prefix: None,
        min_size: Some(1),
        max_size: Some(9),
        ..filter()
    };
    let timed = Filter {
        prefix: None,
        created_after: Some(Timestamp::from_micros(1)),
        created_before: Some(Timestamp::from_micros(9)),
        ..filter()
    };
    let name = SortKey::Name("a/b".to_owned());
    let time = SortKey::Time(Timestamp::from_micros(5));
    for (filter, by, key, index, column) in [
        (named, SortBy::Name, name, "files_by_name", "name"),
        (
            sized,
            SortBy::Size,
            SortKey::Size(5),
            "files_by_size",
            "size",
        ),
        (
            timed,
            SortBy::CreatedAt,
            time,
            "files_by_created_at",
            "created_at",
        ),
    ] {
        for descending in [false, true] {
            let page = Page {
                sort: Sort { by, descending },
                after: after(key.clone()),
                limit: 10,
            };
            let range = if descending {
                format!("{column}>? AND ({column},id)<(?,?)")
            } else {
                format!("({column},id)>(?,?) AND {column}<?")
            };
            assert_eq!(
                plan(&database, chosen(&database, &filter, &page).await).await,
                [format!(
                    "SEARCH f USING INDEX {index} (tenant=? AND {range})"
                )]
            );
        }
    }
}

#[tokio::test]
async fn a_few_files_are_found_without_reading_all() {
    let database = database().await;
    let everything = Filter {
        prefix: None,
        ..filter()
    };
    let digest = Filter {
        sha256: Some([1; 32]),
        ..everything.clone()
    };
    let name = Filter {
        name: Some("a/b".to_owned()),
        ..everything.clone()
    };
    let trashed = Filter {
        trashed: true,
        ..name.clone()
    };
    for (filter, index, column) in [
        (digest, "files_by_sha256", "sha256"),
        (name, "files_by_name", "name"),
        (trashed, "files_in_trash_by_name", "name"),
    ] {
        let wanted = format!("SEARCH f USING INDEX {index} (tenant=? AND {column}=?");
        for by in [
            SortBy::CreatedAt,
            SortBy::UpdatedAt,
            SortBy::Name,
            SortBy::Size,
        ] {
            for after in [None, after(SortKey::Size(5))] {
                let sort = Sort {
                    by,
                    descending: true,
                };
                let page = Page {
                    sort,
                    after,
                    limit: 10,
                };
                let steps = plan(&database, chosen(&database, &filter, &page).await).await;
                assert!(steps[0].starts_with(&wanted), "{steps:?}");
            }
        }
        let steps = plan(&database, packed::folder(&filter, false, None, 10)).await;
        assert!(steps[0].starts_with(&wanted), "{steps:?}");
    }
}

/// Files of the sizes from 1 on, all called alike.
async fn fill(database: &SqlitePool, files: i64) {
    let sql = format!(
        "INSERT INTO objects (id, tenant, state, epoch, refs, size, sha256, quiet_at, created_at)
         VALUES (zeroblob(16), 'acme', 'live', 1, 1, 0, x'00', 0, 0);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {files})
         INSERT INTO files (id, tenant, name, content_type, size, metadata, version, revision,
                            object_id, created_at, updated_at, created_by)
         SELECT CAST(printf('%016d', i) AS BLOB), 'acme', 'a', 'image/png', i, '{{}}', 1, 1, zeroblob(16), i, i, 'ann' FROM n"
    );
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(database)
        .await
        .unwrap();
}

const BY_NAME: Page = Page {
    sort: Sort {
        by: SortBy::Name,
        descending: false,
    },
    after: None,
    limit: 10,
};

fn sized(min: u64, max: u64) -> Filter {
    Filter {
        prefix: None,
        min_size: Some(min),
        max_size: Some(max),
        ..filter()
    }
}

/// One way for all, a page would take as long as all files do.
#[tokio::test]
async fn few_files_are_sorted_more_are_sought_in_their_order_and_many_are_met_there() {
    let database = database().await;
    fill(&database, 40_000).await;
    let by_name = "SEARCH f USING INDEX files_by_name (tenant=?)";
    let by_size = "SEARCH f USING INDEX files_by_size (tenant=? AND size>? AND size<?)";
    for (files, wanted) in [
        (1_000, vec![by_size]),
        (5_000, vec![by_name, by_size]),
        (35_000, vec![by_name]),
    ] {
        let mut steps = plan(
            &database,
            chosen(&database, &sized(1, files), &BY_NAME).await,
        )
        .await;
        steps.sort_by_key(|step| wanted.iter().position(|wanted| wanted == step));
        assert_eq!(steps, wanted, "{files}");
    }
}

/// Where a page is not within reach, the rest of the list is short, or the others are passed over.
#[tokio::test]
async fn many_files_that_are_far_off_are_sought() {
    let database = database().await;
    fill(&database, 70_000).await;
    let mut conn = database.acquire().await.unwrap();
    let far = Filter {
        created_after: Some(Timestamp::from_micros(1)),
        ..sized(35_001, 70_000)
    };
    let mut by_creation = Page {
        sort: Sort {
            by: SortBy::CreatedAt,
            descending: false,
        },
        ..BY_NAME
    };
    for (place, wanted) in [(0, 35_001), (40_000, 40_001), (69_995, 69_996), (70_000, 0)] {
        by_creation.after = Some(After {
            key: SortKey::Time(Timestamp::from_micros(place)),
            id: FileId::from_uuid(Uuid::max()),
        });
        let files = packed::page(&mut conn, &far, &by_creation, false).await;
        let sizes: Vec<u64> = files.unwrap().iter().map(|file| file.size).collect();
        let last = if wanted == 0 {
            0
        } else {
            70_001.min(wanted + 10)
        };
        assert_eq!(sizes, (wanted..last).collect::<Vec<_>>(), "{place}");
    }
    let found = access::of_page(&mut conn, &far, &by_creation)
        .await
        .unwrap();
    let access::Access::Near(index, _) = found else {
        panic!("another way");
    };
    let past = access::of_far_page(&mut conn, &far, &by_creation, index).await;
    assert!(matches!(past.unwrap(), access::Access::Order(_)));
    by_creation.after = None;
    let past = access::of_far_page(&mut conn, &far, &by_creation, index).await;
    assert!(matches!(past.unwrap(), access::Access::Among(..)));
    let fewer = sized(50_001, 60_000);
    for (place, wanted) in [(0, 50_001), (20_000, 50_001), (59_995, 59_996)] {
        by_creation.after = Some(After {
            key: SortKey::Time(Timestamp::from_micros(place)),
            id: FileId::from_uuid(Uuid::max()),
        });
        let access = access::of_page(&mut conn, &fewer, &by_creation).await;
        assert!(matches!(access.unwrap(), access::Access::AmongNext(..)));
        let files = packed::page(&mut conn, &fewer, &by_creation, false).await;
        let sizes: Vec<u64> = files.unwrap().iter().map(|file| file.size).collect();
        let last = 60_001.min(wanted + 10);
        assert_eq!(sizes, (wanted..last).collect::<Vec<_>>(), "{place}");
    }
}

/// Counting is to cost less than what it saves.
#[tokio::test]
async fn what_is_counted_is_read_off_an_index_alone() {
    let database = database().await;
    let filter = Filter {
        content_type: Some(ContentTypes::Kind("image".to_owned())),
        created_after: Some(Timestamp::from_micros(1)),
        sha256: Some([1; 32]),
        metadata: serde_json::from_str(r#"{"a":"b"}"#).ok(),
        ..sized(1, 9)
    };
    let sets = access::Set::all(&filter, BY_NAME.sort);
    assert_eq!(sets.len(), 5);
    for set in sets {
        let mut query = set.counted();
        query.push(")");
        let sql = format!("EXPLAIN {}", query.sql().as_str());
        let steps: Vec<(i64, String, i64, i64, i64, Option<String>)> =
            sqlx::query_as(AssertSqlSafe(sql))
                .fetch_all(&database)
                .await
                .unwrap();
        // An index is opened with its key.
        let is_table = |cursor: i64| {
            steps.iter().any(|(_, step, opened, _, _, of)| {
                step == "OpenRead"
                    && *opened == cursor
                    && !of.as_deref().unwrap_or_default().starts_with("k(")
            })
        };
        let read =
            (steps.iter()).find(|(_, step, cursor, ..)| step == "Column" && is_table(*cursor));
        assert_eq!(read, None, "{steps:?}");
    }
}

#[tokio::test]
async fn a_value_that_few_have_finds_them() {
    let database = database().await;
    sqlx::raw_sql(
        r#"INSERT INTO objects (id, tenant, state, epoch, refs, size, sha256, quiet_at, created_at)
           VALUES (x'01', 'acme', 'live', 1, 1, 0, x'00', 0, 0);
           WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
           INSERT INTO files (id, tenant, name, content_type, size, metadata, version, revision,
                              object_id, created_at, updated_at, created_by)
           SELECT CAST(printf('%016d', i) AS BLOB), 'acme', 'a', 'image/png', i,
                  '{"all":"x","one":' || i || ',"in":{"deep":' || i || ',"listed":[{"a":[' || i || ']},"all"]}}', 1, 1, x'01', i, i, 'ann' FROM n"#,
    )
    .execute(&database)
    .await
    .unwrap();
    let page = Page {
        sort: Sort {
            by: SortBy::Name,
            descending: false,
        },
        after: None,
        limit: 10,
    };
    for (wanted, few) in [
        (r#"{"one":7}"#, true),
        (r#"{"all":"x","one":7.0}"#, true),
        (r#"{"all":"x"}"#, false),
        (r#"{"in":{"deep":7}}"#, true),
        (r#"{"in":{"listed":["all",{"a":[7]}]}}"#, true),
        (r#"{"in":{"listed":["all"]}}"#, false),
        (r#"{"one":7.5}"#, false),
    ] {
        let filter = Filter {
            prefix: None,
            metadata: Some(serde_json::from_str(wanted).unwrap()),
            ..filter()
        };
        let steps = plan(&database, chosen(&database, &filter, &page).await).await;
        let by_order = steps
            .first()
            .is_some_and(|step| step.starts_with("SEARCH f USING INDEX files_by_name "));
        assert_eq!(by_order, !few, "{wanted}: {steps:?}");
    }
}

fn newest(limit: u32) -> Page {
    Page {
        sort: Sort {
            by: SortBy::CreatedAt,
            descending: true,
        },
        after: None,
        limit,
    }
}

/// The steps of a page that is made of runs, but for those that find them.
async fn merged(database: &SqlitePool, filter: &Filter, page: &Page) -> Vec<String> {
    let runs = runs::Runs::of(filter, page.sort).unwrap();
    let query = packed::list(|query| runs.push_page(query, page, 2));
    // Whether the index has all of it is told by what it has.
    let steps = plan(database, query).await.into_iter();
    let steps = steps.map(|step| step.replace(" COVERING", ""));
    steps
        .filter(|step| step.contains("=? AND <expr>=?") || step.contains("content_type=?"))
        .collect()
}

/// Each run is read in the page's order, from where the page before it ended, and no further than the page.
#[tokio::test]
async fn a_folder_a_kind_and_sizes_are_read_in_runs() {
    let database = database().await;
    let kind = Filter {
        prefix: None,
        content_type: Some(ContentTypes::Kind("image".to_owned())),
        ..filter()
    };
    let prefix = |prefix: &str| Filter {
        prefix: Some(prefix.to_owned()),
        ..filter()
    };
    for (filter, index, value, looks) in [
        (prefix("a/"), "files_by_top_folder", "<expr>", 2),
        (prefix("a/b/"), "files_by_folder", "<expr>", 2),
        // Beside its runs, twice the folder that it ends in.
        (prefix("a"), "files_by_top_folder", "<expr>", 4),
        (prefix("a/b"), "files_by_folder", "<expr>", 4),
        (kind, "files_by_content_type", "content_type", 2),
    ] {
        let first = newest(10);
        let second = Page {
            after: after(SortKey::Time(Timestamp::from_micros(5))),
            ..newest(10)
        };
        let step = format!("SEARCH f USING INDEX {index} (tenant=? AND {value}=?");
        assert_eq!(
            merged(&database, &filter, &first).await,
            vec![format!("{step})"); looks]
        );
        assert_eq!(
            merged(&database, &filter, &second).await,
            vec![format!("{step} AND (created_at,id)<(?,?))"); looks]
        );
    }
    let step = "SEARCH f USING INDEX files_by_size_class (tenant=? AND <expr>=?)";
    assert_eq!(
        merged(&database, &sized(100, 120), &newest(10)).await,
        [step; 2]
    );
}

/// As many as have a value are not sorted, where its terms have them in the page's order.
#[tokio::test]
async fn a_value_that_many_have_is_read_in_the_order_of_creation() {
    let database = database().await;
    fill(&database, 3_000).await;
    sqlx::raw_sql(r#"UPDATE files SET metadata = '{"a":"b"}' WHERE size <= 2000; UPDATE files SET metadata = '{"a":"c"}' WHERE size > 2100"#)
        .execute(&database)
        .await
        .unwrap();
    let mut conn = database.acquire().await.unwrap();
    let mut page = newest(10);
    page.after = after(SortKey::Time(Timestamp::from_micros(5)));
    for (value, page, in_order) in [
        ("b", &page, true),
        ("c", &page, false),
        ("b", &BY_NAME, false),
    ] {
        let filter = Filter {
            prefix: None,
            metadata: serde_json::from_str(&format!(r#"{{"a":"{value}"}}"#)).ok(),
            ..filter()
        };
        let access = access::at_first(&mut conn, &filter, page).await.unwrap();
        assert_eq!(
            matches!(access, access::Access::Having(_)),
            in_order,
            "{value}"
        );
        if in_order {
            let query = packed::list(|query| access.push_page(query, &filter, page));
            let sql = format!("EXPLAIN QUERY PLAN {}", query.sql().as_str());
            let steps: Vec<(i64, i64, i64, String)> = sqlx::query_as(AssertSqlSafe(sql))
                .fetch_all(&mut *conn)
                .await
                .unwrap();
            let steps: Vec<String> = steps.into_iter().map(|(_, _, _, step)| step).collect();
            assert!(
                steps.contains(&"SEARCH t USING PRIMARY KEY (tenant=? AND key=? AND value=? AND (created_at,file_id)<(?,?))".to_owned()),
                "{steps:?}"
            );
            assert!(
                !steps.iter().any(|step| step.contains("B-TREE")),
                "{steps:?}"
            );
        }
    }
}
