//! Where things lie in the segment of a group.
//!
//! Each rank has an area that only it writes, so that it is the first to touch the pages: a page for its farewell, then
//! two slots, used in turn. A slot is a header line and a payload. After the areas there is a ring for each pair of ranks,
//! that is, for each sender and receiver. Pages that nobody has written take no memory.

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;
const PAGE: usize = 4096;

/// Header words of a slot, in bytes from its start.
pub(super) const FLAG: usize = 0;
pub(super) const WHAT: usize = 8;
pub(super) const COUNT: usize = 16;
pub(super) const DETAIL: usize = 24;
/// A payload that fits begins here, on the line of the header, so that one line carries everything.
const SHORT_PAYLOAD: usize = 32;

/// Where a rank says that it has gone.
pub(super) const FAREWELL: usize = 0;
pub(super) const FAREWELL_LEN: usize = PAGE;

/// In a ring: how many bytes its sender has written, and how many its receiver has read, each on a line of its own.
pub(super) const WRITTEN: usize = 0;
pub(super) const READ: usize = 2 * LINE;
const RING_HEADER: usize = 4 * LINE;
/// Bytes of data in a ring, where there are few ranks.
#[cfg(not(loom))]
const LONGEST_RING: usize = 256 << 10;
#[cfg(not(loom))]
const SHORTEST_RING: usize = 4 << 10;
/// A model has little memory.
#[cfg(loom)]
const LONGEST_RING: usize = 2 * LINE;
#[cfg(loom)]
const SHORTEST_RING: usize = LONGEST_RING;
/// Bytes of data in all rings, about.
const ALL_RINGS: usize = 1 << 30;

/// The layout for a number of ranks and a slot capacity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    ranks: usize,
    capacity: usize,
}

impl Layout {
    pub fn new(ranks: usize, capacity: usize) -> Self {
        Layout { ranks, capacity }
    }

    /// Bytes of payload in a slot.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of the segment.
    pub fn len(&self) -> usize {
        self.ranks * self.area() + self.ranks * self.ranks * (RING_HEADER + self.ring_len())
    }

    /// Bytes of the segment that one rank writes.
    pub fn own_len(&self) -> usize {
        self.len() / self.ranks
    }

    /// Where the ring of a sender and a receiver begins.
    pub fn ring(&self, sender: usize, receiver: usize) -> usize {
        debug_assert!(sender < self.ranks && receiver < self.ranks);
        self.ranks * self.area() + (sender * self.ranks + receiver) * (RING_HEADER + self.ring_len())
    }

    /// Where the data of a ring begins, from its start.
    pub fn ring_data() -> usize {
        RING_HEADER
    }

    /// Bytes of data in a ring, a power of two.
    pub fn ring_len(&self) -> usize {
        (ALL_RINGS / (self.ranks * self.ranks)).clamp(SHORTEST_RING, LONGEST_RING).next_power_of_two()
    }

    /// Where the area of a rank begins.
    pub fn rank(&self, rank: usize) -> usize {
        debug_assert!(rank < self.ranks);
        rank * self.area()
    }

    /// Where the slot of a rank for a round begins.
    pub fn slot(&self, rank: usize, round: u64) -> usize {
        self.rank(rank) + FAREWELL_LEN + (round % 2) as usize * self.slot_len()
    }

    /// Where a payload of `len` bytes begins in its slot.
    pub fn payload(len: usize) -> usize {
        if len <= LINE - SHORT_PAYLOAD { SHORT_PAYLOAD } else { LINE }
    }

    fn area(&self) -> usize {
        FAREWELL_LEN + 2 * self.slot_len()
    }

    fn slot_len(&self) -> usize {
        (LINE + self.capacity).next_multiple_of(PAGE)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn nothing_overlaps() {
        for (ranks, capacity) in [(1, 64), (3, 4096), (5, 100_000)] {
            let layout = Layout::new(ranks, capacity);
            let mut pieces = Vec::new();
            for rank in 0..ranks {
                pieces.push(layout.rank(rank) + FAREWELL..layout.rank(rank) + FAREWELL + FAREWELL_LEN);
                for round in 0..2 {
                    let slot = layout.slot(rank, round);
                    assert!(slot.is_multiple_of(LINE));
                    pieces.push(slot..slot + Layout::payload(capacity) + capacity);
                }
            }
            for (sender, receiver) in (0..ranks).flat_map(|sender| (0..ranks).map(move |receiver| (sender, receiver))) {
                let ring = layout.ring(sender, receiver);
                assert!(ring.is_multiple_of(LINE));
                pieces.push(ring..ring + Layout::ring_data() + layout.ring_len());
            }
            pieces.sort_by_key(|piece| piece.start);
            assert!(pieces.windows(2).all(|pair| pair[0].end <= pair[1].start));
            assert!(pieces.iter().all(|piece| piece.end <= layout.len()));
        }
    }

    #[test]
    fn a_short_payload_shares_the_line_of_the_header() {
        assert_eq!(Layout::payload(32) + 32, LINE);
        assert_eq!(Layout::payload(33), LINE);
    }
}
