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
mod placement;
mod progress;
mod task;
mod telling;
#[cfg(test)]
mod tests;
mod wait;

pub(crate) use backoff::{is_crowded, set_ranks_on_host};
pub use exit::{await_users, before_interpreter_ends, drain};
pub use lane::Lane;
pub use operation::{Operation, Outcome};
pub(crate) use placement::{place, settle};
pub(crate) use task::panic_text;
pub use task::{Completion, OnFailure, Order, Schedule, Task, Witness};

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use once_cell::sync::OnceCell;

use crate::error::{Error, Kind, Result};
use crate::process::Owner;
use bell::Bell;
use progress::{Command, Ended, Progress, Turn};

static ENGINE: OnceCell<Engine> = OnceCell::new();

/// See the module.
pub struct Engine {
    progress: Mutex<Progress>,
    inbox: Mutex<Vec<Command>>,
    /// Operations that have ended, and to which users have attached something that has not been run.
    untold: Mutex<VecDeque<Ended>>,
    bell: Bell,
    /// Operations issued and not ended, without services.
    pending: AtomicUsize,
    /// Services issued and not ended: nothing waits for their end.
    services: AtomicUsize,
    /// Operations issued, but for services, of which users have not been told, nor the rest has been given up.
    unfinished: AtomicUsize,
    /// Operations that are in `untold`.
    queued: AtomicUsize,
    /// Operations of which users are being told.
    telling: AtomicUsize,
    /// Failed operations whose memory the transport still holds.
    retained: AtomicUsize,
    /// Threads that wait for an operation, and so drive.
    waiters: AtomicUsize,
    /// Threads that wait and have found another one driving.
    sidelined: AtomicUsize,
    background: background::Threads,
    /// The process is about to end: nothing that users attached may run any more.
    leaving: AtomicBool,
    /// The process has ended its communication. Written while nobody drives.
    closed: AtomicBool,
    owner: Owner,
}

/// The engine, made at the first call. An error in a forked child, which must not use it.
pub fn engine() -> Result<&'static Engine> {
    let engine = ENGINE.get_or_init(|| {
        crate::logging::start();
        exit::register();
        Engine::new(Bell::of_process())
    });
    if engine.is_foreign() {
        return Err(forked());
    }
    Ok(engine)
}

fn forked() -> Error {
    Error::Unavailable(
        "this process was forked from one that uses rmpi; a forked child cannot use its groups".to_owned(),
    )
}

/// The engine, if there is one and this process made it.
pub(crate) fn existing() -> Option<&'static Engine> {
    ENGINE.get().filter(|engine| !engine.is_foreign())
}

impl Engine {
    /// One that nothing is told of at the end of the process.
    fn new(bell: Bell) -> Self {
        Engine {
            progress: Mutex::default(),
            inbox: Mutex::default(),
            untold: Mutex::default(),
            bell,
            pending: AtomicUsize::new(0),
            services: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            telling: AtomicUsize::new(0),
            retained: AtomicUsize::new(0),
            waiters: AtomicUsize::new(0),
            sidelined: AtomicUsize::new(0),
            background: background::Threads::default(),
            leaving: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            owner: Owner::current(),
        }
    }

    /// Hands over an operation. Runs nothing: [`Engine::begin`] or [`Engine::wait`] comes next.
    pub fn submit(&self, task: Task) {
        // Relaxed: the inbox's lock orders it before whoever takes the task.
        if task.operation.is_service() {
            self.services.fetch_add(1, Ordering::Relaxed);
        } else {
            task.operation.lane().enter();
            self.pending.fetch_add(1, Ordering::Relaxed);
            self.unfinished.fetch_add(1, Ordering::Relaxed);
        }
        self.command(Command::Start(task));
    }

    /// Begins an operation that has been handed over, for an issuer that does not wait for it. Never waits for a peer.
    pub fn begin(&'static self, operation: &Operation) {
        // Its first messages leave now, and a short send ends now.
        self.try_turn(Driver::Passing);
        if !operation.is_done() {
            self.wake_background();
        }
    }

    /// Marks the lane of an operation that its issuer has carried out by itself as failed.
    pub fn fail_lane(&self, lane: &Lane, error: &Error) {
        self.lock().has_failed = true;
        self.wake_sidelined();
        lane.fail(error.kind(), error.to_string());
    }

    /// Ends one operation with `error`, unless it ends first.
    pub fn end(&'static self, operation: Arc<Operation>, error: Error) {
        if self.is_foreign() {
            return;
        }
        self.command(Command::End(operation, error));
        self.nudge();
    }

