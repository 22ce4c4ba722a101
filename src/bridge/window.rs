//! Windows, for C++.

use super::{Group, Thrown, ffi, guard, guard_or};
use crate::error::Error;
use crate::memory::View;
use crate::shm::Mapped;

/// Memory of another rank, for C++. It is mapped for as long as this lives.
pub struct Mapping(Mapped);

impl Mapping {
    pub(super) fn region(&self) -> ffi::Region {
        let view = self.0.view();
        ffi::Region { data: view.as_mut_ptr(), bytes: view.len() }
    }
}

impl Group {
    /// # Safety
    /// See the declaration.
    pub(super) unsafe fn register_window(&self, memory: ffi::Region, dtype: u64) -> std::result::Result<u64, Thrown> {
        guard(|| {
            // SAFETY: the caller keeps the memory until the window has ended.
            unsafe { self.0.register(View::new(memory.data, memory.bytes), dtype) }
        })
    }

    pub(super) fn deregister_window(&self, window: u64) -> std::result::Result<(), Thrown> {
        guard(|| self.0.deregister(window))
    }

    pub(super) fn abandon_window(&self, window: u64) {
        guard_or((), || self.0.abandon(window));
    }

    pub(super) fn is_window_unified(&self, window: u64, rank: usize) -> std::result::Result<bool, Thrown> {
        guard(|| Ok(self.0.window(window)?.is_unified(rank)))
    }

    pub(super) fn map_window(&self, window: u64, rank: usize) -> std::result::Result<Box<Mapping>, Thrown> {
        guard(|| {
            let mapped = self.0.window(window)?.mapped(rank).cloned();
            mapped.map(|mapped| Box::new(Mapping(mapped))).ok_or_else(|| {
                Error::Unavailable(format!(
                    "the memory of rank {rank} cannot be mapped here: its tensor has to come from allocate_tensor, and the \
                     rank has to be on this node, where the system lets this process open its memory"
                ))
            })
        })
    }
}
