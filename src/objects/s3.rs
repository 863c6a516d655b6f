//! Objects in S3, and in what speaks its protocol.
//!
//! `object_store` moves the bytes. What lists is done by hand over its signer: `object_store`
//! has no list of multipart uploads, and its list of objects ends at the first key that its own
//! `Path` can't hold (`a//b`), which anybody else who writes to the bucket could put there.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer, Checksum};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    ReqwestConnector,
};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, MultipartId, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions, PutPayload, RetryConfig,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use crate::clock::Timestamp;
use crate::error::{Error, Result};

use super::{ByteStream, CALL_TIMEOUT, Found, Lease, Listed};

const MIB: u64 = 1024 * 1024;

/// The size of parts as long as nothing asks for larger ones: S3's least is 5 MiB.
const SMALLEST_PART: u64 = 8 * MIB;
/// S3's own limit is 10,000; what is left over is for uploads that outgrow what they declared.
const PLANNED_PARTS: u64 = 9_000;
const MOST_PARTS: u64 = 10_000;
/// S3's own limit on a part.
const LARGEST_PART: u64 = 5 * 1024 * MIB;
/// Without a declared size: so many parts of the smallest size (17.5 GiB), and then twice the size
/// each time that so many more were written.
const PARTS_BEFORE_GROWTH: u64 = 2_250;
const PARTS_UNTIL_DOUBLE: u64 = 750;

/// Together with the part that is being filled, a writer holds this many and one more.
const PARTS_IN_FLIGHT: usize = 2;

/// Chunks below this are copied together. A chunk may be a small view of a large buffer, and would
/// keep all of that alive until its part is sent.
const SMALL_CHUNK: usize = 16 * 1024;
const COPIED_TOGETHER: usize = 256 * 1024;

/// Tries of one call, all of them within one [`CALL_TIMEOUT`].
const ATTEMPTS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the store may stay silent within a request. Above [`CALL_TIMEOUT`], as the client also
/// counts the time in which a request's body is sent; below [`IDLE_TIMEOUT`], so that a download
/// that stalled is taken up again where it stopped before its reader is told that it failed.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a reader waits for the next bytes of an object.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a query's name or value may hold unescaped: the unreserved characters of RFC 3986.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Where a bucket is, and who we are to it.
#[derive(Clone)]
pub struct S3Settings {
    pub bucket: String,
    /// Everything of ours lies below it; may be empty.
    pub prefix: String,
    /// `https://host[:port]`, without the bucket; AWS itself when None.
    pub endpoint: Option<String>,
    /// When None: what the environment says (`AWS_REGION`), or else `us-east-1`.
    pub region: Option<String>,
    /// With the secret, or neither: then AWS's own chain finds the credentials (environment, web
    /// identity, container, instance).
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    /// Whether the endpoint may be plain http.
    pub allow_http: bool,
    /// Whether the bucket goes in the path (`host/bucket/key`) rather than in the host's name.
    pub path_style: bool,
}

impl std::fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Settings")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &self.access_key_id)
            .field(
                "secret_access_key",
                &self.secret_access_key.as_ref().map(|_| "(not shown)"),
            )
            .field("allow_http", &self.allow_http)
            .field("path_style", &self.path_style)
            .finish()
    }
}

#[derive(Clone)]
pub(super) struct S3 {
    inner: Arc<Inner>,
}

struct Inner {
    /// Retries by itself: for calls that may arrive late without harm.
    patient: AmazonS3,
    /// Never retries by itself, so that a writer learns of each try whose outcome is unknown.
    strict: AmazonS3,
    http: HttpClient,
    /// The bucket's own URL, without a slash at its end.
    bucket_url: String,
    region: String,
}

/// Hands one client, and so one pool of connections, to several stores.
#[derive(Debug)]
struct Shared(HttpClient);

impl HttpConnector for Shared {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.0.clone())
    }
}

