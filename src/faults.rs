//! Fault points: the steps at which the world outside this process can fail it.
//!
//! The database and the store pass one before and after everything that they do, in the few places
//! that all of it goes through, so that a call that is new has its points without anybody listing
//! them. A test counts the points of an operation and lets each of them fail in turn
//! (`tests/it/faults.rs`). In production there is no switch, and a point is one branch; no
//! configuration reaches it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::error::{Error, Result};

/// The switch of a service's fault points. Clones are one switch.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Switch>>);

/// What a process that was paused finds when it wakes up: all that this does.
pub type Pause = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// What happens at a point.
#[derive(Clone)]
pub enum Fault {
    /// The step fails; those after it don't.
    Fail,
    /// The step fails, and all after it of the same part: the database or the store is away.
    Outage,
    /// The process is dead: the step and all after it fail.
    Crash,
    /// The process stands still before the step, and goes on when the pause is over.
    Pause(Pause),
    /// A request is on its way for so long that its caller gives it up; it arrives when the test
    /// delivers it. Only requests are counted.
    Late,
    /// The same, and the process dies meanwhile.
    LateCrash,
}

/// Why a request to another machine gave no answer.
#[derive(Debug)]
pub struct Lost {
    /// Whether it may have been, or may yet be, received.
    pub sent: bool,
    pub error: Error,
}

/// What one walk came to.
#[derive(Clone, Debug)]
pub struct Walked {
    /// The steps that were passed, in order, with the one that the fault was at.
    pub steps: Vec<&'static str>,
    pub fired: bool,
}

struct Switch {
    state: Mutex<State>,
    dead: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    armed: Option<(u64, Fault)>,
    seen: u64,
    steps: Vec<&'static str>,
    fired: bool,
    /// What a name of the part that is away begins with.
    away: Option<&'static str>,
    late: Vec<BoxFuture<'static, ()>>,
}

enum Next {
    Go,
    Wait(Pause),
    Delay,
}

impl Faults {
    /// Points that never fail.
    pub fn none() -> Self {
        Self(None)
    }

    /// Points for a test to walk: they fail once armed.
    pub fn switch() -> Self {
        Self(Some(Arc::new(Switch {
            state: Mutex::default(),
            dead: watch::Sender::new(false),
        })))
    }

    /// Begins to count steps, and lets the fault happen at the `n`-th from here, from 1.
    pub fn arm(&self, n: u64, fault: Fault) {
        if let Some(switch) = &self.0 {
            let mut state = switch.state();
            let late = std::mem::take(&mut state.late);
            *state = State {
                armed: Some((n, fault)),
                late,
                ..State::default()
            };
        }
    }

    /// No faults from here on; a process that died stays dead.
    pub fn disarm(&self) -> Walked {
        let mut state = match &self.0 {
            Some(switch) => switch.state(),
            None => {
                return Walked {
                    steps: Vec::new(),
                    fired: false,
                };
            }
        };
        state.armed = None;
        state.away = None;
        Walked {
            steps: std::mem::take(&mut state.steps),
            fired: state.fired,
        }
    }

