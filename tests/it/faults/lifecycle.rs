//! Rules that let files go, and holds that do not.

use std::time::Duration;

use box_service::domain::changes::FilePatch;
use box_service::domain::files::File;
use box_service::domain::{Caller, Domain};
use box_service::error::{Kind, Result};

use super::site::Site;
use super::uploads::{anyone, replace_content, upload};
use super::view::View;
use super::walk::{Operation, walk_on_every_pair};

walk_on_every_pair!(
    rules: Rules,
    hold: Hold,
    delete_of_what_is_held: DeleteOfHeld,
);

const DAY: Duration = Duration::from_secs(86_400);

async fn hold(domain: &Domain, caller: &Caller, file: &File) -> Result<File> {
    let patch = FilePatch {
        legal_hold: Some(true),
        ..FilePatch::default()
    };
    domain.file_patch(caller, file.id, patch, anyone()).await
}

struct Rules;

/// Two to the trash, one for good with its version, one that is held, and one that is too young.
impl Operation for Rules {
    const NAME: &'static str = "rules of the lifecycle";
    const VARIABLES: &'static [(&'static str, &'static str)] = &[(
        "BOX_LIFECYCLE__RULES",
        r#"[{"name": "a", "prefix": "trash/", "trash_after": "2d"},
            {"name": "b", "prefix": "expire/", "expire_after": "2d"}]"#,
    )];
    const REPEATS: bool = true;
    const MANY: bool = true;
    type Given = ();

    async fn prepare(&self, site: &Site, caller: &Caller) {
        let calm = &site.calm;
        for name in ["trash/1", "trash/2", "other"] {
            upload(calm, caller, name, b"bytes").await;
        }
        let file = upload(calm, caller, "expire/1", b"one").await;
        replace_content(calm, caller, &file, b"two").await.unwrap();
        let held = upload(calm, caller, "expire/held", b"bytes").await;
        hold(calm, caller, &held).await.unwrap();
        site.clock.advance(DAY * 2);
        upload(calm, caller, "expire/young", b"bytes").await;
    }

    async fn run(&self, domain: &Domain, _: &Caller, (): &()) -> Result<()> {
        domain.lifecycle_run(false, &mut |_| {}).await
    }

    fn done(&self, (): &(), view: &mut View) {
        for name in ["trash/1", "trash/2"] {
            let seen = view.file(name);
            seen.happens("file.trashed");
            seen.trashed = true;
        }
        view.remove("expire/1", "file.expired");
    }
}

struct Hold;

impl Operation for Hold {
    const NAME: &'static str = "hold";
    const REPEATS: bool = true;
    type Given = File;

    async fn prepare(&self, site: &Site, caller: &Caller) -> File {
        upload(&site.calm, caller, "file", b"bytes").await
    }

    async fn run(&self, domain: &Domain, caller: &Caller, file: &File) -> Result<()> {
        let made = hold(domain, caller, file).await?;
        assert_eq!((made.revision, made.legal_hold), (2, true));
        Ok(())
    }

    fn done(&self, _: &File, view: &mut View) {
        let seen = view.file("file");
        seen.happens("file.updated");
        seen.held = true;
    }
}

struct DeleteOfHeld;

impl Operation for DeleteOfHeld {
    const NAME: &'static str = "delete of what is held";
    const REFUSED: Option<Kind> = Some(Kind::Conflict);
    type Given = File;

    async fn prepare(&self, site: &Site, caller: &Caller) -> File {
        let file = upload(&site.calm, caller, "file", b"bytes").await;
        hold(&site.calm, caller, &file).await.unwrap()
    }

    async fn run(&self, domain: &Domain, caller: &Caller, file: &File) -> Result<()> {
        domain.file_delete(caller, file.id, true, anyone()).await
    }

    fn done(&self, _: &File, _: &mut View) {}
}
