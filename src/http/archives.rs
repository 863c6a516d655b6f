//! `POST /v1/files/archive`: many files as one ZIP, streamed, and the signed URLs of such.

use axum::Json;
use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE,
};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::App;
use crate::domain::Domain;
use crate::domain::archives::{Chosen, Member};
use crate::domain::files::Metadata;
use crate::domain::properties::name_fault;
use crate::error::{Error, Invalid, Kind, Result};
use crate::id::{FileId, Tenant};
use crate::objects::ByteStream;
use crate::places::Place;

use super::disposition::{self, Disposition};
use super::extract::{self, JSON_BODY, Query, Remote};
use super::guard::Who;
use super::signed::{self, STORES_OWN, SignedMethod, SignedUrl};
use super::{list, types};

mod zip;

use zip::{Entry, Zip};

/// What an archive is called that has no name.
const UNNAMED: &str = "files.zip";

/// An id in JSON, in bytes: 36, two quotes, a comma, and what spaces there may be.
const ID: u64 = 48;

/// The longest token of a URL, in letters: servers and proxies take lines of 8 KiB.
const MOST_OF_URL: usize = 7_000;

/// Files of so few bytes are read together, so many at a time, before the first of them is sent: else the
/// store's delay would come once for each.
const SMALL: u64 = 128 * 1024;
const TOGETHER: usize = 8;

/// The files that go into an archive: either `ids` or `filter`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewArchive {
    /// In the order of the archive.
    #[serde(default)]
    ids: Option<Vec<String>>,
    #[serde(default)]
    filter: Option<ArchiveFilter>,
    /// What the archive is saved as; `files.zip` by default.
    #[serde(default)]
    name: Option<String>,
}

/// All must hold, as the list's parameters of these names; in the order of names.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ArchiveFilter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Metadata>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    created_after: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    created_before: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// What a URL of an archive says under its seal: the request, and how long it is good.
#[derive(Serialize, Deserialize)]
pub(super) struct ArchiveGrant {
    #[serde(rename = "t")]
    tenant: Tenant,
    #[serde(rename = "u")]
    subject: String,
    /// In microseconds.
    #[serde(rename = "e")]
    expires_at: i64,
    /// What it is of. No grant of a file has this.
    #[serde(rename = "a")]
    of: Of,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

#[derive(Serialize, Deserialize)]
enum Of {
    /// 16 bytes each, as base64: a third of what they are as text.
    #[serde(rename = "i")]
    Ids(String),
    #[serde(rename = "f")]
    Filter(ArchiveFilter),
}

/// How long the body may be, in bytes.
pub(super) fn most_of_body(app: &App) -> u64 {
    JSON_BODY + ID * u64::from(app.config.archive.max_files)
}

/// Fetch many files as a ZIP
///
/// Streamed, uncompressed, as the contents are now: what is deleted or replaced on the way either comes as it
/// was, or breaks the connection. With `signed=true` a URL for it, good for 15 minutes, that needs no token.
#[utoipa::path(
    post, path = "/v1/files/archive", tag = "files",
    params(("signed" = Option<bool>, Query, description = "`true`: a URL that a browser can follow")),
    request_body(content = NewArchive, content_type = "application/json"),
    responses((status = 200, description = "The archive; with `signed=true` its URL", content(
        (types::Bytes = "application/zip"),
        (SignedUrl = "application/json"),
    ))),
)]
pub(super) async fn create(
    State(app): State<App>,
    Who(principal): Who,
    request: Request,
) -> Result<Response> {
    let sign = Query::read(request.uri(), &["signed"])?.flag("signed")?;
    let (head, body) = request.into_parts();
    let most = most_of_body(&app);
    let body =
        extract::json_bytes_upto(&app, &head.headers, body, &["application/json"], most).await?;
    let new: NewArchive = extract::json_object(&body)?;
    if let Some(fault) = new.name.as_deref().and_then(name_fault) {
        return Err(Error::invalid("/name", fault));
    }
    let tenant = principal.tenant.clone();
    let chosen = match (&new.ids, &new.filter) {
        (Some(ids), None) => Chosen::Ids(read_ids(&app, ids)?),
        (None, Some(filter)) => filter.chosen(&app, &tenant)?,
        _ => return Err(Error::invalid("", "must have either ids or filter")),
    };
    if !sign {
        let place = app.domain.archive_place(&tenant)?;
        let members = app.domain.archive_members(&tenant, chosen).await?;
        return send(&app, tenant, members, new.name, place).await;
    }
    let ids = match &chosen {
        Chosen::Ids(ids) => Some(packed(ids)),
        Chosen::Filter(_) => None,
    };
    // What could not be sent now gets no URL.
    app.domain.archive_members(&tenant, chosen).await?;
    let expires_at = app.domain.clock.now().plus(STORES_OWN);
    let of = match (ids, new.filter) {
        (Some(ids), _) => Of::Ids(ids),
        (None, Some(filter)) => Of::Filter(filter),
        (None, None) => return Err(Error::internal("an archive of nothing")),
    };
    let pointer = match of {
        Of::Ids(_) => "/ids",
        Of::Filter(_) => "/filter",
    };
    let grant = ArchiveGrant {
        tenant,
        subject: principal.subject.clone(),
        expires_at: expires_at.as_micros(),
        of,
        name: new.name,
    };
    let token = signed::token(&app, &grant)?;
    if token.len() > MOST_OF_URL {
        let detail = "is too long for a URL: some 230 ids fit, or use a filter";
        return Err(Error::invalid(pointer, detail));
    }
    Ok(Json(SignedUrl {
        url: format!("{}s/{token}", app.config.public_url()),
        method: SignedMethod::Get,
        expires_at,
        headers: Default::default(),
    })
    .into_response())
}