    /// Answers once the process is dead.
    pub async fn crashed(&self) {
        if let Some(switch) = &self.0 {
            // The sender is ours: it does not go away meanwhile.
            let _ = switch.dead.subscribe().wait_for(|dead| *dead).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    /// Lets the requests arrive that are on their way.
    pub async fn deliver(&self) {
        if let Some(switch) = &self.0 {
            let late = std::mem::take(&mut switch.state().late);
            for request in late {
                request.await;
            }
        }
    }

    /// How long to wait before another try: a test that lets every try fail in turn can't wait as long.
    pub fn pause(&self, usual: Duration) -> Duration {
        match &self.0 {
            None => usual,
            Some(_) => usual / 20,
        }
    }

    /// Passes a point. What stands before the first dot of its name says which part it belongs to.
    ///
    /// # Errors
    /// `Unavailable`, where the fault is.
    pub async fn step(&self, name: &'static str) -> Result<()> {
        if let Some(switch) = &self.0
            && let Next::Wait(pause) = switch.next(name, false)?
        {
            pause().await;
        }
        Ok(())
    }

    /// The same on a thread that may block.
    ///
    /// # Errors
    /// As [`Faults::step`].
    pub fn step_blocking(&self, name: &'static str) -> Result<()> {
        if let Some(switch) = &self.0
            && let Next::Wait(pause) = switch.next(name, false)?
        {
            let (over, wait) = std::sync::mpsc::channel();
            tokio::spawn(pause().map(move |()| over.send(())));
            let _ = wait.recv();
        }
        Ok(())
    }

    /// False in a service that was started to serve.
    pub fn are_on(&self) -> bool {
        self.0.is_some()
    }

    /// Makes a request, between two points.
    ///
    /// # Errors
    /// Where the fault is.
    pub async fn request<T: Send + 'static>(
        &self,
        name: &'static str,
        request: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Lost> {
        let Some(switch) = &self.0 else {
            return Ok(request.await);
        };
        let lost = |sent: bool| move |error| Lost { sent, error };
        match switch.next(name, true).map_err(lost(false))? {
            Next::Go => {}
            Next::Wait(pause) => pause().await,
            Next::Delay => {
                switch.state().late.push(request.map(drop).boxed());
                return Err(lost(true)(switch.fault(name)));
            }
        }
        let answer = request.await;
        self.step(name).await.map_err(lost(true))?;
        Ok(answer)
    }
}

impl Switch {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, name: &str) -> Error {
        Error::unavailable(format!("a fault was injected at {name}"))
    }

    fn next(&self, name: &'static str, is_request: bool) -> Result<Next> {
        let mut state = self.state();
        if *self.dead.borrow() {
            return Err(self.fault(name));
        }
        let part = name.split('.').next().unwrap_or(name);
        if state.away == Some(part) {
            return Err(self.fault(name));
        }
        let Some((n, fault)) = state.armed.clone() else {
            return Ok(Next::Go);
        };
        if !is_request && matches!(fault, Fault::Late | Fault::LateCrash) {
            return Ok(Next::Go);
        }
        state.seen += 1;
        state.steps.push(name);
        if state.seen != n {
            return Ok(Next::Go);
        }
        state.fired = true;
        match fault {
            Fault::Fail => Err(self.fault(name)),
            Fault::Outage => {
                state.away = Some(part);
                Err(self.fault(name))
            }
            Fault::Crash => {
                self.dead.send_replace(true);
                Err(self.fault(name))
            }
            Fault::Pause(pause) => Ok(Next::Wait(pause)),
            Fault::Late => Ok(Next::Delay),
            Fault::LateCrash => {
                self.dead.send_replace(true);
                Ok(Next::Delay)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    async fn steps(faults: &Faults) -> String {
        let mut seen = String::new();
        for name in ["a.1", "b.1", "a.2", "b.2"] {
            seen.push(if faults.step(name).await.is_ok() {
                '.'
            } else {
                'x'
            });
        }
        seen
    }

    #[tokio::test]
    async fn a_fault_happens_at_the_nth_point() {
        let none = Faults::none();
        none.arm(1, Fault::Crash);
        assert_eq!(steps(&none).await, "....");

        let faults = Faults::switch();
        assert_eq!(steps(&faults).await, "....");
        faults.arm(2, Fault::Fail);
        assert_eq!(steps(&faults).await, ".x..");
        let walked = faults.disarm();
        assert_eq!(walked.steps, ["a.1", "b.1", "a.2", "b.2"]);
        assert!(walked.fired);
        faults.arm(2, Fault::Outage);
        assert_eq!(steps(&faults).await, ".x.x");
        faults.disarm();
        assert_eq!(steps(&faults).await, "....");
        faults.arm(5, Fault::Crash);
        assert_eq!(steps(&faults).await, "....");
        assert!(!faults.disarm().fired);
        faults.arm(3, Fault::Crash);
        assert_eq!(steps(&faults).await, "..xx");
        faults.crashed().await;
        faults.disarm();
        assert_eq!(steps(&faults).await, "xxxx");
    }

    #[tokio::test]
    async fn a_pause_comes_before_its_step() {
        let count = Arc::new(AtomicU32::new(0));
        let counter = count.clone();
        let pause: Pause = Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            futures::future::ready(()).boxed()
        });
        let faults = Faults::switch();
        faults.arm(1, Fault::Pause(pause));
        assert_eq!(steps(&faults).await, "....");
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_late_request_arrives_when_it_is_delivered() {
        let count = Arc::new(AtomicU32::new(0));
        let request = || {
            let count = count.clone();
            async move { count.fetch_add(1, Ordering::SeqCst) }
        };
        let faults = Faults::switch();
        faults.arm(1, Fault::Late);
        let lost = faults.request("a.1", request()).await.unwrap_err();
        assert!(lost.sent);
        assert_eq!(faults.request("a.1", request()).await.unwrap(), 0);
        faults.disarm();
        faults.deliver().await;
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}
