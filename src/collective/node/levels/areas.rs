//! What lies where in a slot of a collective that works in two levels: a part for each step, at the same time.

use std::ops::Range;

use crate::reduce::Reduction;

/// Parts, and pieces if they are longer than this, begin at multiples of it, which every element divides.
const ALIGNMENT: usize = 64;
/// The largest accumulator and the largest element, in bytes.
const LARGEST: usize = 16;

/// Where the parts of a slot begin. What a rank shows of its input is at the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Areas {
    /// Bytes of a piece.
    piece: usize,
    /// Bytes of an element, and of its accumulator.
    element: usize,
    accumulator: usize,
    partial: usize,
    result: usize,
    gathered: usize,
}

impl Areas {
    /// For slots of `capacity` bytes, `ranks` ranks in all, and `smallest` in the smallest domain. `None` if nothing fits.
    pub fn new(capacity: usize, reduction: &Reduction, smallest: usize, ranks: usize) -> Option<Areas> {
        let (element, accumulator) = (reduction.dtype().size(), reduction.accumulator());
        // For each part what it may take more than its share: a gap before it, and an element that does not divide.
        let room = capacity.checked_sub(3 * (ALIGNMENT + LARGEST))?;
        // What a piece of smallest * ranks elements takes.
        let each = element * smallest * ranks + (accumulator + element) * ranks + element * smallest;
        let piece = rounded(room * smallest * ranks / each * element);
        let elements = piece / element;
        let partial = piece.next_multiple_of(ALIGNMENT);
        let result = (partial + elements.div_ceil(smallest) * accumulator).next_multiple_of(ALIGNMENT);
        let gathered = (result + elements.div_ceil(ranks) * element).next_multiple_of(ALIGNMENT);
        debug_assert!(gathered + elements.div_ceil(smallest) * element <= capacity);
        (piece > 0).then_some(Areas { piece, element, accumulator, partial, result, gathered })
    }

    /// Bytes of one input in a piece, if there are so many inputs. `None` if it has no element then.
    pub fn piece_of(&self, inputs: usize) -> Option<usize> {
        let piece = rounded(self.piece / inputs.max(1) / self.element * self.element);
        (piece > 0).then_some(piece)
    }

    /// The accumulators of these bytes of the slice that a rank has reduced over its domain.
    pub fn partial(&self, range: Range<usize>) -> Range<usize> {
        let place = |byte: usize| self.partial + byte / self.element * self.accumulator;
        place(range.start)..place(range.end)
    }

    /// The slice of `len` bytes that a rank has reduced over all domains.
    pub fn result(&self, len: usize) -> Range<usize> {
        self.result..self.result + len
    }

    /// The slice of `len` bytes of the result that a rank has brought into its domain.
    pub fn gathered(&self, len: usize) -> Range<usize> {
        self.gathered..self.gathered + len
    }
}

/// A multiple of the alignment, unless it is short.
fn rounded(len: usize) -> usize {
    if len < ALIGNMENT { len } else { len / ALIGNMENT * ALIGNMENT }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reduce::{DataType, ReduceOp};

    #[test]
    fn parts_do_not_overlap_and_fit() {
        let ops = |dtype: &DataType| ReduceOp::ALL.map(|op| Reduction::new(*dtype, op, 1.0));
        for reduction in DataType::ALL.iter().flat_map(ops).flatten() {
            assert!(reduction.accumulator() <= LARGEST && reduction.dtype().size() <= LARGEST);
            for (capacity, smallest, ranks) in [(512, 1, 3), (4096, 2, 5), (256 << 10, 1, 256), (256 << 10, 64, 128)] {
                let areas = Areas::new(capacity, &reduction, smallest, ranks).unwrap();
                let element = reduction.dtype().size();
                assert!(areas.piece > 0 && areas.piece.is_multiple_of(element));
                let slice = |slices: usize| (areas.piece / element).div_ceil(slices) * element;
                let parts = [
                    0..areas.piece,
                    areas.partial(0..slice(smallest)),
                    areas.result(slice(ranks)),
                    areas.gathered(slice(smallest)),
                ];
                assert!(parts.windows(2).all(|pair| pair[0].end <= pair[1].start), "{parts:?}");
                assert!(parts[3].end <= capacity && parts[3].end + 512 + capacity / 8 > capacity, "{parts:?}");
            }
            assert!(Areas::new(200, &reduction, 1, 3).is_none());
        }
    }
}
