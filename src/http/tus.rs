//! tus 1.0.0 (<https://tus.io/protocols/resumable-upload>): the core protocol, and the extensions
//! creation, creation-with-upload, creation-defer-length, expiration, checksum and termination.

use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, EXPECT, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::domain::Caller;
use crate::domain::files::{Metadata, NewFile};
use crate::domain::uploads::{Append, Check, State as Of, Strategy, Upload};
use crate::error::{Error, Kind, Result};
use crate::id::{Tenant, UploadId};
use crate::places::Place;
use crate::trace;

use super::extract::{self, Acting, PathId, Query};
use super::{digest, media_type, once, upload};

pub(super) const PATH: &str = "/v1/uploads/tus";

pub(super) const RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
pub(super) const VERSION: HeaderName = HeaderName::from_static("tus-version");
pub(super) const EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
pub(super) const MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
pub(super) const ALGORITHMS: HeaderName = HeaderName::from_static("tus-checksum-algorithm");
pub(super) const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub(super) const LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub(super) const DEFER: HeaderName = HeaderName::from_static("upload-defer-length");
pub(super) const METADATA: HeaderName = HeaderName::from_static("upload-metadata");
pub(super) const EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
pub(super) const FILE_ID: HeaderName = HeaderName::from_static("box-file-id");
const CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
const CONCAT: HeaderName = HeaderName::from_static("upload-concat");
const OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

const ONE: HeaderValue = HeaderValue::from_static("1.0.0");
/// What the Idempotency-Keys of tus uploads belong to.
const ROUTE: &str = "createTusUpload";

const BYTES: &str = "application/offset+octet-stream";

/// The longest `Upload-Metadata`, in bytes: the metadata's 64 KiB in Base64, and the rest.
const LONGEST_METADATA: usize = 128 * 1024;

/// Takes `X-HTTP-Method-Override` for the method of a request below [`PATH`], whatever the method that it
/// came with; whether there was one. Before its route is looked for.
pub(super) fn override_method<B>(request: &mut axum::http::Request<B>) -> bool {
    if !is_below(request.uri().path()) {
        return false;
    }
    let Some(said) = request.headers().get(OVERRIDE) else {
        return false;
    };
    // What is no method is one that nothing answers.
    let method = Method::from_bytes(said.as_bytes()).unwrap_or(Method::TRACE);
    *request.method_mut() = method;
    true
}

