//! What happened: told in an order that stays, verified, and kept for as long as is configured.

use std::time::Duration;

use box_service::app;
use box_service::auth::Scope;
use box_service::domain::audit::{Access, Anchor, Report, Standing};
use box_service::domain::{Caller, Domain};
use box_service::id::Tenant;
use serde_json::{Value, json};

use crate::harness::client::{Client, id, send};
use crate::harness::service::{Service, on_every_pair};

mod tampering;

const DAY: Duration = Duration::from_secs(86_400);

on_every_pair!(
    // Sealed by the tests alone.
    with [("BOX_AUDIT__INTERVAL", "30d"), ("BOX_AUDIT__KEEP", "10d")];
    events_are_listed_once_they_are_sealed,
    events_are_filtered_and_paged,
    an_export_has_all_of_them,
    events_are_kept_for_as_long_as_configured,
    access_is_noted_within_bounds,
    two_sealers_make_one_chain,
);

pub async fn seal(service: &Service) -> u64 {
    service.domain().audit_seal().await.unwrap()
}

pub async fn verify(domain: &Domain, anchors: &[Anchor]) -> Report {
    let mut found = Vec::new();
    let acme: Tenant = "acme".parse().unwrap();
    let mut tell = |report: &Report| found.push(report.clone());
    let verified = domain.audit_verify(Some(&acme), anchors, &mut tell);
    verified.await.unwrap();
    found.remove(0)
}

pub async fn assert_intact(domain: &Domain) -> Report {
    let report = verify(domain, &[]).await;
    assert_eq!(report.standing(), Standing::Intact, "{report:?}");
    report
}

async fn list(client: &Client, query: &str) -> Vec<Value> {
    let answer = send(client.get(&format!("/v1/audit-events{query}"))).await;
    answer.json(200)["items"].as_array().unwrap().clone()
}

async fn events_are_listed_once_they_are_sealed(service: &Service) {
    let client = service.client("acme");
    assert_eq!(list(&client, "").await, Vec::<Value>::new());
    let file = client.upload("a", "bytes").await;
    service.clock.advance(Duration::from_millis(1));
    let patched = client.patch(&format!("/v1/files/{}", id(&file)));
    let patched = patched
        .header("x-request-id", "by-me")
        .json(&json!({"name": "b"}));
    send(patched).await.json(200);
    service.client("other").upload("c", "bytes").await;
    assert_eq!(list(&client, "").await, Vec::<Value>::new());

    assert_eq!(seal(service).await, 3);
    assert_eq!(seal(service).await, 0);
    let events = list(&client, "").await;
    assert_eq!(events.len(), 2, "{events:?}");
    for (event, (seq, action)) in events
        .iter()
        .zip([(1, "file.created"), (2, "file.updated")])
    {
        assert_eq!(
            (&event["seq"], &event["action"]),
            (&json!(seq), &json!(action))
        );
        assert_eq!(event["target"], file["id"]);
        assert_eq!(event["subject"], "tester");
        assert_eq!(event["remote_ip"], "127.0.0.1");
        assert!(event["detail"].is_object() && event["at"].is_string());
    }
    assert_eq!(events[1]["request_id"], "by-me");
    // What comes later has a later place, also where it happened earlier.
    service.execute(&late(service)).await;
    assert_eq!(seal(service).await, 1);
    let last = list(&client, "").await.pop().unwrap();
    assert_eq!((&last["seq"], &last["target"]), (&json!(3), &json!("late")));
    assert_eq!(last["detail"], json!({"a": [1.5, "\u{e4}"]}));

    let report = assert_intact(service.domain()).await;
    assert_eq!((report.first, report.last), (1, 3));
    let answer = send(client.get("/v1/audit-events?limit=1")).await;
    let head = format!("acme:3:{}", report.hash);
    assert_eq!(answer.header("box-audit-head"), head);
    let anchor: Anchor = head.parse().unwrap();
    let report = verify(service.domain(), std::slice::from_ref(&anchor)).await;
    assert_eq!(report.standing(), Standing::Intact);

    let poor = service.client_with("acme", &[Scope::FilesRead, Scope::Admin]);
    send(poor.get("/v1/audit-events"))
        .await
        .problem(403, "forbidden");
}

/// An event of a transaction that began long ago.
fn late(service: &Service) -> String {
    let (id, at) = if service.variable("BOX_DATABASE__URL").starts_with("sqlite:") {
        ("x'00000000000070008000000000000001'", "0")
    } else {
        (
            "'00000000-0000-7000-8000-000000000001'",
            "'1970-01-01T00:00:00Z'",
        )
    };
    format!(
        "INSERT INTO events (id, tenant, at, subject, action, target, detail)
         VALUES ({id}, 'acme', {at}, 'somebody', 'file.created', 'late', '{{\"a\": [1.50, \"\u{e4}\"]}}')"
    )
}

