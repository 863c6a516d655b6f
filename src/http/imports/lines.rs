//! The items of an import, taken out of a body as it comes: what is held is one item at a time.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use csv_core::ReadRecordResult;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::domain::imports::Offered;
use crate::error::{Error, Invalid, Kind, Result};

use super::super::lines::{Lines, too_long};
use super::super::{extract, types};

/// The longest item as it is written, in bytes: metadata may have 64 KiB, and each byte six as an escape.
const ITEM_BYTES: usize = 512 * 1024;

/// What may stand around the items of a JSON document.
const ENVELOPE_BYTES: usize = 64 * 1024;

const CSV_COLUMNS: [&str; 7] = [
    "url", "name", "metadata", "size", "sha256", "md5", "headers",
];

/// An item, or what is wrong with it beside what is known of its URL.
pub(super) type Line = Result<Offered, (String, Vec<Invalid>)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Ndjson,
    Csv,
    Tsv,
}

pub(super) enum Reader {
    Json(Json),
    Ndjson(Lines),
    Csv(Box<Csv>),
    Tsv { lines: Lines, begun: bool },
}

impl Reader {
    pub(super) fn new(format: Format) -> Self {
        match format {
            Format::Json => Self::Json(Json::default()),
            Format::Ndjson => Self::Ndjson(Lines::new(ITEM_BYTES)),
            Format::Csv => Self::Csv(Box::default()),
            Format::Tsv => Self::Tsv {
                lines: Lines::new(ITEM_BYTES),
                begun: false,
            },
        }
    }

    /// Takes the next bytes; the items that are complete with them.
    ///
    /// # Errors
    /// 422 for what can't be taken apart into items.
    pub(super) fn read(&mut self, bytes: &[u8], found: &mut Vec<Line>) -> Result<()> {
        match self {
            Self::Json(json) => json.read(bytes, found),
            Self::Ndjson(lines) => lines.read(bytes, |line| {
                found.extend(ndjson(line));
                Ok(())
            }),
            Self::Csv(csv) => csv.read(bytes, found),
            Self::Tsv { lines, begun } => lines.read(bytes, |line| tsv(line, begun, found)),
        }
    }

    /// Takes the end; the options, where the body may have some.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub(super) fn end(&mut self, found: &mut Vec<Line>) -> Result<Option<types::WantedOptions>> {
        match self {
            Self::Json(json) => return json.end(),
            Self::Ndjson(lines) => lines.end(|line| {
                found.extend(ndjson(line));
                Ok(())
            })?,
            Self::Csv(csv) => csv.end(found)?,
            Self::Tsv { lines, begun } => {
                lines.end(|line| tsv(line, begun, found))?;
                if !*begun {
                    return Err(no_tsv());
                }
            }
        }
        Ok(None)
    }
}

fn unreadable(detail: impl Into<String>) -> Error {
    Error::invalid("", detail)
}

/// None for a line without anything.
fn ndjson(line: &[u8]) -> Option<Line> {
    let line = line.trim_ascii();
    (!line.is_empty()).then(|| json_item(line).unwrap_or_else(|error| Err(faulty(line, &error))))
}

/// # Errors
/// What is no JSON.
fn json_item(text: &[u8]) -> Result<Line> {
    match extract::json_object::<types::NewImportItem>(text) {
        Ok(item) => Ok(Ok(Offered {
            url: item.url,
            name: item.name,
            metadata: item.metadata,
            size: item.size,
            sha256: item.sha256,
            md5: item.md5,
            headers: item.headers,
        })),
        Err(error) if error.kind() == Kind::MalformedJson => Err(error),
        Err(error) => Ok(Err(faulty(text, &error))),
    }
}

fn faulty(text: &[u8], error: &Error) -> (String, Vec<Invalid>) {
    #[derive(Deserialize)]
    struct Named {
        url: String,
    }
    let url = serde_json::from_slice::<Named>(text).map(|named| named.url);
    let mut invalid = error.invalid_parts().to_vec();
    if invalid.is_empty() {
        invalid.push(Invalid {
            pointer: String::new(),
            detail: error.detail().to_owned(),
        });
    }
    (url.unwrap_or_default(), invalid)
}

