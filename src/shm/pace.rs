//! How a rank writes what others read: through its caches, or past them.
//!
//! A line that another core has in its cache must be taken from it before it can be written. That is nothing much where
//! both cores share a cache, and where they do not it can take ten times as long as to write to memory, past all caches.
//! Yet there, what is written has to be read from memory, which all cores share; so that is the exception. No system says
//! reliably where a process's cores are, a virtual machine least of all, which may move them at any time. So a rank
//! measures its own copies, and tries the other way now and then. What others do has no influence on its choice, and
//! needs none.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::memory::{STREAMS, View};

/// Shorter copies are not measured, and go through the caches.
const LEAST: usize = 16 << 10;
/// Nanoseconds per [`LINE`] of a copy through the caches, from which on it may be worth it to go past them. Of memory
/// that nobody else uses it takes 1 to 6, and 4 to 10 where cores share a cache.
const SLOW: f64 = 14.0;
const LINE: f64 = 64.0;
/// A copy past the caches must be so many times as fast, or it does not make up for what the readers lose.
const GAIN: f64 = 2.5;
/// So many slow copies in a row are no accident, such as a change of processes.
const IN_A_ROW: u32 = 4;
/// The copies of a trial, and of the one that checks what was usual. The first ones find memory as copies of the other
/// kind have left it, or never used; all of it has been written once before the last ones, of which the fastest counts.
const TRIAL: u32 = 12;
const JUDGED: u32 = 4;
/// So many copies past the caches, and a trial shows whether those through them are still slow.
const OFTEN: u32 = 1024;
/// After a trial in vain, so many copies go by before the next.
const SELDOM: u32 = 4096;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    #[default]
    Through,
    Past,
}

impl Way {
    fn other(self) -> Way {
        match self {
            Way::Through => Way::Past,
            Way::Past => Way::Through,
        }
    }
}

/// What this rank has learnt of its copies to one place where others read.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The usual one.
    way: Way,
    phase: Phase,
    /// Copies that are left of a trial or a check.
    left: u32,
    /// Slow copies through the caches, one after the other.
    slow: u32,
    /// Copies until the other way may be tried.
    rest: u32,
    /// Nanoseconds per line of the fastest copy that counts: the usual way, and the other one.
    usual: f64,
    tried: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Usual,
    /// The other way.
    Trial,
    /// The usual way again, with memory in use by now, before it is given up for going past the caches.
    Check,
}

impl State {
    fn next(&self) -> Way {
        if self.phase == Phase::Trial { self.way.other() } else { self.way }
    }

    /// Learns what a copy has taken, in nanoseconds per line. True if that has decided about the way.
    fn learn(&mut self, way: Way, pace: f64) -> bool {
        if way != self.next() {
            // Another thread's, from before a change.
            return false;
        }
        if self.phase == Phase::Usual {
            let is_slow = way == Way::Through && pace > SLOW;
            self.slow = if is_slow { self.slow.saturating_add(1) } else { 0 };
            self.usual = if self.slow == 1 { pace } else { self.usual.min(pace) };
            self.rest = self.rest.saturating_sub(1);
            if self.rest == 0 && (way == Way::Past || self.slow >= IN_A_ROW) {
                self.enter(Phase::Trial);
            }
            return false;
        }
        self.left -= 1;
        let best = if self.phase == Phase::Trial { &mut self.tried } else { &mut self.usual };
        *best = if self.left < JUDGED { best.min(pace) } else { f64::INFINITY };
        if self.left > 0 {
            return false;
        }
        if self.phase == Phase::Trial && self.way == Way::Through && self.usual > GAIN * self.tried {
            self.enter(Phase::Check);
            return false;
        }
        self.judge();
        true
    }

    fn enter(&mut self, phase: Phase) {
        (self.phase, self.left) = (phase, TRIAL);
    }

    fn judge(&mut self) {
        let (through, past) = match self.way {
            Way::Through => (self.usual, self.tried),
            Way::Past => (self.tried, self.usual),
        };
        let way = if through > SLOW && through > GAIN * past { Way::Past } else { Way::Through };
        self.rest = match (self.way, way) {
            (_, Way::Past) => OFTEN,
            (Way::Through, Way::Through) => SELDOM,
            (Way::Past, Way::Through) => 0,
        };
        (self.way, self.phase, self.slow) = (way, Phase::Usual, 0);
        self.usual = f64::INFINITY;
    }
}

impl Pace {
    /// Copies to where others read; `is_long`: past the caches in any case.
    pub fn show(&self, place: &View, data: &View, is_long: bool) {
        match is_long {
            true => place.stream_from(data),
            false => self.copy(place, data),
        }
    }

    /// Whether so many bytes go past the caches.
    pub fn is_past(&self, len: usize) -> bool {
        len >= LEAST && self.lock(|state| state.way) == Way::Past
    }

