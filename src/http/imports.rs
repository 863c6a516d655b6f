//! `/v1/imports`: lists of URLs to fetch, and what became of each.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::domain::Caller;
use crate::domain::imports::{
    Import, Item, ItemState, OnDuplicate, Receiving, State as Of, Wanted,
};
use crate::domain::once::Once;
use crate::error::{Error, Kind, Result};
use crate::id::{ImportId, Tenant};
use crate::objects::ByteStream;

use super::extract::{self, Acting, PathId, Query};
use super::guard::Who;
use super::list::limit;
use super::{media_type, once, types};

mod lines;

use lines::{Format, Line, Reader};

/// The parameters that stand for `options` where a body has none.
const OPTIONS: [&str; 6] = [
    "concurrency",
    "per_host",
    "attempts",
    "timeout_s",
    "on_duplicate",
    "allow_content_types",
];

/// The most faults that a dry run tells of.
const MOST_ERRORS: usize = 1_000;

/// Rows of a report that are read at once.
const ROWS: u32 = 1_000;

/// How often who watches is told something, and how long it is told nothing at most: less than what
/// proxies take for the end.
const TOLD: Duration = Duration::from_secs(1);
const SILENCE: u32 = 15;

/// Import a list of URLs
///
/// Each is fetched later and becomes a file or an error of its own. Read as a stream: as JSON, as lines of
/// JSON, as CSV with a header (`url`, and any of `name`, `metadata`, `size`, `sha256`, `md5`, `headers`), or
/// as Google's `TsvHttpData-1.0`. An item that is not valid becomes one that has failed.
#[utoipa::path(
    post, path = "/v1/imports", tag = "imports",
    params(
        ("dry_run" = Option<bool>, Query, description = "`true`: only says what is wrong with which item"),
        ("concurrency" = Option<u32>, Query, description = "As in `options`, like the next five; not with JSON, which has them in its body"),
        ("per_host" = Option<u32>, Query),
        ("attempts" = Option<u32>, Query),
        ("timeout_s" = Option<u64>, Query),
        ("on_duplicate" = Option<String>, Query),
        ("allow_content_types" = Option<String>, Query, description = "Separated by commas"),
        ("Idempotency-Key" = Option<String>, Header, description = "The caller's own: an equal request within 24 hours is answered with the same import"),
    ),
    request_body(content(
        (types::NewImport = "application/json"),
        (String = "application/x-ndjson"),
        (String = "text/csv"),
        (String = "text/tab-separated-values"),
    )),
    responses(
        (status = 202, description = "The import, which has begun", body = types::Import,
            headers(("Location" = String, description = "The import's path"))),
        (status = 200, description = "With `dry_run`: what would become of it", body = types::DryRun),
    ),
)]
pub(super) async fn create(
    State(app): State<App>,
    Acting(caller): Acting,
    request: Request,
) -> Result<Response> {
    let (head, body) = request.into_parts();
    let format = format(&head.headers)?;
    let Asked { dry_run, wanted } = Asked::read(&head.uri, format)?;
    // Those of a query can be refused before the body is read.
    app.domain.import_options(wanted.clone())?;
    let once = once::read(&head, "createImport", &[])?;
    let source = extract::byte_stream(body, app.config.limits.idle_timeout);
    let reader = Reader::new(format);
    if dry_run {
        return Ok(Json(tried(&app, reader, source).await?).into_response());
    }
    let import = match once {
        None => received(&app, &caller, reader, source, wanted, None).await?,
        Some(once) => match app.domain.import_once(&caller, &once).await? {
            None => received(&app, &caller, reader, source, wanted, Some(once)).await?,
            Some(earlier) => {
                let sha256 = hashed(&app, source).await?;
                earlier.import(&app.domain, &sha256).await?
            }
        },
    };
    let path = format!("{}v1/imports/{}", app.config.public_url().path(), import.id);
    let import = types::Import::try_from(import)?;
    Ok((StatusCode::ACCEPTED, [(LOCATION, path)], Json(import)).into_response())
}

