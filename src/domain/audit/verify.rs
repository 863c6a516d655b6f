//! Whether the chains are as they were sealed.

use std::fmt;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::id::Tenant;
use crate::metadata::audit::{EventFilter, Hash, Mark};

use super::super::Domain;
use super::{BATCH, NOTHING, Of, TENANTS, hash_of, signed_text};

/// How often a chain is read from its start again because the start was removed meanwhile.
const ATTEMPTS: u32 = 3;

/// What is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The events from this place on to the next that is there are gone.
    Removed { seq: i64 },
    /// The event at this place is not what was sealed there: it, or one before it, was changed or moved.
    Changed { seq: i64 },
    /// The chain ends before its head says so.
    CutOff { seq: i64 },
    /// The chain's hash at its end is not that of its head.
    WrongHead { seq: i64 },
    /// There are sealed events or a checkpoint, and no head.
    NoHead,
    /// The head, or the checkpoint, was not signed by a key of this service that has its id.
    WrongSignature { of: &'static str },
    /// What was anchored outside is not there.
    WrongAnchor { seq: i64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed { seq } => write!(f, "events are missing from number {seq} on"),
            Self::Changed { seq } => {
                write!(f, "event number {seq} is not what was sealed there")
            }
            Self::CutOff { seq } => write!(f, "the chain is cut off: it ends at number {seq}"),
            Self::WrongHead { seq } => {
                write!(
                    f,
                    "the head is not that of event number {seq}, the last one"
                )
            }
            Self::NoHead => f.write_str("the head is missing"),
            Self::WrongSignature { of } => write!(f, "the signature of the {of} is wrong"),
            Self::WrongAnchor { seq } => {
                write!(f, "number {seq} is not what was anchored outside")
            }
        }
    }
}

/// What was found of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub tenant: Tenant,
    /// The first and the last place that was looked at; 0: there is none.
    pub first: i64,
    pub last: i64,
    /// The hash at the last one, in hexadecimal digits.
    pub hash: String,
    /// Empty: it is as it was sealed.
    pub faults: Vec<Fault>,
    /// What could not be checked.
    pub unchecked: Vec<String>,
}

/// How a chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    Intact,
    Unchecked,
    Broken,
}

impl Report {
    pub fn standing(&self) -> Standing {
        if !self.faults.is_empty() {
            Standing::Broken
        } else if !self.unchecked.is_empty() {
            Standing::Unchecked
        } else {
            Standing::Intact
        }
    }
}

/// A head that was written down elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    pub tenant: Tenant,
    pub seq: i64,
    pub hash: Hash,
}

impl std::str::FromStr for Anchor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (tenant, rest) = text.split_once(':')?;
            let (seq, hash) = rest.split_once(':')?;
            let mut bytes = NOTHING;
            hex::decode_to_slice(hash, &mut bytes).ok()?;
            Some(Self {
                tenant: tenant.parse().ok()?,
                seq: seq.parse().ok().filter(|seq| *seq > 0)?,
                hash: bytes,
            })
        };
        read().ok_or_else(|| "an anchor is TENANT:NUMBER:HASH".to_owned())
    }
}

impl Domain {
    /// Verifies the chain of one tenant, or of all, one after the other; `tell` is told of each. May run
    /// beside a service.
    pub async fn audit_verify(
        &self,
        tenant: Option<&Tenant>,
        anchors: &[Anchor],
        tell: &mut (dyn FnMut(&Report) + Send),
    ) -> Result<()> {
        if let Some(tenant) = tenant {
            tell(&self.audit_verify_tenant(tenant, anchors).await?);
            return Ok(());
        }
        let mut reader = self.metadata.reader().await?;
        let mut others = reader.conn().audit_headless(TENANTS).await?;
        drop(reader);
        for anchor in anchors {
            if self.audit_head(&anchor.tenant).await?.is_none() && !others.contains(&anchor.tenant)
            {
                others.push(anchor.tenant.clone());
            }
        }
        for tenant in others {
            tell(&self.audit_verify_tenant(&tenant, anchors).await?);
        }
        let mut after = None;
        loop {
            let mut reader = self.metadata.reader().await?;
            let heads = reader.conn().audit_heads(after.as_ref(), TENANTS).await?;
            drop(reader);
            let Some(last) = heads.last() else {
                return Ok(());
            };
            after = Some(last.tenant.clone());
            for head in heads {
                tell(&self.audit_verify_tenant(&head.tenant, anchors).await?);
            }
        }
    }

    async fn audit_verify_tenant(&self, tenant: &Tenant, anchors: &[Anchor]) -> Result<Report> {
        for _ in 0..ATTEMPTS {
            let checkpoint = self.audit_checkpoint(tenant).await?;
            let report = self
                .audit_walk(tenant, checkpoint.as_ref(), anchors)
                .await?;
            // Retention may have removed what was about to be read.
            if report.faults.is_empty() || self.audit_checkpoint(tenant).await? == checkpoint {
                return Ok(report);
            }
        }
        Err(Error::unavailable(
            "events were removed for their age again and again while they were read",
        ))
    }

