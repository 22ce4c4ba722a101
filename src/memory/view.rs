//! A length-checked view of memory that somebody else owns.

use std::ops::Range;

#[cfg(loom)]
use super::tracked;

/// A contiguous piece of memory, in bytes. Copies of a view refer to the same memory.
///
/// Whoever creates a view promises that the memory stays valid, and that nobody else writes to it, until the operation
/// that it was created for has released it. That promise makes the methods here safe to call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct View {
    address: *mut u8,
    len: usize,
}

// SAFETY: a view is an address and a length; the promise made to `View::new` holds for whichever thread drives the
// operation, and the engine lets one thread at a time do so.
unsafe impl Send for View {}
// SAFETY: as above; a shared view gives out no reference.
unsafe impl Sync for View {}

impl View {
    /// Where in it the address is; the length follows.
    #[cfg(feature = "bridge")]
    pub(crate) const ADDRESS_OFFSET: usize = std::mem::offset_of!(View, address);

    /// A view of `len` bytes at `address`.
    ///
    /// # Safety
    /// Until the operation that uses the view has released it, `address` must be valid for reads and writes of `len`
    /// bytes (for reads only, if it is passed only as an input), and nobody outside the engine may write there, nor
    /// read what an operation writes. `address` may be null only if `len` is 0.
    pub unsafe fn new(address: *mut u8, len: usize) -> Self {
        View { address, len }
    }

    /// No bytes.
    pub const fn empty() -> Self {
        View { address: std::ptr::null_mut(), len: 0 }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Start of the memory.
    pub fn as_ptr(&self) -> *const u8 {
        self.address
    }

    /// Start of the memory, for writing.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.address
    }

    /// The bytes in `range` of this view.
    ///
    /// # Panics
    /// If `range` does not lie inside the view: a schedule that asks for it is wrong.
    pub fn slice(&self, range: Range<usize>) -> View {
        assert!(range.start <= range.end && range.end <= self.len, "bytes {range:?} of a view of {} bytes", self.len);
        View {
            // SAFETY: the offset is inside the memory that `new` was promised, or zero.
            address: unsafe { self.address.add(range.start) },
            len: range.end - range.start,
        }
    }

    /// Copies all bytes of `source`, which must have this view's length; the two may overlap.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn copy_from(&self, source: &View) {
        assert_eq!(self.len, source.len, "views of different lengths");
        #[cfg(loom)]
        tracked::read(source.address, source.len);
        #[cfg(loom)]
        tracked::write(self.address, self.len);
        if self.len > 0 && self.address != source.address {
            // SAFETY: both are valid for `len` bytes by the promise to `new`; `copy` allows overlap.
            unsafe { std::ptr::copy(source.address, self.address, self.len) }
        }
    }

    /// Copies from `bytes`, which must have this view's length.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn write(&self, bytes: &[u8]) {
        assert_eq!(self.len, bytes.len(), "a view and a slice of different lengths");
        #[cfg(loom)]
        tracked::write(self.address, self.len);
        if self.len > 0 {
            // SAFETY: valid for `len` bytes by the promise to `new`.
            unsafe { std::ptr::copy(bytes.as_ptr(), self.address, self.len) }
        }
    }

    /// Copies to `bytes`, which must have this view's length.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn read(&self, bytes: &mut [u8]) {
        assert_eq!(self.len, bytes.len(), "a view and a slice of different lengths");
        #[cfg(loom)]
        tracked::read(self.address, self.len);
        if self.len > 0 {
            // SAFETY: valid for `len` bytes by the promise to `new`.
            unsafe { std::ptr::copy(self.address, bytes.as_mut_ptr(), self.len) }
        }
    }

    /// The bytes, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        #[cfg(loom)]
        tracked::read(self.address, self.len);
        if self.len > 0 {
            // SAFETY: valid for `len` bytes by the promise to `new`; the vector is new memory.
            unsafe { std::ptr::copy_nonoverlapping(self.address, bytes.as_mut_ptr(), self.len) }
        }
        bytes
    }

    /// Sets every byte.
    pub fn fill(&self, byte: u8) {
        #[cfg(loom)]
        tracked::write(self.address, self.len);
        if self.len > 0 {
            // SAFETY: valid for `len` bytes by the promise to `new`.
            unsafe { std::ptr::write_bytes(self.address, byte, self.len) }
        }
    }

    /// Whether the two share at least one byte.
    pub fn overlaps(&self, other: &View) -> bool {
        let (a, b) = (self.address as usize, other.address as usize);
        !self.is_empty() && !other.is_empty() && a < b + other.len && b < a + self.len
    }
}
