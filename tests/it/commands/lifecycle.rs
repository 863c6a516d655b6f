//! `box lifecycle`.

use std::sync::{Arc, Mutex};

use axum::body::to_bytes;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use serde_json::{Value, json};

use super::doctor::on_s3;
use super::{Place, Running, SECRET};
use crate::harness::client::{Client, send};
use crate::harness::front::pass_on;
use crate::harness::service::s3_variables;

const RULES: &str = r#"[{"name": "soon", "prefix": "a/", "expire_after": "1ms"}]"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_run_once_and_shown_before() {
    let place = Place::new();
    let variables = [
        ("BOX_AUTH__SECRET", SECRET),
        ("BOX_LIFECYCLE__RULES", RULES),
    ];
    let run = |arguments: &[&str]| {
        let arguments = [&["lifecycle", "run"], arguments].concat();
        place.run_with(&arguments, &variables).succeeded()
    };
    let service = Running::start(&place, &variables).await;
    let arguments = [
        "token",
        "--tenant",
        "acme",
        "--subject",
        "s",
        "--scopes",
        "files:write files:read",
    ];
    let token = place.run_with(&arguments, &variables).succeeded();
    let client = Client::new(&service.url, Some(token.trim().to_owned()));
    let file = client.upload("a/1", "content").await;
    client.upload("b/1", "content").await;

    let told: Value = serde_json::from_str(&run(&["--dry-run", "--json"])).unwrap();
    let item = json!({
        "rule": "soon", "action": "expire", "tenant": "acme", "file_id": file["id"],
        "name": "a/1", "size": 7, "updated_at": file["updated_at"],
    });
    let mut expected = json!({"items": [item], "files": 1, "bytes": 7, "dry_run": true});
    assert_eq!(told, expected);
    assert!(run(&["--dry-run"]).ends_with("1 files of 7 bytes would go\n"));
    // Beside the service.
    let told: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    expected["dry_run"] = json!(false);
    assert_eq!(told, expected);
    assert_eq!(run(&[]), "0 files of 0 bytes went\n");
    let page = send(client.get("/v1/files")).await.json(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_directory_has_no_rules_of_its_own() {
    let place = Place::new();
    place.run(&["migrate"]).succeeded();
    for arguments in [
        &["lifecycle", "apply"][..],
        &["lifecycle", "apply", "--dry-run"],
    ] {
        place.run(arguments).refused(&["is a directory", "S3"]);
    }
}

const TRANSITIONS: &str =
    r#"[{"name": "cold", "prefix": "acme/", "after": "90d", "storage_class": "STANDARD_IA"}]"#;

/// Rules of somebody else, with what we know nothing of, in another order and with blanks.
const OTHERS: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <Rule><Status>Disabled</Status><ID>box-service:tested:abort-uploads</ID>
    <Filter><And><Prefix>a&amp;b</Prefix><Tag><Key>k</Key><Value>&lt;Rule&gt;</Value></Tag></And></Filter>
    <NoncurrentVersionExpiration><NoncurrentDays>3</NoncurrentDays></NoncurrentVersionExpiration>
  </Rule>
  <Rule><Filter/><Status>Enabled</Status><Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration></Rule>
</LifecycleConfiguration>
"#;

/// A bucket's lifecycle as AWS keeps it: all at once, and only with a checksum.
#[derive(Default)]
struct Kept {
    text: Option<String>,
    minimum_size: Option<String>,
    writes: u32,
}

async fn keeping(store: String, kept: Arc<Mutex<Kept>>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let service = axum::Router::new().fallback(move |request: Request| {
        let (store, client, kept) = (store.clone(), client.clone(), kept.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = to_bytes(body, 64 * 1024 * 1024).await.unwrap();
            if head.uri.query() != Some("lifecycle=") {
                return pass_on(&store, &client, head, body).await;
            }
            assert!(
                head.headers["authorization"]
                    .to_str()
                    .unwrap()
                    .contains("SignedHeaders=")
            );
            let text = String::from_utf8(body.to_vec()).unwrap();
            let field = |name: &str| Some(head.headers.get(name)?.to_str().unwrap().to_owned());
            let mut kept = kept.lock().unwrap();
            match head.method.as_str() {
                "GET" => of_get(&kept),
                "PUT" => {
                    assert_eq!(
                        field("content-md5"),
                        Some(STANDARD.encode(Md5::digest(&text)))
                    );
                    assert!(text.contains("<Rule>"), "an empty one is refused: {text}");
                    kept.text = Some(text);
                    kept.minimum_size = field("x-amz-transition-default-minimum-object-size");
                    kept.writes += 1;
                    ().into_response()
                }
                "DELETE" => {
                    kept.text = None;
                    kept.writes += 1;
                    axum::http::StatusCode::NO_CONTENT.into_response()
                }
                other => panic!("{other}"),
            }
        }
    });
    tokio::spawn(async move { axum::serve(listener, service).await });
    format!("http://{address}")
}

fn of_get(kept: &Kept) -> Response {
    match &kept.text {
        None => (
            axum::http::StatusCode::NOT_FOUND,
            "<Error><Code>NoSuchLifecycleConfiguration</Code></Error>",
        )
            .into_response(),
        Some(text) => {
            let mut answer = text.clone().into_response();
            if let Some(size) = &kept.minimum_size {
                answer.headers_mut().insert(
                    "x-amz-transition-default-minimum-object-size",
                    size.parse().unwrap(),
                );
            }
            answer
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_of_others_are_left_as_they_are() {
    let Some(s3) = s3_variables() else { return };
    let endpoint = s3
        .iter()
        .find(|(key, _)| key == "BOX_STORE__ENDPOINT")
        .unwrap();
    let kept = Arc::new(Mutex::new(Kept {
        text: Some(OTHERS.to_owned()),
        minimum_size: Some("varies_by_storage_class".to_owned()),
        writes: 0,
    }));
    let endpoint = keeping(endpoint.1.clone(), kept.clone()).await;
    let look = || {
        let kept = kept.lock().unwrap();
        (kept.text.clone(), kept.writes)
    };
    tokio::task::block_in_place(|| {
        let place = Place::new();
        let with = |days: &str, transitions: &str, arguments: &[&str]| {
            let variables = on_s3(
                &s3,
                &[
                    ("BOX_STORE__ENDPOINT", &endpoint),
                    ("BOX_LIFECYCLE__ABORT_UPLOADS_AFTER", days),
                    ("BOX_LIFECYCLE__TRANSITIONS", transitions),
                ],
            );
            let arguments = [&["lifecycle", "apply"], arguments].concat();
            place.run_with(&arguments, &variables).succeeded()
        };
        let variables = on_s3(&s3, &[("BOX_STORE__ENDPOINT", &endpoint)]);
        place.run_with(&["migrate"], &variables).succeeded();
        let prefix = variables
            .iter()
            .find(|(key, _)| *key == "BOX_STORE__URL")
            .unwrap()
            .1;
        let prefix = prefix.splitn(4, '/').nth(3).unwrap();
        let id = |name: &str| format!("box-service:development/{prefix}:{name}");

        let told = with("7d", TRANSITIONS, &["--dry-run"]);
        let abort = format!(
            "+ {}: ends multipart uploads after 7 days, below {prefix}/development/",
            id("abort-uploads")
        );
        let cold = format!(
            "+ {}: moves objects to STANDARD_IA after 90 days, below {prefix}/development/acme/",
            id("transition:cold")
        );
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines[..2], [abort.as_str(), cold.as_str()]);
        // The first one has our name, and is another deployment's.
        assert_eq!(
            lines[2],
            "  box-service:tested:abort-uploads: not ours, stays as it is"
        );
        assert_eq!(lines.len(), 5, "{told}");
        assert_eq!(look(), (Some(OTHERS.to_owned()), 0));

        assert!(with("7d", TRANSITIONS, &[]).ends_with("written\n"));
        let (text, writes) = look();
        let text = text.unwrap();
        assert_eq!(writes, 1);
        // To the letter, but for what was added before the last tag.
        let (before, end) = OTHERS.rsplit_once("</").unwrap();
        let added = text
            .strip_prefix(before)
            .unwrap()
            .strip_suffix(&format!("</{end}"))
            .unwrap();
        let root = format!("{prefix}/development/");
        assert_eq!(
            added,
            format!(
                "<Rule><ID>{}</ID><Filter><Prefix>{root}</Prefix></Filter><Status>Enabled</Status>\
                 <AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>\
                 <Rule><ID>{}</ID><Filter><Prefix>{root}acme/</Prefix></Filter><Status>Enabled</Status>\
                 <Transition><Days>90</Days><StorageClass>STANDARD_IA</StorageClass></Transition></Rule>",
                id("abort-uploads"),
                id("transition:cold")
            )
        );
        assert_eq!(
            kept.lock().unwrap().minimum_size.as_deref(),
            Some("varies_by_storage_class")
        );

        // Nothing changes: nothing is written.
        assert!(with("7d", TRANSITIONS, &[]).contains("nothing is written"));
        assert_eq!(look().1, 1);
        let told = with("8d", "", &[]);
        for line in [
            format!(
                "- {}: ends multipart uploads after 7 days",
                id("abort-uploads")
            ),
            format!(
                "+ {}: ends multipart uploads after 8 days",
                id("abort-uploads")
            ),
            format!("- {}: moves objects", id("transition:cold")),
        ] {
            assert!(told.contains(&line), "no {line} in {told}");
        }
        // Without ours, it is as it was; and without any, there is none.
        with("", "", &[]);
        assert_eq!(look(), (Some(OTHERS.to_owned()), 3));
        kept.lock().unwrap().text = None;
        assert!(with("", "", &[]).contains("nothing is written"));
        with("7d", "", &[]);
        assert!(look().0.unwrap().contains("DaysAfterInitiation"));
        with("", "", &[]);
        assert_eq!(look(), (None, 5));
        // What can't be read is not written over.
        kept.lock().unwrap().text = Some("<Something/>".to_owned());
        let variables = on_s3(&s3, &[("BOX_STORE__ENDPOINT", &endpoint)]);
        place
            .run_with(&["lifecycle", "apply"], &variables)
            .refused(&["can't be read"]);
        assert_eq!(look(), (Some("<Something/>".to_owned()), 5));
    });
}

/// SeaweedFS keeps rules too, as far as it knows them.
#[test]
fn a_bucket_is_given_its_rules_once() {
    let Some(s3) = s3_variables() else { return };
    let variables = on_s3(&s3, &[]);
    let place = Place::new();
    place.run_with(&["migrate"], &variables).succeeded();
    let apply = || {
        place
            .run_with(&["lifecycle", "apply"], &variables)
            .succeeded()
    };
    let first = apply();
    assert!(first.contains("+ box-service:development/"), "{first}");
    let second = apply();
    assert!(second.contains("nothing is written"), "{second}");
}
