//! Copying straight from another process's memory (process_vm_readv(2)): one copy instead of two. It is a system call
//! that walks page tables, and that administrators like to forbid, so ranks find out at the start whether all of them can,
//! and whether it is faster.

use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;
use rustix::io::Errno;

use super::node::{Node, Round};
use crate::memory::{Scratch, View};
use crate::tuning::SingleCopy;

/// Bytes that are copied to find out what is faster.
const SAMPLE: usize = 1 << 20;
/// How often; the fastest counts.
const TRIES: usize = 3;

type Token = [u8; 16];

/// Copies `output.len()` bytes from `address` in the memory of process `pid`.
pub(super) fn read(pid: u32, address: u64, output: &View) -> Result<(), Errno> {
    let mut done = 0;
    while done < output.len() {
        let rest = output.slice(done..output.len());
        let local = libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() };
        let remote = libc::iovec { iov_base: (address as usize + done) as *mut libc::c_void, iov_len: rest.len() };
        // SAFETY: `rest` may be written, by the promise to `View::new`; the other address is the kernel's to check.
        let count = unsafe { libc::process_vm_readv(pid as libc::pid_t, &local, 1, &remote, 1, 0) };
        match usize::try_from(count) {
            Ok(0) => return Err(Errno::FAULT),
            Ok(count) => done += count,
            Err(_) => match Errno::from_io_error(&std::io::Error::last_os_error()) {
                Some(Errno::INTR) => {}
                error => return Err(error.unwrap_or(Errno::IO)),
            },
        }
    }
    Ok(())
}

/// Memory that a rank's peers read to find out whether they can. Lives until they have.
#[derive(Debug)]
pub struct Sample {
    memory: Scratch,
    location: Location,
}

/// Where a [`Sample`] is, and how it begins. Travels as [`Location::LEN`] bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// 0: this rank cannot be read.
    address: u64,
    token: Token,
}

impl Location {
    /// Bytes of a location.
    pub const LEN: usize = 24;

    /// The location as bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.address.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.token);
        bytes
    }

    /// The location that [`Location::to_bytes`] has made.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Location {
        let mut location = Location::default();
        let mut address = [0; 8];
        address.copy_from_slice(&bytes[..8]);
        location.address = u64::from_ne_bytes(address);
        location.token.copy_from_slice(&bytes[8..]);
        location
    }
}

impl Location {
    /// Whether it is found in the memory of this process. Another one may have its id where ids have namespaces.
    fn can_be_read(&self, pid: u32) -> Result<bool, Errno> {
        if self.address == 0 {
            return Err(Errno::PERM);
        }
        let mut found = Token::default();
        // SAFETY: the array lives as long as the view, and nothing else touches it meanwhile.
        let view = unsafe { View::new(found.as_mut_ptr(), found.len()) };
        read(pid, self.address, &view)?;
        Ok(view.to_vec() == self.token)
    }
}

impl Sample {
    /// A sample that nobody else has.
    pub fn new() -> Sample {
        let mut memory = Scratch::new(SAMPLE);
        // Every page its own: untouched ones would all be the same.
        memory.view().fill(1);
        let mut location = Location::default();
        let random = rustix::rand::getrandom(&mut location.token, rustix::rand::GetRandomFlags::empty());
        if random.is_ok() {
            let view = memory.view();
            view.slice(0..location.token.len()).write(&location.token);
            location.address = view.as_ptr() as u64;
        }
        Sample { memory, location }
    }

    /// What the peers need to know.
    pub fn location(&self) -> Location {
        self.location
    }

    /// Whether this rank can, and as `when` says wants to, copy straight from the memory of each of its peers, whose samples
    /// are at `locations` (by rank of the node). Before the first round.
    pub fn try_out(&mut self, node: &Node, locations: &[Location], when: SingleCopy) -> bool {
        let can_read = |rank: usize| {
            locations[rank]
                .can_be_read(node.pid(rank))
                .inspect_err(|error| {
                    log::debug!("process_vm_readv from rank {} is not used: {error}", node.group_rank(rank));
                })
                .is_ok_and(|is_it| is_it)
        };
        match when {
            SingleCopy::Never => false,
            SingleCopy::Always => node.peers().all(can_read),
            SingleCopy::Auto => node.peers().all(can_read) && self.is_faster(node, locations),
        }
    }

    /// Whether reading a peer's sample takes less time than copying as much into the slot and out of it.
    fn is_faster(&mut self, node: &Node, locations: &[Location]) -> bool {
        /// As found for the first group; the machine stays the same.
        static FASTER: OnceCell<bool> = OnceCell::new();
        let Some(peer) = node.peers().next() else { return false };
        *FASTER.get_or_init(|| {
            let mut target = Scratch::new(SAMPLE);
            let (source, target) = (self.memory.view(), target.view());
            target.fill(0);
            let mut could = true;
            let once = fastest(|| could &= read(node.pid(peer), locations[peer].address, &target).is_ok());
            let chunk = node.capacity().min(SAMPLE);
            let slot = node.payload(Round::first(), node.rank(), chunk);
            let twice = fastest(|| {
                for start in (0..SAMPLE / chunk * chunk).step_by(chunk) {
                    slot.copy_from(&source.slice(start..start + chunk));
                    target.slice(start..start + chunk).copy_from(&slot);
                }
            });
            log::info!("1 MiB from a peer takes {once:?} with process_vm_readv, {twice:?} through shared memory");
            could && once < twice
        })
    }
}

impl Default for Sample {
    fn default() -> Self {
        Sample::new()
    }
}

fn fastest(mut run: impl FnMut()) -> Duration {
    let times = (0..TRIES).map(|_| {
        let begun = Instant::now();
        run();
        begun.elapsed()
    });
    times.min().unwrap_or(Duration::MAX)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there_and_says_so_if_it_cannot() {
        let source: Vec<u8> = (0..=255).collect();
        let mut copy = vec![0; 200];
        // SAFETY: the vector outlives the view.
        let output = unsafe { View::new(copy.as_mut_ptr(), copy.len()) };
        read(std::process::id(), source[10..].as_ptr() as u64, &output).unwrap();
        assert_eq!(copy, source[10..210]);
        assert_eq!(read(std::process::id(), 8, &output), Err(Errno::FAULT));
        assert_eq!(read(u32::MAX >> 1, source.as_ptr() as u64, &output), Err(Errno::SRCH));
    }

    #[test]
    fn a_sample_is_found_where_it_is_said_to_be_and_nowhere_else() {
        let samples = [Sample::new(), Sample::new()];
        let own = std::process::id();
        let location = samples[0].location();
        assert_eq!(Location::from_bytes(&location.to_bytes()), location);
        assert_eq!(location.can_be_read(own), Ok(true));
        let elsewhere = Location { address: samples[1].location().address, ..location };
        assert_eq!(elsewhere.can_be_read(own), Ok(false));
        assert_eq!(Location::default().can_be_read(own), Err(Errno::PERM));
    }
}
