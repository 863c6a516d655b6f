//! The layout of a ZIP archive (APPNOTE.TXT 6.3.10) that is written in one go: contents as they are
//! (stored), their checksums behind them, ZIP64 only where it is needed. Pieces of bytes come out, for
//! whoever sends them; contents never come in.

use time::OffsetDateTime;

use crate::clock::Timestamp;

/// What a field of 4 bytes says of a number that stands in the ZIP64 field (section 4.4.1.4).
const IN_ZIP64: u32 = u32::MAX;

/// Bit 3: sizes and checksum are in a data descriptor; bit 11: the name is UTF-8 (section 4.4.4).
const FLAGS: u16 = 1 << 3 | 1 << 11;

/// Versions of the format in which a reader finds all that is used (section 4.4.3.2): 2.0, and 4.5 with ZIP64.
const PLAIN: u16 = 20;
const ZIP64: u16 = 45;

/// Made on Unix (section 4.4.2), for the permissions below.
const MADE_BY: u16 = 3 << 8 | ZIP64;

/// A regular file that its owner writes and everybody reads.
const ATTRIBUTES: u32 = 0o100_644 << 16;

/// How many bytes of the directory come at a time, about.
const PIECE: usize = 64 * 1024;

/// One file of an archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<N> {
    pub name: N,
    /// In bytes.
    pub size: u64,
    pub at: Timestamp,
}

/// An archive that is being written.
pub(super) struct Zip<N> {
    /// How many bytes are written.
    offset: u64,
    written: Vec<Written<N>>,
}

struct Written<N> {
    entry: Entry<N>,
    offset: u64,
    crc: u32,
}

impl<N: AsRef<str>> Zip<N> {
    pub(super) fn new() -> Self {
        Self {
            offset: 0,
            written: Vec::new(),
        }
    }

    /// What stands before the content of a file (section 4.3.7).
    pub(super) fn begin(entry: &Entry<N>) -> Vec<u8> {
        let name = entry.name.as_ref().as_bytes();
        let mut extra = timestamp(entry.at);
        if entry.large() {
            // The sizes are in the descriptor. This field says that they have 8 bytes there (section 4.3.9.2).
            extra.extend_from_slice(&[1, 0, 16, 0]);
            extra.extend_from_slice(&[0; 16]);
        }
        let size = if entry.large() { IN_ZIP64 } else { 0 };
        let mut head = Vec::with_capacity(30 + name.len() + extra.len());
        put4(&mut head, 0x0403_4b50);
        put2(&mut head, if entry.large() { ZIP64 } else { PLAIN });
        put_common(&mut head, entry.at, 0, size, name, &extra);
        head.extend_from_slice(name);
        head.extend_from_slice(&extra);
        head
    }

    /// What stands behind the content: the data descriptor (section 4.3.9).
    pub(super) fn end(&mut self, entry: Entry<N>, crc: u32) -> Vec<u8> {
        let mut descriptor = Vec::with_capacity(24);
        put4(&mut descriptor, 0x0807_4b50);
        put4(&mut descriptor, crc);
        for _ in ["compressed", "uncompressed"] {
            if entry.large() {
                put8(&mut descriptor, entry.size);
            } else {
                put4(&mut descriptor, small(entry.size));
            }
        }
        let head = 30 + entry.name.as_ref().len() + timestamp(entry.at).len();
        let zip64 = if entry.large() { 20 } else { 0 };
        let offset = self.offset;
        self.offset += (head + zip64 + descriptor.len()) as u64 + entry.size;
        self.written.push(Written { entry, offset, crc });
        descriptor
    }

    /// The directory and its end (sections 4.3.12 and 4.3.14 to 4.3.16), in pieces.
    pub(super) fn finish(self) -> impl Iterator<Item = Vec<u8>> + Send
    where
        N: Send,
    {
        let begins = self.offset;
        let count = self.written.len() as u64;
        let mut size = 0_u64;
        let mut written = self.written.into_iter();
        let mut ended = false;
        std::iter::from_fn(move || {
            let mut piece = Vec::new();
            for written in written.by_ref() {
                written.put(&mut piece);
                if piece.len() >= PIECE {
                    break;
                }
            }
            size += piece.len() as u64;
            if piece.is_empty() && !ended {
                ended = true;
                put_end(&mut piece, count, size, begins);
            }
            (!piece.is_empty()).then_some(piece)
        })
    }
}

