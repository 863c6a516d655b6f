//! What is in the bucket, by hand: `object_store` has no list of multipart
//! uploads, and its list of objects ends at the first key that its own `Path` can't hold (`a//b`),
//! which anybody else who writes to the bucket could put there.

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use serde::Deserialize;

use super::S3;
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::objects::Listed;

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
                let page: ObjectPage = store.document("", &query).await?.ok_or_else(no_bucket)?;
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
                let page: UploadPage = store.document("", &query).await?.ok_or_else(no_bucket)?;
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

pub(super) fn time(text: Option<&str>) -> Timestamp {
    text.and_then(Timestamp::parse)
        .unwrap_or(Timestamp::from_micros(0))
}

fn no_bucket() -> Error {
    Error::unavailable("the store has no list of what is in the bucket")
}

pub(super) fn no_progress() -> Error {
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
