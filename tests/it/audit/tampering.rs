//! Whoever changes the database behind the service's back is seen, and is refused at first.

use box_service::domain::audit::{Anchor, Fault, Standing};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use super::{assert_intact, seal, verify};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    with [("BOX_AUDIT__INTERVAL", "30d")];
    what_was_sealed_can_not_be_changed,
    a_row_that_is_gone_is_seen,
    a_row_that_was_changed_is_seen,
    rows_that_changed_places_are_seen,
    an_end_that_was_cut_off_is_seen,
    a_chain_that_was_made_anew_is_seen,
    an_older_end_is_seen_by_an_anchor,
    what_can_not_be_checked_is_no_good_news,
);

async fn five(service: &Service) {
    let client = service.client("acme");
    for number in 0..5 {
        client.upload(&number.to_string(), "bytes").await;
    }
    assert_eq!(seal(service).await, 5);
    assert_intact(service.domain()).await;
}

async fn attempt(service: &Service, sql: &str) -> Result<(), sqlx::Error> {
    let url = service.variable("BOX_DATABASE__URL");
    let sql = AssertSqlSafe(sql.to_owned());
    if url.starts_with("sqlite:") {
        let mut conn = SqliteConnection::connect(url).await?;
        let done = sqlx::raw_sql(sql).execute(&mut conn).await;
        conn.close().await?;
        done.map(drop)
    } else {
        let mut conn = PgConnection::connect(url).await?;
        let done = sqlx::raw_sql(sql).execute(&mut conn).await;
        conn.close().await?;
        done.map(drop)
    }
}

/// As somebody who may do what they like with the database.
async fn tamper(service: &Service, sql: &str) {
    let names = [
        ("events_come_unsealed", "events"),
        ("events_stay", "events"),
        ("events_are_kept", "events"),
        ("audit_heads_advance", "audit_heads"),
        ("audit_heads_stay", "audit_heads"),
    ];
    let sqlite = service.variable("BOX_DATABASE__URL").starts_with("sqlite:");
    for (name, table) in names {
        let on = if sqlite {
            String::new()
        } else {
            format!(" ON {table}")
        };
        service
            .execute(&format!("DROP TRIGGER IF EXISTS {name}{on}"))
            .await;
    }
    service.execute(sql).await;
}

async fn what_was_sealed_can_not_be_changed(service: &Service) {
    five(service).await;
    service.client("acme").upload("unsealed", "bytes").await;
    for sql in [
        "UPDATE events SET subject = 'another' WHERE seq = 3",
        "UPDATE events SET hash = hash WHERE seq = 3",
        "UPDATE events SET seq = 9 WHERE seq = 3",
        "UPDATE events SET subject = 'another' WHERE seq IS NULL",
        "UPDATE events SET seq = 6, hash = (SELECT hash FROM events WHERE seq = 5), detail = 'x' WHERE seq IS NULL",
        "DELETE FROM events WHERE seq = 1",
        "DELETE FROM events WHERE seq IS NULL",
        "INSERT INTO events SELECT id, tenant, at, subject, action, target, request_id, remote_ip, detail, 7, hash
         FROM events WHERE seq = 1",
        "UPDATE audit_heads SET seq = 4",
        "UPDATE audit_heads SET signature = 'x'",
        "DELETE FROM audit_heads",
    ] {
        let refused = attempt(service, sql).await.expect_err(sql).to_string();
        let told = ["events", "head"].iter().any(|word| refused.contains(word));
        assert!(told, "{sql}: {refused}");
    }
    if !service.variable("BOX_DATABASE__URL").starts_with("sqlite:") {
        for table in ["events", "audit_heads", "audit_checkpoints"] {
            attempt(service, &format!("TRUNCATE {table}"))
                .await
                .unwrap_err();
        }
    }
    seal(service).await;
    assert_eq!(assert_intact(service.domain()).await.last, 6);
}

async fn faults(service: &Service, anchors: &[Anchor]) -> Vec<Fault> {
    let report = verify(service.domain(), anchors).await;
    assert_eq!(report.standing(), Standing::Broken, "{report:?}");
    report.faults
}

async fn a_row_that_is_gone_is_seen(service: &Service) {
    five(service).await;
    tamper(service, "DELETE FROM events WHERE seq = 3").await;
    assert_eq!(faults(service, &[]).await, [Fault::Removed { seq: 3 }]);
    tamper(service, "DELETE FROM events WHERE seq < 3").await;
    assert_eq!(faults(service, &[]).await, [Fault::Removed { seq: 1 }]);
    // All of them, and the head.
    tamper(service, "DELETE FROM events").await;
    assert_eq!(faults(service, &[]).await, [Fault::CutOff { seq: 0 }]);
}

