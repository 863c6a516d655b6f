//! One suite over every object store: what [`Objects`] promises, each backend keeps.
//!
//! The local store always runs. S3 runs where `BOXTEST_S3_ENDPOINT` says where it is, with
//! `BOXTEST_S3_BUCKET`, `BOXTEST_S3_ACCESS_KEY` and `BOXTEST_S3_SECRET_KEY`; `BOXTEST_REQUIRE=1`
//! turns its absence from a skip into a failure.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use box_service::clock::{Clock, Timestamp};
use box_service::error::{Kind, Result};
use box_service::id::ObjectId;
use box_service::objects::keys::{Named, ObjectKey};
use box_service::objects::{
    ByteStream, CALL_TIMEOUT, Found, Lease, Listed, Marked, Objects, S3Settings, Settings,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsAuthorizer};
use object_store::client::{HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ClientOptions, PutPayload};

mod multipart;

const MIB: usize = 1024 * 1024;
const ENVIRONMENT: &str = "images";

struct Fixture {
    settings: Settings,
    objects: Objects,
    clock: Clock,
    /// Removed when the test ends.
    _directory: Option<tempfile::TempDir>,
}

impl Fixture {
    fn local() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings::Local {
            directory: directory.path().join("objects"),
            fsync: false,
        };
        Self::new(settings, Some(directory))
    }

    fn s3() -> Option<Self> {
        let Ok(endpoint) = std::env::var("BOXTEST_S3_ENDPOINT") else {
            let required = std::env::var("BOXTEST_REQUIRE").is_ok_and(|value| value == "1");
            assert!(
                !required,
                "BOXTEST_S3_ENDPOINT is not set, and BOXTEST_REQUIRE is"
            );
            eprintln!("skipped: BOXTEST_S3_ENDPOINT is not set");
            return None;
        };
        let variable =
            |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
        let settings = Settings::S3(S3Settings {
            bucket: variable("BOXTEST_S3_BUCKET"),
            prefix: format!("conformance/{}", ObjectId::new(Clock::system().now())),
            allow_http: endpoint.starts_with("http:"),
            endpoint: Some(endpoint),
            region: None,
            access_key_id: Some(variable("BOXTEST_S3_ACCESS_KEY")),
            secret_access_key: Some(variable("BOXTEST_S3_SECRET_KEY")),
            path_style: true,
        });
        Some(Self::new(settings, None))
    }

    fn new(settings: Settings, directory: Option<tempfile::TempDir>) -> Self {
        Self {
            objects: Objects::open(&settings, ENVIRONMENT).unwrap(),
            settings,
            clock: Clock::manual(Timestamp::from_micros(1_700_000_000_000_000)),
            _directory: directory,
        }
    }

    fn is_s3(&self) -> bool {
        matches!(self.settings, Settings::S3(_))
    }

    fn another(&self, environment: &str) -> Objects {
        Objects::open(&self.settings, environment).unwrap()
    }

    fn key(&self) -> ObjectKey {
        self.key_in(&self.objects)
    }

    fn key_in(&self, objects: &Objects) -> ObjectKey {
        objects
            .root()
            .object(&"acme".parse().unwrap(), ObjectId::new(self.clock.now()))
    }

    fn lease(&self) -> Lease {
        Lease::new(self.clock.now().plus(CALL_TIMEOUT * 2), self.clock.clone())
    }

    async fn put(&self, key: &ObjectKey, content: &Bytes, chunk: usize) {
        put(&self.objects, self.lease(), key, content, chunk).await;
    }

    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes> {
        collect(self.objects.read(key, range).await?).await
    }

    async fn listed(&self) -> Vec<Listed> {
        self.objects.list().try_collect().await.unwrap()
    }
}

async fn put(objects: &Objects, lease: Lease, key: &ObjectKey, content: &Bytes, chunk: usize) {
    let mut writer = objects.write(key, 1, None, lease);
    for chunks in pieces(content, chunk).chunks(7) {
        writer.write(chunks.to_vec()).await.unwrap();
    }
    writer.finish().await.unwrap();
    assert!(writer.settled());
}

fn pieces(content: &Bytes, size: usize) -> Vec<Bytes> {
    (0..content.len())
        .step_by(size)
        .map(|at| content.slice(at..content.len().min(at + size)))
        .collect()
}

