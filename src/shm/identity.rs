//! Which processes can share memory, and whether one of them still lives.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;

use rustix::thread::{CpuSet, sched_getaffinity};

/// The variable that gives a node another name, so that one machine looks like several.
pub const NODE_VARIABLE: &str = "TORCH_RMPI_NODE";

/// The name of this process's node: equal for processes that can share memory. That takes one kernel, one user, and one
/// network namespace, since descriptors travel through a socket of it.
pub fn node() -> u64 {
    let mut hasher = DefaultHasher::new();
    boot_id().hash(&mut hasher);
    rustix::process::geteuid().as_raw().hash(&mut hasher);
    rustix::system::uname().nodename().hash(&mut hasher);
    fs::metadata("/proc/self/ns/net").map(|data| (data.dev(), data.ino())).ok().hash(&mut hasher);
    std::env::var_os(NODE_VARIABLE).hash(&mut hasher);
    hasher.finish()
}

/// The name of this process's machine: equal for processes that share its cores.
pub fn host() -> u64 {
    let mut hasher = DefaultHasher::new();
    boot_id().hash(&mut hasher);
    hasher.finish()
}

/// The kernel's boot id; empty if there is none.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Cores that a process may run on. Travels as [`Cores::LEN`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// A bit for each.
    mask: [u64; Self::WORDS],
    /// How many of them it may use at a time, where the system limits that; otherwise `u64::MAX`.
    limit: u64,
}

impl Cores {
    const WORDS: usize = CpuSet::MAX_CPU / 64;
    /// Bytes of cores.
    pub const LEN: usize = 8 * (Self::WORDS + 1);

    /// Those of this process. A launcher may have bound it to one, so what matters is the cores of all ranks together.
    pub fn of_this_process() -> Cores {
        let usable = std::thread::available_parallelism().map_or(1, usize::from);
        let Ok(set) = sched_getaffinity(None) else {
            return Cores { mask: [0; Self::WORDS], limit: usable as u64 };
        };
        let mut mask = [0; Self::WORDS];
        for core in (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)) {
            mask[core / 64] |= 1 << (core % 64);
        }
        let limit = if usable < set.count() as usize { usable as u64 } else { u64::MAX };
        Cores { mask, limit }
    }

    /// Those of this process and of one that shares the machine, whose own limits do not concern this one.
    pub fn and(mut self, other: &Cores) -> Cores {
        self.mask.iter_mut().zip(other.mask).for_each(|(word, other)| *word |= other);
        self
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        let count: u32 = self.mask.iter().map(|word| word.count_ones()).sum();
        match count {
            0 => self.limit as usize,
            _ => (count as usize).min(usize::try_from(self.limit).unwrap_or(usize::MAX)),
        }
    }

    /// Their numbers, in order; none where the system does not say, or limits how many may be used at a time.
    pub fn all(&self) -> Vec<usize> {
        if self.limit != u64::MAX {
            return Vec::new();
        }
        (0..CpuSet::MAX_CPU).filter(|&core| self.mask[core / 64] >> (core % 64) & 1 == 1).collect()
    }

    /// The cores as bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (word, bytes) in self.mask.iter().chain([&self.limit]).zip(bytes.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// The cores that [`Cores::to_bytes`] has made, on a machine of the same kind.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Cores {
        let mut cores = Cores { mask: [0; Self::WORDS], limit: 0 };
        for (word, bytes) in cores.mask.iter_mut().chain([&mut cores.limit]).zip(bytes.chunks_exact(8)) {
            let mut array = [0; 8];
            array.copy_from_slice(bytes);
            *word = u64::from_ne_bytes(array);
        }
        cores
    }
}

/// A process of this node, as its peers recognise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Process id, in the namespace `namespace`.
    pub pid: u32,
    /// When it started, in the kernel's clock ticks: another process with the same id started later. 0: unknown.
    pub started: u64,
    /// The namespace of process ids that it lives in. 0: unknown.
    pub namespace: u64,
}

impl Process {
    /// This process.
    pub fn current() -> Process {
        let pid = std::process::id();
        let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |data| data.ino());
        let started = match state(pid) {
            State::Present { started, .. } => started,
            State::Gone | State::Unknown => 0,
        };
        Process { pid, started, namespace }
    }

    /// Whether it has certainly ended, as far as this process, `own`, can tell.
    pub fn is_dead(&self, own: &Process) -> bool {
        if self.started == 0 || self.namespace == 0 || self.namespace != own.namespace {
            return false;
        }
        match state(self.pid) {
            State::Present { state, started } => started != self.started || matches!(state, b'Z' | b'X' | b'x'),
            State::Gone => true,
            State::Unknown => false,
        }
    }
}

/// What the kernel says about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Present {
        state: u8,
        started: u64,
    },
    Gone,
    /// It could not be asked.
    Unknown,
}

/// State and start time of a process (proc_pid_stat(5), fields 3 and 22).
fn state(pid: u32) -> State {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => parse(&text).unwrap_or(State::Unknown),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => State::Gone,
            _ => State::Unknown,
        },
    }
}

fn parse(text: &[u8]) -> Option<State> {
    // The name before it may contain anything.
    let name_end = text.iter().rposition(|&byte| byte == b')')?;
    let mut fields = std::str::from_utf8(&text[name_end + 1..]).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some(State::Present { state, started: fields.nth(18)?.parse().ok()? })
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn cores_of_processes_that_are_bound_to_different_ones_add_up() {
        let bound = |core: usize| {
            let mut mask = [0; Cores::WORDS];
            mask[core / 64] = 1 << (core % 64);
            Cores { mask, limit: u64::MAX }
        };
        assert_eq!((0..128).fold(bound(3), |cores, core| cores.and(&bound(core))).count(), 128);
        assert_eq!(bound(3).and(&bound(3)).count(), 1);
        let limited = Cores { limit: 2, ..bound(0) };
        assert_eq!(limited.and(&bound(1)).and(&bound(2)).count(), 2);
        assert_eq!(Cores { mask: [0; Cores::WORDS], limit: 4 }.count(), 4);
    }

    #[test]
    fn cores_of_this_process_survive_the_journey() {
        let own = Cores::of_this_process();
        assert_eq!(own.count(), std::thread::available_parallelism().unwrap().get());
        assert_eq!(Cores::from_bytes(&own.to_bytes()), own);
    }

    #[test]
    fn this_process_lives() {
        let own = Process::current();
        assert!(own.started > 0 && own.namespace > 0, "{own:?}");
        assert!(!own.is_dead(&own));
    }

    #[test]
    fn a_killed_process_is_dead_before_and_after_it_was_waited_for() {
        let own = Process::current();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let State::Present { started, .. } = state(child.id()) else { panic!("no state") };
        let process = Process { pid: child.id(), started, ..own };
        assert!(!process.is_dead(&own));
        child.kill().unwrap();
        while !process.is_dead(&own) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(process.is_dead(&own));
    }

    #[test]
    fn a_name_may_contain_anything() {
        let text = b"7 (a) \xff) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 23";
        assert_eq!(parse(text), Some(State::Present { state: b'R', started: 4711 }));
    }

    #[test]
    fn another_process_with_the_same_id_is_told_apart() {
        let own = Process::current();
        assert!(Process { started: own.started + 1, ..own }.is_dead(&own));
    }

    #[test]
    fn nothing_is_said_about_a_process_of_another_namespace() {
        let own = Process::current();
        assert!(!Process { pid: u32::MAX, started: 1, namespace: own.namespace + 1 }.is_dead(&own));
    }
}
