//! Reduce to one rank: the ranks of a node reduce a slice each, and send it to their counterparts on the root's node, where
//! the root takes the results.

use super::Across;
use super::all_reduce::{PIECE, width};
use super::chain::{Chain, Link};
use super::local::Place;
use crate::collective::context::all;
use crate::collective::slices::{parts, pieces};
use crate::error::Result;
use crate::memory::View;
use crate::reduce::Reduction;

/// `output` is the root's alone, and may be its input.
pub(super) async fn reduce(
    across: &Across,
    input: &View,
    output: &View,
    root: usize,
    reduction: &Reduction,
) -> Result<()> {
    let topology = &across.topology;
    let width = width(across, input.len());
    let element = reduction.dtype().size();
    let is_root = topology.rank() == root;
    for (index, input) in pieces(input, PIECE).iter().enumerate() {
        let inputs = parts(input, element, width);
        let accumulated = across.accumulate(&inputs, |slice| topology.place_of_owner(slice), reduction).await?;
        if !topology.is_here(root) {
            let owner = |slice| topology.owner(topology.node_of(root), slice);
            let full = accumulated.iter().filter(|(_, memory)| !memory.view().is_empty());
            let sent = full.map(|(slice, memory)| across.context.send(owner(*slice), &memory.view()));
            all(sent.collect::<Result<_>>()?).await?;
            continue;
        }
        let scratch = across.context.scratch(if is_root { 0 } else { input.len() });
        let results = match is_root {
            true => output.slice(index * PIECE..index * PIECE + input.len()),
            false => scratch.view(),
        };
        let results = parts(&results, element, width);
        for (slice, memory) in &accumulated {
            complete(across, *slice, &memory.view(), &results[*slice], reduction).await?;
        }
        let size = across.node.size();
        let link = |place: usize, slice: &View| match is_root || place == across.node.rank() {
            true => Link::Here(*slice),
            false => Link::Skip(slice.len()),
        };
        let chain = |place| results.iter().skip(place).step_by(size).map(|slice| link(place, slice)).collect();
        let chains: Vec<Chain> = (0..size).map(chain).collect();
        across.share(&chains, Place::Within).await?;
    }
    across.end().await
}

/// Reduces a slice, whose accumulators on this node are here, with those of the other nodes.
async fn complete(
    across: &Across,
    slice: usize,
    accumulated: &View,
    output: &View,
    reduction: &Reduction,
) -> Result<()> {
    if output.is_empty() {
        return Ok(());
    }
    let topology = &across.topology;
    let scratch = across.context.scratch(accumulated.len() * topology.nodes());
    let mut all_nodes = parts(&scratch.view(), accumulated.len(), topology.nodes());
    all_nodes[topology.node()] = *accumulated;
    let received = topology
        .other_nodes()
        .map(|node| across.context.receive(topology.owner(node, slice), &all_nodes[node]))
        .collect::<Result<Vec<_>>>()?;
    all(received).await?;
    Ok(reduction.complete(output, &all_nodes, topology.size())?)
}
