//! Multipart uploads, call by call. `object_store` has no ListParts, numbers parts without gaps, and
//! asks for no condition when it completes one.

use std::fmt::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use object_store::PutPayload;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::calls::{Failed, OpenCalls, call};
use super::listing::{no_progress, time};
use super::pieces::Shared;
use super::requests::{Answer, generic, unexpected};
use super::retries::is_transient;
use super::signing::{Unsigned, presign};
use super::{S3, in_time, is_absent, path};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::objects::multipart::{Checked, Completion, PartPage, SignedRequest, StoredPart};
use crate::objects::{CALL_TIMEOUT, Found, Lease};

const CHECKSUM_MODE: HeaderName = HeaderName::from_static("x-amz-checksum-mode");
const SHA256: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");
const CRC64NVME: HeaderName = HeaderName::from_static("x-amz-checksum-crc64nvme");

/// What SigV4 allows.
pub(in crate::objects) const LONGEST_SIGNATURE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Credentials with a session's token end some day, and `object_store` does not say when; it renews
/// them five minutes before, those of an instance or a container included.
const TEMPORARY: Duration = Duration::from_secs(5 * 60);

pub(in crate::objects) struct Multipart {
    store: S3,
    key: String,
    lease: Lease,
    open_calls: OpenCalls,
}

impl Multipart {
    pub(super) fn new(store: S3, key: &str, lease: Lease) -> Self {
        Self {
            store,
            key: key.to_owned(),
            lease,
            open_calls: OpenCalls::default(),
        }
    }

    /// Memory of parts that were sent.
    pub(in crate::objects) fn spare(&self) -> Shared {
        self.store.inner.pieces.join()
    }

    /// By hand where parts come without checksums: an upload that was declared to have them takes no
    /// others.
    pub(in crate::objects) async fn create(&self, checked: bool) -> Result<String> {
        let path = path(&self.key)?;
        let create = || async {
            if checked {
                return self.store.inner.strict.create_multipart(&path).await;
            }
            let query = [("uploads", "")];
            let answer = self.post(&query, HeaderMap::new(), Bytes::new()).await?;
            if !answer.status.is_success() {
                return Err(refused(&path, &answer));
            }
            let created: Created = read(&answer)?;
            Ok(created.upload_id)
        };
        Ok(self.call(create).await?)
    }

