//! What happens when an operation has ended: its result is recorded, its waiters go on, and users are told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{MutexGuard, PoisonError};

use super::progress::{Command, Ended, Remains};
use super::{Engine, Outcome};

impl Engine {
    /// Records the result of an operation that has ended, and lets its waiters go. No lock is held.
    pub(super) fn settle(&self, end: &mut Ended) {
        if let Err(error) = &end.result {
            log::warn!("{error}");
        }
        let result = std::mem::replace(&mut end.result, Ok(Outcome::default()));
        end.completion.finish(end.operation.set_result(result));
        let is_service = end.operation.is_service();
        if end.leftover.is_some() {
            // Counted before waiters go: the last to leave sees to it that somebody looks after the memory.
            self.retained.fetch_add(1, Ordering::Relaxed);
        } else if !is_service {
            end.operation.lane().leave();
        }
        end.operation.set_done();
        // Release: pairs with the acquire of whoever finds nothing pending.
        let count = if is_service { &self.services } else { &self.pending };
        count.fetch_sub(1, Ordering::Release);
    }

    /// Leaves an operation that has been settled to the background thread, if users have attached anything to it: true.
    pub(super) fn announce_later(&self, mut end: Ended) -> bool {
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
    pub(super) fn tell(&'static self, turn: u64) {
        let _away = Away::new(self, turn);
        loop {
            let Some(mut end) = self.untold().pop_front() else { return };
            let _telling = Telling::new(&self.telling);
            self.queued.fetch_sub(1, Ordering::SeqCst);
            if self.has_work() || self.has_services() {
                self.wake_background();
            }
            if !self.leaving() {
                end.completion.announce();
            }
            self.retire(end);
        }
    }

    /// Gives up telling users: the process is about to end.
    pub(super) fn tell_nobody(&self) {
        let untold = std::mem::take(&mut *self.untold());
        self.queued.fetch_sub(untold.len(), Ordering::SeqCst);
        untold.into_iter().for_each(|end| self.retire(end));
    }

    /// Drops what is left of an operation, now or when the transport has given its memory back.
    pub(super) fn retire(&self, end: Ended) {
        let Ended { operation, completion, leftover, .. } = end;
        let is_service = operation.is_service();
        match leftover {
            Some(leftover) => self.command(Command::Retain(Remains { leftover, operation, _completion: completion })),
            None => self.dispose(completion),
        }
        // Release: pairs with the acquire in `drain`. What users' code has issued is counted by now.
        if !is_service {
            self.unfinished.fetch_sub(1, Ordering::Release);
        }
    }

    /// Drops what users gave, unless the process is about to end: it may belong to an interpreter that is gone.
    pub(crate) fn dispose<T>(&self, given: T) {
        if self.leaving() {
            std::mem::forget(given);
        }
    }

    pub(super) fn leaving(&self) -> bool {
        // Relaxed: set by the thread that drives from then on.
        self.leaving.load(Ordering::Relaxed)
    }

    /// Whether users have to be told of anything.
    pub(super) fn has_queued(&self) -> bool {
        self.queued.load(Ordering::SeqCst) > 0
    }

    /// Whether users' code runs.
    pub(super) fn is_telling(&self) -> bool {
        self.telling.load(Ordering::SeqCst) > 0
    }

    pub(super) fn untold(&self) -> MutexGuard<'_, VecDeque<Ended>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
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
