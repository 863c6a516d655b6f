//! A store that has AWS's rule: of two parts with one number the last one counts, with an ETag of its own, and
//! a Complete that names another ETag is refused. (The S3 server of the other tests takes any that there was.)

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;

use super::{create, head, patch};
use crate::harness::client::send;
use crate::harness::content::{MIB, noise};
use crate::harness::service::{Pair, Service};

const WHEN: &str = "Sat, 31 Jan 2026 12:00:00 GMT";

#[derive(Default)]
struct Store {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, Upload>,
    made: u32,
    /// Parts to come whose answer says that something went wrong, though they are kept.
    lose: u32,
    refused: u32,
}

struct Upload {
    key: String,
    /// Its ETag and its bytes.
    parts: BTreeMap<u32, (String, Bytes)>,
}

type Shared = Arc<Mutex<Store>>;

fn xml(status: StatusCode, text: String) -> Response {
    (status, [("content-type", "application/xml")], text).into_response()
}

fn error(status: StatusCode, code: &str) -> Response {
    xml(status, format!("<Error><Code>{code}</Code></Error>"))
}

fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .find_map(|pair| match pair.split_once('=') {
            Some((found, value)) if found == name => Some(value),
            None if pair == name => Some(""),
            _ => None,
        })
}

/// What stands between each of these tags.
fn between<'a>(text: &'a str, tag: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let rest = text.split(open.as_str()).skip(1);
    rest.map(|part| part.split(close.as_str()).next().unwrap())
        .collect()
}

async fn answer(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut store = shared.lock().unwrap();
    let key = uri
        .path()
        .trim_start_matches("/files")
        .trim_start_matches('/');
    let query = uri.query().unwrap_or_default();
    let upload = value(query, "uploadId");
    let ranged = headers.get("range").map(|range| range.to_str().unwrap());
    match (method.as_str(), upload) {
        ("GET", None) if key.is_empty() && value(query, "uploads").is_some() => store.open(),
        ("GET", None) if key.is_empty() => store.listed(value(query, "prefix").unwrap_or_default()),
        ("POST", None) => {
            store.made += 1;
            let id = format!("u{}", store.made);
            let (key, parts) = (key.to_owned(), BTreeMap::new());
            store.uploads.insert(id.clone(), Upload { key, parts });
            let text = format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            );
            xml(StatusCode::OK, text)
        }
        ("PUT", Some(id)) => store.part(id, value(query, "partNumber").unwrap(), body),
        ("POST", Some(id)) => store.complete(id, std::str::from_utf8(&body).unwrap()),
        ("GET", Some(id)) => store.parts(id),
        ("DELETE", Some(id)) => match store.uploads.remove(id) {
            Some(_) => StatusCode::NO_CONTENT.into_response(),
            None => error(StatusCode::NOT_FOUND, "NoSuchUpload"),
        },
        ("PUT", None) => {
            let there = store.objects.contains_key(key);
            if headers.contains_key("if-none-match") && there {
                return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
            }
            store.objects.insert(key.to_owned(), body);
            [("etag", "\"o\"")].into_response()
        }
        ("DELETE", None) => {
            store.objects.remove(key);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => store.object(key, ranged),
    }
}

impl Store {
    fn part(&mut self, id: &str, number: &str, body: Bytes) -> Response {
        self.made += 1;
        let etag = format!("\"p{}\"", self.made);
        let Some(upload) = self.uploads.get_mut(id) else {
            return error(StatusCode::NOT_FOUND, "NoSuchUpload");
        };
        let number = number.parse().unwrap();
        if let Some((_, before)) = upload.parts.get(&number) {
            assert!(*before == body, "part {number} was sent with other bytes");
        }
        upload.parts.insert(number, (etag.clone(), body));
        if self.lose > 0 {
            self.lose -= 1;
            return error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        }
        [("etag", etag)].into_response()
    }

    fn complete(&mut self, id: &str, said: &str) -> Response {
        let Some(upload) = self.uploads.get(id) else {
            return error(StatusCode::NOT_FOUND, "NoSuchUpload");
        };
        let said = said.replace("&quot;", "\"");
        let mut whole = Vec::new();
        for (number, etag) in between(&said, "PartNumber")
            .iter()
            .zip(between(&said, "ETag"))
        {
            match upload.parts.get(&number.parse().unwrap()) {
                Some((last, bytes)) if last == etag => whole.extend_from_slice(bytes),
                _ => {
                    self.refused += 1;
                    return error(StatusCode::BAD_REQUEST, "InvalidPart");
                }
            }
        }
        let key = upload.key.clone();
        self.uploads.remove(id);
        self.objects.insert(key, whole.into());
        let text =
            "<CompleteMultipartUploadResult><ETag>\"w\"</ETag></CompleteMultipartUploadResult>";
        xml(StatusCode::OK, text.to_owned())
    }

