//! Direct uploads: how they begin, their last part and their end, and the hash of what nobody hashed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use box_service::domain::files::{Content, File};
use box_service::domain::uploads::Upload;
use box_service::domain::uploads::direct::{Completed, Presented};
use box_service::domain::{Caller, Domain};
use box_service::error::{Error, Kind, Result};
use box_service::faults::{Fault, Pause};
use futures::FutureExt;

use crate::harness::client::{Client, send};
use crate::harness::content::{MIB, noise};
use crate::harness::service::Pair;

use super::site::{LEASE, Site};
use super::uploads::{body, named, sniff};
use super::view::{Seen, View, read};
use super::walk::{Operation, walk_on_every_pair};

walk_on_every_pair!(
    direct_begun: Begun,
    direct_single: Ended { parts: 1, again: 0 },
    direct_parts: Ended { parts: 2, again: 0 },
    direct_part_sent_twice: Ended { parts: 2, again: 1 },
    direct_hashed: Hashed,
);

/// The first is one request at most, and the URLs end soon.
const VARIABLES: &[(&str, &str)] = &[
    ("BOX_UPLOADS__SINGLE_MAX", "1000"),
    ("BOX_UPLOADS__EXPIRY", "1m"),
];

/// In bytes: of the last part.
const LAST: usize = 1_000;

/// What S3 takes at least, but for the last one; a directory takes anything.
fn part(domain: &Domain) -> usize {
    if domain.objects.is_reachable() {
        8 * MIB
    } else {
        LAST
    }
}

fn bytes(domain: &Domain, parts: usize) -> Vec<u8> {
    noise(part(domain) * (parts - 1) + LAST)
}

async fn begin(domain: &Domain, caller: &Caller, bytes: &[u8]) -> Result<Upload> {
    let mut new = named("new");
    new.size = Some(bytes.len() as u64);
    let begun = domain.upload_create_direct(caller, new, None, None).await?;
    let mut upload = begun.0;
    if domain.objects.is_reachable() || upload.part_size.is_none() {
        return Ok(upload);
    }
    // No configuration makes parts so small that hundreds of runs take no time.
    upload.part_size = Some(LAST as u64);
    let changed = upload.clone();
    domain
        .metadata
        .write(changed, |tx, changed| {
            async move {
                tx.upload_delete(&changed.tenant, changed.id).await?;
                tx.upload_insert(changed).await
            }
            .boxed()
        })
        .await?;
    Ok(upload)
}

/// Sends a part where it belongs, as a client does.
async fn bring(
    domain: &Domain,
    caller: &Caller,
    upload: &Upload,
    number: u32,
    bytes: &[u8],
) -> Result<()> {
    let signed = domain
        .upload_sign(caller, upload.id, number..=number)
        .await?;
    let Some(request) = &signed.1[0].request else {
        let presented = Presented {
            tenant: caller.tenant.clone(),
            id: upload.id,
            number,
        };
        domain.upload_part_take(&presented, body(bytes)).await?;
        return Ok(());
    };
    let mut put = Client::new(&request.url, None).put("");
    for (name, value) in &request.headers {
        put = put.header(name, value);
    }
    let answer = send(put.body(bytes.to_vec())).await;
    match answer.status {
        200 => Ok(()),
        // Another request has brought them.
        412 => Ok(()),
        _ => Err(Error::unavailable(answer.text())),
    }
}

async fn complete(domain: &Domain, caller: &Caller, upload: &Upload) -> Result<File> {
    match domain
        .upload_complete(caller, upload.id, None, sniff)
        .await?
    {
        Completed::Made(file) | Completed::Before(file) => Ok(file),
    }
}

/// In parts, so that the store is told of it.
struct Begun;

impl Operation for Begun {
    const NAME: &'static str = "a direct upload begun, and its first URL signed";
    const VARIABLES: &'static [(&'static str, &'static str)] = VARIABLES;
    type Given = ();

    async fn prepare(&self, _: &Site, _: &Caller) {}

    async fn run(&self, domain: &Domain, caller: &Caller, (): &()) -> Result<()> {
        let mut new = named("new");
        new.size = Some(9 * MIB as u64);
        let (upload, _) = domain.upload_create_direct(caller, new, None, None).await?;
        domain.upload_sign(caller, upload.id, 1..=1).await?;
        Ok(())
    }

