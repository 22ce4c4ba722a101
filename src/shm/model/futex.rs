//! The futex, for loom: compares the word and puts the caller to sleep in one step, wakes all or nobody too few, and never
//! gives up. What the kernel's locks order besides is not promised here, but for a sleeper and whoever wakes it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread::{self, Thread};
use rustix::io::{Errno, Result};
pub use rustix::thread::futex::{Flags, Timespec};

struct Sleeping {
    address: *const AtomicU32,
    thread: Thread,
    woken: Rc<Cell<bool>>,
}

thread_local! {
    /// All threads of a model are one thread of the system.
    static SLEEPING: RefCell<Vec<Sleeping>> = const { RefCell::new(Vec::new()) };
}

/// Sleeps until [`wake`], if the word is `expected`. Time does not pass in a model: nothing may depend on the limit.
pub fn wait(word: &AtomicU32, _: Flags, expected: u32, _: Option<&Timespec>) -> Result<()> {
    // Loom changes threads at its atomics only, so that from here to `park` it is one step. Read-modify-write, as a load
    // may give a value that has been overwritten. Relaxed: it is not the futex that orders the caller's memory.
    if word.fetch_add(0, Ordering::Relaxed) != expected {
        return Err(Errno::AGAIN);
    }
    let woken = Rc::new(Cell::new(false));
    let sleeping = Sleeping { address: word, thread: thread::current(), woken: woken.clone() };
    SLEEPING.with_borrow_mut(|all| all.push(sleeping));
    while !woken.get() {
        thread::park();
    }
    Ok(())
}

/// Wakes up to `count` threads that sleep on the word, those first that came first.
pub fn wake(word: &AtomicU32, _: Flags, count: u32) -> Result<usize> {
    let address: *const AtomicU32 = word;
    let mut woken = Vec::new();
    SLEEPING.with_borrow_mut(|all| {
        while let Some(index) = all.iter().position(|sleeping| sleeping.address == address)
            && woken.len() < count as usize
        {
            woken.push(all.remove(index));
        }
    });
    for sleeping in &woken {
        sleeping.woken.set(true);
        sleeping.thread.unpark();
    }
    Ok(woken.len())
}
