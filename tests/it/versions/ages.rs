//! Earlier contents that are kept for ten days.

use std::time::Duration;

use super::{earlier, numbers, path, remove, replace, versions};
use crate::harness::client::{id, send};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    with [("BOX_VERSIONS__KEEP", "5"), ("BOX_VERSIONS__MAX_AGE", "10d")];
    a_version_is_kept_for_its_time_after_it_was_replaced,
    the_current_content_has_no_age,
    what_is_shared_outlives_a_version,
);

const DAY: Duration = Duration::from_secs(86_400);

async fn a_version_is_kept_for_its_time_after_it_was_replaced(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "1").await;
    service.clock.advance(DAY);
    replace(&client, &file, "2").await;
    service.clock.advance(DAY * 4);
    replace(&client, &file, "3").await;
    let moment = Duration::from_micros(1);
    service.clock.advance(DAY * 6 - moment);
    service.domain().sweep().await.unwrap();
    assert_eq!(numbers(&versions(&client, &file).await), [3, 2, 1]);
    assert_eq!(earlier(&client, &file, 1).await.body, b"1");

    service.clock.advance(moment);
    service.domain().sweep().await.unwrap();
    assert_eq!(numbers(&versions(&client, &file).await), [3, 2]);
    earlier(&client, &file, 1).await.problem(404, "not-found");
    service.clock.advance(DAY * 4 - moment);
    service.domain().sweep().await.unwrap();
    assert_eq!(numbers(&versions(&client, &file).await), [3, 2]);
    assert_eq!(earlier(&client, &file, 2).await.body, b"2");

    service.clock.advance(moment);
    service.domain().sweep().await.unwrap();
    assert_eq!(numbers(&versions(&client, &file).await), [3]);
    service.assert_holds(1).await;
}

async fn the_current_content_has_no_age(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "1").await;
    replace(&client, &file, "2").await;
    let never = client.upload("b", "x").await;
    service.clock.advance(DAY * 200);
    service.domain().sweep().await.unwrap();
    service.domain().sweep().await.unwrap();
    assert_eq!(numbers(&versions(&client, &file).await), [2]);
    assert_eq!(client.content(id(&file)).await, b"2");
    assert_eq!(client.content(id(&never)).await, b"x");
    service.assert_holds(2).await;
    // Those of trashed files age as well.
    replace(&client, &file, "3").await;
    assert_eq!(send(client.delete(&path(&file))).await.status, 204);
    service.clock.advance(DAY * 10);
    service.domain().sweep().await.unwrap();
    service.assert_holds(2).await;
    remove(&client, &file).await;
    service.assert_holds(1).await;
}

async fn what_is_shared_outlives_a_version(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "1").await;
    let copy = send(client.post(&format!("{}/copy", path(&file))))
        .await
        .json(201);
    replace(&client, &file, "2").await;
    let restore = client.post(&format!("{}/versions/1/restore", path(&file)));
    send(restore).await.json(200);
    service.clock.advance(DAY * 10);
    service.domain().sweep().await.unwrap();
    assert_eq!(numbers(&versions(&client, &file).await), [3]);
    service.assert_holds(1).await;
    assert_eq!(client.content(id(&file)).await, b"1");
    assert_eq!(client.content(id(&copy)).await, b"1");
}
