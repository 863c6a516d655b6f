//! Writes past the page cache (`O_DIRECT`): what is to be on the disk before its sender is answered need not be
//! in memory twice, nor push out what others read.
//!
//! Only whole pages go that way. What lies before the first of them and behind the last is written as ever, so
//! that no page is ever written both ways.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

/// A multiple of what any file system asks of addresses, lengths and places, in bytes.
const PAGE: usize = 4096;

/// In bytes, of one write.
const BLOCK: usize = 1024 * 1024;

/// A file that is written past the page cache.
pub(in crate::objects::local) struct Direct {
    /// None: the file system has refused it.
    file: Option<File>,
    buffer: Vec<u8>,
    /// Where the first page of the buffer begins in it.
    start: usize,
}

impl Direct {
    /// Of a file that is there. Never fails: where it can't be, the page cache is written to.
    pub(super) fn new(path: &Path) -> Self {
        let buffer = vec![0; BLOCK + PAGE];
        let start = buffer.as_ptr().addr().next_multiple_of(PAGE) - buffer.as_ptr().addr();
        Self {
            file: open(path),
            buffer,
            start,
        }
    }

    /// Whether the file system has not refused it.
    pub(in crate::objects::local) fn works(&self) -> bool {
        self.file.is_some()
    }

    /// Writes from `at` on. `file` is the same one, opened as ever; its own place does not matter.
    pub(super) fn write(&mut self, file: &File, at: u64, chunks: &[Bytes]) -> Result<()> {
        let mut at = at;
        let mut left = Left {
            chunks: chunks.iter(),
            now: &[],
        };
        let block = &mut self.buffer[self.start..self.start + BLOCK];
        let page = PAGE as u64;
        let before = usize::try_from(at.next_multiple_of(page) - at).unwrap_or(0);
        let filled = left.fill(&mut block[..before]);
        file.write_all_at(&block[..filled], at)?;
        at += filled as u64;
        loop {
            let filled = left.fill(block);
            let (pages, behind) = block[..filled].split_at(filled - filled % PAGE);
            let written = match &self.file {
                Some(direct) => pages_written(direct, at, pages)?,
                None => 0,
            };
            if written < pages.len() {
                self.file = None;
                file.write_all_at(&pages[written..], at + written as u64)?;
            }
            file.write_all_at(behind, at + pages.len() as u64)?;
            at += filled as u64;
            if filled < BLOCK {
                return Ok(());
            }
        }
    }
}

/// How many bytes were written before the file system had enough of it: whole pages.
fn pages_written(direct: &File, at: u64, pages: &[u8]) -> Result<usize> {
    let mut written = 0;
    while written < pages.len() {
        match direct.write_at(&pages[written..], at + written as u64) {
            Ok(0) => break,
            // Part of a page: it is written again, the other way.
            Ok(more) if more % PAGE > 0 => return Ok(written + more - more % PAGE),
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Its pages, or blocks, are larger, or it can't do it at all.
            Err(error) if error.kind() == ErrorKind::InvalidInput => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

#[cfg(target_os = "linux")]
fn open(path: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};

    let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    Some(File::from(file))
}

#[cfg(not(target_os = "linux"))]
fn open(_: &Path) -> Option<File> {
    None
}

/// Bytes that are not written yet.
struct Left<'a> {
    chunks: std::slice::Iter<'a, Bytes>,
    now: &'a [u8],
}

impl Left<'_> {
    /// Copies as many as there is room for; how many.
    fn fill(&mut self, room: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < room.len() {
            if self.now.is_empty() {
                match self.chunks.next() {
                    Some(chunk) => self.now = chunk,
                    None => break,
                }
            }
            let taken = self.now.len().min(room.len() - filled);
            let (now, left) = self.now.split_at(taken);
            room[filled..filled + taken].copy_from_slice(now);
            self.now = left;
            filled += taken;
        }
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wherever it begins, however it is cut, and whether or not the file system has part in it.
    #[test]
    fn bytes_are_written_where_they_belong() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let bytes: Vec<u8> = (0..5 * BLOCK / 2 + 77)
            .map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8)
            .collect();
        let bytes = Bytes::from(bytes);
        for refused in [false, true] {
            let file = File::create(&path).unwrap();
            let mut direct = Direct::new(&path);
            if refused {
                direct.file = None;
            }
            let mut at = 0;
            for size in [
                1,
                PAGE - 1,
                PAGE,
                10,
                BLOCK,
                PAGE - 10,
                0,
                BLOCK / 2 + 3,
                BLOCK,
                70,
            ] {
                let end = bytes.len().min(at + size);
                let cut = at + (end - at) / 3;
                let chunks = [bytes.slice(at..cut), Bytes::new(), bytes.slice(cut..end)];
                direct.write(&file, at as u64, &chunks).unwrap();
                at = end;
            }
            assert!(std::fs::read(&path).unwrap() == bytes[..at]);
            // What lies behind is written over.
            direct.write(&file, 0, &[bytes.slice(..7)]).unwrap();
            direct.write(&file, 5000, &[bytes.slice(5000..)]).unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes);
        }
    }

    #[test]
    fn what_fails_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let file = File::create(&path).unwrap();
        let mut direct = Direct::new(&path);
        direct.file = Some(File::open(&path).unwrap());
        let chunks = [Bytes::from(vec![1; 2 * PAGE])];
        assert!(direct.write(&file, 0, &chunks).is_err());
    }
}
