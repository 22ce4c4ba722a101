//! Memory for the tests of schedules.

use crate::memory::{Scratch, View};

/// Memory of one rank for one operation.
pub struct Buffers {
    pub scratch: Vec<Scratch>,
    pub views: Vec<View>,
}

impl Buffers {
    /// One buffer per block, with its content.
    pub fn new(blocks: &[Vec<u8>]) -> Self {
        let mut scratch: Vec<_> = blocks.iter().map(|block| Scratch::new(block.len())).collect();
        let views: Vec<_> = scratch.iter_mut().map(Scratch::view).collect();
        for (view, block) in views.iter().zip(blocks) {
            view.write(block);
        }
        Buffers { scratch, views }
    }

    /// Zeros; lengths in bytes.
    pub fn zeroed(lengths: &[usize]) -> Self {
        Buffers::new(&lengths.iter().map(|&len| vec![0; len]).collect::<Vec<_>>())
    }

    /// What the buffers hold.
    pub fn blocks(&self) -> Vec<Vec<u8>> {
        assert_eq!(self.scratch.len(), self.views.len());
        self.views.iter().map(View::to_vec).collect()
    }
}
