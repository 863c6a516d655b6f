//! `/v1/me`: who the token says that the caller is.

use axum::Json;
use axum::http::Uri;
use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::error::Result;

use super::extract::Query;
use super::guard::Who;

/// Who calls.
#[derive(Serialize, ToSchema)]
pub struct Me {
    pub tenant: String,
    pub subject: String,
    pub scopes: Vec<&'static str>,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// Tell who calls
#[utoipa::path(
    get, path = "/v1/me", tag = "identity",
    responses((status = 200, description = "What the token says", body = Me)),
)]
pub(super) async fn get(Who(principal): Who, uri: Uri) -> Result<Json<Me>> {
    Query::read(&uri, &[])?;
    Ok(Json(Me {
        tenant: principal.tenant.to_string(),
        subject: principal.subject.clone(),
        scopes: principal
            .scopes
            .iter()
            .map(|scope| scope.as_str())
            .collect(),
        expires_at: principal.expires_at,
    }))
}
