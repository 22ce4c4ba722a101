//! Where a rank waits if there are more ranks than cores.
//!
//! The scheduler of the system moves a rank at nearly every wake-up, and evens out seldom what comes of it: often three
//! of four ranks share one core, and the other core has one. So each rank has a core, as many ranks on each, and comes
//! back to it when it waits. It is not bound: the system may move it again, and threads that do not wait are left alone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use crate::shm::identity::Cores;

/// The time from one move to the next, at least; doubled when a move has not lasted.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(256);
/// A move has lasted if the next one comes after so many pauses.
const LASTING: u32 = 16;

const NONE: usize = usize::MAX;

/// Of this process's rank.
static PLACE: Place = Place::new();

/// Where a rank waits.
struct Place {
    /// Its core. Relaxed: a hint.
    core: AtomicUsize,
    placement: Mutex<Option<Placement>>,
}

#[derive(Debug)]
struct Placement {
    core: usize,
    /// The cores that all ranks may use.
    allowed: CpuSet,
    pause: Duration,
    moved: Option<Instant>,
}

impl Placement {
    /// For the rank with this place among `ranks` on the host, all of which may use these cores. `None` if there is a core
    /// for each, or if it is one of those that are too few to be on every core: the system knows better where they go.
    fn new(cores: &Cores, place: usize, ranks: usize) -> Option<Self> {
        let all = cores.all();
        if all.len() < 2 || place >= ranks / all.len() * all.len() || ranks <= all.len() {
            return None;
        }
        let mut allowed = CpuSet::new();
        all.iter().for_each(|&core| allowed.set(core));
        Some(Placement { core: all[place % all.len()], allowed, pause: SHORTEST_PAUSE, moved: None })
    }

    /// Whether it is time to move, as of now.
    fn is_due(&mut self, now: Instant) -> bool {
        let Some(moved) = self.moved else { return true };
        let since = now.saturating_duration_since(moved);
        if since < self.pause {
            return false;
        }
        self.pause = if since < self.pause * LASTING { (self.pause * 2).min(LONGEST_PAUSE) } else { SHORTEST_PAUSE };
        true
    }

    /// Moves the calling thread, unless somebody has bound it. False: the system does not allow it.
    fn take(&mut self) -> bool {
        let now = Instant::now();
        if !self.is_due(now) {
            return true;
        }
        self.moved = Some(now);
        let moved = sched_getaffinity(None).and_then(|allowed| {
            if allowed != self.allowed {
                return Ok(());
            }
            let mut only = CpuSet::new();
            only.set(self.core);
            sched_setaffinity(None, &only)?;
            // It does not fail where the first one has not, unless the cores were taken away in between.
            sched_setaffinity(None, &allowed)
                .or_else(|_| sched_setaffinity(None, &allowed))
                .inspect_err(|error| log::warn!("a thread stays bound to core {}: {error}", self.core))
        });
        moved.inspect_err(|error| log::debug!("sched_setaffinity: {error}")).is_ok()
    }
}

impl Place {
    const fn new() -> Self {
        Place { core: AtomicUsize::new(NONE), placement: Mutex::new(None) }
    }

    fn decide(&self, cores: &Cores, place: usize, ranks: usize) {
        let mut placement = self.placement.lock().unwrap_or_else(PoisonError::into_inner);
        if placement.is_some() {
            return;
        }
        *placement = Placement::new(cores, place, ranks);
        self.core.store(placement.as_ref().map_or(NONE, |placement| placement.core), Ordering::Relaxed);
    }

    fn settle(&self) {
        let core = self.core.load(Ordering::Relaxed);
        if core == NONE || sched_getcpu() == core {
            return;
        }
        // Whoever has it is moving.
        let Ok(mut placement) = self.placement.try_lock() else { return };
        if placement.as_mut().is_some_and(|placement| !placement.take()) {
            self.core.store(NONE, Ordering::Relaxed);
        }
    }
}

/// Gives this process a core to wait on, if it is one of more `ranks` on its host than there are `cores`, which all of them
/// may use. What the first such group has said stays.
pub(crate) fn place(cores: &Cores, place: usize, ranks: usize) {
    PLACE.decide(cores, place, ranks);
}