fn format(headers: &HeaderMap) -> Result<Format> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(Format::Json);
    };
    let text = value.to_str().unwrap_or_default();
    [
        ("application/json", Format::Json),
        ("application/x-ndjson", Format::Ndjson),
        ("text/csv", Format::Csv),
        ("text/tab-separated-values", Format::Tsv),
    ]
    .into_iter()
    .find(|(name, _)| media_type::names(text, name))
    .map(|(_, format)| format)
    .ok_or_else(|| {
        Error::new(
            Kind::UnsupportedMediaType,
            "The body must be application/json, application/x-ndjson, text/csv or text/tab-separated-values.",
        )
    })
}

struct Asked {
    dry_run: bool,
    wanted: Wanted,
}

impl Asked {
    fn read(uri: &Uri, format: Format) -> Result<Self> {
        let mut known = vec!["dry_run"];
        if format != Format::Json {
            known.extend(OPTIONS);
        }
        let mut query = Query::read(uri, &known)?;
        let number = |query: &mut Query, name: &str| {
            query.parse(name, "a whole number", |text| text.parse::<u32>().ok())
        };
        Ok(Self {
            dry_run: query.flag("dry_run")?,
            wanted: Wanted {
                concurrency: number(&mut query, "concurrency")?,
                per_host: number(&mut query, "per_host")?,
                attempts: number(&mut query, "attempts")?,
                timeout_s: number(&mut query, "timeout_s")?.map(u64::from),
                on_duplicate: query.parse("on_duplicate", "keep or skip", |text| match text {
                    "keep" => Some(OnDuplicate::Keep),
                    "skip" => Some(OnDuplicate::Skip),
                    _ => None,
                })?,
                allow_content_types: query
                    .take("allow_content_types")
                    .map(|text| text.split(',').map(|part| part.trim().to_owned()).collect()),
            },
        })
    }
}

/// Takes all items in, and makes them an import.
async fn received(
    app: &App,
    caller: &Caller,
    reader: Reader,
    source: ByteStream,
    wanted: Wanted,
    once: Option<Once>,
) -> Result<Import> {
    let mut receiving = app.domain.import_receive(caller).await?;
    let mut hasher = once.is_some().then(Sha256::new);
    let said = take(reader, source, &mut receiving, hasher.as_mut()).await;
    let options = said.and_then(|said| {
        let wanted = said.map_or(wanted, Wanted::from);
        app.domain.import_options(wanted)
    });
    match options {
        Ok(options) => {
            let once = once
                .as_ref()
                .zip(hasher.map(|hasher| hasher.finalize().into()));
            receiving.finish(options, once).await
        }
        Err(error) => {
            receiving.abandon().await;
            Err(error)
        }
    }
}

async fn take(
    mut reader: Reader,
    mut source: ByteStream,
    receiving: &mut Receiving,
    mut hasher: Option<&mut Sha256>,
) -> Result<Option<types::WantedOptions>> {
    let mut found = Vec::new();
    while let Some(chunk) = source.next().await {
        let chunk = chunk?;
        if let Some(hasher) = &mut hasher {
            hasher.update(&chunk);
        }
        reader.read(&chunk, &mut found)?;
        push(receiving, &mut found).await?;
    }
    let said = reader.end(&mut found)?;
    push(receiving, &mut found).await?;
    Ok(said)
}

async fn push(receiving: &mut Receiving, found: &mut Vec<Line>) -> Result<()> {
    for line in found.drain(..) {
        match line {
            Ok(offered) => receiving.push(offered).await?,
            Err((url, invalid)) => receiving.push_faulty(&url, &invalid).await?,
        }
    }
    Ok(())
}

