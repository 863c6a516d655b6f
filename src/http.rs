//! Every route, what it needs, and the order of what wraps it, on one screen.

use axum::Router;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, delete, get, head, options, patch, post, put};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use crate::app::App;
use crate::auth::Scope;

mod address;
mod archives;
mod audit;
pub mod conditional;
mod content;
pub mod digest;
mod direct;
pub mod disposition;
pub mod docs;
mod extract;
mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guard;
mod health;
mod imports;
mod lines;
mod links;
mod list;
mod me;
mod measure;
pub mod media_type;
mod metrics;
mod observe;
mod once;
mod problem;
pub mod range;
mod rate;
mod signed;
mod tus;
mod types;
mod upload;
mod uploads;
mod usage;
mod versions;

pub use address::{Proxies, network};
pub use extract::Peer;
pub use problem::head_timeout_answer;

/// Takes the method that a request of tus says in a header for its own; whether it said one.
pub fn override_method<B>(request: &mut axum::http::Request<B>) -> bool {
    tus::override_method(request)
}

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Public,
    /// Whoever has a valid token.
    Token,
    /// Whoever has a URL that the service signed; the handler looks at it.
    Signed,
    /// Whoever has a valid token with this scope.
    Scope(Scope),
}

/// What a route makes of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing: it is not read.
    Nothing,
    /// The bytes of one file, as they are or in a form.
    File,
    /// A small JSON document.
    Json,
    /// A JSON document with as many ids as an archive may have.
    Ids,
    /// A JSON document with as many parts as an upload may have.
    Parts,
    /// Any number of items, one after the other.
    Items,
}

pub struct Route {
    /// Its `operationId` in the OpenAPI document; None: it is not documented.
    pub operation: Option<&'static str>,
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    pub takes: Takes,
    handler: MethodRouter<App>,
}

