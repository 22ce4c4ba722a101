//! Reduce to one rank: as all-reduce, but only the root takes the result.

use super::all_reduce::{collect_slices, contributions, is_divided, reduce_slice, show};
use super::slots::{Slots, piece};
use crate::error::Result;
use crate::memory::View;
use crate::reduce::Reduction;

pub(super) use super::all_reduce::rounds;

pub(super) fn publish(slots: Slots<'_>, index: u64, input: &View, root: usize, reduction: &Reduction) {
    let divided = is_divided(slots, input.len());
    let part = piece(input, slots.capacity(), if divided { index / 2 } else { index });
    if divided && index % 2 == 1 {
        reduce_slice(slots, &part, reduction);
    } else if divided || slots.rank() != root {
        show(slots, &part);
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
    if slots.rank() != root {
        return Ok(());
    }
    if !is_divided(slots, input.len()) {
        let (input, output) = (piece(input, slots.capacity(), index), piece(output, slots.capacity(), index));
        return Ok(reduction.reduce(&output, &contributions(slots, &input))?);
    }
    if index % 2 == 1 {
        collect_slices(slots, &piece(output, slots.capacity(), index / 2), reduction);
    }
    Ok(())
}
