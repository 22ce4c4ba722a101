//! A piece of memory that several processes of a node share.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::atomic::{AtomicU32, AtomicU64};
use super::failed;
use crate::error::{Error, Result};
use crate::memory::View;
use crate::process::Owner;

/// A mapping. It has no name in any file system, so a crash leaves nothing behind, and its length never changes. Pages
/// take memory from the first write on.
#[derive(Debug)]
pub struct Segment {
    base: NonNull<u8>,
    len: usize,
    owner: Owner,
}

// SAFETY: an address and a length. The words are accessed as atomics, and who may use which views and when is up to the
// protocols in this folder.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// New memory, zeroed, and the descriptor by which other processes map it.
    pub fn create(len: usize) -> Result<(Segment, OwnedFd)> {
        let descriptor = file(len)?;
        Ok((Segment::map(descriptor.as_fd(), len)?, descriptor))
    }

    /// As [`Segment::create`], and a child that is forked sees the same memory: for what users may have in tensors, which
    /// a child may read.
    pub fn create_for_children(len: usize) -> Result<(Segment, OwnedFd)> {
        let descriptor = file(len)?;
        let segment = Segment::map_for_children(descriptor.as_fd(), len)?;
        // SAFETY: the whole of the mapping.
        let advised = unsafe { madvise(segment.base.as_ptr().cast(), len, Advice::LinuxHugepage) };
        advised.unwrap_or_else(|error| log::debug!("{}", failed("madvise(MADV_HUGEPAGE)")(error)));
        Ok((segment, descriptor))
    }

    /// The memory behind a descriptor that another process has made with [`Segment::create`].
    pub fn map(descriptor: BorrowedFd<'_>, len: usize) -> Result<Segment> {
        let segment = Segment::map_for_children(descriptor, len)?;
        // A forked child has no part in it.
        // SAFETY: the whole of the mapping.
        unsafe { madvise(segment.base.as_ptr().cast(), len, Advice::LinuxDontFork) }
            .map_err(failed("madvise(MADV_DONTFORK)"))?;
        Ok(segment)
    }

    fn map_for_children(descriptor: BorrowedFd<'_>, len: usize) -> Result<Segment> {
        let size = fstat(descriptor).map_err(failed("fstat"))?.st_size as u64;
        if size != len as u64 {
            return Err(Error::Unavailable(format!("a shared segment has {size} bytes, not {len}")));
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, descriptor, 0) };
        let base = NonNull::new(base.map_err(failed("mmap"))?.cast())
            .ok_or_else(|| Error::Internal("mmap has returned the address 0".to_owned()))?;
        Ok(Segment { base, len, owner: Owner::current() })
    }

    /// A word at `offset` bytes.
    ///
    /// # Panics
    /// If it does not lie in the segment, or is not aligned: the layout is wrong.
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(
            offset.is_multiple_of(align_of::<AtomicU64>()) && offset + size_of::<AtomicU64>() <= self.len,
            "word at {offset}"
        );
        // SAFETY: inside the mapping, which lives as long as `self`, and aligned. Every process accesses it as an atomic.
        unsafe { self.base.add(offset).cast::<AtomicU64>().as_ref() }
    }

    /// A word of 32 bits at `offset` bytes.
    ///
    /// # Panics
    /// As [`Segment::word`].
    pub fn half_word(&self, offset: usize) -> &AtomicU32 {
        assert!(
            offset.is_multiple_of(align_of::<AtomicU32>()) && offset + size_of::<AtomicU32>() <= self.len,
            "word at {offset}"
        );
        // SAFETY: as in `word`.
        unsafe { self.base.add(offset).cast::<AtomicU32>().as_ref() }
    }

    /// Plain memory. Whoever calls this has a protocol that says who writes when, and keeps the segment.
    ///
    /// # Panics
    /// If it does not lie in the segment.
    pub fn view(&self, range: Range<usize>) -> View {
        // SAFETY: the mapping is valid for its length for as long as the segment, and the protocols in this folder order
        // accesses with acquire and release.
        unsafe { View::new(self.base.as_ptr(), self.len) }.slice(range)
    }
}

/// A file in memory, without a name, whose length never changes.
fn file(len: usize) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let descriptor = memfd_create("torch-rmpi", flags).map_err(failed("memfd_create"))?;
    ftruncate(&descriptor, len as u64).map_err(failed("ftruncate"))?;
    // Whoever maps it can rely on the length: shrinking would end every process that touches what is gone.
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&descriptor, seals).map_err(failed("fcntl(F_ADD_SEALS)"))?;
    Ok(descriptor)
}

impl Drop for Segment {
    fn drop(&mut self) {
        // In a forked child there may be something else at this address by now.
        if self.owner.is_here()
            // SAFETY: the mapping made in `map`; nobody has a reference into it any more.
            && let Err(error) = unsafe { munmap(self.base.as_ptr().cast(), self.len) }
        {
            log::warn!("{}", failed("munmap")(error));
        }
    }
}
