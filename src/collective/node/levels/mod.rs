//! Long reductions on a node whose ranks are in several domains: first each domain reduces what its ranks have, then the
//! ranks reduce what the domains have.
//!
//! In one level every rank reads a slice of what each other rank shows. No two ranks read the same bytes, so no cache
//! helps, and with m ranks in a domain m times as much crosses between domains as is needed. Here four steps follow each
//! other, each in the slots that the step before has filled:
//!
//! 1. Every rank shows a piece of its input.
//! 2. The ranks of each domain reduce a slice of the piece each, over their domain. It stays in accumulators.
//! 3. All ranks reduce a slice of the piece each, smaller ones, over what the domains have: the first bytes that cross.
//! 4. The ranks of each domain bring a slice each of the result into their domain, where the others take it.
//!
//! So each domain takes every byte of the others' sums, and of the results that they have reduced, once. A round does every
//! step, each for another piece: there is one round for a piece, and a few more to begin and to end. A reduction to one rank
//! ends with step 3, since that rank alone takes the result; of a reduce_scatter each rank reduces its own block in step 3,
//! straight into its output.
//!
//! These are rounds of the same slots, and not messages between domains as there are between nodes: a message would be
//! copied twice more, and a rank that waits for everybody sees who calls something else, fails or dies.
//!
//! Each element is reduced over the ranks of a domain in their order, then over the domains in theirs, in one place:
//! the result is the same bits on every rank, and depends on where ranks are, but not on who comes first. Half types
//! are rounded once, in step 3.
//!
//! What fits into one slot stays in one level: a core fetches lines of several ranks at the same time, so that a few more
//! of them cost less than to wait for everybody once more. So does what is only moved: there all ranks of a domain read
//! the same bytes, which come from a cache that they share when one of them has read them.

mod areas;
#[cfg(test)]
mod tests;

use std::ops::Range;

use smallvec::SmallVec;

use super::slots::{PerRank, Slots, piece, pieces};
use crate::collective::slices::{part, part_at};
use crate::collective::{Call, Invocation};
use crate::error::Result;
use crate::memory::View;
use crate::reduce::Reduction;
use crate::shm::Domains;
use areas::Areas;

/// A collective that works in two levels.
pub(super) struct Levels<'a> {
    slots: Slots<'a>,
    domains: &'a Domains,
    reduction: &'a Reduction,
    inputs: &'a [View],
    goal: Goal,
    areas: Areas,
    /// The longest piece of one of the inputs, in bytes.
    piece: usize,
}

/// Who takes what.
#[derive(Clone, Copy)]
enum Goal {
    /// All take everything.
    All,
    /// This rank does.
    One(usize),
    /// Every rank takes the result of the input for it.
    Each,
}

impl<'a> Levels<'a> {
    /// `None`: it works in one level. All ranks decide alike, if they call the same.
    pub fn of(slots: Slots<'a>, invocation: &'a Invocation<'_>) -> Option<Self> {
        let domains = slots.node.domains()?;
        let (goal, reduction) = match &invocation.call {
            Call::AllReduce(reduction) => (Goal::All, reduction),
            Call::Reduce { root, reduction } => (Goal::One(*root), reduction),
            Call::ReduceScatter(reduction) => (Goal::Each, reduction),
            _ => return None,
        };
        let inputs = invocation.inputs;
        if inputs.iter().map(View::len).sum::<usize>() <= slots.capacity() {
            return None;
        }
        let areas = Areas::new(slots.capacity(), reduction, domains.smallest(), slots.size())?;
        let piece = areas.piece_of(inputs.len())?;
        Some(Levels { slots, domains, reduction, inputs, goal, areas, piece })
    }

    /// How many pieces there are.
    fn count(&self) -> u64 {
        self.inputs.iter().map(|input| pieces(input.len(), self.piece)).max().unwrap_or(1)
    }

    /// How many rounds it takes.
    pub fn rounds(&self) -> u64 {
        let more = match self.goal {
            Goal::All => 3,
            Goal::One(_) => 2,
            Goal::Each => 1,
        };
        self.count() + more
    }

    /// The piece that is at this step, beginning with 0, in round `index`.
    fn at(&self, index: u64, step: u64) -> Option<u64> {
        index.checked_sub(step).filter(|&index| index < self.count())
    }

    /// Writes this rank's part of round `index`.
    pub fn publish(&self, index: u64) {
        if let Some(index) = self.at(index, 0) {
            self.show(index);
        }
        if let Some(index) = self.at(index, 1) {
            self.reduce_domain(index);
        }
        if let (Some(index), Goal::All | Goal::One(_)) = (self.at(index, 2), self.goal) {
            self.reduce_slice(index);
        }
        if let (Some(index), Goal::All) = (self.at(index, 3), self.goal) {
            self.gather(index);
        }
    }

