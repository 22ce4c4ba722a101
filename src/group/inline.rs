//! Short collectives on the caller's own thread: nothing is handed over, and no other thread is woken.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use super::{Invocation, Node};
use crate::collective::node::{self, Begun};
use crate::engine::panic_text;
use crate::error::{Error, Result};
use crate::memory::View;

/// How often the caller looks for its peers before the engine takes over, where spinning keeps a peer from running: each
/// time the caller lets another thread run.
const YIELDS: u32 = 20;

/// Whether it has no more than `most` bytes of inputs and outputs. A long one is not faster this way, and would keep other
/// threads of the group waiting.
pub(super) fn is_short(invocation: &Invocation<'_>, most: usize) -> bool {
    invocation.inputs.iter().chain(invocation.outputs).map(View::len).sum::<usize>() <= most
}

/// What came of it.
pub(super) enum Attempt {
    Ended(Result<()>),
    /// Peers are late, or there is more to do.
    Begun(Begun),
}

/// Begins, and looks for the peers `spins` times, or for a moment in which others run if that is 0. No collective of the
/// group may be under way.
pub(super) fn attempt(node: &Node, invocation: &Invocation<'_>, spins: u32) -> Attempt {
    // As for schedules that the engine polls: a panic is a defect, and the group cannot go on.
    catch_unwind(AssertUnwindSafe(|| look(node, invocation, spins)))
        .unwrap_or_else(|panic| Attempt::Ended(Err(Error::Internal(panic_text(&*panic)))))
}

fn look(node: &Node, invocation: &Invocation<'_>, spins: u32) -> Attempt {
    let mut begun = node::begin(node, invocation);
    for _ in 0..if spins == 0 { YIELDS } else { spins } {
        if begun.is_ready(node) {
            return match begun.go_on(node, invocation) {
                Ok(true) => Attempt::Ended(Ok(())),
                Ok(false) => Attempt::Begun(begun),
                Err(error) => Attempt::Ended(Err(error)),
            };
        }
        if spins == 0 {
            thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
    Attempt::Begun(begun)
}
