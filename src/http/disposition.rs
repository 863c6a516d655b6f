//! `Content-Disposition`: under which name a download is saved, and whether a browser may show it.

use axum::http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// All but the `attr-char` of RFC 8187 section 3.2.1.
const NOT_ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Images that are pixels and nothing else. SVG is missing on purpose: it runs scripts.
const RASTER_IMAGES: &[&str] = &[
    "apng",
    "avif",
    "bmp",
    "gif",
    "heic",
    "heif",
    "jpeg",
    "jpg",
    "jxl",
    "pjpeg",
    "png",
    "tiff",
    "vnd.microsoft.icon",
    "webp",
    "x-icon",
    "x-ms-bmp",
    "x-png",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    Inline,
    Attachment,
}

impl Disposition {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Attachment => "attachment",
        }
    }
}

/// The value of `Content-Disposition` (RFC 6266) for a file of this name; only what follows the
/// last `/` is shown.
///
/// `filename` holds the name in ASCII, with `_` for what some browsers misread there (RFC 6266
/// appendix D): quotes, backslashes, `%` and everything that is not ASCII. Where that changed
/// the name, `filename*` (RFC 8187) holds it as it is. A control character is `_` in both.
pub fn header(disposition: Disposition, name: &str) -> HeaderValue {
    let name: String = match name.rsplit('/').next() {
        None | Some("") => "unnamed".to_owned(),
        Some(last) => last
            .chars()
            .map(|c| if c.is_control() { '_' } else { c })
            .collect(),
    };
    let fallback: String = name
        .chars()
        .map(|c| match c {
            '"' | '\\' | '%' => '_',
            ' '..='~' => c,
            _ => '_',
        })
        .collect();
    let mut value = format!("{}; filename=\"{fallback}\"", disposition.as_str());
    if fallback != name {
        value.push_str("; filename*=UTF-8''");
        value.extend(utf8_percent_encode(&name, NOT_ATTR_CHAR));
    }
    HeaderValue::try_from(value).expect("all but printable ASCII was replaced or percent-encoded")
}