async fn events_are_filtered_and_paged(service: &Service) {
    let client = service.client("acme");
    let mut ids = Vec::new();
    let mut times = Vec::new();
    for number in 0..5 {
        let file = client.upload(&number.to_string(), "bytes").await;
        ids.push(id(&file).to_owned());
        times.push(service.clock.now());
        service.clock.advance(Duration::from_secs(1));
    }
    let gone = send(client.delete(&format!("/v1/files/{}", ids[0]))).await;
    assert_eq!(gone.status, 204);
    seal(service).await;

    let found = async |query: &str| {
        let events = list(&client, query).await;
        let places: Vec<i64> = events
            .iter()
            .map(|event| event["seq"].as_i64().unwrap())
            .collect();
        places
    };
    assert_eq!(found("").await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(found("?action=file.trashed").await, [6]);
    assert_eq!(found(&format!("?target={}", ids[0])).await, [1, 6]);
    assert_eq!(
        found("?subject=tester&action=file.created").await,
        [1, 2, 3, 4, 5]
    );
    assert_eq!(found("?subject=nobody").await, [0; 0]);
    let bounds = format!("?after={}&before={}", times[1], times[3]);
    assert_eq!(found(&bounds).await, [2, 3]);

    let mut cursor = String::new();
    let mut paged = Vec::new();
    loop {
        let path = format!("/v1/audit-events?limit=2&action=file.created{cursor}");
        let page = send(client.get(&path)).await.json(200);
        paged.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|event| event["seq"].clone()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(json!(paged), json!([1, 2, 3, 4, 5]));

    for (query, pointer) in [
        ("after=yesterday", "/after"),
        ("cursor=x", "/cursor"),
        ("limit=1001", "/limit"),
        ("target=%00", "/target"),
        ("object=x", "/object"),
    ] {
        let refused = send(client.get(&format!("/v1/audit-events?{query}"))).await;
        refused.invalid(&[pointer]);
    }
}

async fn an_export_has_all_of_them(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "bytes").await;
    // More than a page of the export and a batch of the sealer.
    let path = format!("/v1/files/{}", id(&file));
    for part in 0..12 {
        let copies = (0..50).map(|number| {
            let copy = client.post(&format!("{path}/copy"));
            send(copy.json(&json!({"name": format!("{part}/{number}")})))
        });
        for copied in futures::future::join_all(copies).await {
            copied.json(201);
        }
    }
    assert_eq!(seal(service).await, 601);
    let export = client
        .get("/v1/audit-events")
        .header("accept", "application/x-ndjson");
    let answer = send(export).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    assert!(answer.header("box-audit-head").starts_with("acme:601:"));
    let text = answer.text();
    let places: Vec<i64> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["seq"]
                .as_i64()
                .unwrap()
        })
        .collect();
    assert_eq!(places, (1..=601).collect::<Vec<_>>());
    let refused = client
        .get("/v1/audit-events?limit=5")
        .header("accept", "application/x-ndjson");
    send(refused).await.invalid(&["/limit"]);
    assert_eq!(assert_intact(service.domain()).await.last, 601);
}

async fn events_are_kept_for_as_long_as_configured(service: &Service) {
    let client = service.client("acme");
    let domain = service.domain();
    client.upload("a", "bytes").await;
    client.upload("b", "bytes").await;
    seal(service).await;
    let early = verify(domain, &[]).await;
    service.clock.advance(DAY * 6);
    client.upload("c", "bytes").await;
    seal(service).await;

    service.clock.advance(DAY * 4);
    assert_eq!(domain.audit_sweep().await.unwrap(), 0);
    service.clock.advance(DAY);
    assert_eq!(domain.audit_sweep().await.unwrap(), 2);
    assert_eq!(domain.audit_sweep().await.unwrap(), 0);
    let places: Vec<Value> = list(&client, "")
        .await
        .iter()
        .map(|e| e["seq"].clone())
        .collect();
    assert_eq!(json!(places), json!([3]));
    let report = assert_intact(domain).await;
    assert_eq!((report.first, report.last), (3, 3));
    // The end of what was removed can still be compared.
    let anchor = format!("acme:2:{}", early.hash).parse().unwrap();
    assert_eq!(verify(domain, &[anchor]).await.standing(), Standing::Intact);

    // All of them: the chain goes on where it ended.
    service.clock.advance(DAY * 11);
    assert_eq!(domain.audit_sweep().await.unwrap(), 1);
    assert_intact(domain).await;
    client.upload("d", "bytes").await;
    seal(service).await;
    let report = assert_intact(domain).await;
    assert_eq!((report.first, report.last), (4, 4));
}