impl S3 {
    pub(super) fn open(settings: &S3Settings) -> Result<Self> {
        if settings.bucket.is_empty() {
            return Err(Error::unavailable("no bucket is named"));
        }
        let chain = credentials_chain(settings);
        let region = settings
            .region
            .clone()
            .or_else(|| chain.get_config_value(&AmazonS3ConfigKey::Region))
            .or_else(|| chain.get_config_value(&AmazonS3ConfigKey::DefaultRegion))
            .unwrap_or_else(|| "us-east-1".to_owned());
        let bucket_url = bucket_url(settings, &region)?;
        let options = ClientOptions::new()
            .with_allow_http(settings.allow_http)
            .with_timeout_disabled()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_read_timeout(SILENCE_TIMEOUT);
        let http = ReqwestConnector::default()
            .connect(&options)
            .map_err(Error::unavailable)?;

        // Built for its credentials alone: those that come over the network need a client of their
        // own, since instances hand them out over plain http.
        let credentials = chain
            .with_bucket_name(&settings.bucket)
            .with_region(&region)
            .with_retry(patiently())
            .with_client_options(options.clone())
            .build()
            .map_err(Error::unavailable)?
            .credentials()
            .clone();
        let store = |retry: RetryConfig| {
            AmazonS3Builder::new()
                .with_bucket_name(&settings.bucket)
                .with_region(&region)
                .with_credentials(credentials.clone())
                .with_endpoint(&bucket_url)
                // For object_store this means no more than that the endpoint names the bucket already.
                .with_virtual_hosted_style_request(true)
                .with_client_options(options.clone())
                .with_http_connector(Shared(http.clone()))
                .with_retry(retry)
                // A SHA-256 of the payload costs more than all else in an upload, and on the thread
                // that serves others. The checksum, which the store verifies, costs next to nothing.
                .with_unsigned_payload(true)
                .with_checksum_algorithm(Checksum::CRC64NVME)
                .with_disable_bulk_delete(true)
                .build()
                .map_err(Error::unavailable)
        };
        let never = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        Ok(Self {
            inner: Arc::new(Inner {
                patient: store(patiently())?,
                strict: store(never)?,
                http,
                bucket_url,
                region,
            }),
        })
    }

    pub(super) fn write(&self, key: &str, size: Option<u64>, lease: Lease) -> Writer {
        Writer {
            store: self.clone(),
            key: key.to_owned(),
            declared: size,
            lease,
            filling: Part::default(),
            written: 0,
            upload: None,
            parts: Vec::new(),
            sending: JoinSet::new(),
            open_calls: OpenCalls::default(),
            state: State::Whole,
        }
    }

