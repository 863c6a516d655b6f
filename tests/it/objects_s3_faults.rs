//! What a writer and a reader make of an S3 that fails: a scripted one, so that each answer can be
//! lost, refused or cut short at will.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use box_service::clock::{Clock, Timestamp};
use box_service::error::Kind;
use box_service::id::ObjectId;
use box_service::objects::keys::ObjectKey;
use box_service::objects::{CALL_TIMEOUT, Lease, Objects, S3Settings, Settings, Writer};
use bytes::Bytes;
use futures::TryStreamExt;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

mod multipart;

const PART: usize = 8 * 1024 * 1024;

struct Request {
    method: String,
    query: String,
    headers: String,
    body: usize,
}

impl Request {
    fn is(&self, method: &str, query: &str) -> bool {
        self.method == method && self.query.contains(query)
    }

    fn is_part(&self) -> bool {
        self.is("PUT", "partNumber=")
    }

    fn is_complete(&self) -> bool {
        self.is("POST", "uploadId=")
    }
}

/// A whole answer, as it goes over the wire; None breaks the connection off.
type Answer = Option<String>;

fn answer(status: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    Some(format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    ))
}

fn refused(status: &str, code: &str) -> Answer {
    answer(status, "", &format!("<Error><Code>{code}</Code></Error>"))
}

/// What S3 answers when all is well.
fn well(request: &Request) -> Answer {
    match request.method.as_str() {
        "POST" if request.query == "uploads=" || request.query == "uploads" => answer(
            "200 OK",
            "",
            "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>",
        ),
        "POST" => answer(
            "200 OK",
            "",
            "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>",
        ),
        "PUT" => answer("200 OK", "etag: \"e\"\r\n", ""),
        "DELETE" => answer("204 No Content", "", ""),
        _ => refused("404 Not Found", "NoSuchKey"),
    }
}

struct Fake {
    objects: Objects,
    clock: Clock,
    /// Method and query of each request that came.
    seen: Arc<Mutex<Vec<String>>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    /// `script` gets each request and how many like it (by method and query) came before.
    async fn new(script: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(script);
        let server = tokio::spawn({
            let seen = seen.clone();
            async move {
                while let Ok((connection, _)) = listener.accept().await {
                    tokio::spawn(serve(connection, script.clone(), seen.clone()));
                }
            }
        });
        Self {
            objects: open(&endpoint),
            clock: Clock::manual(Timestamp::from_micros(1_700_000_000_000_000)),
            seen,
            server,
        }
    }

    fn key(&self) -> ObjectKey {
        let id = ObjectId::new(self.clock.now());
        self.objects.root().object(&"acme".parse().unwrap(), id)
    }

    fn writer(&self) -> Writer {
        let lease = Lease::new(self.clock.now().plus(CALL_TIMEOUT * 2), self.clock.clone());
        self.objects.write(&self.key(), 1, None, lease)
    }

    fn count(&self, request: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.starts_with(request)).count()
    }
}

fn open(endpoint: &str) -> Objects {
    let settings = S3Settings {
        bucket: "files".into(),
        prefix: String::new(),
        endpoint: Some(endpoint.into()),
        region: None,
        access_key_id: Some("key".into()),
        secret_access_key: Some("secret".into()),
        allow_http: true,
        path_style: true,
    };
    Objects::open(&Settings::S3(settings), "faults").unwrap()
}

async fn serve(
    connection: TcpStream,
    script: Arc<impl Fn(&Request, usize) -> Answer>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    let mut connection = BufReader::new(connection);
    while let Some(request) = receive(&mut connection).await {
        let line = format!("{} {}", request.method, request.query);
        let before = {
            let mut seen = seen.lock().unwrap();
            seen.push(line.clone());
            seen.iter().filter(|seen| **seen == line).count() - 1
        };
        // Time for others to come meanwhile, if they do.
        if request.is_part() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let Some(answer) = script(&request, before) else {
            return;
        };
        if connection.write_all(answer.as_bytes()).await.is_err()
            || answer.contains("connection: close")
        {
            return;
        }
    }
}

async fn receive(connection: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if connection.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await.ok()?;
    let mut words = head.split(' ');
    let method = words.next()?.to_ascii_uppercase();
    let query = words.next()?.split_once('?').map_or("", |(_, query)| query);
    Some(Request {
        method,
        query: query
            .replace("partnumber", "partNumber")
            .replace("uploadid", "uploadId"),
        headers: head.clone(),
        body: body.len(),
    })
}

