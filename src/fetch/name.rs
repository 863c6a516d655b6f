//! What a file is called that comes from elsewhere.

use percent_encoding::percent_decode_str;
use reqwest::header::HeaderValue;
use url::Url;

/// The `filename*` of a `Content-Disposition`, else its `filename` (RFC 6266), without the folders that
/// an origin may put before it.
pub(super) fn of_disposition(value: &HeaderValue) -> Option<String> {
    let text = std::str::from_utf8(value.as_bytes()).ok()?;
    let (mut plain, mut extended) = (None, None);
    for (name, value) in parameters(text) {
        if name.eq_ignore_ascii_case("filename*") {
            extended = extended.or_else(|| read_extended(&value));
        } else if name.eq_ignore_ascii_case("filename") {
            plain = plain.or(Some(value));
        }
    }
    last_segment(&extended.or(plain)?)
}

/// The last segment of the URL's path, decoded.
pub fn of_url(url: &Url) -> Option<String> {
    let segment = url.path_segments()?.rfind(|segment| !segment.is_empty())?;
    let decoded = percent_decode_str(segment).decode_utf8().ok()?;
    last_segment(&decoded)
}

fn last_segment(name: &str) -> Option<String> {
    let segment = name.rsplit(['/', '\\']).next()?.trim();
    (!segment.is_empty()).then(|| segment.to_owned())
}

/// `UTF-8''%e2%82%ac%20rates` (RFC 8187, section 3.2).
fn read_extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_, text) = rest.split_once('\'')?;
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    Some(percent_decode_str(text).decode_utf8().ok()?.into_owned())
}

/// The parameters behind the first `;`: `name=token` or `name="quoted \" text"`.
fn parameters(text: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    let mut rest = text.split_once(';').map_or("", |(_, rest)| rest);
    while let Some((name, value)) = rest.split_once('=') {
        let value = value.trim_start();
        let mut read = String::new();
        if let Some(quoted) = value.strip_prefix('"') {
            let mut escaped = false;
            let mut end = quoted.len();
            for (at, c) in quoted.char_indices() {
                match c {
                    _ if escaped => {
                        read.push(c);
                        escaped = false;
                    }
                    '\\' => escaped = true,
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    c => read.push(c),
                }
            }
            rest = quoted[end..].trim_start().trim_start_matches(';');
        } else {
            let end = value.find(';').unwrap_or(value.len());
            read.push_str(value[..end].trim());
            rest = value[end..].trim_start_matches(';');
        }
        found.push((name.trim(), read));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disposition_names_a_file() {
        for (value, name) in [
            ("attachment; filename=a.txt", Some("a.txt")),
            (
                r#"attachment; filename="a \"b\".txt""#,
                Some(r#"a "b".txt"#),
            ),
            (
                r#"attachment; filename="x"; filename*=UTF-8''%e2%82%ac%20rates"#,
                Some("€ rates"),
            ),
            (r#"attachment; filename*=latin1''x; filename=y"#, Some("y")),
            (r#"attachment; filename="../../etc/passwd""#, Some("passwd")),
            (r#"attachment; filename="C:\\dir\\a.txt""#, Some("a.txt")),
            (r#"attachment; filename="""#, None),
            (r#"attachment; filename="open"#, Some("open")),
            ("attachment", None),
            ("inline; x", None),
        ] {
            let value = HeaderValue::from_str(value).unwrap();
            assert_eq!(of_disposition(&value).as_deref(), name, "{value:?}");
        }
    }

    #[test]
    fn a_path_names_a_file() {
        for (url, name) in [
            ("http://x/a/b.txt?c=d", Some("b.txt")),
            ("http://x/a/b%20c/", Some("b c")),
            ("http://x/a%2Fb", Some("b")),
            ("http://x/%ff", None),
            ("http://x/", None),
        ] {
            assert_eq!(of_url(&Url::parse(url).unwrap()).as_deref(), name, "{url}");
        }
    }
}
