//! Content types: what clients declare, what filters ask for, and what bytes look like.

use mediatype::{MediaType, ReadParams};

use crate::error::{Error, Result};

/// The longest content type that is stored, in bytes.
const MAX_LENGTH: usize = 255;

const OCTET_STREAM: &str = "application/octet-stream";
const PLAIN: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html";
const XHTML: &str = "application/xhtml+xml";
const XML: &str = "text/xml";
const SVG: &str = "image/svg+xml";

/// A client's content type as it is stored: type and subtype in lower case, parameters as they
/// were sent, at most 255 bytes of ASCII.
///
/// # Errors
/// 422 at `/content_type` for what is no media type (RFC 9110 section 8.3.1), wildcards included.
pub fn parse(text: &str) -> Result<String> {
    let invalid = |detail: &str| Err(Error::invalid("/content_type", detail));
    let text = text.trim_matches([' ', '\t']);
    if text.is_empty() || text.len() > MAX_LENGTH {
        return invalid("must be 1 to 255 bytes long");
    }
    let Some(essence) = essence(text) else {
        return invalid("must be a media type such as text/plain; charset=utf-8");
    };
    let parameters = text[essence.len()..].trim_end_matches([' ', '\t', ';']);
    Ok(essence + parameters)
}

/// `type/subtype` in lower case, without parameters. `None` unless all of the text, parameters
/// included, is one media type and no wildcard.
pub(super) fn essence(content_type: &str) -> Option<String> {
    let text = content_type.trim_matches([' ', '\t']);
    // Control characters would be let through within quotes; other than ASCII can't be sent.
    if !text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
        return None;
    }
    let parsed = MediaType::parse(text).ok()?;
    // An unquoted value is a token, which has at least one character (RFC 9110 section 5.6.2).
    if parsed.params().any(|(_, value)| value.as_str().is_empty()) {
        return None;
    }
    let essence = parsed.essence().to_string().to_ascii_lowercase();
    // `a/b+` parses without its `+`; what comes back must be what was there.
    let whole = text
        .get(..essence.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(&essence))
        && !text[essence.len()..].starts_with('+');
    (whole && !essence.contains('*')).then_some(essence)
}

/// Whether a `Content-Type` field names this type, whatever its parameters.
pub(super) fn names(field: &str, essence: &str) -> bool {
    let end = field.find(';').unwrap_or(field.len());
    field[..end]
        .trim_matches([' ', '\t'])
        .eq_ignore_ascii_case(essence)
}

/// The content type of a file whose sender declared none, from its first bytes (some hundred
/// suffice; a few thousand tell Office documents from other ZIPs) and its name.
///
/// No bytes at all, and bytes that are no text, get what their signature says, or `application/octet-stream`; their
/// name never matters. Bytes that are text get the type that the name's extension says, if it
/// is that of a text format, or `text/plain; charset=utf-8`.
///
/// What a browser might run is never named as something inert: text that begins like markup gets
/// a markup type whatever its name (`photo.png`, `notes.txt` and `readme.md` included), and such
/// types are never served inline. The other way is harmless: a script that is named so without
/// looking like it is saved to disk instead of shown. Short signatures that text can begin with
/// (`BM` of a bitmap) don't count where the bytes are text.
pub fn sniff(first_bytes: &[u8], name: &str) -> &'static str {
    if first_bytes.is_empty() {
        return OCTET_STREAM;
    }
    let signature = infer::get(first_bytes).map(|kind| kind.mime_type());
    let Some(text) = as_text(first_bytes) else {
        return signature.unwrap_or(OCTET_STREAM);
    };
    let named = by_extension(name);
    if let Some(markup) = markup(text) {
        return match named {
            Some(named @ (HTML | XHTML | XML | SVG)) => named,
            Some(named) if named.ends_with("+xml") => named,
            _ => markup,
        };
    }
    match signature {
        Some(
            format
            @ (HTML | XML | "application/pdf" | "application/postscript" | "application/rtf"),
        ) => format,
        Some(script @ "text/x-shellscript") => named.unwrap_or(script),
        _ => named.unwrap_or(PLAIN),
    }
}

