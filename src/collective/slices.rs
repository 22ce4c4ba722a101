//! How memory is divided among ranks and into pieces.

use std::ops::Range;

use crate::memory::View;

/// The bytes of part `index` when `len` bytes of elements of `element` bytes are divided into `parts` parts of nearly
/// equal length; the first parts take the remainder.
pub(super) fn part(len: usize, element: usize, parts: usize, index: usize) -> Range<usize> {
    let elements = len / element;
    let (each, more) = (elements / parts, elements % parts);
    let start = index * each + index.min(more);
    let end = start + each + usize::from(index < more);
    start * element..end * element
}

/// The part of [`part`] that holds the byte at `position`, which must be before `len`: which one, and its bytes.
pub(super) fn part_at(len: usize, element: usize, parts: usize, position: usize) -> (usize, Range<usize>) {
    let (elements, position) = (len / element, position / element);
    let (each, more) = (elements / parts, elements % parts);
    let in_longer = more * (each + 1);
    let index = if position < in_longer { position / (each + 1) } else { more + (position - in_longer) / each };
    (index, part(len, element, parts, index))
}

/// All parts of `view`, one per rank.
pub(super) fn parts(view: &View, element: usize, parts: usize) -> Vec<View> {
    (0..parts).map(|index| view.slice(part(view.len(), element, parts, index))).collect()
}

/// `view` in pieces of at most `piece` bytes, which must be a multiple of the element; one empty piece if it is empty.
pub(super) fn pieces(view: &View, piece: usize) -> Vec<View> {
    let starts = (0..view.len().max(1)).step_by(piece.max(1));
    starts.map(|start| view.slice(start..(start + piece).min(view.len()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for (len, parts) in [(0, 3), (4, 3), (40, 3), (44, 4), (4000, 7)] {
            let mut next = 0;
            for index in 0..parts {
                let range = part(len, 4, parts, index);
                assert_eq!(range.start, next);
                assert_eq!(range.len() % 4, 0);
                assert!(range.clone().all(|byte| part_at(len, 4, parts, byte) == (index, range.clone())));
                next = range.end;
            }
            assert_eq!(next, len);
        }
    }
}
