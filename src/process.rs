//! Telling a forked child from the process that made an object, without a system call. It takes a fork that runs its
//! handlers, as fork(3) and Python's do; a process made by clone(2) itself is not told.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use once_cell::sync::OnceCell;

/// How many forks lie between the first process that asked and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_fork() {
    // Relaxed: a child begins with one thread, and this is the first thing it does.
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Where the number of forks is, if they are counted.
fn forks() -> Option<&'static AtomicU32> {
    static COUNTED: OnceCell<bool> = OnceCell::new();
    let counted = COUNTED.get_or_init(|| {
        // SAFETY: the handler is a plain function that lives as long as the process, and touches one atomic.
        unsafe { libc::pthread_atfork(None, None, Some(count_fork)) == 0 }
    });
    counted.then_some(&FORKS)
}

/// A number that a child forked from now on does not have. Cheap enough for every operation.
pub(crate) fn generation() -> u32 {
    // Relaxed: see `count_fork`.
    forks().map_or_else(process::id, |forks| forks.load(Ordering::Relaxed))
}

/// Where [`generation`] can be read, for as long as the process lives; null if only by calling it.
#[cfg(feature = "bridge")]
pub(crate) fn generation_address() -> *const u32 {
    forks().map_or(std::ptr::null(), |forks| forks.as_ptr().cast_const())
}

/// The process that made an object. A forked child has a copy of the object, and must leave alone what is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u32);

impl Owner {
    /// This process.
    pub fn current() -> Self {
        Owner(generation())
    }

    /// Whether this is still that process.
    pub fn is_here(&self) -> bool {
        generation() == self.0
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_is_told_from_its_parent() {
        let owner = Owner::current();
        assert!(owner.is_here());
        // SAFETY: the child calls nothing that may take a lock.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(owner.is_here())) }
        }
        let mut status = -1;
        // SAFETY: a child of this process that nobody else waits for.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        assert!(owner.is_here());
    }
}
