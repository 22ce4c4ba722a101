//! Broadcast: the root shows its memory piece by piece.

use super::slots::{Slots, piece, pieces};
use crate::memory::View;

pub(super) fn rounds(slots: Slots<'_>, memory: &View) -> u64 {
    pieces(memory.len(), slots.capacity())
}

pub(super) fn publish(slots: Slots<'_>, index: u64, memory: &View, root: usize) {
    if slots.rank() == root {
        let piece = piece(memory, slots.capacity(), index);
        slots.node.show(&slots.own(piece.len()), &piece, slots.node.is_long(memory.len()));
    }
}

pub(super) fn consume(slots: Slots<'_>, index: u64, memory: &View, root: usize) {
    if slots.rank() != root {
        let piece = piece(memory, slots.capacity(), index);
        slots.node.take(&piece, &slots.of(root, piece.len()), slots.node.is_long(memory.len()));
    }
}