#[rustfmt::skip]
pub fn routes() -> Vec<Route> {
    use Access::{Public, Scope as Needs, Signed, Token};
    use Scope::{
        Admin, AuditRead, FilesDelete, FilesRead, FilesWrite, ImportsRead, ImportsWrite, LinksRead, LinksWrite,
    };
    use Takes::{File, Ids, Items, Json, Nothing, Parts};
    vec![
        route("uploadFile",             Method::POST,   "/v1/files",                                   Needs(FilesWrite),  File,    post(upload::upload)),
        route("listFiles",              Method::GET,    "/v1/files",                                   Needs(FilesRead),   Nothing, get(list::list)),
        route("batchDeleteFiles",       Method::POST,   "/v1/files/batch-delete",                      Needs(FilesDelete), Json,    post(files::batch_delete)),
        route("archiveFiles",           Method::POST,   "/v1/files/archive",                           Needs(FilesRead),   Ids,     post(archives::create)),
        route("getFile",                Method::GET,    "/v1/files/{id}",                              Needs(FilesRead),   Nothing, get(files::get)),
        route("updateFile",             Method::PATCH,  "/v1/files/{id}",                              Needs(FilesWrite),  Json,    patch(files::patch)),
        route("deleteFile",             Method::DELETE, "/v1/files/{id}",                              Needs(FilesDelete), Nothing, delete(files::delete)),
        route("restoreFile",            Method::POST,   "/v1/files/{id}/restore",                      Needs(FilesWrite),  Nothing, post(files::restore)),
        route("copyFile",               Method::POST,   "/v1/files/{id}/copy",                         Needs(FilesWrite),  Json,    post(files::copy)),
        route("getFileContent",         Method::GET,    "/v1/files/{id}/content",                      Needs(FilesRead),   Nothing, get(content::get)),
        route("headFileContent",        Method::HEAD,   "/v1/files/{id}/content",                      Needs(FilesRead),   Nothing, head(content::head)),
        route("replaceFileContent",     Method::PUT,    "/v1/files/{id}/content",                      Needs(FilesWrite),  File,    put(upload::replace)),
        route("listFileVersions",       Method::GET,    "/v1/files/{id}/versions",                     Needs(FilesRead),   Nothing, get(versions::list)),
        route("getFileVersionContent",  Method::GET,    "/v1/files/{id}/versions/{version}/content",   Needs(FilesRead),   Nothing, get(content::version)),
        route("restoreFileVersion",     Method::POST,   "/v1/files/{id}/versions/{version}/restore",   Needs(FilesWrite),  Nothing, post(versions::restore)),
        route("getTus",                 Method::OPTIONS, "/v1/uploads/tus",                            Needs(FilesWrite),  Nothing, options(tus::options)),
        route("createTusUpload",        Method::POST,   "/v1/uploads/tus",                             Needs(FilesWrite),  File,    post(tus::create)),
        route("headTusUpload",          Method::HEAD,   "/v1/uploads/tus/{id}",                        Needs(FilesWrite),  Nothing, head(tus::head)),
        route("appendTusUpload",        Method::PATCH,  "/v1/uploads/tus/{id}",                        Needs(FilesWrite),  File,    patch(tus::patch)),
        route("deleteTusUpload",        Method::DELETE, "/v1/uploads/tus/{id}",                        Needs(FilesWrite),  Nothing, delete(tus::terminate)),
        route("listUploads",            Method::GET,    "/v1/uploads",                                 Needs(FilesWrite),  Nothing, get(uploads::list)),
        route("createUpload",           Method::POST,   "/v1/uploads",                                 Needs(FilesWrite),  Json,    post(direct::create)),
        route("signUploadParts",        Method::POST,   "/v1/uploads/{id}/parts",                      Needs(FilesWrite),  Json,    post(direct::parts)),
        route("completeUpload",         Method::POST,   "/v1/uploads/{id}/complete",                   Needs(FilesWrite),  Parts,   post(direct::complete)),
        route("getUpload",              Method::GET,    "/v1/uploads/{id}",                            Needs(FilesWrite),  Nothing, get(uploads::get)),
        route("abortUpload",            Method::DELETE, "/v1/uploads/{id}",                            Needs(FilesWrite),  Nothing, delete(uploads::abort)),
        route("createImport",           Method::POST,   "/v1/imports",                                 Needs(ImportsWrite), Items,  post(imports::create)),
        route("listImports",            Method::GET,    "/v1/imports",                                 Needs(ImportsRead), Nothing, get(imports::list)),
        route("getImport",              Method::GET,    "/v1/imports/{id}",                            Needs(ImportsRead), Nothing, get(imports::get)),
        route("listImportItems",        Method::GET,    "/v1/imports/{id}/items",                      Needs(ImportsRead), Nothing, get(imports::items)),
        route("watchImport",            Method::GET,    "/v1/imports/{id}/events",                     Needs(ImportsRead), Nothing, get(imports::events)),
        route("cancelImport",           Method::POST,   "/v1/imports/{id}/cancel",                     Needs(ImportsWrite), Nothing, post(imports::cancel)),
        route("retryImport",            Method::POST,   "/v1/imports/{id}/retry",                      Needs(ImportsWrite), Nothing, post(imports::retry)),
        route("createLink",             Method::POST,   "/v1/links",                                   Needs(LinksWrite),  Json,    post(links::create)),
        route("createLinks",            Method::POST,   "/v1/links/batch",                             Needs(LinksWrite),  Items,   post(links::batch::create)),
        route("listLinks",              Method::GET,    "/v1/links",                                   Needs(LinksRead),   Nothing, get(links::list)),
        route("getLink",                Method::GET,    "/v1/links/{slug}",                            Needs(LinksRead),   Nothing, get(links::get)),
        route("updateLink",             Method::PATCH,  "/v1/links/{slug}",                            Needs(LinksWrite),  Json,    patch(links::patch)),
        route("deleteLink",             Method::DELETE, "/v1/links/{slug}",                            Needs(LinksWrite),  Nothing, delete(links::delete)),
        route("followLink",             Method::GET,    "/l/{*slug}",                                  Public,             Nothing, get(links::follow::get)),
        route("headLink",               Method::HEAD,   "/l/{*slug}",                                  Public,             Nothing, head(links::follow::head)),
        route("unlockLink",             Method::POST,   "/l/{*slug}",                                  Public,             Json,    post(links::follow::unlock)),
        route("createSignedUrl",        Method::POST,   "/v1/files/{id}/signed-urls",                  Token,              Json,    post(signed::create)),
        route("getSigned",              Method::GET,    "/s/{token}",                                  Signed,             Nothing, get(signed::get)),
        route("headSigned",             Method::HEAD,   "/s/{token}",                                  Signed,             Nothing, head(signed::head)),
        route("putSigned",              Method::PUT,    "/s/{token}",                                  Signed,             File,    put(signed::put)),
        route("listAuditEvents",        Method::GET,    "/v1/audit-events",                            Needs(AuditRead),   Nothing, get(audit::list)),
        route("getUsage",               Method::GET,    "/v1/usage",                                   Needs(FilesRead),   Nothing, get(usage::get)),
        route("getMe",                  Method::GET,    "/v1/me",                                      Token,              Nothing, get(me::get)),
        route("getLiveness",            Method::GET,    "/health/live",                                Public,             Nothing, get(health::live)),
        route("getReadiness",           Method::GET,    "/health/ready",                               Public,             Nothing, get(health::ready)),
        route("getHealth",              Method::GET,    "/health",                                     Public,             Nothing, get(health::get)),
        route("getMetrics",             Method::GET,    "/metrics",                                    Needs(Admin),       Nothing, get(metrics::get)),
        route("getOpenApi",             Method::GET,    "/openapi.json",                               Public,             Nothing, get(docs::openapi)),
        route("getDocs",                Method::GET,    "/docs",                                       Public,             Nothing, get(docs::entrance)),
        page (                          Method::GET,    "/docs/",                                      Public,             Nothing, get(docs::index)),
        page (                          Method::GET,    "/docs/{file}",                                Public,             Nothing, get(docs::file)),
    ]
}