    pub(super) async fn read(&self, key: &str, range: Range<u64>) -> Result<ByteStream> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let found = in_time(self.inner.patient.get_opts(&path(key)?, options))
            .await?
            .map_err(|error| {
                if is_absent(&error) {
                    Error::not_found().because(error)
                } else {
                    Error::unavailable(error)
                }
            })?;
        // Of a range that reaches past its end, the store sends what there is.
        if found.range != range {
            return Err(too_short());
        }
        Ok(exactly(found.into_stream(), range.end - range.start).boxed())
    }

    pub(super) async fn head(&self, key: &str) -> Result<Option<Found>> {
        match in_time(self.inner.patient.head(&path(key)?)).await? {
            Ok(found) => Ok(Some(Found { size: found.size })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::unavailable(error)),
        }
    }

    pub(super) async fn erase(&self, key: &str) -> Result<bool> {
        let path = path(key)?;
        let store = &self.inner.patient;
        let mut found = false;
        // The uploads go first: what completes meanwhile is seen, and deleted, at the key.
        let mut pages = Box::pin(self.upload_pages(key.to_owned()));
        while let Some(page) = pages.next().await {
            // The prefix of a listing also matches longer keys.
            for upload in page?.into_iter().filter(|upload| upload.key == key) {
                found = true;
                match in_time(store.abort_multipart(&path, &upload.upload_id)).await? {
                    Ok(()) => {}
                    Err(error) if is_absent(&error) => {}
                    Err(error) => return Err(Error::unavailable(error)),
                }
            }
        }
        // A delete doesn't tell whether there was anything.
        if self.head(key).await?.is_some() {
            found = true;
            match in_time(store.delete(&path)).await? {
                Ok(()) => {}
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(Error::unavailable(error)),
            }
        }
        Ok(found)
    }

    pub(super) fn list(&self, prefix: String) -> BoxStream<'static, Result<Listed>> {
        let store = self.clone();
        async_stream::try_stream! {
            // Uploads first: one that is completed meanwhile is then seen twice rather than never.
            let mut pages = Box::pin(store.upload_pages(prefix.clone()));
            while let Some(page) = pages.next().await {
                for upload in page?.into_iter().filter(|upload| upload.key.starts_with(&prefix)) {
                    yield Listed {
                        path: upload.key,
                        size: 0,
                        modified: time(upload.initiated.as_deref()),
                        multipart: true,
                    };
                }
            }
            let mut token: Option<String> = None;
            loop {
                let mut query = vec![("list-type", "2"), ("prefix", prefix.as_str())];
                if let Some(token) = &token {
                    query.push(("continuation-token", token));
                }
                let page: ObjectPage = store.fetch(&query).await?;
                for object in page.contents.into_iter().filter(|object| object.key.starts_with(&prefix)) {
                    yield Listed {
                        path: object.key,
                        size: object.size,
                        modified: time(object.last_modified.as_deref()),
                        multipart: false,
                    };
                }
                if !page.is_truncated {
                    break;
                }
                if page.next_continuation_token.is_none() || page.next_continuation_token == token {
                    Err(no_progress())?;
                }
                token = page.next_continuation_token;
            }
        }
        .boxed()
    }

    pub(super) async fn presign_get(
        &self,
        key: &str,
        ttl: Duration,
        content_type: &str,
        content_disposition: &str,
    ) -> Result<String> {
        let options = SignedUrlOptions::new().with_query([
            ("response-content-type", content_type),
            ("response-content-disposition", content_disposition),
        ]);
        let path = path(key)?;
        // May ask for credentials over the network.
        in_time(
            self.inner
                .patient
                .signed_url_opts(Method::GET, &path, ttl, &options),
        )
        .await?
        .map(String::from)
        .map_err(Error::unavailable)
    }

    pub(super) async fn marker_get(&self, key: &str) -> Result<Option<Bytes>> {
        let path = path(key)?;
        let content = in_time(async { self.inner.patient.get(&path).await?.bytes().await }).await?;
        match content {
            Ok(content) => Ok(Some(content)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::unavailable(error)),
        }
    }

    pub(super) async fn marker_create(&self, key: &str, content: Bytes) -> Result<bool> {
        let path = path(key)?;
        let options = PutOptions::from(PutMode::Create);
        let put = self
            .inner
            .strict
            .put_opts(&path, PutPayload::from(content), options);
        match in_time(put).await? {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { path, source }) => {
                // S3 answers 409 while somebody else's write is under way, which may yet fail.
                if source.is::<object_store::Error>() {
                    Ok(false)
                } else {
                    Err(Error::unavailable(object_store::Error::AlreadyExists {
                        path,
                        source,
                    }))
                }
            }
            Err(error) => Err(Error::unavailable(error)),
        }
    }

    /// The open multipart uploads of keys that start with `prefix`, a page at a time.
    fn upload_pages(
        &self,
        prefix: String,
    ) -> impl Stream<Item = Result<Vec<Upload>>> + Send + use<> {
        let store = self.clone();
        async_stream::try_stream! {
            let mut after: Option<(String, String)> = None;
            loop {
                let mut query = vec![("uploads", ""), ("prefix", prefix.as_str())];
                if let Some((key, upload_id)) = &after {
                    query.push(("key-marker", key));
                    query.push(("upload-id-marker", upload_id));
                }
                let page: UploadPage = store.fetch(&query).await?;
                yield page.upload;
                if !page.is_truncated {
                    break;
                }
                let next = page.next_key_marker.map(|key| (key, page.next_upload_id_marker.unwrap_or_default()));
                if next.is_none() || next == after {
                    Err(no_progress())?;
                }
                after = next;
            }
        }
    }

    /// GETs a document about the bucket.
    async fn fetch<T: DeserializeOwned>(&self, query: &[(&str, &str)]) -> Result<T> {
        let mut url = format!("{}?", self.inner.bucket_url);
        for (index, (name, value)) in query.iter().enumerate() {
            if index > 0 {
                url.push('&');
            }
            url.extend(utf8_percent_encode(name, QUERY));
            url.push('=');
            url.extend(utf8_percent_encode(value, QUERY));
        }
        let document = in_time(async {
            let mut pause = FIRST_PAUSE;
            for _ in 1..ATTEMPTS {
                match self.fetch_once(&url).await {
                    Err(Unfetched::Transient(_)) => {}
                    other => return other,
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            self.fetch_once(&url).await
        })
        .await?
        .map_err(|(Unfetched::Transient(error) | Unfetched::Final(error))| error)?;
        let document = std::str::from_utf8(&document).map_err(Error::unavailable)?;
        quick_xml::de::from_str(document).map_err(Error::unavailable)
    }

    async fn fetch_once(&self, url: &str) -> Result<Bytes, Unfetched> {
        let unusable = |error: object_store::Error| Unfetched::Final(Error::unavailable(error));
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url.parse().map_err(|error| {
            Unfetched::Final(Error::internal(format!("a URL that is none: {error}")))
        })?;
        let credential = self
            .inner
            .patient
            .credentials()
            .get_credential()
            .await
            .map_err(unusable)?;
        AwsAuthorizer::new(&credential, "s3", &self.inner.region)
            .try_authorize(&mut request, None)
            .map_err(unusable)?;
        let transient = |error: HttpError| Unfetched::Transient(Error::unavailable(error));
        let response = self.inner.http.execute(request).await.map_err(transient)?;
        let status = response.status();
        let body = response.into_body().bytes().await.map_err(transient)?;
        if status.is_success() {
            return Ok(body);
        }
        let text: String = String::from_utf8_lossy(&body).chars().take(1_000).collect();
        let error = Error::unavailable(format!(
            "the store answered a listing with {status}: {text}"
        ));
        Err(match status.as_u16() {
            408 | 429 | 500.. => Unfetched::Transient(error),
            _ => Unfetched::Final(error),
        })
    }
}

enum Unfetched {
    Transient(Error),
    Final(Error),
}

/// A page of ListObjectsV2. Asked for without `encoding-type=url`, under which stores disagree on
/// what a plus stands for.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ObjectPage {
    #[serde(default)]
    contents: Vec<Object>,
    #[serde(default)]
    is_truncated: bool,
    next_continuation_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    key: String,
    size: u64,
    last_modified: Option<String>,
}

