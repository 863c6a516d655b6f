//! Flushes of one directory, shared by those who need one at the same time.

use std::collections::HashMap;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(super) struct Flushes {
    directories: Mutex<HashMap<PathBuf, Arc<Turns>>>,
}

/// The flushes of one directory. They are numbered from 1, and run one after the other.
#[derive(Default)]
struct Turns {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    begun: u64,
    done: u64,
    /// The last that failed: who needed it, or one before, can't tell what is on the disk.
    failed: Option<(u64, Arc<Error>)>,
    #[cfg(test)]
    came: usize,
}

impl Flushes {
    /// Returns once a flush that began after this call has ended. Of those who wait for the flush under way
    /// to end, one makes the next, for all of them.
    ///
    /// # Errors
    /// The flush's own, to each who needed it.
    pub(super) fn share(&self, directory: &Path, flush: impl FnOnce() -> Result<()>) -> Result<()> {
        let turns = self.enter(directory);
        let outcome = turns.take(flush);
        self.leave(directory, turns);
        outcome
    }

    fn enter(&self, directory: &Path) -> Arc<Turns> {
        let mut directories = lock(&self.directories);
        if let Some(turns) = directories.get(directory) {
            return turns.clone();
        }
        let turns = Arc::<Turns>::default();
        directories.insert(directory.to_owned(), turns.clone());
        turns
    }

    fn leave(&self, directory: &Path, turns: Arc<Turns>) {
        let mut directories = lock(&self.directories);
        // The map's and ours: with the map locked, nobody can take another.
        if Arc::strong_count(&turns) == 2 {
            directories.remove(directory);
        }
    }
}

impl Turns {
    fn take(&self, flush: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut state = lock(&self.state);
        // The one under way may have begun before what is to be flushed was done.
        let needed = state.begun + 1;
        #[cfg(test)]
        {
            state.came += 1;
        }
        while state.done < needed && state.begun > state.done {
            state = self
                .ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.done < needed {
            state.begun += 1;
            drop(state);
            let outcome = flush();
            state = lock(&self.state);
            state.done += 1;
            if let Err(error) = outcome {
                state.failed = Some((state.done, Arc::new(error)));
            }
            self.ended.notify_all();
        }
        match &state.failed {
            Some((number, error)) if *number >= needed => {
                Err(Error::new(error.kind(), error.clone()))
            }
            _ => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    /// Begins a flush that lasts until everybody else waits, and gives what the others were told, and
    /// how many flushes they took.
    fn beside_one(others: usize, fails: bool) -> (Vec<Result<()>>, usize) {
        let flushes = Flushes::default();
        let made = AtomicUsize::new(0);
        let directory = Path::new("a");
        let outcomes = std::thread::scope(|scope| {
            let (began, begun) = channel();
            let (end, ended) = channel();
            let first = scope.spawn({
                let flushes = &flushes;
                move || {
                    flushes.share(directory, || {
                        began.send(()).unwrap();
                        ended.recv().unwrap();
                        Ok(())
                    })
                }
            });
            begun.recv().unwrap();
            let waiting: Vec<_> = (0..others)
                .map(|_| {
                    scope.spawn(|| {
                        flushes.share(directory, || {
                            made.fetch_add(1, Ordering::SeqCst);
                            if fails {
                                return Err(ErrorKind::StorageFull.into());
                            }
                            Ok(())
                        })
                    })
                })
                .collect();
            let turns = lock(&flushes.directories)[directory].clone();
            while lock(&turns.state).came < others + 1 {
                std::thread::yield_now();
            }
            drop(turns);
            end.send(()).unwrap();
            first.join().unwrap().unwrap();
            waiting
                .into_iter()
                .map(|each| each.join().unwrap())
                .collect()
        });
        assert!(lock(&flushes.directories).is_empty());
        (outcomes, made.into_inner())
    }

    #[test]
    fn those_who_wait_share_the_next() {
        let (outcomes, made) = beside_one(8, false);
        assert!(outcomes.iter().all(Result::is_ok));
        // Not none: the first one's flush began before they came.
        assert_eq!(made, 1);
    }

    #[test]
    fn a_failure_is_told_to_each_who_needed_it() {
        let (outcomes, _) = beside_one(8, true);
        for outcome in outcomes {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::StorageFull);
        }
    }

    #[test]
    fn directories_do_not_wait_for_each_other() {
        let flushes = Flushes::default();
        flushes
            .share(Path::new("a"), || flushes.share(Path::new("b"), || Ok(())))
            .unwrap();
    }
}
