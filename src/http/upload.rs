//! Bytes in: a new file in one request, as it is or in a form, and a file's new content.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_TYPE, ETAG};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;

use crate::app::App;
use crate::clock::Timestamp;
use crate::domain::Caller;
use crate::domain::files::{Content, File, Metadata, NewFile, Precondition};
use crate::domain::versions::NewContent;
use crate::error::{Error, Kind, Result};
use crate::id::{FileId, Tenant};
use crate::objects::ByteStream;
use crate::places::Place;
use crate::trace;

use super::conditional::{self, Outcome, Validators};
use super::content::content_tag;
use super::extract::{self, Acting, JSON_BODY, PathId, Query};
use super::files::{created, precondition_failed};
use super::types::{self, Properties};
use super::{digest, media_type, once};

/// What a form may have beside the file's bytes: the properties, header fields and delimiters.
pub(super) const FORM_OVERHEAD: u64 = 256 * 1024;

/// What the Idempotency-Keys of uploads belong to.
const ROUTE: &str = "uploadFile";

/// Upload a file
///
/// As a raw body or as `multipart/form-data`. Streamed, of any length up to the limit. It is
/// stored as a whole or not at all: a declared length or checksum that does not match leaves nothing.
#[utoipa::path(
    post, path = "/v1/files", tag = "files",
    params(
        ("name" = Option<String>, Query, description = "The file's name; `unnamed` by default (raw body only, like the next five)"),
        ("metadata" = Option<String>, Query, description = "A JSON object"),
        ("expires_at" = Option<String>, Query, description = "When it is removed by itself (RFC 3339)"),
        ("retention_until" = Option<String>, Query, description = "Until when it can be neither deleted nor replaced (RFC 3339)"),
        ("legal_hold" = Option<bool>, Query, description = "`true`: it can be neither deleted nor replaced until that is lifted"),
        ("sha256" = Option<String>, Query, description = "What the bytes must hash to, in hexadecimal digits"),
        ("Repr-Digest" = Option<String>, Header, description = "The same as `sha-256=:BASE64:` (RFC 9530); `Content-Digest` is taken too"),
        ("Idempotency-Key" = Option<String>, Header, description = "The caller's own: an equal request within 24 hours is answered as this one was"),
    ),
    request_body(content(
        (types::Bytes = "application/octet-stream"),
        (types::UploadForm = "multipart/form-data"),
    ), description = "The bytes. With no `Content-Type`, or `application/octet-stream`, the first of them decide the file's."),
    responses((status = 201, description = "The file is stored", body = types::File,
        headers(
            ("Location" = String, description = "The file's path"),
            ("ETag" = String, description = "The content's"),
        ))),
)]
pub(super) async fn upload(
    State(app): State<App>,
    Acting(caller): Acting,
    request: Request,
) -> Result<Response> {
    let (head, body) = request.into_parts();
    as_it_is(&head.headers)?;
    let place = place(&app, &caller)?;
    let stored = app.clone();
    let work = async move {
        let _place = place;
        if extract::is_form(&head.headers) {
            of_form(&stored, &caller, &head, body).await
        } else {
            of_raw(&stored, &caller, &head, body).await
        }
    };
    // It must run to its end even when the client is gone, which drops this handler.
    let file = app
        .tasks
        .spawn(trace::carried(work))
        .await
        .map_err(Error::internal)??;
    Ok(created(&app, file))
}

/// Replace a file's content
///
/// A raw body, as with an upload. The file keeps its id and its properties but for the content type;
/// its version counts on, and the old content is kept as far as the service is configured to.
#[utoipa::path(
    put, path = "/v1/files/{id}/content", tag = "files",
    params(
        ("id" = String, Path, description = "The file's id"),
        ("sha256" = Option<String>, Query, description = "What the bytes must hash to, in hexadecimal digits"),
        ("Repr-Digest" = Option<String>, Header, description = "The same as `sha-256=:BASE64:` (RFC 9530); `Content-Digest` is taken too"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the content that is to be replaced"),
    ),
    request_body(content(
        (types::Bytes = "application/octet-stream"),
    ), description = "The bytes. With no `Content-Type`, or `application/octet-stream`, the first of them decide the file's."),
    responses((status = 200, description = "The file as it is now", body = types::File,
        headers(("ETag" = String, description = "The content's")))),
)]
pub(super) async fn replace(
    State(app): State<App>,
    Acting(caller): Acting,
    PathId(id): PathId,
    request: Request,
) -> Result<Response> {
    let (head, body) = request.into_parts();
    let mut query = Query::read(&head.uri, &["sha256"])?;
    let new = new_content(&head.headers, query.take("sha256").as_deref())?;
    let precondition: Precondition = Arc::new(move |file: &File| {
        let content = Content::from(file);
        let validators = Validators {
            etag: content_tag(&content),
            last_modified: content.created_at,
        };
        match conditional::evaluate(&head.headers, &Method::PUT, &validators) {
            Outcome::Proceed => Ok(()),
            Outcome::NotModified | Outcome::PreconditionFailed => Err(precondition_failed()),
        }
    });
    let source = extract::byte_stream(body, &app.config.limits);
    replace_content(&app, caller, id, new, source, precondition).await
}

