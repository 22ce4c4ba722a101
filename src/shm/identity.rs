//! Which processes can share memory, and whether one of them still lives.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;

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
