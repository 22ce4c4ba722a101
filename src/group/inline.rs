//! Short operations on the caller's own thread: nothing is handed over, and no other thread is woken.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::{Call, Invocation, Node, Shared};
use crate::collective::node::{self, Begun};
use crate::engine::{self, Outcome, panic_text};
use crate::error::{Error, Result};
use crate::memory::View;
use crate::transport::{Channel, SharedTransport};

/// Up to this many bytes of inputs and outputs an operation is short.
const SHORT: usize = 32 << 10;
/// How often the caller looks for its peers before the engine takes over: some ten microseconds.
const LOOKS: u32 = 1000;
/// The same where spinning keeps a peer from running: each time the caller lets another thread run.
const YIELDS: u32 = 20;
/// How often it looks for a message where such looks have been in vain.
const FEW_LOOKS: u32 = 8;
/// Of so many receives, one looks as often as if none had been in vain.
const ONE_IN: u32 = 32;

/// Whether it is worth it: a long one is not faster this way, and would keep other threads of the group waiting.
pub(super) fn is_short(invocation: &Invocation<'_>) -> bool {
    invocation.inputs.iter().chain(invocation.outputs).map(View::len).sum::<usize>() <= SHORT
}

/// What came of it.
pub(super) enum Attempt {
    Ended(Result<Outcome>),
    /// Peers are late, or there is more to do. A message has not begun.
    Open(Option<Begun>),
}

/// Begins, and looks for the peers for a moment. Nothing of the group may be under way.
pub(super) fn attempt(shared: &Shared, patience: &Patience, invocation: &Invocation<'_>) -> Attempt {
    // As for schedules that the engine polls: a panic is a defect, and the group cannot go on.
    catch_unwind(AssertUnwindSafe(|| match invocation.call {
        Call::Send { .. } | Call::Receive { .. } => message(&shared.transport, patience, invocation),
        _ => collective(&shared.node, invocation),
    }))
    .unwrap_or_else(|panic| Attempt::Ended(Err(Error::Internal(panic_text(&*panic)))))
}

fn collective(node: &Node, invocation: &Invocation<'_>) -> Attempt {
    let mut begun = node::begin(node, invocation);
    if !look(LOOKS, || begun.is_ready(node)) {
        return Attempt::Open(Some(begun));
    }
    match begun.go_on(node, invocation) {
        Ok(true) => Attempt::Ended(Ok(Outcome::default())),
        Ok(false) => Attempt::Open(Some(begun)),
        Err(error) => Attempt::Ended(Err(error)),
    }
}

fn message(transport: &SharedTransport, patience: &Patience, invocation: &Invocation<'_>) -> Attempt {
    let only = |views: &[View]| views.first().copied().unwrap_or(View::empty());
    let channel = Channel::PointToPoint;
    let outcome = match invocation.call {
        Call::Send { to, tag } => transport.send_now(channel, to, tag, &only(invocation.inputs)).then(Outcome::default),
        Call::Receive { from, tag } => {
            let buffer = only(invocation.outputs);
            let mut arrival = None;
            let has_come = look(patience.looks(), || {
                arrival = transport.receive_now(channel, from, tag, &buffer);
                arrival.is_some()
            });
            patience.learn(has_come);
            arrival.map(|arrival| Outcome { source: Some(arrival.peer) })
        }
        _ => None,
    };
    outcome.map_or(Attempt::Open(None), |outcome| Attempt::Ended(Ok(outcome)))
}

/// Whether something is so, now or in a moment.
fn look(looks: u32, mut is_so: impl FnMut() -> bool) -> bool {
    let crowded = engine::is_crowded();
    for _ in 0..if crowded { looks.min(YIELDS) } else { looks } {
        if is_so() {
            return true;
        }
        if crowded {
            thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
    false
}

/// How long a group looks for a message when its receive is issued. Whoever issues receives long before the messages come
/// is not to lose time by it.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Receives since the last one that was not in vain.
    in_vain: AtomicU32,
}

impl Patience {
    fn looks(&self) -> u32 {
        // Relaxed here and below: a guess.
        match self.in_vain.load(Ordering::Relaxed) {
            in_vain if in_vain < 2 || in_vain.is_multiple_of(ONE_IN) => LOOKS,
            _ => FEW_LOOKS,
        }
    }

    fn learn(&self, has_come: bool) {
        if has_come {
            self.in_vain.store(0, Ordering::Relaxed);
        } else {
            self.in_vain.fetch_add(1, Ordering::Relaxed);
        }
    }
}
