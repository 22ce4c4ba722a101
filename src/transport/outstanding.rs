//! The requests of one operation, kept until each has completed: the memory that they name belongs to the transport
//! that long, whatever becomes of the operation. The operation's scratch memory is kept here for the same reason: a
//! schedule that fails drops what it owns while messages may still be under way.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::{Arrival, Request};
use crate::error::Result;
use crate::memory::{Scratch, View};

/// The requests of one operation that have not completed.
#[derive(Default)]
pub struct Outstanding {
    slots: Mutex<Vec<Option<Box<dyn Request>>>>,
    /// What a schedule has given back while a request was under way.
    scratch: Mutex<Vec<Scratch>>,
}

impl Outstanding {
    /// Keeps `request`; the future completes when the request does.
    pub fn keep(self: &Arc<Self>, request: Box<dyn Request>) -> Posted {
        let mut slots = self.lock();
        let slot = slots.iter().position(Option::is_none).unwrap_or_else(|| {
            slots.push(None);
            slots.len() - 1
        });
        slots[slot] = Some(request);
        drop(slots);
        Posted { outstanding: self.clone(), slot }
    }

    /// `len` bytes of scratch memory, zeroed.
    pub fn lease(self: &Arc<Self>, len: usize) -> Lease {
        let mut scratch = Scratch::new(len);
        Lease { view: scratch.view(), scratch: Some(scratch), outstanding: self.clone() }
    }

    /// Whether a request is under way.
    pub fn is_any(&self) -> bool {
        self.lock().iter().any(Option::is_some)
    }

    /// Asks for the memory of all requests back.
    pub fn cancel(&self) {
        self.lock().iter_mut().flatten().for_each(|request| request.cancel());
    }

    /// Tests all requests; true when none is left. Their results no longer matter to anybody.
    pub fn drain(&self) -> bool {
        let mut slots = self.lock();
        for slot in slots.iter_mut() {
            if let Some(request) = slot {
                match request.test() {
                    Ok(None) => {}
                    Ok(Some(_)) => *slot = None,
                    Err(error) => {
                        log::debug!("a message of an operation that was given up: {error}");
                        *slot = None;
                    }
                }
            }
        }
        slots.iter().all(Option::is_none)
    }

    /// How many pieces of scratch memory outlived their schedule.
    #[cfg(test)]
    pub(crate) fn kept_scratch(&self) -> usize {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Box<dyn Request>>>> {
        // A request that panicked is gone from its caller's point of view; the others are still valid.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Scratch memory of a schedule. When it is dropped, the memory is freed if no message of the operation is under way, and
/// kept until all of them have ended otherwise.
pub struct Lease {
    view: View,
    scratch: Option<Scratch>,
    outstanding: Arc<Outstanding>,
}

impl Lease {
    /// The whole of it.
    pub fn view(&self) -> View {
        self.view
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.outstanding.is_any() {
            self.outstanding.scratch.lock().unwrap_or_else(PoisonError::into_inner).extend(self.scratch.take());
        }
    }
}

/// A message that has been started; await it for its end. Dropping it leaves the message under way.
#[must_use = "a message that nobody awaits may still be under way when its memory is used again"]
pub struct Posted {
    outstanding: Arc<Outstanding>,
    slot: usize,
}

impl Future for Posted {
    type Output = Result<Arrival>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Arrival>> {
        let mut slots = self.outstanding.lock();
        let Some(request) = &mut slots[self.slot] else { return Poll::Pending };
        match request.test() {
            Ok(None) => {
                if request.has_moved() {
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Ok(Some(arrival)) => {
                slots[self.slot] = None;
                Poll::Ready(Ok(arrival))
            }
            Err(error) => {
                slots[self.slot] = None;
                Poll::Ready(Err(error))
            }
        }
    }
}
