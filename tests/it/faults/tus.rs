//! Uploads by tus: their last piece, which makes the file, and what can be gone on with after a crash.

use std::sync::Arc;
use std::time::Duration;

use box_service::domain::files::Content;
use box_service::domain::uploads::{Append, State, Upload};
use box_service::domain::{Caller, Domain};
use box_service::error::{Error, Result};
use box_service::faults::Fault;
use futures::FutureExt;

use crate::harness::content::{MIB, noise};
use crate::harness::service::Pair;

use super::site::{LEASE, Site};
use super::uploads::{body, named, sniff};
use super::view::{Seen, View, read};
use super::walk::{Operation, walk_on_every_pair};

walk_on_every_pair!(tus_last_piece: LastPiece);

async fn begin(domain: &Domain, caller: &Caller, bytes: &[u8]) -> Result<Upload> {
    let mut new = named("new");
    new.size = Some(bytes.len() as u64);
    domain.upload_create(caller, new, None, None).await
}

async fn append(domain: &Domain, caller: &Caller, upload: &Upload, bytes: &[u8]) -> Result<Upload> {
    let append = Append {
        offset: upload.received,
        length: None,
        brings: Some(bytes.len() as u64),
        waits: false,
    };
    domain
        .upload_append(caller, upload.id, append, None, body(bytes), sniff)
        .await
}

struct LastPiece;

impl Operation for LastPiece {
    const NAME: &'static str = "the last piece of a tus upload";
    const LEASED: bool = true;
    const VARIABLES: &'static [(&'static str, &'static str)] = &[("BOX_UPLOADS__EXPIRY", "30m")];
    type Given = (Vec<u8>, Upload);

    async fn prepare(&self, site: &Site, caller: &Caller) -> (Vec<u8>, Upload) {
        let bytes = noise(MIB);
        let upload = begin(&site.calm, caller, &bytes).await.unwrap();
        let upload = append(&site.calm, caller, &upload, &bytes[..1_000])
            .await
            .unwrap();
        (bytes, upload)
    }

    async fn run(
        &self,
        domain: &Domain,
        caller: &Caller,
        (bytes, upload): &(Vec<u8>, Upload),
    ) -> Result<()> {
        let ended = append(domain, caller, upload, &bytes[1_000..]).await?;
        match ended.state {
            State::Done => Ok(()),
            State::Open => Err(Error::internal("it is still open")),
        }
    }

    fn done(&self, (bytes, _): &(Vec<u8>, Upload), view: &mut View) {
        view.files.insert("new".into(), Seen::new(bytes));
    }
}

/// A process dies at each point of a piece in turn; another one goes on where it was.
async fn goes_on_after_a_crash(pair: Pair) {
    let Some(site) = Site::open(pair, &[]).await else {
        return;
    };
    let bytes = content(pair);
    for n in 1.. {
        let caller = site.somebody();
        let upload = half_a_mebibyte(&site, &caller, &bytes).await;
        let process = site.process().await;
        process.faults.arm(n, Fault::Crash);
        let run = append(&process.domain, &caller, &upload, &bytes[MIB / 2..]);
        let _ = process.does(run).await;
        let fired = process.faults.disarm().fired;
        process.end().await;

        site.clock.advance(LEASE + Duration::from_secs(1));
        let left = site.calm.upload_get(&caller.tenant, upload.id).await;
        let left = left.unwrap().unwrap();
        assert!(left.received >= upload.received, "point {n}");
        let at = usize::try_from(left.received).unwrap();
        append(&site.calm, &caller, &left, &bytes[at..])
            .await
            .unwrap();
        assert_is(&site, &caller, &upload, &bytes, n).await;
        if !fired {
            println!(
                "faults walked on {pair:?}: an upload by tus goes on after a crash: {}",
                n - 1
            );
            break;
        }
    }
    site.settle(&site.calm).await;
    site.assert_sound(&site.calm).await;
}