    async fn audit_checkpoint(&self, tenant: &Tenant) -> Result<Option<Mark>> {
        let mut reader = self.metadata.reader().await?;
        reader.conn().audit_checkpoint(tenant).await
    }

    async fn audit_walk(
        &self,
        tenant: &Tenant,
        checkpoint: Option<&Mark>,
        anchors: &[Anchor],
    ) -> Result<Report> {
        // Read first: what is sealed meanwhile lies behind it.
        let head = self.audit_head(tenant).await?;
        let start = checkpoint.map_or((0, NOTHING), |mark| (mark.seq, mark.hash));
        let mut report = Report {
            tenant: tenant.clone(),
            first: 0,
            last: 0,
            hash: String::new(),
            faults: Vec::new(),
            unchecked: Vec::new(),
        };
        let mut anchors: Vec<&Anchor> = anchors
            .iter()
            .filter(|anchor| anchor.tenant == *tenant)
            .collect();
        let (mut seq, mut hash) = start;
        anchors.retain(|anchor| !report.meets(anchor, seq, &hash));
        let all = EventFilter::default();
        let mut broken = false;
        'pages: loop {
            let events = self.audit_events(tenant, &all, seq, BATCH).await?;
            let whole = events.len() == BATCH as usize;
            for event in events {
                let Some((place, stored)) = event.place else {
                    continue;
                };
                if place != seq + 1 {
                    report.faults.push(Fault::Removed { seq: seq + 1 });
                    broken = true;
                    break 'pages;
                }
                if hash_of(&event, place, &hash) != stored {
                    report.faults.push(Fault::Changed { seq: place });
                    broken = true;
                    break 'pages;
                }
                if report.first == 0 {
                    report.first = place;
                }
                (seq, hash) = (place, stored);
                report.last = place;
                anchors.retain(|anchor| !report.meets(anchor, seq, &hash));
                // The head's own event.
                if head
                    .as_ref()
                    .is_some_and(|head| head.seq == seq && head.hash != hash)
                {
                    report.faults.push(Fault::WrongHead { seq });
                    broken = true;
                    break 'pages;
                }
            }
            if !whole {
                break;
            }
        }
        report.hash = hex::encode(hash);
        match &head {
            None if seq > 0 => report.faults.push(Fault::NoHead),
            None => {}
            Some(head) => {
                if !broken && seq < head.seq {
                    report.faults.push(Fault::CutOff { seq });
                } else if !broken && seq == head.seq && hash != head.hash {
                    report.faults.push(Fault::WrongHead { seq });
                } else if !broken && seq > head.seq {
                    // Sealed meanwhile, or put there without a head that vouches for it.
                    let now = self.audit_head(tenant).await?;
                    if now.is_none_or(|now| now.seq < seq) {
                        report.faults.push(Fault::WrongHead { seq: head.seq });
                    }
                }
                self.audit_signature(Of::Head, "head", head, &mut report);
            }
        }
        if let Some(mark) = checkpoint {
            self.audit_signature(Of::Checkpoint, "checkpoint", mark, &mut report);
        }
        for anchor in anchors {
            if anchor.seq < start.0 {
                let seq = anchor.seq;
                let text = format!("anchor {seq} lies before what was kept");
                report.unchecked.push(text);
            } else if !broken {
                report.faults.push(Fault::WrongAnchor { seq: anchor.seq });
            }
        }
        Ok(report)
    }

    fn audit_signature(&self, of: Of, name: &'static str, mark: &Mark, report: &mut Report) {
        match (&self.audit_keys, &mark.signed) {
            (None, None) => {}
            (Some(_), None) => report.unchecked.push(format!("the {name} is not signed")),
            (None, Some(_)) => {
                let text = format!("there is no key to verify the {name} with");
                report.unchecked.push(text);
            }
            (Some(keys), Some((id, signature))) => {
                match keys.verify(&signed_text(of, mark), id, signature) {
                    Some(true) => {}
                    Some(false) => report.faults.push(Fault::WrongSignature { of: name }),
                    None => {
                        let text =
                            format!("the {name} was signed with the key {id}, which is not known");
                        report.unchecked.push(text);
                    }
                }
            }
        }
    }
}

impl Report {
    /// Whether this is the anchor's place; where it is not what was anchored, that is a fault.
    fn meets(&mut self, anchor: &Anchor, seq: i64, hash: &Hash) -> bool {
        if anchor.seq != seq {
            return false;
        }
        if anchor.hash != *hash {
            self.faults.push(Fault::WrongAnchor { seq });
        }
        true
    }
}
