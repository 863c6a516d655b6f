//! Operations that move bytes in: uploads and replacements.

use box_service::domain::files::{File, NewFile, Precondition};
use box_service::domain::once::Once;
use box_service::domain::versions::NewContent;
use box_service::domain::{Caller, Domain};
use box_service::error::{Error, Kind, Result};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use std::sync::Arc;

use crate::harness::content::{MIB, noise};
use crate::harness::service::Pair;

use super::site::Site;
use super::view::{Held, Seen, View};
use super::walk::{Operation, walk_on_every_pair};

walk_on_every_pair!(
    upload: Upload,
    upload_without_quota: UploadWithoutQuota,
    upload_in_parts: UploadInParts,
    upload_of_nothing: UploadOfNothing,
    upload_of_other_bytes: UploadOfOtherBytes,
    upload_broken_off: UploadBrokenOff,
    replace: Replace,
);

pub fn sniff(_: &[u8], _: &str) -> &'static str {
    "text/plain"
}

pub fn once(key: &str) -> Option<Once> {
    Some(Once {
        route: "test",
        key: key.to_owned(),
        fingerprint: [7; 32],
    })
}

pub fn anyone() -> Precondition {
    Arc::new(|_| Ok(()))
}

/// A body, in pieces as a connection would bring them.
pub fn body(bytes: &[u8]) -> BoxStream<'static, Result<Bytes>> {
    let bytes = Bytes::copy_from_slice(bytes);
    let pieces: Vec<_> = (0..bytes.len())
        .step_by(MIB)
        .map(|at| Ok(bytes.slice(at..bytes.len().min(at + MIB))))
        .collect();
    futures::stream::iter(pieces).boxed()
}

pub async fn upload(domain: &Domain, caller: &Caller, name: &str, bytes: &[u8]) -> File {
    upload_as(domain, caller, named(name), bytes, None)
        .await
        .unwrap()
}

pub async fn upload_as(
    domain: &Domain,
    caller: &Caller,
    new: NewFile,
    bytes: &[u8],
    once: Option<Once>,
) -> Result<File> {
    domain
        .file_upload(caller, new, body(bytes), sniff, once)
        .await
}

pub fn named(name: &str) -> NewFile {
    NewFile {
        name: Some(name.to_owned()),
        content_type: Some("text/plain".to_owned()),
        ..NewFile::default()
    }
}

pub async fn replace_content(
    domain: &Domain,
    caller: &Caller,
    file: &File,
    bytes: &[u8],
) -> Result<File> {
    let new = NewContent {
        content_type: Some("text/plain".to_owned()),
        ..NewContent::default()
    };
    domain
        .file_replace(caller, file.id, new, body(bytes), sniff, anyone())
        .await
}

/// What an upload that was answered must have brought.
fn assert_made(made: &File, bytes: &[u8]) {
    assert_eq!(made.size, bytes.len() as u64);
    assert_eq!((made.version, made.revision), (1, 1));
}

struct Upload;

/// With a declared length, a checksum and a key.
impl Operation for Upload {
    const NAME: &'static str = "upload with a key";
    const REPEATS: bool = true;
    type Given = ();

    async fn prepare(&self, _: &Site, _: &Caller) {}

    async fn run(&self, domain: &Domain, caller: &Caller, (): &()) -> Result<()> {
        let new = NewFile {
            size: Some(5),
            ..named("new")
        };
        let made = upload_as(domain, caller, new, b"bytes", once("k")).await?;
        assert_made(&made, b"bytes");
        Ok(())
    }

    fn done(&self, (): &(), view: &mut View) {
        view.files.insert("new".into(), Seen::new(b"bytes"));
    }
}

struct UploadWithoutQuota;

impl Operation for UploadWithoutQuota {
    const NAME: &'static str = "upload of unknown length, no quota, no key";
    const VARIABLES: &'static [(&'static str, &'static str)] =
        &[("BOX_QUOTA__MAX_BYTES", ""), ("BOX_QUOTA__MAX_FILES", "")];
    type Given = ();

    async fn prepare(&self, _: &Site, _: &Caller) {}

    async fn run(&self, domain: &Domain, caller: &Caller, (): &()) -> Result<()> {
        let made = upload_as(domain, caller, named("new"), b"bytes", None).await?;
        assert_made(&made, b"bytes");
        Ok(())
    }

