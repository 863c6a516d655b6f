//! Many files as one ZIP, which Python's `zipfile` reads.

use std::time::Duration;

use box_service::auth::Scope;
use serde_json::{Value, json};

use crate::harness::client::{Answer, Client, id, send};
use crate::harness::content::{MIB, noise, sha256};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    an_archive_has_the_files_that_were_named,
    an_archive_has_what_a_filter_finds,
    names_are_unique_and_lead_nowhere_else,
    what_is_missing_is_told_before_the_first_byte,
    who_asks_needs_the_scope_and_one_way_to_choose,
    an_archive_has_each_content_as_it_was,
    a_file_that_goes_on_the_way_breaks_the_connection,
    a_tenant_is_sent_two_at_a_time,
    a_signed_url_leads_to_the_archive,
    a_signed_url_of_too_many_ids_is_refused,
    an_archive_of_hundreds_is_whole,
);

mod bounded {
    use super::*;

    on_every_pair!(
        with [("BOX_ARCHIVE__MAX_FILES", "3"), ("BOX_ARCHIVE__MAX_BYTES", "10")];
        an_archive_is_bounded,
    );
}

mod versioned {
    use super::*;

    on_every_pair!(
        with [("BOX_VERSIONS__KEEP", "1")];
        a_replaced_content_is_sent_as_it_was,
    );
}

/// Several times what connections hold on their way: a file of this size is still being sent while nobody
/// reads it.
const LARGE: usize = 24 * MIB;

const ARCHIVE: &str = "/v1/files/archive";

async fn archive(client: &Client, body: Value) -> Answer {
    send(client.post(ARCHIVE).json(&body)).await
}

/// Name and SHA-256 of each file in an archive, whose checksums all hold.
fn read(answer: &Answer) -> Vec<(String, String)> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/zip");
    let length: usize = answer.header("content-length").parse().unwrap();
    assert_eq!(length, answer.body.len());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &answer.body).unwrap();
    let program = "import hashlib, json, sys, zipfile\n\
                   with zipfile.ZipFile(sys.argv[1]) as z:\n    \
                   print(json.dumps([[i.filename, hashlib.sha256(z.read(i)).hexdigest()] for i in z.infolist()]))";
    let output = std::process::Command::new("python3")
        .args(["-c", program])
        .arg(file.path())
        .output()
        .expect("python3 runs, as scripts/test needs it too");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn files(expected: &[(&str, &[u8])]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(name, content)| ((*name).to_owned(), sha256(content)))
        .collect()
}

async fn an_archive_has_the_files_that_were_named(service: &Service) {
    let client = service.client("acme");
    let large = noise(3 * MIB + 1);
    let request = client.post("/v1/files?name=b/%C3%A4.txt");
    let umlaut = send(request.body("small")).await.json(201);
    let big = client.upload("a.bin", large.clone()).await;
    let empty = client.upload("empty", "").await;
    let ids = json!([id(&umlaut), id(&big), id(&empty)]);
    let answer = archive(&client, json!({"ids": ids, "name": "all of it"})).await;
    assert_eq!(
        read(&answer),
        files(&[("b/ä.txt", b"small"), ("a.bin", &large), ("empty", b"")])
    );
    let disposition = answer.header("content-disposition");
    assert_eq!(disposition, "attachment; filename=\"all of it.zip\"");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("cache-control"), "private, no-store");
    let unnamed = archive(&client, json!({"ids": [id(&empty)]})).await;
    let disposition = unnamed.header("content-disposition");
    assert_eq!(disposition, "attachment; filename=\"files.zip\"");
    assert_eq!(read(&unnamed), files(&[("empty", b"")]));
}

async fn an_archive_has_what_a_filter_finds(service: &Service) {
    let client = service.client("acme");
    for name in ["x/c.txt", "x/a.txt", "x/b.png", "y/a.txt"] {
        client.upload(name, format!("content of {name}")).await;
        service.clock.advance(Duration::from_secs(1));
    }
    let trashed = client.upload("x/trashed", "").await;
    let path = format!("/v1/files/{}", id(&trashed));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    service.client("other").upload("x/d.txt", "").await;
    let all = archive(&client, json!({"filter": {}})).await;
    assert_eq!(read(&all).len(), 4);
    let below = archive(&client, json!({"filter": {"prefix": "x/", "min_size": 1}})).await;
    assert_eq!(
        read(&below),
        files(&[
            ("x/a.txt", b"content of x/a.txt"),
            ("x/b.png", b"content of x/b.png"),
            ("x/c.txt", b"content of x/c.txt"),
        ])
    );
    for (filter, pointer) in [
        (json!({"prefix": "z/"}), "/filter"),
        (json!({"sha256": "x"}), "/filter/sha256"),
        (json!({"created_after": "now"}), "/filter/created_after"),
        (json!({"min_size": -1}), "/filter/min_size"),
        (json!({"trashed": true}), "/filter/trashed"),
    ] {
        archive(&client, json!({"filter": filter}))
            .await
            .invalid(&[pointer]);
    }
}

