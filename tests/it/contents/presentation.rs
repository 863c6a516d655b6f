//! How browsers are told to treat a content: never as the service's own page.

use percent_encoding::percent_decode_str;

use crate::harness::client::{Answer, Client, id, send};
use crate::harness::content::escape;
use crate::harness::service::{Service, on_every_pair};

on_every_pair!(
    every_content_is_sandboxed,
    any_name_survives_the_way_to_a_browser,
    only_harmless_types_are_shown_inline,
);

async fn uploaded(client: &Client, name: &str, content_type: &str) -> String {
    let request = client
        .post(&format!("/v1/files?name={}", escape(name)))
        .header("content-type", content_type);
    let file = send(request.body("content")).await.json(201);
    format!("/v1/files/{}/content", id(&file))
}

async fn every_content_is_sandboxed(service: &Service) {
    let client = service.client("acme");
    let path = uploaded(&client, "a.html", "text/html").await;
    for request in [
        client.get(&path),
        client.head(&path),
        client.get(&format!("{path}?disposition=inline")),
        client.get(&path).header("range", "bytes=0-1"),
        client.get(&path).header("range", "bytes=0-1,3-4"),
    ] {
        let answer = send(request).await;
        assert_eq!(
            answer.header("content-security-policy"),
            "sandbox; default-src 'none'"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(
            answer
                .header("content-disposition")
                .starts_with("attachment")
        );
    }
}

/// Kind, `filename` and `filename*` (decoded) of a Content-Disposition (RFC 6266).
fn disposition(answer: &Answer) -> (String, Option<String>, Option<String>) {
    let field = answer.headers["content-disposition"].as_bytes();
    let field = std::str::from_utf8(field).unwrap();
    assert!(field.is_ascii(), "{field}");
    let (kind, mut rest) = field.split_once(';').unwrap_or((field, ""));
    let (mut plain, mut extended) = (None, None);
    while !rest.trim().is_empty() {
        let (name, value) = rest.trim_start().split_once('=').unwrap();
        if let Some(value) = value.strip_prefix('"') {
            let mut text = String::new();
            let mut letters = value.char_indices();
            let end = loop {
                match letters.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => text.push(letters.next().unwrap().1),
                    (_, letter) => text.push(letter),
                }
            };
            assert_eq!(name, "filename");
            plain = Some(text);
            rest = value[end + 1..].trim_start().trim_start_matches(';');
        } else {
            let (value, behind) = value.split_once(';').unwrap_or((value, ""));
            rest = behind;
            if name == "filename" {
                let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
                assert!(!value.is_empty() && value.chars().all(token), "{field}");
                plain = Some(value.to_owned());
                continue;
            }
            assert_eq!(name, "filename*");
            let encoded = value.strip_prefix("UTF-8''").unwrap();
            // RFC 8187, 3.2.1: attr-char, and everything else as octets.
            let attr = |c: char| c.is_ascii_alphanumeric() || "!#$&+-.^_`|~%".contains(c);
            assert!(encoded.chars().all(attr), "{field}");
            let decoded = percent_decode_str(encoded).decode_utf8().unwrap();
            extended = Some(decoded.into_owned());
        }
    }
    (kind.trim().to_owned(), plain, extended)
}

async fn any_name_survives_the_way_to_a_browser(service: &Service) {
    let client = service.client("acme");
    let long = "ü".repeat(512);
    for name in [
        "plain.txt",
        "two words.txt",
        "q\"uo\"te.txt",
        "back\\slash.txt",
        "end\\",
        "semi;colon, comma=equals.txt",
        "100%.txt",
        "%41.txt",
        "it's (1)*.txt",
        "naïve.txt",
        "日本語.png",
        "🦀",
        "\u{202e}txt.exe",
        "\u{2028}",
        " ",
        &long,
    ] {
        for folder in ["", "folder/ä \"/"] {
            if folder.len() + name.len() > 1024 {
                continue;
            }
            let path = uploaded(&client, &format!("{folder}{name}"), "a/b").await;
            for request in [client.get(&path), client.head(&path)] {
                let (kind, plain, extended) = disposition(&send(request).await);
                assert_eq!(kind, "attachment");
                // Without `filename*`, the plain one must say it all.
                let best = extended.as_ref().or(plain.as_ref()).unwrap();
                assert_eq!(best, name);
                if let Some(plain) = plain {
                    assert!(!plain.contains(['/', '\r', '\n']), "{plain}");
                }
            }
        }
    }
}

async fn only_harmless_types_are_shown_inline(service: &Service) {
    let client = service.client("acme");
    for (content_type, expected) in [
        ("image/png", "inline"),
        ("image/jpeg", "inline"),
        ("image/gif", "inline"),
        ("image/webp", "inline"),
        ("audio/mpeg", "inline"),
        ("video/mp4", "inline"),
        ("application/pdf", "inline"),
        ("text/plain", "inline"),
        ("text/plain; charset=utf-8", "inline"),
        ("Image/PNG", "inline"),
        ("image/svg+xml", "attachment"),
        ("Image/Svg+Xml; charset=utf-8", "attachment"),
        ("text/html", "attachment"),
        ("text/html;charset=utf-8", "attachment"),
        ("application/xhtml+xml", "attachment"),
        ("text/xml", "attachment"),
        ("application/xml", "attachment"),
        ("application/javascript", "attachment"),
        ("text/javascript", "attachment"),
        ("text/css", "attachment"),
        ("text/vtt", "attachment"),
        ("application/json", "attachment"),
        ("application/octet-stream", "attachment"),
        ("text/plainly", "attachment"),
        ("x-own/type", "attachment"),
    ] {
        let path = uploaded(&client, "a b.html", content_type).await;
        let inline = send(client.get(&format!("{path}?disposition=inline"))).await;
        let (kind, plain, extended) = disposition(&inline);
        assert_eq!(kind, expected, "{content_type}");
        assert_eq!(extended.or(plain).unwrap(), "a b.html");
        let forced = send(client.get(&format!("{path}?disposition=attachment"))).await;
        assert_eq!(disposition(&forced).0, "attachment", "{content_type}");
        let by_itself = disposition(&send(client.get(&path)).await).0;
        assert!(
            by_itself == "attachment" || expected == "inline",
            "{content_type}"
        );
    }
}
