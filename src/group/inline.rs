//! Short operations on the caller's own thread: nothing is handed over, and no other thread is woken.

use std::hint;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::reach::Shared;
use super::{Call, Invocation};
use crate::collective::node::{self, Begun};
use crate::engine::{Outcome, panic_text, settle};
use crate::error::{Error, Result};
use crate::memory::View;
use crate::shm::Node;
use crate::transport::{Channel, PIECE, Receipt, SharedTransport};

/// How often the caller of a collective looks for its peers before the engine takes over, where spinning keeps a peer from
/// running: each time the caller lets another thread run.
const YIELDS: u32 = 20;
/// How often a receive is looked for where looks are seldom in vain: some ten microseconds.
const LOOKS: u32 = 300;
/// The same where they have been in vain.
const FEW_LOOKS: u32 = 8;
/// Of so many receives, one is looked for as if no look had been in vain.
const ONE_IN: u32 = 32;

/// Whether it has no more than `most` bytes of inputs and outputs. A long one is not faster this way, and would keep other
/// threads of the group waiting; of a message of more than a piece, the receiver reads one while the sender writes the next.
pub(super) fn is_short(invocation: &Invocation<'_>, most: usize) -> bool {
    let most = match invocation.call {
        Call::Send { .. } | Call::Receive { .. } => most.min(PIECE),
        _ => most,
    };
    invocation.inputs.iter().chain(invocation.outputs).map(View::len).sum::<usize>() <= most
}

/// What came of it.
pub(super) enum Attempt {
    Ended(Result<Outcome>),
    /// Peers are late, or there is more to do. A message has not begun.
    Open(Option<Begun>),
}

/// Begins a collective, and looks for the peers `spins` times, or for a moment in which others run if that is 0. Nothing
/// of the group may be under way.
pub(super) fn collective(shared: &Shared, invocation: &Invocation<'_>, spins: u32) -> Attempt {
    guard(|| {
        let node: &Node = &shared.node;
        let mut begun = node::begin(node, invocation);
        for _ in 0..if spins == 0 { YIELDS } else { spins } {
            if begun.is_ready(node) {
                return match begun.go_on(node, invocation) {
                    Ok(true) => Attempt::Ended(Ok(Outcome::default())),
                    Ok(false) => Attempt::Open(Some(begun)),
                    Err(error) => Attempt::Ended(Err(error)),
                };
            }
            if spins == 0 {
                settle();
                thread::yield_now();
            } else {
                hint::spin_loop();
            }
        }
        Attempt::Open(Some(begun))
    })
}

/// Sends a message if it can leave, or looks for one, up to `spins` times if it may come any moment. No message of the
/// group may have been waiting.
pub(super) fn message(shared: &Shared, patience: &Patience, invocation: &Invocation<'_>, spins: u32) -> Attempt {
    guard(|| {
        let only = |views: &[View]| views.first().copied().unwrap_or(View::empty());
        let outcome = match invocation.call {
            Call::Send { to, tag } => shared
                .transport
                .send_now(Channel::PointToPoint, to, tag, &only(invocation.inputs))
                .then(Outcome::default),
            Call::Receive { from, tag } => {
                receive(&shared.transport, from, tag, &only(invocation.outputs), patience, spins)
            }
            _ => None,
        };
        outcome.map_or(Attempt::Open(None), |outcome| Attempt::Ended(Ok(outcome)))
    })
}

fn receive(
    transport: &SharedTransport,
    from: Option<usize>,
    tag: i32,
    buffer: &View,
    patience: &Patience,
    spins: u32,
) -> Option<Outcome> {
    let looks = spins.min(patience.looks());
    for look in 0..looks.max(1) {
        if look > 0 {
            hint::spin_loop();
        }
        match transport.receive_now(Channel::PointToPoint, from, tag, buffer) {
            Receipt::Taken(arrival) => {
                patience.learn(true);
                return Some(Outcome { source: Some(arrival.peer) });
            }
            Receipt::NotYet => {}
            Receipt::NotNext => return None,
        }
    }
    if looks > 0 {
        patience.learn(false);
    }
    None
}

/// As for schedules that the engine polls: a panic is a defect, and the group cannot go on.
fn guard(attempt: impl FnOnce() -> Attempt) -> Attempt {
    catch_unwind(AssertUnwindSafe(attempt))
        .unwrap_or_else(|panic| Attempt::Ended(Err(Error::Internal(panic_text(&*panic)))))
}

/// How long a group looks for a message when its receive is issued. Whoever issues receives long before the messages come
/// is to lose little time by it.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// How much more often, of late, looks were in vain than not.
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
        let in_vain = self.in_vain.load(Ordering::Relaxed);
        let learnt = if has_come { in_vain / 2 } else { in_vain.wrapping_add(1) };
        self.in_vain.store(learnt, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Scratch;
    use crate::reduce::{DataType, ReduceOp, Reduction};

    /// Nothing is moved: a view stands for as many bytes.
    fn short(call: Call, inputs: &[usize], outputs: &[usize], most: usize) -> bool {
        let mut memory = Scratch::new(128 << 10);
        let whole = memory.view();
        let views = |lens: &[usize]| lens.iter().map(|&len| whole.slice(0..len)).collect::<Vec<_>>();
        is_short(&Invocation::new(call, &views(inputs), &views(outputs)), most)
    }

    #[test]
    fn a_collective_is_short_by_its_setting_and_a_message_is_one_piece_at_most() {
        let sum = Call::AllReduce(Reduction::new(DataType::Float32, ReduceOp::Sum, 1.0).unwrap());
        assert!(short(sum, &[64 << 10], &[64 << 10], 128 << 10));
        assert!(!short(sum, &[64 << 10], &[(64 << 10) + 1], 128 << 10));
        for most in [PIECE, 128 << 10] {
            assert!(short(Call::Send { to: 1, tag: 0 }, &[PIECE], &[], most));
            assert!(!short(Call::Send { to: 1, tag: 0 }, &[PIECE + 1], &[], most));
            assert!(short(Call::Receive { from: None, tag: 0 }, &[], &[PIECE], most));
            assert!(!short(Call::Receive { from: None, tag: 0 }, &[], &[PIECE + 1], most));
        }
        assert!(!short(Call::Send { to: 1, tag: 0 }, &[2], &[], 1));
    }
}
