//! Memory that users allocate for what they communicate: other processes of the node can map it.
//!
//! It comes from arenas, each a file in memory. Peers open an arena by its descriptor in `/proc`, so nothing has to be sent;
//! whoever may not do that communicates as if it was ordinary memory.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use once_cell::sync::OnceCell;
use rustix::fs::{FallocateFlags, fallocate, fstat};

use super::failed;
use super::segment::Segment;
use crate::error::{Error, Result};
use crate::memory::View;
use crate::process::Owner;

/// Blocks begin at multiples of this, which suits every kernel.
const ALIGNMENT: usize = 64;
/// Arenas are of this size at least, and their sizes multiples of it: that of a large page.
const UNIT: usize = 2 << 20;
/// Bytes of an arena of many blocks. Pages that nobody has written take no memory.
const SHARED: usize = 256 << 20;
/// A longer block has an arena of its own.
const LONGEST_SHARED: usize = SHARED / 4;

/// Whether there are any blocks: spares operations the lock. Relaxed: whoever communicates a block has it from the thread
/// that has allocated it.
static IN_USE: AtomicBool = AtomicBool::new(false);
/// That of this process, or of one that it was forked from.
static HEAP: AtomicPtr<Heap> = AtomicPtr::new(ptr::null_mut());

/// Where memory of an arena is, for other processes. Travels as [`Spot::LEN`] bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spot {
    /// In the process that has it.
    pub address: u64,
    /// Where its arena begins there, and how long it is; 0: it is ordinary memory.
    base: u64,
    len: u64,
    /// The arena's descriptor in that process, and the file behind it.
    descriptor: u64,
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl Spot {
    /// Bytes of a spot.
    pub const LEN: usize = 48;

    /// Where `view`, of this process, is.
    pub fn of(view: &View) -> Spot {
        let address = view.as_ptr() as u64;
        if !IN_USE.load(Ordering::Relaxed) {
            return Spot { address, ..Spot::default() };
        }
        let heap = heap().lock();
        let arena = heap.arenas.range(..=address as usize).next_back().map(|(_, arena)| arena);
        match arena.filter(|arena| arena.holds(view)) {
            Some(arena) => Spot { address, ..arena.spot },
            None => Spot { address, ..Spot::default() },
        }
    }

    /// Whether other processes can map it, if they may.
    pub fn is_in_arena(&self) -> bool {
        self.len > 0
    }

    /// Where it is in its arena.
    pub(super) fn offset(&self) -> usize {
        self.address.saturating_sub(self.base) as usize
    }

    /// Bytes of its arena.
    pub(super) fn arena_len(&self) -> usize {
        self.len as usize
    }

    /// The arena's descriptor in the process that has it.
    pub(super) fn descriptor(&self) -> u64 {
        self.descriptor
    }

    /// The spot as bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let words = [self.address, self.base, self.len, self.descriptor, self.device, self.inode];
        for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// The spot that [`Spot::to_bytes`] has made, on this machine.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Spot {
        let mut words = [0; 6];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut own = [0; 8];
            own.copy_from_slice(bytes);
            *word = u64::from_ne_bytes(own);
        }
        let [address, base, len, descriptor, device, inode] = words;
        Spot { address, base, len, descriptor, device, inode }
    }
}

/// What the arenas of this process occupy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all arenas. Only pages that were written take memory.
    pub reserved: usize,
    /// Bytes of the blocks in them.
    pub used: usize,
}

/// Whether this system has such memory.
pub fn is_available() -> bool {
    static AVAILABLE: OnceCell<bool> = OnceCell::new();
    *AVAILABLE.get_or_init(|| Segment::create_for_children(UNIT).inspect_err(|error| log::info!("{error}")).is_ok())
}

/// New memory of `len` bytes, more than 0, which [`release`] takes back. Its content is anything.
pub fn allocate(len: usize) -> Result<NonNull<u8>> {
    let len = len.checked_next_multiple_of(ALIGNMENT).ok_or_else(|| too_long(len))?;
    let mut heap = heap().lock();
    let block = if len <= LONGEST_SHARED { heap.arenas.values_mut().find_map(|arena| arena.take(len)) } else { None };
    let block = match block {
        Some(block) => block,
        None => heap.grow(len)?,
    };
    heap.used += len;
    IN_USE.store(true, Ordering::Relaxed);
    Ok(block)
}

