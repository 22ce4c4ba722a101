//! An operation in the hands of the engine: its schedule, its messages, and whom to tell.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::operation::{Operation, Outcome};
use crate::error::{Error, Result};
use crate::transport::Outstanding;

/// The steps of an operation, as a state machine that each poll takes as far as it can go. One that could go further, but
/// lets others go first, wakes its waker. Memory that its messages use
/// belongs to the operation's [`Outstanding`], since a schedule that fails drops all its own.
pub type Schedule = Pin<Box<dyn Future<Output = Result<Outcome>> + Send>>;

/// Whom to tell about the end of an operation. `finish`, on the thread that drives; then `announce`, on one that does not,
/// unless `announce_to_nobody` has said that there is no need; then drop: each once, with no lock of the engine held. It owns whatever keeps the operation's memory alive, so it is dropped only
/// when the transport has given that memory back: after a failure that can be much later.
pub trait Completion: Send {
    /// Records the result; waiters go on when it has returned.
    fn finish(&mut self, result: &Result<Outcome>);

    /// Runs what users attached. May issue operations and wait for them, or block in any other way.
    fn announce(&mut self) {}

    /// Instead of `announce`, if users have attached nothing: true if so, and then nothing can be attached any more.
    fn announce_to_nobody(&mut self) -> bool {
        false
    }
}

/// How an operation relates to the others of its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// After all ordered operations that the lane was given before; a failure ends the lane.
    InLane,
    /// At once.
    Free,
}

/// What happens to the lane when an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Every later operation of the lane fails.
    FailLane,
    /// The lane goes on: the schedule leaves nothing behind that a later operation could meet.
    KeepLane,
}

/// An operation as it is handed to the engine.
pub struct Task {
    /// What issuer and waiters see.
    pub operation: Arc<Operation>,
    /// Its steps.
    pub schedule: Schedule,
    /// Its messages under way.
    pub outstanding: Arc<Outstanding>,
    /// Whom to tell.
    pub completion: Box<dyn Completion>,
    /// Its place among the operations of its lane.
    pub order: Order,
    /// What its failure means.
    pub on_failure: OnFailure,
    /// Present if it is known what the schedule waits for; otherwise it has to be polled.
    pub witness: Option<Arc<dyn Witness>>,
}

/// Who knows what a schedule waits for.
pub trait Witness: Send + Sync {
    /// Which ranks have not come, and what they do instead; `None` if all have.
    fn absentees(&self) -> Option<String>;

    /// Whether whatever it waits for now rings the process's doorbell; otherwise the schedule has to be polled.
    fn rings(&self) -> bool {
        true
    }
}

impl Task {
    /// Takes the schedule as far as it can go. `Some` when the operation has ended, in whichever way.
    pub(super) fn poll(&mut self, now: Instant, waker: &Waker) -> Option<Result<Outcome>> {
        let schedule = &mut self.schedule;
        // A panic is a defect of the schedule. Nobody may unwind through C++, and the other operations must go on.
        let polled = catch_unwind(AssertUnwindSafe(|| schedule.as_mut().poll(&mut Context::from_waker(waker))));
        let result = match polled {
            Ok(Poll::Ready(result)) => result,
            Ok(Poll::Pending) => {
                if !self.is_late(now) {
                    return None;
                }
                Err(self.timed_out())
            }
            Err(panic) => Err(Error::Internal(panic_text(&*panic))),
        };
        Some(result.map_err(|error| error.during(self.operation.to_string())))
    }

    /// The error of an operation that has taken too long.
    fn timed_out(&self) -> Error {
        self.operation.timed_out(self.witness.as_ref().and_then(|witness| witness.absentees()))
    }

    /// Whether its time is up.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.operation.deadline().is_some_and(|deadline| now >= deadline)
    }
}

/// The message of a panic.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic".to_owned())
}
