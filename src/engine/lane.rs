//! The operations of one group: their order and their health.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use once_cell::sync::OnceCell;

use super::backoff;
use crate::error::{Error, Kind, Result};

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Learns the kind of a lane's failure, and its cause. Called once, on the thread that has found it; must not wait.
pub type OnLaneFailure = Box<dyn Fn(Kind, &str) + Send + Sync>;

/// What the operations of one group have in common. Ordered operations of a lane run one after the other, in the order
/// in which they were issued; the others, and those of other lanes, run side by side.
pub struct Lane {
    id: u64,
    name: String,
    rank: usize,
    failure: OnceCell<(Kind, String)>,
    /// Whom to tell about the failure.
    on_failure: OnceCell<OnLaneFailure>,
    /// Operations issued whose completion has not been dropped.
    pending: AtomicUsize,
    /// How often who waits for an operation looks before it lets others run; `None`: as the machine allows.
    spins: Option<u32>,
}

impl Lane {
    /// A lane for the group `name`, in which this process has `rank`.
    pub fn new(name: String, rank: usize) -> Self {
        // Relaxed: only uniqueness matters.
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (failure, on_failure) = (OnceCell::new(), OnceCell::new());
        Lane { id, name, rank, failure, on_failure, pending: AtomicUsize::new(0), spins: None }
    }

    /// The same, and whoever waits looks so often before it lets others run, if that is said.
    pub fn spinning(self, spins: Option<u32>) -> Self {
        Lane { spins, ..self }
    }

    /// How often whoever waits looks before it lets others run.
    pub fn spins(&self) -> u32 {
        self.spins.unwrap_or_else(backoff::default_spins)
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This process's rank in the group.
    pub fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Has `tell` called when the lane fails. For the one who made the lane, before it is used.
    pub fn tell_of_failure(&self, tell: OnLaneFailure) {
        if self.on_failure.set(tell).is_err() {
            log::error!("a defect of torch-rmpi: two listen to the failure of group \"{}\"", self.name);
        }
    }

    /// From now on every operation fails with `cause`, which the first caller decides.
    pub fn fail(&self, kind: Kind, cause: impl Into<String>) {
        // Everybody who finds the lane failed, finds that it has been told: memory may be given back from then on.
        self.failure.get_or_init(|| {
            let cause = cause.into();
            log::error!("group \"{}\" on rank {} failed: {cause}", self.name, self.rank);
            if let Some(tell) = self.on_failure.get() {
                tell(kind, &cause);
            }
            (kind, cause)
        });
    }

    /// Whether the group has failed.
    pub fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// The kind of the failure, or `None`.
    pub fn failure_kind(&self) -> Kind {
        self.failure.get().map_or(Kind::None, |(kind, _)| *kind)
    }

    /// An error if the group has failed.
    pub fn check(&self) -> Result<()> {
        match self.failure.get() {
            None => Ok(()),
            Some((_, cause)) => Err(Error::GroupFailed { group: self.name.clone(), cause: cause.clone() }),
        }
    }

    /// Operations that have not released their memory.
    pub fn pending(&self) -> usize {
        // Acquire pairs with the release in `leave`: what the operations did is visible when none is left.
        self.pending.load(Ordering::Acquire)
    }

    /// Counts as an operation that is pending, for as long as it lives.
    pub fn hold(&self) -> Held<'_> {
        self.enter();
        Held(self)
    }

    pub(super) fn enter(&self) {
        // Relaxed: `leave` orders.
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        // Release: see `pending`.
        self.pending.fetch_sub(1, Ordering::Release);
    }
}

/// See [`Lane::hold`].
#[derive(Debug)]
pub struct Held<'a>(&'a Lane);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("name", &self.name).field("rank", &self.rank).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn the_first_failure_counts_and_is_told_once() {
        let lane = Lane::new("group".to_owned(), 3);
        let told = Arc::new(Mutex::new(Vec::new()));
        let hears = told.clone();
        lane.tell_of_failure(Box::new(move |kind, cause| hears.lock().unwrap().push((kind, cause.to_owned()))));
        lane.check().unwrap();
        assert!(!lane.has_failed());
        assert_eq!(lane.failure_kind(), Kind::None);
        lane.fail(Kind::Timeout, "the first");
        lane.fail(Kind::Backend, "the second");
        assert!(lane.has_failed());
        assert_eq!(lane.failure_kind(), Kind::Timeout);
        let text = lane.check().unwrap_err().to_string();
        assert!(text.contains("group group") && text.contains("the first"), "{text}");
        assert_eq!(*told.lock().unwrap(), [(Kind::Timeout, "the first".to_owned())]);
    }

    #[test]
    fn pending_operations_are_counted() {
        let lane = Lane::new(String::new(), 0);
        lane.enter();
        {
            let _held = lane.hold();
            assert_eq!(lane.pending(), 2);
        }
        assert_eq!(lane.pending(), 1);
        lane.leave();
        assert_eq!(lane.pending(), 0);
    }

    #[test]
    fn each_has_an_identity_and_what_it_was_given() {
        let (first, second) = (Lane::new("a".to_owned(), 1), Lane::new("a".to_owned(), 2).spinning(Some(7)));
        assert_ne!(first.id(), second.id());
        assert_eq!((second.name(), second.rank(), second.spins()), ("a", 2, 7));
        let text = format!("{second:?}");
        assert!(text.contains('a') && text.contains('2'), "{text}");
    }
}
