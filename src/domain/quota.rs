//! Quotas: room is reserved before bytes arrive, and given back by whatever ends without a file.
//!
//! What a writing object has reserved stands in its row, so that a crash loses none of it: the
//! reservation ends with the state `writing`, in the same transaction.

use futures::FutureExt;

use crate::error::{Error, Kind, Result};
use crate::id::{ObjectId, Tenant};
use crate::metadata::Conn;
use crate::metadata::usage::{Amount, Change, Quota};

use super::Domain;

/// What is reserved at once for a body whose length is not known, so that not every batch of it
/// costs a transaction.
const STEP: u64 = 64 * 1024 * 1024;

/// What a tenant keeps, and may keep.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub bytes: i64,
    pub files: i64,
    pub quota: Quota,
}

impl Domain {
    pub async fn usage(&self, tenant: &Tenant) -> Result<Usage> {
        let used = self
            .metadata
            .reader()
            .await?
            .conn()
            .usage_get(tenant)
            .await?;
        Ok(Usage {
            bytes: used.bytes,
            files: used.files,
            quota: self.quota(tenant),
        })
    }

    pub(super) fn quota(&self, tenant: &Tenant) -> Quota {
        let (bytes, files) = self.rules.quota.of(tenant);
        Quota { bytes, files }
    }

    /// What an object reserves that is about to be written: nothing where no quota asks for it.
    pub(super) fn reserved_at_first(
        &self,
        tenant: &Tenant,
        declared: Option<u64>,
        files: i64,
    ) -> Result<Amount> {
        let quota = self.quota(tenant);
        Ok(Amount {
            bytes: match (quota.bytes, declared) {
                (Some(_), Some(size)) => amount(size)?,
                _ => 0,
            },
            files: quota.files.map_or(0, |_| files),
        })
    }
}

/// Bytes as the database counts them.
pub(super) fn amount(size: u64) -> Result<i64> {
    i64::try_from(size).map_err(|_| exceeded())
}

/// Takes what `change` adds from the quota, in the transaction that needs it.
///
/// # Errors
/// `QuotaExceeded`.
pub(super) async fn take(
    tx: &mut Conn<'_>,
    tenant: &Tenant,
    change: Change,
    quota: Quota,
) -> Result<()> {
    if tx.usage_change(tenant, change, quota).await? {
        Ok(())
    } else {
        Err(exceeded())
    }
}

/// Records a change for which there is room: it was reserved before, or the change takes away.
pub(super) async fn record(tx: &mut Conn<'_>, tenant: &Tenant, change: Change) -> Result<()> {
    tx.usage_change(tenant, change, Quota::default()).await?;
    Ok(())
}

/// The end of a reservation that came to nothing.
pub(super) fn unreserved(reserved: Amount) -> Change {
    Change {
        reserved: -reserved,
        ..Change::default()
    }
}

fn exceeded() -> Error {
    Error::new(
        Kind::QuotaExceeded,
        "The tenant's quota has no room for this.",
    )
}

/// The room that an object has while it is being written.
pub(super) struct Reservation {
    pub domain: Domain,
    pub tenant: Tenant,
    pub object: ObjectId,
    pub epoch: i64,
    /// In bytes.
    pub reserved: u64,
}

impl Reservation {
    /// Makes sure that there is room for `size` bytes in all, before they are written.
    pub(super) async fn cover(&mut self, size: u64) -> Result<()> {
        let missing = size.saturating_sub(self.reserved);
        if missing == 0 || self.domain.quota(&self.tenant).bytes.is_none() {
            return Ok(());
        }
        // Near the end of the quota there is no room for a step, and there may be for these.
        for more in [missing.max(STEP), missing] {
            match self.grow(more).await {
                Ok(()) => {
                    self.reserved += more;
                    return Ok(());
                }
                Err(error) if error.kind() == Kind::QuotaExceeded => {}
                Err(error) => return Err(error),
            }
        }
        Err(exceeded())
    }

    async fn grow(&self, more: u64) -> Result<()> {
        let bytes = amount(more)?;
        let quota = self.domain.quota(&self.tenant);
        let (input, epoch) = ((self.tenant.clone(), self.object), self.epoch);
        self.domain
            .metadata
            .write(input, move |tx, (tenant, object)| {
                async move {
                    if !tx.object_reserve(*object, epoch, bytes).await? {
                        return Err(Error::unavailable(
                            "the object is not being written any more",
                        ));
                    }
                    let reserved = Amount { bytes, files: 0 };
                    let change = Change {
                        reserved,
                        ..Change::default()
                    };
                    take(tx, tenant, change, quota).await
                }
                .boxed()
            })
            .await
    }
}
