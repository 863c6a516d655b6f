//! `/v1/audit-events`: what happened in a tenant, in the order in which it was sealed.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use futures::Stream;

use crate::app::App;
use crate::clock::Timestamp;
use crate::domain::audit::EventFilter;
use crate::error::{Error, Result};
use crate::id::Tenant;

use super::extract::Query;
use super::guard::Who;
use super::imports::{behind, cursor};
use super::list::limit;
use super::{media_type, types};

/// Where the chain ends, to be kept elsewhere: what `box audit verify --anchor` takes.
pub(super) const HEAD: HeaderName = HeaderName::from_static("box-audit-head");

/// Events of a page of an export.
const ROWS: u32 = 500;

/// List what happened
///
/// In the order in which events were sealed, which is about a second after they happened. With
/// `Accept: application/x-ndjson` all of them, one a line, as a stream.
#[utoipa::path(
    get, path = "/v1/audit-events", tag = "audit",
    params(
        ("subject" = Option<String>, Query, description = "Who did it"),
        ("action" = Option<String>, Query, description = "What was done, as `file.created`"),
        ("target" = Option<String>, Query, description = "The id of what it was done to"),
        ("after" = Option<String>, Query, format = DateTime, description = "Only what happened then or later"),
        ("before" = Option<String>, Query, format = DateTime, description = "Only what happened earlier"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Events of a page; 100 by default. Not with NDJSON"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of events, or all of them", content(
        (types::AuditEventPage = "application/json"),
        (types::AuditEvent = "application/x-ndjson"),
    ), headers(("Box-Audit-Head" = String, description = "The end of the chain, as TENANT:NUMBER:HASH; none where nothing was sealed")))),
)]
pub(super) async fn list(
    State(app): State<App>,
    Who(principal): Who,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    let export = wants_ndjson(&headers);
    let known = [
        "subject", "action", "target", "after", "before", "cursor", "limit",
    ];
    let allowed = if export { &known[..6] } else { &known[..] };
    let mut query = Query::read(&uri, allowed)?;
    let time = "a time in RFC 3339, such as 2026-11-24T05:03:38Z";
    let filter = EventFilter {
        subject: text(&mut query, "subject")?,
        action: text(&mut query, "action")?,
        target: text(&mut query, "target")?,
        after: query.parse("after", time, Timestamp::parse)?,
        before: query.parse("before", time, Timestamp::parse)?,
    };
    let seq = cursor::<i64>(&mut query)?.unwrap_or(0);
    let limit = limit(&mut query)?;
    let tenant = &principal.tenant;
    let head = app.domain.audit_head(tenant).await?;
    let mut response = if export {
        let body = Body::from_stream(lines(app, tenant.clone(), filter, seq));
        ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
    } else {
        let events = app.domain.audit_events(tenant, &filter, seq, limit + 1);
        let mut events = events.await?;
        let more = events.len() > limit as usize;
        events.truncate(limit as usize);
        let last = events.last().filter(|_| more);
        let next_cursor = last.and_then(|last| last.place).map(|(seq, _)| behind(seq));
        let items: Result<_> = events
            .into_iter()
            .map(types::AuditEvent::try_from)
            .collect();
        Json(types::AuditEventPage {
            items: items?,
            next_cursor,
        })
        .into_response()
    };
    if let Some(head) = head {
        let text = format!("{tenant}:{}:{}", head.seq, hex::encode(head.hash));
        let value = HeaderValue::try_from(text).map_err(Error::internal)?;
        response.headers_mut().insert(HEAD, value);
    }
    Ok(response)
}

/// PostgreSQL knows no text with U+0000 in it, and no event has one.
fn text(query: &mut Query, name: &str) -> Result<Option<String>> {
    query.parse(name, "text without U+0000", |text| {
        (!text.contains('\0')).then(|| text.to_owned())
    })
}

fn wants_ndjson(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| media_type::names(range.trim(), "application/x-ndjson"))
}

/// Page by page: no statement stays open for as long as its reader takes.
fn lines(
    app: App,
    tenant: Tenant,
    filter: EventFilter,
    mut seq: i64,
) -> impl Stream<Item = Result<Bytes>> {
    async_stream::try_stream! {
        loop {
            let page = app.domain.audit_events(&tenant, &filter, seq, ROWS).await?;
            let ended = page.len() < ROWS as usize;
            let mut text = Vec::new();
            for event in page {
                seq = event.place.map_or(seq, |(seq, _)| seq);
                let event = types::AuditEvent::try_from(event)?;
                serde_json::to_writer(&mut text, &event).map_err(Error::internal)?;
                text.push(b'\n');
            }
            yield Bytes::from(text);
            if ended {
                break;
            }
        }
    }
}
