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
        if self.idle == 0 {
            self.since = Instant::now();
        }
        self.idle = self.idle.saturating_add(1);
        if self.idle <= self.spins {
            Step::Spin
        } else if self.idle <= self.spins.saturating_add(self.yields) {
            Step::Yield
        } else {
            // A sixteenth of the time waited so far: a long wait costs little, a short one ends soon.
            Step::Sleep((self.since.elapsed() / 16).clamp(SHORTEST_SLEEP, LONGEST_SLEEP))
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