fn no_tsv() -> Error {
    unreadable("the first line must be TsvHttpData-1.0")
}

/// A URL, and as far as they are there its size and its MD5 in base64.
fn tsv(line: &[u8], begun: &mut bool, found: &mut Vec<Line>) -> Result<()> {
    let line = line.trim_ascii();
    if !*begun {
        *begun = line == b"TsvHttpData-1.0";
        return if *begun { Ok(()) } else { Err(no_tsv()) };
    }
    if line.is_empty() {
        return Ok(());
    }
    let Ok(text) = std::str::from_utf8(line) else {
        found.push(Err(wrong(
            String::from_utf8_lossy(line),
            "",
            "is not UTF-8",
        )));
        return Ok(());
    };
    let mut fields = text.split('\t').map(str::trim);
    let url = fields.next().unwrap_or_default();
    let mut offered = Offered {
        url: url.to_owned(),
        ..Offered::default()
    };
    let size = fields.next().filter(|size| !size.is_empty());
    let md5 = fields.next().filter(|md5| !md5.is_empty());
    found.push(if fields.next().is_some() {
        Err(wrong(url, "", "has more than three fields"))
    } else {
        match (size.map(str::parse), md5.map(|md5| STANDARD.decode(md5))) {
            (Some(Err(_)), _) => Err(wrong(url, "/size", "must be a number of bytes")),
            (_, Some(Err(_))) => Err(wrong(url, "/md5", "must be base64")),
            (size, md5) => {
                offered.size = size.and_then(Result::ok);
                offered.md5 = md5.and_then(Result::ok).map(hex::encode);
                Ok(offered)
            }
        }
    });
    Ok(())
}

fn wrong(url: impl Into<String>, pointer: &str, detail: &str) -> (String, Vec<Invalid>) {
    let invalid = Invalid {
        pointer: pointer.to_owned(),
        detail: detail.to_owned(),
    };
    (url.into(), vec![invalid])
}

/// Records as RFC 4180 has them, below a header that names the columns.
pub(super) struct Csv {
    reader: csv_core::Reader,
    fields: Vec<u8>,
    ends: Vec<usize>,
    /// How much of both is filled.
    filled: (usize, usize),
    /// The column of each field; empty until the header has come.
    columns: Vec<&'static str>,
}

impl Default for Csv {
    fn default() -> Self {
        Self {
            reader: csv_core::Reader::new(),
            fields: vec![0; 16 * 1024],
            // One more than there are columns tells a record that is too long.
            ends: vec![0; CSV_COLUMNS.len() + 1],
            filled: (0, 0),
            columns: Vec::new(),
        }
    }
}

