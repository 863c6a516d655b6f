//! The trash, and the way out of it that is final.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::client::{id, send};
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    a_deleted_file_is_in_the_trash_with_its_bytes,
    deleting_again_changes_nothing,
    permanent_deletion_removes_the_bytes,
    if_match_is_on_the_revision,
    what_is_not_there_answers_404,
    parameters_of_a_deletion_are_checked,
    the_trash_is_kept_for_thirty_days,
);

/// What the file's events tell, the oldest first: the clock must have moved between them.
pub(super) async fn events(service: &Service, file: &Value) -> Vec<String> {
    let mut reader = service.app.domain.metadata.reader().await.unwrap();
    let tenant = "acme".parse().unwrap();
    let actions = reader.conn().event_actions(&tenant, id(file)).await;
    actions.unwrap()
}

async fn a_deleted_file_is_in_the_trash_with_its_bytes(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let path = format!("/v1/files/{}", id(&file));
    service.clock.advance(Duration::from_secs(5));
    let answer = send(client.delete(&path)).await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));

    let shown = send(client.get(&path)).await;
    let trashed = shown.json(200);
    let mut expected = file.clone();
    expected["trashed_at"] = json!("2026-01-31T12:00:05.123456Z");
    expected["revision"] = json!(2);
    expected["updated_at"] = trashed["updated_at"].clone();
    assert_eq!(trashed, expected);
    assert_eq!(shown.header("etag"), "\"2\"");

    let content = format!("{path}/content");
    send(client.get(&content)).await.problem(410, "gone");
    let head = send(client.head(&content)).await;
    assert_eq!((head.status, head.body.len()), (410, 0));
    for (name, value) in [("range", "bytes=0-1"), ("if-none-match", "*")] {
        let answer = send(client.get(&content).header(name, value)).await;
        answer.problem(410, "gone");
    }
    assert_eq!(
        events(service, &file).await,
        ["file.created", "file.trashed"]
    );
    service.assert_holds(1).await;
}

async fn deleting_again_changes_nothing(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let path = format!("/v1/files/{}", id(&file));
    service.clock.advance(Duration::from_secs(5));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    let trashed = send(client.get(&path)).await.json(200);
    service.clock.advance(Duration::from_secs(5));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    assert_eq!(send(client.get(&path)).await.json(200), trashed);
    assert_eq!(
        events(service, &file).await,
        ["file.created", "file.trashed"]
    );
    service.assert_holds(1).await;
}

async fn permanent_deletion_removes_the_bytes(service: &Service) {
    let client = service.client("acme");
    let live = client.upload("a", "content").await;
    let trashed = client.upload("b", "content").await;
    let kept = client.upload("c", "content").await;
    let path = format!("/v1/files/{}", id(&trashed));
    service.clock.advance(Duration::from_secs(5));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    for (file, actions) in [
        (&live, &["file.created", "file.deleted"][..]),
        (&trashed, &["file.created", "file.trashed", "file.deleted"]),
    ] {
        let path = format!("/v1/files/{}", id(file));
        service.clock.advance(Duration::from_secs(5));
        let answer = send(client.delete(&format!("{path}?permanent=true"))).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        for path in [path.clone(), format!("{path}/content")] {
            send(client.get(&path)).await.problem(404, "not-found");
        }
        for query in ["", "?permanent=true"] {
            let again = send(client.delete(&format!("{path}{query}"))).await;
            again.problem(404, "not-found");
        }
        assert_eq!(events(service, file).await, actions);
    }
    service.assert_holds(1).await;
    assert_eq!(client.content(id(&kept)).await, b"content");
}

async fn if_match_is_on_the_revision(service: &Service) {
    let client = service.client("acme");
    let request = client.post("/v1/files?name=a").body("content");
    let answer = send(request).await;
    let (file, content_tag) = (answer.json(201), answer.header("etag"));
    let path = format!("/v1/files/{}", id(&file));
    for query in ["", "?permanent=true", "?permanent=false"] {
        for tag in [
            "\"2\"",
            "\"0\"",
            "W/\"1\"",
            "\"01\"",
            "\"2\", \"3\"",
            content_tag,
        ] {
            let request = client.delete(&format!("{path}{query}"));
            let answer = send(request.header("if-match", tag)).await;
            answer.problem(412, "precondition-failed");
        }
        let request = client.delete(&format!("{path}{query}"));
        let answer = send(request.header("if-match", "nonsense")).await;
        assert!((400..=422).contains(&answer.status), "{answer:?}");
    }
    assert_eq!(send(client.get(&path)).await.json(200), file);
    assert_eq!(client.content(id(&file)).await, b"content");
    assert_eq!(events(service, &file).await, ["file.created"]);

    let trash = client.delete(&path).header("if-match", "\"7\", \"1\"");
    assert_eq!(send(trash).await.status, 204);
    let stale = client.delete(&path).header("if-match", "\"1\"");
    send(stale).await.problem(412, "precondition-failed");
    let again = client.delete(&path).header("if-match", "*");
    assert_eq!(send(again).await.status, 204);
    let path = format!("{path}?permanent=true");
    let stale = client.delete(&path).header("if-match", "\"1\"");
    send(stale).await.problem(412, "precondition-failed");
    service.assert_holds(1).await;
    let remove = client.delete(&path).header("if-match", "\"2\"");
    assert_eq!(send(remove).await.status, 204);
    service.assert_holds(0).await;
}

