//! Windows, for C++.

use cxx::UniquePtr;

use super::request::Told;
use super::{Group, Thrown, ffi, guard, guard_or};
use crate::error::Error;
use crate::memory::View;
use crate::shm::Mapped;

/// Memory of another rank, for C++; `None`: that has no bytes. It is mapped for as long as this lives.
pub struct Mapping(Option<Mapped>);

impl Mapping {
    pub(super) fn region(&self) -> ffi::Region {
        let view = self.0.as_ref().map_or(View::empty(), Mapped::view);
        ffi::Region { data: view.as_mut_ptr(), bytes: view.len() }
    }
}

impl Group {
    /// # Safety
    /// See the declaration.
    pub(super) unsafe fn register_window(
        &self,
        memory: ffi::Region,
        dtype: u64,
        owner: UniquePtr<ffi::Completion>,
    ) -> std::result::Result<u64, Thrown> {
        guard(|| {
            // SAFETY: the owner keeps the memory.
            unsafe { self.0.register(View::new(memory.data, memory.bytes), dtype, Box::new(Told(owner))) }
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
            let window = self.0.window(window)?;
            let mapped = window.mapped(rank).cloned();
            if mapped.is_none() && window.len_of(rank) != Some(0) {
                return Err(Error::Unavailable(format!(
                    "the memory of rank {rank} cannot be mapped here: its tensor has to come from allocate_tensor, and the \
                     rank has to be on this node, where the system lets this process open its memory"
                )));
            }
            Ok(Box::new(Mapping(mapped)))
        })
    }
}
