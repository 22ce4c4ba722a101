//! The one progress engine of the process.
//!
//! Whoever waits drives: a thread that waits for an operation takes the progress lock, takes every operation of every
//! group as far as it can go, tells about those that ended once the lock is free again, and repeats until its own has
//! ended. A background thread does the same for operations that nobody waits for, and sleeps when there are none.
//!
//! Locks: `progress` is never held while foreign code runs (completions, callbacks, destructors of tensors).

mod background;
mod backoff;
mod bell;
mod exit;
mod lane;
mod operation;
mod progress;
mod task;
#[cfg(test)]
mod tests;

pub(crate) use backoff::set_ranks_on_host;
pub use exit::before_interpreter_ends;
pub use lane::Lane;
pub use operation::{Operation, Outcome};
pub(crate) use task::panic_text;
pub use task::{Completion, OnFailure, Order, Schedule, Task};

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use crate::error::{Error, Kind, Result};
use backoff::Backoff;
use bell::Bell;
use progress::{Command, Ended, Progress, Remains};

/// How long a waiter sleeps while another thread drives, at most: a ring ends it sooner.
const WHILE_ANOTHER_DRIVES: Duration = Duration::from_millis(50);

static ENGINE: OnceCell<Engine> = OnceCell::new();

/// See the module.
pub struct Engine {
    progress: Mutex<Progress>,
    inbox: Mutex<Vec<Command>>,
    bell: Bell,
    /// Operations issued and not ended.
    pending: AtomicUsize,
    /// Threads that wait for an operation, and so drive.
    waiters: AtomicUsize,
    background: background::Thread,
    /// The process is about to end: nothing that users attached may run any more.
    leaving: AtomicBool,
    pid: u32,
}

/// The engine, made at the first call. An error in a forked child, which must not use it.
pub fn engine() -> Result<&'static Engine> {
    let engine = ENGINE.get_or_init(|| {
        crate::logging::start();
        exit::register();
        Engine {
            progress: Mutex::default(),
            inbox: Mutex::default(),
            bell: Bell::default(),
            pending: AtomicUsize::new(0),
            waiters: AtomicUsize::new(0),
            background: background::Thread::default(),
            leaving: AtomicBool::new(false),
            pid: std::process::id(),
        }
    });
    if engine.pid != std::process::id() {
        return Err(Error::Unavailable(
            "this process was forked from one that uses rmpi; a forked child cannot use its groups".to_owned(),
        ));
    }
    Ok(engine)
}

/// The engine, if there is one and this process made it.
pub(crate) fn existing() -> Option<&'static Engine> {
    ENGINE.get().filter(|engine| engine.pid == std::process::id())
}

impl Engine {
    /// Hands over an operation. Never waits for a peer. With `waits` the caller waits for it at once, so that no other
    /// thread is woken to drive it.
    pub fn submit(&'static self, task: Task, waits: bool) {
        let operation = task.operation.clone();
        operation.lane().enter();
        // Relaxed: the inbox's lock orders it before whoever takes the task.
        self.pending.fetch_add(1, Ordering::Relaxed);
        self.command(Command::Start(task));
        if waits {
            return;
        }
        // Its first messages leave now, and a short send ends now.
        self.try_turn();
        if !operation.is_done() {
            self.background.start(self);
            self.bell.ring();
        }
    }

