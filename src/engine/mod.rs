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

pub(crate) use backoff::{is_crowded, set_ranks_on_host};
pub use exit::{await_users, before_interpreter_ends, drain};
pub use lane::Lane;
pub use operation::{Operation, Outcome};
pub(crate) use task::panic_text;
pub use task::{Completion, OnFailure, Order, Schedule, Task, Witness};

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use crate::error::{Error, Kind, Result};
use crate::process::Owner;
use backoff::Backoff;
use bell::Bell;
use progress::{Command, Ended, Progress, Remains, Turn};

/// How long a waiter sleeps while another thread drives, at most: a ring ends it sooner. No test may pass because of it.
const WHILE_ANOTHER_DRIVES: Duration = Duration::from_millis(if cfg!(test) { 60_000 } else { 50 });

static ENGINE: OnceCell<Engine> = OnceCell::new();

/// See the module.
pub struct Engine {
    progress: Mutex<Progress>,
    inbox: Mutex<Vec<Command>>,
    /// Operations that have ended, and to which users have attached something that has not been run.
    untold: Mutex<VecDeque<Ended>>,
    bell: Bell,
    /// Operations issued and not ended.
    pending: AtomicUsize,
    /// Operations issued, of which users have not been told, nor the rest has been given up.
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
    owner: Owner,
}

