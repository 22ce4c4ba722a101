//! Memory that other processes of the node can map, for C++.

use std::ptr::NonNull;

use super::{Thrown, ffi, guard, guard_or};
use crate::shm::heap;

pub(super) fn can_share_memory() -> bool {
    guard_or(false, heap::is_available)
}

pub(super) fn allocate_memory(bytes: usize) -> std::result::Result<*mut u8, Thrown> {
    guard(|| Ok(heap::allocate(bytes)?.as_ptr()))
}

/// # Safety
/// See the declaration.
pub(super) unsafe fn release_memory(address: *mut u8) {
    guard_or((), || NonNull::new(address).into_iter().for_each(heap::release));
}

pub(super) fn memory_stat((name, value): (&str, usize)) -> ffi::MemoryStat {
    ffi::MemoryStat { name: name.to_owned(), value: value as u64 }
}

pub(super) fn heap_stats() -> Vec<ffi::MemoryStat> {
    guard_or(Vec::new(), || {
        let usage = heap::usage();
        [("tensor_bytes", usage.used), ("tensor_reserved_bytes", usage.reserved)].map(memory_stat).into()
    })
}
