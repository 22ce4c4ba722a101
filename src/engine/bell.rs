//! Where threads of this process sleep until there is something to do.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// An event counter. A thread reads the counter, looks for work, and sleeps until the counter has moved on: a ring
/// between the look and the sleep is never lost.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rings: AtomicU64,
    sleepers: AtomicU32,
    gate: Mutex<()>,
    wake: Condvar,
}

impl Bell {
    /// The counter now; pass it to [`Bell::sleep`] after having looked for work.
    pub fn listen(&self) -> u64 {
        // SeqCst pairs with `ring`: a ringer either sees the sleeper, or the sleeper sees its ring.
        self.rings.load(Ordering::SeqCst)
    }

    /// Wakes every sleeping thread. Costs one atomic add if there is none.
    pub fn ring(&self) {
        // SeqCst: the add must not move after the load of `sleepers` (see `sleep`).
        self.rings.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // Taking the gate orders this after a sleeper that is between its check and its wait.
            drop(self.gate.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// Sleeps until the bell has rung since `seen` was read, or for at most `limit`.
    pub fn sleep(&self, seen: u64, limit: Option<Duration>) {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        // SeqCst: announced before the counter is read again (see `ring`).
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let silent = |_: &mut ()| self.rings.load(Ordering::SeqCst) == seen;
        match limit {
            Some(limit) => drop(self.wake.wait_timeout_while(gate, limit, silent)),
            None => drop(self.wake.wait_while(gate, silent)),
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn a_ring_between_look_and_sleep_is_not_lost() {
        let bell = Bell::default();
        let seen = bell.listen();
        bell.ring();
        bell.sleep(seen, None);
    }

    #[test]
    fn a_ring_wakes_every_sleeper() {
        let bell = Arc::new(Bell::default());
        for _ in 0..200 {
            let seen = bell.listen();
            let sleepers: Vec<_> = (0..3)
                .map(|_| {
                    let bell = bell.clone();
                    thread::spawn(move || bell.sleep(seen, None))
                })
                .collect();
            bell.ring();
            for sleeper in sleepers {
                sleeper.join().unwrap();
            }
        }
    }

    #[test]
    fn sleep_ends_without_a_ring() {
        let bell = Bell::default();
        bell.sleep(bell.listen(), Some(Duration::from_millis(1)));
    }
}
