//! Audit: what happened, in an order that can't be changed without being seen.
//!
//! Events are written by the transactions of what they tell of, without an order. One process at a time
//! seals them: it gives each its place behind the last one of its tenant, and a hash over the event and
//! the hash before it. The end of the chain is signed. Who reads sees sealed events only, by their
//! places: one whose transaction was committed late comes later, and is skipped by nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::id::Tenant;
use crate::metadata::Conn;
use crate::metadata::audit::{Hash, Sealed};

use super::Domain;

pub use crate::metadata::audit::{EventFilter, Mark, Stored};
pub use access::{Access, Sampled};
pub use keys::Keys;
pub use verify::{Anchor, Fault, Report, Standing};

mod access;
mod keys;
mod verify;

/// Events that are sealed, or removed, by one transaction.
const BATCH: u32 = 500;

/// Of a page of tenants.
const TENANTS: u32 = 100;

/// What the first event of a chain has before it.
pub const NOTHING: Hash = [0; 32];

/// Of what is hashed and signed.
const FORMAT: u8 = 1;

/// The hash of an event at its place: SHA-256 over the format's version, the tenant, the place, the hash
/// before it and all of the event, each text after its length. Nothing can move from one field into the next.
pub fn hash_of(event: &Stored, seq: i64, before: &Hash) -> Hash {
    let mut hash = Sha256::new();
    hash.update([FORMAT]);
    text(&mut hash, event.tenant.as_str());
    hash.update(seq.to_be_bytes());
    hash.update(before);
    hash.update(event.id.as_uuid().as_bytes());
    hash.update(event.at.as_micros().to_be_bytes());
    text(&mut hash, &event.subject);
    text(&mut hash, &event.action);
    text(&mut hash, &event.target);
    for optional in [&event.request_id, &event.remote_ip] {
        hash.update([u8::from(optional.is_some())]);
        text(&mut hash, optional.as_deref().unwrap_or_default());
    }
    text(&mut hash, &event.detail);
    hash.finalize().into()
}

fn text(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text.as_bytes());
}

impl Domain {
    /// Seals what is not sealed, if nobody else is at it; how many events.
    pub async fn audit_seal(&self) -> Result<u64> {
        let mut sealed = 0;
        loop {
            let mut reader = self.metadata.reader().await?;
            let oldest = reader.conn().audit_oldest_unsealed().await?;
            drop(reader);
            if oldest.is_none() || !self.audit_lease().await? {
                return Ok(sealed);
            }
            match self.audit_seal_batch().await {
                Ok(0) => return Ok(sealed),
                Ok(events) => {
                    sealed += events;
                    self.metrics.audit.sealed.inc_by(events);
                }
                // Its lease ran out, and another one goes on.
                Err(error) if error.kind() == Kind::Conflict => return Ok(sealed),
                Err(error) => return Err(error),
            }
        }
    }

    /// It keeps two from doing the same work. That they do no harm is for the heads to see to.
    async fn audit_lease(&self) -> Result<bool> {
        let (holder, now) = (self.process, self.clock.now());
        let until = now.plus(self.rules.lease);
        self.metadata
            .write((), move |tx, ()| {
                async move { tx.lease_take("audit", holder, now, until).await }.boxed()
            })
            .await
    }

    async fn audit_seal_batch(&self) -> Result<u64> {
        let now = self.clock.now();
        self.metadata
            .write(self.clone(), move |tx, domain: &Self| {
                async move {
                    let events = tx.audit_unsealed(BATCH).await?;
                    let count = events.len() as u64;
                    // In one order, so that two who do the same don't wait for each other.
                    let mut by_tenant = BTreeMap::<Tenant, Vec<Stored>>::new();
                    for event in events {
                        let tenant = event.tenant.clone();
                        by_tenant.entry(tenant).or_default().push(event);
                    }
                    for (tenant, events) in by_tenant {
                        domain.audit_seal_tenant(tx, &tenant, &events, now).await?;
                    }
                    Ok(count)
                }
                .boxed()
            })
            .await
    }

    async fn audit_seal_tenant(
        &self,
        tx: &mut Conn<'_>,
        tenant: &Tenant,
        events: &[Stored],
        now: Timestamp,
    ) -> Result<()> {
        let head = tx.audit_head_lock(tenant, now).await?;
        let (mut seq, mut before) = (head.seq, head.hash);
        let mut sealed = Vec::with_capacity(events.len());
        for event in events {
            seq += 1;
            before = hash_of(event, seq, &before);
            sealed.push(Sealed {
                id: event.id,
                seq,
                hash: before,
            });
        }
        tx.audit_place(&sealed).await?;
        let to = self.audit_mark(Of::Head, tenant, seq, before, now)?;
        tx.audit_head_advance(head.seq, &to).await
    }

    fn audit_mark(
        &self,
        of: Of,
        tenant: &Tenant,
        seq: i64,
        hash: Hash,
        at: Timestamp,
    ) -> Result<Mark> {
        let mut mark = Mark {
            tenant: tenant.clone(),
            seq,
            hash,
            at,
            signed: None,
        };
        if let Some(keys) = &self.audit_keys {
            mark.signed = Some(keys.sign(&signed_text(of, &mark))?);
        }
        Ok(mark)
    }

