//! Requests about the bucket that `object_store` has no words for: made here, over its signer.

use bytes::Bytes;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpError, HttpRequest, HttpRequestBody};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};

use super::retries::is_transient;
use super::{S3, in_time};
use crate::error::{Error, Result};

/// What a query's name or value may hold unescaped: the unreserved characters of RFC 3986.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(super) struct Asked<'a> {
    pub method: Method,
    pub query: &'a [(&'a str, &'a str)],
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What the store said at last: that it did it, or why not.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// # Errors
    /// `Unavailable`, with the beginning of what the store said of `what` it was asked.
    pub(super) fn succeeded(self, what: &str) -> Result<Self> {
        if self.status.is_success() {
            return Ok(self);
        }
        let text = String::from_utf8_lossy(&self.body);
        let text: String = text.chars().take(1_000).collect();
        let status = self.status;
        Err(Error::unavailable(format!(
            "the store answered {what} with {status}: {text}"
        )))
    }
}

impl S3 {
    /// Asks the bucket, again where that may help: what is asked may be done twice.
    pub(super) async fn ask(&self, asked: Asked<'_>) -> Result<Answer> {
        let mut url = format!("{}?", self.inner.bucket_url);
        for (index, (name, value)) in asked.query.iter().enumerate() {
            if index > 0 {
                url.push('&');
            }
            url.extend(utf8_percent_encode(name, QUERY));
            url.push('=');
            url.extend(utf8_percent_encode(value, QUERY));
        }
        in_time(async {
            let mut tries = 0;
            loop {
                tries += 1;
                let outcome = match self.ask_once(&url, &asked).await? {
                    Ok(answer) if !is_transient(answer.status) => return Ok(answer),
                    Ok(answer) => answer.succeeded("a request"),
                    Err(error) => Err(Error::unavailable(error)),
                };
                match self.inner.retries.pause(tries) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return outcome,
                }
            }
        })
        .await?
    }

    async fn ask_once(&self, url: &str, asked: &Asked<'_>) -> Result<Result<Answer, HttpError>> {
        let mut request = HttpRequest::new(HttpRequestBody::from(asked.body.clone()));
        *request.method_mut() = asked.method.clone();
        *request.headers_mut() = asked.headers.clone();
        *request.uri_mut() = url
            .parse()
            .map_err(|error| Error::internal(format!("a URL that is none: {error}")))?;
        let credentials = self.inner.patient.credentials().get_credential();
        let credential = credentials.await.map_err(Error::unavailable)?;
        AwsAuthorizer::new(&credential, "s3", &self.inner.region)
            .try_authorize(&mut request, None)
            .map_err(Error::unavailable)?;
        let response = match self.inner.http.execute(request).await {
            Ok(response) => response,
            Err(error) => return Ok(Err(error)),
        };
        let (head, body) = response.into_parts();
        Ok(body.bytes().await.map(|body| Answer {
            status: head.status,
            headers: head.headers,
            body,
        }))
    }
}
