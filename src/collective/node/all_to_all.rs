//! All-to-all: everybody shows its blocks. The first table of lengths says what it sends, the second what it expects.

use super::blocks::{Blocks, packed, read_table, write_table};
use super::slots::Slots;
use crate::memory::View;

pub(super) fn rounds(slots: Slots<'_>) -> u64 {
    let of = |sender| {
        let lengths = (0..slots.size()).map(|receiver| read_table(slots, sender, 0, receiver));
        Blocks::new(slots, sender, 2, slots.count(sender)).rounds(lengths)
    };
    (0..slots.size()).map(of).max().unwrap_or(1)
}

pub(super) fn publish(slots: Slots<'_>, index: u64, inputs: &[View], outputs: &[View]) {
    if index == 0 {
        write_table(slots, 0, inputs);
        write_table(slots, 1, outputs);
    }
    let count = packed(inputs);
    Blocks::new(slots, slots.rank(), 2, count).publish(index, inputs, false);
}

pub(super) fn consume(slots: Slots<'_>, index: u64, inputs: &[View], outputs: &[View]) {
    let is_long = slots.node.is_long(outputs.iter().map(View::len).sum());
    if index == 0 {
        slots.node.take(&outputs[slots.rank()], &inputs[slots.rank()], is_long);
    }
    for sender in slots.node.peers() {
        Blocks::new(slots, sender, 2, slots.count(sender)).consume(index, &outputs[sender], is_long);
    }
}
