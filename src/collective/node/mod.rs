//! Collectives of ranks that share memory, one per file, in the rounds of [`crate::shm`]. Each is two functions: what a
//! rank puts into its slot in a round, and what it reads from the others' when all have arrived. Everything else is here.
//!
//! Every rank waits for every other one, whatever the collective, so that ranks that call different things notice it.

pub(super) mod agreement;
mod all_gather;
mod all_reduce;
mod all_to_all;
mod blocks;
mod broadcast;
mod direct;
mod gather;
mod levels;
mod reduce;
mod reduce_scatter;
mod scatter;
pub(super) mod slots;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use super::{Call, Invocation};
use crate::error::{Error, Result};
use crate::memory::View;
use crate::reduce::DataType;
use crate::shm::{Announcement, Node, Round};
use levels::Levels;
use slots::Slots;

/// After so many bytes a schedule lets others go on.
pub(super) const TURN: usize = 4 << 20;

/// A collective that has begun its first round.
#[derive(Debug)]
pub struct Begun {
    round: Round,
    announcement: Announcement,
    /// How many rounds there are; known when the first one is over.
    rounds: Option<u64>,
    /// Whether the rest goes without them.
    is_direct: bool,
}

/// Begins: writes this rank's part of the first round. Never waits.
pub fn begin(node: &Node, invocation: &Invocation<'_>) -> Begun {
    let mut announcement = agreement::announcement(invocation);
    if direct::is_in_arena(node, invocation) {
        announcement = agreement::in_arena(announcement);
    }
    let round = node.begin_collective();
    publish(Slots { node, round }, invocation, 0);
    node.publish(round, announcement);
    Begun { round, announcement, rounds: None, is_direct: false }
}

impl Begun {
    /// Whether everybody has arrived, so that [`Begun::go_on`] can be called.
    pub fn is_ready(&self, node: &Node) -> bool {
        node.have_all_arrived(self.round)
    }

    /// Reads the first round. True if that was all.
    pub fn go_on(&mut self, node: &Node, invocation: &Invocation<'_>) -> Result<bool> {
        let slots = Slots { node, round: self.round };
        agreement::check(slots, invocation, self.announcement)?;
        let rounds = rounds(slots, invocation);
        consume(slots, invocation, 0)?;
        self.rounds = Some(rounds);
        self.is_direct = rounds > 1 && direct::applies(slots, invocation, rounds);
        Ok(rounds == 1)
    }
}

/// Who has not come to the round that this rank is in, and what they did last; `None` if everybody has.
pub fn absentees(node: &Node) -> Option<String> {
    agreement::absentees(node, node.current()?)
}

/// Who has not taken, or sent, a message that is waited for, and what they did last.
pub fn laggard(node: &Node, call: &Call) -> Option<String> {
    let last = |rank| agreement::last_call(node.rank_of(rank).and_then(|rank| node.last(rank)));
    match *call {
        Call::Send { to, .. } => Some(format!("rank {to} has not received it ({})", last(to))),
        Call::Receive { from: Some(from), .. } => Some(format!("rank {from} has not sent it ({})", last(from))),
        Call::Receive { from: None, .. } => Some("no rank has sent it".to_owned()),
        _ => None,
    }
}

/// A collective as a schedule, from where it is.
pub async fn run(
    node: Arc<Node>,
    call: Call,
    dtype: DataType,
    inputs: Vec<View>,
    outputs: Vec<View>,
    begun: Option<Begun>,
) -> Result<()> {
    let invocation = Invocation { call, dtype, inputs: &inputs, outputs: &outputs };
    let mut begun = begun.unwrap_or_else(|| begin(&node, &invocation));
    if begun.rounds.is_none() {
        arrival(&node, begun.round).await?;
        begun.go_on(&node, &invocation)?;
    }
    let rounds = begun.rounds.unwrap_or(1);
    if begun.is_direct && direct::run(&node, &invocation, begun.announcement).await? {
        return Ok(());
    }
    let mut moved = 0;
    for index in 1..rounds {
        let round = node.begin();
        let slots = Slots { node: &node, round };
        publish(slots, &invocation, index);
        node.publish(round, begun.announcement);
        arrival(&node, round).await?;
        consume(slots, &invocation, index)?;
        moved += node.capacity();
        if moved >= TURN {
            moved = 0;
            pause().await;
        }
    }
    Ok(())
}