/// What the head of a request says of a raw body.
pub(super) fn new_content(headers: &HeaderMap, sha256: Option<&str>) -> Result<NewContent> {
    as_it_is(headers)?;
    Ok(NewContent {
        content_type: content_type(declared_type(headers))?,
        sha256: digest::declared(headers, sha256)?,
        size: extract::content_length(headers),
    })
}

/// The answer to who gave a file new bytes.
pub(super) async fn replace_content(
    app: &App,
    caller: Caller,
    id: FileId,
    new: NewContent,
    source: ByteStream,
    precondition: Precondition,
) -> Result<Response> {
    let place = place(app, &caller)?;
    let domain = app.domain.clone();
    let work = async move {
        let _place = place;
        domain
            .file_replace(&caller, id, new, source, media_type::sniff, precondition)
            .await
    };
    // It must run to its end even when the client is gone, which drops this handler.
    let file = app
        .tasks
        .spawn(trace::carried(work))
        .await
        .map_err(Error::internal)??;
    let tag = content_tag(&Content::from(&file));
    Ok(([(ETAG, tag)], Json(types::File::from(file))).into_response())
}

/// One of the tenant's uploads, for as long as it runs, also when its client is gone.
pub(super) fn place(app: &App, caller: &Caller) -> Result<Place<Tenant>> {
    app.uploads.take(&caller.tenant).ok_or_else(|| {
        app.domain.metrics.refusals.uploads.inc();
        let most = app.config.limits.uploads_per_tenant;
        Error::new(
            Kind::RateLimited,
            format!("At most {most} uploads of a tenant run at the same time."),
        )
    })
}

pub(super) fn as_it_is(headers: &HeaderMap) -> Result<()> {
    let coded = headers
        .get(CONTENT_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if coded {
        return Err(Error::new(
            Kind::UnsupportedMediaType,
            "A body is taken as it is: without Content-Encoding.",
        ));
    }
    Ok(())
}

/// What can't be shown as text is a type that nothing is.
fn declared_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(CONTENT_TYPE)?;
    Some(value.to_str().unwrap_or("\0"))
}

async fn of_raw(app: &App, caller: &Caller, head: &Parts, body: Body) -> Result<File> {
    let mut query = Query::read(
        &head.uri,
        &[
            "name",
            "metadata",
            "expires_at",
            "retention_until",
            "legal_hold",
            "sha256",
        ],
    )?;
    let name = query.take("name");
    let metadata = match query.take("metadata") {
        Some(text) => extract::json_object::<Option<Metadata>>(text.as_bytes())
            .map_err(|_| Error::invalid("/metadata", "must be a JSON object"))?,
        None => None,
    };
    let mut time = |name: &str| query.parse(name, "a time in RFC 3339", Timestamp::parse);
    let (expires_at, retention_until) = (time("expires_at")?, time("retention_until")?);
    let legal_hold = query.flag("legal_hold")?;
    let sha256 = digest::declared(&head.headers, query.take("sha256").as_deref())?;
    let new = NewFile {
        name,
        content_type: content_type(declared_type(&head.headers))?,
        metadata: metadata.unwrap_or_default(),
        expires_at,
        retention_until,
        legal_hold,
        sha256,
        size: extract::content_length(&head.headers),
    };
    app.domain.file_check(&new)?;
    let once = once::read(head, ROUTE, &[])?;
    let source = extract::byte_stream(body, &app.config.limits);
    app.domain
        .file_upload(caller, new, source, media_type::sniff, once)
        .await
}

/// The type as it is stored; None where the first bytes are to decide.
pub(super) fn content_type(declared: Option<&str>) -> Result<Option<String>> {
    match declared {
        None => Ok(None),
        Some(text) if media_type::names(text, "application/octet-stream") => Ok(None),
        Some(text) => media_type::parse(text).map(Some),
    }
}

