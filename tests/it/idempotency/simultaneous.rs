//! The same request several times at once.

use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{KEY, files, told, upload};
use crate::harness::client::{Answer, id, send};
use crate::harness::connection::{Raw, until};
use crate::harness::content::{MIB, noise};
use crate::harness::raw;
use crate::harness::service::{Pair, Service, on_every_pair};

on_every_pair!(
    of_equal_uploads_at_once_one_makes_the_file,
    of_equal_large_uploads_at_once_one_object_stays,
    of_equal_copies_at_once_one_is_made,
    of_different_uploads_at_once_one_is_refused,
    who_comes_while_the_first_runs_gets_its_answer,
    who_comes_while_the_first_runs_goes_on_when_it_fails,
    a_first_that_lost_its_lease_makes_no_second_file,
    replicas_know_one_anothers_keys,
);

fn assert_all_alike(answers: &[Answer]) {
    for answer in answers {
        assert_eq!(told(answer), told(&answers[0]));
    }
}

async fn of_equal_uploads_at_once_one_makes_the_file(service: &Service) {
    let client = service.client("acme");
    let attempts = (0..16).map(|_| send(upload(&client, "k1", "a", "content")));
    let answers = futures::future::join_all(attempts).await;
    assert_all_alike(&answers);
    assert_eq!(files(&client).await, 1);
    assert_eq!(client.content(id(&answers[0].json(201))).await, b"content");
    service.assert_holds(1).await;
}

async fn of_equal_large_uploads_at_once_one_object_stays(service: &Service) {
    let client = service.client("acme");
    let content = noise(9 * MIB);
    let attempts = (0..4).map(|_| {
        let request = client.post("/v1/files?name=a").header(KEY, "k1");
        send(request.body(content.clone()))
    });
    let answers = futures::future::join_all(attempts).await;
    assert_all_alike(&answers);
    assert!(client.content(id(&answers[0].json(201))).await == content);
    assert_eq!(files(&client).await, 1);
    service.assert_holds(1).await;
}

async fn of_equal_copies_at_once_one_is_made(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let attempts = (0..16).map(|_| {
        let request = client.post(&format!("/v1/files/{}/copy", id(&file)));
        send(request.header(KEY, "k1").json(&json!({"name": "b"})))
    });
    let answers = futures::future::join_all(attempts).await;
    assert_all_alike(&answers);
    assert_eq!(files(&client).await, 2);
    service.assert_holds(1).await;
}

async fn of_different_uploads_at_once_one_is_refused(service: &Service) {
    let client = service.client("acme");
    for round in 0..5 {
        let key = format!("k{round}");
        let (one, two) = tokio::join!(
            send(upload(&client, &key, "a", "one")),
            send(upload(&client, &key, "a", "two"))
        );
        let (made, refused) = if one.status == 201 {
            (one, two)
        } else {
            (two, one)
        };
        made.json(201);
        refused.invalid(&["/Idempotency-Key"]);
    }
    assert_eq!(files(&client).await, 5);
    service.assert_holds(5).await;
}

/// The request that `upload` makes, of which the last two bytes were not sent yet.
async fn begun(service: &Service, key: &str) -> tokio::net::TcpStream {
    let key = format!("idempotency-key: {key}");
    let fields = [&*key, "content-length: 7", "content-type: a/b"];
    let stream = raw::send(service, "POST /v1/files?name=a", &fields, b"conte").await;
    until("the first has begun", || async {
        service.count("objects WHERE state = 'writing'").await > 0
    })
    .await;
    stream
}

async fn who_comes_while_the_first_runs_gets_its_answer(service: &Service) {
    let client = service.client("acme");
    for key in ["k1", "k2", "k3"] {
        let mut first = begun(service, key).await;
        let request = upload(&client, key, "a", "content").header("content-type", "a/b");
        let second = tokio::spawn(send(request));
        first.write_all(b"nt").await.unwrap();
        let first = Raw::over(first).answer().await;
        let second = second.await.unwrap();
        assert_eq!(told(&first), told(&second));
    }
    assert_eq!(files(&client).await, 3);
    service.assert_holds(3).await;
}

async fn who_comes_while_the_first_runs_goes_on_when_it_fails(service: &Service) {
    let client = service.client("acme");
    for key in ["k1", "k2", "k3"] {
        let first = begun(service, key).await;
        let request = upload(&client, key, "a", "content").header("content-type", "a/b");
        let second = tokio::spawn(send(request));
        drop(first);
        let second = second.await.unwrap();
        second.json(201);
        let again = upload(&client, key, "a", "content").header("content-type", "a/b");
        super::replay(again, &second).await;
    }
    assert_eq!(files(&client).await, 3);
    service.assert_holds(3).await;
}

