//! The rest of a long collective that only moves data, with each rank reading straight from its peers' memory. A round in
//! which everybody says where its blocks are; then everybody reads; then a round in which everybody says whether it could,
//! which also gives the memory back to its owner.

use std::sync::Arc;

use smallvec::SmallVec;

use super::slots::Slots;
use super::{arrival, pause};
use crate::collective::{Call, Invocation};
use crate::error::Result;
use crate::memory::View;
use crate::shm::{Announcement, Node};

/// From this many rounds on it is worth two more.
const LONG: u64 = 4;
/// After so many bytes others have their turn: the pages read may have to be fetched first.
const PIECE: usize = 1 << 20;

/// Whether to read directly, after the first of `rounds` rounds. All ranks decide alike.
pub(super) fn applies(node: &Node, call: &Call, rounds: u64) -> bool {
    let moves = match call {
        Call::Broadcast { .. } | Call::AllGather | Call::Gather { .. } | Call::Scatter { .. } | Call::AllToAll => true,
        Call::AllReduce(_)
        | Call::Reduce { .. }
        | Call::ReduceScatter(_)
        | Call::Barrier
        | Call::MonitoredBarrier { .. }
        | Call::Send { .. }
        | Call::Receive { .. } => false,
    };
    moves && rounds >= LONG && node.copies_once()
}

/// Moves everything that the first round has not. False if a rank could not: then nobody knows what has arrived, and the
/// rounds go on.
pub(super) async fn run(node: &Arc<Node>, invocation: &Invocation<'_>, announcement: Announcement) -> Result<bool> {
    let round = node.begin();
    let slots = Slots { node, round };
    publish(slots, invocation);
    node.publish(round, announcement);
    arrival(node, round).await?;

    let reads = reads(slots, invocation);
    let mut could = true;
    for &(sender, address, output) in &reads {
        for start in (0..output.len()).step_by(PIECE) {
            let piece = output.slice(start..(start + PIECE).min(output.len()));
            could = could && node.read_memory(sender, address + start as u64, &piece);
            pause().await;
        }
    }
    // A sender that has failed has its memory back, and may have changed it before it was read.
    for &(sender, ..) in &reads {
        node.check_after_reading(sender)?;
    }

    let round = node.begin();
    node.publish(round, Announcement { detail: could.into(), ..announcement });
    arrival(node, round).await?;
    let slots = Slots { node, round };
    let all = (0..node.size()).all(|rank| slots.announcement(rank).detail == u64::from(true));
    if !all {
        log::warn!("process_vm_readv has failed on a rank of this node; it is not used any more");
        node.copy_once(false);
    }
    Ok(all)
}

/// Bytes of each block that the first round has carried.
fn carried(slots: Slots<'_>, call: &Call) -> usize {
    match call {
        Call::Scatter { .. } | Call::AllToAll => 0,
        _ => slots.capacity(),
    }
}

/// Says where this rank's block for each rank is.
fn publish(slots: Slots<'_>, invocation: &Invocation<'_>) {
    let Invocation { call, inputs, outputs, .. } = invocation;
    let table = slots.own(slots.size() * size_of::<u64>());
    for receiver in 0..slots.size() {
        let block = match call {
            Call::Broadcast { .. } => outputs.first(),
            Call::AllGather | Call::Gather { .. } => inputs.first(),
            _ => inputs.get(receiver),
        };
        let address = block.map_or(0, |block| block.as_ptr() as u64);
        let start = receiver * size_of::<u64>();
        table.slice(start..start + size_of::<u64>()).write(&address.to_ne_bytes());
    }
}

/// What this rank reads: from whom, where it begins there, and where it goes.
fn reads(slots: Slots<'_>, invocation: &Invocation<'_>) -> SmallVec<[(usize, u64, View); 8]> {
    let Invocation { call, outputs, .. } = invocation;
    let from = |sender: usize, output: &View| {
        let table = slots.of(sender, slots.size() * size_of::<u64>());
        let start = slots.rank() * size_of::<u64>();
        let mut address = [0; size_of::<u64>()];
        table.slice(start..start + address.len()).read(&mut address);
        let skipped = carried(slots, call).min(output.len());
        (sender, u64::from_ne_bytes(address) + skipped as u64, output.slice(skipped..output.len()))
    };
    match *call {
        Call::Broadcast { root } | Call::Scatter { root } if root != slots.rank() => {
            outputs.iter().map(|output| from(root, output)).collect()
        }
        Call::Gather { root } if root != slots.rank() => SmallVec::new(),
        Call::AllGather | Call::Gather { .. } | Call::AllToAll => {
            slots.node.peers().map(|sender| from(sender, &outputs[sender])).collect()
        }
        _ => SmallVec::new(),
    }
}