    fn parts(&self, id: &str) -> Response {
        let Some(upload) = self.uploads.get(id) else {
            return error(StatusCode::NOT_FOUND, "NoSuchUpload");
        };
        let parts: String = (upload.parts.iter())
            .map(|(number, (etag, bytes))| {
                let size = bytes.len();
                format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag><Size>{size}</Size></Part>")
            })
            .collect();
        xml(
            StatusCode::OK,
            format!("<ListPartsResult><IsTruncated>false</IsTruncated>{parts}</ListPartsResult>"),
        )
    }

    fn open(&self) -> Response {
        let uploads: String = (self.uploads.iter())
            .map(|(id, upload)| {
                let key = &upload.key;
                format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>2026-01-31T12:00:00Z</Initiated></Upload>")
            })
            .collect();
        xml(
            StatusCode::OK,
            format!(
                "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{uploads}</ListMultipartUploadsResult>"
            ),
        )
    }

    fn listed(&self, prefix: &str) -> Response {
        let prefix = percent_encoding::percent_decode_str(prefix)
            .decode_utf8()
            .unwrap();
        let found: String = (self.objects.iter())
            .filter(|(key, _)| key.starts_with(&*prefix))
            .map(|(key, bytes)| {
                let size = bytes.len();
                format!("<Contents><Key>{key}</Key><Size>{size}</Size><ETag>\"o\"</ETag><LastModified>2026-01-31T12:00:00Z</LastModified></Contents>")
            })
            .collect();
        xml(
            StatusCode::OK,
            format!("<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"),
        )
    }

    fn object(&self, key: &str, range: Option<&str>) -> Response {
        let Some(bytes) = self.objects.get(key) else {
            return error(StatusCode::NOT_FOUND, "NoSuchKey");
        };
        let fields = [("etag", "\"o\""), ("last-modified", WHEN)];
        let Some(range) = range else {
            return (fields, bytes.clone()).into_response();
        };
        let (first, last) = range
            .strip_prefix("bytes=")
            .unwrap()
            .split_once('-')
            .unwrap();
        let first: usize = first.parse().unwrap();
        let last = last.parse().unwrap_or(usize::MAX).min(bytes.len() - 1);
        let told = format!("bytes {first}-{last}/{}", bytes.len());
        let some = bytes.slice(first..=last);
        (
            StatusCode::PARTIAL_CONTENT,
            fields,
            [("content-range", told)],
            some,
        )
            .into_response()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_two_tries_counts_and_no_number_is_used_for_other_bytes() {
    let shared = Shared::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new()
        .fallback(answer)
        .with_state(shared.clone());
    let router = router.layer(axum::extract::DefaultBodyLimit::disable());
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let variables = [
        ("BOX_STORE__URL", "s3://files/it"),
        ("BOX_STORE__ENDPOINT", endpoint.as_str()),
        ("BOX_STORE__ALLOW_HTTP", "true"),
        ("BOX_STORE__ACCESS_KEY_ID", "key"),
        ("BOX_STORE__SECRET_ACCESS_KEY", "secret"),
    ];
    let service = Service::start_with(Pair::SqliteLocal, &variables)
        .await
        .unwrap();
    let client = service.client("acme");
    let bytes = noise(20 * MIB + 3);
    let path = create(&client, bytes.len()).await;
    let ends = [MIB, 2 * MIB, 9 * MIB, 9 * MIB + 1, bytes.len()];
    let mut at = 0;
    for end in ends {
        if end == 9 * MIB {
            // The first part fills up here; its answer is lost, and it is sent again.
            shared.lock().unwrap().lose = 1;
        }
        let answer = send(patch(&client, &path, at, &bytes[at..end])).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        at = end;
    }
    let id = head(&client, &path).await.header("box-file-id").to_owned();
    assert!(client.content(&id).await == bytes);
    {
        let store = shared.lock().unwrap();
        assert_eq!((store.lose, store.refused), (0, 0));
        assert!(store.uploads.is_empty());
    }

    // A try that arrives late has changed the ETag since: what the store lists is taken.
    let path = create(&client, bytes.len()).await;
    let most = bytes.len() - 1;
    assert_eq!(
        send(patch(&client, &path, 0, &bytes[..most])).await.status,
        204
    );
    {
        let mut store = shared.lock().unwrap();
        let upload = store.uploads.values_mut().next().unwrap();
        upload.parts.get_mut(&1).unwrap().0 = "\"late\"".into();
    }
    let answer = send(patch(&client, &path, most, &bytes[most..])).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(shared.lock().unwrap().refused, 1);
    assert!(client.content(answer.header("box-file-id")).await == bytes);

    // One that the store has ended by a rule of its own is gone, and who asks is told so.
    let path = create(&client, bytes.len()).await;
    assert_eq!(
        send(patch(&client, &path, 0, &bytes[..9 * MIB]))
            .await
            .status,
        204
    );
    shared.lock().unwrap().uploads.clear();
    let answer = send(patch(&client, &path, 9 * MIB, &bytes[9 * MIB..])).await;
    answer.problem(410, "gone");
    assert_eq!(head(&client, &path).await.status, 404);

    service.assert_holds(2).await;
    let store = shared.lock().unwrap().objects.len();
    // And the marker.
    assert_eq!(store, 3);
    service.end().await;
    serving.abort();
}