impl<N> Entry<N> {
    /// Whether its size needs ZIP64.
    fn large(&self) -> bool {
        self.size >= u64::from(IN_ZIP64)
    }
}

impl<N: AsRef<str>> Written<N> {
    /// Its head in the directory (section 4.3.12).
    fn put(&self, out: &mut Vec<u8>) {
        let (entry, name) = (&self.entry, self.entry.name.as_ref().as_bytes());
        let mut extra = timestamp(entry.at);
        // Only what does not fit above, in this order (section 4.5.3).
        let mut beyond = Vec::new();
        if entry.large() {
            put8(&mut beyond, entry.size);
            put8(&mut beyond, entry.size);
        }
        if self.offset >= u64::from(IN_ZIP64) {
            put8(&mut beyond, self.offset);
        }
        if !beyond.is_empty() {
            put2(&mut extra, 1);
            put2(&mut extra, beyond.len() as u16);
            extra.extend_from_slice(&beyond);
        }
        let size = small(entry.size);
        put4(out, 0x0201_4b50);
        put2(out, MADE_BY);
        put2(out, if beyond.is_empty() { PLAIN } else { ZIP64 });
        put_common(out, entry.at, self.crc, size, name, &extra);
        // No comment, on the first disk, no internal attributes.
        out.extend_from_slice(&[0; 6]);
        put4(out, ATTRIBUTES);
        put4(out, small(self.offset));
        out.extend_from_slice(name);
        out.extend_from_slice(&extra);
    }
}

/// From the flags to the lengths of what follows, which both heads of a file share. Nothing is compressed.
fn put_common(out: &mut Vec<u8>, at: Timestamp, crc: u32, size: u32, name: &[u8], extra: &[u8]) {
    put2(out, FLAGS);
    put2(out, 0);
    let (time, date) = dos(at);
    put2(out, time);
    put2(out, date);
    put4(out, crc);
    put4(out, size);
    put4(out, size);
    // A file's name has 1,024 bytes at most, and some more for its number.
    put2(out, name.len() as u16);
    put2(out, extra.len() as u16);
}

/// The end of the directory, which begins at `begins` and has `size` bytes.
fn put_end(out: &mut Vec<u8>, count: u64, size: u64, begins: u64) {
    let fits =
        count < u64::from(u16::MAX) && size < u64::from(IN_ZIP64) && begins < u64::from(IN_ZIP64);
    if !fits {
        put4(out, 0x0606_4b50);
        // What follows this field.
        put8(out, 44);
        put2(out, MADE_BY);
        put2(out, ZIP64);
        out.extend_from_slice(&[0; 8]);
        put8(out, count);
        put8(out, count);
        put8(out, size);
        put8(out, begins);
        // The locator: on which disk the record above is, where, and how many disks there are.
        put4(out, 0x0706_4b50);
        put4(out, 0);
        put8(out, begins + size);
        put4(out, 1);
    }
    let count = u16::try_from(count).unwrap_or(u16::MAX);
    put4(out, 0x0605_4b50);
    out.extend_from_slice(&[0; 4]);
    put2(out, count);
    put2(out, count);
    put4(out, small(size));
    put4(out, small(begins));
    // No comment.
    put2(out, 0);
}

/// How many bytes an archive of these files has.
pub(super) fn length<'a>(entries: impl Iterator<Item = Entry<&'a str>>) -> u64 {
    let mut zip = Zip::new();
    for entry in entries {
        zip.end(entry, 0);
    }
    let begins = zip.offset;
    begins + zip.finish().map(|piece| piece.len() as u64).sum::<u64>()
}

/// The extended timestamp of Info-ZIP, in seconds since 1970, UTC (its proginfo/extrafld.txt); nothing
/// for what it can't say. The fields of the format itself say no time zone.
fn timestamp(at: Timestamp) -> Vec<u8> {
    let Ok(seconds) = i32::try_from(at.as_secs()) else {
        return Vec::new();
    };
    let mut field = Vec::with_capacity(29);
    put2(&mut field, 0x5455);
    put2(&mut field, 5);
    field.push(1);
    field.extend_from_slice(&seconds.to_le_bytes());
    field
}

