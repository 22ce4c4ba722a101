//! Gather: as all-gather, but only the root reads. What it expects of whom it shows in the first round, in place of its
//! input.

use super::all_gather;
use super::blocks;
use super::slots::Slots;
use crate::memory::View;

pub(super) fn publish(slots: Slots<'_>, index: u64, input: &View, outputs: &[View], root: usize) {
    if slots.rank() != root {
        all_gather::show(slots, index, input, slots.node.is_long(input.len()));
    } else if index == 0 {
        blocks::write_table(slots, 0, outputs);
    }
}

pub(super) fn consume(slots: Slots<'_>, index: u64, input: &View, outputs: &[View], root: usize) {
    if slots.rank() == root {
        all_gather::consume(slots, index, input, outputs);
    }
}
