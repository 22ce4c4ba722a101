//! The rest of a long collective with each rank reading straight from its peers' memory: where that lies in arenas, which
//! can be mapped, or, if nothing is reduced, where the system lets them copy from it. A round in which everybody says where
//! its blocks are; then everybody reads; then a round in which everybody says whether it could, which also gives the memory
//! back to its owner.

use std::sync::Arc;

use smallvec::SmallVec;

use super::levels::Levels;
use super::slots::{PerRank, Slots};
use super::{agreement, arrival, pause};
use crate::collective::{Call, Invocation};
use crate::error::{Error, Result};
use crate::memory::View;
use crate::shm::heap::Spot;
use crate::shm::{Announcement, Node, Remote};

/// From this many rounds on it is worth two more.
const LONG: u64 = 4;
/// After so many bytes others have their turn: the pages read may have to be fetched first.
const PIECE: usize = 1 << 20;

/// Whether data is only moved.
fn moves(call: &Call) -> bool {
    match call {
        Call::Broadcast { .. } | Call::AllGather | Call::Gather { .. } | Call::Scatter { .. } | Call::AllToAll => true,
        Call::AllReduce(_)
        | Call::Reduce { .. }
        | Call::ReduceScatter(_)
        | Call::Barrier
        | Call::MonitoredBarrier { .. }
        | Call::Send { .. }
        | Call::Receive { .. } => false,
    }
}

/// Whether `rank` has blocks that others read.
fn sends(call: &Call, rank: usize) -> bool {
    match *call {
        Call::Broadcast { root } | Call::Scatter { root } => rank == root,
        Call::Gather { root } => rank != root,
        _ => true,
    }
}

/// This rank's block for `receiver`.
fn block(invocation: &Invocation<'_>, receiver: usize) -> View {
    let Invocation { call, inputs, outputs, .. } = invocation;
    let block = match call {
        Call::Broadcast { .. } => outputs.first(),
        Call::AllGather | Call::Gather { .. } => inputs.first(),
        _ => inputs.get(receiver),
    };
    block.copied().unwrap_or(View::empty())
}

/// Whether everything that peers read from this rank lies in arenas, as far as it may matter: not where it is short.
pub(super) fn is_in_arena(node: &Node, invocation: &Invocation<'_>) -> bool {
    let call = &invocation.call;
    let mut blocks = (0..node.size()).map(|receiver| block(invocation, receiver)).filter(|block| !block.is_empty());
    let len = invocation.inputs.iter().chain(invocation.outputs).map(View::len).sum::<usize>();
    len as u64 >= LONG * node.capacity() as u64
        && (moves(call) || matches!(call, Call::ReduceScatter(_)))
        && sends(call, node.rank())
        && node.maps()
        && blocks.all(|block| Spot::of(&block).is_in_arena())
}

/// Whether to read directly, after the first of `rounds` rounds, whose slots still stand. All ranks decide alike.
pub(super) fn applies(slots: Slots<'_>, invocation: &Invocation<'_>, rounds: u64) -> bool {
    let call = &invocation.call;
    let can_map = || {
        let mut senders = (0..slots.size()).filter(|&rank| sends(call, rank));
        slots.node.maps() && senders.all(|rank| agreement::is_in_arena(slots.announcement(rank)))
    };
    rounds >= LONG
        && match call {
            // In two levels elements are reduced in another order.
            Call::ReduceScatter(_) => Levels::of(slots, invocation).is_none() && can_map(),
            call => moves(call) && (slots.node.copies_once() || can_map()),
        }
}

/// Does everything that the first round has not. False if a rank could not: then nobody knows what has arrived, and the
/// rounds go on.
pub(super) async fn run(node: &Arc<Node>, invocation: &Invocation<'_>, announcement: Announcement) -> Result<bool> {
    let round = node.begin();
    let slots = Slots { node, round };
    publish(slots, invocation);
    node.publish(round, announcement);
    arrival(node, round).await?;

    let sources = sources(slots, invocation);
    if !moves(&invocation.call) {
        // A result may take the place of an input, so nobody begins unless all can.
        let Some(sources) = agree(node, announcement, sources.is_some()).await?.then_some(sources).flatten() else {
            return Ok(false);
        };
        reduce(node, invocation, &sources).await?;
        check_senders(node, invocation)?;
        return agree(node, announcement, true).await;
    }
    let could = match &sources {
        Some(sources) => copy(node, invocation, sources).await,
        None => false,
    };
    check_senders(node, invocation)?;
    agree(node, announcement, could).await
}

/// A sender that has failed has its memory back, and may have changed it before it was read.
fn check_senders(node: &Node, invocation: &Invocation<'_>) -> Result<()> {
    node.peers().filter(|&rank| sends(&invocation.call, rank)).try_for_each(|rank| node.check_after_reading(rank))
}

