//! `POST /v1/links/batch`: many links at once.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::Value;

use crate::app::App;
use crate::domain::links::NewLink;
use crate::error::{Error, Kind, Result};
use crate::http::extract::{self, Acting, Query};
use crate::http::{media_type, problem, types};

/// Items in one request, and the longest body, in bytes: 1.6 KiB for each.
const MOST: usize = 10_000;
const BODY: usize = 16 * 1024 * 1024;

const NDJSON: &str = "application/x-ndjson";

/// Make many links
///
/// Up to 10,000, each on its own, as `POST /v1/links` would, but without passwords: what became of each
/// stands at its place. As JSON, or as lines of JSON, and answered alike. They are made in chunks of 1,000.
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
    let lines = match head.headers.get(CONTENT_TYPE) {
        None => false,
        Some(value) => {
            let text = value.to_str().unwrap_or_default();
            let lines = media_type::names(text, NDJSON);
            if !lines && !media_type::names(text, "application/json") {
                return Err(Error::new(
                    Kind::UnsupportedMediaType,
                    "The body must be application/json or application/x-ndjson.",
                ));
            }
            lines
        }
    };
    let too_large = || {
        let detail = format!("The body may have at most {BODY} bytes.");
        Error::new(Kind::PayloadTooLarge, detail)
    };
    if extract::content_length(&head.headers).is_some_and(|length| length > BODY as u64) {
        return Err(too_large());
    }
    let mut source = extract::byte_stream(body, app.config.limits.idle_timeout);
    let mut bytes = Vec::new();
    while let Some(chunk) = source.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() > BODY {
            return Err(too_large());
        }
    }
    let new = if lines {
        read_lines(&bytes)?
    } else {
        read_json(&bytes)?
    };
    drop(bytes);
    let outcomes = app.domain.link_create_many(&caller, new).await;
    let items = outcomes.into_iter().enumerate().map(shape).collect();
    if !lines {
        return Ok(Json(types::LinksMade { items }).into_response());
    }
    let mut text = Vec::new();
    for item in &items {
        serde_json::to_writer(&mut text, item).map_err(Error::internal)?;
        text.push(b'\n');
    }
    Ok(([(CONTENT_TYPE, NDJSON)], text).into_response())
}

fn count(items: usize) -> Result<()> {
    if (1..=MOST).contains(&items) {
        Ok(())
    } else {
        Err(Error::invalid("/items", "must have 1 to 10,000 items"))
    }
}

/// A line that is no link is one that can't be made; empty lines are none.
pub(in crate::http) fn read_lines(bytes: &[u8]) -> Result<Vec<Result<NewLink>>> {
    let lines = || {
        bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.trim_ascii().is_empty())
    };
    count(lines().count())?;
    Ok(lines().map(read).collect())
}

fn read(text: &[u8]) -> Result<NewLink> {
    super::new_link(extract::json_object(text)?)
}

fn read_json(bytes: &[u8]) -> Result<Vec<Result<NewLink>>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        items: Vec<Value>,
    }
    let body: Body = extract::json_object(bytes)?;
    count(body.items.len())?;
    let read = |item: &Value| read(&serde_json::to_vec(item).map_err(Error::internal)?);
    Ok(body.items.iter().map(read).collect())
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
