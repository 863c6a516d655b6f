//! Making, changing, finding and deleting links, and where they lead.

use std::time::Duration;

use box_service::auth::Scope;
use serde_json::{Value, json};

use super::{ELSEWHERE, create, elsewhere, follow, get, made, patch, path};
use crate::harness::client::{id, send};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    a_link_leads_to_a_url,
    a_link_leads_to_a_file_whatever_becomes_of_its_content,
    a_link_ends_with_its_file,
    a_slug_is_made_where_there_is_none,
    what_is_no_link_is_refused,
    a_change_holds_at_once,
    one_who_asks_for_a_slug_gets_it,
    a_deleted_slug_stays_its_tenants,
    links_are_listed_by_slug,
    another_tenant_sees_nothing,
    a_link_is_made_once,
    a_scope_is_needed,
);

mod bounded {
    use super::*;

    on_every_pair!(
        with [
            ("BOX_LINKS__TENANT_PREFIX", "true"),
            ("BOX_LINKS__ALLOW_HOSTS", "*.example.com,example.com"),
            ("BOX_LINKS__DENY_HOSTS", "bad.example.com"),
        ];
        an_operator_bounds_slugs_and_hosts,
    );
}

async fn a_link_leads_to_a_url(service: &Service) {
    let client = service.client("acme");
    let answer = create(&client, json!({"slug": "a/b.c", "url": ELSEWHERE})).await;
    let link = answer.json(201);
    assert_eq!(answer.header("location"), "/v1/links/a%2Fb.c");
    let now = service.clock.now().to_string();
    let link_url = format!("{}l/a/b.c", service.app.config.public_url());
    let expected = json!({
        "slug": "a/b.c", "url": ELSEWHERE, "file_id": null, "link_url": link_url, "state": "active",
        "expires_at": null, "max_uses": null, "uses": 0, "last_used_at": null, "has_password": false,
        "disposition": null, "created_at": now, "updated_at": now,
    });
    assert_eq!(link, expected);
    assert_eq!(get(&client, "a/b.c").await, expected);
    for request in [
        service.stranger().get("/l/a/b.c"),
        service.stranger().get("/l/a/b.c?utm_source=mail"),
        service.stranger().head("/l/a/b.c"),
    ] {
        let answer = send(request).await;
        assert_eq!(answer.status, 302);
        assert_eq!(answer.header("location"), ELSEWHERE);
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("x-robots-tag"), "noindex");
        assert_eq!(answer.header("cache-control"), "private, no-store");
    }
    for slug in ["a", "a/b.C", "a%00", "a//b", "nothing"] {
        follow(service, slug).await.problem(404, "not-found");
    }
}

async fn a_link_leads_to_a_file_whatever_becomes_of_its_content(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("f.txt", "content").await;
    made(
        &client,
        json!({"slug": "f", "file_id": id(&file), "disposition": "inline"}),
    )
    .await;
    let answer = follow(service, "f").await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"content"[..]));
    assert!(answer.header("content-disposition").starts_with("inline"));
    assert_eq!(answer.header("x-robots-tag"), "noindex");
    let part = service.stranger().get("/l/f").header("range", "bytes=3-");
    let part = send(part).await;
    assert_eq!((part.status, &part.body[..]), (206, &b"tent"[..]));
    let again = service.stranger().get("/l/f");
    let again = send(again.header("if-none-match", answer.header("etag"))).await;
    assert_eq!(again.status, 304);
    let replace = client.put(&format!("/v1/files/{}/content", id(&file)));
    assert_eq!(send(replace.body("another")).await.status, 200);
    assert_eq!(follow(service, "f").await.body, b"another");
}

async fn a_link_ends_with_its_file(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("f.txt", "content").await;
    made(&client, json!({"slug": "f", "file_id": id(&file)})).await;
    let at = format!("/v1/files/{}", id(&file));
    assert_eq!(send(client.delete(&at)).await.status, 204);
    follow(service, "f").await.problem(410, "gone");
    send(client.post(&format!("{at}/restore"))).await.json(200);
    assert_eq!(follow(service, "f").await.body, b"content");
    let delete = client.delete(&format!("{at}?permanent=true"));
    assert_eq!(send(delete).await.status, 204);
    follow(service, "f").await.problem(410, "gone");
    let other = create(&client, json!({"file_id": id(&file)})).await;
    other.invalid(&["/file_id"]);
}

async fn a_slug_is_made_where_there_is_none(service: &Service) {
    let client = service.client("acme");
    let link = made(&client, json!({"url": ELSEWHERE})).await;
    let slug = link["slug"].as_str().unwrap();
    assert_eq!(slug.len(), 10);
    assert!(slug.bytes().all(|b| b.is_ascii_alphanumeric()), "{slug}");
    assert_eq!(follow(service, slug).await.status, 302);
}

