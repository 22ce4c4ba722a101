//! The threads that drive what nobody waits for.
//!
//! One is at its post, and drives. Before it runs what users attached to an operation, which may block for as long as
//! users like, it leaves the post, and another thread takes it as soon as there is anything to drive. Normally there is
//! nothing by the time it is back, so that there is one thread.

use std::collections::VecDeque;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::task::panic_text;
use super::{Driver, Engine};

/// How long an idle thread sleeps at most: memory that a failed operation left with the transport is looked for then.
const IDLE: Duration = Duration::from_millis(200);

/// How long users' code may keep a thread before another one runs what comes after it, in case it waits for that.
const PATIENCE: Duration = Duration::from_millis(2);

/// Threads that wait for the post to become free; more than that end.
const RESERVE: usize = 2;

/// Nobody is at the post.
const VACANT: u64 = 0;
/// Nobody is at the post, and nobody shall be.
const CLOSED: u64 = u64::MAX;

#[derive(Default)]
pub(super) struct Threads {
    /// Which turn of duty is at the post. Written under the lock; read without it to see whether anything is to be done.
    post: AtomicU64,
    stopping: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Turns of duty so far; each has a number of its own.
    turns: u64,
    reserve: usize,
    /// Turns of duty for threads of the reserve.
    called: VecDeque<u64>,
}

impl Threads {
    /// Has a thread drive, if none does.
    pub fn start(&self, engine: &'static Engine) {
        // Acquire: as the lock, for the common case.
        if self.post.load(Ordering::Acquire) != VACANT {
            return;
        }
        let mut state = self.lock();
        if self.post.load(Ordering::Relaxed) != VACANT || self.is_stopping() {
            return;
        }
        state.turns += 1;
        let turn = state.turns;
        self.post.store(turn, Ordering::Release);
        if state.reserve > 0 {
            state.reserve -= 1;
            state.called.push_back(turn);
            self.changed.notify_all();
            return;
        }
        let spawned = std::thread::Builder::new().name("rmpi-engine".to_owned()).spawn(move || serve(engine, turn));
        if let Err(error) = spawned {
            // Operations go on whenever somebody waits for one; the next call tries again.
            log::error!("cannot start the background thread: {error}");
            self.post.store(VACANT, Ordering::Release);
        }
    }

