//! The rules of the bucket's lifecycle: read, compared with those that are wanted, and written.
//!
//! S3 takes a bucket's rules only all at once. So those of others are written back, and their text is the one
//! that was read. Who changes them between our read and our write is overwritten: S3 knows no condition here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::{Digest, Md5};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::S3;
use super::requests::unexpected;
use crate::error::{Error, Result};
use crate::objects::lifecycle::{BucketDocument, BucketPlan, BucketRule};

mod document;

use document::Document;

const LIFECYCLE: &[(&str, &str)] = &[("lifecycle", "")];

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// From which size on objects are moved; a write without it sets it back.
const MINIMUM_SIZE: HeaderName =
    HeaderName::from_static("x-amz-transition-default-minimum-object-size");

impl S3 {
    /// What is to be done so that the bucket has these rules, under ids that begin with `owner`, below
    /// `root`, and no others under such ids.
    pub(in crate::objects) async fn lifecycle_plan(
        &self,
        owner: &str,
        root: &str,
        wanted: &[BucketRule],
    ) -> Result<BucketPlan> {
        let answer = self
            .look(Method::GET, "", LIFECYCLE, HeaderMap::new())
            .await?;
        let (document, minimum_size) = if answer.is_absence() {
            (Document::default(), None)
        } else {
            let text = std::str::from_utf8(&answer.body).map_err(Error::unavailable)?;
            let minimum_size = answer.headers.get(MINIMUM_SIZE);
            let minimum_size = minimum_size.and_then(|value| value.to_str().ok());
            (Document::read(text)?, minimum_size.map(str::to_owned))
        };
        let mut plan = document.plan(owner, root, wanted);
        plan.document.minimum_size = minimum_size;
        Ok(plan)
    }

    pub(in crate::objects) async fn lifecycle_write(&self, wanted: &BucketDocument) -> Result<()> {
        let mut headers = HeaderMap::new();
        let (method, body) = match &wanted.text {
            // An empty set of rules is refused.
            None => (Method::DELETE, Bytes::new()),
            Some(text) => {
                // S3 wants a checksum here, and this one is known to all that speak its protocol.
                let md5 = STANDARD.encode(Md5::digest(text.as_bytes()));
                headers.insert(CONTENT_MD5, header(&md5)?);
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
                if let Some(size) = &wanted.minimum_size {
                    headers.insert(MINIMUM_SIZE, header(size)?);
                }
                (Method::PUT, Bytes::from(text.clone()))
            }
        };
        let answer = self.repeat(method, "", LIFECYCLE, headers, body).await?;
        if answer.is_absence() {
            return Err(unexpected(&answer));
        }
        Ok(())
    }
}

fn header(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(Error::internal)
}
