use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::domain::links::slug_fault;
use crate::http::links::batch::read_lines;
use crate::http::links::follow::read_form;

/// Of any bytes: as a form for a link's password they have one or none, which comes back when it is sent
/// again; as lines of links each is answered once; and a slug that is taken is itself in a URL.
pub fn link(input: &[u8]) {
    if let Some(password) = read_form(input) {
        let again = utf8_percent_encode(&password, NON_ALPHANUMERIC);
        assert_eq!(
            read_form(format!("password={again}").as_bytes()),
            Some(password)
        );
    }
    let lines = input.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.trim_ascii().is_empty()).count();
    let read = read_lines(input);
    // The last is the one that is too long, or one too many.
    assert!(read.len() <= lines && read.len() <= 10_001);
    assert!(read.len() == lines || read.last().is_some_and(Result::is_err));
    for link in read.into_iter().flatten() {
        if let Some(slug) = link.slug.filter(|slug| slug_fault(slug).is_none()) {
            let path = format!("/l/{slug}");
            let url = Url::parse(&format!("http://example.com{path}"));
            assert_eq!(url.expect("a slug is a path").path(), path);
        }
    }
}
