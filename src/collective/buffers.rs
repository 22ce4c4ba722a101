//! Memory for the tests of schedules.

use std::ptr::NonNull;

use crate::memory::{Scratch, View};
use crate::shm::heap;

/// Memory of one rank for one operation.
pub struct Buffers {
    pub scratch: Vec<Scratch>,
    blocks: Vec<Block>,
    pub views: Vec<View>,
}

/// A block of an arena.
struct Block(NonNull<u8>);

impl Drop for Block {
    fn drop(&mut self) {
        heap::release(self.0);
    }
}

impl Buffers {
    /// One buffer per block, with its content.
    pub fn new(contents: &[Vec<u8>]) -> Self {
        Buffers::unaligned(contents, 0, false)
    }

    /// As [`Buffers::new`], in memory that other processes can map.
    pub fn in_arena(contents: &[Vec<u8>]) -> Self {
        Buffers::unaligned(contents, 0, true)
    }

    /// As either of these, with each buffer beginning `offset` bytes after an aligned address.
    pub fn unaligned(contents: &[Vec<u8>], offset: usize, in_arena: bool) -> Self {
        let mut buffers = Buffers { scratch: Vec::new(), blocks: Vec::new(), views: Vec::new() };
        for content in contents {
            let len = offset + content.len();
            let memory = if in_arena {
                let block = heap::allocate(len.max(1)).unwrap();
                buffers.blocks.push(Block(block));
                // SAFETY: the block is that long, and lives as long as these buffers.
                unsafe { View::new(block.as_ptr(), len) }
            } else {
                buffers.scratch.push(Scratch::new(len));
                buffers.scratch.last_mut().unwrap().view()
            };
            let view = memory.slice(offset..len);
            view.write(content);
            buffers.views.push(view);
        }
        buffers
    }

    /// Zeros; lengths in bytes.
    pub fn zeroed(lengths: &[usize]) -> Self {
        Buffers::new(&lengths.iter().map(|&len| vec![0; len]).collect::<Vec<_>>())
    }

    /// What the buffers hold.
    pub fn blocks(&self) -> Vec<Vec<u8>> {
        assert_eq!(self.scratch.len() + self.blocks.len(), self.views.len());
        self.views.iter().map(View::to_vec).collect()
    }
}