    fn done(&self, (): &(), view: &mut View) {
        view.files.insert("new".into(), Seen::new(b"bytes"));
    }
}

struct UploadInParts;

/// Of unknown length, so that its reservation grows.
impl Operation for UploadInParts {
    const NAME: &'static str = "upload in three parts";
    type Given = Vec<u8>;

    async fn prepare(&self, site: &Site, _: &Caller) -> Vec<u8> {
        noise(match site.pair {
            Pair::PostgresS3 => 17 * MIB,
            Pair::SqliteLocal | Pair::PostgresLocal => 3 * MIB,
        })
    }

    async fn run(&self, domain: &Domain, caller: &Caller, bytes: &Vec<u8>) -> Result<()> {
        let made = upload_as(domain, caller, named("new"), bytes, None).await?;
        assert_made(&made, bytes);
        Ok(())
    }

    fn done(&self, bytes: &Vec<u8>, view: &mut View) {
        view.files.insert("new".into(), Seen::new(bytes));
    }
}

struct UploadOfNothing;

impl Operation for UploadOfNothing {
    const NAME: &'static str = "upload of nothing";
    type Given = ();

    async fn prepare(&self, _: &Site, _: &Caller) {}

    async fn run(&self, domain: &Domain, caller: &Caller, (): &()) -> Result<()> {
        let made = upload_as(domain, caller, named("new"), b"", None).await?;
        assert_made(&made, b"");
        Ok(())
    }

    fn done(&self, (): &(), view: &mut View) {
        view.files.insert("new".into(), Seen::new(b""));
    }
}

struct UploadOfOtherBytes;

/// Refused only once the bytes are durable. The key is free again then.
impl Operation for UploadOfOtherBytes {
    const NAME: &'static str = "upload with a wrong checksum";
    const REFUSED: Option<Kind> = Some(Kind::ChecksumMismatch);
    const REPEATS: bool = true;
    type Given = ();

    async fn prepare(&self, _: &Site, _: &Caller) {}

    async fn run(&self, domain: &Domain, caller: &Caller, (): &()) -> Result<()> {
        let new = NewFile {
            sha256: Some([1; 32]),
            ..named("new")
        };
        upload_as(domain, caller, new, b"bytes", once("k"))
            .await
            .map(drop)
    }

    fn done(&self, (): &(), _: &mut View) {}
}

struct UploadBrokenOff;

impl Operation for UploadBrokenOff {
    const NAME: &'static str = "upload whose client goes away";
    const REFUSED: Option<Kind> = Some(Kind::BadRequest);
    type Given = Vec<u8>;

    async fn prepare(&self, site: &Site, _: &Caller) -> Vec<u8> {
        noise(match site.pair {
            Pair::PostgresS3 => 9 * MIB,
            Pair::SqliteLocal | Pair::PostgresLocal => MIB,
        })
    }

    async fn run(&self, domain: &Domain, caller: &Caller, bytes: &Vec<u8>) -> Result<()> {
        let gone = Error::new(Kind::BadRequest, "gone");
        let source = body(bytes).chain(futures::stream::iter([Err(gone)]));
        domain
            .file_upload(caller, named("new"), source.boxed(), sniff, once("k"))
            .await
            .map(drop)
    }

    fn done(&self, _: &Vec<u8>, _: &mut View) {}
}

struct Replace;

/// Of a file that has as many versions already as are kept.
impl Operation for Replace {
    const NAME: &'static str = "replace";
    type Given = File;

    async fn prepare(&self, site: &Site, caller: &Caller) -> File {
        let file = upload(&site.calm, caller, "file", b"one").await;
        for bytes in [&b"two"[..], b"three"] {
            replace_content(&site.calm, caller, &file, bytes)
                .await
                .unwrap();
        }
        file
    }

    async fn run(&self, domain: &Domain, caller: &Caller, file: &File) -> Result<()> {
        let made = replace_content(domain, caller, file, b"four").await?;
        assert_eq!((made.version, made.revision, made.size), (4, 4, 4));
        Ok(())
    }

    fn done(&self, _: &File, view: &mut View) {
        let seen = view.file("file");
        seen.happens("file.content_replaced");
        seen.contents.insert(0, Held::new(4, b"four"));
        seen.contents.truncate(3);
    }
}