/// A round in which everybody says whether it could. Whether all could; otherwise nobody tries again.
async fn agree(node: &Arc<Node>, announcement: Announcement, could: bool) -> Result<bool> {
    let round = node.begin();
    node.publish(round, Announcement { detail: could.into(), ..announcement });
    arrival(node, round).await?;
    let slots = Slots { node, round };
    let all = (0..node.size()).all(|rank| slots.announcement(rank).detail == u64::from(true));
    if !all {
        log::warn!("a rank of this node could not read the memory of another one; it is not used any more");
        node.copy_once(false);
        node.stop_mapping();
    }
    Ok(all)
}

/// Bytes of each block that the first round has carried.
fn carried(slots: Slots<'_>, call: &Call) -> usize {
    match call {
        Call::Scatter { .. } | Call::AllToAll | Call::ReduceScatter(_) => 0,
        _ => slots.capacity(),
    }
}

/// Says where this rank's block for each rank is.
fn publish(slots: Slots<'_>, invocation: &Invocation<'_>) {
    let table = slots.own(slots.size() * Spot::LEN);
    for receiver in 0..slots.size() {
        let spot = Spot::of(&block(invocation, receiver));
        table.slice(receiver * Spot::LEN..(receiver + 1) * Spot::LEN).write(&spot.to_bytes());
    }
}

/// A block of a peer for this rank, without what the first round has carried.
struct Source {
    sender: usize,
    memory: Remote,
    /// Where it begins in `memory`.
    start: usize,
    len: usize,
}

/// Everything that this rank reads. `None` if it cannot.
fn sources(slots: Slots<'_>, invocation: &Invocation<'_>) -> Option<SmallVec<[Source; 8]>> {
    let Invocation { call, inputs, outputs, .. } = invocation;
    let expects = match *call {
        Call::Gather { root } => root == slots.rank(),
        Call::Broadcast { root } | Call::Scatter { root } => root != slots.rank(),
        _ => true,
    };
    let len_from = |sender: usize| match call {
        Call::Broadcast { .. } | Call::Scatter { .. } => outputs.first().map_or(0, View::len),
        Call::ReduceScatter(_) => inputs[slots.rank()].len(),
        _ => outputs[sender].len(),
    };
    let senders = slots.node.peers().filter(|&rank| expects && sends(call, rank));
    let of = |sender| {
        let table = slots.of(sender, slots.size() * Spot::LEN);
        let mut spot = [0; Spot::LEN];
        table.slice(slots.rank() * Spot::LEN..(slots.rank() + 1) * Spot::LEN).read(&mut spot);
        let len = len_from(sender);
        let start = carried(slots, call).min(len);
        let memory = slots.node.remote(sender, &Spot::from_bytes(&spot), len)?;
        let is_readable = moves(call) || matches!(memory, Remote::Mapped(_));
        is_readable.then_some(Source { sender, memory, start, len })
    };
    senders.filter(|&sender| len_from(sender) > 0).map(of).collect()
}

/// Copies all blocks. False if the system does not allow it.
async fn copy(node: &Node, invocation: &Invocation<'_>, sources: &[Source]) -> bool {
    let outputs = invocation.outputs;
    let is_long = node.is_long(outputs.iter().map(View::len).sum());
    for source in sources {
        let output = match invocation.call {
            Call::Broadcast { .. } | Call::Scatter { .. } => outputs[0],
            _ => outputs[source.sender],
        };
        for start in (source.start..source.len).step_by(PIECE) {
            let piece = output.slice(start..(start + PIECE).min(source.len));
            if !source.memory.read(node, start, &piece, is_long) {
                return false;
            }
            pause().await;
        }
    }
    true
}

/// Reduces the blocks for this rank, in rank order.
async fn reduce(node: &Node, invocation: &Invocation<'_>, sources: &[Source]) -> Result<()> {
    let (Some(reduction), own) = (invocation.call.reduction(), invocation.inputs[node.rank()]) else { return Ok(()) };
    let mut blocks: PerRank = (0..node.size()).map(|_| own).collect();
    for source in sources {
        let Remote::Mapped(mapped) = &source.memory else {
            return Err(Error::Internal("only what is mapped is reduced directly".to_owned()));
        };
        blocks[source.sender] = mapped.view();
    }
    // A multiple of every element.
    for start in (0..own.len()).step_by(PIECE) {
        let range = start..(start + PIECE).min(own.len());
        let pieces: PerRank = blocks.iter().map(|block| block.slice(range.clone())).collect();
        reduction.reduce(&invocation.outputs[0].slice(range), &pieces)?;
        pause().await;
    }
    Ok(())
}