    /// Ends the threads, for ever. Returns when none drives; one that is in users' code ends when it comes back.
    pub fn stop(&self, engine: &'static Engine) {
        self.stopping.store(true, Ordering::Release);
        engine.bell.ring();
        let mut state = self.lock();
        while !matches!(self.post.load(Ordering::Relaxed), VACANT | CLOSED) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.post.store(CLOSED, Ordering::Release);
        self.changed.notify_all();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn is_at_post(&self, turn: u64) -> bool {
        self.post.load(Ordering::Acquire) == turn
    }

    /// Leaves the post: what comes may take long.
    pub fn leave(&self, turn: u64) {
        let _state = self.lock();
        if self.post.load(Ordering::Relaxed) == turn {
            self.post.store(VACANT, Ordering::Release);
            self.changed.notify_all();
        }
    }

    /// Comes back to the post, unless another thread has it by now.
    pub fn come_back(&self, turn: u64) {
        let _state = self.lock();
        if self.post.load(Ordering::Relaxed) == VACANT && !self.is_stopping() {
            self.post.store(turn, Ordering::Release);
        }
    }

    /// Waits until the post is this thread's again; `None`: the thread ends.
    fn next_turn(&self) -> Option<u64> {
        let mut state = self.lock();
        if state.reserve >= RESERVE {
            return None;
        }
        state.reserve += 1;
        loop {
            if let Some(turn) = state.called.pop_front() {
                return Some(turn);
            }
            if self.post.load(Ordering::Relaxed) == CLOSED {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether no thread is at the post, and none is on its way.
    #[cfg(test)]
    pub fn is_vacant(&self) -> bool {
        self.post.load(Ordering::Acquire) == VACANT
    }

    /// Whether a thread has ever been at the post.
    #[cfg(test)]
    pub fn has_been_called(&self) -> bool {
        self.lock().turns > 0
    }

    /// Whether nobody shall be at the post any more.
    #[cfg(test)]
    pub fn is_closed(&self) -> bool {
        self.post.load(Ordering::Acquire) == CLOSED
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(engine: &'static Engine, first: u64) {
    let mut turn = Some(first);
    while let Some(number) = turn {
        if let Err(panic) = catch_unwind(|| drive(engine, number)) {
            log::error!("a defect of the engine: {}", panic_text(&*panic));
            engine.background.leave(number);
        }
        turn = engine.background.next_turn();
    }
}

/// Drives until another thread has the post, or nobody shall have it.
fn drive(engine: &'static Engine, turn: u64) {
    let threads = &engine.background;
    let mut backoff = Backoff::background();
    // Since when users' code keeps another thread while more of it waits.
    let mut busy: Option<Instant> = None;
    while threads.is_at_post(turn) {
        if threads.is_stopping() {
            return threads.leave(turn);
        }
        let mut limit = engine.has_retained().then_some(IDLE);
        if engine.has_queued() {
            let since = *busy.get_or_insert_with(Instant::now);
            if !engine.leaves_users_to_another(since) {
                busy = None;
                engine.tell(turn);
                continue;
            }
            limit = Some(PATIENCE);
        } else {
            busy = None;
        }
        let queued = busy.is_some();
        if engine.is_unattended() {
            if engine.try_turn(Driver::Background).is_some_and(|turn| turn.moved) {
                backoff.reset();
            } else if let Some(pause) = backoff.step().take()
                && engine.rest(Driver::Background, pause, limit, || !engine.may_sleep(turn, queued, true))
            {
                backoff.reset();
            }
            continue;
        }
        backoff.reset();
        if engine.has_retained() {
            engine.try_turn(Driver::Background);
        }
        let sleeper = engine.bell.inside();
        if engine.may_sleep(turn, queued, false) {
            sleeper.sleep(limit);
        }
    }
}

impl Engine {
    /// Whether a thread at its post leaves users to the one that tells them, and that since then: most often it goes on
    /// with the next in a moment.
    fn leaves_users_to_another(&self, since: Instant) -> bool {
        self.is_telling() && since.elapsed() < PATIENCE
    }

    /// Whether the thread of this turn of duty may sleep: nothing calls it away, and all is as it was when it looked.
    fn may_sleep(&self, turn: u64, queued: bool, unattended: bool) -> bool {
        let threads = &self.background;
        let stays = threads.is_at_post(turn) && !threads.is_stopping();
        stays && self.has_queued() == queued && self.is_unattended() == unattended
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{new_engine, until};
    use super::*;

    fn post(threads: &Threads) -> u64 {
        threads.post.load(Ordering::SeqCst)
    }

    #[test]
    fn a_thread_at_a_time_is_at_the_post_and_those_in_reserve_are_called_first() {
        let engine = new_engine();
        let threads = &engine.background;
        threads.start(engine);
        threads.start(engine);
        assert_eq!((post(threads), threads.lock().turns), (1, 1), "it is there already");
        assert!(threads.is_at_post(1) && !threads.is_at_post(2));
        threads.leave(2);
        assert_eq!(post(threads), 1, "who is not there cannot leave");
        threads.leave(1);
        assert_eq!(post(threads), VACANT);
        engine.bell.ring();
        until(|| threads.lock().reserve == 1);
        threads.start(engine);
        assert_eq!((post(threads), threads.lock().reserve), (2, 0), "the one in reserve has been called");
        until(|| threads.lock().called.is_empty());
        threads.leave(2);
        engine.bell.ring();
        until(|| threads.lock().reserve == 1);
        threads.stop(engine);
        assert_eq!(post(threads), CLOSED);
    }

    #[test]
    fn who_comes_back_finds_the_post_vacant_or_taken() {
        let threads = Threads::default();
        threads.come_back(3);
        assert_eq!(post(&threads), 3);
        threads.come_back(4);
        assert_eq!(post(&threads), 3, "another one has it");
        threads.leave(3);
        threads.stopping.store(true, Ordering::SeqCst);
        threads.come_back(3);
        assert_eq!(post(&threads), VACANT, "nobody shall have it");
    }

    #[test]
    fn no_thread_is_started_from_the_end_on() {
        let engine = new_engine();
        let threads = &engine.background;
        assert!(!threads.is_stopping());
        threads.stopping.store(true, Ordering::SeqCst);
        assert!(threads.is_stopping());
        threads.start(engine);
        assert_eq!((post(threads), threads.lock().turns), (VACANT, 0));
        threads.stop(engine);
        threads.start(engine);
        assert_eq!((post(threads), threads.lock().turns), (CLOSED, 0));
    }

    #[test]
    fn threads_that_are_not_needed_end() {
        let threads = Threads::default();
        threads.lock().reserve = RESERVE;
        assert_eq!(threads.next_turn(), None, "there are enough");
        assert_eq!(threads.lock().reserve, RESERVE);
        threads.lock().reserve = RESERVE - 1;
        threads.lock().called.extend([5, 6]);
        assert_eq!(threads.next_turn(), Some(5));
        assert_eq!(threads.lock().called, [6]);
        threads.lock().called.clear();
        threads.lock().reserve = 0;
        threads.post.store(CLOSED, Ordering::SeqCst);
        assert_eq!(threads.next_turn(), None, "nobody drives any more");
    }

    #[test]
    fn a_thread_sleeps_only_if_all_is_as_it_was() {
        let engine = new_engine();
        let threads = &engine.background;
        threads.come_back(3);
        for queued in [false, true] {
            for unattended in [false, true] {
                assert!(engine.may_sleep(3, queued, unattended));
                assert!(!engine.may_sleep(4, queued, unattended), "another one is at the post");
                assert!(!engine.may_sleep(3, !queued, unattended));
                assert!(!engine.may_sleep(3, queued, !unattended));
                engine.services.fetch_add(1, Ordering::SeqCst);
            }
            engine.services.store(0, Ordering::SeqCst);
            engine.queued.fetch_add(1, Ordering::SeqCst);
        }
        assert!(engine.may_sleep(3, true, false));
        threads.stopping.store(true, Ordering::SeqCst);
        assert!(!engine.may_sleep(3, true, false), "it is the end");
    }

    #[test]
    fn users_are_left_to_another_thread_for_a_while() {
        let engine = new_engine();
        let (now, long_ago) = (Instant::now() + PATIENCE * 1000, Instant::now() - PATIENCE);
        assert!(!engine.leaves_users_to_another(now), "there is none");
        engine.telling.fetch_add(1, Ordering::SeqCst);
        assert!(engine.leaves_users_to_another(now));
        assert!(!engine.leaves_users_to_another(long_ago), "what comes may be what it waits for");
    }

    #[test]
    fn a_call_wakes_who_is_in_reserve() {
        let threads = Threads::default();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| threads.next_turn());
            until(|| threads.lock().reserve == 1);
            threads.lock().called.push_back(7);
            threads.changed.notify_all();
            assert_eq!(waits.join().unwrap(), Some(7));
        });
    }
}