    /// Removes the events that are older than `audit.keep`; how many. A checkpoint vouches for what
    /// came before those that stay. Does nothing while the database is older than the store.
    pub async fn audit_sweep(&self) -> Result<u64> {
        let Some(keep) = self.rules.audit_keep else {
            return Ok(0);
        };
        if self.is_older() || !self.audit_lease().await? {
            return Ok(0);
        }
        let mut removed = 0;
        let mut after = None;
        loop {
            let mut reader = self.metadata.reader().await?;
            let heads = reader.conn().audit_heads(after.as_ref(), TENANTS).await?;
            drop(reader);
            let Some(last) = heads.last() else {
                return Ok(removed);
            };
            after = Some(last.tenant.clone());
            for head in heads {
                while let gone @ 1.. = self.audit_sweep_batch(&head.tenant, keep).await? {
                    removed += gone;
                }
            }
        }
    }

    async fn audit_sweep_batch(&self, tenant: &Tenant, keep: Duration) -> Result<u64> {
        let now = self.clock.now();
        let due = now.minus(keep);
        let mut reader = self.metadata.reader().await?;
        let checkpoint = reader.conn().audit_checkpoint(tenant).await?;
        let behind = checkpoint.map_or(0, |mark| mark.seq);
        let all = EventFilter::default();
        let first = reader.conn().audit_events(tenant, &all, behind, 1).await?;
        drop(reader);
        if first.first().is_none_or(|event| event.at >= due) {
            return Ok(0);
        }
        let input = (self.clone(), tenant.clone());
        self.metadata
            .write(input, move |tx, (domain, tenant)| {
                async move {
                    // Who seals meanwhile waits; who sweeps meanwhile finds another checkpoint.
                    tx.audit_head_lock(tenant, now).await?;
                    let checkpoint = tx.audit_checkpoint(tenant).await?;
                    let behind = checkpoint.map_or(0, |mark| mark.seq);
                    let all = EventFilter::default();
                    let events = tx.audit_events(tenant, &all, behind, BATCH).await?;
                    // Only from the start, without a gap: what stays has to be one chain.
                    let places = events
                        .iter()
                        .take_while(|event| event.at < due)
                        .filter_map(|event| event.place);
                    let Some((seq, hash)) = places.last() else {
                        return Ok(0);
                    };
                    let mark = domain.audit_mark(Of::Checkpoint, tenant, seq, hash, now)?;
                    tx.audit_remove_through(&mark).await?;
                    u64::try_from(seq - behind).map_err(Error::internal)
                }
                .boxed()
            })
            .await
    }

    /// A page of a tenant's sealed events, by their places.
    pub async fn audit_events(
        &self,
        tenant: &Tenant,
        filter: &EventFilter,
        behind: i64,
        limit: u32,
    ) -> Result<Vec<Stored>> {
        let mut reader = self.metadata.reader().await?;
        let mut conn = reader.conn();
        conn.audit_events(tenant, filter, behind, limit).await
    }

    /// Where the chain of a tenant ends.
    pub async fn audit_head(&self, tenant: &Tenant) -> Result<Option<Mark>> {
        let mut reader = self.metadata.reader().await?;
        reader.conn().audit_head(tenant).await
    }

    /// Logs the heads that have moved since a time: a log that is kept elsewhere anchors them there.
    pub async fn audit_heads_log(&self, since: Timestamp) -> Result<()> {
        let mut after = None;
        loop {
            let mut reader = self.metadata.reader().await?;
            let heads = reader.conn().audit_heads(after.as_ref(), TENANTS).await?;
            drop(reader);
            let Some(last) = heads.last() else {
                return Ok(());
            };
            after = Some(last.tenant.clone());
            for head in heads.iter().filter(|head| head.at >= since) {
                let (tenant, seq) = (&head.tenant, head.seq);
                tracing::info!(%tenant, seq, hash = hex::encode(head.hash), "the audit chain ends here");
            }
        }
    }
}

/// What a mark is, so that no one passes for the other.
#[derive(Clone, Copy)]
enum Of {
    Head,
    Checkpoint,
}

/// What is signed of a mark. A tenant's name has no space in it.
fn signed_text(of: Of, mark: &Mark) -> String {
    let what = match of {
        Of::Head => "head",
        Of::Checkpoint => "checkpoint",
    };
    let (tenant, seq, at) = (&mark.tenant, mark.seq, mark.at.as_micros());
    let hash = hex::encode(mark.hash);
    format!("box-service audit {FORMAT} {what} {tenant} {seq} {hash} {at}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::EventId;

    /// Computed by another program: what is stored must stay what it was.
    #[test]
    fn the_format_does_not_change() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let event = Stored {
            id: id.parse::<EventId>().unwrap(),
            tenant: "acme".parse().unwrap(),
            at: Timestamp::from_micros(1_700_000_000_123_456),
            subject: "me".to_owned(),
            action: "file.created".to_owned(),
            target: "x".to_owned(),
            request_id: Some("r".to_owned()),
            remote_ip: None,
            detail: "{\"\u{e4}\":1.50}".to_owned(),
            place: None,
        };
        assert_eq!(
            hex::encode(hash_of(&event, 7, &[1; 32])),
            "3e151b1efcd165f04d6e468d9828d8647cb079698d08f74ebde9511a1ac8f9de"
        );
    }
}
