//! Declared checksums: `Repr-Digest` and `Content-Digest` (RFC 9530), and `?sha256=`.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};

use crate::error::{Error, Invalid, Result};

pub const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

const ALGORITHM: &str = "sha-256";

/// Parsers should not fail on missing padding or non-zero pad bits (RFC 9651 section 4.2.7).
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The SHA-256 that the client declares for the bytes it sends, by `Repr-Digest`,
/// `Content-Digest` or the query's `sha256`: uploads carry no content coding, so that all three
/// are about the same bytes. `None` where it declares none; other algorithms are ignored.
///
/// # Errors
/// 422, with a part for each, where a field is no structured dictionary (it might have meant a
/// checksum, and a client that declares one must not believe that it was checked), where a
/// SHA-256 is malformed, and where two of them differ.
pub fn declared(headers: &HeaderMap, query: Option<&str>) -> Result<Option<[u8; 32]>> {
    let sources = [
        ("/repr-digest", field(headers, &REPR_DIGEST)),
        ("/content-digest", field(headers, &CONTENT_DIGEST)),
        (
            "/sha256",
            query.map_or(Ok(None), |text| parse_hex(text).map(Some).ok_or(NOT_HEX)),
        ),
    ];
    let mut digest = None;
    let mut invalid = Vec::new();
    for (pointer, source) in sources {
        let problem = match source {
            Err(problem) => problem,
            Ok(None) => continue,
            Ok(Some(found)) if *digest.get_or_insert(found) == found => continue,
            Ok(Some(_)) => "differs from another checksum in the same request",
        };
        invalid.push(Invalid {
            pointer: pointer.to_owned(),
            detail: problem.to_owned(),
        });
    }
    if invalid.is_empty() {
        Ok(digest)
    } else {
        Err(Error::invalid_many(invalid))
    }
}

const NOT_HEX: &str = "must be a SHA-256: 64 hexadecimal digits";

/// A SHA-256 as 64 hexadecimal digits of either case.
pub fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).ok()?;
    Some(digest)
}

/// The value of `Repr-Digest` (RFC 9530 section 3).
pub fn repr_digest(sha256: &[u8; 32]) -> HeaderValue {
    HeaderValue::try_from(format!("{ALGORITHM}=:{}:", STANDARD.encode(sha256)))
        .expect("base64 is visible ASCII")
}

fn field(headers: &HeaderMap, name: &HeaderName) -> Result<Option<[u8; 32]>, &'static str> {
    const MALFORMED: &str = "must be a dictionary such as sha-256=:BASE64: (RFC 9530)";
    const NO_DIGEST: &str = "sha-256 must be the 32 bytes of a SHA-256 as :BASE64: (RFC 9530)";

    let mut text = String::new();
    for value in headers.get_all(name) {
        // Repeated fields are one list (RFC 9110 section 5.3); an empty one adds nothing to it.
        let value = value
            .to_str()
            .map_err(|_| MALFORMED)?
            .trim_matches([' ', '\t']);
        if !text.is_empty() && !value.is_empty() {
            text.push(',');
        }
        text.push_str(value);
    }
    match dictionary(&text).ok_or(MALFORMED)? {
        None => Ok(None),
        Some(Member::Bytes(bytes)) => bytes.try_into().map(Some).map_err(|_| NO_DIGEST),
        Some(Member::Other) => Err(NO_DIGEST),
    }
}

enum Member {
    Bytes(Vec<u8>),
    Other,
}

/// The member `sha-256` of a structured-field dictionary (RFC 9651 section 4.2.2); of several,
/// the last counts, as there. The outer `None`: not a dictionary.
fn dictionary(text: &str) -> Option<Option<Member>> {
    let mut input = Input(text.as_bytes());
    let mut found = None;
    input.skip(b" ");
    while !input.0.is_empty() {
        let key = input.key()?;
        let member = if input.take(b'=') {
            if input.peek() == Some(b'(') {
                input.inner_list()?;
                Member::Other
            } else {
                input.bare_item()?
            }
        } else {
            Member::Other
        };
        input.parameters()?;
        if key == ALGORITHM.as_bytes() {
            found = Some(member);
        }
        input.skip(b" \t");
        if input.0.is_empty() {
            break;
        }
        if !input.take(b',') {
            return None;
        }
        input.skip(b" \t");
        // A trailing comma (RFC 9651 section 4.2.2, step 2.8).
        if input.0.is_empty() {
            return None;
        }
    }
    Some(found)
}

