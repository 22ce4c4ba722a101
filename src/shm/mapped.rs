//! Arenas of other processes, mapped here. See [`heap`](super::heap).

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, fstat, open};

use super::failed;
use super::heap::Spot;
use super::identity::Process;
use super::segment::Segment;
use crate::error::{Error, Result};
use crate::memory::View;

/// So many arenas stay mapped when nobody uses them. They take addresses; their memory goes when their owners give it back,
/// and with it that of owners that have died, which [`forget`] is for.
const MOST: usize = 256;

/// Memory of another process. The view of it is valid for as long as this lives.
#[derive(Clone, Debug)]
pub struct Mapped {
    arena: Arc<Segment>,
    offset: usize,
    len: usize,
}

#[derive(Debug)]
struct Known {
    process: Process,
    device: u64,
    inode: u64,
    arena: Arc<Segment>,
}

/// Those used last come last.
static KNOWN: Mutex<VecDeque<Known>> = Mutex::new(VecDeque::new());

/// Unmaps what nobody uses of a process that has died.
pub(super) fn forget(process: Process) {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| known.process != process);
}

impl Mapped {
    /// `len` bytes at a spot of `process`. An error if the system does not allow it.
    pub fn new(process: Process, spot: &Spot, len: usize) -> Result<Mapped> {
        if !spot.is_in_arena() {
            return Err(Error::Unavailable("it is ordinary memory of another process".to_owned()));
        }
        let offset = spot.offset();
        if len > spot.arena_len() || offset > spot.arena_len() - len {
            return Err(Error::Internal(format!("{len} bytes at {offset} of an arena of {}", spot.arena_len())));
        }
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |known: &Known| (known.process, known.device, known.inode) == (process, spot.device, spot.inode);
        let found = known.iter().position(is_it).and_then(|index| known.remove(index));
        let found = match found {
            Some(found) => found,
            None => {
                Known { process, device: spot.device, inode: spot.inode, arena: Arc::new(open_arena(process, spot)?) }
            }
        };
        let arena = found.arena.clone();
        known.push_back(found);
        if known.len() > MOST {
            known.pop_front();
        }
        Ok(Mapped { arena, offset, len })
    }

    /// The memory.
    pub fn view(&self) -> View {
        self.arena.view(self.offset..self.offset + self.len)
    }
}

fn open_arena(process: Process, spot: &Spot) -> Result<Segment> {
    // 0: unknown.
    if process.namespace != 0 && process.namespace != Process::current().namespace {
        return Err(Error::Unavailable("its process is in another namespace of process ids".to_owned()));
    }
    let path = format!("/proc/{}/fd/{}", process.pid, spot.descriptor());
    let descriptor = open(path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK, Mode::empty())
        .map_err(failed("opening an arena"))?;
    let status = fstat(&descriptor).map_err(failed("fstat"))?;
    // Ids of processes have namespaces, and descriptors are used again.
    if (status.st_dev, status.st_ino) != (spot.device, spot.inode) {
        return Err(Error::Unavailable("another process has this id here, or the memory was given back".to_owned()));
    }
    Segment::map(descriptor.as_fd(), spot.arena_len())
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::super::heap::{allocate, release};
    use super::*;

    #[test]
    fn what_is_written_there_is_read_here() {
        let block = allocate(1000).unwrap();
        // SAFETY: the block is that long, and lives until it is released.
        let own = unsafe { View::new(block.as_ptr(), 1000) };
        let mapped = Mapped::new(Process::current(), &Spot::of(&own.slice(10..1000)), 990).unwrap();
        own.fill(7);
        assert_eq!(mapped.view().to_vec(), [7; 990]);
        assert_ne!(mapped.view().as_ptr(), own.slice(10..1000).as_ptr());
        mapped.view().fill(8);
        assert_eq!(own.to_vec()[9..12], [7, 8, 8]);
        release(block);
        assert_eq!(mapped.view().len(), 990, "still there, though its owner has given it back");
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let own = Process::current();
        assert!(Mapped::new(own, &Spot::default(), 1).is_err(), "ordinary memory");
        let block = allocate(64).unwrap();
        // SAFETY: as above.
        let spot = Spot::of(&unsafe { View::new(block.as_ptr(), 64) });
        assert!(Mapped::new(own, &spot, spot.arena_len() + 1).is_err(), "beyond the end");
        let elsewhere = Process { started: own.started + 1, ..own };
        let mut other_file = spot;
        other_file.inode += 1;
        assert!(Mapped::new(elsewhere, &other_file, 64).is_err(), "another file");
        let elsewhere = Process { namespace: own.namespace + 1, ..own };
        assert!(Mapped::new(elsewhere, &spot, 64).is_err(), "another namespace");
        release(block);
    }
}