async fn of_form(app: &App, caller: &Caller, head: &Parts, body: Body) -> Result<File> {
    Query::read(&head.uri, &[]).map_err(|_| {
        Error::invalid(
            "/properties",
            "a form has what is said of its file in its part `properties`, not in the query",
        )
    })?;
    let source = extract::byte_stream(body, &app.config.limits);
    let Received {
        said,
        properties,
        part,
        form,
    } = receive(&head.headers, source).await?;
    let declared = declared_type(part.headers());
    let sha256 = match &properties.sha256 {
        Some(text) => Some(
            digest::parse_hex(text)
                .ok_or_else(|| Error::invalid("/sha256", "must be 64 hexadecimal digits"))?,
        ),
        None => None,
    };
    let name = match properties.name {
        Some(name) => Some(name),
        None => file_name(&part)?,
    };
    let new = NewFile {
        name,
        content_type: content_type(properties.content_type.as_deref().or(declared))?,
        metadata: properties.metadata.unwrap_or_default(),
        expires_at: properties.expires_at,
        retention_until: properties.retention_until,
        legal_hold: properties.legal_hold.unwrap_or(false),
        sha256,
        size: None,
    };
    app.domain.file_check(&new)?;
    let known = [
        said.as_slice(),
        new.name.as_deref().unwrap_or_default().as_bytes(),
        new.content_type.as_deref().unwrap_or_default().as_bytes(),
    ];
    let once = once::read(head, ROUTE, &known)?;
    app.domain
        .file_upload(caller, new, form.file(part), media_type::sniff, once)
        .await
}

/// A form whose bytes have come as far as those of its file.
struct Received {
    /// The part `properties` as it was sent; empty where there is none.
    said: Vec<u8>,
    properties: Properties,
    /// The part `file`.
    part: multer::Field<'static>,
    form: Form,
}

async fn receive(headers: &HeaderMap, source: ByteStream) -> Result<Received> {
    let mut form = Form::open(headers, source)?;
    let mut part = form.next().await?.ok_or_else(no_file)?;
    let mut properties = Properties::default();
    let mut said = Vec::new();
    if part.name() == Some("properties") {
        said = small(part).await?;
        properties = extract::json_object(&said)?;
        part = form.next().await?.ok_or_else(no_file)?;
    }
    if part.name() != Some("file") {
        return Err(unexpected(part.name()));
    }
    Ok(Received {
        said,
        properties,
        part,
        form,
    })
}

/// A form as [`of_form`] takes it, for who has no service to give it to: its part `properties`,
/// its file's own name, and the file's bytes.
#[cfg(any(test, fuzzing))]
pub(super) async fn take_apart(
    headers: &HeaderMap,
    source: ByteStream,
) -> Result<(Vec<u8>, Option<String>, ByteStream)> {
    let received = receive(headers, source).await?;
    let name = file_name(&received.part)?;
    Ok((received.said, name, received.form.file(received.part)))
}

/// The name that the part's sender has for the file.
fn file_name(part: &multer::Field<'_>) -> Result<Option<String>> {
    let disposition = part.headers().get(CONTENT_DISPOSITION);
    // Multer takes a name that is not UTF-8 for none.
    if disposition.is_some_and(|value| std::str::from_utf8(value.as_bytes()).is_err()) {
        return Err(Error::invalid("/name", "the part's filename is not UTF-8"));
    }
    Ok(part.file_name().map(str::to_owned))
}

/// A form that is read part by part.
struct Form {
    parts: multer::Multipart<'static>,
    /// How many bytes may still be read before the next part's own bytes begin.
    allowance: Arc<AtomicU64>,
}

/// While a part's bytes are read there may be any number of them.
const ANY: u64 = u64::MAX;

impl Form {
    fn open(headers: &HeaderMap, source: ByteStream) -> Result<Self> {
        let boundary = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| multer::parse_boundary(value).ok())
            .ok_or_else(|| {
                Error::new(
                    Kind::BadRequest,
                    "The form's Content-Type names no boundary.",
                )
            })?;
        let allowance = Arc::new(AtomicU64::new(ANY));
        let parts = multer::Multipart::new(bounded(source, allowance.clone()), boundary);
        Ok(Self { parts, allowance })
    }

    async fn next(&mut self) -> Result<Option<multer::Field<'static>>> {
        self.allowance.store(FORM_OVERHEAD, Ordering::Relaxed);
        let part = self.parts.next_field().await.map_err(form_error)?;
        self.allowance.store(ANY, Ordering::Relaxed);
        Ok(part)
    }

    /// The bytes of the part `file`, which must be the last one: an error ends them where another
    /// part follows.
    fn file(mut self, mut part: multer::Field<'static>) -> ByteStream {
        async_stream::try_stream! {
            while let Some(chunk) = part.chunk().await.map_err(form_error)? {
                yield chunk;
            }
            drop(part);
            if let Some(extra) = self.next().await? {
                Err(unexpected(extra.name()))?;
            }
        }
        .boxed()
    }
}