fn route(
    operation: &'static str,
    method: Method,
    path: &'static str,
    access: Access,
    takes: Takes,
    handler: MethodRouter<App>,
) -> Route {
    Route {
        operation: Some(operation),
        ..page(method, path, access, takes, handler)
    }
}

fn page(
    method: Method,
    path: &'static str,
    access: Access,
    takes: Takes,
    handler: MethodRouter<App>,
) -> Route {
    Route {
        operation: None,
        method,
        path,
        access,
        takes,
        handler,
    }
}

/// The whole API. From the outside in: what is observed (request id, log line, problems), what a
/// panic becomes, CORS, the guard of each route, its handler.
pub fn router(app: &App) -> Router {
    let refusals = &app.domain.metrics.refusals;
    let limits = rate::Limits::new(&app.config.rate, &app.domain.clock, refusals);
    routed(app, routes(), |route| {
        limits.class(&route.method, route.path)
    })
}

/// What `admin_listen` answers, to whoever can reach it.
#[rustfmt::skip]
fn admin_routes() -> Vec<Route> {
    use Access::Public;
    use Takes::Nothing;
    vec![
        page(Method::GET, "/metrics",      Public, Nothing, get(metrics::page)),
        page(Method::GET, "/health/live",  Public, Nothing, get(health::live)),
        page(Method::GET, "/health/ready", Public, Nothing, get(health::ready)),
        page(Method::GET, "/health",       Public, Nothing, get(health::get)),
    ]
}

pub fn admin_router(app: &App) -> Router {
    routed(app, admin_routes(), |_| rate::Class::unlimited())
}

fn routed(app: &App, routes: Vec<Route>, rates: impl Fn(&Route) -> rate::Class) -> Router {
    let observer = observe::Observer::new(app, &routes);
    let mut router = Router::new();
    for route in routes {
        let guard = guard::Guard::new(app, &route, rates(&route));
        let guarded = route
            .handler
            .route_layer(from_fn_with_state(guard, guard::check));
        router = router.route(route.path, guarded);
    }
    router
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .layer(
            ServiceBuilder::new()
                .layer(from_fn_with_state(observer, observe::observe))
                .layer(CatchPanicLayer::custom(problem::panicked))
                .layer(from_fn_with_state(app.clone(), tus::fields))
                .option_layer(guard::cors(&app.config.cors)),
        )
        .with_state(app.clone())
}
