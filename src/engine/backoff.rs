//! How a thread that polls makes room for others: spin, then yield, then sleep a little longer each time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::tuning;

/// The longest sleep between two polls while messages are under way.
const LONGEST_SLEEP: Duration = Duration::from_millis(1);
/// The shortest sleep; the scheduler adds about 50 us.
const SHORTEST_SLEEP: Duration = Duration::from_micros(20);

/// More ranks than cores on this host: spinning would only keep the peer from running.
static CROWDED: AtomicBool = AtomicBool::new(false);

/// Tells every later wait how many ranks share the cores of this host.
pub(crate) fn set_ranks_on_host(ranks: usize, cores: usize) {
    // Relaxed: a hint. Never taken back: a smaller group does not make the host emptier.
    CROWDED.fetch_or(ranks > cores, Ordering::Relaxed);
}

/// Whether there are more ranks than cores on this host.
pub(crate) fn is_crowded() -> bool {
    // Relaxed: a hint.
    CROWDED.load(Ordering::Relaxed)
}

/// How often to look before others may run, where nobody has said it.
pub(super) fn default_spins() -> u32 {
    if is_crowded() { 0 } else { tuning::SPINS }
}

/// The patience of one wait.
#[derive(Debug)]
pub(crate) struct Backoff {
    spins: u32,
    yields: u32,
    idle: u32,
    since: Instant,
}

impl Backoff {
    /// For a thread whose caller waits for the result. It spins half of `spins` times: each look is a turn of the whole
    /// engine, not one at a few flags.
    pub fn waiter(spins: u32) -> Self {
        Backoff { spins: spins.div_ceil(2), yields: 200, idle: 0, since: Instant::now() }
    }

    /// For the background thread, which must not take cores from those that compute.
    pub fn background() -> Self {
        Backoff { spins: 0, yields: 10, idle: 0, since: Instant::now() }
    }

    /// Something moved: be quick again.
    pub fn reset(&mut self) {
        self.idle = 0;
    }

    /// Nothing moved: what to do now.
    pub fn step(&mut self) -> Step {
        self.step_at(Instant::now())
    }

    fn step_at(&mut self, now: Instant) -> Step {
        if self.idle == 0 {
            self.since = now;
        }
        self.idle = self.idle.saturating_add(1);
        if self.idle <= self.spins {
            Step::Spin
        } else if self.idle <= self.spins.saturating_add(self.yields) {
            Step::Yield
        } else {
            // A sixteenth of the time waited so far: a long wait costs little, a short one ends soon.
            Step::Sleep((now.saturating_duration_since(self.since) / 16).clamp(SHORTEST_SLEEP, LONGEST_SLEEP))
        }
    }
}

/// How to wait a little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Look again at once.
    Spin,
    /// Let another thread run first.
    Yield,
    /// Sleep; for so long, if nobody will wake the sleeper.
    Sleep(Duration),
}

impl Step {
    /// Takes the step, unless it is a sleep, whose length is returned.
    pub fn take(self) -> Option<Duration> {
        match self {
            Step::Spin => std::hint::spin_loop(),
            Step::Yield => thread::yield_now(),
            Step::Sleep(pause) => return Some(pause),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many steps of each kind come first.
    fn patience(backoff: &mut Backoff) -> (usize, usize) {
        let mut counts = (0, 0);
        loop {
            match backoff.step() {
                Step::Spin => counts.0 += 1,
                Step::Yield => counts.1 += 1,
                Step::Sleep(_) => return counts,
            }
        }
    }

    #[test]
    fn spins_then_yields_then_sleeps() {
        for (mut backoff, expected) in [
            (Backoff::waiter(0), (0, 200)),
            (Backoff::waiter(1), (1, 200)),
            (Backoff::waiter(1000), (500, 200)),
            (Backoff::background(), (0, 10)),
        ] {
            assert_eq!(patience(&mut backoff), expected);
            assert!(matches!(backoff.step(), Step::Sleep(_)), "still");
            backoff.reset();
            assert_eq!(patience(&mut backoff), expected, "something has moved");
        }
    }

    #[test]
    fn sleeps_are_a_sixteenth_of_the_wait_within_limits() {
        let mut backoff = Backoff::background();
        // The time waited counts from the first step.
        let begun = Instant::now() + Duration::from_secs(100);
        assert!((0..10).all(|_| backoff.step_at(begun) == Step::Yield));
        for (waited, pause) in [
            (Duration::ZERO, SHORTEST_SLEEP),
            (Duration::from_millis(8), Duration::from_micros(500)),
            (Duration::from_secs(1), LONGEST_SLEEP),
        ] {
            assert_eq!(backoff.step_at(begun + waited), Step::Sleep(pause));
        }
    }

    #[test]
    fn only_a_sleep_is_left_to_the_caller() {
        assert_eq!(Step::Spin.take(), None);
        assert_eq!(Step::Yield.take(), None);
        assert_eq!(Step::Sleep(SHORTEST_SLEEP).take(), Some(SHORTEST_SLEEP));
    }

    /// Whoever comes later in this process finds it crowded.
    #[test]
    fn nobody_spins_where_there_are_more_ranks_than_cores() {
        let before = is_crowded();
        set_ranks_on_host(4, 4);
        set_ranks_on_host(3, 4);
        assert_eq!((is_crowded(), CROWDED.load(Ordering::Relaxed)), (before, before));
        assert_eq!(default_spins(), if before { 0 } else { tuning::SPINS });
        set_ranks_on_host(5, 4);
        assert!(is_crowded());
        assert_eq!(default_spins(), 0);
        set_ranks_on_host(1, 4);
        assert!(is_crowded(), "a smaller group does not make the host emptier");
    }
}
