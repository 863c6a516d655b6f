//! What is in the bucket, by hand over the signer of `object_store`: that has no list of multipart
//! uploads, and its list of objects ends at the first key that its own `Path` can't hold (`a//b`),
//! which anybody else who writes to the bucket could put there.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpError, HttpRequest, HttpRequestBody};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::retries::is_transient;
use super::{S3, in_time};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::objects::Listed;

/// What a query's name or value may hold unescaped: the unreserved characters of RFC 3986.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

impl S3 {
    pub(in crate::objects) fn list(&self, prefix: String) -> BoxStream<'static, Result<Listed>> {
        let store = self.clone();
        async_stream::try_stream! {
            // Uploads first: one that is completed meanwhile is then seen twice rather than never.
            let mut pages = Box::pin(store.upload_pages(prefix.clone()));
            while let Some(page) = pages.next().await {
                for upload in page?.into_iter().filter(|upload| upload.key.starts_with(&prefix)) {
                    yield Listed {
                        path: upload.key,
                        size: 0,
                        modified: time(upload.initiated.as_deref()),
                        multipart: true,
                    };
                }
            }
            let mut token: Option<String> = None;
            loop {
                let mut query = vec![("list-type", "2"), ("prefix", prefix.as_str())];
                if let Some(token) = &token {
                    query.push(("continuation-token", token));
                }
                let page: ObjectPage = store.fetch(&query).await?;
                for object in page.contents.into_iter().filter(|object| object.key.starts_with(&prefix)) {
                    yield Listed {
                        path: object.key,
                        size: object.size,
                        modified: time(object.last_modified.as_deref()),
                        multipart: false,
                    };
                }
                if !page.is_truncated {
                    break;
                }
                if page.next_continuation_token.is_none() || page.next_continuation_token == token {
                    Err(no_progress())?;
                }
                token = page.next_continuation_token;
            }
        }
        .boxed()
    }

    /// The open multipart uploads of keys that start with `prefix`, a page at a time.
    pub(super) fn upload_pages(
        &self,
        prefix: String,
    ) -> impl Stream<Item = Result<Vec<Upload>>> + Send + use<> {
        let store = self.clone();
        async_stream::try_stream! {
            let mut after: Option<(String, String)> = None;
            loop {
                let mut query = vec![("uploads", ""), ("prefix", prefix.as_str())];
                if let Some((key, upload_id)) = &after {
                    query.push(("key-marker", key));
                    query.push(("upload-id-marker", upload_id));
                }
                let page: UploadPage = store.fetch(&query).await?;
                yield page.upload;
                if !page.is_truncated {
                    break;
                }
                let next = page.next_key_marker.map(|key| (key, page.next_upload_id_marker.unwrap_or_default()));
                if next.is_none() || next == after {
                    Err(no_progress())?;
                }
                after = next;
            }
        }
    }

    /// GETs a document about the bucket.
    async fn fetch<T: DeserializeOwned>(&self, query: &[(&str, &str)]) -> Result<T> {
        let mut url = format!("{}?", self.inner.bucket_url);
        for (index, (name, value)) in query.iter().enumerate() {
            if index > 0 {
                url.push('&');
            }
            url.extend(utf8_percent_encode(name, QUERY));
            url.push('=');
            url.extend(utf8_percent_encode(value, QUERY));
        }
        let document = in_time(async {
            let mut tries = 0;
            loop {
                tries += 1;
                let error = match self.fetch_once(&url).await {
                    Err(Unfetched::Transient(error)) => error,
                    Err(Unfetched::Final(error)) => return Err(error),
                    Ok(document) => return Ok(document),
                };
                match self.inner.retries.pause(tries) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error),
                }
            }
        })
        .await??;
        let document = std::str::from_utf8(&document).map_err(Error::unavailable)?;
        quick_xml::de::from_str(document).map_err(Error::unavailable)
    }

    async fn fetch_once(&self, url: &str) -> Result<Bytes, Unfetched> {
        let unusable = |error: object_store::Error| Unfetched::Final(Error::unavailable(error));
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url.parse().map_err(|error| {
            Unfetched::Final(Error::internal(format!("a URL that is none: {error}")))
        })?;
        let credential = self
            .inner
            .patient
            .credentials()
            .get_credential()
            .await
            .map_err(unusable)?;
        AwsAuthorizer::new(&credential, "s3", &self.inner.region)
            .try_authorize(&mut request, None)
            .map_err(unusable)?;
        let transient = |error: HttpError| Unfetched::Transient(Error::unavailable(error));
        let response = self.inner.http.execute(request).await.map_err(transient)?;
        let status = response.status();
        let body = response.into_body().bytes().await.map_err(transient)?;
        if status.is_success() {
            return Ok(body);
        }
        let text: String = String::from_utf8_lossy(&body).chars().take(1_000).collect();
        let error = Error::unavailable(format!(
            "the store answered a listing with {status}: {text}"
        ));
        Err(if is_transient(status) {
            Unfetched::Transient(error)
        } else {
            Unfetched::Final(error)
        })
    }
}

enum Unfetched {
    Transient(Error),
    Final(Error),
}

/// A page of ListObjectsV2. Asked for without `encoding-type=url`, under which stores disagree on
/// what a plus stands for.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ObjectPage {
    #[serde(default)]
    contents: Vec<Object>,
    #[serde(default)]
    is_truncated: bool,
    next_continuation_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    key: String,
    size: u64,
    last_modified: Option<String>,
}

/// A page of ListMultipartUploads.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadPage {
    #[serde(default)]
    upload: Vec<Upload>,
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) upload_id: String,
    initiated: Option<String>,
}

fn time(text: Option<&str>) -> Timestamp {
    text.and_then(Timestamp::parse)
        .unwrap_or(Timestamp::from_micros(0))
}

fn no_progress() -> Error {
    Error::unavailable("the store's listing says that there is more, and not where")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_read() {
        let page: UploadPage = quick_xml::de::from_str(
            r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <Bucket>files</Bucket><KeyMarker></KeyMarker><UploadIdMarker></UploadIdMarker>
              <NextKeyMarker>a&amp;b</NextKeyMarker><NextUploadIdMarker>2</NextUploadIdMarker>
              <MaxUploads>2</MaxUploads><IsTruncated>true</IsTruncated>
              <Upload><Key>a</Key><UploadId>1</UploadId><Owner><ID>x</ID></Owner>
                <Initiated>2026-11-24T05:03:38.000Z</Initiated></Upload>
              <Upload><Key>a&amp;b&#x1;</Key><UploadId>2</UploadId></Upload>
            </ListMultipartUploadsResult>"#,
        )
        .unwrap();
        assert!(page.is_truncated);
        assert_eq!(page.next_key_marker.as_deref(), Some("a&b"));
        assert_eq!(page.upload[1].key, "a&b\u{1}");
        assert_eq!(
            time(page.upload[0].initiated.as_deref()).to_string(),
            "2026-11-24T05:03:38.000000Z"
        );

        let page: ObjectPage = quick_xml::de::from_str(
            r"<ListBucketResult><Name>files</Name><IsTruncated>false</IsTruncated></ListBucketResult>",
        )
        .unwrap();
        assert!(page.contents.is_empty() && !page.is_truncated);
    }
}