/// What is left to read of a structured field. Its methods are the algorithms of RFC 9651
/// section 4.2 as far as they tell where a value ends and whether it is one.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn take_while(&mut self, accept: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|&byte| !accept(byte));
        let (taken, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        taken
    }

    fn skip(&mut self, what: &[u8]) {
        self.take_while(|byte| what.contains(&byte));
    }

    fn key(&mut self) -> Option<&'a [u8]> {
        if !matches!(self.peek()?, b'a'..=b'z' | b'*') {
            return None;
        }
        Some(self.take_while(
            |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*'),
        ))
    }

    fn parameters(&mut self) -> Option<()> {
        while self.take(b';') {
            self.skip(b" ");
            self.key()?;
            if self.take(b'=') {
                self.bare_item()?;
            }
        }
        Some(())
    }

    fn inner_list(&mut self) -> Option<()> {
        self.take(b'(');
        loop {
            self.skip(b" ");
            if self.take(b')') {
                return Some(());
            }
            self.bare_item()?;
            self.parameters()?;
            if !matches!(self.peek()?, b' ' | b')') {
                return None;
            }
        }
    }

    fn bare_item(&mut self) -> Option<Member> {
        match self.peek()? {
            b':' => return self.byte_sequence().map(Member::Bytes),
            b'"' => self.string()?,
            b'-' | b'0'..=b'9' => self.number()?,
            b'?' => {
                self.take(b'?');
                matches!(self.next()?, b'0' | b'1').then_some(())?;
            }
            b'@' => {
                self.take(b'@');
                self.number()?;
            }
            b'%' => {
                self.take(b'%');
                self.string()?;
            }
            byte if byte.is_ascii_alphabetic() || byte == b'*' => {
                self.take_while(|byte| {
                    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
                });
            }
            _ => return None,
        }
        Some(Member::Other)
    }

    fn byte_sequence(&mut self) -> Option<Vec<u8>> {
        self.take(b':');
        let encoded = self.take_while(|byte| byte != b':');
        if !self.take(b':') {
            return None;
        }
        LENIENT.decode(encoded).ok()
    }

    fn string(&mut self) -> Option<()> {
        if !self.take(b'"') {
            return None;
        }
        loop {
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => {
                    matches!(self.next()?, b'"' | b'\\').then_some(())?;
                }
                b' '..=b'~' => {}
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        self.take(b'-');
        let whole = self.take_while(|byte| byte.is_ascii_digit());
        let fraction = if self.take(b'.') {
            Some(self.take_while(|byte| byte.is_ascii_digit()))
        } else {
            None
        };
        let fits = match fraction {
            None => (1..=15).contains(&whole.len()),
            Some(fraction) => (1..=12).contains(&whole.len()) && (1..=3).contains(&fraction.len()),
        };
        fits.then_some(())
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::error::Kind;

    // The digest of RFC 9530 appendix B.1.
    const BASE64: &str = "RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=";
    const HEX: &str = "44aff4ab2d7c3250525675a08f0cfa9591168cffe51791c5f5bbc417c15a6c38";

    fn digest() -> [u8; 32] {
        parse_hex(HEX).unwrap()
    }

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn repr(value: &str) -> Result<Option<[u8; 32]>> {
        declared(&headers(&[(REPR_DIGEST, value)]), None)
    }

    fn pointers(result: Result<Option<[u8; 32]>>) -> Vec<String> {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidRequest);
        let parts = error.invalid_parts().iter();
        parts.map(|part| part.pointer.clone()).collect()
    }

    #[test]
    fn the_example_of_rfc_9530_appendix_b_1_is_read_and_written() {
        let value = format!("sha-256=:{BASE64}:");
        assert_eq!(repr(&value).unwrap(), Some(digest()));
        assert_eq!(repr_digest(&digest()), value.as_str());
    }

    #[test]
    fn nothing_declared_is_none() {
        assert_eq!(declared(&HeaderMap::new(), None).unwrap(), None);
        assert_eq!(repr("").unwrap(), None);
        assert_eq!(repr("  ").unwrap(), None);
    }

    #[test]
    fn content_digest_and_the_query_are_taken_as_well() {
        let value = format!("sha-256=:{BASE64}:");
        let content = headers(&[(CONTENT_DIGEST, &value)]);
        assert_eq!(declared(&content, None).unwrap(), Some(digest()));
        for text in [HEX.to_owned(), HEX.to_uppercase()] {
            let found = declared(&HeaderMap::new(), Some(&text)).unwrap();
            assert_eq!(found, Some(digest()));
        }
    }

    #[test]
    fn other_algorithms_are_ignored_rfc_9530_2() {
        assert_eq!(repr("sha-512=:AAAA:").unwrap(), None);
        assert_eq!(repr("md5=:AAAA:, unixsum=\"x\"").unwrap(), None);
        let value = format!("sha-512=:AAAA:,sha-256=:{BASE64}: , sha=:AAAA:");
        assert_eq!(repr(&value).unwrap(), Some(digest()));
    }

    #[test]
    fn every_form_of_a_dictionary_member_is_skipped_rfc_9651_3() {
        let value = format!(
            "  a, b=?1, c=?0;x, d=tok/en:x, *e=\"s\\\"t,r\\\\\", f=(1 \"a,b\";q=1 :AA==:);z=:AA==:, \
             g=-12, h=1.5, i=@1659578233, j=%\"d%c3%bc\", k=(), sha-256=:{BASE64}:;p=1; q"
        );
        assert_eq!(repr(&value).unwrap(), Some(digest()));
    }

    #[test]
    fn repeated_fields_are_one_dictionary_and_its_last_member_counts_rfc_9651_4_2() {
        let fields = [
            (REPR_DIGEST, "sha-256=:AAAA:"),
            (REPR_DIGEST, ""),
            (REPR_DIGEST, &format!("sha-256=:{BASE64}:")),
        ];
        assert_eq!(declared(&headers(&fields), None).unwrap(), Some(digest()));
    }

    #[test]
    fn missing_padding_is_tolerated_rfc_9651_4_2_7() {
        let value = format!("sha-256=:{}:", BASE64.trim_end_matches('='));
        assert_eq!(repr(&value).unwrap(), Some(digest()));
    }

    #[test]
    fn a_malformed_sha_256_is_refused_with_its_pointer() {
        let values = [
            format!("sha-256={BASE64}"),
            format!("sha-256=\"{BASE64}\""),
            format!("sha-256=:{BASE64}"),
            format!("sha-256=:{BASE64}:x"),
            format!("sha-256=:{BASE64}:,"),
            format!("sha-256=:{BASE64}:; Q"),
            format!("sha-256 =:{BASE64}:"),
            format!("SHA-256=:{BASE64}:"),
            format!("sha-256=(:{BASE64}:)"),
            format!("sha-256=:{HEX}:"),
            format!(",sha-256=:{BASE64}:"),
            "sha-256".to_owned(),
            "sha-256=".to_owned(),
            "sha-256=::".to_owned(),
            "sha-256=:AAAA:".to_owned(),
            "sha-256=:!!!!:".to_owned(),
            "sha-256=:é:".to_owned(),
            "sha-256=1".to_owned(),
        ];
        for value in &values {
            assert_eq!(pointers(repr(value)), ["/repr-digest"], "{value}");
            let content = declared(&headers(&[(CONTENT_DIGEST, value)]), None);
            assert_eq!(pointers(content), ["/content-digest"], "{value}");
        }
    }

    #[test]
    fn a_field_that_is_no_dictionary_is_refused_rather_than_left_unchecked() {
        for value in [
            "=",
            "a=",
            "a=(1",
            "a=(1\"x\")",
            "a=?2",
            "a=\"x",
            "a=\"\\x\"",
            "a=1.",
            "a=1.2345",
            "a=1234567890123456",
            "a=-",
            "a=@",
            "a=%x",
            "a=:AA",
            "1=2",
            "a b",
            "a;=1",
            "a,\u{a0}b",
        ] {
            assert_eq!(pointers(repr(value)), ["/repr-digest"], "{value}");
        }
    }

    #[test]
    fn a_malformed_query_is_refused_with_its_pointer() {
        let long = format!("{HEX}0");
        for text in ["", "00", &HEX[1..], &long, &HEX.replace('4', "g"), " "] {
            let result = declared(&HeaderMap::new(), Some(text));
            assert_eq!(pointers(result), ["/sha256"], "{text}");
        }
    }

    #[test]
    fn several_declarations_must_agree() {
        let value = format!("sha-256=:{BASE64}:");
        let both = headers(&[(REPR_DIGEST, &value), (CONTENT_DIGEST, &value)]);
        assert_eq!(declared(&both, Some(HEX)).unwrap(), Some(digest()));

        let zeros = "0".repeat(64);
        assert_eq!(pointers(declared(&both, Some(&zeros))), ["/sha256"]);
        let other = format!("sha-256=:{}:", STANDARD.encode([0; 32]));
        let differ = headers(&[(REPR_DIGEST, &value), (CONTENT_DIGEST, &other)]);
        assert_eq!(pointers(declared(&differ, Some(HEX))), ["/content-digest"]);
    }

    #[test]
    fn every_malformed_declaration_is_reported() {
        let bad = headers(&[(REPR_DIGEST, "sha-256=1"), (CONTENT_DIGEST, "?")]);
        assert_eq!(
            pointers(declared(&bad, Some("x"))),
            ["/repr-digest", "/content-digest", "/sha256"]
        );
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut rng = rand::rng();
        let alphabet = b"sha-256=::=,; ()\"\\?@%*A1.-\t\xe9";
        for _ in 0..50_000 {
            let length = rng.random_range(0..48);
            let mut bytes: Vec<u8> = if rng.random() {
                (0..length).map(|_| rng.random()).collect()
            } else {
                (0..length)
                    .map(|_| alphabet[rng.random_range(0..alphabet.len())])
                    .collect()
            };
            if rng.random() {
                bytes.splice(0..0, *b"sha-256=");
            }
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                headers.append(REPR_DIGEST, value.clone());
                headers.append(CONTENT_DIGEST, value);
            }
            let query = String::from_utf8_lossy(&bytes);
            let _ = declared(&headers, Some(&query));
            // Visible ASCII only, so that the parser behind the check of characters is reached.
            let text: String = query.chars().filter(char::is_ascii).collect();
            let _ = dictionary(&text);
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut rng = rand::rng();
        for _ in 0..1_000 {
            let digest: [u8; 32] = rng.random();
            let mut headers = HeaderMap::new();
            headers.insert(REPR_DIGEST, repr_digest(&digest));
            let found = declared(&headers, Some(&hex::encode(digest))).unwrap();
            assert_eq!(found, Some(digest));
        }
    }
}