/// Feeds multer, which would take all that it is given: it reads on until its source has nothing,
/// and bounds no header field. So each piece is followed by a pause, and what is looked through for
/// the next part comes in small pieces, as many as the allowance has.
fn bounded(
    mut source: ByteStream,
    allowance: Arc<AtomicU64>,
) -> impl futures::Stream<Item = Result<Bytes>> + Send {
    const PIECE: usize = 16 * 1024;
    // Multer copies each: what is freed by other threads is used again sooner in small pieces.
    const LARGE_PIECE: usize = 64 * 1024;
    let mut rest = Bytes::new();
    let mut paused = false;
    futures::stream::poll_fn(move |context| {
        if !paused {
            paused = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if rest.is_empty() {
            match ready!(source.poll_next_unpin(context)) {
                Some(Ok(chunk)) => rest = chunk,
                other => return Poll::Ready(other),
            }
        }
        paused = false;
        let left = allowance.load(Ordering::Relaxed);
        if left == ANY {
            let piece = rest.split_to(rest.len().min(LARGE_PIECE));
            return Poll::Ready(Some(Ok(piece)));
        }
        if left == 0 {
            return Poll::Ready(Some(Err(Error::new(
                Kind::PayloadTooLarge,
                "The header fields of a part of the form are too large.",
            ))));
        }
        let piece = rest.split_to(rest.len().min(PIECE));
        allowance.store(left.saturating_sub(piece.len() as u64), Ordering::Relaxed);
        Poll::Ready(Some(Ok(piece)))
    })
}

/// All bytes of a part that must be small.
async fn small(mut part: multer::Field<'static>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = part.chunk().await.map_err(form_error)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > JSON_BODY {
            return Err(Error::new(
                Kind::PayloadTooLarge,
                format!("The part `properties` may have at most {JSON_BODY} bytes."),
            ));
        }
    }
    Ok(bytes)
}

fn no_file() -> Error {
    Error::invalid("/file", "the form has no part `file`")
}

fn unexpected(name: Option<&str>) -> Error {
    let name: String = name.unwrap_or_default().chars().take(64).collect();
    Error::invalid(
        format!("/{}", name.replace('~', "~0").replace('/', "~1")),
        "a form has at most one part `properties` and then one part `file`",
    )
}

fn form_error(error: multer::Error) -> Error {
    match error {
        // An error of the body itself, which has its own kind.
        multer::Error::StreamReadFailed(cause) => match cause.downcast::<Error>() {
            Ok(own) => *own,
            Err(cause) => Error::new(Kind::BadRequest, "The form can't be read.").because(cause),
        },
        malformed => Error::new(
            Kind::BadRequest,
            format!("The form is malformed: {malformed}."),
        ),
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    async fn file(chunks: Vec<Bytes>) -> Result<Vec<u8>> {
        let headers = [(
            CONTENT_TYPE,
            "multipart/form-data; boundary=b".parse().unwrap(),
        )];
        let source = futures::stream::iter(chunks.into_iter().map(Ok)).boxed();
        let mut form = Form::open(&HeaderMap::from_iter(headers), source)?;
        let part = form.next().await?.unwrap();
        let chunks: Vec<Bytes> = form.file(part).try_collect().await?;
        Ok(chunks.concat())
    }

    fn form(head: &str, content: &[u8]) -> Bytes {
        let head = format!("--b\r\ncontent-disposition: form-data; name=\"file\"{head}\r\n\r\n");
        [head.as_bytes(), content, b"\r\n--b--\r\n"].concat().into()
    }

    #[tokio::test]
    async fn a_file_may_come_as_fast_as_it_likes() {
        let content = vec![7; 1 << 20];
        let whole = form("", &content);
        for size in [1 << 10, 300_000, 400_000, 1 << 20, 1 << 21] {
            let chunks = whole.chunks(size).map(Bytes::copy_from_slice).collect();
            assert!(
                file(chunks).await.unwrap() == content,
                "in chunks of {size}"
            );
        }
    }

    #[tokio::test]
    async fn a_large_head_is_refused_however_it_comes() {
        let head = format!("\r\nx: {}", "x".repeat(1 << 20));
        let whole = form(&head, b"content");
        for size in [1 << 10, 300_000, 1 << 21] {
            let chunks = whole.chunks(size).map(Bytes::copy_from_slice).collect();
            let error = file(chunks).await.unwrap_err();
            assert_eq!(error.kind(), Kind::PayloadTooLarge, "in chunks of {size}");
        }
    }
}
