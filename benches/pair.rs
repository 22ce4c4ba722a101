//! Two sides that do the same, or the opposite, the same number of times: one on the measured thread, the other on a
//! thread of its own.

use std::hint::spin_loop;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

/// How often a side looks before it lets others run; a machine may have one core.
const LOOKS: u32 = 1000;

/// The time that `this` takes for its `iterations`, with `other` doing as many at the same time.
pub fn measure(iterations: u64, mut this: impl FnMut(), mut other: impl FnMut() + Send) -> Duration {
    let start = Arc::new(Barrier::new(2));
    thread::scope(|scope| {
        let other_start = start.clone();
        scope.spawn(move || {
            other_start.wait();
            (0..iterations).for_each(|_| other());
        });
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
        if looks % LOOKS == 0 { thread::yield_now() } else { spin_loop() }
    }
}
