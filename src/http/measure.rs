//! Which metrics a request counts into: found by its route's template and method, without a lock.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::MatchedPath;
use axum::http::Method;
use http_body::{Body as _, Frame, SizeHint};

use crate::metrics::{Http, Route};

/// What answers when no route does.
const NONE: &str = "none";

pub(super) struct Measures {
    routes: HashMap<&'static str, Vec<(Method, Route)>>,
    none: Route,
}

impl Measures {
    pub(super) fn new(metrics: &Http, routes: &[super::Route]) -> Self {
        let mut all: HashMap<&'static str, Vec<(Method, Route)>> = HashMap::new();
        for route in routes {
            let measured = metrics.route(name(&route.method), route.path);
            let of_path = all.entry(route.path).or_default();
            of_path.push((route.method.clone(), measured));
        }
        Self {
            routes: all,
            none: metrics.route(NONE, NONE),
        }
    }

    /// A path's GET answers HEAD as well, unless the path has a route for it.
    pub(super) fn of(&self, path: Option<&MatchedPath>, method: &Method) -> &Route {
        let of_path = path.and_then(|path| self.routes.get(path.as_str()));
        let with = |method: &Method| {
            let mut of_path = of_path.into_iter().flatten();
            of_path.find(|(known, _)| known == method)
        };
        let found = with(method).or_else(|| {
            let get = *method == Method::HEAD;
            get.then(|| with(&Method::GET)).flatten()
        });
        found.map_or(&self.none, |(_, route)| route)
    }
}

fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// The body of a request, whose bytes are counted. One that has none is left as it is.
pub(super) fn received(body: Body, route: &Route) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let counter = route.received.clone();
    Body::new(Received { body, counter })
}

struct Received {
    body: Body,
    counter: crate::metrics::Counter,
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let length = frame.data_ref().map_or(0, Bytes::len);
            self.counter.inc_by(length as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
