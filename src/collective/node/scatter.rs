//! Scatter: the root shows the blocks of the others.

use super::blocks::{Blocks, packed, read_table, write_table};
use super::slots::Slots;
use crate::memory::View;

pub(super) fn rounds(slots: Slots<'_>, root: usize) -> u64 {
    let lengths = (0..slots.size()).map(|rank| read_table(slots, root, 0, rank));
    Blocks::new(slots, root, 1, slots.count(root)).rounds(lengths)
}

pub(super) fn publish(slots: Slots<'_>, index: u64, inputs: &[View], root: usize) {
    if slots.rank() == root {
        if index == 0 {
            write_table(slots, 0, inputs);
        }
        let count = packed(inputs);
        Blocks::new(slots, root, 1, count).publish(index, inputs, slots.node.is_long(count));
    }
}

pub(super) fn consume(slots: Slots<'_>, index: u64, inputs: &[View], output: &View, root: usize) {
    let is_long = slots.node.is_long(output.len());
    if slots.rank() != root {
        Blocks::new(slots, root, 1, slots.count(root)).consume(index, output, is_long);
    } else if index == 0 {
        slots.node.take(output, &inputs[root], is_long);
    }
}