    /// Marks the lane as failed and ends all its operations.
    pub fn end_lane(&'static self, lane: &Lane, cause: &str) {
        if self.is_foreign() {
            return;
        }
        lane.fail(Kind::Backend, cause);
        self.command(Command::EndLane(lane.id()));
        self.nudge();
    }

    /// Runs `call`, which uses MPI directly, with no other thread inside MPI on behalf of the engine.
    pub fn exclusively<T>(&self, call: impl FnOnce() -> T) -> T {
        let progress = self.lock();
        let result = call();
        drop(progress);
        self.wake_sidelined();
        result
    }

    /// Runs `finalize`, which learns whether an operation has failed, and drives nothing from then on.
    fn close<T>(&self, finalize: impl FnOnce(bool) -> T) -> T {
        let progress = self.lock();
        // Relaxed: whoever drives reads it under the lock, and any other thread races with the end of the process.
        self.closed.store(true, Ordering::Relaxed);
        finalize(progress.has_failed)
    }

    /// One turn, unless another thread is at it.
    fn try_turn(&'static self, driver: Driver) -> Option<Turn> {
        let mut progress = match self.progress.try_lock() {
            Ok(progress) => progress,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        if self.is_closed() {
            return Some(Turn { moved: false, rest: None });
        }
        let mut ended = Vec::new();
        let commands = std::mem::take(&mut *self.inbox());
        let commanded = !commands.is_empty();
        for command in commands {
            progress.accept(command, &mut ended);
        }
        let mut turn = progress.turn(&mut ended);
        turn.moved |= commanded;
        let released = progress.released();
        drop(progress);
        if driver != Driver::Waiter {
            self.wake_sidelined();
        }
        // All of them, before users hear of one: they may wait for any other.
        for end in &mut ended {
            self.settle(end);
        }
        if !ended.is_empty() {
            self.bell.ring();
        }
        let mut pushed = false;
        for end in ended {
            pushed |= self.announce_later(end);
        }
        for remains in released {
            let lane = (!remains.operation.is_service()).then(|| remains.operation.lane().clone());
            self.dispose(remains);
            lane.iter().for_each(|lane| lane.leave());
            self.retained.fetch_sub(1, Ordering::Release);
        }
        if driver != Driver::Background && pushed {
            // Not here: whoever waits or issues may hold a lock that users' code takes, too.
            self.wake_background();
        }
        Some(turn)
    }

    /// After a turn by a thread that may not drive again: one that waits, and found the lock taken, goes on with it.
    fn wake_sidelined(&self) {
        // See `wait`.
        fence(Ordering::SeqCst);
        if self.sidelined.load(Ordering::Relaxed) > 0 {
            self.bell.ring();
        }
    }

    fn command(&self, command: Command) {
        self.inbox().push(command);
    }

    /// Has the inbox read soon, by this thread or by the one that drives.
    fn nudge(&'static self) {
        if self.try_turn(Driver::Passing).is_none() {
            self.wake_background();
        }
    }

    fn wake_background(&'static self) {
        self.background.start(self);
        self.bell.ring();
    }

    /// Whether anything but services is left to drive, to tell, or to give back.
    fn has_work(&self) -> bool {
        // Acquire: see `settle`.
        self.pending.load(Ordering::Acquire) > 0 || self.has_queued() || self.has_retained() || !self.inbox().is_empty()
    }

    fn has_services(&self) -> bool {
        self.services.load(Ordering::Acquire) > 0
    }

    /// Whether it drives nothing any more, as the process has ended its communication.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn has_retained(&self) -> bool {
        self.retained.load(Ordering::Acquire) > 0
    }

    /// Whether the background thread has to drive.
    fn is_unattended(&self) -> bool {
        // Relaxed: whoever changes them in that direction rings the bell.
        self.waiters.load(Ordering::Relaxed) == 0
            && (self.pending.load(Ordering::Acquire) > 0 || self.has_services() || !self.inbox().is_empty())
    }

    /// Whether this process is a forked child of the one that made the engine.
    fn is_foreign(&self) -> bool {
        !self.owner.is_here()
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        // A panic inside a turn is caught per operation; what remains is consistent.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inbox(&self) -> MutexGuard<'_, Vec<Command>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who takes a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Driver {
    /// A thread that waits, and takes the next turn, too.
    Waiter,
    /// The background thread.
    Background,
    /// A thread that takes one turn.
    Passing,
}