fn is_below(path: &str) -> bool {
    path.strip_prefix(PATH)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Around all that is answered below [`PATH`]: the fields that every answer has, and those that say what
/// the service can do. Outside of CORS, which answers every OPTIONS itself.
pub(super) async fn fields(State(app): State<App>, request: Request, next: Next) -> Response {
    let ours = is_below(request.uri().path());
    let asks = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    if !ours {
        return response;
    }
    let status = response.status();
    let headers = response.headers_mut();
    headers.insert(RESUMABLE, ONE);
    if asks && status.is_success() {
        headers.insert(
            EXTENSION,
            HeaderValue::from_static(
                "creation,creation-with-upload,creation-defer-length,expiration,checksum,termination",
            ),
        );
        headers.insert(
            ALGORITHMS,
            HeaderValue::from_static("sha1,sha256,md5,crc32"),
        );
        let most = app.config.limits.max_file_size.bytes();
        headers.insert(MAX_SIZE, HeaderValue::from(most));
    }
    if asks && status.is_success() || status == StatusCode::PRECONDITION_FAILED {
        headers.insert(VERSION, ONE);
    }
    response
}

/// Ask what tus the service speaks
#[utoipa::path(
    options, path = "/v1/uploads/tus", tag = "uploads",
    responses((status = 204, description = "`Tus-Version`, `Tus-Extension`, `Tus-Max-Size` and `Tus-Checksum-Algorithm` say it")),
)]
pub(super) async fn options() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Begin a tus upload
///
/// With its first bytes, or without.
#[utoipa::path(
    post, path = "/v1/uploads/tus", tag = "uploads",
    params(
        ("Tus-Resumable" = String, Header, description = "`1.0.0`"),
        ("Upload-Length" = Option<u64>, Header, description = "In bytes; this or the next"),
        ("Upload-Defer-Length" = Option<u32>, Header, description = "`1`: a PATCH says it later"),
        ("Upload-Metadata" = Option<String>, Header, description = "`filename`, `filetype`, `metadata` (a JSON object) and `sha256`, each with its value in Base64; others are kept for HEAD and mean nothing"),
        ("Upload-Checksum" = Option<String>, Header, description = "Of the bytes that come: `sha1`, `sha256`, `md5` or `crc32`, and its value in Base64"),
        ("Idempotency-Key" = Option<String>, Header, description = "The caller's own, where no bytes come: an equal request within 24 hours is answered with the upload that this one began"),
    ),
    request_body(content((super::types::Bytes = "application/offset+octet-stream"))),
    responses((status = 201, description = "The upload has begun",
        headers(
            ("Location" = String, description = "The upload's path"),
            ("Upload-Offset" = u64, description = "Bytes that have come"),
            ("Upload-Expires" = String, description = "Until when it waits for more"),
            ("Box-File-Id" = String, description = "The file's id, where these were all bytes"),
        ))),
)]
pub(super) async fn create(
    State(app): State<App>,
    Acting(caller): Acting,
    request: Request,
) -> Result<Response> {
    let (head, body) = request.into_parts();
    speaks(&head.headers)?;
    Query::read(&head.uri, &[])?;
    if head.headers.contains_key(CONCAT) {
        return Err(bad("The extension concatenation is not supported."));
    }
    let size = match (number(&head.headers, &LENGTH)?, deferred(&head.headers)?) {
        (Some(size), false) => Some(size),
        (None, true) => None,
        _ => {
            return Err(bad(
                "Either Upload-Length or Upload-Defer-Length: 1 must be there.",
            ));
        }
    };
    let said = text(&head.headers, &METADATA)?;
    let new = NewFile {
        size,
        ..described(said.as_deref().unwrap_or_default())?
    };
    let brings = extract::content_length(&head.headers);
    let has_body = head.headers.contains_key(CONTENT_TYPE) || brings.is_some_and(|n| n > 0);
    let waits = head.headers.contains_key(EXPECT);
    let check = checksum(&head.headers)?;
    if has_body {
        is_bytes(&head.headers)?;
    }
    if let (Some(size), Some(brings)) = (size, brings)
        && brings > size
    {
        return Err(Error::new(
            Kind::PayloadTooLarge,
            "There are more bytes than Upload-Length says.",
        ));
    }
    let length = size.map(|size| size.to_string()).unwrap_or_default();
    let known = [
        length.as_bytes(),
        said.as_deref().unwrap_or_default().as_bytes(),
    ];
    let once = once::read(&head, ROUTE, &known)?;
    if has_body && once.is_some() {
        return Err(Error::invalid(
            "/Idempotency-Key",
            "goes with an upload that begins without bytes: send them by PATCH",
        ));
    }
    let ends = size == Some(0);
    // Before it begins: who is refused has left nothing.
    let place = if has_body || ends {
        Some(upload::place(&app, &caller)?)
    } else {
        None
    };
    let mut upload = app.domain.upload_create(&caller, new, said, once).await?;
    if let Some(place) = place
        && upload.state == Of::Open
    {
        let append = Append {
            offset: 0,
            length: None,
            brings,
            waits,
        };
        let received = receive(&app, &caller, upload.id, append, check, body, place).await;
        upload = match received {
            Ok(upload) => upload,
            Err(error) => match app.domain.upload_get(&caller.tenant, upload.id).await? {
                // It has begun all the same, and can be gone on with where it is.
                Some(upload) if upload.received > 0 || is_passing(&error) => upload,
                left => {
                    if left.is_some() {
                        // Nobody was told of it.
                        app.domain.upload_abort(&caller, upload.id).await?;
                    }
                    return Err(error);
                }
            },
        };
    }
    let path = format!(
        "{}v1/uploads/tus/{}",
        app.config.public_url().path(),
        upload.id
    );
    Ok((StatusCode::CREATED, [(LOCATION, path)], progress(&upload)).into_response())
}

