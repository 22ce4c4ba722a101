//! Waiting: whoever waits drives, and sleeps when there is nothing to drive.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::placement::settle;
use super::{Driver, Engine, Lane, Operation, forked};

/// How long a waiter sleeps while another thread drives, at most: a ring ends it sooner. No test may pass because of it.
const WHILE_ANOTHER_DRIVES: Duration = Duration::from_millis(if cfg!(test) { 60_000 } else { 50 });

impl Engine {
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
        let mut backoff = Backoff::waiter(operation.lane().spins());
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
                    settle();
                    if let Some(pause) = backoff.step().take()
                        && self.rest(Driver::Waiter, pause, left, || operation.is_done())
                    {
                        backoff.reset();
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
    /// `pause` is how long if what is under way has to be polled; not at all if `enough` says so. Returns whether
    /// something has moved after all.
    pub(super) fn rest(
        &'static self,
        driver: Driver,
        pause: Duration,
        left: Option<Duration>,
        enough: impl FnOnce() -> bool,
    ) -> bool {
        let sleeper = self.bell.at_the_door();
        // Whatever comes from now on rings.
        let pause = match self.try_turn(driver) {
            Some(turn) if turn.moved => return true,
            Some(turn) => turn.rest.unwrap_or(pause),
            None => pause,
        };
        // What somebody has handed over during the turn, without ringing, since it found this thread driving.
        if !enough() && self.inbox().is_empty() {
            sleeper.sleep(Some(left.map_or(pause, |left| left.min(pause))));
        }
        false
    }

    /// Drives until the lane has no operation left, or for at most `limit`. Returns whether none is left.
    pub fn quiesce(&'static self, lane: &Lane, limit: Duration) -> bool {
        if self.is_foreign() {
            return lane.pending() == 0;
        }
        let until = Instant::now() + limit;
        let _waiting = Waiting::new(self);
        let mut backoff = Backoff::waiter(lane.spins());
        while lane.pending() > 0 {
            let left = until.saturating_duration_since(Instant::now());
            let moved = self.try_turn(Driver::Waiter).is_some_and(|turn| turn.moved);
            if lane.pending() == 0 {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            if moved {
                backoff.reset();
            } else if let Some(pause) = backoff.step().take()
                && self.rest(Driver::Waiter, pause, Some(left), || lane.pending() == 0)
            {
                backoff.reset();
            }
        }
        true
    }

    /// Drives until nothing is pending and all memory has come back, and until users have been told of everything if they
    /// still are; or for at most `limit`. Returns whether that is so.
    pub(super) fn drain(&'static self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut backoff = Backoff::background();
        // Users hear of nothing once the process is leaving.
        while self.has_work() || !self.leaving() && self.unfinished.load(Ordering::Acquire) > 0 {
            let moved = self.try_turn(Driver::Passing).is_some_and(|turn| turn.moved);
            if Instant::now() >= until {
                return !self.has_work() && (self.leaving() || self.unfinished.load(Ordering::Acquire) == 0);
            }
            if moved {
                backoff.reset();
            } else if let Some(pause) = backoff.step().take() {
                // What is left may be a user's callback on another thread, whose end nothing rings for.
                thread::sleep(pause);
            }
        }
        true
    }
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
        if self.0.has_work() || self.0.has_services() {
            self.0.wake_background();
        }
    }
}
