//! All-gather: everybody shows its input piece by piece. Inputs may have different lengths.

use super::slots::{Slots, piece, pieces};
use crate::memory::View;

/// As many as the longest input needs; in the first round everybody has announced its length.
pub(super) fn rounds(slots: Slots<'_>) -> u64 {
    let longest = (0..slots.size()).map(|rank| slots.count(rank)).max().unwrap_or(0);
    pieces(longest, slots.capacity())
}

pub(super) fn publish(slots: Slots<'_>, index: u64, input: &View) {
    show(slots, index, input, false);
}

/// Shows a piece; `is_long`: see [`Node::show`](crate::shm::Node::show).
pub(super) fn show(slots: Slots<'_>, index: u64, input: &View, is_long: bool) {
    let piece = piece(input, slots.capacity(), index);
    slots.node.show(&slots.own(piece.len()), &piece, is_long);
}

pub(super) fn consume(slots: Slots<'_>, index: u64, input: &View, outputs: &[View]) {
    let is_long = slots.node.is_long(outputs.iter().map(View::len).sum());
    if index == 0 {
        slots.node.take(&outputs[slots.rank()], input, is_long);
    }
    for rank in slots.node.peers() {
        let piece = piece(&outputs[rank], slots.capacity(), index);
        slots.node.take(&piece, &slots.of(rank, piece.len()), is_long);
    }
}
