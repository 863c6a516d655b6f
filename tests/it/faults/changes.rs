//! Operations that move no bytes, and the one that only reads them.

use box_service::domain::changes::{FileCopy, FilePatch};
use box_service::domain::files::{Content, File};
use box_service::domain::{Caller, Domain};
use box_service::error::{Error, Result};
use futures::TryStreamExt;

use crate::harness::content::noise;

use super::site::Site;
use super::uploads::{anyone, once, replace_content, upload};
use super::view::{Held, Seen, View};
use super::walk::{Operation, walk_on_every_pair};

walk_on_every_pair!(
    patch: Patch,
    copy: Copy,
    trash: Trash,
    restore: Restore,
    version_restore: VersionRestore,
    download: Download,
);

struct Patch;

impl Operation for Patch {
    const NAME: &'static str = "patch";
    const REPEATS: bool = true;
    type Given = File;

    async fn prepare(&self, site: &Site, caller: &Caller) -> File {
        upload(&site.calm, caller, "file", b"bytes").await
    }

    async fn run(&self, domain: &Domain, caller: &Caller, file: &File) -> Result<()> {
        let patch = FilePatch {
            name: Some("renamed".to_owned()),
            ..FilePatch::default()
        };
        let made = domain.file_patch(caller, file.id, patch, anyone()).await?;
        assert_eq!((made.revision, made.name.as_str()), (2, "renamed"));
        Ok(())
    }

    fn done(&self, _: &File, view: &mut View) {
        let mut seen = view.files.remove("file").unwrap();
        seen.happens("file.updated");
        view.files.insert("renamed".to_owned(), seen);
    }
}

struct Copy;

impl Operation for Copy {
    const NAME: &'static str = "copy with a key";
    const REPEATS: bool = true;
    type Given = File;

    async fn prepare(&self, site: &Site, caller: &Caller) -> File {
        upload(&site.calm, caller, "file", b"bytes").await
    }

    async fn run(&self, domain: &Domain, caller: &Caller, file: &File) -> Result<()> {
        let copy = FileCopy {
            name: Some("copy".to_owned()),
            ..FileCopy::default()
        };
        let made = domain.file_copy(caller, file.id, copy, once("k")).await?;
        assert_eq!((made.revision, made.object_id), (1, file.object_id));
        Ok(())
    }

    fn done(&self, _: &File, view: &mut View) {
        let copy = Seen {
            happened: vec!["file.copied".to_owned()],
            ..Seen::new(b"bytes")
        };
        view.files.insert("copy".to_owned(), copy);
    }
}

struct Trash;

impl Operation for Trash {
    const NAME: &'static str = "delete to the trash";
    const REPEATS: bool = true;
    type Given = File;

    async fn prepare(&self, site: &Site, caller: &Caller) -> File {
        upload(&site.calm, caller, "file", b"bytes").await
    }

    async fn run(&self, domain: &Domain, caller: &Caller, file: &File) -> Result<()> {
        domain.file_delete(caller, file.id, false, anyone()).await
    }

    fn done(&self, _: &File, view: &mut View) {
        let seen = view.file("file");
        seen.happens("file.trashed");
        seen.trashed = true;
    }
}

struct Restore;

impl Operation for Restore {
    const NAME: &'static str = "restore from the trash";
    const REPEATS: bool = true;
    type Given = File;

    async fn prepare(&self, site: &Site, caller: &Caller) -> File {
        let file = upload(&site.calm, caller, "file", b"bytes").await;
        let trashed = site.calm.file_delete(caller, file.id, false, anyone());
        trashed.await.unwrap();
        file
    }

    async fn run(&self, domain: &Domain, caller: &Caller, file: &File) -> Result<()> {
        let made = domain.file_restore(caller, file.id).await?;
        assert_eq!((made.revision, made.trashed_at), (3, None));
        Ok(())
    }

    fn done(&self, _: &File, view: &mut View) {
        let seen = view.file("file");
        seen.happens("file.restored");
        seen.trashed = false;
    }
}

struct VersionRestore;

/// The oldest version that is kept, which its own restoration pushes out of those that are.
impl Operation for VersionRestore {
    const NAME: &'static str = "restore of a version";
    type Given = File;

    async fn prepare(&self, site: &Site, caller: &Caller) -> File {
        let file = upload(&site.calm, caller, "file", b"one").await;
        for bytes in [&b"second"[..], b"three"] {
            let replaced = replace_content(&site.calm, caller, &file, bytes);
            replaced.await.unwrap();
        }
        file
    }

    async fn run(&self, domain: &Domain, caller: &Caller, file: &File) -> Result<()> {
        let made = domain.version_restore(caller, file.id, 1).await?;
        assert_eq!((made.version, made.size), (4, 3));
        Ok(())
    }

    fn done(&self, _: &File, view: &mut View) {
        let seen = view.file("file");
        seen.happens("file.content_replaced");
        seen.contents.insert(0, Held::new(4, b"one"));
        seen.contents.truncate(3);
    }
}

struct Download;

/// Ends with an error, never cleanly, when bytes are missing.
impl Operation for Download {
    const NAME: &'static str = "download";
    type Given = (File, Vec<u8>);

    async fn prepare(&self, site: &Site, caller: &Caller) -> (File, Vec<u8>) {
        let bytes = noise(300_000);
        (upload(&site.calm, caller, "file", &bytes).await, bytes)
    }

    async fn run(&self, domain: &Domain, caller: &Caller, given: &Self::Given) -> Result<()> {
        let (file, bytes) = given;
        let found = domain.file_get(&caller.tenant, file.id).await?;
        let found = found.ok_or_else(Error::not_found)?;
        let content = Content::from(&found);
        let mut stream = domain.content_read(&content, 0..content.size).await?;
        let mut read = Vec::new();
        while let Some(chunk) = stream.try_next().await? {
            read.extend_from_slice(&chunk);
        }
        assert!(read == *bytes, "{} bytes were read", read.len());
        Ok(())
    }

    fn done(&self, _: &Self::Given, _: &mut View) {}
}
