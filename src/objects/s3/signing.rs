//! URLs by which others make a request to S3 (AWS Signature Version 4 in the query). `object_store` signs
//! no `Content-Length`, and without that whoever holds the URL of a byte may send 5 GiB.

use std::time::Duration;

use object_store::aws::AwsCredential;
use percent_encoding::utf8_percent_encode;
use reqwest::header::HeaderMap;
use sha2::{Digest, Sha256};
use url::{Position, Url};

use super::requests::QUERY;
use crate::clock::Timestamp;
use crate::error::{Error, Result};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// In bytes: of SHA-256.
const BLOCK: usize = 64;

/// A request that is to be signed.
pub(super) struct Unsigned<'a> {
    pub(super) method: &'a str,
    /// Without a query.
    pub(super) url: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    /// That must be sent as they are here.
    pub(super) headers: &'a HeaderMap,
}

/// The URL of the request, good for `expires_in` from `at` on: up to seven days.
pub(super) fn presign(
    request: &Unsigned<'_>,
    credential: &AwsCredential,
    region: &str,
    at: Timestamp,
    expires_in: Duration,
) -> Result<String> {
    let url = Url::parse(request.url).map_err(Error::internal)?;
    let host = &url[Position::BeforeHost..Position::AfterPort];
    let mut headers = vec![("host", host)];
    for (name, value) in request.headers {
        headers.push((name.as_str(), value.to_str().map_err(Error::internal)?));
    }
    headers.sort_unstable();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let time = at.to_datetime();
    let day = format!(
        "{:04}{:02}{:02}",
        time.year(),
        u8::from(time.month()),
        time.day()
    );
    let moment = format!(
        "{day}T{:02}{:02}{:02}Z",
        time.hour(),
        time.minute(),
        time.second()
    );
    let scope = format!("{day}/{region}/s3/aws4_request");

    let credentials = format!("{}/{scope}", credential.key_id);
    let lasts = expires_in.as_secs().to_string();
    let mut query: Vec<(&str, &str)> = request.query.to_vec();
    query.extend([
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", credentials.as_str()),
        ("X-Amz-Date", moment.as_str()),
        ("X-Amz-Expires", lasts.as_str()),
        ("X-Amz-SignedHeaders", names.as_str()),
    ]);
    if let Some(token) = &credential.token {
        query.push(("X-Amz-Security-Token", token));
    }
    let mut pairs: Vec<String> = query
        .iter()
        .map(|(name, value)| {
            let [name, value] = [name, value].map(|text| utf8_percent_encode(text, QUERY));
            format!("{name}={value}")
        })
        .collect();
    // By their encoded names, no two of which are alike.
    pairs.sort_unstable();
    let query = pairs.join("&");

    let fields: String = headers
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    let canonical = format!(
        "{}\n{}\n{query}\n{fields}\n{names}\nUNSIGNED-PAYLOAD",
        request.method,
        url.path()
    );
    let digest = hex::encode(Sha256::digest(canonical));
    let text = format!("{ALGORITHM}\n{moment}\n{scope}\n{digest}");
    let secret = format!("AWS4{}", credential.secret_key);
    let key = [day.as_str(), region, "s3", "aws4_request"]
        .iter()
        .fold(secret.into_bytes(), |key, part| hmac(&key, part).to_vec());
    let signature = hex::encode(hmac(&key, &text));
    Ok(format!(
        "{}?{query}&X-Amz-Signature={signature}",
        &url[..Position::AfterPath]
    ))
}

/// HMAC-SHA-256 (RFC 2104).
fn hmac(key: &[u8], message: &str) -> [u8; 32] {
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new_with_prefix(block.map(|byte| byte ^ 0x36))
        .chain_update(message)
        .finalize();
    Sha256::new_with_prefix(block.map(|byte| byte ^ 0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(secret: &str) -> AwsCredential {
        AwsCredential {
            key_id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: secret.into(),
            token: None,
        }
    }

    /// "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)", its example.
    #[test]
    fn a_url_is_signed_as_the_example_is() {
        let request = Unsigned {
            method: "GET",
            url: "https://examplebucket.s3.amazonaws.com/test.txt",
            query: &[],
            headers: &HeaderMap::new(),
        };
        let at = Timestamp::parse("2013-05-24T00:00:00Z").unwrap();
        let credential = credential("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let day = Duration::from_secs(86_400);
        let url = presign(&request, &credential, "us-east-1", at, day).unwrap();
        assert_eq!(
            url,
            "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }

    /// RFC 4231, test cases 2 and 6.
    #[test]
    fn an_hmac_is_as_its_test_vectors_say() {
        assert_eq!(
            hex::encode(hmac(b"Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let text = "Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(
            hex::encode(hmac(&[0xaa; 131], text)),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