/// What a URL says of an archive, if it is one's.
pub(super) fn granted(app: &App, params: &RawPathParams) -> Option<ArchiveGrant> {
    let (_, token) = params.iter().find(|(name, _)| *name == "token")?;
    app.seal.as_ref()?.open(token)
}

pub(super) async fn send_granted(
    app: &App,
    grant: ArchiveGrant,
    remote: Remote,
    uri: &Uri,
) -> Result<Response> {
    let caller = remote.caller(grant.tenant.clone(), grant.subject);
    let granted = grant.expires_at > app.domain.clock.now().as_micros();
    signed::admit(app, &caller, granted, "archive".to_owned(), &Method::GET)?;
    Query::read(uri, &[])?;
    let tenant = grant.tenant;
    let chosen = match grant.of {
        Of::Ids(ids) => Chosen::Ids(unpacked(&ids).ok_or_else(signed::not_valid)?),
        Of::Filter(filter) => filter.chosen(app, &tenant)?,
    };
    let place = app.domain.archive_place(&tenant)?;
    let members = app
        .domain
        .archive_members(&tenant, chosen)
        .await
        .map_err(|error| match error.kind() {
            // It was sound when it was signed.
            Kind::InvalidRequest => Error::new(
                Kind::Gone,
                "What the URL is for is not there any more, or not as it was.",
            ),
            _ => error,
        })?;
    send(app, tenant, members, grant.name, place).await
}

/// What is no id names nothing.
fn read_ids(app: &App, ids: &[String]) -> Result<Vec<FileId>> {
    let most = app.config.archive.max_files as usize;
    if ids.len() > most {
        let detail = format!("an archive has at most {most} files");
        return Err(Error::invalid("/ids", detail));
    }
    let mut invalid = Vec::new();
    let mut read = Vec::with_capacity(ids.len());
    for (place, id) in ids.iter().enumerate() {
        match id.parse() {
            Ok(id) => read.push(id),
            Err(()) if invalid.len() < 1_000 => invalid.push(Invalid {
                pointer: format!("/ids/{place}"),
                detail: "is no file".to_owned(),
            }),
            Err(()) => {}
        }
    }
    if invalid.is_empty() {
        Ok(read)
    } else {
        Err(Error::invalid_many(invalid))
    }
}

fn packed(ids: &[FileId]) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| *id.as_uuid().as_bytes()).collect();
    URL_SAFE_NO_PAD.encode(bytes)
}

fn unpacked(text: &str) -> Option<Vec<FileId>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let ids = bytes
        .chunks(16)
        .map(|id| Uuid::from_slice(id).ok().map(FileId::from_uuid));
    ids.collect()
}

impl ArchiveFilter {
    fn chosen(&self, app: &App, tenant: &Tenant) -> Result<Chosen> {
        let mut query = Query::default();
        for (name, value) in [
            ("prefix", self.prefix.clone()),
            ("name", self.name.clone()),
            ("content_type", self.content_type.clone()),
            (
                "metadata",
                self.metadata
                    .clone()
                    .map(|metadata| serde_json::Value::Object(metadata).to_string()),
            ),
            ("min_size", self.min_size.map(|size| size.to_string())),
            ("max_size", self.max_size.map(|size| size.to_string())),
            ("created_after", self.created_after.clone()),
            ("created_before", self.created_before.clone()),
            ("sha256", self.sha256.clone()),
        ] {
            if let Some(value) = value {
                query.set(name, value);
            }
        }
        let now = app.domain.clock.now();
        let filter = list::filter(&mut query, tenant.clone(), now).map_err(|error| {
            let invalid = error.invalid_parts().iter().map(|part| Invalid {
                pointer: format!("/filter{}", part.pointer),
                detail: part.detail.clone(),
            });
            Error::invalid_many(invalid.collect())
        })?;
        Ok(Chosen::Filter(Box::new(filter)))
    }
}

