//! The OpenAPI document, and the page that shows it. Both need no network.

use std::sync::{Arc, LazyLock};

use axum::extract::RawPathParams;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi as Document, Ref, RefOr, ResponseBuilder};

use crate::error::{Error, Kind, Result};

use super::{
    Access, Takes, archives, audit, content, direct, files, health, imports, links, list, me,
    metrics, problem, routes, signed, tus, upload, uploads, usage, versions,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Box Service",
        description = "Upload, find, fetch, change, copy and delete files.\n\nErrors are `application/problem+json` (RFC 9457); switch on their `type`. Every answer has `x-request-id`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        upload::upload,
        list::list,
        files::batch_delete,
        archives::create,
        files::get,
        files::patch,
        files::delete,
        files::restore,
        files::copy,
        content::get,
        content::head,
        upload::replace,
        signed::create,
        signed::get,
        signed::head,
        signed::put,
        versions::list,
        content::version,
        versions::restore,
        tus::options,
        tus::create,
        tus::head,
        tus::patch,
        tus::terminate,
        direct::create,
        direct::parts,
        direct::complete,
        uploads::list,
        uploads::get,
        uploads::abort,
        imports::create,
        imports::list,
        imports::get,
        imports::items,
        imports::events,
        imports::cancel,
        imports::retry,
        links::create,
        links::batch::create,
        links::list,
        links::get,
        links::patch,
        links::delete,
        links::follow::get,
        links::follow::head,
        links::follow::unlock,
        audit::list,
        usage::get,
        me::get,
        health::live,
        health::ready,
        health::get,
        metrics::get,
        openapi,
        entrance,
    ),
    components(schemas(problem::Problem, problem::InvalidPart)),
    tags(
        (name = "files", description = "Files and their contents"),
        (name = "uploads", description = "Uploads of more than one request"),
        (name = "imports", description = "Lists of URLs that are fetched"),
        (name = "links", description = "Slugs that lead to files and to external URLs"),
        (name = "audit", description = "What happened"),
        (name = "identity", description = "Who calls"),
        (name = "operations", description = "For operators"),
    ),
)]
struct Described;

const BEARER: &str = "bearer";

/// The OpenAPI 3.1 document. What each route needs, and its name, come from the table of routes.
pub fn document() -> Document {
    let mut document = Described::openapi();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(
        BEARER,
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .bearer_format("JWT")
                .build(),
        ),
    );
    for route in routes() {
        let Some(name) = route.operation else {
            continue;
        };
        let operation = document
            .paths
            .paths
            .get_mut(&route.path.replace("{*", "{"))
            .and_then(|item| operation(item, &route.method));
        let Some(operation) = operation else {
            continue;
        };
        operation.operation_id = Some(name.to_owned());
        let mut kinds = vec![Kind::InvalidRequest, Kind::Internal, Kind::Unavailable];
        if !route.path.starts_with("/health") {
            kinds.push(Kind::RateLimited);
        }
        match route.access {
            Access::Public => operation.security = Some(Vec::new()),
            Access::Signed => {
                operation.security = Some(Vec::new());
                kinds.extend([Kind::Forbidden, Kind::NotFound, Kind::Gone]);
                kinds.extend([Kind::PreconditionFailed, Kind::RangeNotSatisfiable]);
            }
            Access::Token => {
                operation.security =
                    Some(vec![SecurityRequirement::new(BEARER, Vec::<String>::new())]);
                kinds.push(Kind::Unauthenticated);
            }
            Access::Scope(scope) => {
                operation.security = Some(vec![SecurityRequirement::new(BEARER, [scope.as_str()])]);
                kinds.extend([Kind::Unauthenticated, Kind::Forbidden]);
            }
        }
        if route.path.starts_with("/l/") {
            kinds.extend([Kind::PasswordRequired, Kind::NotFound, Kind::Gone]);
            if route.method != Method::POST {
                kinds.extend([Kind::PreconditionFailed, Kind::RangeNotSatisfiable]);
            }
        }
        if route.path.contains("{id}") || route.path == "/v1/links/{slug}" {
            kinds.push(Kind::NotFound);
        }
        if route.path.ends_with("/content") {
            kinds.extend([Kind::Gone, Kind::PreconditionFailed]);
        }
        if route.path.starts_with(tus::PATH) && route.method != Method::OPTIONS {
            kinds.extend([Kind::BadRequest, Kind::PreconditionFailed]);
        }
        if route.path.ends_with("/content") && route.method == Method::GET {
            kinds.push(Kind::RangeNotSatisfiable);
        }
        if route.method == Method::DELETE || route.method == Method::PATCH {
            kinds.push(Kind::PreconditionFailed);
        }
        match name {
            // A hold.
            "deleteFile" | "replaceFileContent" | "putSigned" => kinds.push(Kind::Conflict),
            // The trash, an Idempotency-Key in use.
            "createSignedUrl" => kinds.extend([Kind::Forbidden, Kind::Gone, Kind::Conflict]),
            "updateFile" | "restoreFileVersion" | "copyFile" | "uploadFile" | "createImport"
            | "createTusUpload" | "createLink" | "unlockLink" => {
                kinds.push(Kind::Conflict);
            }
            // No secret to sign with; what an Idempotency-Key led to is gone.
            "createUpload" => kinds.extend([Kind::Conflict, Kind::Gone]),
            "signUploadParts" => kinds.extend([Kind::Conflict, Kind::Locked]),
            "completeUpload" => kinds.extend([Kind::Conflict, Kind::Gone, Kind::Locked]),
            // A content that went meanwhile; no secret to sign with.
            "archiveFiles" => kinds.extend([Kind::NotFound, Kind::Conflict]),
            _ => {}
        }
        if matches!(route.takes, Takes::Json | Takes::Ids | Takes::Parts) {
            kinds.extend([
                Kind::MalformedJson,
                Kind::RequestTimeout,
                Kind::PayloadTooLarge,
                Kind::UnsupportedMediaType,
            ]);
        }
        if matches!(route.takes, Takes::File | Takes::Items) {
            kinds.extend([
                Kind::BadRequest,
                Kind::RequestTimeout,
                Kind::PayloadTooLarge,
                Kind::UnsupportedMediaType,
            ]);
        }
        for kind in kinds {
            operation
                .responses
                .responses
                .entry(problem::status(kind).to_string())
                .or_insert_with(|| RefOr::T(problem_response(kind)));
        }
    }
    document
}