/// Looks at all items, and keeps none.
async fn tried(app: &App, mut reader: Reader, mut source: ByteStream) -> Result<types::DryRun> {
    let most = u64::from(app.config.imports.max_items);
    let mut tried = types::DryRun::default();
    let mut found = Vec::new();
    let mut ended = false;
    let mut said = None;
    while !ended {
        match source.next().await {
            Some(chunk) => reader.read(&chunk?, &mut found)?,
            None => {
                said = reader.end(&mut found)?;
                ended = true;
            }
        }
        for line in found.drain(..) {
            let invalid = match line {
                Ok(offered) => app.domain.import_item_check(&offered),
                Err((_, invalid)) => invalid,
            };
            if tried.total == most {
                let detail = format!("an import may have at most {most} items");
                return Err(Error::invalid("/items", detail));
            }
            if invalid.is_empty() {
                tried.valid += 1;
            }
            let room = MOST_ERRORS.saturating_sub(tried.errors.len());
            let index = tried.total;
            tried
                .errors
                .extend(invalid.into_iter().take(room).map(|part| types::ItemError {
                    index,
                    pointer: part.pointer,
                    detail: part.detail,
                }));
            tried.total += 1;
        }
    }
    app.domain
        .import_options(said.map_or_else(Wanted::default, Wanted::from))?;
    if tried.total == 0 {
        return Err(Error::invalid("/items", "must have at least one item"));
    }
    Ok(tried)
}

async fn hashed(app: &App, mut source: ByteStream) -> Result<[u8; 32]> {
    let most = app.config.limits.max_file_size.bytes();
    let (mut hasher, mut size) = (Sha256::new(), 0);
    while let Some(chunk) = source.next().await {
        let chunk = chunk?;
        size += chunk.len() as u64;
        if size > most {
            return Err(Error::new(Kind::PayloadTooLarge, "The body is too long."));
        }
        hasher.update(&chunk);
    }
    Ok(hasher.finalize().into())
}

/// List imports
///
/// The newest first.
#[utoipa::path(
    get, path = "/v1/imports", tag = "imports",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Imports of a page; 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of imports", body = types::ImportPage)),
)]
pub(super) async fn list(
    State(app): State<App>,
    Who(principal): Who,
    uri: Uri,
) -> Result<Json<types::ImportPage>> {
    let mut query = Query::read(&uri, &["limit", "cursor"])?;
    let limit = limit(&mut query)?;
    let before = cursor::<ImportId>(&mut query)?;
    let tenant = &principal.tenant;
    let mut imports = app.domain.import_list(tenant, before, limit + 1).await?;
    let more = imports.len() > limit as usize;
    imports.truncate(limit as usize);
    let next_cursor = imports.last().filter(|_| more).map(|last| behind(last.id));
    let items: Result<_> = imports.into_iter().map(types::Import::try_from).collect();
    Ok(Json(types::ImportPage {
        items: items?,
        next_cursor,
    }))
}

/// Fetch an import
///
/// With exact counts of its items.
#[utoipa::path(
    get, path = "/v1/imports/{id}", tag = "imports",
    params(("id" = String, Path, description = "The import's id")),
    responses((status = 200, description = "The import", body = types::Import)),
)]
pub(super) async fn get(
    State(app): State<App>,
    Who(principal): Who,
    PathId(id): PathId<ImportId>,
    uri: Uri,
) -> Result<Json<types::Import>> {
    Query::read(&uri, &[])?;
    let import = known(&app, &principal.tenant, id).await?;
    Ok(Json(import.try_into()?))
}

async fn known(app: &App, tenant: &Tenant, id: ImportId) -> Result<Import> {
    app.domain
        .import_get(tenant, id)
        .await?
        .ok_or_else(Error::not_found)
}

