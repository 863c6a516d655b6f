//! Whether the bucket lets the pages of an allowed origin read from it, and write to it.

use reqwest::Method;
use reqwest::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName,
    HeaderValue, ORIGIN,
};

use crate::error::Error;

use super::{Findings, ask, in_time};

/// What the PUT of a page may have that needs leave: what is signed, and the type that a browser adds. In the
/// order and case in which browsers ask (Fetch standard, "CORS-unsafe request-header names").
const FIELDS: &str = "content-type,if-none-match,x-amz-checksum-crc64nvme,x-amz-checksum-sha256";

const READING: &str =
    "add the origin to the bucket's CORS rules (AllowedMethods GET and HEAD, ExposeHeaders ETag)";
const WRITING: &str = "add a rule to the bucket's CORS configuration: AllowedOrigins with this origin, AllowedMethods PUT, \
                       AllowedHeaders *, ExposeHeaders ETag";

/// With a URL of an object, which is good for GET.
pub(super) async fn look(url: &str, origin: &str, findings: &mut Findings) {
    let check = format!("CORS of the bucket for {origin}");
    let read = in_time(read(url, origin)).await;
    match findings.take(&check, read, READING) {
        Some(true) => findings.ok(check, "its pages may read objects"),
        Some(false) => {
            findings.problem(
                check,
                "its pages can't follow a redirect to the store",
                READING,
            );
        }
        None => {}
    }
    let check = format!("CORS of the bucket for a PUT from {origin}");
    let refused = in_time(preflight(url, origin)).await;
    match findings.take(&check, refused, WRITING) {
        Some(None) => findings.ok(check, "its pages may upload straight to the store"),
        Some(Some(why)) => findings.problem(check, why, WRITING),
        None => {}
    }
}

async fn read(url: &str, origin: &str) -> Result<bool, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(ORIGIN, value(origin)?);
    let answer = ask(Method::GET, url, headers).await?;
    Ok(answer.status().is_success()
        && names(answer.headers(), &ACCESS_CONTROL_ALLOW_ORIGIN, origin))
}

/// What a browser asks before it sends a part; why it would not send it then.
async fn preflight(url: &str, origin: &str) -> Result<Option<String>, Error> {
    // No store looks at the signature of a preflight.
    let url = url.split('?').next().unwrap_or(url);
    let mut headers = HeaderMap::new();
    headers.insert(ORIGIN, value(origin)?);
    headers.insert(
        ACCESS_CONTROL_REQUEST_METHOD,
        HeaderValue::from_static("PUT"),
    );
    headers.insert(
        ACCESS_CONTROL_REQUEST_HEADERS,
        HeaderValue::from_static(FIELDS),
    );
    let answer = ask(Method::OPTIONS, url, headers).await?;
    if !answer.status().is_success() {
        let told = format!("the store answers a preflight with {}", answer.status());
        return Ok(Some(told));
    }
    let headers = answer.headers();
    if !names(headers, &ACCESS_CONTROL_ALLOW_ORIGIN, origin) {
        return Ok(Some("the origin may send none".to_owned()));
    }
    if !names(headers, &ACCESS_CONTROL_ALLOW_METHODS, "PUT") {
        return Ok(Some("the method is not allowed".to_owned()));
    }
    let missing: Vec<&str> = FIELDS
        .split(',')
        .filter(|field| !names(headers, &ACCESS_CONTROL_ALLOW_HEADERS, field))
        .collect();
    if !missing.is_empty() {
        let told = format!(
            "these header fields are not allowed: {}",
            missing.join(", ")
        );
        return Ok(Some(told));
    }
    Ok(None)
}

/// Whether a field's list has the word, or `*`.
fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|each| each == "*" || each.eq_ignore_ascii_case(word))
}

fn value(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(Error::internal)
}