impl Csv {
    fn read(&mut self, mut bytes: &[u8], found: &mut Vec<Line>) -> Result<()> {
        // Without a byte it would be told of the end.
        while !bytes.is_empty() {
            let taken = self.step(bytes, found)?.0;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn end(&mut self, found: &mut Vec<Line>) -> Result<()> {
        while !self.step(&[], found)?.1 {}
        if self.columns.is_empty() {
            return Err(unreadable("the first line must name the columns"));
        }
        Ok(())
    }

    /// How many bytes were taken, and whether that was the end.
    fn step(&mut self, bytes: &[u8], found: &mut Vec<Line>) -> Result<(usize, bool)> {
        let (written, ended) = self.filled;
        let (result, taken, more, ends) =
            self.reader
                .read_record(bytes, &mut self.fields[written..], &mut self.ends[ended..]);
        self.filled = (written + more, ended + ends);
        match result {
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::OutputFull if self.fields.len() >= ITEM_BYTES => {
                return Err(too_long(ITEM_BYTES));
            }
            ReadRecordResult::OutputFull => {
                self.fields.resize(self.fields.len() * 2, 0);
            }
            ReadRecordResult::OutputEndsFull => {
                return Err(unreadable(format!(
                    "a record has more than {} fields",
                    CSV_COLUMNS.len()
                )));
            }
            ReadRecordResult::Record => {
                self.record(found)?;
                self.filled = (0, 0);
            }
            ReadRecordResult::End => return Ok((taken, true)),
        }
        Ok((taken, false))
    }

    fn record(&mut self, found: &mut Vec<Line>) -> Result<()> {
        let mut start = 0;
        let mut fields = Vec::with_capacity(self.filled.1);
        for end in &self.ends[..self.filled.1] {
            fields.push(&self.fields[start..*end]);
            start = *end;
        }
        if self.columns.is_empty() {
            self.columns = columns(&fields)?;
        } else {
            found.push(csv_item(&self.columns, &fields));
        }
        Ok(())
    }
}

fn columns(fields: &[&[u8]]) -> Result<Vec<&'static str>> {
    let mut columns = Vec::new();
    for field in fields {
        let name = field.strip_prefix(b"\xef\xbb\xbf").unwrap_or(field);
        let column = CSV_COLUMNS
            .iter()
            .copied()
            .find(|column| column.as_bytes() == name.trim_ascii())
            .filter(|column| !columns.contains(column))
            .ok_or_else(|| {
                let name: String = String::from_utf8_lossy(name).chars().take(64).collect();
                let known = CSV_COLUMNS.join(", ");
                unreadable(format!("{name:?} is no column, or there twice: {known}"))
            })?;
        columns.push(column);
    }
    if columns.contains(&"url") {
        Ok(columns)
    } else {
        Err(unreadable("there is no column url"))
    }
}

fn csv_item(columns: &[&str], fields: &[&[u8]]) -> Line {
    let mut texts = BTreeMap::new();
    for (column, field) in columns.iter().zip(fields) {
        match std::str::from_utf8(field) {
            Ok("") => {}
            Ok(text) => {
                texts.insert(*column, text);
            }
            Err(_) => return Err(wrong("", &format!("/{column}"), "is not UTF-8")),
        }
    }
    let text = |column: &str| texts.get(column).copied();
    let url = text("url").unwrap_or_default();
    if columns.len() != fields.len() {
        return Err(wrong(
            url,
            "",
            "has not as many fields as there are columns",
        ));
    }
    let Some(size) = text("size").map(str::parse).transpose().ok() else {
        return Err(wrong(url, "/size", "must be a number of bytes"));
    };
    let Ok(metadata) = text("metadata").map(json).transpose() else {
        return Err(wrong(url, "/metadata", "must be a JSON object"));
    };
    let Ok(headers) = text("headers").map(json).transpose() else {
        return Err(wrong(url, "/headers", "must be a JSON object of texts"));
    };
    let owned = |column: &str| text(column).map(str::to_owned);
    Ok(Offered {
        url: url.to_owned(),
        name: owned("name"),
        metadata,
        size,
        sha256: owned("sha256"),
        md5: owned("md5"),
        headers,
    })
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    extract::json_object(text.as_bytes())
}

/// `{"items": […], "options": {…}}`, in any order. The items are cut out as they come; what is left
/// around them is read as a whole at the end.
#[derive(Default)]
pub(super) struct Json {
    around: Vec<u8>,
    item: Vec<u8>,
    place: Place,
    /// Of what is open at this place: in the document, or in the item.
    depth: usize,
    in_text: bool,
    escaped: bool,
    /// Where the last text in the document began, in `around`.
    text_at: usize,
    seen: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Place {
    #[default]
    Around,
    /// Behind `"items":`
    Before,
    /// Within the list; whether an item must come.
    Between {
        must: bool,
    },
    Item,
    /// Behind an item.
    Behind,
}

impl Json {
    fn read(&mut self, bytes: &[u8], found: &mut Vec<Line>) -> Result<()> {
        for byte in bytes {
            self.byte(*byte, found)?;
        }
        Ok(())
    }