/// Whether the same bytes may be taken at another time.
fn is_passing(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::BadRequest | Kind::RequestTimeout | Kind::Unavailable
    )
}

/// Ask how far a tus upload has come
#[utoipa::path(
    head, path = "/v1/uploads/tus/{id}", tag = "uploads",
    params(
        ("id" = String, Path, description = "The upload's id"),
        ("Tus-Resumable" = String, Header, description = "`1.0.0`"),
    ),
    responses((status = 200, description = "The upload is there",
        headers(
            ("Upload-Offset" = u64, description = "Bytes that have come"),
            ("Upload-Length" = u64, description = "Bytes in all, where that is known"),
            ("Upload-Expires" = String, description = "Until when it waits for more"),
            ("Box-File-Id" = String, description = "The file's id, once all have come"),
        ))),
)]
pub(super) async fn head(
    State(app): State<App>,
    Acting(caller): Acting,
    PathId(id): PathId<UploadId>,
    headers: HeaderMap,
) -> Result<Response> {
    speaks(&headers)?;
    let mut upload = known(&app, &caller, id).await?;
    if upload.is_complete() {
        // Whoever brought the last bytes did not come so far as to make the file.
        let (domain, tried) = (app.domain.clone(), upload.clone());
        let ending = async move { domain.upload_end(&caller, &tried, media_type::sniff).await };
        upload = app
            .tasks
            .spawn(trace::carried(ending))
            .await
            .map_err(Error::internal)??;
    }
    let mut fields = progress(&upload);
    match upload.size {
        Some(size) => fields.insert(LENGTH, size.into()),
        None => fields.insert(DEFER, HeaderValue::from_static("1")),
    };
    if let Some(said) = &upload.tus_metadata
        && let Ok(value) = HeaderValue::from_str(said)
    {
        fields.insert(METADATA, value);
    }
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok((StatusCode::OK, fields).into_response())
}

