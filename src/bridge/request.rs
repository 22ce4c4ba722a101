//! Issued operations, for C++, and whom to tell about their end.

use std::sync::Arc;
use std::time::Duration;

use cxx::UniquePtr;

use super::{ffi, guard_or, source};
use crate::engine::{Completion, Operation, Outcome};
use crate::error::Result;
use crate::group;

/// An issued operation, for C++. It keeps its group.
pub struct Request {
    pub(super) group: Arc<group::Group>,
    pub(super) operation: Arc<Operation>,
}

/// # Safety
/// See the declaration.
pub(super) unsafe fn own_request(request: *mut Request) -> Box<Request> {
    // SAFETY: made by `Box::into_raw` in `Group::issue`; the caller owns it now.
    unsafe { Box::from_raw(request) }
}

impl Request {
    pub(super) fn wait(&self, milliseconds: u64) -> bool {
        guard_or(true, || self.group.wait(&self.operation, Some(Duration::from_millis(milliseconds))))
    }

    pub(super) fn describe(&self) -> String {
        self.operation.to_string()
    }

    pub(super) fn cancel(&self, reason: &str) {
        guard_or((), || self.group.cancel(&self.operation, reason));
    }
}

/// The C++ completion as the engine's.
pub(super) struct Told(pub UniquePtr<ffi::Completion>);

// SAFETY: `completion.hpp` requires implementations to allow calls from any thread, one at a time.
unsafe impl Send for Told {}

impl Completion for Told {
    fn finish(&mut self, result: &Result<Outcome>) {
        let Some(completion) = self.0.as_mut() else { return };
        match result {
            Ok(outcome) => {
                completion.finish(ffi::ErrorKind::None, "", source(outcome));
            }
            Err(error) => completion.finish(error.kind().into(), &error.to_string(), -1),
        }
    }

    fn announce(&mut self) {
        if let Some(completion) = self.0.as_mut() {
            completion.announce();
        }
    }

    fn announce_to_nobody(&mut self) -> bool {
        self.0.as_mut().is_none_or(|completion| completion.announce_to_nobody())
    }
}