/// No two stretches of it are alike, so that parts in a wrong order show.
fn content(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut content = Vec::with_capacity(length + 8);
    while content.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(length);
    content.into()
}

async fn collect(stream: ByteStream) -> Result<Bytes> {
    let chunks: Vec<Bytes> = stream.try_collect().await?;
    Ok(chunks.concat().into())
}

fn same(found: &Bytes, wanted: &[u8]) {
    // Not `assert_eq`: nobody wants to read megabytes of it.
    assert!(
        found[..] == *wanted,
        "{} bytes that differ from {}",
        found.len(),
        wanted.len()
    );
}

macro_rules! conformance {
    ($($name:ident),+ $(,)?) => {
        mod local {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Fixture::local()).await;
            })+
        }

        mod s3 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(fixture) = super::Fixture::s3() {
                    super::$name(fixture).await;
                }
            })+
        }
    };
}

conformance!(
    an_empty_object,
    a_small_object,
    a_part_exactly,
    several_parts_in_odd_chunks,
    parts_of_a_declared_size,
    ranges,
    a_range_that_is_not_there,
    what_is_absent,
    a_dropped_writer_is_listed_until_erased,
    an_aborted_writer_leaves_nothing,
    finish_can_be_repeated,
    a_writer_that_failed_publishes_nothing,
    an_unfinished_write_is_not_visible,
    erase_is_idempotent,
    erase_spares_the_others,
    the_root_is_exact,
    a_long_list,
    the_marker_is_made_once,
    one_of_many_makes_the_marker,
    the_marker_is_replaced_only_as_it_was_found,
    what_was_listed_is_there_until_it_is_erased,
    a_short_lease_refuses_to_write,
    a_lease_that_ends_meanwhile_refuses_to_go_on,
    a_signed_url,
);

async fn an_empty_object(fixture: Fixture) {
    let key = fixture.key();
    fixture.put(&key, &Bytes::new(), 1).await;
    assert_eq!(
        fixture.objects.head(&key).await.unwrap(),
        Some(Found { size: 0 })
    );
    assert_eq!(fixture.listed().await.len(), 1);
    assert!(fixture.objects.erase(&key, 1).await.unwrap());
    assert_eq!(fixture.objects.head(&key).await.unwrap(), None);
}

async fn a_small_object(fixture: Fixture) {
    let key = fixture.key();
    let content = content(10_000);
    let mut writer = fixture
        .objects
        .write(&key, 1, Some(10_000), fixture.lease());
    assert!(writer.settled());
    writer.write(Vec::new()).await.unwrap();
    writer
        .write(vec![Bytes::new(), content.slice(..1)])
        .await
        .unwrap();
    writer
        .write(pieces(&content.slice(1..), 333))
        .await
        .unwrap();
    writer.finish().await.unwrap();
    assert!(writer.settled());
    drop(writer);
    assert_eq!(
        fixture.objects.head(&key).await.unwrap(),
        Some(Found { size: 10_000 })
    );
    same(&fixture.get(&key, 0..10_000).await.unwrap(), &content);

    let listed = fixture.listed().await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].path, key.path());
    assert_eq!(listed[0].size, 10_000);
    assert!(!listed[0].multipart);
    let age = Clock::system().now().since(listed[0].modified);
    assert!(age < Duration::from_secs(60), "made {}", listed[0].modified);
}

async fn a_part_exactly(fixture: Fixture) {
    let content = content(8 * MIB + 1);
    for length in [8 * MIB, 8 * MIB + 1] {
        let key = fixture.key();
        let content = content.slice(..length);
        fixture.put(&key, &content, MIB).await;
        same(
            &fixture.get(&key, 0..length as u64).await.unwrap(),
            &content,
        );
    }
    assert!(
        fixture
            .listed()
            .await
            .iter()
            .all(|listed| !listed.multipart)
    );
}

async fn several_parts_in_odd_chunks(fixture: Fixture) {
    let length = 36 * MIB + 12_345;
    let content = content(length);
    for chunk in [4_099, 65_537, 9 * MIB + 1] {
        let key = fixture.key();
        fixture.put(&key, &content, chunk).await;
        let size = length as u64;
        assert_eq!(
            fixture.objects.head(&key).await.unwrap(),
            Some(Found { size })
        );
        same(&fixture.get(&key, 0..size).await.unwrap(), &content);
    }
    assert!(
        fixture
            .listed()
            .await
            .iter()
            .all(|listed| !listed.multipart)
    );
}

