//! Reduce-scatter: every rank sends each other rank its part of the input, and reduces what it receives, in rank order.

use super::Context;
use super::context::all;
use super::slices::{part, pieces};
use crate::error::Result;
use crate::memory::View;
use crate::reduce::Reduction;

/// The most scratch memory that a rank takes for the contributions of its peers.
const SCRATCH: usize = 16 << 20;

/// Reduces `inputs[r]` of all ranks into `output` of rank r. Parts may have different lengths.
pub async fn reduce_scatter(context: Context, inputs: Vec<View>, output: View, reduction: Reduction) -> Result<()> {
    let element = reduction.dtype().size();
    let piece = (SCRATCH / context.size() / element).max(1) * element;
    let inputs: Vec<Vec<View>> = inputs.iter().map(|input| pieces(input, piece)).collect();
    let output = pieces(&output, piece);
    // Every rank knows all lengths, so all agree on the number of rounds; short parts are done early.
    let rounds = inputs.iter().map(Vec::len).max().unwrap_or_default();
    for round in 0..rounds {
        let nothing = output[0].slice(0..0);
        let parts: Vec<View> = inputs.iter().map(|pieces| *pieces.get(round).unwrap_or(&nothing)).collect();
        let output = output.get(round).unwrap_or(&nothing);
        collect(&context, &parts, |inputs| Ok(reduction.reduce(output, inputs)?)).await?;
    }
    Ok(())
}

/// One round: has `reduce` reduce `inputs[rank]` of all ranks, in rank order, to memory that may be this rank's own part. It
/// is not called if there is nothing to reduce. Returns when the parts for others have been sent, too.
pub(super) async fn collect(
    context: &Context,
    inputs: &[View],
    reduce: impl FnOnce(&[View]) -> Result<()>,
) -> Result<()> {
    let (rank, size) = (context.rank(), context.size());
    let len = inputs[rank].len();
    let scratch = context.scratch(len * (size - 1));
    let scratch = scratch.view();
    let mut contributions = inputs.to_vec();
    let mut posted = Vec::with_capacity(2 * size);
    for (slot, peer) in context.peers().enumerate().filter(|_| len > 0) {
        contributions[peer] = scratch.slice(part(scratch.len(), len, size - 1, slot));
        posted.push(context.receive(peer, &contributions[peer])?);
    }
    for peer in context.peers().filter(|&peer| !inputs[peer].is_empty()) {
        posted.push(context.send(peer, &inputs[peer])?);
    }
    all(posted).await?;
    if len > 0 { reduce(&contributions) } else { Ok(()) }
}
