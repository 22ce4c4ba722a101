//! All-gather: everybody shows its input piece by piece. Inputs may have different lengths.

use super::slots::{Slots, piece, pieces};
use crate::memory::View;

/// As many as the longest input needs; in the first round everybody has announced its length.
pub(super) fn rounds(slots: Slots<'_>) -> u64 {
    let longest = (0..slots.size()).map(|rank| slots.count(rank)).max().unwrap_or(0);
    pieces(longest, slots.capacity())
}

pub(super) fn publish(slots: Slots<'_>, index: u64, input: &View) {
    let piece = piece(input, slots.capacity(), index);
    slots.own(piece.len()).copy_from(&piece);
}

pub(super) fn consume(slots: Slots<'_>, index: u64, input: &View, outputs: &[View]) {
    if index == 0 {
        outputs[slots.rank()].copy_from(input);
    }
    for rank in slots.node.peers() {
        let piece = piece(&outputs[rank], slots.capacity(), index);
        piece.copy_from(&slots.of(rank, piece.len()));
    }
}