/// List the items of an import
///
/// In the order in which they were sent. With `Accept: text/csv` all of them, as a stream.
#[utoipa::path(
    get, path = "/v1/imports/{id}/items", tag = "imports",
    params(
        ("id" = String, Path, description = "The import's id"),
        ("state" = Option<String>, Query, description = "`pending`, `fetching`, `done`, `failed` or `cancelled`: only those"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Items of a page; 100 by default. Not with CSV, like `cursor`"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of items, or the whole report", content(
        (types::ImportItemPage = "application/json"),
        (String = "text/csv"),
    ))),
)]
pub(super) async fn items(
    State(app): State<App>,
    Who(principal): Who,
    PathId(id): PathId<ImportId>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    let report = wants_csv(&headers);
    let allowed: &[&str] = if report {
        &["state"]
    } else {
        &["state", "limit", "cursor"]
    };
    let mut query = Query::read(&uri, allowed)?;
    let state = query.parse(
        "state",
        "pending, fetching, done, failed or cancelled",
        ItemState::read,
    )?;
    let limit = limit(&mut query)?;
    let after = cursor::<i64>(&mut query)?;
    let tenant = principal.tenant.clone();
    known(&app, &tenant, id).await?;
    if report {
        let fields = [(CONTENT_TYPE, "text/csv; charset=utf-8; header=present")];
        let body = Body::from_stream(rows(app, tenant, id, state));
        return Ok((fields, body).into_response());
    }
    let mut found = app
        .domain
        .import_items(&tenant, id, state, after, limit + 1)
        .await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_cursor = found
        .last()
        .filter(|_| more)
        .map(|last| behind(last.number));
    Ok(Json(types::ImportItemPage {
        items: found.into_iter().map(types::ImportItem::from).collect(),
        next_cursor,
    })
    .into_response())
}

fn wants_csv(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| media_type::names(range.trim(), "text/csv"))
}

/// The report, page by page: no statement stays open for as long as its reader takes.
fn rows(
    app: App,
    tenant: Tenant,
    id: ImportId,
    state: Option<ItemState>,
) -> impl Stream<Item = Result<Bytes>> {
    async_stream::try_stream! {
        yield Bytes::from_static(b"index,url,state,attempts,http_status,error_type,error_detail,file_id,bytes\r\n");
        let mut after = None;
        loop {
            let page = app.domain.import_items(&tenant, id, state, after, ROWS).await?;
            let mut text = String::new();
            for item in &page {
                row(&mut text, item);
                after = Some(item.number);
            }
            let ended = page.len() < ROWS as usize;
            yield Bytes::from(text);
            if ended {
                break;
            }
        }
    }
}

fn row(text: &mut String, item: &Item) {
    let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
    let fields = [
        item.number.to_string(),
        item.url.clone(),
        item.state.as_str().to_owned(),
        item.attempts.to_string(),
        number(item.http_status),
        item.error_type.clone().unwrap_or_default(),
        item.error_detail.clone().unwrap_or_default(),
        item.file_id.map(|id| id.to_string()).unwrap_or_default(),
        number(item.bytes),
    ];
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        if field.contains(['"', ',', '\r', '\n']) {
            text.push('"');
            text.push_str(&field.replace('"', "\"\""));
            text.push('"');
        } else {
            text.push_str(field);
        }
    }
    text.push_str("\r\n");
}

/// Watch an import
///
/// Server-sent events: `progress` with the import at most once a second, and `done` with it once
/// nothing is left to do. An event's id is the count of items that have ended.
#[utoipa::path(
    get, path = "/v1/imports/{id}/events", tag = "imports",
    params(
        ("id" = String, Path, description = "The import's id"),
        ("Last-Event-ID" = Option<String>, Header, description = "Of the last event that came: what it told is not told again"),
    ),
    responses((status = 200, description = "Events until the import is done", content(
        (types::ImportEvent = "text/event-stream"),
    ))),
)]
pub(super) async fn events(
    State(app): State<App>,
    Who(principal): Who,
    PathId(id): PathId<ImportId>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    Query::read(&uri, &[])?;
    let tenant = principal.tenant.clone();
    let import = known(&app, &tenant, id).await?;
    let told = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok()?.parse::<i64>().ok());
    let fields = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
    ];
    let body = Body::from_stream(watched(app, tenant, import, told));
    Ok((fields, body).into_response())
}

