//! What the tests stand on: databases, and whole services that are called over TCP.

pub mod binary;
pub mod client;
pub mod collector;
pub mod connection;
pub mod content;
pub mod database;
pub mod front;
pub mod inside;
pub mod issuer;
pub mod origin;
pub mod proxy;
pub mod raw;
pub mod service;
pub mod tls_origin;

/// A directory for what is flushed all the time: in memory, where the system has room there. No test
/// cuts the power, and a walk through faults flushes ten thousand times.
pub fn scratch() -> tempfile::TempDir {
    const ROOM: u64 = 1 << 30;
    let memory = "/dev/shm";
    let has_room = rustix::fs::statvfs(memory).is_ok_and(|fs| fs.f_bavail * fs.f_frsize >= ROOM);
    let directory = if has_room {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    directory.unwrap()
}
