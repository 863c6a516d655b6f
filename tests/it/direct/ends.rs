//! Uploads that come to nothing: nothing of them stays, whatever arrives late.

use super::*;

on_every_pair!(
    with [("BOX_UPLOADS__SINGLE_MAX", "1MiB")];
    an_aborted_upload_leaves_nothing,
    an_upload_ends_with_its_time,
    bytes_that_come_after_the_end_are_deleted,
    a_deleted_file_does_not_come_back,
);

async fn abort(client: &Client, upload: &Value) {
    let path = format!("/v1/uploads/{}", id(upload));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    assert_eq!(send(client.delete(&path)).await.status, 404);
}

/// What the store has, once the reaper has been at work now.
async fn keys(service: &Service) -> u64 {
    service.app.domain.reap().await.unwrap();
    service.fsck().await.keys
}

async fn an_aborted_upload_leaves_nothing(service: &Service) {
    let client = service.client("acme");
    let single = begun(&client, 3).await;
    sent(service, &single["put"], b"abc").await;
    let parts = begun(&client, 9 * MIB).await;
    let urls = sign(&client, &parts, 1, 2).await.json(200);
    sent(service, &urls["items"][1], &noise(MIB)).await;
    assert!(keys(service).await > 0);
    for upload in [&single, &parts] {
        abort(&client, upload).await;
        complete(&client, upload, json!({}))
            .await
            .problem(404, "not-found");
        sign(&client, upload, 1, 1).await.problem(404, "not-found");
    }
    assert_eq!(keys(service).await, 0);
    let late = follow(service, &urls["items"][0], &noise(8 * MIB)).await;
    assert_eq!(late.status, 404, "{}", late.text());
    service.assert_holds(0).await;
}

async fn an_upload_ends_with_its_time(service: &Service) {
    let client = service.client("acme");
    let single = begun(&client, 3).await;
    sent(service, &single["put"], b"abc").await;
    let parts = begun(&client, 9 * MIB).await;
    let urls = sign(&client, &parts, 1, 2).await.json(200);
    sent(service, &urls["items"][1], &noise(MIB)).await;
    let list = send(client.get("/v1/uploads")).await.json(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert_eq!(service.fsck().await.problems.len(), 0);
    service.clock.advance(Duration::from_secs(86_400));
    for upload in [&single, &parts] {
        complete(&client, upload, json!({}))
            .await
            .problem(404, "not-found");
    }
    assert_eq!(keys(service).await, 0);
    service.assert_holds(0).await;
}

/// A signed request can't be taken back: its bytes may come until its time is over, and then go.
async fn bytes_that_come_after_the_end_are_deleted(service: &Service) {
    let client = service.client("acme");
    let upload = begun(&client, 3).await;
    abort(&client, &upload).await;
    assert_eq!(keys(service).await, 0);
    let late = follow(service, &upload["put"], b"abc").await;
    let arrives = service.pair == Pair::PostgresS3;
    assert_eq!(
        late.status,
        if arrives { 200 } else { 404 },
        "{}",
        late.text()
    );
    assert_eq!(keys(service).await, u64::from(arrives));
    // Its row is there as long as it may come, and no key is without one.
    assert_eq!(service.fsck().await.problems.len(), 0);
    service.assert_holds(0).await;
}

async fn a_deleted_file_does_not_come_back(service: &Service) {
    let client = service.client("acme");
    let upload = begun(&client, 3).await;
    sent(service, &upload["put"], b"abc").await;
    let made = complete(&client, &upload, json!({})).await.json(201);
    let path = format!("/v1/files/{}?permanent=true", id(&made));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    assert_eq!(keys(service).await, 0);
    complete(&client, &upload, json!({}))
        .await
        .problem(410, "gone");
    let late = follow(service, &upload["put"], b"abc").await;
    assert_eq!(
        late.status == 200,
        service.pair == Pair::PostgresS3,
        "{late:?}"
    );
    assert_eq!(service.fsck().await.problems.len(), 0);
    service.assert_holds(0).await;
}