async fn names_are_unique_and_lead_nowhere_else(service: &Service) {
    let client = service.client("acme");
    let mut ids = Vec::new();
    for name in ["a.txt", "a.txt", "..%5C..%5Cx", "C:/y", "a.txt/z"] {
        let request = client.post(&format!("/v1/files?name={name}"));
        let file = send(request.body(name)).await.json(201);
        ids.push(id(&file).to_owned());
    }
    let names: Vec<String> = read(&archive(&client, json!({"ids": ids})).await)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        names,
        ["a (2).txt", "a (3).txt", ".._.._x", "C_/y", "a.txt/z"]
    );
}

async fn what_is_missing_is_told_before_the_first_byte(service: &Service) {
    let client = service.client("acme");
    let there = client.upload("there", "x").await;
    let trashed = client.upload("trashed", "x").await;
    let path = format!("/v1/files/{}", id(&trashed));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    let strange = service.client("other").upload("strange", "x").await;
    let gone = client.upload("gone", "x").await;
    let path = format!("/v1/files/{}?permanent=true", id(&gone));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    let ids = json!([id(&there), id(&trashed), id(&strange), id(&gone)]);
    for signed in ["", "?signed=true"] {
        let request = client.post(&format!("{ARCHIVE}{signed}"));
        let answer = send(request.json(&json!({"ids": ids}))).await;
        answer.invalid(&["/ids/1", "/ids/2", "/ids/3"]);
    }
    let answer = archive(&client, json!({"ids": [id(&there), "no id"]})).await;
    answer.invalid(&["/ids/1"]);
    let answer = archive(&client, json!({"ids": [id(&there), id(&there)]})).await;
    answer.invalid(&["/ids"]);
}

async fn who_asks_needs_the_scope_and_one_way_to_choose(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "x").await;
    let ids = json!([id(&file)]);
    let writer = service.client_with("acme", &[Scope::FilesWrite, Scope::FilesDelete]);
    let answer = archive(&writer, json!({"ids": ids})).await;
    answer.problem(403, "forbidden");
    for body in [
        json!({}),
        json!({"ids": ids, "filter": {}}),
        json!({"ids": null}),
    ] {
        archive(&client, body).await.invalid(&[""]);
    }
    archive(&client, json!({"ids": []}))
        .await
        .invalid(&["/ids"]);
    let answer = archive(&client, json!({"ids": ids, "name": "a/../b"})).await;
    answer.invalid(&["/name"]);
    let request = client.post(ARCHIVE).header("content-type", "text/plain");
    let answer = send(request.body("{}")).await;
    answer.problem(415, "unsupported-media-type");
}

/// A file may be replaced while it is sent: what has been begun is of one content.
async fn an_archive_has_each_content_as_it_was(service: &Service) {
    let client = service.client("acme");
    let large = noise(LARGE);
    let first = client.upload("first", large.clone()).await;
    let body = json!({"ids": [id(&first)]});
    let mut response = client.post(ARCHIVE).json(&body).send().await.unwrap();
    let path = format!("/v1/files/{}/content", id(&first));
    assert_eq!(send(client.put(&path).body("other")).await.status, 200);
    let mut answer = Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: Vec::new(),
    };
    // The old content has gone from the database, and perhaps from the store.
    while let Ok(Some(chunk)) = response.chunk().await {
        answer.body.extend_from_slice(&chunk);
    }
    let length: usize = answer.header("content-length").parse().unwrap();
    if answer.body.len() == length {
        assert_eq!(read(&answer), files(&[("first", &large)]));
    }
}

async fn a_replaced_content_is_sent_as_it_was(service: &Service) {
    let client = service.client("acme");
    let large = noise(LARGE);
    let first = client.upload("first", large.clone()).await;
    let second = client.upload("second", "as it was").await;
    let body = json!({"ids": [id(&first), id(&second)]});
    let response = client.post(ARCHIVE).json(&body).send().await.unwrap();
    let path = format!("/v1/files/{}/content", id(&second));
    assert_eq!(send(client.put(&path).body("other")).await.status, 200);
    let answer = Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.bytes().await.unwrap().to_vec(),
    };
    assert_eq!(
        read(&answer),
        files(&[("first", &large), ("second", b"as it was")])
    );
}

async fn a_file_that_goes_on_the_way_breaks_the_connection(service: &Service) {
    let client = service.client("acme");
    let first = client.upload("first", noise(LARGE)).await;
    let second = client.upload("second", "gone").await;
    let body = json!({"ids": [id(&first), id(&second)]});
    let response = client.post(ARCHIVE).json(&body).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let path = format!("/v1/files/{}?permanent=true", id(&second));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    service.app.domain.reap().await.unwrap();
    assert!(response.bytes().await.is_err(), "the archive seemed whole");
    // And the tenant's place is free again.
    for _ in 0..3 {
        let answer = archive(&client, json!({"ids": [id(&first)]})).await;
        assert_eq!(read(&answer).len(), 1);
    }
}

