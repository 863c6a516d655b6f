//! What stands in front of the S3 server, and answers some of it otherwise.

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::response::Response;

/// Hands a request on to the store as it is, with the Host that was signed.
pub async fn pass_on(store: &str, client: &reqwest::Client, head: Parts, body: Bytes) -> Response {
    let path = head.uri.path_and_query().unwrap().to_string();
    let answer = client
        .request(head.method, format!("{store}{path}"))
        .headers(head.headers)
        .body(body)
        .send()
        .await
        .unwrap();
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if name != "transfer-encoding" {
            response = response.header(name, value);
        }
    }
    response
        .body(Body::from_stream(answer.bytes_stream()))
        .unwrap()
}
