//! Temporary memory of one operation.

use super::View;

/// Memory of the library's own, aligned for every element type. It is freed when dropped, and a view of it does not keep
/// it: a schedule takes its scratch from its context, which keeps it for as long as a message may use it.
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
    pub(crate) fn view(&mut self) -> View {
        // SAFETY: the vector owns at least `len` bytes and is never resized. Whoever holds the scratch keeps it until
        // the transport has given the memory back (see `transport::Lease`).
        unsafe { View::new(self.words.as_mut_ptr().cast(), self.len) }
    }
}