async fn what_is_no_link_is_refused(service: &Service) {
    let client = service.client("acme");
    let past = service.clock.now().to_string();
    let long = format!("https://example.com/{}", "x".repeat(8 * 1024));
    for (body, pointers) in [
        (json!({}), vec![""]),
        (json!({"url": ELSEWHERE, "file_id": "x"}), vec!["/file_id"]),
        (
            json!({"slug": "a b", "url": "ftp://example.com"}),
            vec!["/slug", "/url"],
        ),
        (json!({"slug": "batch", "url": ELSEWHERE}), vec!["/slug"]),
        (json!({"url": "http://user@example.com/"}), vec!["/url"]),
        (json!({"url": "http://exam\tple.com/"}), vec!["/url"]),
        (json!({"url": "http://example.com/\u{85}"}), vec!["/url"]),
        (json!({"url": "javascript:alert(1)"}), vec!["/url"]),
        (json!({"url": "//example.com"}), vec!["/url"]),
        (json!({"url": long}), vec!["/url"]),
        (
            json!({"url": ELSEWHERE, "expires_at": past, "max_uses": 0, "password": ""}),
            vec!["/expires_at", "/max_uses", "/password"],
        ),
        (json!({"url": ELSEWHERE, "more": 1}), vec!["/more"]),
        (
            json!({"url": ELSEWHERE, "disposition": "x"}),
            vec!["/disposition"],
        ),
    ] {
        create(&client, body).await.invalid(&pointers);
    }
    let page = send(client.get("/v1/links")).await.json(200);
    assert_eq!(page, json!({"items": [], "next_cursor": null}));
}

async fn a_change_holds_at_once(service: &Service) {
    let client = service.client("acme");
    elsewhere(&client, "x").await;
    assert_eq!(follow(service, "x").await.status, 302);
    let other = json!({"url": "http://example.org"});
    let changed = patch(&client, "x", other).await.json(200);
    assert_eq!(changed["url"], "http://example.org/");
    assert_eq!(
        follow(service, "x").await.header("location"),
        "http://example.org/"
    );

    let disabled = patch(&client, "x", json!({"disabled": true})).await;
    assert_eq!(disabled.json(200)["state"], "disabled");
    follow(service, "x").await.problem(410, "gone");
    let file = client.upload("f", "content").await;
    let to_file = json!({"disabled": false, "file_id": id(&file)});
    let to_file = patch(&client, "x", to_file).await;
    let tag = to_file.header("etag").to_owned();
    assert_eq!(to_file.json(200)["url"], Value::Null);
    assert_eq!(follow(service, "x").await.body, b"content");
    let same = patch(&client, "x", json!({"disabled": false})).await;
    assert_eq!(same.header("etag"), tag);

    patch(&client, "x", json!({"file_id": null}))
        .await
        .invalid(&[""]);
    let soon = service.clock.now().plus(Duration::from_secs(60));
    let expires = json!({"expires_at": soon.to_string()});
    patch(&client, "x", expires).await.json(200);
    let stale = client.patch("/v1/links/x").header("if-match", tag);
    send(stale.json(&json!({"disabled": true})))
        .await
        .problem(412, "precondition-failed");
    service.clock.advance(Duration::from_secs(60));
    follow(service, "x").await.problem(410, "gone");
    assert_eq!(get(&client, "x").await["state"], "expired");
    patch(&client, "x", json!({"expires_at": null}))
        .await
        .json(200);
    assert_eq!(follow(service, "x").await.status, 200);
    patch(&client, "nothing", json!({}))
        .await
        .problem(404, "not-found");
}

async fn one_who_asks_for_a_slug_gets_it(service: &Service) {
    let client = service.client("acme");
    let requests = (0..32).map(|_| create(&client, json!({"slug": "x", "url": ELSEWHERE})));
    let answers = futures::future::join_all(requests).await;
    let with = |status| answers.iter().filter(|it| it.status == status).count();
    assert_eq!((with(201), with(409)), (1, 31));
    create(
        &service.client("other"),
        json!({"slug": "x", "url": ELSEWHERE}),
    )
    .await
    .problem(409, "conflict");
}

async fn a_deleted_slug_stays_its_tenants(service: &Service) {
    let (client, other) = (service.client("acme"), service.client("other"));
    elsewhere(&client, "x").await;
    assert_eq!(send(client.delete(&path("x"))).await.status, 204);
    send(client.delete(&path("x")))
        .await
        .problem(404, "not-found");
    send(client.get(&path("x"))).await.problem(404, "not-found");
    follow(service, "x").await.problem(410, "gone");
    let body = json!({"slug": "x", "url": ELSEWHERE});
    create(&other, body.clone()).await.problem(409, "conflict");
    create(&client, body.clone()).await.json(201);
    assert_eq!(follow(service, "x").await.status, 302);
    assert_eq!(send(client.delete(&path("x"))).await.status, 204);
    // Its reservation ends, whether it was swept by then or not.
    service.clock.advance(Duration::from_secs(180 * 86_400));
    create(&other, body.clone()).await.json(201);
    assert_eq!(send(other.delete(&path("x"))).await.status, 204);
    service.clock.advance(Duration::from_secs(180 * 86_400));
    service.app.domain.sweep().await.unwrap();
    follow(service, "x").await;
    let mut reader = service.app.domain.metadata.reader().await.unwrap();
    assert_eq!(reader.conn().link_find("x").await.unwrap(), None);
}

