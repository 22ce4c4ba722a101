//! From a call to an operation: checked, numbered, and carried out here or handed to the engine.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::inline::{self, Attempt};
use super::reach::{Reach, Shared};
use super::{Call, Group, Invocation, Issued, LONGEST_TIMEOUT, check, schedule};
use crate::collective::node::Begun;
use crate::engine::{Completion, Engine, OnFailure, Operation, Order, Outcome, Task, engine};
use crate::error::{Error, Result};
use crate::mpi;
use crate::transport::Outstanding;

/// What became of an operation.
#[derive(Debug)]
pub enum Started {
    /// It has ended well.
    Ended {
        /// What its issuer learns of it.
        number: Number,
        /// What its caller learns beside the memory.
        outcome: Outcome,
    },
    /// It goes on.
    Pending(Arc<Operation>),
}

/// What the issuer of an operation learns of it before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// Its number among the group's collectives, or messages.
    pub sequence: u64,
    /// How long it may take.
    pub timeout: Duration,
}

/// What the issuer of an operation does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It waits for the operation at once.
    Waits,
    /// It goes on, and may wait soon.
    GoesOn,
    /// It issues others of the same batch, for which peers may wait.
    IssuesMore,
}

impl Group {
    /// Checks and issues an operation. Never waits for a peer. After an error nothing has moved.
    pub fn issue(
        &self,
        invocation: &Invocation<'_>,
        timeout: Option<Duration>,
        completion: Box<dyn Completion>,
    ) -> Result<Arc<Operation>> {
        self.issue_with(invocation, timeout, |_| Ok(completion))
    }

    /// As [`Group::issue`], with a completion that is made when the operation has its number.
    pub fn issue_with(
        &self,
        invocation: &Invocation<'_>,
        timeout: Option<Duration>,
        completion: impl FnOnce(Number) -> Result<Box<dyn Completion>>,
    ) -> Result<Arc<Operation>> {
        let place = self.admit(invocation, timeout)?;
        let completion = place.complete_with(completion)?;
        let operation = place.operation();
        let engine = place.engine;
        place.submit(operation.clone(), None, completion);
        engine.begin(&operation);
        Ok(operation)
    }

    /// As [`Group::issue`], but a short operation is gone on with here for a moment: a message, and a collective if the
    /// caller waits for it at once, which it has to do with what is pending then. Only if the operation does not end in
    /// that time `completion` is called, which makes the one to tell.
    ///
    /// # Errors
    /// Of the arguments, when nothing has moved; or of the operation, and then the group has failed.
    pub fn start(
        &self,
        invocation: &Invocation<'_>,
        timeout: Option<Duration>,
        next: Next,
        completion: impl FnOnce(Number) -> Result<Box<dyn Completion>>,
    ) -> Result<Started> {
        let mut place = self.admit(invocation, timeout)?;
        let mut begun = None;
        let mut _held = None;
        let is_message = place.order() == Order::Free;
        if let Some(shared) = self.shared_for(&invocation.call)
            && (is_message || next == Next::Waits)
            && self.has_ended_all()
            && inline::is_short(invocation, self.tuning.inline())
        {
            _held = Some(self.lane.hold());
            let spins = self.lane.spins();
            let attempt = if is_message {
                // Others may go on: what they issue meanwhile finds this one pending.
                place.issued = None;
                let spins = if next == Next::IssuesMore { 0 } else { spins };
                inline::message(shared, &self.patience, invocation, spins)
            } else {
                inline::collective(shared, invocation, spins)
            };
            match attempt {
                Attempt::Open(state) => begun = state,
                Attempt::Ended(Ok(outcome)) => {
                    return Ok(Started::Ended { number: place.number(), outcome });
                }
                Attempt::Ended(Err(error)) => return Err(place.fail(error)),
            }
        }
        let completion = place.complete_with(completion)?;
        let operation = place.operation();
        let engine = place.engine;
        place.submit(operation.clone(), begun, completion);
        if next != Next::Waits {
            engine.begin(&operation);
        }
        Ok(Started::Pending(operation))
    }

    /// Issues an operation and waits for its end.
    pub fn run(&self, invocation: &Invocation<'_>) -> Result<Outcome> {
        self.run_for(invocation, None)
    }

    pub(super) fn run_for(&self, invocation: &Invocation<'_>, timeout: Option<Duration>) -> Result<Outcome> {
        let operation = match self.start(invocation, timeout, Next::Waits, |_| Ok(Box::new(Nobody)))? {
            Started::Ended { outcome, .. } => return Ok(outcome),
            Started::Pending(operation) => operation,
        };
        self.end_of(&operation)
    }