async fn parts_of_a_declared_size(fixture: Fixture) {
    let length = 20 * MIB;
    let content = content(length);
    let key = fixture.key();
    let mut writer = fixture
        .objects
        .write(&key, 1, Some(length as u64), fixture.lease());
    writer.write(pieces(&content, 100_000)).await.unwrap();
    writer.finish().await.unwrap();
    same(
        &fixture.get(&key, 0..length as u64).await.unwrap(),
        &content,
    );
}

async fn ranges(fixture: Fixture) {
    let key = fixture.key();
    let length = 9 * MIB as u64;
    let content = content(9 * MIB);
    fixture.put(&key, &content, MIB).await;
    for range in [
        0..1,
        0..length,
        length - 1..length,
        1..length,
        4_095..4_097,
        8 * MIB as u64 - 1..8 * MIB as u64 + 1,
        100..3_000_001,
    ] {
        let wanted =
            &content[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        same(&fixture.get(&key, range).await.unwrap(), wanted);
    }
}

async fn a_range_that_is_not_there(fixture: Fixture) {
    let key = fixture.key();
    fixture.put(&key, &content(1_000), 100).await;
    for range in [
        0..1_001,
        999..1_001,
        1_000..1_001,
        5_000..6_000,
        0..10_000_000,
    ] {
        let error = fixture.get(&key, range.clone()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{range:?}: {error}");
    }
}

async fn what_is_absent(fixture: Fixture) {
    let key = fixture.key();
    assert_eq!(fixture.objects.head(&key).await.unwrap(), None);
    let error = fixture.get(&key, 0..1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(!fixture.objects.erase(&key, 3).await.unwrap());
    assert_eq!(fixture.objects.marker_get().await.unwrap(), None);
    assert!(fixture.listed().await.is_empty());
}

async fn a_dropped_writer_is_listed_until_erased(fixture: Fixture) {
    let key = fixture.key();
    let mut writer = fixture.objects.write(&key, 2, None, fixture.lease());
    // More than a part: what S3 was not sent yet leaves nothing there.
    writer.write(pieces(&content(17 * MIB), MIB)).await.unwrap();
    drop(writer);

    assert_eq!(fixture.objects.head(&key).await.unwrap(), None);
    let listed = fixture.listed().await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    if fixture.is_s3() {
        assert!(listed[0].multipart);
        assert_eq!(listed[0].path, key.path());
    } else {
        assert_eq!(
            fixture.objects.root().parse(&listed[0].path),
            Named::Temporary { id: key.id() }
        );
    }
    let age = Clock::system().now().since(listed[0].modified);
    assert!(age < Duration::from_secs(60), "made {}", listed[0].modified);

    // By somebody who knows no more than the key.
    let another = fixture.another(ENVIRONMENT);
    assert!(another.erase(&key, 2).await.unwrap());
    assert!(fixture.listed().await.is_empty());
    assert!(!another.erase(&key, 2).await.unwrap());
}

async fn finish_can_be_repeated(fixture: Fixture) {
    for length in [0, 10, 9 * MIB] {
        let key = fixture.key();
        let content = content(length);
        let mut writer = fixture.objects.write(&key, 1, None, fixture.lease());
        writer.write(vec![content.clone()]).await.unwrap();
        writer.finish().await.unwrap();
        writer.finish().await.unwrap();
        writer.abort().await;
        let found = fixture.objects.head(&key).await.unwrap().unwrap();
        assert_eq!(found.size, length as u64);
    }
}

/// A lease that is too short fails the first call, and any later one must not begin afresh.
async fn a_writer_that_failed_publishes_nothing(fixture: Fixture) {
    let key = fixture.key();
    let lease = fixture.lease();
    let mut writer = fixture.objects.write(&key, 1, None, lease.clone());
    writer.write(vec![content(10)]).await.unwrap();
    lease.renew(fixture.clock.now());
    assert!(writer.finish().await.is_err());
    lease.renew(fixture.clock.now().plus(CALL_TIMEOUT * 2));
    assert!(
        writer.finish().await.is_err()
            || fixture.objects.head(&key).await.unwrap().unwrap().size == 10
    );
    writer.abort().await;
    fixture.objects.erase(&key, 1).await.unwrap();
    assert_eq!(fixture.objects.head(&key).await.unwrap(), None);
}

async fn an_aborted_writer_leaves_nothing(fixture: Fixture) {
    for length in [0, 100, 17 * MIB] {
        let key = fixture.key();
        let mut writer = fixture.objects.write(&key, 1, None, fixture.lease());
        writer
            .write(pieces(&content(length), 1_000_001))
            .await
            .unwrap();
        writer.abort().await;
        assert!(writer.settled());
        drop(writer);
        assert_eq!(fixture.objects.head(&key).await.unwrap(), None);
        assert!(fixture.listed().await.is_empty());
        assert!(!fixture.objects.erase(&key, 1).await.unwrap());
    }
}

async fn an_unfinished_write_is_not_visible(fixture: Fixture) {
    let key = fixture.key();
    let content = content(17 * MIB);
    let mut writer = fixture.objects.write(&key, 1, None, fixture.lease());
    writer.write(vec![content.clone()]).await.unwrap();
    assert_eq!(fixture.objects.head(&key).await.unwrap(), None);
    let error = fixture.get(&key, 0..1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    writer.finish().await.unwrap();
    same(
        &fixture.get(&key, 0..17 * MIB as u64).await.unwrap(),
        &content,
    );
}

async fn erase_is_idempotent(fixture: Fixture) {
    let key = fixture.key();
    fixture.put(&key, &content(5), 5).await;
    assert!(fixture.objects.erase(&key, 1).await.unwrap());
    assert!(!fixture.objects.erase(&key, 1).await.unwrap());
    assert_eq!(fixture.objects.head(&key).await.unwrap(), None);
    let error = fixture.get(&key, 0..5).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

async fn erase_spares_the_others(fixture: Fixture) {
    let (erased, live, written) = (fixture.key(), fixture.key(), fixture.key());
    fixture.put(&live, &content(5), 5).await;
    let mut writer = fixture.objects.write(&written, 1, None, fixture.lease());
    let content = content(9 * MIB);
    writer.write(vec![content.clone()]).await.unwrap();
    fixture.put(&erased, &content, MIB).await;
    assert!(fixture.objects.erase(&erased, 5).await.unwrap());
    assert_eq!(
        fixture.objects.head(&live).await.unwrap(),
        Some(Found { size: 5 })
    );
    writer.finish().await.unwrap();
    same(
        &fixture.get(&written, 0..9 * MIB as u64).await.unwrap(),
        &content,
    );
}

async fn the_root_is_exact(fixture: Fixture) {
    let mut ours = BTreeSet::new();
    for environment in [ENVIRONMENT, "images2", "image", "images-2"] {
        let objects = fixture.another(environment);
        let (finished, unfinished) = (fixture.key_in(&objects), fixture.key_in(&objects));
        put(&objects, fixture.lease(), &finished, &content(7), 7).await;
        let mut writer = objects.write(&unfinished, 1, None, fixture.lease());
        writer.write(vec![content(9 * MIB)]).await.unwrap();
        assert!(
            objects
                .marker_write(
                    ObjectId::new(fixture.clock.now()),
                    None,
                    Bytes::from_static(b"here")
                )
                .await
                .unwrap()
        );
        let listed: Vec<Listed> = objects.list().try_collect().await.unwrap();
        let paths: BTreeSet<String> = listed.into_iter().map(|listed| listed.path).collect();
        assert_eq!(paths.len(), 3, "{paths:?}");
        assert!(paths.contains(finished.path()));
        assert!(paths.contains(&objects.root().marker()));
        assert!(
            paths
                .iter()
                .all(|path| path.starts_with(&objects.root().listing_prefix()))
        );
        if environment == ENVIRONMENT {
            ours = paths;
        }
    }
    let paths: BTreeSet<String> = fixture
        .listed()
        .await
        .into_iter()
        .map(|listed| listed.path)
        .collect();
    assert_eq!(paths, ours);
}

/// Longer than a page of S3's listing, which is 1,000.
async fn a_long_list(fixture: Fixture) {
    let keys: Vec<ObjectKey> = (0..1_050).map(|_| fixture.key()).collect();
    stream::iter(&keys)
        .for_each_concurrent(16, |key| async {
            fixture.put(key, &Bytes::from_static(b"x"), 1).await;
        })
        .await;
    let wanted: BTreeSet<&str> = keys.iter().map(ObjectKey::path).collect();
    let listed = fixture.listed().await;
    let paths: BTreeSet<&str> = listed.iter().map(|listed| listed.path.as_str()).collect();
    assert_eq!(listed.len(), paths.len());
    assert_eq!(paths, wanted);
}

async fn the_marker_is_made_once(fixture: Fixture) {
    let objects = &fixture.objects;
    let aside = || ObjectId::new(fixture.clock.now());
    assert!(
        objects
            .marker_write(aside(), None, Bytes::from_static(b"one"))
            .await
            .unwrap()
    );
    assert!(
        !objects
            .marker_write(aside(), None, Bytes::from_static(b"two"))
            .await
            .unwrap()
    );
    assert_eq!(marker(objects).await, Some(Bytes::from_static(b"one")));
    let listed = fixture.listed().await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(objects.root().parse(&listed[0].path), Named::Marker);
}

async fn one_of_many_makes_the_marker(fixture: Fixture) {
    let made = futures::future::join_all((0..8).map(|number: u8| {
        let objects = &fixture.objects;
        let aside = ObjectId::new(fixture.clock.now());
        async move {
            (
                number,
                objects
                    .marker_write(aside, None, Bytes::from(vec![number]))
                    .await,
            )
        }
    }))
    .await;
    // One that loses may hear that another is at it, but never that it won.
    let winners: Vec<u8> = made
        .iter()
        .filter(|(_, made)| matches!(made, Ok(true)))
        .map(|(number, _)| *number)
        .collect();
    assert_eq!(winners.len(), 1, "{made:?}");
    assert_eq!(marker(&fixture.objects).await, Some(Bytes::from(winners)));
}

async fn marker(objects: &Objects) -> Option<Bytes> {
    let found = objects.marker_get().await.unwrap();
    found.map(|marked| marked.content)
}

async fn the_marker_is_replaced_only_as_it_was_found(fixture: Fixture) {
    let objects = &fixture.objects;
    let write = async |found: Option<&Marked>, text: &'static str| {
        let aside = ObjectId::new(fixture.clock.now());
        let written = objects.marker_write(aside, found, Bytes::from(text)).await;
        written.unwrap()
    };
    assert!(write(None, "one").await);
    let one = objects.marker_get().await.unwrap();
    assert!(write(one.as_ref(), "two").await);
    for stale in [one.as_ref(), None] {
        assert!(!write(stale, "three").await);
        assert_eq!(marker(objects).await, Some(Bytes::from_static(b"two")));
    }
    let two = objects.marker_get().await.unwrap();
    assert!(write(two.as_ref(), "three").await);
    assert_eq!(marker(objects).await, Some(Bytes::from_static(b"three")));
    let listed = fixture.listed().await;
    assert_eq!(listed.len(), 1, "{listed:?}");
}

async fn what_was_listed_is_there_until_it_is_erased(fixture: Fixture) {
    let objects = &fixture.objects;
    let (finished, unfinished) = (fixture.key(), fixture.key());
    put(objects, fixture.lease(), &finished, &content(7), 7).await;
    let mut writer = objects.write(&unfinished, 1, None, fixture.lease());
    writer.write(vec![content(9 * MIB)]).await.unwrap();
    let listed = fixture.listed().await;
    assert_eq!(listed.len(), 2, "{listed:?}");
    for listed in &listed {
        assert!(objects.is_there(listed).await.unwrap(), "{listed:?}");
    }
    drop(writer);
    for key in [&finished, &unfinished] {
        objects.erase(key, 1).await.unwrap();
    }
    for listed in &listed {
        assert!(!objects.is_there(listed).await.unwrap(), "{listed:?}");
    }
}

async fn a_short_lease_refuses_to_write(fixture: Fixture) {
    for length in [0, 10, 9 * MIB] {
        let key = fixture.key();
        let short = fixture
            .clock
            .now()
            .plus(CALL_TIMEOUT)
            .minus(Duration::from_micros(1));
        let lease = Lease::new(short, fixture.clock.clone());
        let mut writer = fixture.objects.write(&key, 1, None, lease);
        let written = writer.write(vec![content(length)]).await;
        let finished = match written {
            Ok(()) => writer.finish().await,
            Err(error) => Err(error),
        };
        assert_eq!(finished.unwrap_err().kind(), Kind::Unavailable);
        assert!(writer.settled());
        assert_eq!(fixture.objects.head(&key).await.unwrap(), None);
        assert!(fixture.listed().await.is_empty());
    }
}

async fn a_lease_that_ends_meanwhile_refuses_to_go_on(fixture: Fixture) {
    let key = fixture.key();
    let lease = fixture.lease();
    let mut writer = fixture.objects.write(&key, 1, None, lease.clone());
    let content = content(9 * MIB);
    writer.write(vec![content.clone()]).await.unwrap();
    // Renewed in time: goes on.
    fixture.clock.advance(CALL_TIMEOUT);
    lease.renew(fixture.clock.now().plus(CALL_TIMEOUT * 2));
    writer.write(vec![content.clone()]).await.unwrap();
    fixture.clock.advance(CALL_TIMEOUT * 2);
    assert_eq!(writer.finish().await.unwrap_err().kind(), Kind::Unavailable);
    drop(writer);
    assert_eq!(fixture.objects.head(&key).await.unwrap(), None);
    assert!(fixture.objects.erase(&key, 1).await.unwrap());
}

async fn a_signed_url(fixture: Fixture) {
    let key = fixture.key();
    let content = content(1_234);
    fixture.put(&key, &content, 100).await;
    let disposition = "attachment; filename=\"a b+c.txt\"; filename*=UTF-8''a%20b%2Bc%C3%A4.txt";
    let signed = |ttl: u64| {
        let ttl = Duration::from_secs(ttl);
        fixture
            .objects
            .presign_get(&key, ttl, "text/plain; charset=utf-8", disposition)
    };
    let url = signed(60).await.unwrap();
    if !fixture.is_s3() {
        assert_eq!(url, None);
        return;
    }
    let url = url.unwrap();
    let answer = reqwest::get(&url).await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; charset=utf-8"
    );
    assert_eq!(answer.headers()["content-disposition"], disposition);
    same(&answer.bytes().await.unwrap(), &content);

    let forged = url.replace("text%2Fplain", "text%2Fhtml");
    assert_ne!(forged, url);
    assert_eq!(reqwest::get(&forged).await.unwrap().status(), 403);
}

/// What only S3 has: uploads that nobody here began, and keys of others.
mod s3_only {
    use super::*;

    fn bucket(settings: &S3Settings) -> AmazonS3 {
        AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_endpoint(settings.endpoint.as_ref().unwrap())
            .with_access_key_id(settings.access_key_id.as_ref().unwrap())
            .with_secret_access_key(settings.secret_access_key.as_ref().unwrap())
            .with_client_options(ClientOptions::new().with_allow_http(settings.allow_http))
            .build()
            .unwrap()
    }

    fn s3() -> Option<(Fixture, AmazonS3, S3Settings)> {
        let fixture = Fixture::s3()?;
        let Settings::S3(settings) = fixture.settings.clone() else {
            unreachable!("made for S3");
        };
        let bucket = bucket(&settings);
        Some((fixture, bucket, settings))
    }

    #[tokio::test]
    async fn uploads_that_nobody_recorded_are_erased() {
        let Some((fixture, bucket, _)) = s3() else {
            return;
        };
        let (key, other) = (fixture.key(), fixture.key());
        let path = Path::parse(key.path()).unwrap();
        let longer = Path::parse(format!("{}.more", key.path())).unwrap();
        let other = Path::parse(other.path()).unwrap();
        for path in [&path, &path, &path, &longer, &other] {
            let upload = bucket.create_multipart(path).await.unwrap();
            bucket
                .put_part(path, &upload, 0, PutPayload::from_static(b"part"))
                .await
                .unwrap();
        }
        assert_eq!(fixture.listed().await.len(), 5);
        assert!(fixture.objects.erase(&key, 1).await.unwrap());
        let left: BTreeSet<String> = fixture
            .listed()
            .await
            .into_iter()
            .map(|listed| listed.path)
            .collect();
        assert_eq!(
            left,
            BTreeSet::from([longer.to_string(), other.to_string()])
        );
        assert!(!fixture.objects.erase(&key, 1).await.unwrap());
    }

    #[tokio::test]
    async fn more_uploads_than_a_page() {
        let Some((fixture, bucket, _)) = s3() else {
            return;
        };
        let key = fixture.key();
        let path = Path::parse(key.path()).unwrap();
        let others: Vec<Path> = (0..50)
            .map(|_| Path::parse(fixture.key().path()).unwrap())
            .collect();
        stream::iter(std::iter::repeat_n(&path, 1_010).chain(&others))
            .for_each_concurrent(16, |path| async {
                bucket.create_multipart(path).await.unwrap();
            })
            .await;
        assert_eq!(fixture.listed().await.len(), 1_060);
        assert!(fixture.objects.erase(&key, 1).await.unwrap());
        assert_eq!(fixture.listed().await.len(), 50);
    }

    #[tokio::test]
    async fn what_others_put_there_is_listed_as_it_is() {
        let Some((fixture, _, settings)) = s3() else {
            return;
        };
        let ours = fixture.key();
        fixture.put(&ours, &content(3), 3).await;
        let root = fixture.objects.root().listing_prefix();
        let mut wanted = BTreeSet::from([ours.path().to_owned()]);
        for name in ["a b+c%20d&e<f>.txt", "~", "zürich/ü", "*'()!", "%2e%2e"] {
            let key = format!("{root}{name}");
            assert_eq!(put_raw(&settings, &key, None).await, 200, "{key}");
            wanted.insert(key);
        }
        let paths: BTreeSet<String> = fixture
            .listed()
            .await
            .into_iter()
            .map(|listed| listed.path)
            .collect();
        assert_eq!(paths, wanted);
    }

    #[tokio::test]
    async fn a_missing_bucket_and_a_wrong_secret_are_no_empty_store() {
        let Some((fixture, _, settings)) = s3() else {
            return;
        };
        let key = fixture.key();
        let bucketless = S3Settings {
            bucket: "no-such-bucket-here".into(),
            ..settings.clone()
        };
        let stranger = S3Settings {
            secret_access_key: Some("hush-hush".into()),
            ..settings
        };
        for settings in [bucketless, stranger] {
            let objects = Objects::open(&Settings::S3(settings), ENVIRONMENT).unwrap();
            let listed: Result<Vec<Listed>> = objects.list().try_collect().await;
            let errors = [
                listed.unwrap_err(),
                objects.read(&key, 0..1).await.map(|_| ()).unwrap_err(),
                objects.erase(&key, 1).await.unwrap_err(),
                objects.marker_get().await.unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                assert!(!format!("{error} {error:?}").contains("hush-hush"));
            }
        }
    }

    /// What a writer's checksums are worth: the store compares them.
    #[tokio::test]
    async fn bytes_that_changed_on_their_way_are_refused() {
        let Some((fixture, _, settings)) = s3() else {
            return;
        };
        let key = fixture.key();
        let checksum = Some("AAAAAAAAAAA=");
        assert_eq!(put_raw(&settings, key.path(), checksum).await, 400);
        assert_eq!(fixture.objects.head(&key).await.unwrap(), None);
    }

    /// A key as it is, also one that `object_store` would refuse or spell in its own way.
    async fn put_raw(settings: &S3Settings, key: &str, checksum: Option<&'static str>) -> u16 {
        use object_store::HeaderValue;
        use object_store::aws::AwsCredential;
        use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

        let path: Vec<String> = key
            .split('/')
            .map(|segment| utf8_percent_encode(segment, NON_ALPHANUMERIC).to_string())
            // Signed as S3 spells it.
            .map(|segment| {
                segment
                    .replace("%2D", "-")
                    .replace("%2E", ".")
                    .replace("%5F", "_")
                    .replace("%7E", "~")
            })
            .collect();
        let endpoint = settings.endpoint.as_ref().unwrap();
        let url = format!("{endpoint}/{}/{}", settings.bucket, path.join("/"));
        let mut request = HttpRequest::new(HttpRequestBody::from(Bytes::from_static(b"odd")));
        *request.method_mut() = reqwest::Method::PUT;
        *request.uri_mut() = url.parse().unwrap();
        if let Some(checksum) = checksum {
            request.headers_mut().insert(
                "x-amz-checksum-crc64nvme",
                HeaderValue::from_static(checksum),
            );
        }
        let credential = AwsCredential {
            key_id: settings.access_key_id.clone().unwrap(),
            secret_key: settings.secret_access_key.clone().unwrap(),
            token: None,
        };
        AwsAuthorizer::new(&credential, "s3", "us-east-1")
            .try_authorize(&mut request, None)
            .unwrap();
        let options = ClientOptions::new().with_allow_http(settings.allow_http);
        let client = ReqwestConnector::default().connect(&options).unwrap();
        client.execute(request).await.unwrap().status().as_u16()
    }
}