async fn write(writer: &mut Writer, length: usize) -> box_service::error::Result<()> {
    writer.write(vec![Bytes::from(vec![7; length])]).await
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_is_made_again_and_leaves_a_doubt() {
    let fake = Fake::new(|request, before| if before == 0 { None } else { well(request) }).await;
    let mut writer = fake.writer();
    write(&mut writer, 10).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(fake.count("PUT"), 2);
    assert!(!writer.settled());
}

#[tokio::test]
async fn a_refusal_is_final_and_leaves_no_doubt() {
    let fake = Fake::new(|_, _| refused("403 Forbidden", "AccessDenied")).await;
    let mut writer = fake.writer();
    write(&mut writer, 10).await.unwrap();
    let error = writer.finish().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(fake.count("PUT"), 1);
    assert!(writer.settled());
}

#[tokio::test]
async fn a_store_that_keeps_failing_is_given_up_and_leaves_a_doubt() {
    let fake = Fake::new(|_, _| refused("503 Service Unavailable", "SlowDown")).await;
    let mut writer = fake.writer();
    write(&mut writer, 10).await.unwrap();
    assert_eq!(writer.finish().await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(fake.count("PUT"), 3);
    assert!(!writer.settled());
}

#[tokio::test]
async fn finish_can_be_called_again_after_it_failed() {
    let fake = Fake::new(|request, before| {
        if before < 3 {
            refused("503 Service Unavailable", "SlowDown")
        } else {
            well(request)
        }
    })
    .await;
    let mut writer = fake.writer();
    write(&mut writer, 10).await.unwrap();
    writer.finish().await.unwrap_err();
    writer.finish().await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(fake.count("PUT"), 4);
}

#[tokio::test]
async fn a_store_that_is_not_reached_leaves_no_doubt() {
    let fake = Fake::new(|_, _| None).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let lease = Lease::new(fake.clock.now().plus(CALL_TIMEOUT * 2), fake.clock.clone());
    let mut writer = open(&endpoint).write(&fake.key(), 1, None, lease);
    write(&mut writer, 10).await.unwrap();
    assert_eq!(writer.finish().await.unwrap_err().kind(), Kind::Unavailable);
    assert!(writer.settled());
}

/// The first Complete is carried out, and its answer lost; from then on the upload is gone, and a
/// HEAD says what `size` is at the key.
async fn complete_is_lost(size: Option<usize>) -> (box_service::error::Result<()>, bool) {
    let fake = Fake::new(
        move |request, before| match (request.method.as_str(), size) {
            ("POST", _) if request.is_complete() && before == 0 => None,
            ("POST", _) if request.is_complete() => refused("404 Not Found", "NoSuchUpload"),
            ("HEAD", Some(size)) => {
                Some(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n"))
            }
            ("HEAD", None) => answer("404 Not Found", "", ""),
            _ => well(request),
        },
    )
    .await;
    let mut writer = fake.writer();
    write(&mut writer, PART + 1).await.unwrap();
    let finished = writer.finish().await;
    (finished, writer.settled())
}

#[tokio::test]
async fn a_complete_whose_answer_is_lost_is_found_out() {
    let (finished, settled) = complete_is_lost(Some(PART + 1)).await;
    finished.unwrap();
    assert!(!settled);
    for wrong in [None, Some(PART), Some(0)] {
        let (finished, _) = complete_is_lost(wrong).await;
        assert_eq!(finished.unwrap_err().kind(), Kind::Unavailable);
    }
}

#[tokio::test]
async fn a_complete_that_fails_within_a_200_is_a_failure() {
    let fake = Fake::new(|request, _| {
        if request.is_complete() {
            refused("200 OK", "InternalError")
        } else {
            well(request)
        }
    })
    .await;
    let mut writer = fake.writer();
    write(&mut writer, PART + 1).await.unwrap();
    assert_eq!(writer.finish().await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(fake.count("POST uploadId"), 3);
}

#[tokio::test]
async fn a_writer_that_lost_a_part_never_completes() {
    let fake = Fake::new(|request, _| {
        if request.query.contains("partNumber=2") {
            refused("403 Forbidden", "AccessDenied")
        } else {
            well(request)
        }
    })
    .await;
    let mut writer = fake.writer();
    // Whichever call first hears of it.
    let written = match write(&mut writer, 4 * PART).await {
        Ok(()) => writer.finish().await,
        failed => failed,
    };
    assert_eq!(written.unwrap_err().kind(), Kind::Unavailable);
    write(&mut writer, 1).await.unwrap_err();
    writer.finish().await.unwrap_err();
    writer.abort().await;
    assert!(writer.settled());
    assert_eq!(fake.count("POST uploadId"), 0);
    assert_eq!(fake.count("DELETE uploadId=u1"), 1);
}

#[tokio::test]
async fn an_abort_that_fails_leaves_a_doubt() {
    let fake = Fake::new(|request, _| match request.method.as_str() {
        "DELETE" => refused("403 Forbidden", "AccessDenied"),
        _ => well(request),
    })
    .await;
    let mut writer = fake.writer();
    write(&mut writer, PART + 1).await.unwrap();
    writer.abort().await;
    assert!(!writer.settled());
}

#[tokio::test]
async fn a_write_that_is_dropped_halfway_is_not_finished() {
    let fake = Fake::new(|request, _| well(request)).await;
    let mut writer = fake.writer();
    let cut = tokio::time::timeout(Duration::from_millis(1), write(&mut writer, 6 * PART)).await;
    assert!(cut.is_err());
    assert!(!writer.settled());
    assert_eq!(writer.finish().await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(fake.count("POST uploadId"), 0);
}

#[tokio::test]
async fn no_more_than_two_parts_are_on_their_way() {
    let (now, most, bytes) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let counts = Arc::new((now, most, bytes));
    let fake = Fake::new({
        let counts = counts.clone();
        move |request, _| {
            let (_, _, bytes) = &*counts;
            if request.is_part() {
                bytes.fetch_add(request.body, Ordering::SeqCst);
                assert!(
                    request
                        .headers
                        .contains("x-amz-content-sha256: unsigned-payload")
                );
                assert!(request.headers.contains("x-amz-checksum-crc64nvme: "));
            }
            well(request)
        }
    })
    .await;
    let mut writer = fake.writer();
    for _ in 0..50 {
        write(&mut writer, PART / 8 + 1).await.unwrap();
        let (now, most, bytes) = &*counts;
        now.fetch_add(PART / 8 + 1, Ordering::SeqCst);
        let held = now.load(Ordering::SeqCst) - bytes.load(Ordering::SeqCst);
        most.fetch_max(held, Ordering::SeqCst);
    }
    writer.finish().await.unwrap();
    let (now, most, bytes) = &*counts;
    assert_eq!(now.load(Ordering::SeqCst), bytes.load(Ordering::SeqCst));
    assert!(most.load(Ordering::SeqCst) <= 3 * PART);
    assert_eq!(fake.count("PUT partNumber="), 7);
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_stopped() {
    let fake = Fake::new(|request, _| {
        let head = |range: &str| {
            format!("HTTP/1.1 206 Partial Content\r\netag: \"e\"\r\nconnection: close\r\ncontent-range: bytes {range}/10\r\n")
        };
        if request.headers.contains("range: bytes=0-9\r\n") {
            Some(format!("{}content-length: 10\r\n\r\n0123", head("0-9")))
        } else {
            assert!(request.headers.contains("range: bytes=4-9\r\n"), "{}", request.headers);
            Some(format!("{}content-length: 6\r\n\r\n456789", head("4-9")))
        }
    })
    .await;
    let stream = fake.objects.read(&fake.key(), 0..10).await.unwrap();
    let chunks: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(chunks.concat(), b"0123456789");
}

#[tokio::test]
async fn a_download_that_stays_short_ends_with_an_error() {
    // Without an ETag, nothing says that what comes next is of the same object.
    let fake = Fake::new(|_, _| {
        Some("HTTP/1.1 206 Partial Content\r\nconnection: close\r\ncontent-range: bytes 0-9/10\r\ncontent-length: 10\r\n\r\n0123".into())
    })
    .await;
    let stream = fake.objects.read(&fake.key(), 0..10).await.unwrap();
    let outcome: Result<Vec<Bytes>, _> = stream.try_collect().await;
    assert_eq!(outcome.unwrap_err().kind(), Kind::Unavailable);

    // And one whose length is wrong ends no better.
    let fake = Fake::new(|_, _| {
        Some("HTTP/1.1 206 Partial Content\r\nconnection: close\r\ncontent-range: bytes 0-9/10\r\ncontent-length: 4\r\n\r\n0123".into())
    })
    .await;
    let stream = fake.objects.read(&fake.key(), 0..10).await.unwrap();
    let outcome: Result<Vec<Bytes>, _> = stream.try_collect().await;
    assert_eq!(outcome.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_listing_is_tried_again_and_never_ends_early() {
    let page = "<ListBucketResult><IsTruncated>true</IsTruncated>\
        <NextContinuationToken>t</NextContinuationToken>\
        <Contents><Key>faults/a//b</Key><Size>1</Size></Contents></ListBucketResult>";
    let fake = Fake::new(move |request, before| match before {
        _ if request.query.contains("uploads") => answer(
            "200 OK",
            "",
            "<ListMultipartUploadsResult></ListMultipartUploadsResult>",
        ),
        0 => None,
        1 => refused("500 Internal Server Error", "InternalError"),
        _ => answer("200 OK", "", page),
    })
    .await;
    let mut listing = fake.objects.list();
    let first = listing.try_next().await.unwrap().unwrap();
    assert_eq!(first.path, "faults/a//b");
    // The second page says the same again: a store that turns in a circle.
    let rest: Result<Vec<_>, _> = listing.try_collect().await;
    assert_eq!(rest.unwrap_err().kind(), Kind::Unavailable);
}
