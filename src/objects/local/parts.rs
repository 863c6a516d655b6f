//! Parts of an object that come in any order, each from one writer: into one sparse file, each at its
//! place, or into a file of its own.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::objects::multipart::Extent;

use super::{
    CALL_TIMEOUT, Growing, Lease, Local, ObjectKey, Progress, Root, Writer, blocking,
    growing_error, storage_error,
};

impl Local {
    /// Writes from `position` on, in the file of that epoch. What it finishes is durable under the
    /// temporary name.
    pub(in crate::objects) async fn part_write(
        &self,
        root: &Root,
        key: &ObjectKey,
        epoch: i64,
        position: u64,
        lease: Lease,
    ) -> Result<Writer> {
        let mut writer = self.write(root, key, epoch, lease.clone());
        writer.growing = Some(Growing::from(position));
        let (path, store) = (writer.temporary.clone(), self.inner.clone());
        let file = blocking(move || {
            lease.outlasts(CALL_TIMEOUT)?;
            store
                .disk
                .open_within(&path, position)
                .map_err(storage_error)
        })
        .await?;
        writer.progress = Progress::Writing(Some(Arc::new(file)));
        Ok(writer)
    }

    pub(in crate::objects) async fn part_discard(
        &self,
        root: &Root,
        key: &ObjectKey,
        epoch: i64,
    ) -> Result<()> {
        let path = self.path(&root.temporary(key.id(), epoch));
        let store = self.inner.clone();
        blocking(move || store.unlink(&path).map(drop)).await
    }

    /// Copies the extents, one behind the other, into the file of the epoch `into`. The kernel does it, and
    /// shares what it can.
    pub(in crate::objects) async fn parts_join(
        &self,
        root: &Root,
        key: &ObjectKey,
        into: i64,
        extents: &[Extent],
        lease: &Lease,
    ) -> Result<()> {
        let to = self.path(&root.temporary(key.id(), into));
        let extents: Vec<(PathBuf, Extent)> = extents
            .iter()
            .map(|extent| (self.path(&root.temporary(key.id(), extent.epoch)), *extent))
            .collect();
        let (store, lease) = (self.inner.clone(), lease.clone());
        blocking(move || {
            let file = store.open_once(None, &to, &lease)?;
            for (path, extent) in &extents {
                let source = store.disk.open(path).map_err(growing_error)?;
                let copied = store
                    .disk
                    .copy_range(&source, extent.position, &file, extent.size)
                    .map_err(storage_error)?;
                if copied < extent.size {
                    return Err(Error::internal("bytes of a part are gone"));
                }
            }
            Ok(())
        })
        .await
    }
}
