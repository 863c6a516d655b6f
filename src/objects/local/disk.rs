//! The file system, a step at a time.
//!
//! All that the store does to a disk goes through here, so that every step has its fault points; a
//! test fails where `local.rs` names `std::fs` itself.

use std::fs::{self, File, Metadata, ReadDir};
use std::io::{Error, ErrorKind, IoSlice, Read, Result, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::Bytes;
use rustix::buffer::spare_capacity;

use crate::faults::Faults;

mod direct;

pub(super) use direct::Direct;

pub(super) struct Disk {
    faults: Faults,
}

impl Disk {
    pub(super) fn new(faults: Faults) -> Self {
        Self { faults }
    }

    /// A step that changes what is on the disk: it may fail before, and once it is done.
    fn change<T>(&self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        self.faults.step_blocking(name).map_err(Error::other)?;
        let outcome = step()?;
        self.faults.step_blocking(name).map_err(Error::other)?;
        Ok(outcome)
    }

    fn look<T>(&self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        self.faults.step_blocking(name).map_err(Error::other)?;
        step()
    }

    /// Makes a file that must not be there.
    pub(super) fn create_new(&self, path: &Path) -> Result<File> {
        self.change("objects.create", || File::create_new(path))
    }

    pub(super) fn write(&self, file: &File, chunks: &[Bytes]) -> Result<()> {
        self.change("objects.write", || write_all(file, chunks))
    }

    /// From `at` on, wherever the file was written to last; past the page cache where there is `direct`.
    pub(super) fn write_at(
        &self,
        mut file: &File,
        direct: Option<&mut Direct>,
        at: u64,
        chunks: &[Bytes],
    ) -> Result<()> {
        self.change("objects.write", || match direct {
            Some(direct) => direct.write(file, at, chunks),
            None => {
                file.seek(SeekFrom::Start(at))?;
                write_all(file, chunks)
            }
        })
    }

    pub(super) fn open_direct(&self, path: &Path) -> Result<Direct> {
        self.look("objects.open", || Ok(Direct::new(path)))
    }

    pub(super) fn sync(&self, file: &File) -> Result<()> {
        self.change("objects.sync", || file.sync_all())
    }

    /// The bytes, and what it takes to find them again.
    pub(super) fn sync_data(&self, file: &File) -> Result<()> {
        self.change("objects.sync-data", || file.sync_data())
    }

    pub(super) fn sync_directory(&self, path: &Path) -> Result<()> {
        self.change("objects.sync-directory", || File::open(path)?.sync_all())
    }

    /// Opens a file to write behind its first `length` bytes; what is there is cut off.
    pub(super) fn open_at(&self, path: &Path, length: u64) -> Result<File> {
        self.change("objects.open-at", || {
            let mut file = File::options().write(true).open(path)?;
            match file.metadata()?.len() {
                longer if longer > length => file.set_len(length)?,
                same if same == length => {}
                _ => return Err(ErrorKind::UnexpectedEof.into()),
            }
            file.seek(SeekFrom::Start(length))?;
            Ok(file)
        })
    }

    /// Opens a file, made where it is not there, to write from `start` on; what is there stays.
    pub(super) fn open_within(&self, path: &Path, start: u64) -> Result<File> {
        self.change("objects.open-within", || {
            let mut file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            file.seek(SeekFrom::Start(start))?;
            Ok(file)
        })
    }

    /// Appends `length` bytes of a file, from `start` on, to another one; how many there were.
    pub(super) fn copy_range(
        &self,
        from: &File,
        start: u64,
        to: &File,
        length: u64,
    ) -> Result<u64> {
        let mut from = from;
        from.seek(SeekFrom::Start(start))?;
        self.copy(from, to, length)
    }

    /// Appends the next `length` bytes of a file to another one; how many there were. The kernel does it.
    pub(super) fn copy(&self, from: &File, to: &File, length: u64) -> Result<u64> {
        self.change("objects.copy", || {
            let (mut from, mut to) = (from.take(length), to);
            std::io::copy(&mut from, &mut to)
        })
    }

    /// Makes a directory that may be there already.
    pub(super) fn create_directory(&self, path: &Path) -> Result<()> {
        self.change("objects.create-directory", || match fs::create_dir(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other,
        })
    }

    pub(super) fn create_directories(&self, path: &Path) -> Result<()> {
        self.change("objects.create-directory", || fs::create_dir_all(path))
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.change("objects.rename", || fs::rename(from, to))
    }

    /// A second name for a file; false when the name is taken.
    pub(super) fn link(&self, from: &Path, to: &Path) -> Result<bool> {
        self.change("objects.link", || match fs::hard_link(from, to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        })
    }

    /// False when there was nothing to remove.
    pub(super) fn remove(&self, path: &Path) -> Result<bool> {
        self.change("objects.remove", || match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(error),
        })
    }

    pub(super) fn open(&self, path: &Path) -> Result<File> {
        self.look("objects.open", || File::open(path))
    }

    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>> {
        self.look("objects.read", || fs::read(path))
    }

    pub(super) fn metadata(&self, path: &Path) -> Result<Metadata> {
        self.look("objects.metadata", || fs::metadata(path))
    }

    pub(super) fn list(&self, path: &Path) -> Result<ReadDir> {
        self.look("objects.list", || fs::read_dir(path))
    }

    /// So many bytes from `start` on, where the kernel has the name and all the bytes at hand: never waits
    /// for a disk, so a task may call it. None where it would have to wait, or can't tell, and while faults
    /// are on: their points may wait.
    pub(super) fn read_cached(&self, path: &Path, start: u64, length: usize) -> Option<Bytes> {
        if self.faults.are_on() {
            return None;
        }
        read_cached(path, start, length)
    }

    /// So many bytes from `start` on.
    pub(super) fn read_exactly(&self, file: &File, start: u64, length: usize) -> Result<Bytes> {
        self.look("objects.read", || read_exactly(file, start, length))
    }
}

pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn write_all(mut file: &File, chunks: &[Bytes]) -> Result<()> {
    let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_exactly(file: &File, start: u64, length: usize) -> Result<Bytes> {
    let mut buffer = Vec::with_capacity(length);
    while buffer.len() < length {
        let at = start + buffer.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut buffer), at) {
            Ok(0) => {
                return Err(Error::new(
                    ErrorKind::UnexpectedEof,
                    "an object is shorter than its row says",
                ));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The allocator may have given more room than was asked for, and the read fills all of it.
    buffer.truncate(length);
    Ok(Bytes::from(buffer))
}

/// `RESOLVE_CACHED` (Linux 5.12) fails where a directory is not in memory, and `RWF_NOWAIT` (4.14) gives
/// what is there of the bytes. An older kernel, or a sandbox that knows neither, gives an error: None.
#[cfg(target_os = "linux")]
fn read_cached(path: &Path, start: u64, length: usize) -> Option<Bytes> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
    use rustix::io::{ReadWriteFlags, preadv2};

    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).ok()?;
    let mut buffer = vec![0; length];
    let slices = &mut [std::io::IoSliceMut::new(&mut buffer)];
    let read = preadv2(&file, slices, start, ReadWriteFlags::NOWAIT).ok()?;
    (read == length).then(|| Bytes::from(buffer))
}

#[cfg(not(target_os = "linux"))]
fn read_cached(_: &Path, _: u64, _: usize) -> Option<Bytes> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cached_is_read_exactly_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, b"0123456789").unwrap();
        let told = |start, length| read_cached(&path, start, length);
        // None where the kernel can't tell: a sandbox may not have the calls.
        for (start, length, bytes) in [(0, 10, "0123456789"), (3, 4, "3456"), (10, 0, "")] {
            assert!(told(start, length).is_none_or(|read| read == bytes));
        }
        assert_eq!(told(8, 4), None);
        assert_eq!(read_cached(&directory.path().join("b"), 0, 1), None);
    }
}
