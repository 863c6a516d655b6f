//! The reaper, and the repairs of `box fsck`: what cleans up after a fault meets faults itself.

use box_service::domain::fsck::Options;
use box_service::domain::{Caller, Domain};
use box_service::error::Result;
use box_service::id::ObjectId;
use box_service::metadata::objects::Intent;
use box_service::metadata::usage::Amount;
use box_service::objects::{CALL_TIMEOUT, Lease};
use bytes::Bytes;
use futures::FutureExt;

use crate::harness::content::MIB;
use crate::harness::service::Pair;

use super::site::{HORIZON, LEASE, Site};
use super::uploads::{anyone, replace_content, upload};
use super::view::View;
use super::walk::{Operation, walk_on_every_pair};

walk_on_every_pair!(reap: Reap, repair: Repair);

/// The row of an upload whose process died. Nothing of the quota is reserved for it.
pub async fn intend(site: &Site, caller: &Caller) -> ObjectId {
    let now = site.clock.now();
    let id = ObjectId::new(now);
    let intent = Intent {
        id,
        tenant: caller.tenant.clone(),
        lease_until: now.plus(LEASE),
        quiet_at: now.plus(LEASE + HORIZON),
        now,
        reserved: Amount::default(),
    };
    let written = site.calm.metadata.write(intent, |tx, intent| {
        async move { tx.object_intend(intent).await }.boxed()
    });
    written.await.unwrap();
    id
}

/// Bytes of it, at its key or on their way there.
pub async fn put(site: &Site, caller: &Caller, id: ObjectId, finish: bool) {
    let objects = &site.calm.objects;
    let key = objects.root().object(&caller.tenant, id);
    let lease = Lease::new(site.clock.now().plus(CALL_TIMEOUT * 2), site.clock.clone());
    let mut writer = objects.write(&key, 1, None, lease);
    // On their way, in S3, are bytes only once a multipart upload has begun.
    let size = match site.pair {
        Pair::PostgresS3 if !finish => 9 * MIB,
        _ => 9,
    };
    writer
        .write(vec![Bytes::from(vec![7; size])])
        .await
        .unwrap();
    if finish {
        writer.finish().await.unwrap();
    }
}

struct Reap;

/// Of what was deleted, of an upload that died on its way, and of one whose time has come.
impl Operation for Reap {
    const NAME: &'static str = "reap";
    const REPEATS: bool = true;
    type Given = ();

    async fn prepare(&self, site: &Site, caller: &Caller) {
        let calm = &site.calm;
        // Dead for long enough, and found again only at its end.
        let old = intend(site, caller).await;
        put(site, caller, old, true).await;
        site.clock.advance(LEASE);
        calm.reap().await.unwrap();
        site.clock.advance(HORIZON);
        let begun = intend(site, caller).await;
        put(site, caller, begun, false).await;
        site.clock.advance(LEASE);
        let file = upload(calm, caller, "file", b"one").await;
        replace_content(calm, caller, &file, b"two").await.unwrap();
        let file = upload(calm, caller, "gone", b"gone").await;
        let removed = calm.file_delete(caller, file.id, true, anyone()).await;
        removed.unwrap();
    }

    async fn run(&self, domain: &Domain, _: &Caller, (): &()) -> Result<()> {
        domain.reap().await.map(drop)
    }

    fn done(&self, (): &(), _: &mut View) {}
}

struct Repair;

/// Of a key without a row, and of one on its way.
impl Operation for Repair {
    const NAME: &'static str = "fsck --repair";
    const MUST_REPEAT: bool = true;
    type Given = ();

    async fn prepare(&self, site: &Site, caller: &Caller) {
        upload(&site.calm, caller, "file", b"bytes").await;
        let now = site.clock.now();
        put(site, caller, ObjectId::new(now), true).await;
        put(site, caller, ObjectId::new(now), false).await;
        site.clock.advance(HORIZON);
    }

    async fn run(&self, domain: &Domain, _: &Caller, (): &()) -> Result<()> {
        let options = Options {
            repair: true,
            ..Options::default()
        };
        domain.fsck(options).await.map(drop)
    }

    fn done(&self, (): &(), _: &mut View) {}
}