/// Takes back what [`allocate`] has given. In a forked child it does nothing with what the parent has allocated.
///
/// # Panics
/// If it has not given that, or it was taken back before.
pub fn release(address: NonNull<u8>) {
    let start = address.as_ptr() as usize;
    let heap = heap();
    let arenas = heap.lock();
    let arena = arenas.arenas.range(..=start).next_back().map(|(_, arena)| arena);
    let Some(arena) = arena.filter(|arena| start < arena.base() + arena.len) else {
        assert!(heap.is_inherited, "memory at {start:#x} was not allocated here");
        return;
    };
    let (file, base, offset) = (arena.file.clone(), arena.base(), start - arena.base());
    let len = arena.length_of(offset);
    drop(arenas);
    if len >= UNIT {
        // While the block still counts as taken: whoever gets it next has written nothing yet.
        forget(&file, offset, len);
    }
    let mut arenas = heap.lock();
    let Some(arena) = arenas.arenas.get_mut(&base) else { return };
    arena.give_back(offset);
    let is_empty = arena.is_empty();
    arenas.used -= len;
    IN_USE.store(arenas.used > 0, Ordering::Relaxed);
    // One that many blocks share stays: the next block needs it again.
    let others = || arenas.arenas.values().filter(|arena| arena.is_empty()).count() > 1;
    let removed =
        if is_empty && (arenas.arenas[&base].len > SHARED || others()) { arenas.arenas.remove(&base) } else { None };
    drop(arenas);
    // Without the lock: it may be gigabytes.
    if let Some(arena) = removed {
        forget(&arena.file, 0, arena.len);
    }
}

/// What the arenas occupy.
pub fn usage() -> Usage {
    let heap = heap().lock();
    Usage { reserved: heap.arenas.values().map(|arena| arena.len).sum(), used: heap.used }
}

/// The heap of this process. A forked child has one of its own: it may have inherited a lock that nobody opens, and its
/// parent does not know what it takes.
fn heap() -> &'static Heap {
    // Acquire pairs with the release below: the heap is there.
    let known = HEAP.load(Ordering::Acquire);
    // SAFETY: heaps are leaked, so the reference is valid for good.
    if let Some(heap) = unsafe { known.as_ref() }
        && heap.owner.is_here()
    {
        return heap;
    }
    let new = Box::into_raw(Box::new(Heap {
        owner: Owner::current(),
        is_inherited: !known.is_null(),
        arenas: Mutex::new(Arenas::default()),
    }));
    match HEAP.compare_exchange(known, new, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: as above.
        Ok(_) => unsafe { &*new },
        Err(other) => {
            // SAFETY: nobody else has seen the new one; the other one is leaked.
            unsafe {
                drop(Box::from_raw(new));
                &*other
            }
        }
    }
}

/// Gives pages back to the system: peers that have mapped them would keep them.
fn forget(file: &OwnedFd, offset: usize, len: usize) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if let Err(error) = fallocate(file.as_fd(), flags, offset as u64, len as u64) {
        log::debug!("{}", failed("fallocate")(error));
    }
}

fn too_long(len: usize) -> Error {
    Error::Argument(format!("{len} bytes are more than a process can have"))
}

struct Heap {
    owner: Owner,
    /// The process was forked from one that has a heap, of which it may have blocks.
    is_inherited: bool,
    arenas: Mutex<Arenas>,
}

impl Heap {
    fn lock(&self) -> MutexGuard<'_, Arenas> {
        self.arenas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Arenas {
    /// By where they begin.
    arenas: BTreeMap<usize, Arena>,
    used: usize,
}

impl Arenas {
    /// A block of a new arena.
    fn grow(&mut self, len: usize) -> Result<NonNull<u8>> {
        let size = if len <= LONGEST_SHARED { SHARED } else { len };
        let size = size.checked_next_multiple_of(UNIT).ok_or_else(|| too_long(len))?;
        let mut arena = Arena::new(size)?;
        let block = arena.take(len).ok_or_else(|| Error::Internal("an arena without room".to_owned()))?;
        self.arenas.insert(arena.base(), arena);
        Ok(block)
    }
}

/// A file in memory, and what of it is free.
#[derive(Debug)]
struct Arena {
    segment: Segment,
    len: usize,
    file: Arc<OwnedFd>,
    spot: Spot,
    /// Offset and length of each free piece; no two of them touch.
    free: BTreeMap<usize, usize>,
    /// Of each block.
    blocks: BTreeMap<usize, usize>,
}

impl Arena {
    fn new(len: usize) -> Result<Arena> {
        let (segment, descriptor) = Segment::create_for_children(len)?;
        let status = fstat(&descriptor).map_err(failed("fstat"))?;
        let base = segment.view(0..len).as_ptr() as u64;
        let spot = Spot {
            address: base,
            base,
            len: len as u64,
            descriptor: descriptor.as_raw_fd() as u64,
            device: status.st_dev,
            inode: status.st_ino,
        };
        let free = BTreeMap::from([(0, len)]);
        Ok(Arena { segment, len, file: Arc::new(descriptor), spot, free, blocks: BTreeMap::new() })
    }

