//! Uploads by tus: their last piece, which makes the file, and what can be gone on with after a crash.

use std::time::Duration;

use box_service::domain::files::Content;
use box_service::domain::uploads::{Append, State, Upload};
use box_service::domain::{Caller, Domain};
use box_service::error::{Error, Result};
use box_service::faults::Fault;

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
    let bytes = noise(2 * MIB);
    for n in 1.. {
        let caller = site.somebody();
        let upload = begin(&site.calm, &caller, &bytes).await.unwrap();
        let upload = append(&site.calm, &caller, &upload, &bytes[..MIB / 2])
            .await
            .unwrap();
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
        let ended = append(&site.calm, &caller, &left, &bytes[at..])
            .await
            .unwrap();
        let id = ended
            .file_id
            .unwrap_or_else(|| panic!("point {n}: {ended:?}"));
        let file = site
            .calm
            .file_get(&caller.tenant, id)
            .await
            .unwrap()
            .unwrap();
        let content = read(&site.calm, &Content::from(&file), 0..file.size).await;
        assert!(content == bytes, "point {n}: other bytes");
        if !fired {
            break;
        }
    }
    site.settle(&site.calm).await;
    site.assert_sound(&site.calm).await;
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