/// Moves the calling thread, which waits, to the core of its rank, if that has one.
pub(crate) fn settle() {
    PLACE.settle();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(count: usize) -> Cores {
        let mut bytes = [0; Cores::LEN];
        (0..count).for_each(|core| bytes[core / 8] |= 1 << (core % 8));
        bytes[Cores::LEN - 8..].fill(0xff);
        Cores::from_bytes(&bytes)
    }

    fn core(count: usize, place: usize, ranks: usize) -> Option<usize> {
        Placement::new(&cores(count), place, ranks).map(|placement| placement.core)
    }

    #[test]
    fn as_many_ranks_on_each_core_and_the_rest_anywhere() {
        assert_eq!([0, 1, 2, 3, 4].map(|place| core(2, place, 5)), [Some(0), Some(1), Some(0), Some(1), None]);
        assert_eq!([0, 1, 2].map(|place| core(3, place, 3)), [None; 3], "a core for each");
        assert_eq!([0, 1].map(|place| core(1, place, 2)), [None; 2], "no choice");
        assert_eq!(core(128, 200, 256), Some(72));
    }

    #[test]
    fn none_where_the_system_limits_how_many_are_used() {
        let mut bytes = cores(2).to_bytes();
        bytes[Cores::LEN - 8..].copy_from_slice(&1_u64.to_ne_bytes());
        assert!(Placement::new(&Cores::from_bytes(&bytes), 0, 4).is_none());
    }

    #[test]
    fn moves_that_do_not_last_become_rare() {
        let mut placement = Placement::new(&cores(2), 0, 4).unwrap();
        let begun = Instant::now();
        let mut move_at = |micros: u64| {
            let now = begun + Duration::from_micros(micros);
            let due = placement.is_due(now);
            if due {
                placement.moved = Some(now);
            }
            due
        };
        let moves = (0..1_000_000).step_by(100).filter(|&micros| move_at(micros)).count();
        assert!((8..16).contains(&moves), "{moves} in the first second");
        let moves = (1_000_000..11_000_000).step_by(100).filter(|&micros| move_at(micros)).count();
        assert!((38..=42).contains(&moves), "{moves} in ten more");
        assert!(move_at(30_000_000) && !move_at(30_000_500) && move_at(30_001_000), "one has lasted");
        // Of 2 ms by now: exactly so many of them.
        assert!(move_at(30_033_000) && move_at(30_034_000), "another has lasted");
    }

    #[test]
    fn the_thread_moves_and_is_not_bound() {
        let cores = Cores::of_this_process();
        let count = cores.all().len();
        if count < 2 {
            return;
        }
        let before = sched_getaffinity(None).unwrap();
        for place in 0..count {
            let mut placement = Placement::new(&cores, place, 2 * count).unwrap();
            // The system may move it again before it is asked.
            let moves = (0..1000).any(|_| {
                placement.moved = None;
                assert!(placement.take());
                sched_getcpu() == placement.core
            });
            assert!(moves, "to core {}", placement.core);
        }
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }

    #[test]
    fn a_thread_that_somebody_has_bound_stays() {
        let cores = Cores::of_this_process();
        let Some(mut placement) = Placement::new(&cores, 0, 2 * cores.all().len()) else { return };
        std::thread::spawn(move || {
            let mut bound = CpuSet::new();
            bound.set(*cores.all().last().unwrap());
            sched_setaffinity(None, &bound).unwrap();
            assert!(placement.take());
            assert_eq!(sched_getaffinity(None).unwrap(), bound);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn whoever_waits_elsewhere_comes_to_the_core() {
        let cores = Cores::of_this_process();
        let count = cores.all().len();
        let place = Place::new();
        place.settle();
        place.decide(&cores, 0, count);
        assert_eq!(place.core.load(Ordering::Relaxed), NONE, "there is a core for each");
        if count < 2 {
            return;
        }
        place.decide(&cores, 1, 2 * count);
        place.decide(&cores, 0, 2 * count);
        let core = cores.all()[1];
        assert_eq!(place.core.load(Ordering::Relaxed), core, "the first has decided");
        let moved = || place.placement.lock().unwrap().as_mut().and_then(|placement| placement.moved.take()).is_some();
        let only = |core: usize| {
            let mut only = CpuSet::new();
            only.set(core);
            only
        };
        let before = sched_getaffinity(None).unwrap();
        let tries = 200;
        let came = (0..tries).filter(|_| {
            sched_setaffinity(None, &only(cores.all()[0])).unwrap();
            sched_setaffinity(None, &before).unwrap();
            place.settle();
            moved() && sched_getcpu() == core
        });
        // The system may move it before and after.
        assert!(came.count() > tries / 2);
        sched_setaffinity(None, &only(core)).unwrap();
        place.settle();
        assert!(!moved(), "it is there");
        sched_setaffinity(None, &before).unwrap();
        assert_eq!(place.core.load(Ordering::Relaxed), core);
    }
}