/// A page of ListMultipartUploads.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadPage {
    #[serde(default)]
    upload: Vec<Upload>,
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Upload {
    key: String,
    upload_id: String,
    initiated: Option<String>,
}

pub struct Writer {
    store: S3,
    key: String,
    declared: Option<u64>,
    lease: Lease,
    filling: Part,
    /// In bytes: all that was taken.
    written: u64,
    /// Known from the moment that a second part begins.
    upload: Option<MultipartId>,
    /// By their number from 0; None while it is being sent.
    parts: Vec<Option<PartId>>,
    sending: JoinSet<Result<(usize, PartId)>>,
    open_calls: OpenCalls,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// All that was taken is here or on its way.
    Whole,
    /// Bytes were lost: a call failed, or the future of a `write` was dropped halfway.
    Broken,
    Finished,
}

impl Writer {
    pub(super) async fn write(&mut self, chunks: Vec<Bytes>) -> Result<()> {
        self.usable()?;
        self.state = State::Broken;
        for mut chunk in chunks {
            while !chunk.is_empty() {
                if self.room() == 0 {
                    self.send_part().await?;
                }
                let taken = chunk
                    .len()
                    .min(usize::try_from(self.room()).unwrap_or(usize::MAX));
                self.filling.push(chunk.split_to(taken));
                self.written += taken as u64;
            }
        }
        self.state = State::Whole;
        Ok(())
    }

