//! Two who meet: one stands still at each of its points in turn, and another replica does something
//! about the same file meanwhile. What comes of it is what one after the other would have made.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use box_service::domain::Caller;
use box_service::error::{Error, Kind, Result};
use box_service::faults::{Fault, Pause};
use box_service::id::FileId;
use futures::FutureExt;
use tokio::time::timeout;

use crate::harness::service::Pair;

use super::deeds::Deed;
use super::site::Site;
use super::uploads::{replace_content, upload};
use super::view::View;

/// A file with two earlier contents, and a copy of it.
async fn prepare(site: &Site, caller: &Caller) -> (FileId, FileId) {
    let file = upload(&site.calm, caller, "file", b"one").await;
    for bytes in [&b"two"[..], b"three"] {
        let replaced = replace_content(&site.calm, caller, &file, bytes).await;
        replaced.unwrap();
    }
    let copy = Deed::Copy {
        id: file.id,
        name: "copy".to_owned(),
    };
    copy.run(&site.calm, caller).await.unwrap();
    let files = super::view::list(&site.calm, &caller.tenant, false).await;
    let copy = files.iter().find(|found| found.name == "copy").unwrap();
    (file.id, copy.id)
}

const PATIENCE: Duration = Duration::from_millis(300);

type Meeting = (&'static str, fn(FileId, FileId) -> (Deed, Deed));

fn replace(id: FileId, bytes: &[u8]) -> Deed {
    Deed::Replace {
        id,
        bytes: bytes.to_vec(),
    }
}

fn again(id: FileId, name: &str) -> Deed {
    Deed::Copy {
        id,
        name: name.to_owned(),
    }
}

fn keyed() -> Deed {
    Deed::UploadOnce {
        name: "new".to_owned(),
        bytes: b"new".to_vec(),
    }
}

const MEETINGS: [Meeting; 11] = [
    ("copy, delete", |id, _| {
        (again(id, "new"), Deed::Delete { id })
    }),
    ("delete, copy", |id, _| {
        (Deed::Delete { id }, again(id, "new"))
    }),
    ("delete, delete of the other copy", |id, copy| {
        (Deed::Delete { id }, Deed::Delete { id: copy })
    }),
    ("delete of both, delete of one", |id, copy| {
        (
            Deed::DeleteMany {
                ids: vec![copy, id],
            },
            Deed::Delete { id },
        )
    }),
    ("replace, delete", |id, _| {
        (replace(id, b"four"), Deed::Delete { id })
    }),
    ("replace, replace", |id, _| {
        (replace(id, b"four"), replace(id, b"five!"))
    }),
    ("replace, restore of a version", |id, _| {
        (
            replace(id, b"four"),
            Deed::RestoreVersion { id, version: 1 },
        )
    }),
    ("restore of a version, replace", |id, _| {
        (
            Deed::RestoreVersion { id, version: 1 },
            replace(id, b"four"),
        )
    }),
    ("restore of a version, delete", |id, _| {
        (Deed::RestoreVersion { id, version: 2 }, Deed::Delete { id })
    }),
    ("replace, trash", |id, _| {
        (replace(id, b"four"), Deed::Trash { id })
    }),
    ("upload, the same again", |_, _| (keyed(), keyed())),
];

/// Whether a deed was answered as it would have been with these files.
fn agrees(deed: &Deed, outcome: &Result<()>, view: &mut View) -> bool {
    let mut after = view.clone();
    let predicted = deed.predict(&mut after);
    let agrees = match (outcome, predicted) {
        (Ok(()), Ok(())) => true,
        (Err(error), Err(kind)) => error.kind() == kind,
        _ => false,
    };
    if agrees {
        *view = after;
    }
    agrees
}

fn failed(outcome: &Result<()>) -> bool {
    let kind = outcome.as_ref().err().map(Error::kind);
    matches!(kind, Some(Kind::Unavailable | Kind::StillRunning))
}

/// All that may have come of it: in each order, and without those that failed.
fn possible(before: &View, deeds: [(&Deed, &Result<()>); 2]) -> Vec<View> {
    let mut views = Vec::new();
    for order in [[0, 1], [1, 0]] {
        for left_out in [[false, false], [true, false], [false, true], [true, true]] {
            let mut view = before.clone();
            let fits = order.into_iter().all(|index| {
                let (deed, outcome) = deeds[index];
                match (failed(outcome), left_out[index]) {
                    (true, true) => true,
                    // Its answer was lost, and it was done.
                    (true, false) => deed.predict(&mut view).is_ok(),
                    (false, false) => agrees(deed, outcome, &mut view),
                    (false, true) => false,
                }
            });
            if fits {
                views.push(view);
            }
        }
    }
    views
}

async fn meet(pair: Pair) {
    let Some(site) = Site::open(pair, &[]).await else {
        return;
    };
    let site = Arc::new(site);
    for (name, meeting) in MEETINGS {
        let mut points = 0;
        loop {
            let caller = site.somebody();
            let (file, copy) = prepare(&site, &caller).await;
            let known = [file, copy].into();
            let before = View::of(&site.calm, &caller.tenant, &known).await;
            let (one, other) = meeting(file, copy);
            let process = site.process().await;
            let told: Arc<Mutex<Option<Result<()>>>> = Arc::default();
            let meanwhile: Pause = Arc::new({
                let (other, told, caller) = (other.clone(), told.clone(), caller.clone());
                let site = site.clone();
                move || {
                    let (other, told, caller) = (other.clone(), told.clone(), caller.clone());
                    let site = site.clone();
                    async move {
                        // An equal request waits for the one that stands still: not here.
                        let outcome = timeout(PATIENCE, other.run(site.other(), &caller)).await;
                        let outcome = outcome.unwrap_or_else(|late| Err(Error::unavailable(late)));
                        // With what the reaper takes at once.
                        let _ = site.other().reap().await;
                        *told.lock().unwrap() = Some(outcome);
                    }
                    .boxed()
                }
            });
            process.faults.arm(points + 1, Fault::Pause(meanwhile));
            let outcome = one.run(&process.domain, &caller).await;
            let walked = process.faults.disarm();
            process.end().await;
            let met = told.lock().unwrap().take();
            let met = match met {
                Some(met) => met,
                // It ended before they could meet.
                None => other.run(site.other(), &caller).await,
            };
            let seen = View::of(&site.calm, &caller.tenant, &known).await;
            let views = possible(&before, [(&one, &outcome), (&other, &met)]);
            assert!(
                views.contains(&seen),
                "{name}: {outcome:?} and {met:?} after {:?}\nis {seen:#?}\nmay be {views:#?}",
                walked.steps
            );
            site.settle(&site.calm).await;
            site.assert_sound(&site.calm).await;
            super::walk::remove_all(&site.calm, &caller).await;
            site.settle(&site.calm).await;
            if !walked.fired {
                break;
            }
            points += 1;
        }
        println!("faults walked on {pair:?}: {name}: Paused {points}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_local() {
    meet(Pair::SqliteLocal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_local() {
    meet(Pair::PostgresLocal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_s3() {
    meet(Pair::PostgresS3).await;
}
