//! Reduce to one rank: as all-reduce, but only the root takes the result, and shows nothing where it reduces alone.

use super::all_reduce;
use super::slots::Slots;
use crate::error::Result;
use crate::memory::View;
use crate::reduce::Reduction;

pub(super) use super::all_reduce::rounds;

pub(super) fn publish(slots: Slots<'_>, index: u64, input: &View, output: &View, root: usize, reduction: &Reduction) {
    let output = (slots.rank() == root).then_some(output);
    if output.is_none() || all_reduce::is_divided(slots, input.len()) {
        all_reduce::publish(slots, index, input, output, reduction);
    }
}

pub(super) fn consume(
    slots: Slots<'_>,
    index: u64,
    input: &View,
    output: &View,
    root: usize,
    reduction: &Reduction,
) -> Result<()> {
    if slots.rank() == root { all_reduce::consume(slots, index, input, output, reduction) } else { Ok(()) }
}
