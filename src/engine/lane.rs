//! The operations of one group: their order and their health.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use once_cell::sync::OnceCell;

use crate::error::{Error, Kind, Result};

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// What the operations of one group have in common. Ordered operations of a lane run one after the other, in the order
/// in which they were issued; the others, and those of other lanes, run side by side.
#[derive(Debug)]
pub struct Lane {
    id: u64,
    name: String,
    rank: usize,
    failure: OnceCell<(Kind, String)>,
    /// Operations issued whose completion has not been dropped.
    pending: AtomicUsize,
}

impl Lane {
    /// A lane for the group `name`, in which this process has `rank`.
    pub fn new(name: String, rank: usize) -> Self {
        // Relaxed: only uniqueness matters.
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Lane { id, name, rank, failure: OnceCell::new(), pending: AtomicUsize::new(0) }
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

    /// From now on every operation fails with `cause`, which the first caller decides.
    pub fn fail(&self, kind: Kind, cause: impl Into<String>) {
        let mut first = false;
        let (_, cause) = self.failure.get_or_init(|| {
            first = true;
            (kind, cause.into())
        });
        if first {
            log::error!("group \"{}\" on rank {} failed: {cause}", self.name, self.rank);
        }
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

    pub(super) fn enter(&self) {
        // Relaxed: `leave` orders.
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        // Release: see `pending`.
        self.pending.fetch_sub(1, Ordering::Release);
    }
}
