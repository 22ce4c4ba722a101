//! Reduce-scatter: for each rank of the group one rank of every node reduces what its node has for it, and sends that
//! there.

use super::Across;
use crate::collective::context::all;
use crate::collective::slices::parts;
use crate::error::Result;
use crate::memory::View;
use crate::reduce::Reduction;

/// Bytes of all blocks that are reduced at a time, about.
const SCRATCH: usize = 16 << 20;
/// The shortest piece of a block.
const SHORTEST: usize = 4 << 10;
/// Blocks that are in a slot at a time, if it is long enough.
const BATCH: usize = 256;

pub(super) async fn reduce_scatter(
    across: &Across,
    inputs: &[View],
    output: &View,
    reduction: &Reduction,
) -> Result<()> {
    let longest = inputs.iter().map(View::len).max().unwrap_or(0);
    // A power of two from the size of the largest element on.
    let piece = (SCRATCH / inputs.len().next_power_of_two()).max(SHORTEST);
    for index in 0..longest.div_ceil(piece).max(1) {
        let cut = |view: &View| {
            let start = (index * piece).min(view.len());
            view.slice(start..view.len().min(start + piece))
        };
        reduce_pieces(across, &inputs.iter().map(cut).collect::<Vec<_>>(), &cut(output), reduction).await?;
    }
    across.end().await
}

async fn reduce_pieces(across: &Across, inputs: &[View], output: &View, reduction: &Reduction) -> Result<()> {
    let topology = &across.topology;
    let rank = topology.rank();
    // The rank of a node that reduces what the node has for a rank of the group.
    let owner = |node: usize, target: usize| match topology.node_of(target) == node {
        true => target,
        false => topology.owner(node, topology.place_of(target)),
    };
    let wide = output.len() / reduction.dtype().size() * reduction.accumulator();
    let scratch = across.context.scratch(wide * topology.nodes());
    let of_nodes = parts(&scratch.view(), wide.max(1), topology.nodes());
    let mut posted = Vec::new();
    for node in topology.other_nodes().filter(|_| wide > 0) {
        posted.push(across.context.receive(owner(node, rank), &of_nodes[node])?);
    }
    // Kept until they have been sent.
    let mut leases = Vec::new();
    let most = BATCH.min(across.most_slices());
    for (batch, inputs) in inputs.chunks(most).enumerate() {
        let target = |index: usize| batch * most + index;
        let place_of = |index| topology.place_of(owner(topology.node(), target(index)));
        for (index, memory) in across.accumulate(inputs, place_of, reduction).await? {
            let view = memory.view();
            if target(index) == rank {
                of_nodes[topology.node()].copy_from(&view);
            } else if !topology.is_here(target(index)) && !view.is_empty() {
                posted.push(across.context.send(target(index), &view)?);
            }
            leases.push(memory);
        }
    }
    all(posted).await?;
    if output.is_empty() { Ok(()) } else { Ok(reduction.complete(output, &of_nodes, topology.size())?) }
}