    /// Can be called again after it failed in a call to the store.
    pub(super) async fn finish(&mut self) -> Result<()> {
        if self.state == State::Finished {
            return Ok(());
        }
        self.usable()?;
        let path = path(&self.key)?;
        let store = self.store.inner.clone();
        match &self.upload {
            None => {
                let payload = self.filling.payload();
                let path = &path;
                let put = || store.strict.put(path, payload.clone());
                call(&self.lease, &self.open_calls, put).await?;
            }
            Some(upload) => {
                let upload = upload.clone();
                if self.filling.length > 0 {
                    self.send_part().await?;
                }
                while !self.sending.is_empty() {
                    self.part_sent().await?;
                }
                let parts: Option<Vec<PartId>> = self.parts.iter().cloned().collect();
                let parts = parts.ok_or_else(|| Error::internal("a part has no id"))?;
                let complete = || {
                    store
                        .strict
                        .complete_multipart(&path, &upload, parts.clone())
                };
                match call(&self.lease, &self.open_calls, complete).await {
                    Ok(_) => {}
                    // An earlier try may have completed it.
                    Err(Failed::Answered(error)) if is_absent(&error) => {
                        let found = self.store.head(&self.key).await?;
                        if found != Some(Found { size: self.written }) {
                            return Err(Error::unavailable(error));
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.state = State::Finished;
        self.filling = Part::default();
        Ok(())
    }

    pub(super) async fn abort(&mut self) {
        if self.state == State::Finished {
            return;
        }
        self.state = State::Broken;
        self.filling = Part::default();
        // Parts that are cut off might arrive after the upload is gone; their end is worth a wait.
        let ended = timeout(CALL_TIMEOUT, async {
            while self.sending.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            self.sending.abort_all();
        }
        let (Some(upload), Ok(path)) = (&self.upload, path(&self.key)) else {
            return;
        };
        let open = self.open_calls.begin();
        match in_time(self.store.inner.patient.abort_multipart(&path, upload)).await {
            Ok(Ok(())) => open.end(),
            Ok(Err(error)) if is_absent(&error) => open.end(),
            // The reaper aborts it.
            _ => {}
        }
    }

    pub(super) fn settled(&self) -> bool {
        self.open_calls.none()
    }

    fn usable(&self) -> Result<()> {
        match self.state {
            State::Whole => Ok(()),
            State::Broken => Err(Error::unavailable("an earlier call of this writer failed")),
            State::Finished => Err(Error::internal("a writer was used after it had finished")),
        }
    }

    /// In bytes, in the part that is being filled.
    fn room(&self) -> u64 {
        part_size(self.parts.len() as u64 + 1, self.declared).saturating_sub(self.filling.length)
    }

    /// Sends the part that was filled, once there is room for another one on its way.
    async fn send_part(&mut self) -> Result<()> {
        if self.parts.len() as u64 >= MOST_PARTS {
            return Err(Error::unavailable(
                "the object has more parts than the store takes",
            ));
        }
        let path = path(&self.key)?;
        let store = self.store.inner.clone();
        let upload = match &self.upload {
            Some(upload) => upload.clone(),
            None => {
                let create = || store.strict.create_multipart(&path);
                let upload = call(&self.lease, &self.open_calls, create).await?;
                self.upload.insert(upload).clone()
            }
        };
        while self.sending.len() >= PARTS_IN_FLIGHT {
            self.part_sent().await?;
        }
        let index = self.parts.len();
        let payload = self.filling.payload();
        self.filling = Part::default();
        self.parts.push(None);
        let lease = self.lease.clone();
        let open_calls = self.open_calls.clone();
        self.sending.spawn(async move {
            let put = || {
                store
                    .strict
                    .put_part(&path, &upload, index, payload.clone())
            };
            let part = call(&lease, &open_calls, put).await?;
            Ok((index, part))
        });
        Ok(())
    }

    async fn part_sent(&mut self) -> Result<()> {
        let Some(sent) = self.sending.join_next().await else {
            return Ok(());
        };
        let recorded = sent
            .map_err(Error::internal)
            .flatten()
            .and_then(|(index, part)| {
                let slot = self
                    .parts
                    .get_mut(index)
                    .ok_or_else(|| Error::internal("a part that was not sent"))?;
                *slot = Some(part);
                Ok(())
            });
        if recorded.is_err() {
            self.state = State::Broken;
        }
        recorded
    }
}

/// The bytes of one part.
#[derive(Default)]
struct Part {
    chunks: Vec<Bytes>,
    small: BytesMut,
    length: u64,
}

impl Part {
    fn push(&mut self, chunk: Bytes) {
        self.length += chunk.len() as u64;
        if chunk.len() >= SMALL_CHUNK {
            self.seal();
            self.chunks.push(chunk);
            return;
        }
        self.small.extend_from_slice(&chunk);
        if self.small.len() >= COPIED_TOGETHER {
            self.seal();
        }
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push(self.small.split().freeze());
        }
    }

    /// Shares the bytes, and stays as it is.
    fn payload(&mut self) -> PutPayload {
        self.seal();
        self.chunks.iter().cloned().collect()
    }
}

/// The size in bytes of a part, by its number from 1: every part before the last one has it.
///
/// All of a part is held in memory until it is sent. So parts stay at 8 MiB for as long as they can
/// and 9,000 of them still hold 5 TiB: with a declared size, all have the least size that
/// suffices for it; without, they grow (and with them the memory that a writer takes) in steps.
fn part_size(number: u64, declared: Option<u64>) -> u64 {
    let size = match declared {
        Some(declared) => declared.div_ceil(PLANNED_PARTS).next_multiple_of(MIB),
        None => {
            let grown = number
                .saturating_sub(PARTS_BEFORE_GROWTH)
                .div_ceil(PARTS_UNTIL_DOUBLE);
            SMALLEST_PART << grown.min(10)
        }
    };
    size.clamp(SMALLEST_PART, LARGEST_PART)
}

/// Counts the calls that could write and whose end is not known: those under way, and those that
/// were cut off, timed out, or broke off without an answer.
#[derive(Clone, Default)]
struct OpenCalls(Arc<AtomicUsize>);

/// Dropped without [`OpenCall::end`], the call stays open for ever.
struct OpenCall(Arc<AtomicUsize>);

impl OpenCalls {
    fn begin(&self) -> OpenCall {
        self.0.fetch_add(1, Ordering::SeqCst);
        OpenCall(self.0.clone())
    }

    fn none(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }
}

impl OpenCall {
    fn end(self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Why a call that could write gave nothing.
enum Failed {
    /// It was not made, or no answer came in time.
    Unanswered(Error),
    /// What the last try came to.
    Answered(object_store::Error),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unanswered(error) => error,
            Failed::Answered(error) => Self::unavailable(error),
        }
    }
}

/// Makes a call that could write, a few times if it must, all within one [`CALL_TIMEOUT`].
///
/// Each may be made twice: parts and objects have one content, and of an upload that was created
/// twice, one stays without parts until the key is erased.
async fn call<T, F>(
    lease: &Lease,
    open_calls: &OpenCalls,
    attempt: impl Fn() -> F,
) -> Result<T, Failed>
where
    F: Future<Output = object_store::Result<T>>,
{
    lease.outlasts(CALL_TIMEOUT).map_err(Failed::Unanswered)?;
    let deadline = Instant::now() + CALL_TIMEOUT;
    let mut pause = FIRST_PAUSE;
    for tries in 1.. {
        let open = open_calls.begin();
        let error = match timeout_at(deadline, attempt()).await {
            Ok(Ok(done)) => {
                open.end();
                return Ok(done);
            }
            Ok(Err(error)) => error,
            Err(late) => return Err(Failed::Unanswered(Error::unavailable(late))),
        };
        let retry = match outcome(&error) {
            Outcome::Refused => {
                open.end();
                false
            }
            Outcome::NotSent => {
                open.end();
                true
            }
            Outcome::Unknown => true,
        };
        if !retry || tries >= ATTEMPTS || Instant::now() + pause >= deadline {
            return Err(Failed::Answered(error));
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    unreachable!("the tries are counted above")
}

enum Outcome {
    /// The store understood, and won't.
    Refused,
    NotSent,
    /// Also what the store or a proxy before it answers with 5xx: behind that, it may yet be done.
    Unknown,
}

fn outcome(error: &object_store::Error) -> Outcome {
    match error {
        object_store::Error::NotFound { .. }
        | object_store::Error::AlreadyExists { .. }
        | object_store::Error::Precondition { .. }
        | object_store::Error::NotModified { .. }
        | object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => Outcome::Refused,
        _ => match http_error(error).map(HttpError::kind) {
            Some(HttpErrorKind::Connect) => Outcome::NotSent,
            _ => Outcome::Unknown,
        },
    }
}

fn http_error(error: &object_store::Error) -> Option<&HttpError> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// Whether the key or upload is not there. A bucket that is not there is another matter: what was
/// in it may come back.
fn is_absent(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { source, .. } if !source.to_string().contains("<Code>NoSuchBucket</Code>"))
}

fn path(key: &str) -> Result<Path> {
    Path::parse(key).map_err(Error::internal)
}

fn time(text: Option<&str>) -> Timestamp {
    text.and_then(Timestamp::parse)
        .unwrap_or(Timestamp::from_micros(0))
}

fn too_short() -> Error {
    Error::unavailable("an object is shorter than its row says")
}

fn no_progress() -> Error {
    Error::unavailable("the store's listing says that there is more, and not where")
}

async fn in_time<T>(call: impl Future<Output = T>) -> Result<T> {
    timeout(CALL_TIMEOUT, call)
        .await
        .map_err(Error::unavailable)
}

/// The stream, with an error at its end unless it had `length` bytes.
fn exactly(
    mut stream: BoxStream<'static, object_store::Result<Bytes>>,
    length: u64,
) -> impl Stream<Item = Result<Bytes>> {
    async_stream::try_stream! {
        let mut missing = length;
        while missing > 0 {
            let next = timeout(IDLE_TIMEOUT, stream.next()).await.map_err(Error::unavailable)?;
            let bytes = next.ok_or_else(too_short)?.map_err(Error::unavailable)?;
            missing = missing
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| Error::unavailable("the store sent more than it was asked for"))?;
            yield bytes;
        }
    }
}

/// For calls that change nothing, or nothing that a second try would change. The limit on the time
/// is none: it would count from a download's start, and leave its later parts without a retry.
fn patiently() -> RetryConfig {
    RetryConfig {
        max_retries: 4,
        retry_timeout: Duration::MAX,
        backoff: BackoffConfig {
            init_backoff: FIRST_PAUSE,
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
    }
}

/// The given keys, or what AWS's chain of credentials needs of the environment; nothing else of it,
/// since all that says where the bytes go is in our own settings.
fn credentials_chain(settings: &S3Settings) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::new();
    let given = settings.access_key_id.is_some() || settings.secret_access_key.is_some();
    if let Some(id) = &settings.access_key_id {
        builder = builder.with_access_key_id(id);
    }
    if let Some(secret) = &settings.secret_access_key {
        builder = builder.with_secret_access_key(secret);
    }
    for (name, value) in std::env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
            continue;
        };
        if !name.starts_with("AWS_") {
            continue;
        }
        let Ok(key) = name.to_ascii_lowercase().parse() else {
            continue;
        };
        let wanted = match key {
            AmazonS3ConfigKey::Region | AmazonS3ConfigKey::DefaultRegion => true,
            AmazonS3ConfigKey::AccessKeyId
            | AmazonS3ConfigKey::SecretAccessKey
            | AmazonS3ConfigKey::Token
            | AmazonS3ConfigKey::WebIdentityTokenFile
            | AmazonS3ConfigKey::RoleArn
            | AmazonS3ConfigKey::RoleSessionName
            | AmazonS3ConfigKey::StsEndpoint
            | AmazonS3ConfigKey::ContainerCredentialsRelativeUri
            | AmazonS3ConfigKey::ContainerCredentialsFullUri
            | AmazonS3ConfigKey::ContainerAuthorizationTokenFile
            | AmazonS3ConfigKey::ImdsV1Fallback
            | AmazonS3ConfigKey::MetadataEndpoint => !given,
            _ => false,
        };
        if wanted {
            builder = builder.with_config(key, value);
        }
    }
    builder
}

/// The URL of the bucket, which the path of a key is appended to.
fn bucket_url(settings: &S3Settings, region: &str) -> Result<String> {
    let wrong = || Error::unavailable("the endpoint is not the URL of an S3 service");
    let bucket = &settings.bucket;
    let endpoint = match &settings.endpoint {
        Some(endpoint) => endpoint.clone(),
        None => format!("https://s3.{region}.amazonaws.com"),
    };
    let mut url = Url::parse(&endpoint).map_err(|_| wrong())?;
    let plain = url.scheme() == "http" && settings.allow_http;
    let private = !url.username().is_empty() || url.password().is_some();
    if (url.scheme() != "https" && !plain)
        || private
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(wrong());
    }
    let host = url.host_str().ok_or_else(wrong)?.to_owned();
    if !settings.path_style && !host.starts_with(&format!("{bucket}.")) {
        url.set_host(Some(&format!("{bucket}.{host}")))
            .map_err(|_| wrong())?;
    }
    let url = url.as_str().trim_end_matches('/');
    Ok(if settings.path_style {
        format!("{url}/{bucket}")
    } else {
        url.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIB: u64 = 1024 * 1024 * MIB;

    fn settings() -> S3Settings {
        S3Settings {
            bucket: "files".into(),
            prefix: String::new(),
            endpoint: None,
            region: None,
            access_key_id: Some("key".into()),
            secret_access_key: Some("hush".into()),
            allow_http: false,
            path_style: false,
        }
    }

    #[test]
    fn parts_of_unknown_uploads_start_small_and_reach_5_tib() {
        let sizes: Vec<u64> = (1..=PLANNED_PARTS)
            .map(|number| part_size(number, None))
            .collect();
        assert!(sizes.iter().sum::<u64>() >= 5 * TIB);
        assert!(sizes.is_sorted());
        assert!(
            sizes
                .iter()
                .all(|size| (5 * MIB..=5 * 1024 * MIB).contains(size))
        );
        assert!(sizes[..2_250].iter().all(|size| *size == 8 * MIB));
        assert_eq!(sizes[2_250], 16 * MIB);
        assert_eq!(sizes[8_999], 4_096 * MIB);
        for number in [MOST_PARTS, u64::MAX] {
            assert!(part_size(number, None) <= 5 * 1024 * MIB);
        }
        // What a writer holds stays in proportion to what it was sent: three parts are at most
        // a 250th of that.
        let mut before = 0;
        for size in sizes {
            assert!(size == 8 * MIB || size * 750 <= before);
            before += size;
        }
    }

    #[test]
    fn parts_of_declared_uploads_have_one_size_that_suffices() {
        for declared in [
            0,
            1,
            8 * MIB,
            8 * MIB * 9_000,
            8 * MIB * 9_000 + 1,
            TIB,
            5 * TIB - 1,
            5 * TIB,
        ] {
            let size = part_size(1, Some(declared));
            assert!((8 * MIB..=5 * 1024 * MIB).contains(&size), "{declared}");
            assert!(size * PLANNED_PARTS >= declared, "{declared}");
            assert_eq!(size, part_size(9_999, Some(declared)));
            assert!(
                size == 8 * MIB || (size - MIB) * PLANNED_PARTS < declared,
                "{declared}"
            );
        }
        assert_eq!(part_size(1, Some(5 * TIB)), 583 * MIB);
        assert_eq!(part_size(1, Some(u64::MAX)), 5 * 1024 * MIB);
    }

    #[test]
    fn small_chunks_are_copied_together_and_large_ones_are_not() {
        let large = Bytes::from(vec![1; SMALL_CHUNK]);
        let at = large.as_ptr();
        let mut part = Part::default();
        for _ in 0..10 {
            part.push(Bytes::from_static(b"small"));
        }
        part.push(large);
        part.push(Bytes::from_static(b"small"));
        assert_eq!(part.length, 55 + SMALL_CHUNK as u64);
        let payload = part.payload();
        let lengths: Vec<usize> = payload.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [50, SMALL_CHUNK, 5]);
        assert_eq!(payload.iter().nth(1).map(|chunk| chunk.as_ptr()), Some(at));
        assert_eq!(part.payload().content_length(), payload.content_length());
    }

    #[test]
    fn a_call_without_a_known_end_stays_open() {
        let calls = OpenCalls::default();
        calls.begin().end();
        assert!(calls.none());
        let open = calls.begin();
        assert!(!calls.none());
        drop(open);
        assert!(!calls.none());
    }

    #[test]
    fn the_bucket_goes_in_the_host_or_in_the_path() {
        let url = |endpoint: Option<&str>, path_style: bool| {
            let settings = S3Settings {
                endpoint: endpoint.map(str::to_owned),
                path_style,
                allow_http: true,
                ..settings()
            };
            bucket_url(&settings, "eu-west-1").ok()
        };
        let https = |text: &str| Some(format!("https://{text}"));
        assert_eq!(url(None, false), https("files.s3.eu-west-1.amazonaws.com"));
        assert_eq!(url(None, true), https("s3.eu-west-1.amazonaws.com/files"));
        assert_eq!(
            url(Some("https://s3.example.com:9000/"), false),
            https("files.s3.example.com:9000")
        );
        assert_eq!(
            url(Some("https://files.s3.example.com"), false),
            https("files.s3.example.com")
        );
        assert_eq!(
            url(Some("http://127.0.0.1:8333"), true),
            Some("http://127.0.0.1:8333/files".into())
        );
        for wrong in [
            "https://user:secret@host",
            "ftp://host",
            "https://host?x",
            "host",
            "",
        ] {
            assert_eq!(url(Some(wrong), true), None, "{wrong}");
        }
        let plain = S3Settings {
            endpoint: Some("http://host".into()),
            ..settings()
        };
        assert!(bucket_url(&plain, "eu-west-1").is_err());
    }

    #[test]
    fn the_secret_is_not_shown() {
        assert!(!format!("{:?}", settings()).contains("hush"));
    }

    #[test]
    fn half_a_key_does_not_open() {
        let half = S3Settings {
            secret_access_key: None,
            ..settings()
        };
        assert!(S3::open(&half).is_err());
        let nameless = S3Settings {
            bucket: String::new(),
            ..settings()
        };
        assert!(S3::open(&nameless).is_err());
    }

    #[test]
    fn listings_are_read() {
        let page: UploadPage = quick_xml::de::from_str(
            r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <Bucket>files</Bucket><KeyMarker></KeyMarker><UploadIdMarker></UploadIdMarker>
              <NextKeyMarker>a&amp;b</NextKeyMarker><NextUploadIdMarker>2</NextUploadIdMarker>
              <MaxUploads>2</MaxUploads><IsTruncated>true</IsTruncated>
              <Upload><Key>a</Key><UploadId>1</UploadId><Owner><ID>x</ID></Owner>
                <Initiated>2026-11-24T05:03:38.000Z</Initiated></Upload>
              <Upload><Key>a&amp;b&#x1;</Key><UploadId>2</UploadId></Upload>
            </ListMultipartUploadsResult>"#,
        )
        .unwrap();
        assert!(page.is_truncated);
        assert_eq!(page.next_key_marker.as_deref(), Some("a&b"));
        assert_eq!(page.upload[1].key, "a&b\u{1}");
        assert_eq!(
            time(page.upload[0].initiated.as_deref()).to_string(),
            "2026-11-24T05:03:38.000000Z"
        );

        let page: ObjectPage = quick_xml::de::from_str(
            r"<ListBucketResult><Name>files</Name><IsTruncated>false</IsTruncated></ListBucketResult>",
        )
        .unwrap();
        assert!(page.contents.is_empty() && !page.is_truncated);
    }

    #[test]
    fn a_missing_bucket_is_not_a_missing_key() {
        let not_found = |code: &str| object_store::Error::NotFound {
            path: "key".into(),
            source: format!("<Error><Code>{code}</Code></Error>").into(),
        };
        assert!(is_absent(&not_found("NoSuchKey")));
        assert!(is_absent(&not_found("NoSuchUpload")));
        assert!(!is_absent(&not_found("NoSuchBucket")));
    }
}
