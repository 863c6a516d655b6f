//! Operations that take files away: by a client, and because their time has come.

use std::time::Duration;

use box_service::domain::changes::FileCopy;
use box_service::domain::files::{File, NewFile};
use box_service::domain::removal::Removal;
use box_service::domain::{Caller, Domain};
use box_service::error::{Kind, Result};

use crate::harness::service::Pair;

use super::site::Site;
use super::uploads::{anyone, named, once, replace_content, upload, upload_as};
use super::view::View;
use super::walk::{Operation, walk, walk_on_every_pair};

walk_on_every_pair!(
    delete: Delete,
    delete_of_a_copy: DeleteOfACopy,
    delete_of_many: DeleteOfMany,
    sweep: Sweep,
);

const DAY: Duration = Duration::from_secs(86_400);

async fn delete(domain: &Domain, caller: &Caller, file: &File) -> Result<()> {
    match domain.file_delete(caller, file.id, true, anyone()).await {
        // An earlier try was lost on its way back.
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        outcome => outcome,
    }
}

async fn copy(domain: &Domain, caller: &Caller, file: &File, name: &str) -> File {
    let copy = FileCopy {
        name: Some(name.to_owned()),
        ..FileCopy::default()
    };
    domain.file_copy(caller, file.id, copy, None).await.unwrap()
}

struct Delete;

/// With its versions.
impl Operation for Delete {
    const NAME: &'static str = "delete for good";
    const REPEATS: bool = true;
    type Given = File;

    async fn prepare(&self, site: &Site, caller: &Caller) -> File {
        let file = upload(&site.calm, caller, "file", b"one").await;
        let replaced = replace_content(&site.calm, caller, &file, b"two").await;
        replaced.unwrap();
        upload(&site.calm, caller, "other", b"other").await;
        file
    }

    async fn run(&self, domain: &Domain, caller: &Caller, file: &File) -> Result<()> {
        delete(domain, caller, file).await
    }

    fn done(&self, _: &File, view: &mut View) {
        view.remove("file", "file.deleted");
    }
}

struct DeleteOfACopy;

/// The bytes stay, for the other one's sake.
impl Operation for DeleteOfACopy {
    const NAME: &'static str = "delete of one of two copies";
    const REPEATS: bool = true;
    type Given = File;

    async fn prepare(&self, site: &Site, caller: &Caller) -> File {
        let file = upload(&site.calm, caller, "file", b"bytes").await;
        copy(&site.calm, caller, &file, "copy").await;
        file
    }

    async fn run(&self, domain: &Domain, caller: &Caller, file: &File) -> Result<()> {
        delete(domain, caller, file).await
    }

    fn done(&self, _: &File, view: &mut View) {
        view.remove("file", "file.deleted");
    }
}

struct DeleteOfMany;

/// In one transaction: two copies of one object, a file of its own, and one that is not there.
impl Operation for DeleteOfMany {
    const NAME: &'static str = "delete of many";
    const REPEATS: bool = true;
    type Given = Vec<File>;

    async fn prepare(&self, site: &Site, caller: &Caller) -> Vec<File> {
        let one = upload(&site.calm, caller, "one", b"one").await;
        let two = copy(&site.calm, caller, &one, "two").await;
        let three = upload(&site.calm, caller, "three", b"three").await;
        let gone = upload(&site.calm, caller, "gone", b"gone").await;
        delete(&site.calm, caller, &gone).await.unwrap();
        upload(&site.calm, caller, "other", b"other").await;
        vec![three, gone, one, two]
    }

    async fn run(&self, domain: &Domain, caller: &Caller, files: &Vec<File>) -> Result<()> {
        let ids: Vec<_> = files.iter().map(|file| file.id).collect();
        let removed = domain.file_delete_many(caller, &ids, true).await?;
        assert_eq!(removed[1], Removal::Absent);
        Ok(())
    }

    fn done(&self, _: &Vec<File>, view: &mut View) {
        for name in ["one", "two", "three"] {
            view.remove(name, "file.deleted");
        }
    }
}

/// On one pair: what is special about it is not what it stands on, and so many files take their time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delete_of_more_than_a_batch() {
    walk(Pair::SqliteLocal, DeleteOfMoreThanABatch).await;
}

struct DeleteOfMoreThanABatch;

/// Two transactions, between which the process may die: each file is on its own.
impl Operation for DeleteOfMoreThanABatch {
    const NAME: &'static str = "delete of more than a batch";
    const REPEATS: bool = true;
    const MANY: bool = true;
    type Given = Vec<File>;

    async fn prepare(&self, site: &Site, caller: &Caller) -> Vec<File> {
        let mut files = vec![upload(&site.calm, caller, "0", b"bytes").await];
        let copies = (1..102).map(|number| {
            let source = files[0].clone();
            async move { copy(&site.calm, caller, &source, &number.to_string()).await }
        });
        let copies = futures::future::join_all(copies).await;
        files.extend(copies);
        files
    }

    async fn run(&self, domain: &Domain, caller: &Caller, files: &Vec<File>) -> Result<()> {
        let ids: Vec<_> = files.iter().map(|file| file.id).collect();
        domain.file_delete_many(caller, &ids, true).await.map(drop)
    }

    fn done(&self, files: &Vec<File>, view: &mut View) {
        for file in files {
            view.remove(&file.name, "file.deleted");
        }
    }
}

struct Sweep;

/// A file that expired, one that did not because it is held, one that was long enough in the trash, a version
/// that is too old, and a request that is forgotten.
impl Operation for Sweep {
    const NAME: &'static str = "sweep";
    const VARIABLES: &'static [(&'static str, &'static str)] =
        &[("BOX_VERSIONS__MAX_AGE", "10d"), ("BOX_TRASH__KEEP", "30d")];
    const REPEATS: bool = true;
    const MANY: bool = true;
    type Given = ();

    async fn prepare(&self, site: &Site, caller: &Caller) {
        let calm = &site.calm;
        let trashed = upload(calm, caller, "trashed", b"trashed").await;
        let removed = calm.file_delete(caller, trashed.id, false, anyone()).await;
        removed.unwrap();
        site.clock.advance(DAY * 21);
        let file = upload(calm, caller, "file", b"one").await;
        replace_content(calm, caller, &file, b"two").await.unwrap();
        let expires = NewFile {
            expires_at: Some(site.clock.now().plus(DAY)),
            ..named("expires")
        };
        upload_as(calm, caller, expires, b"expires", once("k"))
            .await
            .unwrap();
        let held = NewFile {
            expires_at: Some(site.clock.now().plus(DAY)),
            legal_hold: true,
            ..named("held")
        };
        upload_as(calm, caller, held, b"held", None).await.unwrap();
        site.clock.advance(DAY * 10);
        let young = upload(calm, caller, "young", b"young").await;
        replace_content(calm, caller, &young, b"younger")
            .await
            .unwrap();
    }

    async fn run(&self, domain: &Domain, _: &Caller, (): &()) -> Result<()> {
        domain.sweep().await.map(drop)
    }

    fn done(&self, (): &(), view: &mut View) {
        view.remove("trashed", "file.deleted");
        view.remove("expires", "file.expired");
        view.file("file").contents.truncate(1);
    }
}