async fn send(
    app: &App,
    tenant: Tenant,
    members: Vec<Member>,
    name: Option<String>,
    place: Place<Tenant>,
) -> Result<Response> {
    let length = zip::length(members.iter().map(|member| entry(member, &*member.name)));
    let mut members = members.into_iter();
    // Before the status is sent, so that what can't be read at all is told.
    let first = next(&app.domain, &tenant, &mut members).await?;
    let bytes = written(app.domain.clone(), tenant, first, members, place);
    let mut name = name.unwrap_or_else(|| UNNAMED.to_owned());
    if !name.to_ascii_lowercase().ends_with(".zip") {
        name.push_str(".zip");
    }
    let fields = [
        (CONTENT_TYPE, HeaderValue::from_static("application/zip")),
        (CONTENT_LENGTH, HeaderValue::from(length)),
        (
            CONTENT_DISPOSITION,
            disposition::header(Disposition::Attachment, &name),
        ),
        (ACCEPT_RANGES, HeaderValue::from_static("none")),
        (CACHE_CONTROL, HeaderValue::from_static("private, no-store")),
        (
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("sandbox; default-src 'none'"),
        ),
    ];
    Ok((StatusCode::OK, fields, Body::from_stream(bytes)).into_response())
}

fn entry<N>(member: &Member, name: N) -> Entry<N> {
    Entry {
        name,
        size: member.size,
        at: member.at,
    }
}

/// What is about to be sent.
enum Opened {
    /// Some whole files.
    Small(Vec<(Member, Vec<Bytes>)>),
    /// One, as it comes.
    Large(Member, ByteStream),
}

/// Opens the next member, or as many as are read together; None behind the last one.
async fn next(
    domain: &Domain,
    tenant: &Tenant,
    members: &mut std::vec::IntoIter<Member>,
) -> Result<Option<Opened>> {
    let waiting = members.as_slice().iter();
    let small = waiting
        .take(TOGETHER)
        .take_while(|member| member.size <= SMALL);
    let small: Vec<Member> = match small.count() {
        0 => Vec::new(),
        count => members.take(count).collect(),
    };
    if !small.is_empty() {
        let whole = small.into_iter().map(|member| async move {
            let bytes = whole(domain, tenant, &member).await?;
            Ok::<_, Error>((member, bytes))
        });
        return Ok(Some(Opened::Small(try_join_all(whole).await?)));
    }
    let Some(member) = members.next() else {
        return Ok(None);
    };
    let bytes = domain.member_read(tenant, &member, 0..member.size).await?;
    Ok(Some(Opened::Large(member, bytes)))
}

async fn whole(domain: &Domain, tenant: &Tenant, member: &Member) -> Result<Vec<Bytes>> {
    let mut chunks = Vec::new();
    if member.size > 0 {
        let mut bytes = domain.member_read(tenant, member, 0..member.size).await?;
        while let Some(chunk) = bytes.next().await {
            chunks.push(chunk?);
        }
    }
    Ok(chunks)
}

/// The whole archive. Whatever fails ends it with an error, and so breaks the connection: what came until
/// then has no directory, and is shorter than was said.
fn written(
    domain: Domain,
    tenant: Tenant,
    first: Option<Opened>,
    mut members: std::vec::IntoIter<Member>,
    place: Place<Tenant>,
) -> ByteStream {
    async_stream::try_stream! {
        let mut zip = Zip::new();
        let mut opened = first;
        while let Some(group) = opened.take() {
            match group {
                Opened::Small(files) => {
                    let mut piece = Vec::new();
                    for (member, chunks) in files {
                        let entry = named(member);
                        piece.extend(Zip::begin(&entry));
                        let mut crc = crc32fast::Hasher::new();
                        let mut size = 0;
                        for chunk in chunks {
                            crc.update(&chunk);
                            size += chunk.len() as u64;
                            piece.extend_from_slice(&chunk);
                        }
                        complete(&entry, size)?;
                        piece.extend(zip.end(entry, crc.finalize()));
                    }
                    yield Bytes::from(piece);
                }
                Opened::Large(member, mut chunks) => {
                    let entry = named(member);
                    yield Bytes::from(Zip::begin(&entry));
                    let mut crc = crc32fast::Hasher::new();
                    let mut size = 0;
                    while let Some(chunk) = chunks.next().await {
                        let chunk = chunk?;
                        crc.update(&chunk);
                        size += chunk.len() as u64;
                        yield chunk;
                    }
                    complete(&entry, size)?;
                    yield Bytes::from(zip.end(entry, crc.finalize()));
                }
            }
            opened = next(&domain, &tenant, &mut members).await?;
        }
        let mut pieces = zip.finish().peekable();
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                // Who has the last byte may ask for another archive.
                drop(place);
                yield Bytes::from(piece);
                return;
            }
            yield Bytes::from(piece);
        }
    }
    .boxed()
}

fn named(member: Member) -> Entry<String> {
    Entry {
        size: member.size,
        at: member.at,
        name: member.name,
    }
}

/// The store's streams end with an error when bytes are missing; were one not to, the archive would be
/// valid and wrong.
fn complete(entry: &Entry<String>, size: u64) -> Result<()> {
    if entry.size == size {
        return Ok(());
    }
    let (name, all) = (&entry.name, entry.size);
    Err(Error::internal(format!(
        "{size} bytes of {all} came for {name}"
    )))
}