/// Whether a browser may show this content type in the service's origin instead of saving it:
/// raster images, audio, video, PDF and plain text. Parameters and case don't matter; a value
/// that is no media type is refused, because browsers read some of those as another type.
pub fn inline_allowed(content_type: &str) -> bool {
    let Some(essence) = super::media_type::essence(content_type) else {
        return false;
    };
    match essence.split_once('/') {
        Some(("image", subtype)) => RASTER_IMAGES.contains(&subtype),
        // Browsers parse any type that ends so as XML, scripts included (WHATWG MIME Sniffing,
        // section 4.6).
        Some(("audio" | "video", subtype)) => !subtype.ends_with("+xml"),
        Some(("application", "pdf") | ("text", "plain")) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;
    use rand::RngExt;

    use super::*;

    fn attachment(name: &str) -> String {
        let value = header(Disposition::Attachment, name);
        value.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_plain_name_needs_no_extended_parameter_rfc_6266_4_3() {
        assert_eq!(
            attachment("report 2026 (1).pdf"),
            "attachment; filename=\"report 2026 (1).pdf\""
        );
        assert_eq!(
            header(Disposition::Inline, "a.png"),
            "inline; filename=\"a.png\""
        );
    }

    #[test]
    fn only_the_last_segment_of_a_name_is_shown() {
        assert_eq!(attachment("a/b/c.txt"), "attachment; filename=\"c.txt\"");
        assert_eq!(attachment("a/"), "attachment; filename=\"unnamed\"");
        assert_eq!(attachment(""), "attachment; filename=\"unnamed\"");
    }

    #[test]
    fn a_name_beyond_ascii_is_carried_by_filename_star_rfc_8187_3_2() {
        assert_eq!(
            attachment("naïve €.txt"),
            "attachment; filename=\"na_ve _.txt\"; filename*=UTF-8''na%C3%AFve%20%E2%82%AC.txt"
        );
        assert_eq!(
            attachment("日本.pdf"),
            "attachment; filename=\"__.pdf\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC.pdf"
        );
    }

    #[test]
    fn quotes_and_backslashes_can_not_end_the_quoted_string_rfc_6266_appendix_d() {
        assert_eq!(
            attachment("a\"; filename=\"evil.exe"),
            "attachment; filename=\"a_; filename=_evil.exe\"; \
             filename*=UTF-8''a%22%3B%20filename%3D%22evil.exe"
        );
        assert_eq!(
            attachment("a\\b"),
            "attachment; filename=\"a_b\"; filename*=UTF-8''a%5Cb"
        );
    }

    #[test]
    fn percent_sequences_are_never_left_in_the_fallback_rfc_6266_appendix_d() {
        assert_eq!(
            attachment("a%2Fb"),
            "attachment; filename=\"a_2Fb\"; filename*=UTF-8''a%252Fb"
        );
    }

    #[test]
    fn the_characters_that_rfc_8187_3_2_1_leaves_out_of_attr_char_are_encoded() {
        assert_eq!(
            attachment("*'()é"),
            "attachment; filename=\"*'()_\"; filename*=UTF-8''%2A%27%28%29%C3%A9"
        );
    }

    #[test]
    fn control_characters_appear_neither_raw_nor_encoded() {
        assert_eq!(
            attachment("a\r\nSet-Cookie: x=\u{7f}\u{85}\0.txt"),
            "attachment; filename=\"a__Set-Cookie: x=___.txt\""
        );
        assert_eq!(
            attachment("é\n"),
            "attachment; filename=\"__\"; filename*=UTF-8''%C3%A9_"
        );
    }

    #[test]
    fn harmless_types_may_be_shown_inline_whatever_their_case_and_parameters() {
        for content_type in [
            "image/png",
            "image/jpeg",
            "image/gif",
            "image/webp",
            "image/avif",
            "image/bmp",
            "IMAGE/PNG",
            "audio/mpeg",
            "audio/ogg; codecs=opus",
            "video/mp4",
            "Video/WebM",
            "application/pdf",
            "text/plain",
            "text/plain; charset=utf-8",
            "TEXT/Plain;charset=x",
        ] {
            assert!(inline_allowed(content_type), "{content_type}");
        }
    }

    #[test]
    fn everything_that_could_run_a_script_is_saved() {
        for content_type in [
            "text/html",
            "image/svg+xml",
            "IMAGE/SVG+XML",
            "application/xhtml+xml",
            "text/xml",
            "application/xml",
            "application/javascript",
            "text/css",
            "text/csv",
            "application/octet-stream",
            "multipart/x-mixed-replace",
            "video/evil+xml",
            "audio/x+XML",
            "image/unknown",
            "image/*",
            "video/*",
            "text/plainx",
        ] {
            assert!(!inline_allowed(content_type), "{content_type}");
        }
    }

    #[test]
    fn a_value_that_is_no_media_type_is_saved() {
        for content_type in [
            "",
            "png",
            "image/",
            "video/",
            "text/plain, text/html",
            "text/plain; x=,text/html",
            "video/mp4,text/html",
            "text/html;text/plain",
            "text/plain\n",
        ] {
            assert!(!inline_allowed(content_type), "{content_type}");
        }
    }

    #[test]
    fn random_names_give_printable_ascii_that_decodes_to_the_name() {
        let mut rng = rand::rng();
        for _ in 0..20_000 {
            let name: String = (0..rng.random_range(0..24))
                .map(|_| match rng.random_range(0..3) {
                    0 => rng.random_range('\0'..='\u{9f}'),
                    1 => ['/', '"', '\\', '%', '\'', '*'][rng.random_range(0..6)],
                    _ => rng.random(),
                })
                .collect();
            let value = attachment(&name);
            assert!(value.bytes().all(|b| (b' '..=b'~').contains(&b)));
            let quoted = value.split('"').nth(1).unwrap();
            assert!(!quoted.contains(['\\', '%', '/']));
            if let Some((_, encoded)) = value.split_once("filename*=UTF-8''") {
                let decoded = percent_decode_str(encoded).decode_utf8().unwrap();
                assert!(!decoded.chars().any(char::is_control));
                let last = name.rsplit('/').next().unwrap();
                assert_eq!(decoded.chars().count(), last.chars().count());
            }
            let _ = inline_allowed(&name);
        }
    }
}
