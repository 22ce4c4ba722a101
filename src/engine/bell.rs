//! What wakes the threads of the engine.

use std::sync::Arc;

use crate::shm::{Doorbell, Sleeper, own_doorbell};

/// Threads that drive sleep at the door, which peers ring; all others sleep where peers do not disturb them. Either kind
/// announces itself, looks for work once more, and sleeps.
#[derive(Debug)]
pub(crate) struct Bell {
    door: Arc<Doorbell>,
    inside: Doorbell,
}

impl Bell {
    /// That no peer rings.
    #[cfg(test)]
    pub fn private() -> Self {
        Bell { door: Arc::new(Doorbell::private()), inside: Doorbell::private() }
    }

    /// With the process's doorbell; without one, no peer will ring.
    pub fn of_process() -> Self {
        let door = own_doorbell().unwrap_or_else(|error| {
            log::info!("{error}");
            Arc::new(Doorbell::private())
        });
        Bell { door, inside: Doorbell::private() }
    }

    /// Wakes every sleeping thread of this process.
    pub fn ring(&self) {
        self.door.ring();
        self.inside.ring_after_fence();
    }

    /// Announces a thread that drives.
    pub fn at_the_door(&self) -> Sleeper<'_> {
        self.door.announce()
    }

    /// Announces a thread that does not drive.
    pub fn inside(&self) -> Sleeper<'_> {
        self.inside.announce()
    }
}