    /// Drives until `operation` is done, or for at most `limit`. Returns whether it is done.
    pub fn wait(&'static self, operation: &Operation, limit: Option<Duration>) -> bool {
        if operation.is_done() {
            return true;
        }
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        let _waiting = Waiting::new(self);
        let mut backoff = Backoff::waiter();
        loop {
            let seen = self.bell.listen();
            let turn = self.try_turn();
            if operation.is_done() {
                return true;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
            match turn {
                Some(true) => backoff.reset(),
                Some(false) => backoff.pause(&self.bell, seen, left),
                None => {
                    let limit = left.map_or(WHILE_ANOTHER_DRIVES, |left| left.min(WHILE_ANOTHER_DRIVES));
                    self.bell.sleep(seen, Some(limit));
                }
            }
        }
    }

    /// Ends one operation with `error`, unless it ends first.
    pub fn end(&'static self, operation: Arc<Operation>, error: Error) {
        self.command(Command::End(operation, error));
        self.nudge();
    }

    /// Marks the lane as failed and ends all its operations.
    pub fn end_lane(&'static self, lane: &Lane, cause: &str) {
        lane.fail(Kind::Backend, cause);
        self.command(Command::EndLane(lane.id()));
        self.nudge();
    }

    /// Drives until the lane has no operation left, or for at most `limit`. Returns whether none is left.
    pub fn quiesce(&'static self, lane: &Lane, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let _waiting = Waiting::new(self);
        let mut backoff = Backoff::waiter();
        while lane.pending() > 0 {
            let seen = self.bell.listen();
            let left = until.saturating_duration_since(Instant::now());
            match self.try_turn() {
                Some(true) => backoff.reset(),
                _ if lane.pending() == 0 => return true,
                _ if left.is_zero() => return false,
                _ => backoff.pause(&self.bell, seen, Some(left)),
            }
        }
        true
    }

    /// Drives until nothing is pending and all memory has come back, or for at most `limit`. Returns whether that is so.
    fn drain(&'static self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut backoff = Backoff::background();
        // Acquire: see `tell`.
        while self.pending.load(Ordering::Acquire) > 0 || !self.inbox().is_empty() || self.lock().has_remains() {
            let seen = self.bell.listen();
            if self.try_turn() == Some(true) {
                backoff.reset();
            } else if Instant::now() >= until {
                return false;
            } else {
                backoff.pause(&self.bell, seen, None);
            }
        }
        true
    }

    /// Runs `call`, which uses MPI directly, with no other thread inside MPI on behalf of the engine.
    pub fn exclusively<T>(&self, call: impl FnOnce() -> T) -> T {
        let _progress = self.lock();
        call()
    }

    /// One turn, unless another thread is at it. `Some(true)`: something ended.
    fn try_turn(&'static self) -> Option<bool> {
        let mut progress = match self.progress.try_lock() {
            Ok(progress) => progress,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let mut ended = Vec::new();
        let commands = std::mem::take(&mut *self.inbox());
        let mut moved = !commands.is_empty();
        for command in commands {
            progress.accept(command, &mut ended);
        }
        moved |= progress.turn(&mut ended);
        let released = if progress.has_remains() { progress.released() } else { Vec::new() };
        drop(progress);
        for remains in released {
            let lane = remains.operation.lane().clone();
            self.dispose(remains);
            lane.leave();
        }
        for end in ended {
            self.tell(end);
        }
        Some(moved)
    }

    /// Tells everybody that an operation has ended. No lock is held.
    fn tell(&'static self, end: Ended) {
        let Ended { operation, mut completion, result, leftover } = end;
        if let Err(error) = &result {
            log::warn!("{error}");
        }
        completion.finish(operation.set_result(result));
        operation.set_done();
        // Release: pairs with the acquire of whoever finds nothing pending.
        self.pending.fetch_sub(1, Ordering::Release);
        self.bell.ring();
        if !self.leaving() {
            completion.announce();
        }
        match leftover {
            Some(leftover) => self.command(Command::Retain(Remains { leftover, operation, _completion: completion })),
            None => {
                self.dispose(completion);
                operation.lane().leave();
            }
        }
    }

    /// Drops what users gave, unless the process is about to end: it may belong to an interpreter that is gone.
    fn dispose<T>(&self, given: T) {
        if self.leaving() {
            std::mem::forget(given);
        }
    }

    fn leaving(&self) -> bool {
        // Relaxed: set by the thread that drives from then on.
        self.leaving.load(Ordering::Relaxed)
    }

    fn command(&self, command: Command) {
        self.inbox().push(command);
    }

    /// Has the inbox read soon, by this thread or by the one that drives.
    fn nudge(&'static self) {
        if self.try_turn().is_none() {
            self.background.start(self);
            self.bell.ring();
        }
    }

    /// Whether the background thread has something to do.
    fn is_unattended(&self) -> bool {
        // Acquire: see `tell`. Relaxed: a waiter that leaves rings the bell.
        self.waiters.load(Ordering::Relaxed) == 0
            && (self.pending.load(Ordering::Acquire) > 0 || !self.inbox().is_empty())
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        // A panic inside a turn is caught per operation; what remains is consistent.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inbox(&self) -> MutexGuard<'_, Vec<Command>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a thread among the waiters; when the last one leaves with operations pending, the background thread takes
/// over.
struct Waiting(&'static Engine);

impl Waiting {
    fn new(engine: &'static Engine) -> Self {
        // Relaxed: a hint to the background thread.
        engine.waiters.fetch_add(1, Ordering::Relaxed);
        Waiting(engine)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
        if self.0.pending.load(Ordering::Acquire) > 0 {
            self.0.background.start(self.0);
            self.0.bell.ring();
        }
    }
}
