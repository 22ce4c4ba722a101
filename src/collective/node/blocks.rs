//! Blocks of any lengths, one from each sender for each receiver.
//!
//! A sender shows tables of lengths in the first round, and all its blocks after them if they fit. Otherwise the rounds
//! after it carry a piece for each receiver. A sender's block for itself never goes through its slot. Everybody
//! knows from the count that a sender announces, [`packed`], whether they fit.

use std::ops::Range;

use super::slots::Slots;
use crate::memory::View;

/// Blocks and pieces begin at multiples of this, which every element divides.
const ALIGNMENT: usize = 64;
/// Packed blocks begin at multiples of this.
const TIGHT: usize = 16;

/// Bytes of a sender's blocks when they lie side by side, with a gap for its own.
pub(super) fn packed(blocks: &[View]) -> usize {
    blocks.iter().map(|block| tight(block.len())).sum()
}

fn tight(len: usize) -> usize {
    len.next_multiple_of(TIGHT)
}

/// Writes the lengths of `views` as table number `table`.
pub(super) fn write_table(slots: Slots<'_>, table: usize, views: &[View]) {
    let memory = slots.own(slots.capacity());
    for (index, view) in views.iter().enumerate() {
        let start = (table * views.len() + index) * size_of::<u64>();
        memory.slice(start..start + size_of::<u64>()).write(&(view.len() as u64).to_ne_bytes());
    }
}

/// An entry of a table that `rank` has written in this, the first, round.
pub(super) fn read_table(slots: Slots<'_>, rank: usize, table: usize, index: usize) -> usize {
    let start = (table * slots.size() + index) * size_of::<u64>();
    let mut bytes = [0; size_of::<u64>()];
    slots.of(rank, slots.capacity()).slice(start..start + bytes.len()).read(&mut bytes);
    u64::from_ne_bytes(bytes) as usize
}

/// Where the blocks of a sender are.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    slots: Slots<'a>,
    sender: usize,
    /// Bytes of the tables in the first round.
    tables: usize,
    is_packed: bool,
}

impl<'a> Blocks<'a> {
    /// The blocks of a sender that shows `tables` tables and announces `count`.
    pub fn new(slots: Slots<'a>, sender: usize, tables: usize, count: usize) -> Self {
        let tables = (tables * slots.size() * size_of::<u64>()).next_multiple_of(ALIGNMENT);
        Blocks { slots, sender, tables, is_packed: tables + count <= slots.capacity() }
    }

    /// Bytes of a piece.
    fn piece(&self) -> usize {
        self.slots.capacity() / (self.slots.size() - 1).max(1) / ALIGNMENT * ALIGNMENT
    }

    /// How many rounds it takes, given the lengths of all blocks of the sender.
    pub fn rounds(&self, lengths: impl Iterator<Item = usize>) -> u64 {
        if self.is_packed {
            return 1;
        }
        let others = lengths.enumerate().filter(|&(receiver, _)| receiver != self.sender);
        let longest = others.map(|(_, len)| len).max().unwrap_or(0);
        1 + longest.div_ceil(self.piece()) as u64
    }

    /// What round `index` carries for `receiver`, of whose block `len` bytes are to come in all: which bytes of it, and
    /// where they are. `before` are the lengths of the sender's blocks for the receivers before it, needed if packed.
    fn place(
        &self,
        index: u64,
        receiver: usize,
        len: usize,
        before: impl Iterator<Item = usize>,
    ) -> (Range<usize>, View) {
        let memory = self.slots.of(self.sender, self.slots.capacity());
        if self.is_packed {
            if index > 0 {
                // The tables are gone by now.
                return (len..len, View::empty());
            }
            let start = self.tables + before.map(tight).sum::<usize>();
            return (0..len, memory.slice(start..start + len));
        }
        let Some(index) = index.checked_sub(1) else { return (0..0, View::empty()) };
        let start = (index as usize).saturating_mul(self.piece()).min(len);
        let end = (start + self.piece()).min(len);
        let position = (receiver - usize::from(receiver > self.sender)) * self.piece();
        (start..end, memory.slice(position..position + (end - start)))
    }

    /// The sender's part of round `index`, but for the tables; `is_long`: see [`Node::show`](crate::shm::Node::show).
    pub fn publish(&self, index: u64, blocks: &[View], is_long: bool) {
        for (receiver, block) in blocks.iter().enumerate().filter(|&(receiver, _)| receiver != self.sender) {
            let before = blocks[..receiver].iter().map(View::len);
            let (range, place) = self.place(index, receiver, block.len(), before);
            self.slots.node.show(&place, &block.slice(range), is_long);
        }
    }

    /// What round `index` carries for this rank, whose block has `len` bytes.
    pub fn incoming(&self, index: u64, len: usize) -> (Range<usize>, View) {
        let before = (0..self.slots.rank()).map(|receiver| read_table(self.slots, self.sender, 0, receiver));
        self.place(index, self.slots.rank(), len, before)
    }

    /// Copies what round `index` carries for this rank; `is_long`: see [`Node::take`](crate::shm::Node::take).
    pub fn consume(&self, index: u64, output: &View, is_long: bool) {
        let (range, place) = self.incoming(index, output.len());
        self.slots.node.take(&output.slice(range), &place, is_long);
    }
}
