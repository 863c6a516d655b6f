//! Requests that `object_store` has no call for, by hand over its signer and the client that all share.

use bytes::Bytes;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpError, HttpRequest};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::calls::http_error;
use super::retries::is_transient;
use super::{S3, in_time};
use crate::error::{Error, Result};
use crate::objects::SignedRequest;

/// What a query's name or value may hold unescaped: the unreserved characters of RFC 3986.
pub(super) const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// An answer, whatever it says.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// As much of the body as a log line holds.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body)
            .chars()
            .take(1_000)
            .collect()
    }

    /// What the document of an error says that it is; empty where the body is none.
    pub(super) fn code(&self) -> &str {
        let text = std::str::from_utf8(&self.body).unwrap_or_default();
        let code = text.split_once("<Code>").map(|(_, rest)| rest);
        code.and_then(|rest| rest.split_once("</Code>"))
            .map_or("", |(code, _)| code)
    }

    /// Whether it says that the key or the upload is not there. A bucket that is not there is another
    /// matter: what was in it may come back.
    pub(super) fn is_absence(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && self.code() != "NoSuchBucket"
    }
}

impl S3 {
    /// Makes one request. `key` is empty for one about the bucket.
    ///
    /// # Errors
    /// Of a request that may never have arrived, the cause is an [`HttpError`].
    pub(super) async fn ask(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: HeaderMap,
        body: Bytes,
    ) -> object_store::Result<Answer> {
        let unusable = |error: Error| generic(Box::new(error));
        let url = self.url(key, query);
        let mut request = HttpRequest::new(body.into());
        *request.method_mut() = method;
        *request.uri_mut() = url
            .parse()
            .map_err(|error| unusable(Error::internal(format!("a URL that is none: {error}"))))?;
        *request.headers_mut() = headers;
        let credential = self.inner.patient.credentials().get_credential().await?;
        AwsAuthorizer::new(&credential, "s3", &self.inner.region)
            .try_authorize(&mut request, None)?;
        let lost = |error: HttpError| generic(Box::new(error));
        let response = self.inner.http.execute(request).await.map_err(lost)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.into_body().bytes().await.map_err(lost)?;
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    pub(super) fn url(&self, key: &str, query: &[(&str, &str)]) -> String {
        let mut url = self.inner.bucket_url.clone();
        if !key.is_empty() {
            url.push('/');
            url.extend(utf8_percent_encode(key, PATH));
        }
        for (index, (name, value)) in query.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.extend(utf8_percent_encode(name, QUERY));
            url.push('=');
            url.extend(utf8_percent_encode(value, QUERY));
        }
        url
    }

    /// GETs a document about the bucket, or about a key; None where that is not there.
    pub(super) async fn document<T: DeserializeOwned>(
        &self,
        key: &str,
        query: &[(&str, &str)],
    ) -> Result<Option<T>> {
        let answer = self.look(Method::GET, key, query, HeaderMap::new()).await?;
        if answer.is_absence() {
            return Ok(None);
        }
        let document = std::str::from_utf8(&answer.body).map_err(Error::unavailable)?;
        quick_xml::de::from_str(document)
            .map(Some)
            .map_err(Error::unavailable)
    }

    /// Makes a request that changes nothing, as often as it must: until it has succeeded, or what it asks
    /// about is known not to be there.
    pub(super) async fn look(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: HeaderMap,
    ) -> Result<Answer> {
        self.repeat(method, key, query, headers, Bytes::new()).await
    }

    /// The same of a request that may be made twice, with a body.
    pub(super) async fn repeat(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer> {
        in_time(async {
            let mut tries = 0;
            loop {
                tries += 1;
                let asked = self
                    .ask(method.clone(), key, query, headers.clone(), body.clone())
                    .await;
                let error = match asked {
                    Ok(answer) if answer.status.is_success() || answer.is_absence() => {
                        return Ok(answer);
                    }
                    Ok(answer) if is_transient(answer.status) => unexpected(&answer),
                    Ok(answer) => return Err(unexpected(&answer)),
                    Err(error) if http_error(&error).is_some() => Error::unavailable(error),
                    Err(error) => return Err(Error::unavailable(error)),
                };
                match self.inner.retries.pause(tries) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error),
                }
            }
        })
        .await?
    }

    /// Makes a request as whoever holds a signed URL does.
    pub(super) async fn follow(&self, request: &SignedRequest, body: Bytes) -> Result<StatusCode> {
        let mut made = HttpRequest::new(body.into());
        *made.method_mut() = Method::PUT;
        *made.uri_mut() = request.url.parse().map_err(Error::internal)?;
        for (name, value) in &request.headers {
            let name = HeaderName::try_from(name).map_err(Error::internal)?;
            let value = HeaderValue::try_from(value).map_err(Error::internal)?;
            made.headers_mut().insert(name, value);
        }
        let answer = in_time(self.inner.http.execute(made)).await?;
        Ok(answer.map_err(Error::unavailable)?.status())
    }
}

pub(super) fn unexpected(answer: &Answer) -> Error {
    Error::unavailable(format!(
        "the store answered with {}: {}",
        answer.status,
        answer.text()
    ))
}

pub(super) fn generic(
    source: Box<dyn std::error::Error + Send + Sync + 'static>,
) -> object_store::Error {
    object_store::Error::Generic {
        store: "S3",
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_known_by_its_code() {
        let answer = |status: u16, body: &str| Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: body.to_owned().into(),
        };
        let no_upload = answer(404, "<Error><Code>NoSuchUpload</Code></Error>");
        assert!(no_upload.is_absence());
        assert_eq!(no_upload.code(), "NoSuchUpload");
        // The answer to a HEAD has no body.
        assert!(answer(404, "").is_absence());
        assert!(!answer(404, "<Error><Code>NoSuchBucket</Code></Error>").is_absence());
        assert!(!answer(403, "<Error><Code>AccessDenied</Code></Error>").is_absence());
        assert_eq!(answer(200, "<Result/>").code(), "");
    }
}