    fn byte(&mut self, byte: u8, found: &mut Vec<Line>) -> Result<()> {
        match self.place {
            Place::Around => self.around(byte),
            Place::Before if byte == b'[' => {
                self.keep(byte)?;
                self.place = Place::Between { must: false };
                Ok(())
            }
            Place::Before => {
                if !byte.is_ascii_whitespace() {
                    // No list: the reading of the whole says so.
                    self.place = Place::Around;
                }
                self.around(byte)
            }
            Place::Between { .. } if byte.is_ascii_whitespace() => Ok(()),
            Place::Between { must: false } if byte == b']' => self.list_ends(byte),
            Place::Between { .. } => {
                self.place = Place::Item;
                self.depth = 0;
                self.of_item(byte, found)
            }
            Place::Item => self.of_item(byte, found),
            Place::Behind => match byte {
                b',' => {
                    self.place = Place::Between { must: true };
                    Ok(())
                }
                b']' => self.list_ends(byte),
                byte if byte.is_ascii_whitespace() => Ok(()),
                _ => Err(unreadable("items must be separated by commas")),
            },
        }
    }

    fn list_ends(&mut self, byte: u8) -> Result<()> {
        self.place = Place::Around;
        self.depth = 1;
        self.keep(byte)
    }

    fn keep(&mut self, byte: u8) -> Result<()> {
        if self.around.len() >= ENVELOPE_BYTES {
            return Err(unreadable("there is too much beside the items"));
        }
        self.around.push(byte);
        Ok(())
    }

    /// Whether the byte is part of a text, or one of its quotes.
    fn in_text(&mut self, byte: u8) -> bool {
        if !self.in_text {
            self.in_text = byte == b'"';
            return self.in_text;
        }
        if self.escaped {
            self.escaped = false;
        } else if byte == b'\\' {
            self.escaped = true;
        } else if byte == b'"' {
            self.in_text = false;
        }
        true
    }

