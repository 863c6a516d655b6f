//! Memory of parts that were sent, for those to come, of whatever writer: given back to the allocator and
//! asked for again, by other threads each time, it would come to twice as much.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

/// The bytes of a part are copied together, into pieces of at most this many bytes: a chunk is often
/// a small view of a large buffer, and would keep all of that alive until the part is sent.
pub(super) const LARGEST_PIECE: usize = 1024 * 1024;

/// Pieces that are kept at most: those of a few writers.
const KEPT: usize = 64;

#[derive(Default)]
pub(super) struct Pieces {
    spare: Mutex<Vec<Bytes>>,
    writers: AtomicUsize,
}

/// One writer's part in it. With the last one all that is kept is let go.
pub(in crate::objects) struct Shared(Arc<Pieces>);

impl Pieces {
    pub(super) fn join(self: &Arc<Self>) -> Shared {
        self.writers.fetch_add(1, Ordering::SeqCst);
        Shared(self.clone())
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Bytes>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// An empty piece of the largest size, if there is one.
    pub(super) fn take(&self) -> Option<BytesMut> {
        let mut spare = self.0.spare();
        // What the client of the store still holds can't be written again yet.
        let free = spare.iter().position(Bytes::is_unique)?;
        let mut piece = spare.swap_remove(free).try_into_mut().ok()?;
        piece.clear();
        Some(piece)
    }

    /// Keeps those pieces of a part that was sent that have the largest size.
    pub(in crate::objects) fn give(&self, pieces: Vec<Bytes>) {
        let full = pieces
            .into_iter()
            .filter(|piece| piece.len() == LARGEST_PIECE);
        let mut spare = self.0.spare();
        spare.extend(full);
        spare.truncate(KEPT);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.0.writers.fetch_sub(1, Ordering::SeqCst) == 1 {
            *self.0.spare() = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_sent_part_is_used_again_by_any_writer() {
        let pieces = Arc::<Pieces>::default();
        let (one, other) = (pieces.join(), pieces.join());
        assert!(one.take().is_none());
        let full = Bytes::from(vec![7; LARGEST_PIECE]);
        let at = full.as_ptr();
        one.give(vec![full, Bytes::from_static(b"the last, and short")]);
        let piece = other.take().unwrap();
        assert_eq!((piece.as_ptr(), piece.len()), (at, 0));
        assert!(piece.capacity() >= LARGEST_PIECE);
        assert!(other.take().is_none());
    }

    #[test]
    fn what_is_still_held_is_left_alone() {
        let pieces = Arc::<Pieces>::default();
        let one = pieces.join();
        let full = Bytes::from(vec![7; LARGEST_PIECE]);
        let held = full.clone();
        one.give(vec![full]);
        assert!(one.take().is_none());
        drop(held);
        assert!(one.take().is_some());
    }

    #[test]
    fn little_is_kept_and_nothing_without_writers() {
        let pieces = Arc::<Pieces>::default();
        let (one, other) = (pieces.join(), pieces.join());
        for _ in 0..2 * KEPT {
            one.give(vec![Bytes::from(vec![0; LARGEST_PIECE])]);
        }
        assert_eq!(pieces.spare().len(), KEPT);
        drop(one);
        assert_eq!(pieces.spare().len(), KEPT);
        drop(other);
        assert_eq!(pieces.spare().capacity(), 0);
    }
}