/// The bytes as text, if they are the beginning of UTF-8 text. A character that the end cuts in
/// two is left out. Control characters are those that WHATWG MIME Sniffing (section 3, binary data
/// byte) finds in no text.
fn as_text(bytes: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let binary = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\u{c}' | '\r' | '\u{1b}');
    (!text.contains(binary)).then_some(text)
}

/// Which markup a text begins like: more is taken for HTML than in WHATWG MIME Sniffing, any tag,
/// since a browser's parser runs any.
fn markup(text: &str) -> Option<&'static str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.trim_start_matches(|c: char| c.is_ascii_whitespace());
    let starts = |text: &str, what: &str| {
        text.get(..what.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(what))
    };
    if starts(text, "<?xml") {
        return Some(if text.to_ascii_lowercase().contains("<svg") {
            SVG
        } else {
            XML
        });
    }
    if starts(text, "<!doctype svg") {
        return Some(SVG);
    }
    let tag = text.strip_prefix('<')?;
    if tag.starts_with(['!', '?']) {
        return Some(HTML);
    }
    let tag = tag.strip_prefix('/').unwrap_or(tag);
    let end = tag
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.')))
        .unwrap_or(tag.len());
    let (element, rest) = tag.split_at(end);
    let ends = rest.is_empty()
        || rest.starts_with(|c: char| c.is_ascii_whitespace() || matches!(c, '>' | '/'));
    if !element.starts_with(|c: char| c.is_ascii_alphabetic()) || !ends {
        return None;
    }
    Some(if element.eq_ignore_ascii_case("svg") {
        SVG
    } else {
        HTML
    })
}

