//! What the ranks of one node do with each other in the collectives of a group that spans nodes, round by round.

use std::future::poll_fn;
use std::task::Poll;

use super::super::node::slots::{PerRank, Slots};
use super::super::node::{TURN, arrival, pause};
use super::Across;
use super::chain::{Chain, length, pieces};
use super::fingerprint::{Statement, check_node};
use crate::error::Result;
use crate::memory::View;
use crate::reduce::Reduction;
use crate::transport::Lease;

/// Pieces in a slot begin at multiples of this, which every element divides.
const ALIGNMENT: usize = 64;

/// Whether the collective ends with a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Within,
    Last,
}

impl Across {
    /// The first round of a collective that has nothing to show in it.
    pub async fn begin(&self) -> Result<Slots<'_>> {
        self.round(|_| {}, Place::Within).await
    }

    /// The last round of a collective that has nothing to show in it.
    pub async fn end(&self) -> Result<()> {
        self.round(|_| {}, Place::Last).await.map(drop)
    }

    /// One round: this rank writes into its slot, and everybody arrives. After the first one everybody knows whether the
    /// ranks of the node agree; a collective has another one at least.
    async fn round(&self, write: impl FnOnce(Slots<'_>), place: Place) -> Result<Slots<'_>> {
        let round = if self.verdict.has_begun() { self.node.begin() } else { self.node.begin_collective() };
        let slots = Slots { node: &self.node, round };
        write(slots);
        if place == Place::Last {
            // A verdict that is none ends the collective; see `run`.
            poll_fn(|_| if self.verdict.has_passed() { Poll::Ready(()) } else { Poll::Pending }).await;
        }
        self.node.publish(slots.round, self.announcement);
        arrival(&self.node, slots.round).await?;
        if !self.verdict.has_begun() {
            let agreed = check_node(slots);
            if self.topology.leads() {
                self.verdict.ask(&self.statements, &self.topology, Statement::of_node(slots, &agreed))?;
            } else {
                self.verdict.leave_to_leader();
            }
            agreed?;
        }
        Ok(slots)
    }

    /// Every rank of the node shows its chain, `chains[place]`; the others take what they want of it. All have chains of
    /// the same lengths.
    pub async fn share(&self, chains: &[Chain], place: Place) -> Result<()> {
        let capacity = self.node.capacity();
        let own = self.node.rank();
        let lengths: Vec<_> = chains.iter().map(|chain| length(chain)).collect();
        let range = |rank: usize, index: usize| {
            let start = (index * capacity).min(lengths[rank]);
            start..lengths[rank].min(start + capacity)
        };
        // Nobody else looks at the slots of a rank that is alone.
        let longest = if lengths.len() > 1 { lengths.iter().max().copied().unwrap_or(0) } else { 0 };
        let rounds = longest.div_ceil(capacity).max(1);
        let mut moved = 0;
        for index in 0..rounds {
            let write = |slots: Slots<'_>| {
                if longest > 0 {
                    let payload = slots.own(range(own, index).len());
                    pieces(&chains[own], range(own, index), |view, at| {
                        self.node.show(&payload.slice(at), &view, false);
                    });
                }
            };
            let is_last = index + 1 == rounds;
            let slots = self.round(write, if is_last { place } else { Place::Within }).await?;
            for peer in self.node.peers() {
                let payload = slots.of(peer, range(peer, index).len());
                pieces(&chains[peer], range(peer, index), |view, at| view.copy_from(&payload.slice(at)));
            }
            self.make_way(&mut moved).await;
        }
        Ok(())
    }

    /// How many slices a slot has room for at once.
    pub fn most_slices(&self) -> usize {
        self.node.capacity() / ALIGNMENT
    }

    /// Reduces `slices` of all ranks of the node, at most [`Across::most_slices`] of them: slice s to the rank that has
    /// it, `place_of(s)`. Returns the accumulators of those of this rank, which have been read then. All have slices of
    /// the same lengths.
    pub async fn accumulate(
        &self,
        slices: &[View],
        place_of: impl Fn(usize) -> usize,
        reduction: &Reduction,
    ) -> Result<Vec<(usize, Lease)>> {
        let (element, wide) = (reduction.dtype().size(), reduction.accumulator());
        let own = self.node.rank();
        let result: Vec<_> = (0..slices.len())
            .filter(|&slice| place_of(slice) == own)
            .map(|slice| (slice, self.context.scratch(slices[slice].len() / element * wide)))
            .collect();
        let longest = slices.iter().map(View::len).max().unwrap_or(0);
        let room = self.node.capacity() / slices.len().max(1) / ALIGNMENT * ALIGNMENT;
        let chunk = if self.node.size() == 1 { longest } else { longest.min(room) };
        let range = |slice: usize, index: usize| {
            let start = (index * chunk).min(slices[slice].len());
            start..slices[slice].len().min(start + chunk)
        };
        let shown = if self.node.size() == 1 { 0 } else { slices.len() * chunk };
        let mut moved = 0;
        for index in 0..longest.div_ceil(chunk.max(1)).max(1) {
            let write = |slots: Slots<'_>| {
                let payload = slots.own(shown);
                for slice in (0..slices.len()).filter(|&slice| place_of(slice) != own) {
                    let piece = slices[slice].slice(range(slice, index));
                    self.node.show(&payload.slice(slice * chunk..slice * chunk + piece.len()), &piece, false);
                }
            };
            let slots = self.round(write, Place::Within).await?;
            for (slice, memory) in &result {
                let range = range(*slice, index);
                let contribution = |rank: usize| match rank {
                    _ if rank == own => slices[*slice].slice(range.clone()),
                    _ => slots.of(rank, shown).slice(slice * chunk..slice * chunk + range.len()),
                };
                if !range.is_empty() {
                    let contributions: PerRank = (0..slots.size()).map(contribution).collect();
                    let accumulators = range.start / element * wide..range.end / element * wide;
                    reduction.accumulate(&memory.view().slice(accumulators), &contributions)?;
                }
            }
            self.make_way(&mut moved).await;
        }
        Ok(result)
    }

    /// Blocks of any lengths between the ranks of the node: `inputs[place]` to the rank at that place, whose
    /// `outputs[place of this rank]` takes it. `longest` is the same on all.
    pub async fn exchange(&self, inputs: &[View], outputs: &[View], longest: usize) -> Result<()> {
        let size = self.node.size();
        let own = self.node.rank();
        outputs[own].copy_from(&inputs[own]);
        if size == 1 {
            return Ok(());
        }
        let chunk = longest.min(self.node.capacity() / size / ALIGNMENT * ALIGNMENT);
        let piece = |view: &View, index: usize| {
            let start = (index * chunk).min(view.len());
            view.slice(start..view.len().min(start + chunk))
        };
        let shown = size * chunk;
        let mut moved = 0;
        for index in 0..longest.div_ceil(chunk.max(1)) {
            let write = |slots: Slots<'_>| {
                let payload = slots.own(shown);
                for peer in self.node.peers() {
                    let piece = piece(&inputs[peer], index);
                    self.node.show(&payload.slice(peer * chunk..peer * chunk + piece.len()), &piece, false);
                }
            };
            let slots = self.round(write, Place::Within).await?;
            for peer in self.node.peers() {
                let piece = piece(&outputs[peer], index);
                piece.copy_from(&slots.of(peer, shown).slice(own * chunk..own * chunk + piece.len()));
            }
            self.make_way(&mut moved).await;
        }
        Ok(())
    }

    /// After each round that has moved data: lets other schedules go on from time to time.
    async fn make_way(&self, moved: &mut usize) {
        *moved += self.node.capacity();
        if *moved >= TURN {
            *moved = 0;
            pause().await;
        }
    }
}
