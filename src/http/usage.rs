//! `/v1/usage`: what the tenant keeps.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;

use crate::app::App;
use crate::error::Result;

use super::extract::Query;
use super::guard::Who;
use super::types;

/// Tell what the tenant keeps
///
/// Logical bytes: what copies share counts for each of them.
#[utoipa::path(
    get, path = "/v1/usage", tag = "files",
    responses((status = 200, description = "What is kept, and may be", body = types::Usage)),
)]
pub(super) async fn get(
    State(app): State<App>,
    Who(principal): Who,
    uri: Uri,
) -> Result<Json<types::Usage>> {
    Query::read(&uri, &[])?;
    let usage = app.domain.usage(&principal.tenant).await?;
    Ok(Json(types::Usage {
        bytes: usage.bytes,
        files: usage.files,
        max_bytes: usage.quota.bytes,
        max_files: usage.quota.files,
    }))
}
