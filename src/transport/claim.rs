//! A receive that looks in two places, and may take one message.

use std::sync::atomic::{AtomicU8, Ordering};

const FREE: u8 = 0;

/// Where a message was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Place {
    /// In memory that ranks of this node share.
    Shared = 1,
    /// In MPI.
    Mpi = 2,
}

/// Held by both halves of a receive. The first that finds a message takes the receive; the other one finds none.
#[derive(Debug, Default)]
pub(super) struct Claim(AtomicU8);

impl Claim {
    /// Whether `place` may take a message.
    pub fn is_open_to(&self, place: Place) -> bool {
        // Relaxed: the engine drives with one thread at a time, and its lock orders them.
        let holder = self.0.load(Ordering::Relaxed);
        holder == FREE || holder == place as u8
    }

    /// Takes the receive for `place`, to which it must be open.
    pub fn take(&self, place: Place) {
        // Relaxed: see `is_open_to`.
        self.0.store(place as u8, Ordering::Relaxed);
    }
}
