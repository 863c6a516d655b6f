//! What stands before a route's handler: token (401), scope (403), declared length (413), in this
//! order and before a byte of the body is read.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{self, AUTHORIZATION, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::app::App;
use crate::auth::{Principal, Tokens};
use crate::config::Cors;
use crate::error::{Error, Kind, Result};

use super::observe::REQUEST_ID;
use super::upload::FORM_OVERHEAD;
use super::{Access, Takes, digest, extract, tus};

/// Who was let in.
#[derive(Clone)]
pub(super) struct Who(pub Arc<Principal>);

#[derive(Clone)]
pub(super) struct Guard {
    tokens: Arc<Tokens>,
    access: Access,
    takes: Takes,
    /// Of a file, in bytes.
    most: u64,
}

impl Guard {
    pub(super) fn new(app: &App, access: Access, takes: Takes) -> Self {
        Self {
            tokens: app.tokens.clone(),
            access,
            takes,
            most: app.config.limits.max_file_size.bytes(),
        }
    }

    async fn principal(&self, headers: &HeaderMap) -> Result<Option<Arc<Principal>>> {
        let needed = match self.access {
            Access::Public | Access::Signed => return Ok(None),
            Access::Token => None,
            Access::Scope(scope) => Some(scope),
        };
        let token = bearer(headers)
            .ok_or_else(|| Error::new(Kind::Unauthenticated, "A bearer token is needed."))?;
        let principal = self.tokens.verify(token).await?;
        match needed {
            Some(scope) if !principal.scopes.contains(&scope) => Err(Error::new(
                Kind::Forbidden,
                format!("The token lacks the scope {}.", scope.as_str()),
            )),
            _ => Ok(Some(principal)),
        }
    }

    fn length(&self, headers: &HeaderMap) -> Result<()> {
        let Some(length) = extract::content_length(headers) else {
            return Ok(());
        };
        let most = match self.takes {
            // Items are counted, and bounded one by one.
            Takes::Nothing | Takes::Items => return Ok(()),
            Takes::Json if length > extract::JSON_BODY => return Err(extract::json_too_large()),
            Takes::Json => return Ok(()),
            Takes::File if extract::is_form(headers) => self.most.saturating_add(FORM_OVERHEAD),
            Takes::File => self.most,
        };
        if length > most {
            return Err(Error::new(
                Kind::PayloadTooLarge,
                format!("A file may have at most {} bytes.", self.most),
            ));
        }
        Ok(())
    }
}

pub(super) async fn check(
    State(guard): State<Guard>,
    mut request: Request,
    next: Next,
) -> Result<Response> {
    let who = guard.principal(request.headers()).await?.map(Who);
    guard.length(request.headers())?;
    if let Some(who) = &who {
        request.extensions_mut().insert(who.clone());
    }
    let mut response = next.run(request).await;
    if let Some(who) = who {
        response.extensions_mut().insert(who);
    }
    Ok(response)
}

/// The token of `Authorization: Bearer …` (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// What web pages of other origins may do, where any are allowed at all.
pub(super) fn cors(settings: &Cors) -> Option<CorsLayer> {
    if settings.allow_origins.is_empty() {
        return None;
    }
    let origins = settings
        .allow_origins
        .iter()
        .filter_map(|origin| origin.as_str().parse().ok());
    let exposed: [HeaderName; 20] = [
        header::ACCEPT_RANGES,
        header::CONTENT_DISPOSITION,
        header::CONTENT_RANGE,
        header::ETAG,
        header::LOCATION,
        header::RETRY_AFTER,
        CONTENT_TYPE,
        digest::REPR_DIGEST,
        REQUEST_ID,
        tus::RESUMABLE,
        tus::VERSION,
        tus::EXTENSION,
        tus::MAX_SIZE,
        tus::ALGORITHMS,
        tus::OFFSET,
        tus::LENGTH,
        tus::DEFER,
        tus::METADATA,
        tus::EXPIRES,
        tus::FILE_ID,
    ];
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([
                Method::GET,
                Method::HEAD,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
            ])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(exposed)
            .max_age(Duration::from_secs(3_600)),
    )
}
