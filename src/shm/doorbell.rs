//! How a process that has nothing to do is woken by its peers.
//!
//! Each process has one doorbell, on a page of its own that its peers map. A sleeper announces itself, looks for work
//! once more, and sleeps. Whoever gives it work writes that first, then rings: it costs a look at the announcement if
//! nobody sleeps.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
#[cfg(not(loom))]
use rustix::thread::futex;

use super::atomic::{AtomicU32, Ordering, fence};
#[cfg(loom)]
use super::model::futex;
use super::segment::Segment;
use crate::error::Result;

/// Bytes of the page.
const LEN: usize = 4096;
/// Where the futex is.
const RINGS: usize = 0;
/// Where the number of sleepers is. Peers look at it at every ring, so that nothing else is on its cache line.
const SLEEPERS: usize = 128;

/// See the module.
pub struct Doorbell {
    memory: Memory,
}

enum Memory {
    /// Of this process alone.
    Private {
        rings: AtomicU32,
        sleepers: Box<AtomicU32>,
    },
    Shared(Segment),
}

impl Doorbell {
    /// A doorbell for the threads of this process.
    pub fn private() -> Self {
        Doorbell { memory: Memory::Private { rings: AtomicU32::new(0), sleepers: Box::new(AtomicU32::new(0)) } }
    }

    /// A doorbell for other processes, too, and the descriptor by which they get it.
    pub fn shared() -> Result<(Arc<Self>, OwnedFd)> {
        let (segment, descriptor) = Segment::create(LEN)?;
        Ok((Arc::new(Doorbell { memory: Memory::Shared(segment) }), descriptor))
    }

    /// Another process's doorbell.
    pub fn map(descriptor: BorrowedFd<'_>) -> Result<Arc<Self>> {
        Ok(Arc::new(Doorbell { memory: Memory::Shared(Segment::map(descriptor, LEN)?) }))
    }

    fn rings(&self) -> &AtomicU32 {
        match &self.memory {
            Memory::Private { rings, .. } => rings,
            Memory::Shared(segment) => segment.half_word(RINGS),
        }
    }

    fn sleepers(&self) -> &AtomicU32 {
        match &self.memory {
            Memory::Private { sleepers, .. } => sleepers,
            Memory::Shared(segment) => segment.half_word(SLEEPERS),
        }
    }

    /// Wakes whoever sleeps, after work for it has been written.
    pub fn ring(&self) {
        // Pairs with the fence in `announce`: this thread sees the sleeper, or the sleeper sees the work.
        fence(Ordering::SeqCst);
        self.ring_after_fence();
    }

    /// As [`Doorbell::ring`], after a sequentially consistent fence of the caller's that follows the work. For ringing
    /// many with one fence.
    pub fn ring_after_fence(&self) {
        // Relaxed: see `ring`.
        if self.sleepers().load(Ordering::Relaxed) > 0 {
            // Release pairs with the acquire in `announce`: whoever sees this ring sees the work.
            self.rings().fetch_add(1, Ordering::Release);
            // The address is valid, so that it cannot fail.
            let _ = futex::wake(self.rings(), self.flags(), u32::MAX >> 1);
        }
    }

    /// Counts the caller as a sleeper. It must look for work between this and [`Sleeper::sleep`].
    pub fn announce(&self) -> Sleeper<'_> {
        self.sleepers().fetch_add(1, Ordering::Relaxed);
        // See `ring`.
        fence(Ordering::SeqCst);
        // Acquire: see `ring_after_fence`.
        Sleeper { bell: self, seen: self.rings().load(Ordering::Acquire) }
    }

    fn flags(&self) -> futex::Flags {
        match self.memory {
            Memory::Private { .. } => futex::Flags::PRIVATE,
            Memory::Shared(_) => futex::Flags::empty(),
        }
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").finish_non_exhaustive()
    }
}

/// A thread that is about to sleep.
#[must_use]
pub struct Sleeper<'a> {
    bell: &'a Doorbell,
    seen: u32,
}

impl Sleeper<'_> {
    /// Sleeps until the bell has rung since [`Doorbell::announce`], or for at most `limit`. May end early.
    pub fn sleep(self, limit: Option<Duration>) {
        let limit = limit.map(|limit| futex::Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        match futex::wait(self.bell.rings(), self.bell.flags(), self.seen, limit.as_ref()) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => {}
            Err(error) => log::error!("a defect of torch-rmpi: futex: {error}"),
        }
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        // A model that has failed is left as it is, so that it can tell why.
        #[cfg(loom)]
        if std::thread::panicking() {
            return;
        }
        // Relaxed: one ring too many does no harm.
        self.bell.sleepers().fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::os::fd::AsFd;
    use std::thread;

    use super::*;

    #[test]
    fn a_ring_between_look_and_sleep_is_not_lost() {
        let bell = Doorbell::private();
        let sleeper = bell.announce();
        bell.ring();
        sleeper.sleep(None);
    }

    #[test]
    fn a_ring_wakes_every_sleeper() {
        let (bell, descriptor) = Doorbell::shared().unwrap();
        for _ in 0..200 {
            let (announced, all) = std::sync::mpsc::channel();
            let sleepers: Vec<_> = (0..3)
                .map(|_| {
                    let bell = Doorbell::map(descriptor.as_fd()).unwrap();
                    let announced = announced.clone();
                    thread::spawn(move || {
                        let sleeper = bell.announce();
                        announced.send(()).unwrap();
                        sleeper.sleep(None);
                    })
                })
                .collect();
            (0..3).for_each(|_| all.recv().unwrap());
            bell.ring();
            for sleeper in sleepers {
                sleeper.join().unwrap();
            }
        }
    }

    #[test]
    fn sleep_ends_without_a_ring() {
        let bell = Doorbell::private();
        bell.announce().sleep(Some(Duration::from_millis(1)));
    }
}