/// A process stands still at each point of a piece in turn until its lease has run out; another one takes the
/// upload over, from wherever it is, and ends it. Then the first goes on, with whatever it is still about to do.
async fn is_taken_over(pair: Pair) {
    let Some(site) = Site::open(pair, &[]).await else {
        return;
    };
    let bytes = content(pair);
    for n in 1.. {
        let caller = site.somebody();
        let upload = half_a_mebibyte(&site, &caller, &bytes).await;
        let process = site.process().await;
        let meanwhile = {
            let (clock, other) = (site.clock.clone(), site.other().clone());
            let (caller, upload, bytes) = (caller.clone(), upload.clone(), bytes.clone());
            move || {
                let (clock, other) = (clock.clone(), other.clone());
                let (caller, upload, bytes) = (caller.clone(), upload.clone(), bytes.clone());
                async move {
                    clock.advance(LEASE + Duration::from_secs(1));
                    // It fails where the first stands still within a transaction.
                    let _ = ends(&other, &caller, &upload, &bytes).await;
                }
                .boxed()
            }
        };
        process.faults.arm(n, Fault::Pause(Arc::new(meanwhile)));
        // It is told that it has lost the upload, or that it is done.
        let run = append(&process.domain, &caller, &upload, &bytes[MIB / 2..]);
        let _ = process.does(run).await;
        let fired = process.faults.disarm().fired;
        process.end().await;
        site.clock.advance(LEASE + Duration::from_secs(1));
        let ended = ends(&site.calm, &caller, &upload, &bytes).await;
        ended.unwrap_or_else(|error| panic!("point {n}: {error}"));
        assert_is(&site, &caller, &upload, &bytes, n).await;
        if !fired {
            println!(
                "faults walked on {pair:?}: an upload by tus is taken over: {}",
                n - 1
            );
            break;
        }
    }
    site.settle(&site.calm).await;
    site.assert_sound(&site.calm).await;
}

/// Sends what is left in two pieces, so that there are numbers and a fragment of its own.
async fn ends(domain: &Domain, caller: &Caller, upload: &Upload, bytes: &[u8]) -> Result<()> {
    for piece in [1, 2] {
        let upload = domain.upload_get(&caller.tenant, upload.id).await?;
        let upload = upload.ok_or_else(Error::not_found)?;
        let at = usize::try_from(upload.received).unwrap();
        let end = at + (bytes.len() - at) * piece / 2;
        if upload.state == State::Open {
            append(domain, caller, &upload, &bytes[at..end]).await?;
        }
    }
    Ok(())
}

/// On S3 of two parts and a piece of a third, on disk of a few writes.
fn content(pair: Pair) -> Vec<u8> {
    noise(if pair == Pair::PostgresS3 {
        17 * MIB
    } else {
        2 * MIB
    })
}

async fn half_a_mebibyte(site: &Site, caller: &Caller, bytes: &[u8]) -> Upload {
    let upload = begin(&site.calm, caller, bytes).await.unwrap();
    append(&site.calm, caller, &upload, &bytes[..MIB / 2])
        .await
        .unwrap()
}

/// The upload has become a file of these bytes.
async fn assert_is(site: &Site, caller: &Caller, upload: &Upload, bytes: &[u8], n: u64) {
    let upload = site.calm.upload_get(&caller.tenant, upload.id).await;
    let upload = upload.unwrap().unwrap();
    let id = upload
        .file_id
        .unwrap_or_else(|| panic!("point {n}: {upload:?}"));
    let file = site.calm.file_get(&caller.tenant, id).await;
    let file = file.unwrap().unwrap();
    let content = read(&site.calm, &Content::from(&file), 0..file.size).await;
    assert!(content == bytes, "point {n}: other bytes");
}

mod tus_is_taken_over {
    use super::{Pair, is_taken_over};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite_local() {
        is_taken_over(Pair::SqliteLocal).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres_local() {
        is_taken_over(Pair::PostgresLocal).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres_s3() {
        is_taken_over(Pair::PostgresS3).await;
    }
}

mod tus_goes_on_after_a_crash {
    use super::{Pair, goes_on_after_a_crash};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite_local() {
        goes_on_after_a_crash(Pair::SqliteLocal).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres_local() {
        goes_on_after_a_crash(Pair::PostgresLocal).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres_s3() {
        goes_on_after_a_crash(Pair::PostgresS3).await;
    }
}
