//! Temporary memory of one operation.

use super::View;

/// Memory that a schedule allocates for itself, aligned for every element type. It is freed when dropped, so the
/// schedule must own it for as long as a request uses it.
#[derive(Debug)]
pub struct Scratch {
    // u128 gives the alignment of the largest element type (complex128).
    words: Vec<u128>,
    len: usize,
}

impl Scratch {
    /// `len` bytes, zeroed.
    pub fn new(len: usize) -> Self {
        Scratch { words: vec![0; len.div_ceil(size_of::<u128>())], len }
    }

    /// The whole of it.
    pub fn view(&mut self) -> View {
        // SAFETY: the vector owns at least `len` bytes, is never resized, and outlives the schedule's requests, which
        // the engine keeps together with the schedule.
        unsafe { View::new(self.words.as_mut_ptr().cast(), self.len) }
    }
}