/// The engine, made at the first call. An error in a forked child, which must not use it.
pub fn engine() -> Result<&'static Engine> {
    let engine = ENGINE.get_or_init(|| {
        crate::logging::start();
        exit::register();
        Engine {
            progress: Mutex::default(),
            inbox: Mutex::default(),
            untold: Mutex::default(),
            bell: Bell::new(),
            pending: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            telling: AtomicUsize::new(0),
            retained: AtomicUsize::new(0),
            waiters: AtomicUsize::new(0),
            sidelined: AtomicUsize::new(0),
            background: background::Threads::default(),
            leaving: AtomicBool::new(false),
            owner: Owner::current(),
        }
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
    /// Hands over an operation. Runs nothing: [`Engine::begin`] or [`Engine::wait`] comes next.
    pub fn submit(&self, task: Task) {
        task.operation.lane().enter();
        // Relaxed: the inbox's lock orders it before whoever takes the task.
        self.pending.fetch_add(1, Ordering::Relaxed);
        self.unfinished.fetch_add(1, Ordering::Relaxed);
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

    /// Drives until `operation` is done, or for at most `limit`. Returns whether it is done.
    pub fn wait(&'static self, operation: &Operation, limit: Option<Duration>) -> bool {
        if operation.is_done() {
            return true;
        }
        if self.is_foreign() {
            operation.set_result(Err(forked()));
            operation.set_done();
            return true;
        }
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        let _waiting = Waiting::new(self);
        let mut backoff = Backoff::waiter();
        loop {
            let turn = self.try_turn(Driver::Waiter);
            if operation.is_done() {
                return true;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
            match turn {
                Some(turn) if turn.moved => backoff.reset(),
                Some(_) => {
                    if let Some(pause) = backoff.step().take() {
                        self.rest(Driver::Waiter, pause, left, || operation.is_done());
                    }
                }
                None => {
                    let limit = left.map_or(WHILE_ANOTHER_DRIVES, |left| left.min(WHILE_ANOTHER_DRIVES));
                    self.sidelined.fetch_add(1, Ordering::Relaxed);
                    // Its fence pairs with the one in `wake_sidelined`: the other thread sees this one counted, or this
                    // one finds the lock free.
                    let sleeper = self.bell.inside();
                    if self.try_turn(Driver::Waiter).is_none() && !operation.is_done() {
                        sleeper.sleep(Some(limit));
                    }
                    self.sidelined.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// For a thread that drives and has found nothing to do: sleeps until something may be to do, for at most `left`.
    /// `pause` is how long if what is under way has to be polled; not at all if `enough` says so.
    fn rest(&'static self, driver: Driver, pause: Duration, left: Option<Duration>, enough: impl FnOnce() -> bool) {
        let sleeper = self.bell.at_the_door();
        // Whatever comes from now on rings.
        let pause = match self.try_turn(driver) {
            Some(turn) if turn.moved => return,
            Some(turn) => turn.rest.unwrap_or(pause),
            None => pause,
        };
        // What somebody has handed over during the turn, without ringing, since it found this thread driving.
        if !enough() && self.inbox().is_empty() {
            sleeper.sleep(Some(left.map_or(pause, |left| left.min(pause))));
        }
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

    /// Drives until the lane has no operation left, or for at most `limit`. Returns whether none is left.
    pub fn quiesce(&'static self, lane: &Lane, limit: Duration) -> bool {
        if self.is_foreign() {
            return lane.pending() == 0;
        }
        let until = Instant::now() + limit;
        let _waiting = Waiting::new(self);
        let mut backoff = Backoff::waiter();
        while lane.pending() > 0 {
            let left = until.saturating_duration_since(Instant::now());
            match self.try_turn(Driver::Waiter) {
                Some(turn) if turn.moved => backoff.reset(),
                _ if lane.pending() == 0 => return true,
                _ if left.is_zero() => return false,
                _ => {
                    if let Some(pause) = backoff.step().take() {
                        self.rest(Driver::Waiter, pause, Some(left), || lane.pending() == 0);
                    }
                }
            }
        }
        true
    }

    /// Drives until nothing is pending and all memory has come back, and until users have been told of everything if they
    /// still are; or for at most `limit`. Returns whether that is so.
    fn drain(&'static self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut backoff = Backoff::background();
        // Users hear of nothing once the process is leaving.
        while self.has_work() || !self.leaving() && self.unfinished.load(Ordering::Acquire) > 0 {
            if self.try_turn(Driver::Passing).is_some_and(|turn| turn.moved) {
                backoff.reset();
            } else if Instant::now() >= until {
                return false;
            } else if let Some(pause) = backoff.step().take() {
                thread::sleep(pause);
            }
        }
        true
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
        let mut progress = self.lock();
        progress.closed = true;
        finalize(progress.has_failed)
    }

    /// One turn, unless another thread is at it.
    fn try_turn(&'static self, driver: Driver) -> Option<Turn> {
        let mut progress = match self.progress.try_lock() {
            Ok(progress) => progress,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        if progress.closed {
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
            let lane = remains.operation.lane().clone();
            self.dispose(remains);
            lane.leave();
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

    /// Records the result of an operation that has ended, and lets its waiters go. No lock is held.
    fn settle(&self, end: &mut Ended) {
        if let Err(error) = &end.result {
            log::warn!("{error}");
        }
        let result = std::mem::replace(&mut end.result, Ok(Outcome::default()));
        end.completion.finish(end.operation.set_result(result));
        if end.leftover.is_some() {
            // Counted before waiters go: the last to leave sees to it that somebody looks after the memory.
            self.retained.fetch_add(1, Ordering::Relaxed);
        } else {
            end.operation.lane().leave();
        }
        end.operation.set_done();
        // Release: pairs with the acquire of whoever finds nothing pending.
        self.pending.fetch_sub(1, Ordering::Release);
    }

    /// Leaves an operation that has been settled to the background thread, if users have attached anything to it: true.
    fn announce_later(&self, mut end: Ended) -> bool {
        if self.leaving() || end.completion.announce_to_nobody() {
            self.retire(end);
            return false;
        }
        self.queued.fetch_add(1, Ordering::SeqCst);
        self.untold().push_back(end);
        true
    }

    /// Runs what users attached to operations that have ended, on the background thread in this turn of duty. No lock is
    /// held, and another thread drives: it may take as long as users like.
    fn tell(&'static self, turn: u64) {
        let _away = Away::new(self, turn);
        loop {
            let Some(mut end) = self.untold().pop_front() else { return };
            let _telling = Telling::new(&self.telling);
            self.queued.fetch_sub(1, Ordering::SeqCst);
            if self.has_work() {
                self.wake_background();
            }
            if !self.leaving() {
                end.completion.announce();
            }
            self.retire(end);
        }
    }

    /// Gives up telling users: the process is about to end.
    fn tell_nobody(&self) {
        let untold = std::mem::take(&mut *self.untold());
        self.queued.fetch_sub(untold.len(), Ordering::SeqCst);
        untold.into_iter().for_each(|end| self.retire(end));
    }

    /// Drops what is left of an operation, now or when the transport has given its memory back.
    fn retire(&self, end: Ended) {
        let Ended { operation, completion, leftover, .. } = end;
        match leftover {
            Some(leftover) => self.command(Command::Retain(Remains { leftover, operation, _completion: completion })),
            None => self.dispose(completion),
        }
        // Release: pairs with the acquire in `drain`. What users' code has issued is counted by now.
        self.unfinished.fetch_sub(1, Ordering::Release);
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
        if self.try_turn(Driver::Passing).is_none() {
            self.wake_background();
        }
    }

    fn wake_background(&'static self) {
        self.background.start(self);
        self.bell.ring();
    }

    /// Whether anything is left to drive, to tell, or to give back.
    fn has_work(&self) -> bool {
        // Acquire: see `settle`.
        self.pending.load(Ordering::Acquire) > 0 || self.has_queued() || self.has_retained() || !self.inbox().is_empty()
    }

    /// Whether users have to be told of anything.
    fn has_queued(&self) -> bool {
        self.queued.load(Ordering::SeqCst) > 0
    }

    /// Whether users' code runs.
    fn is_telling(&self) -> bool {
        self.telling.load(Ordering::SeqCst) > 0
    }

    fn has_retained(&self) -> bool {
        self.retained.load(Ordering::Acquire) > 0
    }

    /// Whether the background thread has to drive.
    fn is_unattended(&self) -> bool {
        // Relaxed: whoever changes them in that direction rings the bell.
        self.waiters.load(Ordering::Relaxed) == 0
            && (self.pending.load(Ordering::Acquire) > 0 || !self.inbox().is_empty())
    }

    /// Whether this process is a forked child of the one that made the engine.
    fn is_foreign(&self) -> bool {
        !self.owner.is_here()
    }

    fn untold(&self) -> MutexGuard<'_, VecDeque<Ended>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Counts a thread among the waiters; when it leaves with anything left to do, the background thread takes over.
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
        if self.0.has_work() {
            self.0.wake_background();
        }
    }
}

/// Counts a piece of users' code that runs.
struct Telling<'a>(&'a AtomicUsize);

impl<'a> Telling<'a> {
    fn new(telling: &'a AtomicUsize) -> Self {
        telling.fetch_add(1, Ordering::SeqCst);
        Telling(telling)
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A background thread runs users' code, and another one drives meanwhile.
struct Away {
    engine: &'static Engine,
    turn: u64,
}

impl Away {
    fn new(engine: &'static Engine, turn: u64) -> Self {
        engine.background.leave(turn);
        Away { engine, turn }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.engine.background.come_back(self.turn);
    }
}
