//! What the models have in common.

use std::ops::Range;
use std::sync::Arc;

use super::segment::Segment;
use crate::shm::doorbell::Doorbell;
use crate::shm::layout::Layout;
use crate::shm::simulated::{self, Rank};

/// Explores `model` with at most `preemptions` changes to another thread where the first could have gone on. Bugs need
/// few; `LOOM_MAX_PREEMPTIONS` overrides it.
pub fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(model);
}

/// Sleeps until `condition` is true, as the engine does.
pub fn wait_until(bell: &Doorbell, condition: impl Fn() -> bool) {
    loop {
        let sleeper = bell.announce();
        if condition() {
            return;
        }
        sleeper.sleep(None);
    }
}

/// The ranks of a node with these words and data in its segment.
pub fn node(layout: Layout, size: usize, words: impl IntoIterator<Item = usize>, data: Vec<Range<usize>>) -> Vec<Rank> {
    simulated::ranks(&Arc::new(Segment::of(layout.len(), words, data)), layout, &(0..size).collect::<Vec<_>>())
}
