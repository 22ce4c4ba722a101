//! Two sides that do the same, or the opposite, the same number of times: one on the measured thread, the other on a
//! thread of its own.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

/// How often a side looks before it lets others run; a machine may have one core.
const LOOKS: u32 = 1000;

/// Whether a side has panicked: the other would wait for it for ever, and nobody would see why.
static FAILED: AtomicBool = AtomicBool::new(false);

/// Tells the other side if this one panics.
struct Alarm;

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            // Relaxed: nothing else is read because of it.
            FAILED.store(true, Ordering::Relaxed);
        }
    }
}

/// Panics if the other side has panicked.
fn check() {
    assert!(!FAILED.load(Ordering::Relaxed), "the other side has panicked");
}

/// The time that `this` takes for its `iterations`, with `other` doing as many at the same time.
pub fn measure(iterations: u64, mut this: impl FnMut(), mut other: impl FnMut() + Send) -> Duration {
    let start = Arc::new(Barrier::new(2));
    thread::scope(|scope| {
        let other_start = start.clone();
        scope.spawn(move || {
            let _alarm = Alarm;
            other_start.wait();
            (0..iterations).for_each(|_| other());
        });
        let _alarm = Alarm;
        start.wait();
        let begun = Instant::now();
        (0..iterations).for_each(|_| this());
        begun.elapsed()
    })
}

/// Looks until `condition` is true.
pub fn until(mut condition: impl FnMut() -> bool) {
    let mut looks = 0;
    while !condition() {
        looks += 1;
        if looks % LOOKS == 0 {
            check();
            thread::yield_now();
        } else {
            spin_loop();
        }
    }
}