    /// Waits for the end of an operation.
    pub(super) fn end_of(&self, operation: &Operation) -> Result<Outcome> {
        while !self.wait(operation, None) {}
        match operation.result() {
            Some(result) => result.clone(),
            None => Err(Error::Internal(format!("{operation} ended without a result"))),
        }
    }

    /// The shared memory that a call goes through, if it does; else it needs MPI.
    fn shared_for(&self, call: &Call) -> Option<&Shared> {
        match (&self.reach, call) {
            (_, Call::MonitoredBarrier { .. }) => None,
            (Reach::Node(shared), _) => Some(shared),
            _ => None,
        }
    }

    /// Whether all operations that were issued have ended well. One that has failed may leave its slots to be read by others.
    fn has_ended_all(&self) -> bool {
        // In this order: a lane fails before the operation leaves it.
        self.lane.pending() == 0 && !self.lane.has_failed()
    }

    /// Checks a call, and gives it its place among the group's operations.
    fn admit<'a>(&'a self, invocation: &'a Invocation<'a>, timeout: Option<Duration>) -> Result<Place<'a>> {
        let engine = engine()?;
        self.check()?;
        if engine.is_closed() || self.shared_for(&invocation.call).is_none() && mpi::is_finalized() {
            return Err(Error::Unavailable("MPI was finalized already: nothing can be communicated".to_owned()));
        }
        check::check(invocation, self.rank(), self.size(), self.reach.tag_max(self.transport.tag_max()))?;
        let timeout = timeout.unwrap_or_else(|| self.timeout()).min(LONGEST_TIMEOUT);
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        self.lane.check()?;
        let counter = match invocation.call {
            Call::Send { .. } | Call::Receive { .. } => &mut issued.messages,
            Call::MonitoredBarrier { .. } => &mut issued.monitored_barriers,
            _ => &mut issued.collectives,
        };
        let sequence = *counter;
        *counter += 1;
        Ok(Place { group: self, engine, invocation, issued: Some(issued), sequence, timeout })
    }
}

/// The place of a call among its group's operations.
struct Place<'a> {
    group: &'a Group,
    engine: &'static Engine,
    invocation: &'a Invocation<'a>,
    /// No other call gets a place until this is gone: the order of collectives' numbers is the order of execution.
    issued: Option<MutexGuard<'a, Issued>>,
    sequence: u64,
    timeout: Duration,
}

impl<'a> Place<'a> {
    fn order(&self) -> Order {
        match self.invocation.call {
            Call::Send { .. } | Call::Receive { .. } | Call::MonitoredBarrier { .. } => Order::Free,
            _ => Order::InLane,
        }
    }

    fn on_failure(&self) -> OnFailure {
        match self.invocation.call {
            Call::MonitoredBarrier { .. } => OnFailure::KeepLane,
            _ => OnFailure::FailLane,
        }
    }

    fn number(&self) -> Number {
        Number { sequence: self.sequence, timeout: self.timeout }
    }

    /// Has the completion made. If it cannot be, the group fails, since its peers expect this rank.
    fn complete_with(
        &self,
        completion: impl FnOnce(Number) -> Result<Box<dyn Completion>>,
    ) -> Result<Box<dyn Completion>> {
        completion(self.number()).map_err(|error| self.fail(error))
    }

    fn operation(&self) -> Arc<Operation> {
        let call = &self.invocation.call;
        let limit = match call {
            // It watches its own deadline, to name who is missing.
            Call::MonitoredBarrier { .. } => self.timeout * 2 + Duration::from_secs(10),
            _ => self.timeout,
        };
        Operation::new(call.name(), call.peer(), self.group.lane.clone(), self.sequence, limit)
    }

    /// Fails the group, since this rank cannot take its part. Returns the error as the caller sees it.
    fn fail(&self, error: Error) -> Error {
        let error = error.during(self.operation().to_string());
        self.engine.fail_lane(&self.group.lane, &error);
        error
    }

    /// Hands it to the engine, as far as it has begun.
    fn submit(self, operation: Arc<Operation>, begun: Option<Begun>, completion: Box<dyn Completion>) {
        let Place { group, engine, invocation, sequence, timeout, .. } = self;
        let (order, on_failure) = (self.order(), self.on_failure());
        let outstanding = Arc::new(Outstanding::default());
        let (schedule, witness) = schedule::schedule(group, invocation, begun, &outstanding, sequence, timeout);
        engine.submit(Task { operation, schedule, outstanding, completion, order, on_failure, witness });
    }
}

/// Nobody but the waiter is to be told.
pub(super) struct Nobody;

impl Completion for Nobody {
    fn finish(&mut self, _: &Result<Outcome>) {}

    fn announce_to_nobody(&mut self) -> bool {
        true
    }
}
