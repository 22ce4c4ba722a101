//! The segment, for loom: ordinary memory, of which a model says what is words and what is data.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::error::{Error, Result};
use crate::memory::View;
use crate::memory::tracked::Tracked;
use crate::shm::atomic::{AtomicU32, AtomicU64};

/// A cache line, so that data is aligned as in a mapping.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "accessed by views")] [u8; 64]);

/// See the module.
#[derive(Debug)]
pub struct Segment {
    words: BTreeMap<usize, AtomicU64>,
    data: Vec<Range<usize>>,
    base: *mut u8,
    len: usize,
    _memory: Vec<Line>,
    _tracked: Vec<Tracked>,
}

// SAFETY: a model runs on one thread of the system.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// Memory of `len` bytes, zeroed. Only `words` can be used as words, and only `data` as data. For the main thread of
    /// a model, before it has others.
    #[cfg(test)]
    pub fn of(len: usize, words: impl IntoIterator<Item = usize>, data: Vec<Range<usize>>) -> Segment {
        let mut memory = vec![Line([0; 64]); len.div_ceil(64)];
        let base = memory.as_mut_ptr().cast::<u8>();
        let tracked =
            data.iter().map(|range| Tracked::new(base.addr() + range.start..base.addr() + range.end)).collect();
        let words = words.into_iter().map(|offset| (offset, AtomicU64::new(0))).collect();
        Segment { words, data, base, len, _memory: memory, _tracked: tracked }
    }

    /// A model maps nothing.
    pub fn create(_: usize) -> Result<(Segment, OwnedFd)> {
        Err(unavailable())
    }

    /// A model maps nothing.
    pub fn map(_: BorrowedFd<'_>, _: usize) -> Result<Segment> {
        Err(unavailable())
    }

    /// A model maps nothing.
    pub fn create_for_children(_: usize) -> Result<(Segment, OwnedFd)> {
        Err(unavailable())
    }

    /// A word at `offset` bytes.
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        self.words.get(&offset).unwrap_or_else(|| panic!("the model has no word at {offset}"))
    }

    /// A model has none.
    pub fn half_word(&self, offset: usize) -> &AtomicU32 {
        panic!("the model has no word of 32 bits at {offset}")
    }

    /// Plain memory.
    pub fn view(&self, range: Range<usize>) -> View {
        let known = |data: &Range<usize>| data.start <= range.start && range.end <= data.end;
        assert!(self.data.iter().any(known), "the model has no data at {range:?}");
        // SAFETY: memory of this segment, which whoever has the view keeps.
        unsafe { View::new(self.base, self.len) }.slice(range)
    }
}

fn unavailable() -> Error {
    Error::Unavailable("a model maps no memory".to_owned())
}