async fn links_are_listed_by_slug(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("f", "content").await;
    for slug in ["b", "a/1", "a/2", "A", "a/3"] {
        elsewhere(&client, slug).await;
    }
    made(&client, json!({"slug": "f", "file_id": id(&file)})).await;
    patch(&client, "a/2", json!({"disabled": true}))
        .await
        .json(200);
    let list = async |query: &str| {
        let (mut slugs, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/links?limit=2{query}{cursor}");
            let page = send(client.get(&path)).await.json(200);
            for item in page["items"].as_array().unwrap() {
                slugs.push(item["slug"].as_str().unwrap().to_owned());
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return slugs.join(" "),
            }
        }
    };
    assert_eq!(list("").await, "A a/1 a/2 a/3 b f");
    assert_eq!(list("&prefix=a/").await, "a/1 a/2 a/3");
    assert_eq!(list(&format!("&file_id={}", id(&file))).await, "f");
    assert_eq!(list("&state=disabled").await, "a/2");
    assert_eq!(list("&state=active&prefix=a").await, "a/1 a/3");
    assert_eq!(list("&state=spent").await, "");
    for (query, pointer) in [
        ("prefix=%00", "/prefix"),
        ("state=x", "/state"),
        ("cursor=!", "/cursor"),
        ("file_id=x", "/file_id"),
    ] {
        let answer = send(client.get(&format!("/v1/links?{query}"))).await;
        answer.invalid(&[pointer]);
    }
}

async fn another_tenant_sees_nothing(service: &Service) {
    let (client, other) = (service.client("acme"), service.client("other"));
    elsewhere(&client, "x").await;
    let file = client.upload("f", "content").await;
    send(other.get(&path("x"))).await.problem(404, "not-found");
    patch(&other, "x", json!({"disabled": true}))
        .await
        .problem(404, "not-found");
    send(other.delete(&path("x")))
        .await
        .problem(404, "not-found");
    let page = send(other.get("/v1/links")).await.json(200);
    assert_eq!(page["items"], json!([]));
    create(&other, json!({"file_id": id(&file)}))
        .await
        .invalid(&["/file_id"]);
    assert_eq!(follow(service, "x").await.status, 302);
}

async fn a_link_is_made_once(service: &Service) {
    let client = service.client("acme");
    let send_it = async |body: Value| {
        let request = client.post("/v1/links").header("idempotency-key", "k");
        send(request.json(&body)).await
    };
    let body = json!({"url": ELSEWHERE, "password": "secret"});
    let first = send_it(body.clone()).await.json(201);
    assert_eq!(send_it(body).await.json(201), first);
    assert_eq!(first["has_password"], true);
    send_it(json!({"url": ELSEWHERE}))
        .await
        .invalid(&["/Idempotency-Key"]);
    let page = send(client.get("/v1/links")).await.json(200);
    assert_eq!(page["items"], json!([first]));
}

async fn a_scope_is_needed(service: &Service) {
    let reads = service.client_with("acme", &[Scope::LinksRead]);
    let writes = service.client_with("acme", &[Scope::LinksWrite]);
    create(&reads, json!({"url": ELSEWHERE}))
        .await
        .problem(403, "forbidden");
    elsewhere(&writes, "x").await;
    send(writes.get(&path("x"))).await.problem(403, "forbidden");
    get(&reads, "x").await;
    send(reads.delete(&path("x")))
        .await
        .problem(403, "forbidden");
}

async fn an_operator_bounds_slugs_and_hosts(service: &Service) {
    let client = service.client("acme");
    let link = made(&client, json!({"url": "https://a.example.com/"})).await;
    assert!(
        link["slug"].as_str().unwrap().starts_with("acme/"),
        "{link}"
    );
    made(
        &client,
        json!({"slug": "acme/x", "url": "https://EXAMPLE.com/"}),
    )
    .await;
    for slug in ["x", "other/x", "acme"] {
        let body = json!({"slug": slug, "url": "https://example.com/"});
        create(&client, body).await.invalid(&["/slug"]);
    }
    for host in [
        "bad.example.com",
        "BAD.example.com.",
        "example.org",
        "127.0.0.1",
    ] {
        let body = json!({"url": format!("https://{host}/")});
        create(&client, body).await.invalid(&["/url"]);
    }
    let body = json!({"url": "https://bad.example.com/"});
    patch(&client, "acme/x", body).await.invalid(&["/url"]);
}