/// Formats of text that no signature tells; asked for only where the bytes are text.
fn by_extension(name: &str) -> Option<&'static str> {
    let (_, extension) = name.rsplit('/').next()?.rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        "atom" => "application/atom+xml",
        "css" => "text/css",
        "csv" => "text/csv",
        "geojson" => "application/geo+json",
        "htm" | "html" => HTML,
        "ics" => "text/calendar",
        "js" | "mjs" => "text/javascript",
        "json" => "application/json",
        "jsonld" => "application/ld+json",
        "jsonl" | "ndjson" => "application/x-ndjson",
        "markdown" | "md" => "text/markdown",
        "rss" => "application/rss+xml",
        "sql" => "application/sql",
        "svg" => SVG,
        "toml" => "application/toml",
        "tsv" => "text/tab-separated-values",
        "vcf" => "text/vcard",
        "vtt" => "text/vtt",
        "webmanifest" => "application/manifest+json",
        "xht" | "xhtml" => XHTML,
        "xml" | "xsd" | "xsl" => XML,
        "yaml" | "yml" => "application/yaml",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::error::Kind;
    use crate::http::disposition::inline_allowed;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

    #[test]
    fn type_and_subtype_are_stored_in_lower_case_rfc_9110_8_3_1() {
        assert_eq!(parse("Text/HTML").unwrap(), "text/html");
        assert_eq!(parse("IMAGE/SVG+XML").unwrap(), "image/svg+xml");
        assert_eq!(
            parse("application/vnd.ms-excel").unwrap(),
            "application/vnd.ms-excel"
        );
    }

    #[test]
    fn parameters_are_kept_as_they_were_sent() {
        for (sent, stored) in [
            ("Text/Plain; charset=UTF-8", "text/plain; charset=UTF-8"),
            ("text/plain;charset=utf-8", "text/plain;charset=utf-8"),
            (
                "a/b; x=\"q; \\\"Z\\\"\"; Y=1",
                "a/b; x=\"q; \\\"Z\\\"\"; Y=1",
            ),
            (" text/plain \t", "text/plain"),
            ("text/plain;", "text/plain"),
            ("text/plain; ", "text/plain"),
            ("text/plain; x=1;", "text/plain; x=1"),
        ] {
            assert_eq!(parse(sent).unwrap(), stored, "{sent}");
        }
    }

    #[test]
    fn what_is_no_media_type_is_refused_with_its_pointer() {
        let long = format!("a/{}", "b".repeat(254));
        for text in [
            "",
            " ",
            "text",
            "text/",
            "/plain",
            "text/plain/x",
            "text /plain",
            "*/*",
            "image/*",
            "text/plain; charset",
            "text/plain; =x",
            "text/plain; x=",
            "text/plain; x=;y=1",
            "text/plain, text/html",
            "text/plain; x=,text/html",
            "text/plain x",
            "tëxt/plain",
            "text/plain; x=\"é\"",
            "text/plain; x=\"a",
            "text/plain\r\nx: y",
            "text/pl\0ain",
            "text/plain; x=\"a\u{1}b\"",
            "text/plain; x=\"a\r\"",
            "a/b+",
            "a/+b",
            &long,
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidRequest, "{text}");
            assert_eq!(error.invalid_parts()[0].pointer, "/content_type");
        }
    }

    #[test]
    fn the_longest_content_type_has_255_bytes() {
        let value = "x".repeat(255 - "text/plain; a=".len());
        assert!(parse(&format!("text/plain; a={value}")).is_ok());
        assert!(parse(&format!("text/plain; a={value}x")).is_err());
    }

    #[test]
    fn a_field_names_a_type_whatever_its_parameters_and_case() {
        assert!(names(
            "multipart/form-data; boundary=x",
            "multipart/form-data"
        ));
        assert!(names(" Multipart/Form-Data ", "multipart/form-data"));
        assert!(!names("multipart/form-data2", "multipart/form-data"));
        assert!(!names("", "multipart/form-data"));
    }

    #[test]
    fn a_signature_counts_whatever_the_name() {
        assert_eq!(sniff(PNG, "page.html"), "image/png");
        assert_eq!(sniff(b"\xff\xd8\xff\xe0\0\x10JFIF", "x"), "image/jpeg");
        assert_eq!(sniff(b"%PDF-1.7\n", "x.txt"), "application/pdf");
        assert_eq!(sniff(b"PK\x03\x04\x14\0\0\0", "x"), "application/zip");
    }

    #[test]
    fn text_is_plain_text_unless_its_extension_says_more() {
        assert_eq!(sniff(b"hello", "x"), PLAIN);
        assert_eq!(
            sniff("grüße\t\r\n\u{c}\u{1b}[1m".as_bytes(), "x.log"),
            PLAIN
        );
        assert_eq!(sniff(b"", "x.txt"), OCTET_STREAM);
        for (name, expected) in [
            ("x.json", "application/json"),
            ("a.b/x.CSV", "text/csv"),
            ("x.md", "text/markdown"),
            ("x.html", "text/html"),
            ("x.svg", "image/svg+xml"),
            ("x.xml", "text/xml"),
            ("x.png", PLAIN),
            ("json", PLAIN),
            ("a.json/x", PLAIN),
            (".", PLAIN),
            ("", PLAIN),
        ] {
            assert_eq!(sniff(b"hello", name), expected, "{name}");
        }
    }

    #[test]
    fn an_extension_says_nothing_about_bytes_that_are_no_text() {
        for bytes in [
            &b"a\0b"[..],
            b"\x01\x02",
            b"a\xffb",
            b"\xc3(",
            b"a\x7f",
            b"\xc2\x85",
        ] {
            assert_eq!(sniff(bytes, "x.json"), OCTET_STREAM, "{bytes:?}");
        }
    }

    #[test]
    fn a_character_that_the_prefix_cuts_is_still_text() {
        let text = "a€😀";
        for end in 1..=text.len() {
            assert_eq!(sniff(&text.as_bytes()[..end], "x"), PLAIN, "{end}");
        }
    }

    #[test]
    fn a_signature_that_text_can_begin_with_does_not_count_for_text() {
        assert_eq!(sniff(b"BMW is a car", "x"), PLAIN);
        assert_eq!(sniff(b"BM\x46\0\0\0\0\0\0\0", "x"), "image/bmp");
    }

    #[test]
    fn markup_is_found_whatever_the_name_and_never_shown_inline() {
        for text in [
            "<!DOCTYPE html><p>",
            "  \n<html>",
            "<HTML ",
            "<script>alert(1)</script>",
            "<script\nsrc=x>",
            "<img src=x onerror=alert(1)>",
            "<body/onload=x>",
            "<!-- x -->",
            "<!--x",
            "</p><script>",
            "<x-y>",
            "\u{feff}<html>",
            "<svg onload=alert(1)>",
            "<svg/>",
            "<?xml version=\"1.0\"?><a/>",
            "<?php",
            "<iframe",
            "<a:b>",
            "<?xml?><!-- --><SVG>",
        ] {
            for name in [
                "x", "x.png", "x.txt", "x.csv", "x.md", "x.json", "x.js", "x.html", "x.svg",
            ] {
                let found = sniff(text.as_bytes(), name);
                assert!(!inline_allowed(found), "{text} {name} {found}");
                assert!([HTML, XML, SVG].contains(&found), "{text} {name} {found}");
            }
        }
    }

    #[test]
    fn markup_is_told_apart() {
        assert_eq!(sniff(b"<!DOCTYPE html>", "x"), HTML);
        assert_eq!(sniff(b"<?xml version=\"1.0\"?><rss>", "x"), XML);
        assert_eq!(sniff(b"<?xml version=\"1.0\"?>\n<svg xmlns=", "x"), SVG);
        assert_eq!(sniff(b"<svg xmlns=", "x.png"), SVG);
        assert_eq!(sniff(b"<!DOCTYPE svg PUBLIC", "x"), SVG);
        assert_eq!(sniff(b"<note>", "x.xml"), XML);
        assert_eq!(sniff(b"<html xmlns=", "x.xhtml"), XHTML);
        assert_eq!(sniff(b"<feed xmlns=", "x.atom"), "application/atom+xml");
        assert_eq!(sniff(b"<html>\0", "x.txt"), HTML);
    }

    #[test]
    fn what_only_resembles_markup_is_text() {
        for text in [
            "<",
            "< b",
            "<3",
            "<john@example.org> wrote",
            "a < b",
            "<=>",
            "1 <b>",
        ] {
            assert_eq!(sniff(text.as_bytes(), "x.txt"), PLAIN, "{text}");
        }
    }

    #[test]
    fn a_shell_script_is_one_unless_its_extension_says_more() {
        assert_eq!(sniff(b"#!/bin/sh\n", "run"), "text/x-shellscript");
        assert_eq!(sniff(b"#!/usr/bin/env node\n", "x.js"), "text/javascript");
    }

    #[test]
    fn random_bytes_never_panic_and_what_is_sniffed_or_stored_can_be_stored() {
        let mut rng = rand::rng();
        let alphabet = b"<!?/>svghtmlxBM%PDF\xc3\xa9\xf0 \n.\"=;*+-";
        let signatures: [&[u8]; 8] = [
            b"",
            PNG,
            b"PK\x03\x04",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
            b"RIFF",
            b"\x1a\x45\xdf\xa3",
            b"MZ",
            b"\0\0\0\x18ftyp",
        ];
        for _ in 0..50_000 {
            let mut bytes = signatures[rng.random_range(0..signatures.len())].to_vec();
            let length = rng.random_range(0..64);
            if rng.random() {
                bytes.extend((0..length).map(|_| rng.random::<u8>()));
            } else {
                bytes.extend((0..length).map(|_| alphabet[rng.random_range(0..alphabet.len())]));
            }
            let text = String::from_utf8_lossy(&bytes);
            let found = sniff(&bytes, &text);
            assert_eq!(parse(found).unwrap(), found);
            if let Ok(stored) = parse(&text) {
                assert_eq!(parse(&stored).unwrap(), stored);
                assert!(names(&text, &essence(&stored).unwrap()));
            }
        }
    }
}