async fn a_first_that_lost_its_lease_makes_no_second_file(service: &Service) {
    let client = service.client("acme");
    let mut first = begun(service, "k1").await;
    // As if it had slept for as long.
    service.clock.advance(std::time::Duration::from_secs(3600));
    let request = || upload(&client, "k1", "a", "content").header("content-type", "a/b");
    let second = send(request()).await;
    second.json(201);
    first.write_all(b"nt").await.unwrap();
    let first = Raw::over(first).answer().await;
    if first.status == 201 {
        assert_eq!(told(&first), told(&second));
    } else {
        assert!((409..=503).contains(&first.status), "{first:?}");
    }
    super::replay(request(), &second).await;
    assert_eq!(files(&client).await, 1);
    service.assert_holds(1).await;
}

async fn replicas_know_one_anothers_keys(service: &Service) {
    if service.pair == Pair::SqliteLocal {
        return;
    }
    let another = service.another().await;
    let clients = [service.client("acme"), another.client("acme")];
    for round in 0..5 {
        let key = format!("k{round}");
        let attempts = (0..8).map(|at| send(upload(&clients[at % 2], &key, "a", "content")));
        let answers = futures::future::join_all(attempts).await;
        let known: Vec<_> = answers.iter().map(|answer| answer.json(201)).collect();
        assert!(known.iter().all(|file| *file == known[0]));
    }
    assert_eq!(files(&clients[0]).await, 5);
    another.stop().await;
    service.assert_holds(5).await;
}

mod patient {
    //! Where the first may run for long.

    use std::time::Duration;

    use tokio::io::AsyncWriteExt;

    use super::super::{files, replay, told, upload};
    use super::begun;
    use crate::harness::client::send;
    use crate::harness::connection::{Raw, until};
    use crate::harness::raw;
    use crate::harness::service::{Service, on_every_pair};

    on_every_pair!(
        with [("BOX_STORE__LEASE", "1h")];
        who_waited_for_thirty_seconds_is_told_to_come_again,
        another_request_need_not_wait,
        a_key_is_held_before_the_first_byte_comes,
    );

    async fn who_waited_for_thirty_seconds_is_told_to_come_again(service: &Service) {
        let client = service.client("acme");
        let mut first = begun(service, "k1").await;
        let request = || upload(&client, "k1", "a", "content").header("content-type", "a/b");
        let began = service.clock.now();
        let second = tokio::spawn(send(request()));
        // Whenever it comes to wait, time goes on until it does no more.
        until("the second is answered", || async {
            service.clock.advance(Duration::from_secs(1));
            second.is_finished()
        })
        .await;
        let second = second.await.unwrap();
        second.problem(409, "conflict");
        let seconds: u64 = second.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
        assert!(service.clock.now() >= began.plus(Duration::from_secs(30)));

        first.write_all(b"nt").await.unwrap();
        let first = Raw::over(first).answer().await;
        told(&first);
        replay(request(), &first).await;
        assert_eq!(files(&client).await, 1);
        service.assert_holds(1).await;
    }

    async fn another_request_need_not_wait(service: &Service) {
        let client = service.client("acme");
        let mut first = begun(service, "k1").await;
        // That it is another one shows before its body: no time has to pass.
        let other = upload(&client, "k1", "b", "content").header("content-type", "a/b");
        send(other).await.invalid(&["/Idempotency-Key"]);
        send(upload(&client, "k2", "a", "content")).await.json(201);
        first.write_all(b"nt").await.unwrap();
        Raw::over(first).answer().await.json(201);
        assert_eq!(files(&client).await, 2);
        service.assert_holds(2).await;
    }

    async fn a_key_is_held_before_the_first_byte_comes(service: &Service) {
        let client = service.client("acme");
        // The bytes are to decide the type, and there is none of them yet.
        let fields = ["idempotency-key: k1", "content-length: 7"];
        let mut first = raw::send(service, "POST /v1/files?name=a", &fields, b"").await;
        until("the first has begun", || async {
            service.count("objects WHERE state = 'writing'").await > 0
        })
        .await;
        let other = send(upload(&client, "k1", "b", "content")).await;
        other.invalid(&["/Idempotency-Key"]);
        let second = tokio::spawn(send(upload(&client, "k1", "a", "content")));
        first.write_all(b"content").await.unwrap();
        let first = Raw::over(first).answer().await;
        assert_eq!(told(&first), told(&second.await.unwrap()));
        assert_eq!(files(&client).await, 1);
        service.assert_holds(1).await;
    }
}
