//! Usage where there is no quota: what is recorded is what is there, or is found out.

use std::time::Duration;

use box_service::domain::fsck::{Options, ProblemKind, Report};
use serde_json::json;

use super::{assert_usage, path, refused, remove, trash, upload};
use crate::harness::client::send;
use crate::harness::content::MIB;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    with [("BOX_VERSIONS__KEEP", "2")];
    usage_is_exact_after_each_change,
    usage_takes_no_parameters,
    usage_that_was_tampered_with_is_found_and_mended,
    a_quota_that_comes_later_counts_what_was_there,
);

async fn usage_is_exact_after_each_change(service: &Service) {
    let client = service.client("acme");
    let usage = send(client.get("/v1/usage")).await.json(200);
    let empty = json!({"bytes": 0, "files": 0, "max_bytes": null, "max_files": null});
    assert_eq!(usage, empty);
    let file = upload(&client, 3 * MIB).await;
    let three = 3 * MIB as u64;
    assert_usage(&client, three, 1).await;
    let change = client.patch(&path(&file)).json(&json!({"name": "b"}));
    send(change).await.json(200);
    assert_usage(&client, three, 1).await;
    let put = |size: usize| {
        let request = client.put(&format!("{}/content", path(&file)));
        send(request.body(vec![b'y'; size]))
    };
    put(10).await.json(200);
    assert_usage(&client, three + 10, 1).await;
    put(5).await.json(200);
    assert_usage(&client, three + 15, 1).await;
    // The first one goes.
    put(1).await.json(200);
    assert_usage(&client, 16, 1).await;
    let restore = client.post(&format!("{}/versions/2/restore", path(&file)));
    send(restore).await.json(200);
    assert_usage(&client, 16, 1).await;
    let copy = send(client.post(&format!("{}/copy", path(&file))))
        .await
        .json(201);
    assert_usage(&client, 26, 2).await;
    trash(&client, &file).await;
    trash(&client, &file).await;
    assert_usage(&client, 26, 2).await;
    remove(&client, &copy).await;
    assert_usage(&client, 16, 1).await;
    service.clock.advance(Duration::from_secs(30 * 86_400));
    service.domain().sweep().await.unwrap();
    assert_usage(&client, 0, 0).await;
    service.assert_holds(0).await;
}

async fn usage_takes_no_parameters(service: &Service) {
    let client = service.client("acme");
    let answer = send(client.get("/v1/usage?tenant=other")).await;
    answer.invalid(&["/tenant"]);
    let reader = service.client_with("acme", &[box_service::auth::Scope::FilesWrite]);
    send(reader.get("/v1/usage"))
        .await
        .problem(403, "forbidden");
}

async fn repair(service: &Service) -> Report {
    let options = Options {
        repair: true,
        ..Options::default()
    };
    service.domain().fsck(options).await.unwrap()
}

async fn usage_that_was_tampered_with_is_found_and_mended(service: &Service) {
    let (client, other) = (service.client("acme"), service.client("other"));
    let file = upload(&client, 10).await;
    send(client.post(&format!("{}/copy", path(&file))))
        .await
        .json(201);
    upload(&other, 7).await;
    let emptied = service.client("emptied");
    remove(&emptied, &upload(&emptied, 3).await).await;
    // The bytes that were removed are no problem of their own.
    service.settle().await;
    for (sql, problems) in [
        ("UPDATE usage SET bytes = bytes + 5", 3),
        (
            "UPDATE usage SET bytes = bytes - 1 WHERE tenant = 'acme'",
            1,
        ),
        (
            "UPDATE usage SET files = files + 1 WHERE tenant = 'other'",
            1,
        ),
        ("DELETE FROM usage", 2),
        ("DELETE FROM usage WHERE tenant = 'acme'", 1),
    ] {
        service.execute(sql).await;
        for report in [service.fsck().await, repair(service).await] {
            let kinds: Vec<ProblemKind> = report.problems.iter().map(|p| p.kind).collect();
            assert_eq!(
                kinds,
                vec![ProblemKind::UsageMismatch; problems],
                "{sql} {report}"
            );
        }
        assert_eq!(service.fsck().await.problems.len(), 0, "{sql}");
        assert_usage(&client, 20, 2).await;
        assert_usage(&other, 7, 1).await;
        assert_usage(&emptied, 0, 0).await;
    }
    let report = repair(service).await;
    assert_eq!(report.problems.len(), 0, "{report}");
    service.assert_holds(2).await;
}

async fn a_quota_that_comes_later_counts_what_was_there(service: &Service) {
    let client = service.client("acme");
    // At once, so that they are counted apart where that is done.
    let uploads = (0..16).map(|_| upload(&client, 50));
    let files = futures::future::join_all(uploads).await;
    assert_usage(&client, 800, 16).await;
    service.stop().await;
    let quotas = [
        ("BOX_QUOTA__MAX_BYTES", "1000"),
        ("BOX_QUOTA__MAX_FILES", "18"),
    ];
    let limited = service.another_with(&quotas).await;
    let client = limited.client("acme");
    assert_usage(&client, 800, 16).await;
    refused(&client, 201).await;
    upload(&client, 199).await;
    refused(&client, 2).await;
    upload(&client, 1).await;
    refused(&client, 0).await;
    assert_usage(&client, 1000, 18).await;
    for file in &files {
        remove(&client, file).await;
    }
    assert_usage(&client, 200, 2).await;
    upload(&client, 800).await;
    refused(&client, 1).await;
    limited.stop().await;

    // With less than is there nothing new is taken, and what is there stays.
    let less = service
        .another_with(&[("BOX_QUOTA__MAX_BYTES", "999")])
        .await;
    let client = less.client("acme");
    let usage = send(client.get("/v1/usage")).await.json(200);
    let expected = json!({"bytes": 1000, "files": 3, "max_bytes": 999, "max_files": null});
    assert_eq!(usage, expected);
    refused(&client, 1).await;
    let listed = send(client.get("/v1/files")).await.json(200);
    for file in listed["items"].as_array().unwrap() {
        trash(&client, file).await;
        remove(&client, file).await;
    }
    assert_usage(&client, 0, 0).await;
    less.assert_holds(0).await;
    less.stop().await;
}