async fn a_row_that_was_changed_is_seen(service: &Service) {
    five(service).await;
    let by_text = [
        "subject",
        "action",
        "target",
        "request_id",
        "remote_ip",
        "detail",
    ];
    for column in by_text {
        let keep = format!("CREATE TABLE kept AS SELECT {column} AS was FROM events WHERE seq = 2");
        service.execute(&keep).await;
        tamper(
            service,
            &format!("UPDATE events SET {column} = '{{}}x' WHERE seq = 2"),
        )
        .await;
        assert_eq!(
            faults(service, &[]).await,
            [Fault::Changed { seq: 2 }],
            "{column}"
        );
        let back = format!("UPDATE events SET {column} = (SELECT was FROM kept) WHERE seq = 2");
        tamper(service, &back).await;
        service.execute("DROP TABLE kept").await;
        assert_intact(service.domain()).await;
    }
    // Absent is not empty, and nothing moves from one field into the next.
    tamper(service, "UPDATE events SET remote_ip = NULL WHERE seq = 4").await;
    assert_eq!(faults(service, &[]).await, [Fault::Changed { seq: 4 }]);
    tamper(
        service,
        "UPDATE events SET subject = 'test', action = 'erfile.created' WHERE seq = 1",
    )
    .await;
    assert_eq!(faults(service, &[]).await, [Fault::Changed { seq: 1 }]);
}

async fn rows_that_changed_places_are_seen(service: &Service) {
    five(service).await;
    tamper(
        service,
        "UPDATE events SET seq = 100 WHERE seq = 2;
         UPDATE events SET seq = 2 WHERE seq = 3;
         UPDATE events SET seq = 3 WHERE seq = 100",
    )
    .await;
    assert_eq!(faults(service, &[]).await, [Fault::Changed { seq: 2 }]);
}

async fn an_end_that_was_cut_off_is_seen(service: &Service) {
    five(service).await;
    tamper(service, "DELETE FROM events WHERE seq > 3").await;
    assert_eq!(faults(service, &[]).await, [Fault::CutOff { seq: 3 }]);
    // With a head that is made to fit, which nobody signed.
    tamper(
        service,
        "UPDATE audit_heads SET seq = 3, hash = (SELECT hash FROM events WHERE seq = 3)",
    )
    .await;
    assert_eq!(
        faults(service, &[]).await,
        [Fault::WrongSignature { of: "head" }]
    );
    tamper(service, "DELETE FROM audit_heads").await;
    assert_eq!(faults(service, &[]).await, [Fault::NoHead]);
}

/// By somebody who knows how it is computed, and has not the key.
async fn a_chain_that_was_made_anew_is_seen(service: &Service) {
    five(service).await;
    let head = service.domain().audit_head(&"acme".parse().unwrap()).await;
    let (own, _) = head.unwrap().unwrap().signed.unwrap();
    tamper(
        service,
        "UPDATE events SET seq = NULL, hash = NULL, subject = 'another';
         DELETE FROM audit_heads",
    )
    .await;
    let mut forger = service.domain().clone();
    let secret = "f".repeat(32).parse().unwrap();
    let keys = box_service::domain::audit::Keys::new(&secret).unwrap();
    forger.audit_keys = Some(std::sync::Arc::new(keys));
    assert_eq!(forger.audit_seal().await.unwrap(), 5);
    assert_intact(&forger).await;
    let report = verify(service.domain(), &[]).await;
    assert_eq!(report.standing(), Standing::Unchecked, "{report:?}");
    // And says that it is of the service's own key.
    let claimed = format!("UPDATE audit_heads SET key_id = '{own}'");
    tamper(service, &claimed).await;
    assert_eq!(
        faults(service, &[]).await,
        [Fault::WrongSignature { of: "head" }]
    );
}

async fn an_older_end_is_seen_by_an_anchor(service: &Service) {
    five(service).await;
    service
        .execute("CREATE TABLE kept AS SELECT * FROM audit_heads")
        .await;
    service.client("acme").upload("late", "bytes").await;
    seal(service).await;
    let report = assert_intact(service.domain()).await;
    let anchor: Anchor = format!("acme:6:{}", report.hash).parse().unwrap();
    tamper(
        service,
        "DELETE FROM events WHERE seq = 6; DELETE FROM audit_heads;
         INSERT INTO audit_heads SELECT * FROM kept",
    )
    .await;
    // What a key signed is no news of how much was signed after it.
    assert_intact(service.domain()).await;
    let seen = faults(service, std::slice::from_ref(&anchor)).await;
    assert_eq!(seen, [Fault::WrongAnchor { seq: 6 }]);
    service.execute("DROP TABLE kept").await;
}

async fn what_can_not_be_checked_is_no_good_news(service: &Service) {
    five(service).await;
    let mut other = service.domain().clone();
    other.audit_keys = None;
    assert_eq!(verify(&other, &[]).await.standing(), Standing::Unchecked);
    // A key that follows another, and one that has gone.
    let mine = crate::harness::service::secrets();
    let old = mine.signing().expose();
    let new = "n".repeat(32);
    for (secrets, standing) in [
        (format!("{new},{old}"), Standing::Intact),
        (new.clone(), Standing::Unchecked),
    ] {
        let keys = box_service::domain::audit::Keys::new(&secrets.parse().unwrap()).unwrap();
        other.audit_keys = Some(std::sync::Arc::new(keys));
        assert_eq!(verify(&other, &[]).await.standing(), standing);
    }
    tamper(
        service,
        "UPDATE audit_heads SET key_id = NULL, signature = NULL",
    )
    .await;
    let report = verify(service.domain(), &[]).await;
    assert_eq!(report.standing(), Standing::Unchecked);
}
