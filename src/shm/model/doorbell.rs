//! Announce, look, sleep, against write, ring: no work is left while a thread sleeps, and whoever was rung sees the work.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;

use super::support::{explore, wait_until};
use crate::shm::atomic::{AtomicU32, Ordering, fence};
use crate::shm::doorbell::Doorbell;

/// A bell, and the work of each of the ringers: a flag, and something plain that it stands for.
struct Place {
    bell: Doorbell,
    work: Vec<(AtomicU32, UnsafeCell<usize>)>,
}

impl Place {
    #[expect(clippy::arc_with_non_send_sync, reason = "loom tells whether it may be shared")]
    fn new(ringers: usize) -> Arc<Self> {
        let work = (0..ringers).map(|_| (AtomicU32::new(0), UnsafeCell::new(0))).collect();
        Arc::new(Place { bell: Doorbell::private(), work })
    }

    fn give(&self, ringer: usize) {
        let (flag, plain) = &self.work[ringer];
        // SAFETY: loom reports it if somebody else is at it.
        plain.with_mut(|plain| unsafe { *plain = ringer + 1 });
        flag.store(1, Ordering::Release);
    }

    fn take_all(&self) {
        wait_until(&self.bell, || self.work.iter().all(|(flag, _)| flag.load(Ordering::Acquire) == 1));
        for (ringer, (_, plain)) in self.work.iter().enumerate() {
            // SAFETY: as above.
            assert_eq!(plain.with(|plain| unsafe { *plain }), ringer + 1);
        }
    }
}

/// The main thread is one of the sleepers.
fn ring(sleepers: usize, ringers: usize, preemptions: usize) {
    explore(preemptions, move || {
        let place = Place::new(ringers);
        let ringers = (0..ringers).map(|ringer| {
            let place = place.clone();
            thread::spawn(move || {
                place.give(ringer);
                place.bell.ring();
            })
        });
        let threads: Vec<_> = ringers
            .chain((1..sleepers).map(|_| {
                let place = place.clone();
                thread::spawn(move || place.take_all())
            }))
            .collect();
        place.take_all();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn one_sleeper_and_one_ringer() {
    ring(1, 1, 8);
}

#[test]
fn one_sleeper_and_two_ringers() {
    ring(1, 2, 3);
}

#[test]
fn two_sleepers_and_one_ringer() {
    ring(2, 1, 3);
}

#[test]
fn two_sleepers_and_two_ringers() {
    ring(2, 2, 2);
}

/// As `Node::publish` rings: one flag that several sleepers wait for, one fence, several bells.
#[test]
fn one_fence_for_two_bells() {
    explore(3, || {
        let place = Place::new(1);
        let other = Arc::new(Doorbell::private());
        let sleeper = {
            let (place, other) = (place.clone(), other.clone());
            thread::spawn(move || wait_until(&other, || place.work[0].0.load(Ordering::Acquire) == 1))
        };
        let ringer = {
            let place = place.clone();
            thread::spawn(move || {
                place.give(0);
                fence(Ordering::SeqCst);
                place.bell.ring_after_fence();
                other.ring_after_fence();
            })
        };
        place.take_all();
        sleeper.join().unwrap();
        ringer.join().unwrap();
    });
}

/// The announcement alone orders it: a flag that says nothing about other memory is seen, too.
#[test]
fn a_relaxed_flag_is_seen() {
    explore(3, || {
        let place = Place::new(1);
        let ringer = {
            let place = place.clone();
            thread::spawn(move || {
                place.work[0].0.store(1, Ordering::Relaxed);
                place.bell.ring();
            })
        };
        let second = {
            let place = place.clone();
            thread::spawn(move || wait_until(&place.bell, || place.work[0].0.load(Ordering::Relaxed) == 1))
        };
        wait_until(&place.bell, || place.work[0].0.load(Ordering::Relaxed) == 1);
        ringer.join().unwrap();
        second.join().unwrap();
    });
}