/// Everybody's arrival at a round, or an error if one will not come.
pub(super) async fn arrival(node: &Node, round: Round) -> Result<()> {
    let mut is_new = true;
    poll_fn(|context| {
        if node.have_all_arrived(round) {
            return Poll::Ready(Ok(()));
        }
        if std::mem::take(&mut is_new) {
            // This rank has come that far: whoever drives is patient again.
            context.waker().wake_by_ref();
        }
        match node.check_missing(round) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    })
    .await
}

/// Lets the other schedules take a step.
pub(crate) async fn pause() {
    let mut paused = false;
    poll_fn(|context| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        // Nothing will ring: the driver must not sleep.
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn nothing() -> View {
    View::empty()
}

/// The only input, or output; no bytes if there is none.
fn only(views: &[View]) -> View {
    views.first().copied().unwrap_or(nothing())
}

/// How many rounds it takes. Called when everybody has arrived at the first one, whose slots still stand.
fn rounds(slots: Slots<'_>, invocation: &Invocation<'_>) -> u64 {
    if let Some(levels) = Levels::of(slots, invocation) {
        return levels.rounds();
    }
    let Invocation { call, inputs, outputs, .. } = invocation;
    match call {
        Call::Broadcast { .. } => broadcast::rounds(slots, &only(outputs)),
        Call::AllReduce(_) => all_reduce::rounds(slots, &only(inputs)),
        Call::Reduce { .. } => reduce::rounds(slots, &only(inputs)),
        Call::AllGather | Call::Gather { .. } => all_gather::rounds(slots),
        Call::Scatter { root } => scatter::rounds(slots, *root),
        Call::ReduceScatter(_) => reduce_scatter::rounds(slots, inputs),
        Call::AllToAll => all_to_all::rounds(slots),
        Call::Barrier | Call::MonitoredBarrier { .. } | Call::Send { .. } | Call::Receive { .. } => 1,
    }
}

/// Writes this rank's part of round `index`.
fn publish(slots: Slots<'_>, invocation: &Invocation<'_>, index: u64) {
    if let Some(levels) = Levels::of(slots, invocation) {
        return levels.publish(index);
    }
    let Invocation { call, inputs, outputs, .. } = invocation;
    match call {
        Call::Broadcast { root } => broadcast::publish(slots, index, &only(outputs), *root),
        Call::AllReduce(reduction) => {
            all_reduce::publish(slots, index, &only(inputs), Some(&only(outputs)), reduction);
        }
        Call::Reduce { root, reduction } => {
            reduce::publish(slots, index, &only(inputs), &only(outputs), *root, reduction);
        }
        Call::AllGather => all_gather::publish(slots, index, &only(inputs)),
        Call::Gather { root } => gather::publish(slots, index, &only(inputs), outputs, *root),
        Call::Scatter { root } => scatter::publish(slots, index, inputs, *root),
        Call::ReduceScatter(_) => reduce_scatter::publish(slots, index, inputs),
        Call::AllToAll => all_to_all::publish(slots, index, inputs, outputs),
        Call::Barrier | Call::MonitoredBarrier { .. } | Call::Send { .. } | Call::Receive { .. } => {}
    }
}

/// Reads everybody's part of round `index`.
fn consume(slots: Slots<'_>, invocation: &Invocation<'_>, index: u64) -> Result<()> {
    let Invocation { call, inputs, outputs, .. } = invocation;
    if let Some(levels) = Levels::of(slots, invocation) {
        return levels.consume(index, &only(outputs));
    }
    match call {
        Call::Broadcast { root } => broadcast::consume(slots, index, &only(outputs), *root),
        Call::AllReduce(reduction) => {
            return all_reduce::consume(slots, index, &only(inputs), &only(outputs), reduction);
        }
        Call::Reduce { root, reduction } => {
            return reduce::consume(slots, index, &only(inputs), &only(outputs), *root, reduction);
        }
        Call::AllGather => all_gather::consume(slots, index, &only(inputs), outputs),
        Call::Gather { root } => gather::consume(slots, index, &only(inputs), outputs, *root),
        Call::Scatter { root } => scatter::consume(slots, index, inputs, &only(outputs), *root),
        Call::ReduceScatter(reduction) => {
            return reduce_scatter::consume(slots, index, inputs, &only(outputs), reduction);
        }
        Call::AllToAll => all_to_all::consume(slots, index, inputs, outputs),
        Call::Barrier => {}
        Call::MonitoredBarrier { .. } | Call::Send { .. } | Call::Receive { .. } => {
            return Err(Error::Internal(format!("{} does not run in rounds", call.name())));
        }
    }
    Ok(())
}