    pub(in crate::objects) async fn put_part(
        &self,
        upload: &str,
        number: u32,
        bytes: Vec<Bytes>,
    ) -> Result<String> {
        let path = path(&self.key)?;
        let upload = upload.to_owned();
        let index = number
            .checked_sub(1)
            .ok_or_else(|| Error::internal("parts are numbered from 1"))?;
        let put = || {
            let payload: PutPayload = bytes.iter().cloned().collect();
            let strict = &self.store.inner.strict;
            strict.put_part(&path, &upload, index as usize, payload)
        };
        match self.call(put).await {
            Ok(part) => etag(&part),
            Err(Failed::Answered(error)) if is_absent(&error) => {
                Err(Error::not_found().because(error))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(in crate::objects) async fn list_parts(
        &self,
        upload: &str,
        after: u32,
    ) -> Result<Option<PartPage>> {
        let marker = after.to_string();
        let query = [
            ("max-parts", "1000"),
            ("part-number-marker", marker.as_str()),
            ("uploadId", upload),
        ];
        let page: Option<Parts> = self.store.document(&self.key, &query).await?;
        let Some(page) = page else {
            return Ok(None);
        };
        let next = page.part.last().map(|part| part.part_number);
        if page.is_truncated && next.is_none_or(|next| next <= after) {
            return Err(no_progress());
        }
        Ok(Some(PartPage {
            next: next.filter(|_| page.is_truncated),
            parts: page.part.into_iter().map(StoredPart::from).collect(),
        }))
    }

    pub(in crate::objects) async fn complete(
        &self,
        upload: &str,
        parts: &[(u32, String)],
        size: u64,
    ) -> Result<Completion> {
        let path = path(&self.key)?;
        let body = Bytes::from(document(parts));
        let complete = || async {
            let query = [("uploadId", upload)];
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
            let answer = self.post(&query, headers, body.clone()).await?;
            completion(&path, &answer)
        };
        match self.call(complete).await {
            Ok(Some(completion)) => Ok(completion),
            // An earlier try may have completed it.
            Ok(None) => {
                let found = self.store.head(&self.key).await?;
                Ok(if found == Some(Found { size }) {
                    Completion::Done
                } else {
                    Completion::Gone
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(in crate::objects) async fn abort(&self, upload: &str) -> Result<()> {
        let path = path(&self.key)?;
        let upload = upload.to_owned();
        let open = self.open_calls.begin();
        let store = &self.store.inner.patient;
        match in_time(store.abort_multipart(&path, &upload)).await? {
            Ok(()) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(Error::unavailable(error)),
        }
        open.end();
        Ok(())
    }

    pub(in crate::objects) async fn presign_part(
        &self,
        upload: &str,
        number: u32,
        length: Option<u64>,
        expires_in: Duration,
    ) -> Result<SignedRequest> {
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", upload)];
        let mut headers = HeaderMap::new();
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        self.store
            .presign(&self.key, &query, headers, expires_in)
            .await
    }

    pub(in crate::objects) fn settled(&self) -> bool {
        self.open_calls.none()
    }

    async fn call<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, Failed>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let retries = &self.store.inner.retries;
        call(&self.lease, &self.open_calls, retries, attempt).await
    }

    async fn post(
        &self,
        query: &[(&str, &str)],
        headers: HeaderMap,
        body: Bytes,
    ) -> object_store::Result<Answer> {
        self.store
            .ask(Method::POST, &self.key, query, headers, body)
            .await
    }
}

impl S3 {
    pub(in crate::objects) async fn presign_put(
        &self,
        key: &str,
        length: Option<u64>,
        expires_in: Duration,
        headers: &[(&'static str, String)],
    ) -> Result<SignedRequest> {
        let mut signed = HeaderMap::new();
        signed.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        if let Some(length) = length {
            signed.insert(CONTENT_LENGTH, length.into());
        }
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(Error::internal)?;
            signed.insert(HeaderName::from_static(name), value);
        }
        self.presign(key, &[], signed, expires_in).await
    }

    pub(in crate::objects) async fn head_checked(&self, key: &str) -> Result<Option<Checked>> {
        let mut headers = HeaderMap::new();
        headers.insert(CHECKSUM_MODE, HeaderValue::from_static("ENABLED"));
        let answer = self.look(Method::HEAD, key, &[], headers).await?;
        if answer.is_absence() {
            return Ok(None);
        }
        let field = |name: &HeaderName| answer.headers.get(name)?.to_str().ok();
        // Behind that of parts put together stand `-` and their number: it is of another kind.
        let decoded = |name: &HeaderName| STANDARD.decode(field(name)?).ok();
        let size = field(&CONTENT_LENGTH).and_then(|size| size.parse().ok());
        Ok(Some(Checked {
            size: size.ok_or_else(|| unexpected(&answer))?,
            sha256: decoded(&SHA256).and_then(|digest| digest.try_into().ok()),
            crc64nvme: decoded(&CRC64NVME).and_then(|checksum| checksum.try_into().ok()),
        }))
    }

    pub(in crate::objects) async fn signed_put_is_refused(
        &self,
        key: &str,
        bytes: Bytes,
    ) -> Result<bool> {
        let request = self.presign_put(key, None, CALL_TIMEOUT * 4, &[]).await?;
        let first = self.follow(&request, bytes.clone()).await?;
        if !first.is_success() {
            let text = format!("the store answered a signed PUT with {first}");
            return Err(Error::unavailable(text));
        }
        let second = self.follow(&request, bytes).await?;
        if second.is_success() || second == StatusCode::PRECONDITION_FAILED {
            return Ok(!second.is_success());
        }
        let text = format!("the store answered a second signed PUT with {second}");
        Err(Error::unavailable(text))
    }

    pub(in crate::objects) async fn longest_signature(&self) -> Result<Duration> {
        // May ask for credentials over the network.
        let credential = in_time(self.inner.patient.credentials().get_credential())
            .await?
            .map_err(Error::unavailable)?;
        Ok(match credential.token {
            Some(_) => TEMPORARY,
            None => LONGEST_SIGNATURE,
        })
    }

    async fn presign(
        &self,
        key: &str,
        query: &[(&str, &str)],
        headers: HeaderMap,
        expires_in: Duration,
    ) -> Result<SignedRequest> {
        // May ask for credentials over the network.
        let credential = in_time(self.inner.patient.credentials().get_credential())
            .await?
            .map_err(Error::unavailable)?;
        let unsigned = Unsigned {
            method: "PUT",
            url: &self.url(key, &[]),
            query,
            headers: &headers,
        };
        // The store has no other clock than the system's.
        let at = Clock::system().now();
        let url = presign(&unsigned, &credential, &self.inner.region, at, expires_in)?;
        // Every client sends its body's length by itself, and a browser lets nobody else say it; that there is
        // nothing, some only say when they are told to.
        let told = headers
            .iter()
            .filter(|(name, value)| **name != CONTENT_LENGTH || *value == "0");
        let told = told.map(|(name, value)| {
            let value = value.to_str().map_err(Error::internal)?;
            Ok((name.as_str().to_owned(), value.to_owned()))
        });
        Ok(SignedRequest {
            url,
            headers: told.collect::<Result<_>>()?,
            expires_in,
        })
    }
}

/// The body of a Complete.
fn document(parts: &[(u32, String)]) -> String {
    let mut document =
        String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (number, etag) in parts {
        let etag = quick_xml::escape::escape(etag.as_str());
        // Never fails: it is a string.
        let _ = write!(
            document,
            "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        );
    }
    document.push_str("</CompleteMultipartUpload>");
    document
}

/// What the answer to a Complete says; None: that there is no such upload, or something at the key.
///
/// A 200 may have begun before the outcome was known, and then says in its body that it failed.
fn completion(path: &Path, answer: &Answer) -> object_store::Result<Option<Completion>> {
    match (answer.status, answer.code()) {
        (StatusCode::OK, "") => {
            // Cut off, it says nothing.
            read::<Completed>(answer)?;
            Ok(Some(Completion::Done))
        }
        (_, "NoSuchUpload") | (StatusCode::PRECONDITION_FAILED, _) => Ok(None),
        (StatusCode::NOT_FOUND, _) if answer.is_absence() => Ok(None),
        (StatusCode::BAD_REQUEST, code) if !code.is_empty() => {
            Ok(Some(Completion::Refused(code.to_owned())))
        }
        (StatusCode::OK, "InvalidPart" | "InvalidPartOrder" | "EntityTooSmall" | "BadDigest") => {
            Ok(Some(Completion::Refused(answer.code().to_owned())))
        }
        _ => Err(refused(path, answer)),
    }
}

/// An answer that is none of those hoped for, in `object_store`'s words, which say whether it is final.
fn refused(path: &Path, answer: &Answer) -> object_store::Error {
    let path = path.to_string();
    let source = Box::new(unexpected(answer));
    match answer.status {
        StatusCode::NOT_FOUND => object_store::Error::NotFound { path, source },
        // A conflict of conditional writes goes by.
        StatusCode::CONFLICT => generic(source),
        status if status.is_client_error() && !is_transient(status) => {
            object_store::Error::PermissionDenied { path, source }
        }
        _ => generic(source),
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: &Answer) -> object_store::Result<T> {
    let unreadable = |error: Error| generic(Box::new(error));
    let text =
        std::str::from_utf8(&answer.body).map_err(|error| unreadable(Error::unavailable(error)))?;
    quick_xml::de::from_str(text).map_err(|error| unreadable(Error::unavailable(error)))
}

/// What `object_store` makes of a part's answer, where it has it sent with a checksum.
fn etag(part: &PartId) -> Result<String> {
    #[derive(Deserialize)]
    struct Content {
        e_tag: String,
    }
    let content: Content = quick_xml::de::from_str(&part.content_id).map_err(Error::internal)?;
    Ok(content.e_tag)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    upload_id: String,
}

/// An answer with an ETag is one that was read to its end.
#[derive(Deserialize)]
struct Completed {
    #[serde(rename = "ETag")]
    _etag: String,
}

/// A page of ListParts.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Parts {
    #[serde(default)]
    part: Vec<Part>,
    #[serde(default)]
    is_truncated: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Part {
    part_number: u32,
    size: u64,
    #[serde(rename = "ETag")]
    etag: String,
    last_modified: Option<String>,
}

impl From<Part> for StoredPart {
    fn from(part: Part) -> Self {
        Self {
            number: part.part_number,
            size: part.size,
            etag: part.etag,
            modified: time(part.last_modified.as_deref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: body.to_owned().into(),
        }
    }

    #[test]
    fn parts_are_listed_to_be_put_together_with_gaps() {
        let parts = [(1, "\"a\"".to_owned()), (7, "b&c".to_owned())];
        assert_eq!(
            document(&parts),
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Part><PartNumber>1</PartNumber><ETag>&quot;a&quot;</ETag></Part>\
             <Part><PartNumber>7</PartNumber><ETag>b&amp;c</ETag></Part>\
             </CompleteMultipartUpload>"
        );
    }

    #[test]
    fn a_list_of_parts_is_read() {
        let page: Parts = read(&answer(
            200,
            r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListPartsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <Bucket>files</Bucket><Key>a</Key><UploadId>u</UploadId>
              <PartNumberMarker>0</PartNumberMarker><NextPartNumberMarker>3</NextPartNumberMarker>
              <MaxParts>2</MaxParts><IsTruncated>true</IsTruncated>
              <Part><PartNumber>1</PartNumber><LastModified>2026-11-24T05:03:38.000Z</LastModified>
                <ETag>&quot;x&quot;</ETag><Size>8388608</Size></Part>
              <Part><PartNumber>3</PartNumber><ETag>"y"</ETag><Size>1</Size></Part>
            </ListPartsResult>"#,
        ))
        .unwrap();
        assert!(page.is_truncated);
        assert_eq!(
            StoredPart::from(page.part.into_iter().next_back().unwrap()),
            StoredPart {
                number: 3,
                size: 1,
                etag: "\"y\"".into(),
                modified: Timestamp::from_micros(0)
            }
        );
        let none: Parts = read(&answer(200, "<ListPartsResult></ListPartsResult>")).unwrap();
        assert!(none.part.is_empty() && !none.is_truncated);
    }

    #[test]
    fn a_complete_is_done_only_where_its_answer_says_so() {
        let path = Path::from("key");
        let error = |code: &str| format!("<Error><Code>{code}</Code></Error>");
        let outcome = |status: u16, body: &str| completion(&path, &answer(status, body));
        let done =
            "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>";
        assert_eq!(outcome(200, done).unwrap(), Some(Completion::Done));
        for lost in [
            outcome(404, &error("NoSuchUpload")),
            outcome(200, &error("NoSuchUpload")),
            outcome(412, &error("PreconditionFailed")),
        ] {
            assert_eq!(lost.unwrap(), None);
        }
        for code in [
            "InvalidPart",
            "InvalidPartOrder",
            "EntityTooSmall",
            "BadDigest",
        ] {
            for status in [400, 200] {
                let refused = Some(Completion::Refused(code.to_owned()));
                assert_eq!(outcome(status, &error(code)).unwrap(), refused);
            }
        }
        // Neither done nor known not to be.
        for (status, body) in [
            (200, error("InternalError")),
            (200, String::new()),
            (200, "<CompleteMultipartUploadResult><ETag>".to_owned()),
            (503, error("SlowDown")),
            (409, error("ConditionalRequestConflict")),
        ] {
            let failed = outcome(status, &body).unwrap_err();
            assert!(
                matches!(failed, object_store::Error::Generic { .. }),
                "{body}"
            );
        }
        let denied = outcome(403, &error("AccessDenied")).unwrap_err();
        assert!(matches!(
            denied,
            object_store::Error::PermissionDenied { .. }
        ));
        // The bucket may come back.
        let failed = outcome(404, &error("NoSuchBucket")).unwrap_err();
        assert!(matches!(failed, object_store::Error::NotFound { .. }));
    }
}
