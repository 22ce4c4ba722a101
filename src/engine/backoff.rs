//! How a thread that polls makes room for others: spin, then yield, then sleep a little longer each time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::bell::Bell;

/// The longest sleep between two polls while messages are under way.
const LONGEST_SLEEP: Duration = Duration::from_millis(1);
/// The shortest sleep; the scheduler adds about 50 us.
const SHORTEST_SLEEP: Duration = Duration::from_micros(20);

/// More ranks than cores on this host: spinning would only keep the peer from running.
static CROWDED: AtomicBool = AtomicBool::new(false);

/// Tells every later backoff how many ranks share this host.
pub(crate) fn set_ranks_on_host(ranks: usize) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    // Relaxed: a hint. Never taken back: a smaller group does not make the host emptier.
    CROWDED.fetch_or(ranks > cores, Ordering::Relaxed);
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
    /// For a thread whose caller waits for the result.
    pub fn waiter() -> Self {
        // Relaxed: a hint.
        let crowded = CROWDED.load(Ordering::Relaxed);
        Backoff { spins: if crowded { 0 } else { 500 }, yields: 200, idle: 0, since: Instant::now() }
    }

    /// For the background thread, which must not take cores from those that compute.
    pub fn background() -> Self {
        Backoff { spins: 0, yields: 10, idle: 0, since: Instant::now() }
    }

    /// Something moved: be quick again.
    pub fn reset(&mut self) {
        self.idle = 0;
    }

    /// Nothing moved. Sleeps on `bell`, where `seen` was read before the last look, and at most for `limit`.
    pub fn pause(&mut self, bell: &Bell, seen: u64, limit: Option<Duration>) {
        if self.idle == 0 {
            self.since = Instant::now();
        }
        self.idle = self.idle.saturating_add(1);
        if self.idle <= self.spins {
            std::hint::spin_loop();
        } else if self.idle <= self.spins + self.yields {
            thread::yield_now();
        } else {
            // A sixteenth of the time waited so far: a long wait costs little, a short one ends soon.
            let sleep = (self.since.elapsed() / 16).clamp(SHORTEST_SLEEP, LONGEST_SLEEP);
            bell.sleep(seen, Some(limit.map_or(sleep, |limit| limit.min(sleep))));
        }
    }
}
