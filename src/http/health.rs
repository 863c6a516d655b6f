//! Whether the service lives, is ready for requests, and what its parts do.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::domain::health::Latency;
use crate::error::{Error, Kind, Result};

/// `ok`.
#[derive(Serialize, ToSchema)]
pub struct Liveness {
    pub status: &'static str,
}

/// The whole service.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// `ok`, or `unavailable` while a part is, or the database is older than the store.
    pub status: &'static str,
    pub version: &'static str,
    pub parts: Parts,
}

#[derive(Serialize, ToSchema)]
pub struct Parts {
    pub database: Part,
    pub store: Part,
}

/// A part of the service.
#[derive(Serialize, ToSchema)]
pub struct Part {
    /// `ok` or `unavailable`.
    pub status: &'static str,
    /// How long it took to answer, in milliseconds; null when it did not.
    pub latency_ms: Option<f64>,
}

const OK: &str = "ok";
const UNAVAILABLE: &str = "unavailable";

const NO_STORE: [(axum::http::HeaderName, &str); 1] = [(CACHE_CONTROL, "no-store")];

/// Tell whether the process lives
#[utoipa::path(
    get, path = "/health/live", tag = "operations",
    responses((status = 200, description = "It does", body = Liveness)),
)]
pub(super) async fn live() -> Response {
    (NO_STORE, Json(Liveness { status: OK })).into_response()
}

/// Tell whether to send requests
///
/// Not while the database or the store does not answer or the database is older than the store, nor
/// once a stop has begun.
#[utoipa::path(
    get, path = "/health/ready", tag = "operations",
    responses((status = 200, description = "Do", body = Liveness)),
)]
pub(super) async fn ready(State(app): State<App>) -> Result<Response> {
    let refuse = |detail| Err(Error::new(Kind::Unavailable, detail));
    if app.stopping.is_cancelled() {
        return refuse("The service is about to stop.");
    }
    if !app.health.parts().await.all_answer() {
        return refuse("The database or the store does not answer.");
    }
    if app.domain.is_older() {
        return refuse("The database is older than the store.");
    }
    Ok(live().await)
}

/// Tell how the parts of the service are
#[utoipa::path(
    get, path = "/health", tag = "operations",
    responses(
        (status = 200, description = "All answer", body = Health),
        (status = 503, description = "A part does not answer, or the database is older than the store", body = Health),
    ),
)]
pub(super) async fn get(State(app): State<App>) -> Response {
    let parts = app.health.parts().await;
    let (code, status) = if parts.all_answer() && !app.domain.is_older() {
        (StatusCode::OK, OK)
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE)
    };
    let health = Health {
        status,
        version: env!("CARGO_PKG_VERSION"),
        parts: Parts {
            database: part(parts.database),
            store: part(parts.store),
        },
    };
    (code, NO_STORE, Json(health)).into_response()
}

fn part(latency: Latency) -> Part {
    Part {
        status: if latency.is_some() { OK } else { UNAVAILABLE },
        latency_ms: latency.map(|latency| latency.as_secs_f64() * 1_000.0),
    }
}
