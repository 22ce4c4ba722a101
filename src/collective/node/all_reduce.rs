//! All-reduce. Short, or of two ranks: everybody shows its input and reduces all of them. Long: in one round everybody
//! shows a piece of its input, in the next one the slice of the result that it has reduced.
//!
//! Either way each element is reduced over all inputs in rank order, once or with the same outcome everywhere: the
//! result is the same bits on every rank.

use super::slots::{PerRank, Slots, piece, pieces};
use crate::collective::slices::part;
use crate::error::Result;
use crate::memory::View;
use crate::reduce::Reduction;

/// Whether ranks divide the work. All decide alike.
pub(super) fn is_divided(slots: Slots<'_>, len: usize) -> bool {
    slots.size() > 2 && len > slots.node.divide()
}

pub(super) fn rounds(slots: Slots<'_>, input: &View) -> u64 {
    // A capacity is a multiple of every element, so pieces are whole elements.
    let pieces = pieces(input.len(), slots.capacity());
    if is_divided(slots, input.len()) { 2 * pieces } else { pieces }
}

/// `output`: if this rank takes the result.
pub(super) fn publish(slots: Slots<'_>, index: u64, input: &View, output: Option<&View>, reduction: &Reduction) {
    if !is_divided(slots, input.len()) {
        show(slots, &piece(input, slots.capacity(), index));
    } else if index.is_multiple_of(2) {
        show(slots, &piece(input, slots.capacity(), index / 2));
    } else {
        let of = |view: &View| piece(view, slots.capacity(), index / 2);
        reduce_slice(slots, &of(input), output.map(of), reduction);
    }
}

pub(super) fn consume(slots: Slots<'_>, index: u64, input: &View, output: &View, reduction: &Reduction) -> Result<()> {
    if !is_divided(slots, input.len()) {
        let (input, output) = (piece(input, slots.capacity(), index), piece(output, slots.capacity(), index));
        return Ok(reduction.reduce(&output, &contributions(slots, &input))?);
    }
    if index % 2 == 1 {
        collect_slices(slots, &piece(output, slots.capacity(), index / 2), reduction);
    }
    Ok(())
}

/// Shows a piece of the input.
fn show(slots: Slots<'_>, piece: &View) {
    slots.node.show(&slots.own(piece.len()), piece, false);
}

/// What everybody has shown, with one's own where it came from.
fn contributions(slots: Slots<'_>, own: &View) -> PerRank {
    (0..slots.size()).map(|rank| if rank == slots.rank() { *own } else { slots.of(rank, own.len()) }).collect()
}

/// Shows this rank's slice of the result; everybody's input is in the slots of the round before, one's own is `piece`.
/// `output`: if this rank takes the result.
fn reduce_slice(slots: Slots<'_>, piece: &View, output: Option<View>, reduction: &Reduction) {
    let range = part(piece.len(), reduction.dtype().size(), slots.size(), slots.rank());
    let inputs: PerRank =
        contributions(slots.previous(), piece).iter().map(|input| input.slice(range.clone())).collect();
    let shown = slots.own(range.len());
    // A kernel writes through the caches.
    let detour = output.filter(|_| slots.node.shows_past_caches(range.len())).map(|output| output.slice(range));
    let result = reduction.reduce(&detour.unwrap_or(shown), &inputs);
    debug_assert!(result.is_ok(), "slices of one length, apart from each other: {result:?}");
    if let Some(reduced) = detour {
        slots.node.show(&shown, &reduced, false);
    }
}

/// Takes everybody's slice of the result.
fn collect_slices(slots: Slots<'_>, output: &View, reduction: &Reduction) {
    for rank in slots.node.peers().chain([slots.rank()]) {
        let range = part(output.len(), reduction.dtype().size(), slots.size(), rank);
        output.slice(range.clone()).copy_from(&slots.of(rank, range.len()));
    }
}
