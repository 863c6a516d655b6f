use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use futures::StreamExt;

use crate::error::{Kind, Result};

use super::super::extract::JSON_BODY;
use super::super::upload::{FORM_OVERHEAD, take_apart};
use super::{split, take};

/// The longest chunk that a body comes in here, in bytes.
const CHUNK: usize = 32 * 1024;
/// The longest body here, in bytes.
const BODY: usize = 1 << 20;

/// Of any body that says it is a form, in chunks of any sizes: it is read without a panic and
/// without holding more of it than the limits say, and as the same form whatever the chunks are.
/// Of any bytes that are sent as a form's file: they arrive as they are.
///
/// The input: one byte of choices, one for the chunks; where the choices say so, a line that is
/// the `Content-Type`; the body, in which, where they say that, 0xFF, a byte and a number N stand for
/// N KiB of that byte.
pub fn multipart(mut input: &[u8]) {
    let [choices, seed] = take(&mut input);
    let mut content_type: &[u8] = b"multipart/form-data; boundary=b";
    if choices & 1 != 0 {
        (content_type, input) = split(input, b'\n');
    }
    let Ok(content_type) = HeaderValue::from_bytes(content_type) else {
        return;
    };
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type)]);
    // Long bodies are slow, and most of what there is to find is in short ones.
    let body = if choices & 8 != 0 {
        expanded(input)
    } else {
        input.to_vec()
    };
    if choices & 2 == 0 {
        any_body(&headers, &body, seed);
    } else {
        any_file(&body, choices & 4 != 0, seed);
    }
}

fn any_body(headers: &HeaderMap, body: &[u8], seed: u8) {
    let whole = read(headers, body, 0);
    let parts = read(headers, body, seed);
    match (whole, parts) {
        (Ok(whole), Ok(parts)) => assert_eq!(whole, parts),
        (Err(whole), Err(parts)) => {
            for kind in [whole, parts] {
                assert!(
                    matches!(
                        kind,
                        Kind::BadRequest
                            | Kind::MalformedJson
                            | Kind::InvalidRequest
                            | Kind::PayloadTooLarge
                    ),
                    "{kind:?}"
                );
            }
        }
        // How much stands between two parts is counted in the pieces that it comes in.
        (whole, parts) => assert!(body.len() as u64 > FORM_OVERHEAD, "{whole:?}, {parts:?}"),
    }
}

fn any_file(content: &[u8], properties: bool, seed: u8) {
    const BOUNDARY: &str = "--f0rm-b0undary";
    let mut dashes = (0..content.len()).filter(|at| content[*at] == b'-');
    if dashes.any(|at| content[at..].starts_with(BOUNDARY.as_bytes())) {
        return;
    }
    let said = r#"{"name":"a/b"}"#;
    let mut body = String::new();
    if properties {
        body += &format!(
            "{BOUNDARY}\r\nContent-Disposition: form-data; name=\"properties\"\r\n\r\n{said}\r\n"
        );
    }
    body += &format!(
        "{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\nContent-Type: text/plain\r\n\r\n"
    );
    let end = format!("\r\n{BOUNDARY}--\r\n");
    let body = [body.as_bytes(), content, end.as_bytes()].concat();
    let headers = HeaderMap::from_iter([(
        CONTENT_TYPE,
        HeaderValue::from_static("multipart/form-data; boundary=f0rm-b0undary"),
    )]);
    let form = read(&headers, &body, seed).expect("it is a form");
    assert_eq!(form.said, if properties { said.as_bytes() } else { b"" });
    assert_eq!(form.name.as_deref(), Some("f"));
    assert!(form.content == content, "the file is not as it was sent");
}

#[derive(Debug, PartialEq)]
struct Form {
    said: Vec<u8>,
    name: Option<String>,
    content: Vec<u8>,
}

/// Reads a body as it comes, and watches how much of it is held meanwhile.
fn read(headers: &HeaderMap, body: &[u8], seed: u8) -> Result<Form, Kind> {
    const HELD: u64 = 2 * FORM_OVERHEAD + JSON_BODY + 4 * CHUNK as u64;
    let pulled = Arc::new(AtomicU64::new(0));
    let counter = pulled.clone();
    let chunks = chunks(body, seed);
    let source = futures::stream::iter(chunks)
        .map(move |chunk| {
            counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            Ok(chunk)
        })
        .boxed();
    let held = |content: &[u8]| pulled.load(Ordering::Relaxed) - content.len() as u64;
    futures::executor::block_on(async {
        let mut content = Vec::new();
        let taken = take_apart(headers, source).await;
        assert!(held(&content) <= HELD, "{} bytes are held", held(&content));
        let (said, name, mut file) = taken.map_err(|error| error.kind())?;
        assert!(said.len() as u64 <= JSON_BODY);
        while let Some(chunk) = file.next().await {
            content.extend_from_slice(&chunk.map_err(|error| error.kind())?);
            assert!(held(&content) <= HELD, "{} bytes are held", held(&content));
        }
        Ok(Form {
            said,
            name,
            content,
        })
    })
}

/// The body in pieces whose sizes follow from the seed; 0: as large as they come.
fn chunks(mut body: &[u8], seed: u8) -> Vec<Bytes> {
    let mut state = u64::from(seed) << 1 | 1;
    let mut chunks = Vec::new();
    while !body.is_empty() {
        // Xorshift: from one byte to the largest, small ones as often as large ones.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // A large body in small pieces takes long and shows no more.
        let least = body.len() / 64;
        let size = match seed {
            0 => CHUNK,
            _ => least + (state as usize >> 8) % (1 << (state % 17)),
        };
        let (chunk, rest) = body.split_at(body.len().min(size.clamp(1, CHUNK)));
        chunks.push(Bytes::copy_from_slice(chunk));
        body = rest;
    }
    chunks
}

fn expanded(input: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut rest = input;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match (*first, behind) {
            (0xFF, [byte, count, after @ ..]) => {
                let length = usize::from(*count) * 1024;
                body.resize(BODY.min(body.len() + length), *byte);
                rest = after;
            }
            (byte, _) => body.push(byte),
        }
    }
    body.truncate(BODY);
    body
}
