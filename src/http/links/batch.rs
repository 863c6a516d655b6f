//! `POST /v1/links/batch`: many links at once.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::Value;

use crate::app::App;
use crate::domain::links::{LinkBatch, NewLink};
use crate::error::{Error, Kind, Result};
use crate::http::extract::{self, Acting, Query};
use crate::http::lines::Lines;
use crate::http::{media_type, problem, types};
use crate::objects::ByteStream;
use crate::trace;

/// Items in one request; the longest document of JSON, in bytes; and the longest line, where they come as lines.
const MOST: usize = 10_000;
const BODY: u64 = 16 * 1024 * 1024;
const LINE: usize = 16 * 1024;

/// Chunks in one request.
const CHUNKS: usize = MOST.div_ceil(LinkBatch::CHUNK);

const NDJSON: &str = "application/x-ndjson";

/// Make many links
///
/// Up to 10,000, each on its own, as `POST /v1/links` would: what became of each stands at its place. They
/// are made in chunks of 1,000. As JSON, or as lines of JSON: those are read as a stream and answered so, a
/// chunk at a time. The place of a line that can't be read, for its length or as the 10,001st, has the
/// status, and nothing behind it is made.
#[utoipa::path(
    post, path = "/v1/links/batch", tag = "links",
    request_body(content(
        (types::NewLinks = "application/json"),
        (String = "application/x-ndjson"),
    )),
    responses((status = 200, description = "What became of each", content(
        (types::LinksMade = "application/json"),
        (types::LinkMade = "application/x-ndjson"),
    ))),
)]
pub(in crate::http) async fn create(
    State(app): State<App>,
    Acting(caller): Acting,
    request: Request,
) -> Result<Response> {
    Query::read(request.uri(), &[])?;
    let (head, body) = request.into_parts();
    let as_lines = (head.headers.get(CONTENT_TYPE))
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| media_type::names(text, NDJSON));
    let batch = LinkBatch::new(app.domain.clone(), caller);
    if as_lines {
        return lines(batch, extract::byte_stream(body, &app.config.limits)).await;
    }
    let allowed = &["application/json", NDJSON];
    if extract::content_length(&head.headers).is_some_and(|length| length > BODY) {
        return Err(extract::json_too_large(BODY));
    }
    let bytes = extract::json_bytes_upto(&app, &head.headers, body, allowed, BODY).await?;
    document(batch, &bytes).await
}

async fn document(mut batch: LinkBatch, bytes: &[u8]) -> Result<Response> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Document {
        items: Vec<Value>,
    }
    let document: Document = extract::json_object(bytes)?;
    if !(1..=MOST).contains(&document.items.len()) {
        return Err(Error::invalid("/items", "must have 1 to 10,000 items"));
    }
    let mut items = Vec::with_capacity(document.items.len());
    for chunk in document.items.chunks(LinkBatch::CHUNK) {
        let read = |item: &Value| read(&serde_json::to_vec(item).map_err(Error::internal)?);
        let made = batch.make(chunk.iter().map(read).collect()).await;
        let first = items.len();
        items.extend((first..).zip(made).map(shape));
    }
    Ok(Json(types::LinksMade { items }).into_response())
}

/// What became of the lines of each chunk, as lines.
async fn lines(batch: LinkBatch, source: ByteStream) -> Result<Response> {
    // There is room for all of them: a client may send all it has before it reads.
    let (answers, mut chunks) = mpsc::channel(CHUNKS + 1);
    tokio::spawn(trace::carried(make_lines(batch, source, answers)));
    let first = match chunks.next().await {
        Some(first) => first?,
        None => return Err(Error::internal("no lines were answered")),
    };
    let chunks = futures::stream::iter([Ok(first)]).chain(chunks);
    Ok(([(CONTENT_TYPE, NDJSON)], Body::from_stream(chunks)).into_response())
}

