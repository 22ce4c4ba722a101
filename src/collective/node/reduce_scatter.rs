//! Reduce-scatter: everybody shows the blocks of the others, and reduces those for itself in rank order.

use super::blocks::{Blocks, packed, write_table};
use super::slots::{PerRank, Slots};
use crate::error::Result;
use crate::memory::View;
use crate::reduce::Reduction;

fn blocks<'a>(slots: Slots<'a>, sender: usize, inputs: &[View]) -> Blocks<'a> {
    // All ranks have the same lengths (see `agreement`).
    Blocks::new(slots, sender, 1, packed(inputs))
}

pub(super) fn rounds(slots: Slots<'_>, inputs: &[View]) -> u64 {
    let of = |sender| blocks(slots, sender, inputs).rounds(inputs.iter().map(View::len));
    (0..slots.size()).map(of).max().unwrap_or(1)
}

pub(super) fn publish(slots: Slots<'_>, index: u64, inputs: &[View]) {
    if index == 0 {
        write_table(slots, 0, inputs);
    }
    blocks(slots, slots.rank(), inputs).publish(index, inputs, false);
}

pub(super) fn consume(
    slots: Slots<'_>,
    index: u64,
    inputs: &[View],
    output: &View,
    reduction: &Reduction,
) -> Result<()> {
    let own = &inputs[slots.rank()];
    if own.is_empty() {
        return Ok(());
    }
    let mut contributions: PerRank = (0..slots.size()).map(|_| *own).collect();
    let mut piece = 0..0;
    for sender in slots.node.peers() {
        let (range, view) = blocks(slots, sender, inputs).incoming(index, own.len());
        contributions[sender] = view;
        piece = range;
    }
    contributions[slots.rank()] = own.slice(piece.clone());
    if piece.is_empty() {
        return Ok(());
    }
    Ok(reduction.reduce(&output.slice(piece), &contributions)?)
}