async fn a_tenant_is_sent_two_at_a_time(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("large", noise(LARGE)).await;
    let body = json!({"ids": [id(&file)]});
    let begin = || client.post(ARCHIVE).json(&body).send();
    let (one, two) = (begin().await.unwrap(), begin().await.unwrap());
    assert_eq!((one.status().as_u16(), two.status().as_u16()), (200, 200));
    let third = archive(&client, body.clone()).await;
    third.problem(429, "rate-limited");
    third.header("retry-after");
    let other = service.client("other");
    let theirs = other.upload("theirs", "x").await;
    read(&archive(&other, json!({"ids": [id(&theirs)]})).await);
    // A refusal takes no place, and whoever has the last byte has left its own.
    one.bytes().await.unwrap();
    archive(&client, json!({"ids": []}))
        .await
        .invalid(&["/ids"]);
    read(&archive(&client, body.clone()).await);
    two.bytes().await.unwrap();
}

/// What the URL leads to, for who has no token.
fn holder(service: &Service, signed: &Value) -> Client {
    let url = signed["url"].as_str().unwrap();
    let (_, token) = url.split_once("/s/").unwrap();
    Client::new(&format!("{}/s/{token}", service.url), None)
}

async fn a_signed_url_leads_to_the_archive(service: &Service) {
    let client = service.client("acme");
    let a = client.upload("x/a", "content").await;
    client.upload("x/b", "other").await;
    let sign = async |body: Value| {
        let request = client.post(&format!("{ARCHIVE}?signed=true"));
        let signed = send(request.json(&body)).await.json(200);
        assert_eq!(signed["method"], "GET");
        let ends = service.clock.now().plus(Duration::from_secs(900));
        assert_eq!(signed["expires_at"], ends.to_string());
        holder(service, &signed)
    };
    let of_ids = sign(json!({"ids": [id(&a)], "name": "some.zip"})).await;
    let of_filter = sign(json!({"filter": {"prefix": "x/"}})).await;
    let answer = send(of_ids.get("")).await;
    assert_eq!(read(&answer), files(&[("x/a", b"content")]));
    let disposition = answer.header("content-disposition");
    assert_eq!(disposition, "attachment; filename=\"some.zip\"");
    let both = files(&[("x/a", b"content"), ("x/b", b"other")]);
    assert_eq!(read(&send(of_filter.get("")).await), both);
    // It is for GET, and nobody adds to it.
    assert_eq!(send(of_ids.head("")).await.status, 403);
    let put = send(of_ids.put("").body("x")).await;
    put.problem(403, "forbidden");
    send(of_ids.get("?x=1")).await.invalid(&["/x"]);
    // It ends with its files, and with its time.
    let path = format!("/v1/files/{}", id(&a));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    send(of_ids.get("")).await.problem(410, "gone");
    assert_eq!(read(&send(of_filter.get("")).await).len(), 1);
    service.clock.advance(Duration::from_secs(900));
    send(of_filter.get("")).await.problem(403, "forbidden");
}

async fn a_signed_url_of_too_many_ids_is_refused(service: &Service) {
    let client = service.client("acme");
    let first = client.upload("0", "x").await;
    let mut ids = vec![id(&first).to_owned()];
    while ids.len() < 260 {
        let copy = client.post(&format!("/v1/files/{}/copy", id(&first)));
        ids.push(id(&send(copy.body("")).await.json(201)).to_owned());
    }
    let sign = async |ids: &[String]| {
        let request = client.post(&format!("{ARCHIVE}?signed=true"));
        send(request.json(&json!({"ids": ids}))).await
    };
    let fits = sign(&ids[..230]).await.json(200);
    assert_eq!(read(&send(holder(service, &fits).get("")).await).len(), 230);
    sign(&ids).await.invalid(&["/ids"]);
    assert_eq!(
        read(&archive(&client, json!({"ids": ids})).await).len(),
        260
    );
}

/// More than one page of the database, and more than one piece of the directory.
async fn an_archive_of_hundreds_is_whole(service: &Service) {
    const COUNT: usize = 300;
    let client = service.client("acme");
    let name = "x".repeat(240);
    let first = client.upload(&name, "content").await;
    let path = format!("/v1/files/{}/copy", id(&first));
    for _ in 1..COUNT {
        assert_eq!(send(client.post(&path).body("")).await.status, 201);
    }
    let found = read(&archive(&client, json!({"filter": {"name": name}})).await);
    assert_eq!(found.len(), COUNT);
    let mut names: Vec<&str> = found.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), COUNT);
    assert!(found.iter().all(|(_, hash)| *hash == sha256(b"content")));
}

async fn an_archive_is_bounded(service: &Service) {
    let client = service.client("acme");
    let mut ids = Vec::new();
    for n in 0..4 {
        let file = client.upload(&n.to_string(), "three").await;
        ids.push(id(&file).to_owned());
    }
    read(&archive(&client, json!({"ids": ids[..2]})).await);
    for refused in [&ids[..3], &ids[..]] {
        archive(&client, json!({"ids": refused}))
            .await
            .invalid(&["/ids"]);
    }
    archive(&client, json!({"filter": {}}))
        .await
        .invalid(&["/filter"]);
    let long = "x".repeat(200_000);
    let answer = archive(&client, json!({"ids": [long]})).await;
    answer.problem(413, "payload-too-large");
}