async fn make_lines(
    mut batch: LinkBatch,
    mut source: ByteStream,
    mut answers: mpsc::Sender<Result<Bytes>>,
) {
    let mut reader = Reader::default();
    let mut answered = 0;
    loop {
        let more = match source.next().await {
            Some(Ok(bytes)) => reader.read(&bytes),
            Some(Err(error)) => {
                // Whoever sent it is not there any more, or the head of the answer can still tell.
                let _gone = answers.send(Err(error)).await;
                return;
            }
            None => reader.end(),
        };
        while reader.has_chunk(more) {
            let made = batch.make(reader.chunk()).await;
            let outcomes: Vec<_> = (answered..).zip(made).map(shape).collect();
            answered += outcomes.len();
            if answers.send(text(&outcomes)).await.is_err() {
                return;
            }
        }
        if !more {
            if answered == 0 {
                let none = Error::invalid("/items", "must have 1 to 10,000 items");
                let _gone = answers.send(Err(none)).await;
            }
            return;
        }
    }
}

/// What is known of lines, and not made yet.
struct Reader {
    lines: Lines,
    seen: usize,
    waiting: Vec<Result<NewLink>>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            lines: Lines::new(LINE),
            seen: 0,
            waiting: Vec::new(),
        }
    }
}

impl Reader {
    /// False: the last line that is read was among them.
    fn read(&mut self, bytes: &[u8]) -> bool {
        let Self {
            lines,
            seen,
            waiting,
        } = self;
        let taken = lines.read(bytes, |line| take(line, seen, waiting));
        self.go_on(taken)
    }

    fn end(&mut self) -> bool {
        let Self {
            lines,
            seen,
            waiting,
        } = self;
        let taken = lines.end(|line| take(line, seen, waiting));
        self.go_on(taken);
        false
    }

    fn go_on(&mut self, taken: Result<()>) -> bool {
        taken.map_err(|error| self.waiting.push(Err(error))).is_ok()
    }

    /// Whether there are lines enough; any are when no more come.
    fn has_chunk(&self, more: bool) -> bool {
        self.waiting.len() >= if more { LinkBatch::CHUNK } else { 1 }
    }

    fn chunk(&mut self) -> Vec<Result<NewLink>> {
        let most = self.waiting.len().min(LinkBatch::CHUNK);
        self.waiting.drain(..most).collect()
    }
}

/// A line that is no link is one that can't be made; empty lines are none.
///
/// # Errors
/// 413 for the first that is one too many.
fn take(line: &[u8], seen: &mut usize, waiting: &mut Vec<Result<NewLink>>) -> Result<()> {
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    if *seen == MOST {
        let detail = "A request may have at most 10,000 lines.";
        return Err(Error::new(Kind::PayloadTooLarge, detail));
    }
    *seen += 1;
    waiting.push(read(line));
    Ok(())
}

/// What the lines of a whole body say: those that would be made, or why not.
#[cfg(any(test, fuzzing))]
pub(in crate::http) fn read_lines(bytes: &[u8]) -> Vec<Result<NewLink>> {
    let mut reader = Reader::default();
    if reader.read(bytes) {
        reader.end();
    }
    reader.waiting
}

fn read(text: &[u8]) -> Result<NewLink> {
    super::new_link(extract::json_object(text)?)
}

fn text(outcomes: &[types::LinkMade]) -> Result<Bytes> {
    let mut text = Vec::new();
    for one in outcomes {
        serde_json::to_writer(&mut text, one).map_err(Error::internal)?;
        text.push(b'\n');
    }
    Ok(text.into())
}

fn shape((index, outcome): (usize, Result<String>)) -> types::LinkMade {
    match outcome {
        Ok(slug) => types::LinkMade {
            index,
            status: 201,
            slug: Some(slug),
            r#type: None,
            errors: Vec::new(),
        },
        Err(error) => types::LinkMade {
            index,
            status: problem::status(error.kind()),
            slug: None,
            r#type: Some(problem::r#type(error.kind())),
            errors: problem::invalid_parts(&error),
        },
    }
}