    fn around(&mut self, byte: u8) -> Result<()> {
        let began = !self.in_text && byte == b'"';
        if began {
            self.text_at = self.around.len();
        }
        self.keep(byte)?;
        if self.in_text(byte) {
            return Ok(());
        }
        match byte {
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b':' if self.depth == 1 => {
                let key = &self.around[self.text_at..self.around.len() - 1];
                if serde_json::from_slice::<String>(key).is_ok_and(|key| key == "items") {
                    if self.seen {
                        return Err(Error::invalid("/items", "is there twice"));
                    }
                    self.seen = true;
                    self.place = Place::Before;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn of_item(&mut self, byte: u8, found: &mut Vec<Line>) -> Result<()> {
        if self.depth == 0 && !self.in_text && matches!(byte, b',' | b']') {
            // What is neither an object nor a list nor a text ends with what comes behind it.
            self.item_ends(found)?;
            return self.byte(byte, found);
        }
        if self.item.len() >= ITEM_BYTES {
            return Err(too_long(ITEM_BYTES));
        }
        self.item.push(byte);
        if self.in_text(byte) {
            return Ok(());
        }
        match byte {
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    return self.item_ends(found);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn item_ends(&mut self, found: &mut Vec<Line>) -> Result<()> {
        self.place = Place::Behind;
        let line = json_item(&self.item)
            .map_err(|error| Error::invalid("/items", error.detail().to_owned()))?;
        found.push(line);
        self.item.clear();
        Ok(())
    }

    fn end(&mut self) -> Result<Option<types::WantedOptions>> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Envelope {
            #[serde(rename = "items")]
            _items: Vec<IgnoredAny>,
            #[serde(default)]
            options: Option<types::WantedOptions>,
        }
        if self.place != Place::Around {
            return Err(Error::invalid("/items", "the list has no end"));
        }
        let envelope: Envelope = match extract::json_object(&self.around) {
            Err(error) if error.kind() == Kind::MalformedJson => {
                return Err(unreadable(error.detail().to_owned()));
            }
            envelope => envelope?,
        };
        Ok(envelope.options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: Format, text: &[u8], step: usize) -> Result<Vec<Line>> {
        let mut reader = Reader::new(format);
        let mut found = Vec::new();
        for chunk in text.chunks(step) {
            reader.read(chunk, &mut found)?;
        }
        reader.end(&mut found)?;
        Ok(found)
    }

    fn urls(format: Format, text: &str) -> Vec<String> {
        let whole = read(format, text.as_bytes(), text.len().max(1)).unwrap();
        for step in [1, 2, 3, 7] {
            let pieces = read(format, text.as_bytes(), step).unwrap();
            assert_eq!(
                format!("{pieces:?}"),
                format!("{whole:?}"),
                "in steps of {step}"
            );
        }
        whole
            .into_iter()
            .map(|line| line.map_or_else(|(url, _)| format!("!{url}"), |offered| offered.url))
            .collect()
    }

    #[test]
    fn json_is_read_in_pieces_and_in_any_order() {
        for text in [
            r#"{"items":[{"url":"a"},{"url":"b]\",{"}]}"#,
            r#" { "options" : {"attempts":2} , "items" : [ {"url":"a"} , {"url":"b]\",{"} ] } "#,
            r#"{"it\u0065ms":[{"url":"a"},{"url":"b]\",{"}],"options":null}"#,
        ] {
            assert_eq!(urls(Format::Json, text), ["a", "b]\",{"], "{text}");
        }
        assert_eq!(urls(Format::Json, r#"{"items":[]}"#), [""; 0]);
        assert_eq!(
            urls(
                Format::Json,
                r#"{"items":[1,"x",{"url":2},{"url":"a","b":1},[],null]}"#
            ),
            ["!", "!", "!", "!a", "!", "!"]
        );
    }

    #[test]
    fn json_that_cant_be_taken_apart_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            "nonsense",
            r#"{"items":[{"url":"a"},]}"#,
            r#"{"items":[{"url":"a"}{"url":"b"}]}"#,
            r#"{"items":[{"url":"a"}"#,
            r#"{"items":[{"url":nope}]}"#,
            r#"{"items":[,]}"#,
            r#"{"items":{}}"#,
            r#"{"items":[],"items":[]}"#,
            r#"{"items":[],"x":1}"#,
            r#"{"items":[]}}"#,
            r#"{"items":[],"options":{"x":1}}"#,
        ] {
            let error = read(Format::Json, text.as_bytes(), 5).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidRequest, "{text}: {error}");
        }
    }

    #[test]
    fn a_bad_line_is_an_item_of_its_own() {
        assert_eq!(
            urls(
                Format::Ndjson,
                "{\"url\":\"a\"}\r\n\n{nonsense\n[]\n{\"url\":\"b\",\"x\":1}\n{\"url\":\"c\"}"
            ),
            ["a", "!", "!", "!b", "c"]
        );
    }

    #[test]
    fn csv_has_a_header_quotes_and_empty_fields() {
        assert_eq!(
            urls(
                Format::Csv,
                "\u{feff}name,url,size,metadata\r\n\"a, \"\"b\"\"\nc\",http://x,7,\"{\"\"k\"\":1}\"\r\n,y,,\n,z,nine,\nonly\n,w,,[]\n"
            ),
            ["http://x", "y", "!z", "!", "!w"]
        );
        for text in [
            "",
            "name\na",
            "url,nonsense\na,b",
            "url,url\na,b",
            "url\na,b,c,d,e,f,g,h,i",
        ] {
            assert!(read(Format::Csv, text.as_bytes(), 3).is_err(), "{text}");
        }
    }

    #[test]
    fn tsv_is_as_google_has_it() {
        assert_eq!(
            urls(
                Format::Tsv,
                "TsvHttpData-1.0\nhttp://x\t1357\twHENa08V36iPYAsOa2JAdw==\nhttp://y\nhttp://z\tmany\n\nhttp://w\t1\t?\na\t1\t\tb\n"
            ),
            ["http://x", "http://y", "!http://z", "!http://w", "!a"]
        );
        for text in ["", "http://x\n", "TsvHttpData-2.0\n"] {
            assert!(read(Format::Tsv, text.as_bytes(), 3).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_held_is_bounded() {
        let long = "x".repeat(ITEM_BYTES + 1);
        for (format, text) in [
            (Format::Ndjson, long.clone()),
            (Format::Tsv, long.clone()),
            (Format::Csv, format!("url\n{long}")),
            (Format::Json, format!(r#"{{"items":["{long}"#)),
            (Format::Json, format!(r#"{{"x":"{long}"#)),
        ] {
            let error = read(format, text.as_bytes(), 1000).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidRequest, "{format:?}");
        }
    }
}