/// Add bytes to a tus upload
///
/// What came before a request broke off is kept, unless it had a checksum. One request at a time.
#[utoipa::path(
    patch, path = "/v1/uploads/tus/{id}", tag = "uploads",
    params(
        ("id" = String, Path, description = "The upload's id"),
        ("Tus-Resumable" = String, Header, description = "`1.0.0`"),
        ("Upload-Offset" = u64, Header, description = "Where the bytes belong: the upload's offset"),
        ("Upload-Length" = Option<u64>, Header, description = "Bytes in all, where that was deferred"),
        ("Upload-Checksum" = Option<String>, Header, description = "Of the bytes that come: `sha1`, `sha256`, `md5` or `crc32`, and its value in Base64"),
    ),
    request_body(content((super::types::Bytes = "application/offset+octet-stream"))),
    responses(
        (status = 204, description = "The bytes are durable",
            headers(
                ("Upload-Offset" = u64, description = "Bytes that have come"),
                ("Upload-Expires" = String, description = "Until when it waits for more"),
                ("Box-File-Id" = String, description = "The file's id, once all have come"),
            )),
        (status = 409, description = "The upload's offset is another one", body = super::problem::Problem, content_type = "application/problem+json"),
        (status = 423, description = "Another request writes to it", body = super::problem::Problem, content_type = "application/problem+json"),
        (status = 460, description = "The bytes have another checksum", body = super::problem::Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn patch(
    State(app): State<App>,
    Acting(caller): Acting,
    PathId(id): PathId<UploadId>,
    request: Request,
) -> Result<Response> {
    let (head, body) = request.into_parts();
    speaks(&head.headers)?;
    Query::read(&head.uri, &[])?;
    is_bytes(&head.headers)?;
    let append = Append {
        offset: number(&head.headers, &OFFSET)?
            .ok_or_else(|| bad("Upload-Offset must be there."))?,
        length: number(&head.headers, &LENGTH)?,
        brings: extract::content_length(&head.headers),
        waits: head.headers.contains_key(EXPECT),
    };
    let check = checksum(&head.headers)?;
    let place = upload::place(&app, &caller)?;
    let upload = receive(&app, &caller, id, append, check, body, place).await?;
    Ok((StatusCode::NO_CONTENT, progress(&upload)).into_response())
}

/// End a tus upload
///
/// Nothing of it stays in the store. Of one that has ended the file stays.
#[utoipa::path(
    delete, path = "/v1/uploads/tus/{id}", tag = "uploads",
    params(
        ("id" = String, Path, description = "The upload's id"),
        ("Tus-Resumable" = String, Header, description = "`1.0.0`"),
    ),
    responses((status = 204, description = "It is gone")),
)]
pub(super) async fn terminate(
    State(app): State<App>,
    Acting(caller): Acting,
    PathId(id): PathId<UploadId>,
    headers: HeaderMap,
) -> Result<StatusCode> {
    speaks(&headers)?;
    known(&app, &caller, id).await?;
    app.domain.upload_abort(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn known(app: &App, caller: &Caller, id: UploadId) -> Result<Upload> {
    let upload = app.domain.upload_get(&caller.tenant, id).await?;
    upload
        .filter(|upload| upload.strategy == Strategy::Tus)
        .ok_or_else(Error::not_found)
}

async fn receive(
    app: &App,
    caller: &Caller,
    id: UploadId,
    append: Append,
    check: Option<Box<dyn Check>>,
    body: Body,
    place: Place<Tenant>,
) -> Result<Upload> {
    let source = extract::byte_stream(body, &app.config.limits);
    let (domain, caller) = (app.domain.clone(), caller.clone());
    let work = async move {
        let _place = place;
        domain
            .upload_append(
                &caller,
                id,
                append,
                check,
                source.boxed(),
                media_type::sniff,
            )
            .await
    };
    // It must run to its end even when the client is gone, which drops this handler.
    app.tasks
        .spawn(trace::carried(work))
        .await
        .map_err(Error::internal)?
}

/// What every answer says of an upload.
fn progress(upload: &Upload) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(OFFSET, upload.received.into());
    let expires = UNIX_EPOCH + Duration::from_millis(upload.expires_at.as_unix_millis());
    if let Ok(value) = HeaderValue::from_str(&httpdate::fmt_http_date(expires)) {
        fields.insert(EXPIRES, value);
    }
    if let (Of::Done, Some(file)) = (upload.state, upload.file_id)
        && let Ok(value) = HeaderValue::from_str(&file.to_string())
    {
        fields.insert(FILE_ID, value);
    }
    fields
}

fn bad(detail: &'static str) -> Error {
    Error::new(Kind::BadRequest, detail)
}

fn speaks(headers: &HeaderMap) -> Result<()> {
    if headers.get(RESUMABLE) == Some(&ONE) {
        return Ok(());
    }
    Err(Error::new(
        Kind::PreconditionFailed,
        "Tus-Resumable must be 1.0.0.",
    ))
}

fn is_bytes(headers: &HeaderMap) -> Result<()> {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    if content_type.is_some_and(|text| media_type::names(text, BYTES)) {
        return upload::as_it_is(headers);
    }
    Err(Error::new(
        Kind::UnsupportedMediaType,
        format!("The body must be {BYTES}."),
    ))
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(bad("A header field is not ASCII.")),
        },
        _ => Err(bad("A header field comes more than once.")),
    }
}

