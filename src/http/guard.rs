//! What stands before a route's handler: how often its address asks (429), token (401), how often
//! its principal asks (429), scope (403), declared length (413), in this order and before a byte of
//! the body is read.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{self, AUTHORIZATION, CONTENT_TYPE, HeaderName};
use axum::http::{Extensions, HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::app::App;
use crate::auth::{Principal, Scope, Tokens};
use crate::config::Cors;
use crate::domain::audit::Access;
use crate::domain::{Caller, Domain};
use crate::error::{Error, Kind, Result};
use crate::trace::{self, span_within};

use super::address::Address;
use super::extract::Remote;
use super::observe::REQUEST_ID;
use super::rate::{Class, RATELIMIT, RATELIMIT_POLICY, Standing};
use super::upload::FORM_OVERHEAD;
use super::{Access as Allowed, Route, Takes, archives, audit, digest, direct, extract, tus};

/// Who was let in.
#[derive(Clone)]
pub(super) struct Who(pub Arc<Principal>);

#[derive(Clone)]
pub(super) struct Guard {
    domain: Domain,
    tokens: Arc<Tokens>,
    access: Allowed,
    takes: Takes,
    /// What the route does, by its name in the API's description.
    operation: Option<&'static str>,
    rates: Class,
    /// Of a file, in bytes.
    most: u64,
    /// Of a list of ids, in bytes.
    most_ids: u64,
}

impl Guard {
    pub(super) fn new(app: &App, route: &Route, rates: Class) -> Self {
        Self {
            operation: route.operation,
            domain: app.domain.clone(),
            rates,
            tokens: app.tokens.clone(),
            access: route.access,
            takes: route.takes,
            most: app.config.limits.max_file_size.bytes(),
            most_ids: archives::most_of_body(app),
        }
    }

    async fn admit(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
        method: &Method,
        standing: &mut Standing,
    ) -> Result<Option<Who>> {
        let address = extensions.get::<Address>();
        self.rates
            .address(address.map(|address| address.0), standing)?;
        let principal = self.principal(headers, extensions, method, standing);
        let who = principal.await?.map(Who);
        self.length(headers)?;
        Ok(who)
    }

    async fn principal(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
        method: &Method,
        standing: &mut Standing,
    ) -> Result<Option<Arc<Principal>>> {
        let needed = match self.access {
            Allowed::Public | Allowed::Signed => return Ok(None),
            Allowed::Token => None,
            Allowed::Scope(scope) => Some(scope),
        };
        let token = bearer(headers)
            .ok_or_else(|| Error::new(Kind::Unauthenticated, "A bearer token is needed."))?;
        let principal = self.tokens.verify(token).await?;
        self.rates.principal(&principal, standing)?;
        match needed {
            Some(scope) if !principal.scopes.contains(&scope) => {
                let route = extensions.get::<MatchedPath>();
                let route = route.map_or("", |route| route.as_str());
                let caller = Remote::of(extensions)
                    .caller(principal.tenant.clone(), principal.subject.clone());
                Err(lacks(&self.domain, &caller, route, method, scope))
            }
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
            Takes::Json | Takes::Ids | Takes::Parts => {
                let most = match self.takes {
                    Takes::Ids => self.most_ids,
                    Takes::Parts => direct::PARTS_BODY,
                    _ => extract::JSON_BODY,
                };
                if length > most {
                    return Err(extract::json_too_large(most));
                }
                return Ok(());
            }
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
) -> Response {
    let mut standing = Standing::default();
    let (headers, extensions) = (request.headers(), request.extensions());
    let admitted = guard.admit(headers, extensions, request.method(), &mut standing);
    let admitted = admitted.await;
    let mut response = match admitted {
        Err(error) => error.into_response(),
        Ok(who) => {
            if let Some(who) = &who {
                request.extensions_mut().insert(who.clone());
            }
            let operation = guard.operation.unwrap_or("page");
            let deed = span_within!("deed", otel.name = operation);
            let mut response = trace::within(deed, next.run(request)).await;
            if let Some(who) = who {
                response.extensions_mut().insert(who);
            }
            response
        }
    };
    standing.tell(response.headers_mut());
    response
}

/// A token that is valid, but not for this: which is noted.
pub(super) fn lacks(
    domain: &Domain,
    caller: &Caller,
    route: &str,
    method: &Method,
    scope: Scope,
) -> Error {
    let scope = scope.as_str();
    let detail = json!({"method": method.as_str(), "scope": scope});
    domain.access_note(Access::Refused, caller, route.to_owned(), detail);
    Error::new(
        Kind::Forbidden,
        format!("The token lacks the scope {scope}."),
    )
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
    let exposed: [HeaderName; 23] = [
        header::ACCEPT_RANGES,
        header::CONTENT_DISPOSITION,
        header::CONTENT_RANGE,
        header::ETAG,
        header::LOCATION,
        header::RETRY_AFTER,
        CONTENT_TYPE,
        digest::REPR_DIGEST,
        REQUEST_ID,
        RATELIMIT,
        RATELIMIT_POLICY,
        audit::HEAD,
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