    fn done(&self, (): &(), _: &mut View) {}
}

/// The last part, and the end.
#[derive(Debug)]
struct Ended {
    parts: usize,
    /// How often the last part was sent before.
    again: usize,
}

impl Operation for Ended {
    const NAME: &'static str = "the last part of a direct upload, and its end";
    const LEASED: bool = true;
    const VARIABLES: &'static [(&'static str, &'static str)] = VARIABLES;
    type Given = (Vec<u8>, Upload);

    async fn prepare(&self, site: &Site, caller: &Caller) -> (Vec<u8>, Upload) {
        let bytes = bytes(&site.calm, self.parts);
        let upload = begin(&site.calm, caller, &bytes).await.unwrap();
        for (part, number) in bytes.chunks(part(&site.calm)).zip(1..) {
            if number < self.parts {
                let number = u32::try_from(number).unwrap();
                bring(&site.calm, caller, &upload, number, part)
                    .await
                    .unwrap();
            }
        }
        let others = vec![7; LAST];
        // An S3 may list a part that was replaced as well, and tells its time in seconds.
        let again = if site.calm.objects.is_reachable() {
            0
        } else {
            self.again
        };
        for _ in 0..again {
            let number = u32::try_from(self.parts).unwrap();
            bring(&site.calm, caller, &upload, number, &others)
                .await
                .unwrap();
        }
        (bytes, upload)
    }

    async fn run(
        &self,
        domain: &Domain,
        caller: &Caller,
        (bytes, upload): &(Vec<u8>, Upload),
    ) -> Result<()> {
        let last = bytes.chunks(part(domain)).last().unwrap();
        let number = u32::try_from(self.parts).unwrap();
        bring(domain, caller, upload, number, last).await?;
        complete(domain, caller, upload).await?;
        Ok(())
    }

    fn done(&self, (bytes, _): &(Vec<u8>, Upload), view: &mut View) {
        view.files.insert("new".into(), Seen::new(bytes));
    }
}

struct Hashed;

impl Operation for Hashed {
    const NAME: &'static str = "bytes hashed afterwards";
    const VARIABLES: &'static [(&'static str, &'static str)] = VARIABLES;
    const REPEATS: bool = true;
    type Given = Vec<u8>;

    async fn prepare(&self, site: &Site, caller: &Caller) -> Vec<u8> {
        let bytes = bytes(&site.calm, 2);
        let upload = begin(&site.calm, caller, &bytes).await.unwrap();
        for (part, number) in bytes.chunks(part(&site.calm)).zip(1..) {
            bring(&site.calm, caller, &upload, number, part)
                .await
                .unwrap();
        }
        let file = complete(&site.calm, caller, &upload).await.unwrap();
        assert_eq!(file.sha256, None);
        bytes
    }

    async fn run(&self, domain: &Domain, _: &Caller, _: &Vec<u8>) -> Result<()> {
        while domain.hash_next().await? {}
        Ok(())
    }

    fn done(&self, _: &Vec<u8>, _: &mut View) {}
}

/// A process dies at each point in turn; another one ends the upload.
async fn goes_on_after_a_crash(pair: Pair) {
    let variables = [("BOX_UPLOADS__SINGLE_MAX", "1000")];
    let Some(site) = Site::open(pair, &variables).await else {
        return;
    };
    let bytes = bytes(&site.calm, 2);
    let (first, last) = bytes.split_at(part(&site.calm));
    for n in 1.. {
        let caller = site.somebody();
        let upload = begin(&site.calm, &caller, &bytes).await.unwrap();
        bring(&site.calm, &caller, &upload, 1, first).await.unwrap();
        let process = site.process().await;
        process.faults.arm(n, Fault::Crash);
        let run = async {
            bring(&process.domain, &caller, &upload, 2, last).await?;
            complete(&process.domain, &caller, &upload).await
        };
        let _ = process.does(run).await;
        let fired = process.faults.disarm().fired;
        process.end().await;

        site.clock.advance(LEASE + Duration::from_secs(1));
        let file = match complete(&site.calm, &caller, &upload).await {
            Ok(file) => file,
            // The part was not there yet.
            Err(error) => {
                assert_eq!(error.kind(), Kind::Conflict, "point {n}: {error}");
                bring(&site.calm, &caller, &upload, 2, last).await.unwrap();
                complete(&site.calm, &caller, &upload).await.unwrap()
            }
        };
        let content = read(&site.calm, &Content::from(&file), 0..file.size).await;
        assert!(content == bytes, "point {n}: other bytes");
        let again = complete(&site.calm, &caller, &upload).await.unwrap();
        assert_eq!(again.id, file.id);
        if !fired {
            break;
        }
    }
    while site.calm.hash_next().await.unwrap() {}
    site.settle(&site.calm).await;
    site.assert_sound(&site.calm).await;
}

