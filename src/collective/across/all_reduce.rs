//! All-reduce: the ranks of a node reduce a slice each, which they reduce with their counterparts of the other nodes, and
//! show each other. Short: the leader alone has one slice.
//!
//! Each element is reduced over the ranks of a node in their order, then over the nodes in theirs, once and in one place
//! or with the same outcome everywhere: the result is the same bits on every rank. Between the two it stays in its
//! accumulator, so half types are rounded once.

use super::Across;
use super::chain::{Chain, Link};
use super::local::Place;
use crate::collective::all_gather::exchange;
use crate::collective::all_reduce::gather;
use crate::collective::reduce_scatter::collect;
use crate::collective::slices::{parts, pieces};
use crate::error::Result;
use crate::memory::View;
use crate::reduce::Reduction;

/// The longest piece that is reduced at once; it bounds the scratch memory.
pub(super) const PIECE: usize = 8 << 20;

/// In how many slices `len` bytes are divided.
pub(super) fn width(across: &Across, len: usize) -> usize {
    if len <= across.context.thresholds().leader { 1 } else { across.topology.width() }
}

pub(super) async fn all_reduce(across: &Across, input: &View, output: &View, reduction: &Reduction) -> Result<()> {
    let width = width(across, input.len());
    let element = reduction.dtype().size();
    let (inputs, outputs) = (pieces(input, PIECE), pieces(output, PIECE));
    for (index, (input, output)) in inputs.iter().zip(&outputs).enumerate() {
        let place_of = |slice| across.topology.place_of_owner(slice);
        let accumulated = across.accumulate(&parts(input, element, width), place_of, reduction).await?;
        let results = parts(output, element, width);
        for (slice, memory) in &accumulated {
            reduce_slice(across, *slice, &memory.view(), &results[*slice], reduction).await?;
        }
        let place = if index + 1 == inputs.len() { Place::Last } else { Place::Within };
        across.share(&chains(across, &results), place).await?;
    }
    Ok(())
}

/// What each rank of the node has of slices that are dealt out in turn.
pub(super) fn chains(across: &Across, slices: &[View]) -> Vec<Chain> {
    let size = across.node.size();
    (0..size).map(|place| slices.iter().skip(place).step_by(size).map(|&slice| Link::Here(slice)).collect()).collect()
}

/// Reduces one slice, whose accumulators on this node are here, with the ranks that have it on other nodes.
async fn reduce_slice(
    across: &Across,
    slice: usize,
    accumulated: &View,
    output: &View,
    reduction: &Reduction,
) -> Result<()> {
    if output.is_empty() {
        return Ok(());
    }
    let context = across.context.among(across.topology.owners(slice))?;
    let ranks = across.topology.size();
    if accumulated.len() * context.size() <= context.thresholds().gather {
        return gather(&context, accumulated, |all| Ok(reduction.complete(output, all, ranks)?)).await;
    }
    let results = parts(output, reduction.dtype().size(), context.size());
    let own = results[context.rank()];
    let accumulated = parts(accumulated, reduction.accumulator(), context.size());
    collect(&context, &accumulated, |all| Ok(reduction.complete(&own, all, ranks)?)).await?;
    exchange(&context, &results).await
}