async fn what_is_not_there_answers_404(service: &Service) {
    let client = service.client("acme");
    let never = "01890a5d-ac96-774b-bcce-b302099a8057";
    for name in [
        never,
        "x",
        "%00",
        "%ff",
        "01890A5D-AC96-774B-BCCE-B302099A8057x",
    ] {
        let path = format!("/v1/files/{name}");
        for request in [
            client.get(&path),
            client.delete(&path),
            client.delete(&format!("{path}?permanent=true")),
            client.delete(&path).header("if-match", "\"1\""),
            client.get(&format!("{path}/content")),
            client.get(&format!("{path}/content?redirect=true")),
        ] {
            send(request).await.problem(404, "not-found");
        }
        let head = send(client.head(&format!("{path}/content"))).await;
        assert_eq!((head.status, head.body.len()), (404, 0));
    }
}

async fn parameters_of_a_deletion_are_checked(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let path = format!("/v1/files/{}", id(&file));
    for (query, pointer) in [
        ("permanent=yes", "/permanent"),
        ("permanent=", "/permanent"),
        ("permanent=true&permanent=true", "/permanent"),
        ("nonsense=1", "/nonsense"),
    ] {
        let answer = send(client.delete(&format!("{path}?{query}"))).await;
        answer.invalid(&[pointer]);
    }
    assert_eq!(send(client.get(&path)).await.json(200), file);
    let path = format!("{path}?permanent=false");
    assert_eq!(send(client.delete(&path)).await.status, 204);
    service.assert_holds(1).await;
}

async fn the_trash_is_kept_for_thirty_days(service: &Service) {
    let client = service.client("acme");
    let file = client.upload("a", "content").await;
    let live = client.upload("b", "content").await;
    let path = format!("/v1/files/{}", id(&file));
    service.clock.advance(Duration::from_secs(5));
    assert_eq!(send(client.delete(&path)).await.status, 204);
    let month = Duration::from_secs(30 * 86_400);
    let moment = Duration::from_micros(1);
    service.clock.advance(month - moment);
    assert_eq!(service.app.domain.sweep().await.unwrap(), 0);
    send(client.get(&path)).await.json(200);

    service.clock.advance(moment);
    assert_eq!(service.app.domain.sweep().await.unwrap(), 1);
    assert_eq!(service.app.domain.sweep().await.unwrap(), 0);
    send(client.get(&path)).await.problem(404, "not-found");
    let actions = events(service, &file).await;
    assert_eq!(actions, ["file.created", "file.trashed", "file.deleted"]);
    service.assert_holds(1).await;
    assert_eq!(client.content(id(&live)).await, b"content");
}

mod without_trash {
    //! Where what is deleted is gone.

    use std::time::Duration;

    use super::events;
    use crate::harness::client::{id, send};
    use crate::harness::service::{Service, on_every_pair};

    on_every_pair!(
        with [("BOX_TRASH__KEEP", "0")];
        a_deletion_is_final,
        a_stale_deletion_changes_nothing,
    );

    async fn a_deletion_is_final(service: &Service) {
        let client = service.client("acme");
        for query in ["", "?permanent=false", "?permanent=true"] {
            let file = client.upload("a", "content").await;
            let path = format!("/v1/files/{}", id(&file));
            service.clock.advance(Duration::from_secs(5));
            let answer = send(client.delete(&format!("{path}{query}"))).await;
            assert_eq!(answer.status, 204);
            send(client.get(&path)).await.problem(404, "not-found");
            send(client.delete(&path)).await.problem(404, "not-found");
            let actions = events(service, &file).await;
            assert_eq!(actions, ["file.created", "file.deleted"]);
        }
        let trash = send(client.get("/v1/files?trashed=true")).await.json(200);
        assert_eq!(trash["items"].as_array().unwrap().len(), 0);
        service.assert_holds(0).await;
    }

    async fn a_stale_deletion_changes_nothing(service: &Service) {
        let client = service.client("acme");
        let file = client.upload("a", "content").await;
        let path = format!("/v1/files/{}", id(&file));
        let stale = client.delete(&path).header("if-match", "\"2\"");
        send(stale).await.problem(412, "precondition-failed");
        assert_eq!(client.content(id(&file)).await, b"content");
        let fresh = client.delete(&path).header("if-match", "\"1\"");
        assert_eq!(send(fresh).await.status, 204);
        service.assert_holds(0).await;
    }
}
