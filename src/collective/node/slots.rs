//! The slots of one round.

use smallvec::SmallVec;

use crate::memory::View;
use crate::shm::{Announcement, Node, Round};

/// One view per rank; no allocation for a few ranks.
pub(in crate::collective) type PerRank = SmallVec<[View; 16]>;

/// The slots of one round, as this rank sees them.
#[derive(Clone, Copy)]
pub(in crate::collective) struct Slots<'a> {
    pub node: &'a Node,
    pub round: Round,
}

impl Slots<'_> {
    pub fn rank(&self) -> usize {
        self.node.rank()
    }

    pub fn size(&self) -> usize {
        self.node.size()
    }

    pub fn capacity(&self) -> usize {
        self.node.capacity()
    }

    /// This rank's payload of `len` bytes.
    pub fn own(&self, len: usize) -> View {
        self.of(self.rank(), len)
    }

    /// The payload of `len` bytes that `rank` has written.
    pub fn of(&self, rank: usize, len: usize) -> View {
        self.node.payload(self.round, rank, len)
    }

    /// The slots of the round before, which everybody may still read until this rank publishes this one.
    pub fn previous(&self) -> Self {
        Slots { node: self.node, round: self.round.previous() }
    }

    /// What `rank`, which has arrived, has announced.
    pub fn announcement(&self, rank: usize) -> Announcement {
        self.node.announcement(self.round, rank).unwrap_or_default()
    }

    /// The count that `rank`, which has arrived, has announced.
    pub fn count(&self, rank: usize) -> usize {
        self.announcement(rank).count as usize
    }
}

/// Piece `index` of `view`, in pieces of `piece` bytes; empty beyond its end.
pub(in crate::collective) fn piece(view: &View, piece: usize, index: u64) -> View {
    let start = (index as usize).saturating_mul(piece).min(view.len());
    view.slice(start..(start + piece).min(view.len()))
}

/// How many pieces `len` bytes have; at least one.
pub(in crate::collective) fn pieces(len: usize, piece: usize) -> u64 {
    len.div_ceil(piece).max(1) as u64
}
