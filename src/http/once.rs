//! The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header): what a request is told
//! from another one by that has the same key.

use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::request::Parts;
use sha2::{Digest, Sha256};

use crate::domain::once::Once;
use crate::error::{Error, Result};

use super::digest::{CONTENT_DIGEST, REPR_DIGEST};
use super::extract;

const HEADER: &str = "idempotency-key";

/// The longest key, in bytes.
const LONGEST: usize = 255;

/// The request's key and its fingerprint: method, path, query, the header fields that say what the
/// body is, and `known`: what of the body is known before its bytes are stored. A form's boundary is
/// made anew by each try, and is left out.
///
/// # Errors
/// 422 for a key that is none, or comes twice.
pub(super) fn read(head: &Parts, route: &'static str, known: &[&[u8]]) -> Result<Option<Once>> {
    let mut keys = head.headers.get_all(HEADER).iter();
    let key = match (keys.next(), keys.next()) {
        (None, _) => return Ok(None),
        (Some(key), None) => key.as_bytes(),
        (Some(_), Some(_)) => return Err(invalid("comes more than once")),
    };
    let sound = (1..=LONGEST).contains(&key.len()) && key.iter().all(|b| matches!(b, b' '..=b'~'));
    let key = match std::str::from_utf8(key) {
        Ok(key) if sound => key.to_owned(),
        _ => return Err(invalid("must have 1 to 255 visible characters of ASCII")),
    };
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        // With its length, so that no two lists of parts look alike.
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    part(head.method.as_str().as_bytes());
    part(head.uri.path().as_bytes());
    part(head.uri.query().unwrap_or_default().as_bytes());
    let form = extract::is_form(&head.headers);
    for name in [CONTENT_TYPE, CONTENT_ENCODING, REPR_DIGEST, CONTENT_DIGEST] {
        if form && name == CONTENT_TYPE {
            part(b"multipart/form-data");
            continue;
        }
        for value in head.headers.get_all(&name) {
            part(value.as_bytes());
        }
        part(b"");
    }
    for bytes in known {
        part(bytes);
    }
    Ok(Some(Once {
        route,
        key,
        fingerprint: hasher.finalize().into(),
    }))
}

fn invalid(detail: &str) -> Error {
    Error::invalid("/Idempotency-Key", detail)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn once(uri: &str, fields: &[(&str, &str)], known: &[&[u8]]) -> Result<Option<Once>> {
        let mut request = Request::post(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        read(&head, "uploadFile", known)
    }

    #[test]
    fn a_fingerprint_tells_requests_apart() {
        let of = |uri: &str, content_type: &str, known: &[&[u8]]| {
            let fields = [("idempotency-key", "k"), ("content-type", content_type)];
            once(uri, &fields, known).unwrap().unwrap().fingerprint
        };
        let first = of("/v1/files?name=a", "text/plain", &[]);
        assert_eq!(first, of("/v1/files?name=a", "text/plain", &[]));
        assert_ne!(first, of("/v1/files?name=b", "text/plain", &[]));
        assert_ne!(first, of("/v1/files?name=a", "text/html", &[]));
        assert_ne!(first, of("/v1/files?name=a", "text/plain", &[b"x"]));
        assert_ne!(
            of("/v1/files", "text/plain", &[b"x", b""]),
            of("/v1/files", "text/plain", &[b"", b"x"])
        );
        assert_eq!(
            of("/v1/files", "multipart/form-data; boundary=a", &[]),
            of("/v1/files", "multipart/form-data; boundary=b", &[])
        );
    }

    #[test]
    fn a_key_is_plain_text_and_comes_once() {
        assert!(once("/", &[], &[]).unwrap().is_none());
        assert!(once("/", &[("idempotency-key", "\"a b\"")], &[]).is_ok());
        let long = "x".repeat(256);
        for bad in ["", "ä", long.as_str()] {
            assert!(
                once("/", &[("idempotency-key", bad)], &[]).is_err(),
                "{bad}"
            );
        }
        let twice = [("idempotency-key", "a"), ("idempotency-key", "a")];
        assert!(once("/", &twice, &[]).is_err());
    }
}
