//! Pieces of memory in a row, as one string of bytes that passes through a slot.

use std::ops::Range;

use crate::memory::View;

/// A link of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) enum Link {
    /// Bytes that this rank has, or takes.
    Here(View),
    /// So many bytes that this rank does not want.
    Skip(usize),
}

impl Link {
    fn len(&self) -> usize {
        match self {
            Link::Here(view) => view.len(),
            Link::Skip(len) => *len,
        }
    }
}

/// What one rank of the node shows, as this rank sees it.
pub(super) type Chain = Vec<Link>;

/// Bytes of the whole.
pub(super) fn length(chain: &[Link]) -> usize {
    chain.iter().map(Link::len).sum()
}

/// Calls `copy` with each piece of this rank's memory in `range` of the chain, and where it lies in that range.
pub(super) fn pieces(chain: &[Link], range: Range<usize>, mut copy: impl FnMut(View, Range<usize>)) {
    let mut start = 0;
    for link in chain {
        let (from, to) = (range.start.max(start), range.end.min(start + link.len()));
        if let Link::Here(view) = link
            && from < to
        {
            copy(view.slice(from - start..to - start), from - range.start..to - range.start);
        }
        start += link.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Scratch;

    #[test]
    fn a_range_takes_what_lies_in_it() {
        let (mut a, mut b) = (Scratch::new(10), Scratch::new(6));
        let chain = [Link::Here(a.view()), Link::Skip(5), Link::Here(View::empty()), Link::Here(b.view())];
        assert_eq!(length(&chain), 21);
        let mut found = Vec::new();
        pieces(&chain, 8..18, |view, range| found.push((view.as_ptr(), view.len(), range)));
        let expected = [(a.view().slice(8..10).as_ptr(), 2, 0..2), (b.view().as_ptr(), 3, 7..10)];
        assert_eq!(found, expected);
    }
}
