//! Counts and times every request to S3, whoever makes it and however often, and has it seen in traces.

use object_store::client::{HttpClient, HttpError, HttpRequest, HttpResponse, HttpService};
use reqwest::StatusCode;
use reqwest::header::HeaderValue;

use crate::metrics::{Operation, Outcome, Store};
use crate::trace::{self, span_within};

use super::retries::is_transient;

pub(super) fn between(http: HttpClient, metrics: Store) -> HttpClient {
    HttpClient::new(Measured { http, metrics })
}

#[derive(Debug)]
struct Measured {
    http: HttpClient,
    metrics: Store,
}

#[async_trait::async_trait]
impl HttpService for Measured {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let operation = operation(request.method().as_str(), request.uri().query());
        let call = self.metrics.call(operation);
        let span = span_within!(
            "store",
            otel.name = %format_args!("store {}", operation.name()),
            otel.kind = "client",
            "box.store" = "s3",
            http.request.method = request.method().as_str(),
            http.response.status_code = tracing::field::Empty,
            server.address = request.uri().host(),
        );
        // Behind the signature, which is of the fields that it names, and so not of this one.
        if let Some(value) = trace::traceparent(&span)
            && let Ok(value) = HeaderValue::try_from(value)
        {
            request.headers_mut().insert(trace::TRACEPARENT, value);
        }
        let outcome = self.http.execute(request).await;
        match &outcome {
            Ok(answer) => {
                let status = answer.status();
                span.record("http.response.status_code", i64::from(status.as_u16()));
                if is_transient(status) {
                    span.record("otel.status_code", "ERROR");
                }
            }
            Err(error) => {
                span.record("error.type", tracing::field::debug(error.kind()));
                span.record("otel.status_code", "ERROR");
            }
        }
        call.ended(match &outcome {
            Ok(answer) => of_status(answer.status()),
            Err(_) => Outcome::Failed,
        });
        outcome
    }
}

fn operation(method: &str, query: Option<&str>) -> Operation {
    let has = |name: &str| {
        let mut pairs = query.unwrap_or_default().split('&');
        pairs.any(|pair| pair.split('=').next() == Some(name))
    };
    match method {
        "GET" if has("list-type") || has("uploads") || has("uploadId") => Operation::List,
        "GET" => Operation::Get,
        "HEAD" => Operation::Head,
        "PUT" if has("partNumber") => Operation::PutPart,
        "POST" if has("uploads") => Operation::CreateMultipart,
        "POST" => Operation::CompleteMultipart,
        "DELETE" if has("uploadId") => Operation::AbortMultipart,
        "DELETE" => Operation::Delete,
        _ => Operation::Put,
    }
}

fn of_status(status: StatusCode) -> Outcome {
    if is_transient(status) {
        Outcome::Failed
    } else if status == StatusCode::NOT_FOUND {
        Outcome::NotFound
    } else if status.is_client_error() {
        Outcome::Refused
    } else {
        Outcome::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_its_method_and_query() {
        for (method, query, wanted) in [
            ("GET", None, Operation::Get),
            ("GET", Some("list-type=2&prefix=a"), Operation::List),
            ("GET", Some("uploads&prefix=a"), Operation::List),
            ("GET", Some("uploads=&prefix=a"), Operation::List),
            (
                "GET",
                Some("uploadId=a&part-number-marker=2"),
                Operation::List,
            ),
            ("HEAD", None, Operation::Head),
            ("PUT", None, Operation::Put),
            ("PUT", Some("partNumber=1&uploadId=a"), Operation::PutPart),
            ("POST", Some("uploads"), Operation::CreateMultipart),
            ("POST", Some("uploads="), Operation::CreateMultipart),
            ("POST", Some("uploadId=a"), Operation::CompleteMultipart),
            ("DELETE", Some("uploadId=a"), Operation::AbortMultipart),
            ("DELETE", None, Operation::Delete),
        ] {
            assert_eq!(operation(method, query), wanted, "{method} {query:?}");
        }
    }

    #[test]
    fn an_outcome_is_known_by_its_status() {
        for (status, wanted) in [
            (200, Outcome::Ok),
            (206, Outcome::Ok),
            (304, Outcome::Ok),
            (403, Outcome::Refused),
            (404, Outcome::NotFound),
            (412, Outcome::Refused),
            (429, Outcome::Failed),
            (503, Outcome::Failed),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(of_status(status), wanted, "{status}");
        }
    }
}