/// A non-negative integer.
fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>> {
    let Some(text) = text(headers, name)? else {
        return Ok(None);
    };
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<i64>() {
        Ok(number) if plain => Ok(Some(number.unsigned_abs())),
        _ => Err(Error::new(
            Kind::BadRequest,
            format!("{name} must be a number of bytes."),
        )),
    }
}

fn deferred(headers: &HeaderMap) -> Result<bool> {
    match text(headers, &DEFER)?.as_deref() {
        None => Ok(false),
        Some("1") => Ok(true),
        Some(_) => Err(bad("Upload-Defer-Length must be 1.")),
    }
}

/// What `Upload-Metadata` says of the file.
fn described(said: &str) -> Result<NewFile> {
    if said.len() > LONGEST_METADATA {
        return Err(bad("Upload-Metadata is too long."));
    }
    let mut new = NewFile::default();
    let mut seen = Vec::new();
    for pair in said.split(',').filter(|_| !said.trim().is_empty()) {
        let pair = pair.trim();
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        if key.is_empty() || value.contains(' ') {
            return Err(bad(
                "Upload-Metadata must be pairs of a key and a value in Base64.",
            ));
        }
        if seen.contains(&key) {
            return Err(bad("A key of Upload-Metadata comes more than once."));
        }
        seen.push(key);
        let value = STANDARD
            .decode(value)
            .map_err(|_| bad("A value of Upload-Metadata is not Base64."))?;
        let utf8 = || {
            String::from_utf8(value.clone())
                .map_err(|_| Error::invalid(format!("/{key}"), "is not UTF-8"))
        };
        match key {
            "filename" => new.name = Some(utf8()?),
            "filetype" => new.content_type = upload::content_type(Some(&utf8()?))?,
            "metadata" => {
                new.metadata = extract::json_object::<Option<Metadata>>(&value)
                    .map_err(|_| Error::invalid("/metadata", "must be a JSON object"))?
                    .unwrap_or_default();
            }
            "sha256" => {
                new.sha256 =
                    Some(digest::parse_hex(&utf8()?).ok_or_else(|| {
                        Error::invalid("/sha256", "must be 64 hexadecimal digits")
                    })?);
            }
            _ => {}
        }
    }
    Ok(new)
}

/// A hash of one request's bytes, and what it must come to.
struct Expected<D>(D, Vec<u8>);

impl<D: Digest + Send> Check for Expected<D> {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn holds(self: Box<Self>) -> bool {
        self.0.finalize().as_slice() == self.1
    }
}

struct ExpectedCrc(crc32fast::Hasher, Vec<u8>);

impl Check for ExpectedCrc {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn holds(self: Box<Self>) -> bool {
        self.0.finalize().to_be_bytes() == *self.1
    }
}

fn checksum(headers: &HeaderMap) -> Result<Option<Box<dyn Check>>> {
    let Some(text) = text(headers, &CHECKSUM)? else {
        return Ok(None);
    };
    let malformed = || bad("Upload-Checksum must be an algorithm and a checksum in Base64.");
    let (algorithm, value) = text.split_once(' ').ok_or_else(malformed)?;
    let value = STANDARD.decode(value).map_err(|_| malformed())?;
    Ok(Some(match (algorithm, value.len()) {
        ("sha1", 20) => Box::new(Expected(Sha1::new(), value)),
        ("sha256", 32) => Box::new(Expected(Sha256::new(), value)),
        ("md5", 16) => Box::new(Expected(Md5::new(), value)),
        ("crc32", 4) => Box::new(ExpectedCrc(crc32fast::Hasher::new(), value)),
        ("sha1" | "sha256" | "md5" | "crc32", _) => return Err(malformed()),
        _ => {
            return Err(bad(
                "The algorithm of Upload-Checksum is none of sha1, sha256, md5 and crc32.",
            ));
        }
    }))
}
