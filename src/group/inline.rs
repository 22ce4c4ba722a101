//! Short collectives on the caller's own thread: nothing is handed over, and no other thread is woken.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use super::{Invocation, Node};
use crate::collective::node::{self, Begun};
use crate::engine::{self, panic_text};
use crate::error::{Error, Result};
use crate::memory::View;

/// Up to this many bytes of inputs and outputs a collective is short.
const SHORT: usize = 32 << 10;
/// How often the caller looks for its peers before the engine takes over: some ten microseconds.
const LOOKS: u32 = 1000;
/// The same where spinning keeps a peer from running: each time the caller lets another thread run.
const YIELDS: u32 = 20;

/// Whether it is worth it: a long one is not faster this way, and would keep other threads of the group waiting.
pub(super) fn is_short(invocation: &Invocation<'_>) -> bool {
    invocation.inputs.iter().chain(invocation.outputs).map(View::len).sum::<usize>() <= SHORT
}

/// What came of it.
pub(super) enum Attempt {
    Ended(Result<()>),
    /// Peers are late, or there is more to do.
    Begun(Begun),
}

/// Begins, and looks for the peers for a moment. No collective of the group may be under way.
pub(super) fn attempt(node: &Node, invocation: &Invocation<'_>) -> Attempt {
    // As for schedules that the engine polls: a panic is a defect, and the group cannot go on.
    catch_unwind(AssertUnwindSafe(|| look(node, invocation)))
        .unwrap_or_else(|panic| Attempt::Ended(Err(Error::Internal(panic_text(&*panic)))))
}

fn look(node: &Node, invocation: &Invocation<'_>) -> Attempt {
    let mut begun = node::begin(node, invocation);
    let crowded = engine::is_crowded();
    for _ in 0..if crowded { YIELDS } else { LOOKS } {
        if begun.is_ready(node) {
            return match begun.go_on(node, invocation) {
                Ok(true) => Attempt::Ended(Ok(())),
                Ok(false) => Attempt::Begun(begun),
                Err(error) => Attempt::Ended(Err(error)),
            };
        }
        if crowded {
            thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
    Attempt::Begun(begun)
}