mod direct_goes_on_after_a_crash {
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

/// The client gave a part up that stands still somewhere, sends other bytes for it, and ends the upload.
async fn a_part_meets_itself(pair: Pair) {
    let variables = [("BOX_UPLOADS__SINGLE_MAX", "1000")];
    let Some(site) = Site::open(pair, &variables).await else {
        return;
    };
    let whole = bytes(&site.calm, 2);
    let (first, last) = whole.split_at(LAST);
    let others = vec![7; LAST];
    let (mut ended, mut points) = (0, 0);
    for n in 1.. {
        let caller = site.somebody();
        let upload = begin(&site.calm, &caller, &whole).await.unwrap();
        bring(&site.calm, &caller, &upload, 1, first).await.unwrap();
        let process = site.process().await;
        let made: Arc<Mutex<Option<File>>> = Arc::default();
        let meanwhile: Pause = Arc::new({
            let (other, clock) = (site.other().clone(), site.clock.clone());
            let (caller, upload) = (caller.clone(), upload.clone());
            let (made, others) = (made.clone(), others.clone());
            move || {
                let (other, caller, upload) = (other.clone(), caller.clone(), upload.clone());
                let (made, others, clock) = (made.clone(), others.clone(), clock.clone());
                async move {
                    clock.advance(LEASE + Duration::from_secs(1));
                    // Fails where the one that stands still has a transaction open.
                    let sent = bring(&other, &caller, &upload, 2, &others).await;
                    if sent.is_ok()
                        && let Ok(file) = complete(&other, &caller, &upload).await
                    {
                        *made.lock().unwrap() = Some(file);
                    }
                }
                .boxed()
            }
        });
        process.faults.arm(n, Fault::Pause(meanwhile));
        let run = bring(&process.domain, &caller, &upload, 2, last);
        let _ = process.does(run).await;
        let fired = process.faults.disarm().fired;
        process.end().await;

        let before = made.lock().unwrap().take();
        site.clock.advance(LEASE + Duration::from_secs(1));
        let completed = match complete(&site.calm, &caller, &upload).await {
            // Neither of the two came so far.
            Err(error) if error.kind() == Kind::Conflict => {
                bring(&site.calm, &caller, &upload, 2, &others)
                    .await
                    .unwrap();
                complete(&site.calm, &caller, &upload).await
            }
            completed => completed,
        };
        let file = completed.unwrap();
        let content = read(&site.calm, &Content::from(&file), 0..file.size).await;
        assert!(content[..LAST] == *first, "point {n}: other bytes");
        match before {
            Some(before) => {
                ended += 1;
                assert_eq!(before.id, file.id);
                assert!(content[LAST..] == others, "point {n}: written over");
            }
            None => assert!(
                content[LAST..] == others || content[LAST..] == *last,
                "point {n}: a mixture"
            ),
        }
        if !fired {
            break;
        }
        points = n;
    }
    assert!(
        ended > 0,
        "of {points} points none let the other end the upload"
    );
    while site.calm.hash_next().await.unwrap() {}
    site.settle(&site.calm).await;
    site.assert_sound(&site.calm).await;
}

mod direct_part_meets_itself {
    use super::{Pair, a_part_meets_itself};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite_local() {
        a_part_meets_itself(Pair::SqliteLocal).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres_local() {
        a_part_meets_itself(Pair::PostgresLocal).await;
    }
}
