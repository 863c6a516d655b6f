//! What stays of imports that have ended: for how long, and that their counts are what their items are.

use std::time::Duration;

use box_service::domain::fsck::{Options, ProblemKind};
use serde_json::json;

use super::{act, assert_exact, done, get, items, start};
use crate::harness::client::send;
use crate::harness::origin::{Act, Origin, head};
use crate::harness::service::{Pair, Service, on_every_pair};

on_every_pair!(
    with crate::imports::OPEN;
    an_import_goes_when_it_was_kept_for_long_enough,
    counts_that_drifted_are_told_and_mended,
);

const DAY: Duration = Duration::from_secs(86_400);

async fn an_import_goes_when_it_was_kept_for_long_enough(service: &Service) {
    let origin = Origin::start().await;
    let client = service.client("acme");
    let gone = vec![head("404 Not Found\ncontent-length: 0")];
    let urls: Vec<String> = (0..3)
        .map(|number| origin.file(&format!("/{number}"), b"x"))
        .chain([origin.answers("/gone", vec![gone])])
        .collect();
    let old = done(service, &client, &start(&client, &urls).await).await;
    let tried_again = done(service, &client, &start(&client, &urls[3..]).await).await;
    let held = origin.answers("/held", vec![vec![Act::Stall]]);
    let running = start(&client, std::slice::from_ref(&held)).await;
    let cancelled = start(&client, &[held]).await;
    origin.until_busy(2).await;
    act(&client, &cancelled, "cancel").await;
    origin.until_busy(1).await;
    let domain = &service.app.domain;

    // Nothing goes too early.
    service.clock.advance(DAY * 20);
    let tried_again = act(&client, &tried_again, "retry").await;
    let tried_again = done(service, &client, &tried_again).await;
    service.clock.advance(DAY * 9);
    domain.import_sweep().await.unwrap();
    for import in [&old, &tried_again, &cancelled, &running] {
        assert_eq!(
            items(&client, import).await.len() as u64,
            import["counts"]["total"]
        );
    }

    service.clock.advance(DAY * 2);
    domain.import_sweep().await.unwrap();
    for import in [&old, &cancelled] {
        let path = format!("/v1/imports/{}", import["id"].as_str().unwrap());
        for path in [path.clone(), format!("{path}/items")] {
            send(client.get(&path)).await.problem(404, "not-found");
        }
        send(client.post(&format!("{path}/retry")))
            .await
            .problem(404, "not-found");
    }
    // What runs stays however old it is, and so does what ended later on.
    assert_eq!(get(&client, &running).await["state"], "running");
    assert_eq!(get(&client, &tried_again).await["state"], "done");
    let page = send(client.get("/v1/imports")).await.json(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    for (table, rows) in [("imports", 2), ("import_items", 2)] {
        assert_eq!(service.count(table).await, rows, "{table}");
    }
    assert_eq!(
        service
            .count("events WHERE action = 'import.expired'")
            .await,
        2
    );
    // The files are nobody's but their tenant's.
    assert_eq!(service.count("files").await, 3);
    act(&client, &running, "cancel").await;
    origin.until_busy(0).await;
}

async fn counts_that_drifted_are_told_and_mended(service: &Service) {
    let origin = Origin::start().await;
    let client = service.client("acme");
    let urls = [origin.file("/a", b"bytes"), origin.file("/b", b"other")];
    let first = done(service, &client, &start(&client, &urls).await).await;
    let second = done(service, &client, &start(&client, &urls).await).await;
    let domain = &service.app.domain;
    assert_eq!(service.fsck().await.problems.len(), 0);

    let id = first["id"].as_str().unwrap();
    let literal = match service.pair {
        Pair::SqliteLocal => format!("x'{}'", id.replace('-', "")),
        _ => format!("'{id}'"),
    };
    for wrong in [
        format!(
            "UPDATE import_counts SET done = done + 1, bytes = bytes - 2, pending = pending - 3 WHERE import_id = {literal}"
        ),
        // As if none had ever been written.
        format!("DELETE FROM import_counts WHERE import_id = {literal}"),
    ] {
        service.execute(&wrong).await;
        let found = service.fsck().await.problems;
        assert_eq!(found.len(), 1, "{wrong}: {found:?}");
        assert_eq!(found[0].kind, ProblemKind::CountsMismatch);
        assert!(found[0].detail.contains(id) && !found[0].repaired);
        let options = Options {
            repair: true,
            ..Options::default()
        };
        let mended = domain.fsck(options).await.unwrap().problems;
        assert!(mended.len() == 1 && mended[0].repaired, "{mended:?}");
        assert_eq!(service.fsck().await.problems.len(), 0);
        assert_exact(service, &get(&client, &first).await).await;
    }
    assert_eq!(get(&client, &first).await["bytes_done"], 10);
    assert_eq!(get(&client, &second).await, second);
    assert_eq!(second["counts"]["done"], json!(2));
}