    fn base(&self) -> usize {
        self.spot.base as usize
    }

    fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    fn holds(&self, view: &View) -> bool {
        let start = view.as_ptr() as usize;
        start >= self.base() && view.len() <= self.len && start - self.base() <= self.len - view.len()
    }

    /// The first piece that is long enough.
    fn take(&mut self, len: usize) -> Option<NonNull<u8>> {
        let (&offset, &found) = self.free.iter().find(|&(_, &found)| found >= len)?;
        self.free.remove(&offset);
        if found > len {
            self.free.insert(offset + len, found - len);
        }
        self.blocks.insert(offset, len);
        NonNull::new(self.segment.view(offset..offset + len).as_mut_ptr())
    }

    /// How long the block at `offset` is.
    fn length_of(&self, offset: usize) -> usize {
        let len = self.blocks.get(&offset);
        *len.unwrap_or_else(|| panic!("memory at {offset} of an arena was not allocated, or was given back before"))
    }

    fn give_back(&mut self, offset: usize) {
        let len = self.length_of(offset);
        self.blocks.remove(&offset);
        let (mut start, mut end) = (offset, offset + len);
        if let Some((&before, &length)) = self.free.range(..offset).next_back()
            && before + length == offset
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(length) = self.free.remove(&end) {
            end += length;
        }
        self.free.insert(start, end - start);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn view(address: NonNull<u8>, len: usize) -> View {
        // SAFETY: the block is that long, and lives until it is released.
        unsafe { View::new(address.as_ptr(), len) }
    }

    #[test]
    fn blocks_are_apart_and_come_back() {
        let mut arena = Arena::new(UNIT).unwrap();
        let blocks: Vec<_> = (1..=8).map(|count| (arena.take(count * 64).unwrap(), count * 64)).collect();
        for (index, &(block, len)) in blocks.iter().enumerate() {
            view(block, len).fill(index as u8);
        }
        for (index, &(block, len)) in blocks.iter().enumerate() {
            assert!(view(block, len).to_vec().iter().all(|&byte| byte == index as u8));
            assert!((block.as_ptr() as usize).is_multiple_of(ALIGNMENT));
        }
        assert!(arena.take(UNIT).is_none());
        // In an order that joins pieces on either side, on both, and on none.
        for index in [1, 3, 2, 0, 7, 5, 4, 6] {
            let offset = blocks[index].0.as_ptr() as usize - arena.base();
            assert_eq!(arena.length_of(offset), blocks[index].1);
            arena.give_back(offset);
        }
        assert!(arena.is_empty());
        assert_eq!(arena.free, BTreeMap::from([(0, UNIT)]));
        assert!(arena.take(UNIT).is_some() && arena.take(64).is_none());
    }

    #[test]
    fn the_first_piece_that_is_long_enough_is_used_again() {
        let mut arena = Arena::new(UNIT).unwrap();
        let [a, b, _c] = [128, 256, 64].map(|len| arena.take(len).unwrap());
        arena.give_back(a.as_ptr() as usize - arena.base());
        arena.give_back(b.as_ptr() as usize - arena.base());
        assert_eq!(arena.take(384), Some(a), "the two are one piece now");
    }

    #[test]
    #[should_panic(expected = "given back before")]
    fn a_block_is_given_back_once() {
        let mut arena = Arena::new(UNIT).unwrap();
        let block = arena.take(64).unwrap().as_ptr() as usize - arena.base();
        arena.give_back(block);
        arena.give_back(block);
    }

    #[test]
    fn memory_of_an_arena_is_told_from_other_memory() {
        let ordinary = [0_u8; 64];
        // SAFETY: nothing reads or writes through it.
        let elsewhere = unsafe { View::new(ordinary.as_ptr().cast_mut(), ordinary.len()) };
        assert!(!Spot::of(&elsewhere).is_in_arena());
        for len in [1, 1000, LONGEST_SHARED + 1, SHARED + UNIT] {
            let block = allocate(len).unwrap();
            let spot = Spot::of(&view(block, len));
            assert!(spot.is_in_arena() && spot.offset() + len <= spot.arena_len(), "{spot:?}");
            assert_eq!(Spot::from_bytes(&spot.to_bytes()), spot);
            assert!(!Spot::of(&view(block, spot.arena_len() + 1)).is_in_arena(), "beyond its end");
            release(block);
        }
    }

    #[test]
    fn a_length_that_nobody_has_is_an_error() {
        assert!(allocate(usize::MAX).is_err());
        assert!(allocate(usize::MAX / 2).is_err());
    }
}