fn watched(
    app: App,
    tenant: Tenant,
    mut import: Import,
    mut told: Option<i64>,
) -> impl Stream<Item = Result<Bytes>> {
    async_stream::try_stream! {
        let id = import.id;
        let mut silent = 0;
        let mut last = None;
        loop {
            let finished = import.counts.finished();
            if import.state != Of::Running {
                yield event("done", finished, import)?;
                break;
            }
            if told != Some(finished) || last.is_some_and(|last| last != import.counts) {
                told = Some(finished);
                last = Some(import.counts);
                silent = 0;
                yield event("progress", finished, import)?;
            } else if silent >= SILENCE {
                silent = 0;
                yield Bytes::from_static(b":\n\n");
            }
            silent += 1;
            tokio::select! {
                () = app.stopping.cancelled() => break,
                () = tokio::time::sleep(TOLD) => {}
            }
            import = known(&app, &tenant, id).await?;
        }
    }
}

fn event(name: &str, id: i64, import: Import) -> Result<Bytes> {
    let json = serde_json::to_string(&types::Import::try_from(import)?).map_err(Error::internal)?;
    Ok(Bytes::from(format!(
        "id: {id}\nevent: {name}\ndata: {json}\n\n"
    )))
}

/// Stop an import
///
/// What has not ended is cancelled, what is being fetched too. An import that has ended stays as it is.
#[utoipa::path(
    post, path = "/v1/imports/{id}/cancel", tag = "imports",
    params(("id" = String, Path, description = "The import's id")),
    responses((status = 200, description = "The import as it is now", body = types::Import)),
)]
pub(super) async fn cancel(
    State(app): State<App>,
    Acting(caller): Acting,
    PathId(id): PathId<ImportId>,
    uri: Uri,
) -> Result<Json<types::Import>> {
    Query::read(&uri, &[])?;
    let import = app.domain.import_cancel(&caller, id).await?;
    Ok(Json(import.try_into()?))
}

/// Try again what failed
///
/// Items that have failed are fetched once more, but for those that were not valid. Their `headers` are
/// gone: they are erased when an item ends.
#[utoipa::path(
    post, path = "/v1/imports/{id}/retry", tag = "imports",
    params(("id" = String, Path, description = "The import's id")),
    responses((status = 200, description = "The import as it is now", body = types::Import)),
)]
pub(super) async fn retry(
    State(app): State<App>,
    Acting(caller): Acting,
    PathId(id): PathId<ImportId>,
    uri: Uri,
) -> Result<Json<types::Import>> {
    Query::read(&uri, &[])?;
    let import = app.domain.import_retry(&caller, id).await?;
    Ok(Json(import.try_into()?))
}

pub(super) fn behind(last: impl ToString) -> String {
    URL_SAFE_NO_PAD.encode(last.to_string())
}

pub(super) fn cursor<T: std::str::FromStr>(query: &mut Query) -> Result<Option<T>> {
    query.parse("cursor", "the next_cursor of a page", |text| {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        text.parse().ok()
    })
}

/// What a body is read as, told in a way that can be compared, for who has no service to give it to.
#[cfg(any(test, fuzzing))]
pub(super) fn lines_in(format: u8, body: &[u8], step: usize) -> Option<String> {
    let formats = [Format::Json, Format::Ndjson, Format::Csv, Format::Tsv];
    let mut reader = Reader::new(formats[usize::from(format % 4)]);
    let mut found = Vec::new();
    for piece in body.chunks(step) {
        reader.read(piece, &mut found).ok()?;
    }
    let options = reader.end(&mut found).ok()?;
    Some(format!("{found:?} {options:?}"))
}