    fn copy(&self, place: &View, data: &View) {
        if data.len() < LEAST || !STREAMS {
            return place.copy_from(data);
        }
        let way = self.lock(|state| state.next());
        let begun = Instant::now();
        match way {
            Way::Through => place.copy_from(data),
            Way::Past => place.stream_from(data),
        }
        let pace = begun.elapsed().as_nanos() as f64 / (data.len() as f64 / LINE);
        if self.lock(|state| state.learn(way, pace)) {
            let way = self.lock(|state| state.way);
            log::debug!("what others read is written {way:?} the caches from now on");
        }
    }

    fn lock<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::memory::Scratch;

    /// Runs so many copies, of which those through the caches take `through` and those past them `past`. How many went
    /// past.
    fn run(state: &mut State, copies: u32, through: f64, past: f64) -> u32 {
        (0..copies)
            .filter(|_| {
                let way = state.next();
                state.learn(way, if way == Way::Past { past } else { through });
                way == Way::Past
            })
            .count() as u32
    }

    #[test]
    fn near_cores_write_through_their_caches() {
        let mut state = State::default();
        assert_eq!(run(&mut state, 10_000, 8.0, 2.0), 0);
    }

    #[test]
    fn far_cores_write_past_them_but_for_a_trial_now_and_then() {
        let mut state = State::default();
        let past = run(&mut state, 100 * (OFTEN + TRIAL), 40.0, 2.5);
        assert_eq!(state.way, Way::Past);
        assert!((99 * OFTEN..100 * OFTEN + TRIAL).contains(&past), "{past}");
    }

    #[test]
    fn what_is_slow_either_way_goes_through_them() {
        let mut state = State::default();
        assert!(run(&mut state, 4 * SELDOM, 40.0, 20.0) <= 4 * TRIAL);
        assert_eq!(state.way, Way::Through);
        // One copy past the caches was fast by accident, or one through them slow.
        run(&mut state, 100, 8.0, 2.5);
        assert_eq!(state.way, Way::Through);
    }

    #[test]
    fn a_few_slow_copies_change_nothing() {
        let mut state = State::default();
        for _ in 0..100 {
            assert_eq!(run(&mut state, IN_A_ROW - 1, 1000.0, 1.0), 0);
            assert_eq!(run(&mut state, 1, 8.0, 1.0), 0);
        }
    }

    #[test]
    fn a_trial_is_judged_by_the_fastest_of_its_last_copies() {
        let mut state = State::default();
        let mut past = 0;
        while state.way == Way::Through {
            let way = state.next();
            past += u32::from(way == Way::Past);
            assert!(past <= TRIAL);
            // Fast while memory is not yet what it was, then disturbed, all but one.
            let pace = if past <= TRIAL - JUDGED {
                1.0
            } else if past == TRIAL - 1 {
                3.0
            } else {
                500.0
            };
            state.learn(way, if way == Way::Past { pace } else { 40.0 });
        }
        assert_eq!((past, state.tried), (TRIAL, 3.0));
    }

    #[test]
    fn memory_that_was_slow_because_nobody_had_used_it_is_written_through_the_caches() {
        let mut state = State::default();
        let mut copies = 0;
        let mut past = 0;
        while copies < 10_000 {
            let way = state.next();
            past += u32::from(way == Way::Past);
            copies += 1;
            let first = if copies <= 8 { 30.0 } else { 0.0 };
            state.learn(way, first + if way == Way::Past { 2.0 } else { 8.0 });
        }
        assert_eq!((past, state.way), (TRIAL, Way::Through));
    }

    #[test]
    fn a_single_slow_copy_past_the_caches_changes_nothing() {
        let mut state = State::default();
        run(&mut state, OFTEN, 40.0, 2.5);
        for _ in 0..3 * OFTEN {
            let way = state.next();
            // The last one before each trial.
            let past = if state.rest == 1 { 500.0 } else { 2.5 };
            state.learn(way, if way == Way::Past { past } else { 40.0 });
            assert_eq!(state.way, Way::Past);
        }
    }

    #[test]
    fn cores_that_come_near_or_go_away_are_noticed() {
        let mut state = State::default();
        for _ in 0..3 {
            run(&mut state, 5000, 40.0, 2.5);
            assert_eq!(state.way, Way::Past);
            run(&mut state, OFTEN + TRIAL, 8.0, 2.5);
            assert_eq!(state.way, Way::Through);
            assert!(run(&mut state, IN_A_ROW + 2 * TRIAL + 1, 40.0, 2.5) > TRIAL);
        }
    }

    #[test]
    fn copies_whatever_the_way() {
        let pace = Pace::default();
        let mut memory = [Scratch::new(3 * LEAST), Scratch::new(3 * LEAST)];
        let [from, to] = memory.each_mut().map(Scratch::view);
        for (count, len) in [0, 5, LEAST - 1, LEAST, 3 * LEAST].into_iter().cycle().take(50).enumerate() {
            from.fill(count as u8);
            to.fill(0xff);
            pace.lock(|state| state.way = if count % 2 == 0 { Way::Past } else { Way::Through });
            pace.show(&to.slice(0..len), &from.slice(0..len), false);
            assert!(to.slice(0..len).to_vec().iter().all(|&byte| byte == count as u8));
        }
    }
}