/// The document as it is published: pretty JSON with a line's end.
pub fn json() -> String {
    let mut text = document().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

fn operation<'a>(item: &'a mut PathItem, method: &Method) -> Option<&'a mut Operation> {
    match *method {
        Method::GET => item.get.as_mut(),
        Method::HEAD => item.head.as_mut(),
        Method::POST => item.post.as_mut(),
        Method::PUT => item.put.as_mut(),
        Method::PATCH => item.patch.as_mut(),
        Method::DELETE => item.delete.as_mut(),
        Method::OPTIONS => item.options.as_mut(),
        _ => None,
    }
}

fn problem_response(kind: Kind) -> utoipa::openapi::Response {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .build();
    ResponseBuilder::new()
        .description(problem::title(kind))
        .content("application/problem+json", content)
        .build()
}

/// Fetch this document
#[utoipa::path(
    get, path = "/openapi.json", tag = "operations",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = serde_json::Value)),
)]
pub(super) async fn openapi() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(json);
    (
        [
            (CONTENT_TYPE, "application/json"),
            (CACHE_CONTROL, "no-cache"),
        ],
        TEXT.as_str(),
    )
        .into_response()
}

/// Browse this document
#[utoipa::path(
    get, path = "/docs", tag = "operations",
    responses((status = 303, description = "The page is at `docs/`")),
)]
pub(super) async fn entrance() -> Response {
    // Relative, so that it holds behind a proxy that adds a path.
    (StatusCode::SEE_OTHER, [(LOCATION, "docs/")]).into_response()
}

pub(super) async fn index() -> Result<Response> {
    asset("index.html")
}

pub(super) async fn file(params: RawPathParams) -> Result<Response> {
    let name = params
        .iter()
        .find(|(name, _)| *name == "file")
        .map(|(_, value)| value.to_owned());
    asset(&name.ok_or_else(Error::not_found)?)
}

fn asset(name: &str) -> Result<Response> {
    static CONFIG: LazyLock<Arc<utoipa_swagger_ui::Config<'static>>> = LazyLock::new(|| {
        let config = utoipa_swagger_ui::Config::from("../openapi.json")
            .display_operation_id(true)
            .persist_authorization(false)
            // Else the page would send the document to a validator on the Internet.
            .validator_url("none");
        Arc::new(config)
    });
    let found = utoipa_swagger_ui::serve(name, CONFIG.clone())
        .map_err(|error| Error::internal(error.to_string()))?
        .ok_or_else(Error::not_found)?;
    let mut response = found.bytes.into_owned().into_response();
    let fields = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(found.content_type) {
        fields.insert(CONTENT_TYPE, value);
    }
    fields.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
        ),
    );
    Ok(response)
}
