//! Objects in S3, and in what speaks its protocol.
//!
//! `object_store` moves the bytes; what it has no call for is done by hand, over `requests`.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::client::{HttpClient, HttpConnector, ReqwestConnector};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode,
    PutPayload, RetryConfig, UpdateVersion,
};
use reqwest::Method;
use tokio::time::timeout;
use url::Url;

use super::{ByteStream, CALL_TIMEOUT, Found, Lease, Marked};
use crate::error::{Error, Result};
use crate::faults::Faults;
use crate::metrics::Store;

mod calls;
mod listing;
mod measured;
mod multipart;
mod pieces;
mod points;
mod requests;
mod retries;
mod writer;

pub(super) use multipart::{LONGEST_SIGNATURE, Multipart};
use pieces::Pieces;
pub(super) use pieces::Shared as Spare;
use retries::Retries;
pub(super) use writer::{Part, Writer};

const FIRST_PAUSE: Duration = Duration::from_millis(200);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the store may stay silent within a request. Above [`CALL_TIMEOUT`], as the client also
/// counts the time in which a request's body is sent; below [`IDLE_TIMEOUT`], so that a download
/// that stalled is taken up again where it stopped before its reader is told that it failed.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a reader waits for the next bytes of an object.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

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
    retries: Retries,
    pieces: Arc<Pieces>,
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
    pub(super) fn open(settings: &S3Settings, faults: Faults, metrics: Store) -> Result<Self> {
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
        let first_pause = faults.pause(FIRST_PAUSE);
        let http = points::between(measured::between(http, metrics), faults);
        let retries = Retries::new(first_pause);

        // Built for its credentials alone: those that come over the network need a client of their
        // own, since instances hand them out over plain http.
        let credentials = chain
            .with_bucket_name(&settings.bucket)
            .with_region(&region)
            .with_retry(patiently(FIRST_PAUSE))
            .with_client_options(options.clone())
            .build()
            .map_err(Error::unavailable)?
            .credentials()
            .clone();
        let store = |retry: RetryConfig, http: HttpClient| {
            AmazonS3Builder::new()
                .with_bucket_name(&settings.bucket)
                .with_region(&region)
                .with_credentials(credentials.clone())
                .with_endpoint(&bucket_url)
                // For object_store this means no more than that the endpoint names the bucket already.
                .with_virtual_hosted_style_request(true)
                .with_client_options(options.clone())
                .with_http_connector(Shared(http))
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
                patient: store(patiently(first_pause), retries.ending(http.clone()))?,
                strict: store(never, retries.counting(http.clone()))?,
                http: retries.counting(http),
                retries,
                pieces: Arc::default(),
                bucket_url,
                region,
            }),
        })
    }

    pub(super) fn write(&self, key: &str, size: Option<u64>, lease: Lease) -> Writer {
        Writer::new(self.clone(), key, size, lease)
    }

    pub(super) fn multipart(&self, key: &str, lease: Lease) -> Multipart {
        Multipart::new(self.clone(), key, lease)
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
        // The uploads go first: what completes meanwhile is seen, and deleted, at the key.
        let mut found = self.abort_uploads(key).await?;
        // A delete doesn't tell whether there was anything.
        if self.head(key).await?.is_some() {
            found = true;
            let path = path(key)?;
            match in_time(self.inner.patient.delete(&path)).await? {
                Ok(()) => {}
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(Error::unavailable(error)),
            }
        }
        Ok(found)
    }

    /// Ends every multipart upload of exactly this key; whether there was any.
    pub(super) async fn abort_uploads(&self, key: &str) -> Result<bool> {
        let path = path(key)?;
        let store = &self.inner.patient;
        let mut found = false;
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
        Ok(found)
    }

    pub(super) async fn has_upload(&self, key: &str) -> Result<bool> {
        let mut pages = Box::pin(self.upload_pages(key.to_owned()));
        while let Some(page) = pages.next().await {
            if page?.iter().any(|upload| upload.key == key) {
                return Ok(true);
            }
        }
        Ok(false)
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

    pub(super) async fn marker_get(&self, key: &str) -> Result<Option<Marked>> {
        let path = path(key)?;
        let found = in_time(async {
            let found = self.inner.patient.get(&path).await?;
            let etag = found.meta.e_tag.clone();
            let content = found.bytes().await?;
            Ok(Marked { content, etag })
        })
        .await?;
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::unavailable(error)),
        }
    }

    /// Never tried twice: the second try would find the first one's content, and take it for another's.
    pub(super) async fn marker_write(
        &self,
        key: &str,
        found: Option<&Marked>,
        content: Bytes,
    ) -> Result<bool> {
        let path = path(key)?;
        let mode = match found {
            None => PutMode::Create,
            Some(found) => PutMode::Update(UpdateVersion {
                e_tag: found.etag.clone(),
                version: None,
            }),
        };
        let put = self
            .inner
            .strict
            .put_opts(&path, PutPayload::from(content), mode.into());
        match in_time(put).await? {
            Ok(_) => Ok(true),
            Err(object_store::Error::Precondition { .. }) => Ok(false),
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
}

/// Whether the key or upload is not there. A bucket that is not there is another matter: what was
/// in it may come back.
fn is_absent(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { source, .. } if !source.to_string().contains("<Code>NoSuchBucket</Code>"))
}

fn path(key: &str) -> Result<Path> {
    Path::parse(key).map_err(Error::internal)
}

fn too_short() -> Error {
    Error::unavailable("an object is shorter than its row says")
}

fn late() -> Error {
    Error::unavailable("the store did not answer in time")
}

async fn in_time<T>(call: impl Future<Output = T>) -> Result<T> {
    timeout(CALL_TIMEOUT, call).await.map_err(|_| late())
}

/// The stream, with an error at its end unless it had `length` bytes.
fn exactly(
    mut stream: BoxStream<'static, object_store::Result<Bytes>>,
    length: u64,
) -> impl Stream<Item = Result<Bytes>> {
    async_stream::try_stream! {
        let mut missing = length;
        while missing > 0 {
            let next = timeout(IDLE_TIMEOUT, stream.next()).await.map_err(|_| late())?;
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
fn patiently(first_pause: Duration) -> RetryConfig {
    RetryConfig {
        max_retries: 4,
        retry_timeout: Duration::MAX,
        backoff: BackoffConfig {
            init_backoff: first_pause,
            max_backoff: first_pause * 10,
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
        let open = |settings: &S3Settings| {
            let metrics = crate::metrics::Metrics::default().store.clone();
            S3::open(settings, Faults::none(), metrics)
        };
        let half = S3Settings {
            secret_access_key: None,
            ..settings()
        };
        assert!(open(&half).is_err());
        let nameless = S3Settings {
            bucket: String::new(),
            ..settings()
        };
        assert!(open(&nameless).is_err());
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
