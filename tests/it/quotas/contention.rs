//! Many at once, where there is room for ten of a hundred bytes.

use super::{assert_usage, path, refused, remove, upload};
use crate::harness::client::{Answer, send};
use crate::harness::raw;
use crate::harness::service::{Pair, Service, on_every_pair};

on_every_pair!(
    with [("BOX_QUOTA__MAX_BYTES", "1000")];
    of_many_uploads_at_once_as_many_are_taken_as_fit,
    of_many_bodies_of_unknown_length_no_more_are_taken_than_fit,
    of_many_copies_at_once_as_many_are_made_as_fit,
    replicas_share_one_quota,
    comings_and_goings_at_once_are_all_counted,
);

/// How many were taken; the others must be refused for want of room.
fn taken(answers: &[Answer]) -> u64 {
    let mut taken = 0;
    for answer in answers {
        if answer.status == 201 {
            taken += 1;
        } else {
            answer.problem(403, "quota-exceeded");
        }
    }
    taken
}

async fn of_many_uploads_at_once_as_many_are_taken_as_fit(service: &Service) {
    let client = service.client("acme");
    let attempts = (0..32).map(|index| {
        let request = client.post(&format!("/v1/files?name={index}"));
        send(request.body(vec![b'x'; 100]))
    });
    let answers = futures::future::join_all(attempts).await;
    assert_eq!(taken(&answers), 10);
    assert_usage(&client, 1000, 10).await;
    refused(&client, 1).await;
    service.assert_holds(10).await;
}

async fn of_many_bodies_of_unknown_length_no_more_are_taken_than_fit(service: &Service) {
    let client = service.client("acme");
    let body = [raw::chunk(&[b'x'; 100]), raw::chunk(b"")].concat();
    let fields = ["transfer-encoding: chunked"];
    let attempts = (0..32).map(|_| raw::exchange(service, "POST /v1/files", &fields, &body));
    let answers = futures::future::join_all(attempts).await;
    let taken = taken(&answers);
    // Some may be refused for the sake of others that are not taken in the end.
    assert!((1..=10).contains(&taken), "{taken}");
    assert_usage(&client, taken * 100, taken).await;
    for _ in taken..10 {
        upload(&client, 100).await;
    }
    refused(&client, 1).await;
    service.assert_holds(10).await;
}

async fn of_many_copies_at_once_as_many_are_made_as_fit(service: &Service) {
    let client = service.client("acme");
    let file = upload(&client, 100).await;
    let attempts = (0..32).map(|_| send(client.post(&format!("{}/copy", path(&file)))));
    let answers = futures::future::join_all(attempts).await;
    assert_eq!(taken(&answers), 9);
    assert_usage(&client, 1000, 10).await;
    service.assert_holds(1).await;
}

async fn replicas_share_one_quota(service: &Service) {
    if service.pair == Pair::SqliteLocal {
        return;
    }
    let another = service.another().await;
    let clients = [service.client("acme"), another.client("acme")];
    let attempts = (0..32).map(|index| {
        let request = clients[index % 2].post(&format!("/v1/files?name={index}"));
        send(request.body(vec![b'x'; 100]))
    });
    let answers = futures::future::join_all(attempts).await;
    assert_eq!(taken(&answers), 10);
    for client in &clients {
        assert_usage(client, 1000, 10).await;
    }
    another.stop().await;
    service.assert_holds(10).await;
}

async fn comings_and_goings_at_once_are_all_counted(service: &Service) {
    let client = service.client("acme");
    for _ in 0..5 {
        let mut old = Vec::new();
        for _ in 0..5 {
            old.push(upload(&client, 100).await);
        }
        // The five that are there leave or are copied while five others come.
        let comings = (0..5).map(|_| upload(&client, 100));
        let goings = old.iter().map(|file| remove(&client, file));
        let (new, _) = tokio::join!(
            futures::future::join_all(comings),
            futures::future::join_all(goings)
        );
        assert_usage(&client, 500, 5).await;
        let goings = new.iter().map(|file| remove(&client, file));
        futures::future::join_all(goings).await;
        assert_usage(&client, 0, 0).await;
    }
    service.assert_holds(0).await;
}
