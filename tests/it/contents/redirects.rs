//! `?redirect=true`: straight to the store, where it can serve a browser.

use crate::harness::client::{Answer, Client, id, send};
use crate::harness::content::{MIB, noise, sha256};
use crate::harness::service::{Pair, Service, on_every_pair};

on_every_pair!(
    a_redirect_serves_the_bytes_to_who_has_no_token,
    a_redirect_keeps_name_type_and_disposition,
    a_redirect_of_head_answers_head,
    what_is_in_the_trash_redirects_nowhere,
    conditions_and_ranges_hold_with_a_redirect,
);

/// Where it leads, for a client that knows no token: to S3, or to the service itself.
fn target(service: &Service, answer: &Answer) -> Client {
    answer_is_redirect(answer);
    let location = answer.header("location");
    assert_eq!(
        location.starts_with("/s/"),
        service.pair != Pair::PostgresS3,
        "{location}"
    );
    let url = reqwest::Url::parse(&service.url).unwrap();
    Client::new(url.join(location).unwrap().as_str(), None)
}

async fn follow(service: &Service, answer: &Answer) -> Answer {
    send(target(service, answer).get("")).await
}

fn answer_is_redirect(answer: &Answer) {
    assert_eq!(answer.status, 307, "{answer:?}");
    // The address is a secret, and dies soon.
    let cached = answer.headers.get("cache-control");
    let cached = cached.map_or("", |value| value.to_str().unwrap());
    assert!(
        cached.contains("no-store") || cached.contains("private"),
        "{cached}"
    );
}

async fn a_redirect_serves_the_bytes_to_who_has_no_token(service: &Service) {
    let client = service.client("acme");
    for size in [0, 1, 6 * MIB] {
        let content = noise(size);
        let file = client.upload("a b", content.clone()).await;
        let path = format!("/v1/files/{}/content", id(&file));
        let answer = send(client.get(&format!("{path}?redirect=true"))).await;
        let served = follow(service, &answer).await;
        assert_eq!(served.status, 200, "{}", served.text());
        assert_eq!(sha256(&served.body), sha256(&content));
        let direct = send(client.get(&format!("{path}?redirect=false"))).await;
        assert_eq!(direct.status, 200);
        assert_eq!(sha256(&direct.body), sha256(&content));
    }
}

async fn a_redirect_keeps_name_type_and_disposition(service: &Service) {
    let client = service.client("acme");
    for (content_type, name) in [
        ("image/png", "a%22b.png"),
        ("text/html", "%C3%A4%20b.html"),
        ("text/plain; charset=utf-8", "plain.txt"),
    ] {
        let request = client
            .post(&format!("/v1/files?name={name}"))
            .header("content-type", content_type);
        let file = send(request.body("content")).await.json(201);
        for disposition in ["inline", "attachment"] {
            let path = format!("/v1/files/{}/content?disposition={disposition}", id(&file));
            let direct = send(client.get(&path)).await;
            let answer = send(client.get(&format!("{path}&redirect=true"))).await;
            let served = follow(service, &answer).await;
            for field in ["content-type", "content-disposition"] {
                assert_eq!(served.header(field), direct.header(field));
            }
        }
    }
}

async fn a_redirect_of_head_answers_head(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let path = format!("/v1/files/{}/content?redirect=true", id(&file));
    let served = send(client.head(&path)).await;
    assert_eq!((served.status, served.body.len()), (200, 0));
    assert_eq!(served.header("content-length"), "7");
}

async fn what_is_in_the_trash_redirects_nowhere(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let path = format!("/v1/files/{}", id(&file));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    let answer = send(client.get(&format!("{path}/content?redirect=true"))).await;
    answer.problem(410, "gone");
    let other = service.client("other");
    let foreign = send(other.get(&format!("{path}/content?redirect=true"))).await;
    foreign.problem(404, "not-found");
}

async fn conditions_and_ranges_hold_with_a_redirect(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let path = format!("/v1/files/{}/content", id(&file));
    let tag = send(client.head(&path)).await.header("etag").to_owned();
    let path = format!("{path}?redirect=true");
    let known = send(client.get(&path).header("if-none-match", &tag)).await;
    assert_eq!(known.status, 304);
    let stale = send(client.get(&path).header("if-match", "\"other\"")).await;
    stale.problem(412, "precondition-failed");
    let part = send(client.get(&path).header("range", "bytes=0-2")).await;
    let part = send(target(service, &part).get("").header("range", "bytes=0-2")).await;
    assert_eq!((part.status, &part.body[..]), (206, &b"con"[..]));
}
