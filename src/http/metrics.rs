//! `/metrics`: numbers of this process and of what it shares, for Prometheus.

use axum::extract::State;
use axum::http::Uri;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::error::{Error, Result};
use crate::metrics;

use super::extract::Query;

/// Fetch the metrics
///
/// In Prometheus' text format. Where `admin_listen` is configured, they are there instead, and need no
/// token.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses(
        (status = 200, description = "All metrics", content_type = "text/plain", body = String),
        (status = 404, description = "They are on `admin_listen`", content_type = "application/problem+json", body = super::problem::Problem),
    ),
)]
pub(super) async fn get(State(app): State<App>, uri: Uri) -> Result<Response> {
    if app.config.admin_listen.is_some() {
        return Err(Error::not_found());
    }
    page(State(app), uri).await
}

/// The same for who is let in by where they ask.
pub(super) async fn page(State(app): State<App>, uri: Uri) -> Result<Response> {
    Query::read(&uri, &[])?;
    let standing = app.domain.standing().await;
    let page = app.domain.metrics.page(&standing);
    let fields = [
        (CONTENT_TYPE, metrics::CONTENT_TYPE),
        (CACHE_CONTROL, "no-store"),
    ];
    Ok((fields, page).into_response())
}
