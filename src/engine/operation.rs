//! One operation as its issuer, its waiters and the engine share it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use super::lane::Lane;
use crate::error::{Error, Result};

/// What a finished operation tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// For a receive, the sender's rank in the group.
    pub source: Option<usize>,
}

/// An issued operation.
#[derive(Debug)]
pub struct Operation {
    name: &'static str,
    /// "to rank" or "from rank", and which.
    peer: Option<(&'static str, usize)>,
    lane: Arc<Lane>,
    sequence: u64,
    issued: Instant,
    timeout: Duration,
    is_service: bool,
    result: OnceCell<Result<Outcome>>,
    /// Set after `result`, and after the completion has recorded it: what waiters wait for.
    done: AtomicBool,
}

impl Operation {
    pub(crate) fn new(
        name: &'static str,
        peer: Option<(&'static str, usize)>,
        lane: Arc<Lane>,
        sequence: u64,
        timeout: Duration,
    ) -> Arc<Self> {
        Arc::new(Operation::at(Instant::now(), name, peer, lane, sequence, timeout))
    }

    /// One that goes on until somebody has it end, and that nobody waits for at the end of the process.
    pub(crate) fn service(name: &'static str, lane: Arc<Lane>) -> Arc<Self> {
        let operation = Operation::at(Instant::now(), name, None, lane, 0, Duration::MAX);
        Arc::new(Operation { is_service: true, ..operation })
    }

    fn at(
        issued: Instant,
        name: &'static str,
        peer: Option<(&'static str, usize)>,
        lane: Arc<Lane>,
        sequence: u64,
        timeout: Duration,
    ) -> Self {
        Operation {
            name,
            peer,
            lane,
            sequence,
            issued,
            timeout,
            is_service: false,
            result: OnceCell::new(),
            done: AtomicBool::new(false),
        }
    }

    /// See [`Operation::service`].
    pub(super) fn is_service(&self) -> bool {
        self.is_service
    }

    /// True once the result is known and recorded. Takes no lock.
    pub fn is_done(&self) -> bool {
        // Acquire pairs with the release in `set_done`: the result and the memory are visible after it.
        self.done.load(Ordering::Acquire)
    }

    /// The result; `None` until the operation is done.
    pub fn result(&self) -> Option<&Result<Outcome>> {
        if self.is_done() { self.result.get() } else { None }
    }

    /// The group's count of operations of this kind (collectives, or messages) when this one was issued.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The time that the operation may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// When the time is up; `None`: never.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.issued.checked_add(self.timeout)
    }

    /// Whether it only waits for a message: nobody misses it if it is given up.
    pub(super) fn is_receive(&self) -> bool {
        self.is_service || matches!(self.name, "recv" | "wait_signal")
    }

    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// `absentees`: who has not come, as far as this is known.
    pub(crate) fn timed_out(&self, absentees: Option<String>) -> Error {
        Error::Timeout { operation: self.to_string(), timeout: self.timeout, waited: self.issued.elapsed(), absentees }
    }

    /// The first result stays.
    pub(crate) fn set_result(&self, result: Result<Outcome>) -> &Result<Outcome> {
        self.result.get_or_init(|| result)
    }

    pub(crate) fn set_done(&self) {
        // Release: see `is_done`.
        self.done.store(true, Ordering::Release);
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some((preposition, rank)) = self.peer {
            write!(f, " {preposition} {rank}")?;
        }
        write!(f, " (sequence number {}) of group \"{}\" on rank {}", self.sequence, self.lane.name(), self.lane.rank())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane() -> Arc<Lane> {
        Arc::new(Lane::new("world".to_owned(), 1))
    }

    fn named(name: &'static str) -> Arc<Operation> {
        Operation::new(name, None, lane(), 7, Duration::from_secs(5))
    }

    #[test]
    fn it_has_what_it_was_given() {
        let before = Instant::now();
        let operation = Operation::new("send", Some(("to rank", 3)), lane(), 7, Duration::from_secs(5));
        assert_eq!((operation.sequence(), operation.timeout()), (7, Duration::from_secs(5)));
        assert!(!operation.is_service());
        let left = operation.deadline().unwrap() - before;
        assert!((Duration::from_secs(5)..Duration::from_secs(25)).contains(&left), "{left:?}");
        assert_eq!(operation.to_string(), "send to rank 3 (sequence number 7) of group \"world\" on rank 1");
        let text = operation.timed_out(Some("rank 2 has not come".to_owned())).to_string();
        assert!(text.contains("send to rank 3") && text.contains("5000ms") && text.contains("rank 2"), "{text}");
    }

    #[test]
    fn a_service_goes_on_for_ever() {
        let service = Operation::service("service", lane());
        assert!(service.is_service() && service.is_receive());
        assert_eq!(service.deadline(), None);
    }

    #[test]
    fn only_what_waits_for_a_message_is_given_up_lightly() {
        assert!(named("recv").is_receive() && named("wait_signal").is_receive());
        assert!(!named("send").is_receive() && !named("all_reduce").is_receive());
    }

    #[test]
    fn the_first_result_stays_and_is_seen_when_it_is_done() {
        let operation = named("recv");
        let outcome = Outcome { source: Some(4) };
        assert_eq!(operation.set_result(Ok(outcome)).as_ref().unwrap(), &outcome);
        assert!(operation.set_result(Err(Error::Unavailable(String::new()))).is_ok());
        assert!(!operation.is_done() && operation.result().is_none());
        operation.set_done();
        assert!(operation.is_done());
        assert_eq!(operation.result().unwrap().as_ref().unwrap(), &outcome);
    }
}