async fn access_is_noted_within_bounds(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "bytes").await;
    let reader = service.client_with("acme", &[Scope::FilesRead]);
    let path = format!("/v1/files/{}", id(&file));
    send(reader.delete(&path)).await.problem(403, "forbidden");
    let sign = format!("{path}/signed-urls");
    let put = reader
        .post(&sign)
        .json(&json!({"method": "PUT", "expires_in_s": 60}));
    send(put).await.problem(403, "forbidden");
    let get = client
        .post(&sign)
        .json(&json!({"method": "HEAD", "expires_in_s": 60}));
    let signed = send(get).await.json(200);
    let signed = signed["url"]
        .as_str()
        .unwrap()
        .split("/s/")
        .nth(1)
        .unwrap()
        .to_owned();
    let stranger = service.stranger();
    let signed = format!("/s/{signed}");
    assert_eq!(send(stranger.head(&signed)).await.status, 200);
    send(stranger.get(&signed)).await.problem(403, "forbidden");
    service.clock.advance(Duration::from_secs(60));
    assert_eq!(send(stranger.head(&signed)).await.status, 403);
    // Of nobody's tenant.
    send(stranger.get("/s/x")).await.problem(403, "forbidden");
    send(stranger.get(&path))
        .await
        .problem(401, "unauthenticated");

    written(service).await;
    seal(service).await;
    // All but one at the same time, and so in any order.
    let events = list(&client, "").await;
    let mut noted: Vec<String> = events
        .iter()
        .filter(|event| event["action"] != "file.created")
        .map(|event| {
            let (action, target) = (&event["action"], &event["target"]);
            format!("{action} {target} {}", event["detail"]).replace('"', "")
        })
        .collect();
    noted.sort();
    let file = id(&file);
    assert_eq!(
        noted,
        [
            "access.refused /v1/files/{id} {method:DELETE,scope:files:delete}".to_owned(),
            "access.refused /v1/files/{id}/signed-urls {method:POST,scope:files:write}".to_owned(),
            format!("access.refused {file} {{method:GET}}"),
            format!("access.refused {file} {{method:HEAD}}"),
            format!("access.signed {file} {{method:HEAD}}"),
        ]
    );

    // What there is no room for is counted; nobody waits.
    let domain = service.domain();
    let before = domain.metrics.audit.dropped.get();
    let caller = Caller::service("acme".parse().unwrap());
    for _ in 0..20_000 {
        domain.access_note(Access::Refused, &caller, "x".to_owned(), json!({}));
    }
    let dropped = domain.metrics.audit.dropped.get() - before;
    assert!((15_000..=19_000).contains(&dropped), "{dropped}");
    written(service).await;
}

/// The service writes what was noted at the same time.
async fn written(service: &Service) {
    while service.domain().access_write().await.unwrap() > 0 {}
    // A batch that the service itself has taken is written by now, or before it ends.
    let look = async {
        loop {
            let noted = service.domain().metrics.audit.noted.get();
            if noted == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look)
        .await
        .unwrap();
}

/// Each with a lease of its own: so both are at work, as when one was slow and its lease ran out.
async fn two_sealers_make_one_chain(service: &Service) {
    let client = service.client("acme");
    let sqlite = service.variable("BOX_DATABASE__URL").starts_with("sqlite:");
    let mut domains = vec![service.domain().clone()];
    if !sqlite {
        let config = &service.app.config;
        let mut other = app::open_domain(config, false, service.clock.clone())
            .await
            .unwrap();
        other.audit_keys = service.domain().audit_keys.clone();
        domains.push(other);
    } else {
        // One process, in which two rounds meet.
        domains.push(service.domain().clone());
    }
    let file = client.upload("file", "x").await;
    let path = format!("/v1/files/{}/copy", id(&file));
    for round in 0..10 {
        // Not uploads: their leases would run out, too.
        let copies = (0..20).map(|number| {
            let copy = client.post(&path);
            send(copy.json(&json!({"name": format!("{round}/{number}")})))
        });
        let seal = |domain: Domain| {
            let clock = service.clock.clone();
            async move {
                for _ in 0..10 {
                    // Whoever has the lease loses it.
                    clock.advance(Duration::from_secs(31));
                    domain.audit_seal().await.unwrap();
                }
            }
        };
        let (copies, (), ()) = futures::join!(
            futures::future::join_all(copies),
            seal(domains[0].clone()),
            seal(domains[1].clone())
        );
        for copied in copies {
            copied.json(201);
        }
    }
    service.clock.advance(Duration::from_secs(31));
    seal(service).await;
    let report = assert_intact(service.domain()).await;
    assert_eq!((report.first, report.last), (1, 201));
    assert_eq!(service.count("events WHERE seq IS NULL").await, 0);
    if !sqlite {
        domains[1].metadata.close().await;
    }
}

#[test]
fn an_anchor_is_a_tenant_a_number_and_a_hash() {
    let hash = "ab".repeat(32);
    let anchor: Anchor = format!("acme:7:{hash}").parse().unwrap();
    assert_eq!((anchor.tenant.as_str(), anchor.seq), ("acme", 7));
    for text in [
        "",
        "acme:7",
        "acme:0:HASH",
        "acme:-1:HASH",
        "acme:7:HASHab",
        "a b:7:HASH",
        "acme:7:xyz",
    ] {
        let text = text.replace("HASH", &hash);
        assert!(text.parse::<Anchor>().is_err(), "{text}");
    }
}