    /// Reads everybody's part of round `index`.
    pub fn consume(&self, index: u64, output: &View) -> Result<()> {
        match self.goal {
            Goal::All => {
                if let Some(index) = self.at(index, 3) {
                    self.take_from_domain(index, output);
                }
            }
            Goal::One(root) => {
                if let Some(index) = self.at(index, 2).filter(|_| root == self.slots.rank()) {
                    let output = piece(output, self.piece, index);
                    self.copy_results(self.slots, index, 0..output.len(), &output);
                }
            }
            Goal::Each => {
                if let Some(index) = self.at(index, 1) {
                    let start = self.parts(index).take(self.slots.rank()).map(|part| part.len()).sum();
                    let output = piece(output, self.piece, index);
                    self.reduce_domains(self.slots, index, start..start + output.len(), &output)?;
                }
            }
        }
        Ok(())
    }

    /// What makes piece `index`: a part of each input, side by side.
    fn parts(&self, index: u64) -> impl Iterator<Item = View> {
        self.inputs.iter().map(move |input| piece(input, self.piece, index))
    }

    /// Bytes of piece `index`.
    fn length(&self, index: u64) -> usize {
        self.parts(index).map(|part| part.len()).sum()
    }

    /// The bytes of one of so many slices of piece `index`.
    fn slice(&self, index: u64, slices: usize, slice: usize) -> Range<usize> {
        part(self.length(index), self.reduction.dtype().size(), slices, slice)
    }

    /// Step 1: shows a piece.
    fn show(&self, index: u64) {
        let memory = of(self.slots, self.slots.rank());
        let mut start = 0;
        for part in self.parts(index) {
            self.slots.node.show(&memory.slice(start..start + part.len()), &part, false);
            start += part.len();
        }
    }

    /// Step 2: reduces a slice over this rank's domain.
    fn reduce_domain(&self, index: u64) {
        let (members, place) = self.domains.around(self.slots.rank());
        let range = self.slice(index, members.len(), place);
        let previous = self.slots.previous();
        let shown: PerRank = members.iter().map(|&rank| of(previous, rank).slice(range.clone())).collect();
        let accumulators = of(self.slots, self.slots.rank()).slice(self.areas.partial(0..range.len()));
        let reduced = self.reduction.accumulate(&accumulators, &shown);
        debug_assert!(reduced.is_ok(), "slices of one length, apart from each other: {reduced:?}");
    }

    /// Step 3: reduces a slice over all domains.
    fn reduce_slice(&self, index: u64) {
        let range = self.slice(index, self.slots.size(), self.domains.position(self.slots.rank()));
        let result = of(self.slots, self.slots.rank()).slice(self.areas.result(range.len()));
        let reduced = self.reduce_domains(self.slots.previous(), index, range, &result);
        debug_assert!(reduced.is_ok(), "slices of one length, apart from each other: {reduced:?}");
    }

    /// Reduces `range` of piece `index` over what all domains have in `slots`.
    fn reduce_domains(&self, slots: Slots<'_>, index: u64, range: Range<usize>, output: &View) -> Result<()> {
        let (length, element) = (self.length(index), self.reduction.dtype().size());
        let mut start = range.start;
        while start < range.end {
            // As far as one rank of each domain has it.
            let mut end = range.end;
            let mut owner = |members: &[usize]| {
                let (owner, slice) = part_at(length, element, members.len(), start);
                end = end.min(slice.end);
                (members[owner], slice.start)
            };
            let owners: SmallVec<[_; 16]> = self.domains.iter().map(&mut owner).collect();
            let partial =
                |&(rank, from): &(usize, usize)| of(slots, rank).slice(self.areas.partial(start - from..end - from));
            let partials: PerRank = owners.iter().map(partial).collect();
            let output = output.slice(start - range.start..end - range.start);
            self.reduction.complete(&output, &partials, slots.size())?;
            start = end;
        }
        Ok(())
    }

    /// Step 4: brings a slice of the result into this rank's domain.
    fn gather(&self, index: u64) {
        let (members, place) = self.domains.around(self.slots.rank());
        let range = self.slice(index, members.len(), place);
        let gathered = of(self.slots, self.slots.rank()).slice(self.areas.gathered(range.len()));
        self.copy_results(self.slots.previous(), index, range, &gathered);
    }

    /// Copies `range` of the result of piece `index` from those who have reduced it in step 3.
    fn copy_results(&self, slots: Slots<'_>, index: u64, range: Range<usize>, output: &View) {
        let (length, element) = (self.length(index), self.reduction.dtype().size());
        let mut start = range.start;
        while start < range.end {
            let (position, slice) = part_at(length, element, slots.size(), start);
            let end = range.end.min(slice.end);
            let result = of(slots, self.domains.at(position)).slice(self.areas.result(slice.len()));
            let output = output.slice(start - range.start..end - range.start);
            output.copy_from(&result.slice(start - slice.start..end - slice.start));
            start = end;
        }
    }

    /// The end: takes the result from the ranks of this rank's domain.
    fn take_from_domain(&self, index: u64, output: &View) {
        let output = piece(output, self.piece, index);
        let (members, place) = self.domains.around(self.slots.rank());
        // Not all begin with the same one.
        for other in (place..members.len()).chain(0..place) {
            let range = self.slice(index, members.len(), other);
            let gathered = of(self.slots, members[other]).slice(self.areas.gathered(range.len()));
            output.slice(range).copy_from(&gathered);
        }
    }
}

/// The whole payload of `rank`.
fn of(slots: Slots<'_>, rank: usize) -> View {
    slots.of(rank, slots.capacity())
}
