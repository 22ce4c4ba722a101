//! What the benchmarks need and nobody else may use: no promise holds for it.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Completion, Lane, OnFailure, Operation, Order, Outcome, Schedule, Task};
use crate::error::Result;
use crate::memory::{Scratch, View};
use crate::shm::{Doorbell, Node, simulated};

/// Memory of `len` bytes, each of value `byte`. The view is of the scratch, which has to be kept.
pub fn memory(len: usize, byte: u8) -> (Scratch, View) {
    let mut scratch = Scratch::new(len);
    let view = scratch.view();
    view.fill(byte);
    (scratch, view)
}

/// The ranks of a node that is in this process alone, with slots of `capacity` bytes, and the doorbell of each.
pub fn node(size: usize, capacity: usize) -> Result<Vec<(Arc<Node>, Arc<Doorbell>)>> {
    Ok(simulated::node(&(0..size).collect::<Vec<_>>(), capacity)?
        .into_iter()
        .map(|rank| (Arc::new(rank.node), rank.bell))
        .collect())
}

struct Nobody;

impl Completion for Nobody {
    fn finish(&mut self, _: &Result<Outcome>) {}

    fn announce_to_nobody(&mut self) -> bool {
        true
    }
}

/// An operation of `lane` with this schedule, of which nobody wants to hear.
pub fn task(lane: &Arc<Lane>, schedule: Schedule) -> Task {
    Task {
        operation: Operation::new("bench", None, lane.clone(), 0, Duration::from_secs(60)),
        schedule,
        outstanding: Arc::default(),
        completion: Box::new(Nobody),
        order: Order::InLane,
        on_failure: OnFailure::FailLane,
        witness: None,
    }
}