/// Time and date as MS-DOS has them (section 4.4.6): from 1980 to 2107, in steps of 2 seconds.
fn dos(at: Timestamp) -> (u16, u16) {
    let at: OffsetDateTime = at.to_datetime();
    let year = at.year();
    if year < 1980 {
        return (0, 1 << 5 | 1);
    }
    if year > 2107 {
        return (23 << 11 | 59 << 5 | 29, 127 << 9 | 12 << 5 | 31);
    }
    let part = |part: u8, bits: u32| u16::from(part) << bits;
    let time = part(at.hour(), 11) | part(at.minute(), 5) | u16::from(at.second() / 2);
    let date = ((year - 1980) as u16) << 9 | part(u8::from(at.month()), 5) | u16::from(at.day());
    (time, date)
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(IN_ZIP64)
}

fn put2(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put4(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put8(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, size: u64) -> Entry<&str> {
        let at = Timestamp::parse("2026-01-31T12:34:56.789Z").unwrap();
        Entry { name, size, at }
    }

    fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
        let mut padded = [0; 8];
        padded[..length].copy_from_slice(&bytes[at..at + length]);
        u64::from_le_bytes(padded)
    }

    /// What stands before and behind a content.
    type Around = (Vec<u8>, Vec<u8>);

    /// The heads, descriptors and directory of an archive, with the contents left out.
    fn written(entries: &[Entry<&str>]) -> (Vec<Around>, Vec<u8>) {
        let mut zip = Zip::new();
        let mut parts = Vec::new();
        let mut length_of_all = 0;
        for entry in entries {
            let head = Zip::begin(entry);
            let descriptor = zip.end(*entry, 0x1234_5678);
            length_of_all += (head.len() + descriptor.len()) as u64 + entry.size;
            parts.push((head, descriptor));
        }
        let directory = zip.finish().flatten().collect::<Vec<u8>>();
        length_of_all += directory.len() as u64;
        assert_eq!(length(entries.iter().copied()), length_of_all);
        (parts, directory)
    }

    #[test]
    fn a_small_file_needs_no_zip64_appnote_4_3_7() {
        let (parts, directory) = written(&[entry("ä.txt", 5), entry("b", 0)]);
        let (head, descriptor) = &parts[0];
        assert_eq!(&head[..4], b"PK\x03\x04");
        // Version 2.0, a descriptor and UTF-8, stored; 12:34:56 of 2026-01-31.
        assert_eq!(&head[4..10], [20, 0, 0x08, 0x08, 0, 0]);
        assert_eq!(number(head, 10, 2), 12 << 11 | 34 << 5 | 28);
        assert_eq!(number(head, 12, 2), 46 << 9 | 1 << 5 | 31);
        // Checksum and sizes are zero where a descriptor has them (section 4.4.4).
        assert_eq!(&head[14..26], [0; 12]);
        assert_eq!((number(head, 26, 2), number(head, 28, 2)), (6, 9));
        assert_eq!(&head[30..36], "ä.txt".as_bytes());
        assert_eq!(&head[36..41], [0x55, 0x54, 5, 0, 1]);
        assert_eq!(number(head, 41, 4), 1_769_862_896);
        assert_eq!(head.len(), 45);
        assert_eq!(&descriptor[..4], b"PK\x07\x08");
        assert_eq!(number(descriptor, 4, 4), 0x1234_5678);
        assert_eq!(
            (number(descriptor, 8, 4), number(descriptor, 12, 4)),
            (5, 5)
        );
        assert_eq!(descriptor.len(), 16);
        // The directory: the second file lies behind the first one's 45 + 5 + 16 bytes.
        assert_eq!(&directory[..4], b"PK\x01\x02");
        assert_eq!(&directory[6..8], [20, 0]);
        let second = &directory[46 + 6 + 9..];
        assert_eq!(&second[..4], b"PK\x01\x02");
        assert_eq!(number(second, 42, 4), 66);
        let end = &directory[directory.len() - 22..];
        assert_eq!(&end[..4], b"PK\x05\x06");
        assert_eq!((number(end, 8, 2), number(end, 10, 2)), (2, 2));
        let size = directory.len() as u64 - 22;
        assert_eq!(
            (number(end, 12, 4), number(end, 16, 4)),
            (size, 66 + 40 + 16)
        );
    }

    #[test]
    fn a_large_file_has_sizes_of_eight_bytes_appnote_4_3_9_2_and_4_5_3() {
        let size = u64::from(u32::MAX);
        let (parts, directory) = written(&[entry("a", size), entry("b", 1)]);
        let (head, descriptor) = &parts[0];
        assert_eq!(number(head, 4, 2), 45);
        assert_eq!((number(head, 18, 4), number(head, 22, 4)), (size, size));
        assert_eq!(&head[31 + 9..31 + 13], [1, 0, 16, 0]);
        assert_eq!(descriptor.len(), 24);
        assert_eq!(
            (number(descriptor, 8, 8), number(descriptor, 16, 8)),
            (size, size)
        );
        // Both sizes, not the offset, which is 0.
        let extra = &directory[46 + 1 + 9..];
        assert_eq!(&extra[..4], [1, 0, 16, 0]);
        assert_eq!((number(extra, 4, 8), number(extra, 12, 8)), (size, size));
        // The offset alone.
        let second = &extra[20..];
        assert_eq!((number(second, 6, 2), number(second, 42, 4)), (45, size));
        let extra = &second[46 + 1 + 9..];
        assert_eq!(&extra[..4], [1, 0, 8, 0]);
        let offset = (head.len() + descriptor.len()) as u64 + size;
        assert_eq!(number(extra, 4, 8), offset);
        let end = &directory[directory.len() - 22..];
        assert_eq!((number(end, 10, 2), number(end, 16, 4)), (2, size));
    }

    #[test]
    fn one_byte_less_is_no_large_file() {
        let (parts, _) = written(&[entry("a", u64::from(u32::MAX) - 1)]);
        assert_eq!(number(&parts[0].0, 4, 2), 20);
        assert_eq!(parts[0].1.len(), 16);
    }

    #[test]
    fn many_files_have_a_zip64_end_appnote_4_3_14_and_4_3_15() {
        let names: Vec<String> = (0..65_535).map(|n| n.to_string()).collect();
        let entries: Vec<_> = names.iter().map(|name| entry(name, 1)).collect();
        let (_, fewer) = written(&entries[1..]);
        assert_eq!(number(&fewer, fewer.len() - 12, 2), 65_534);
        assert_ne!(&fewer[fewer.len() - 42..][..4], b"PK\x06\x07");
        let (_, directory) = written(&entries);
        let end = &directory[directory.len() - 22..];
        assert_eq!((number(end, 8, 2), number(end, 10, 2)), (65_535, 65_535));
        let locator = &directory[directory.len() - 42..];
        assert_eq!(&locator[..4], b"PK\x06\x07");
        let record = &directory[directory.len() - 98..];
        assert_eq!(&record[..4], b"PK\x06\x06");
        assert_eq!(
            (number(record, 24, 8), number(record, 32, 8)),
            (65_535, 65_535)
        );
        let (size, begins) = (number(record, 40, 8), number(record, 48, 8));
        assert_eq!(size, directory.len() as u64 - 98);
        assert_eq!(number(locator, 8, 8), begins + size);
    }

    #[test]
    fn times_out_of_bounds_are_the_nearest_appnote_4_4_6() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        assert_eq!(dos(at("1979-12-31T23:59:59Z")), (0, 1 << 5 | 1));
        assert_eq!(dos(at("1980-01-01T00:00:00Z")), (0, 1 << 5 | 1));
        assert_eq!(
            dos(at("2107-12-31T23:59:59Z")),
            dos(at("2108-01-01T00:00:00Z"))
        );
        assert!(timestamp(at("2038-01-19T03:14:07Z")).len() == 9);
        assert!(timestamp(at("2038-01-19T03:14:08Z")).is_empty());
    }
}
