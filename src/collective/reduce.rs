//! Reduce to one rank. Short: the root gathers all contributions. Long: each rank reduces one slice of everybody's
//! contribution and sends it to the root, so that the root's link carries the data about once.

use super::Context;
use super::context::all;
use super::reduce_scatter::collect;
use super::slices::{part, parts, pieces};
use crate::error::Result;
use crate::memory::View;
use crate::reduce::Reduction;

/// The longest piece that is reduced at once; it bounds the scratch memory.
const PIECE: usize = 8 << 20;

/// Reduces `input` of all ranks into `output`, which only the root has and which may be its input. Nothing else is
/// written.
pub async fn reduce(
    context: Context,
    input: View,
    output: Option<View>,
    root: usize,
    reduction: Reduction,
) -> Result<()> {
    let outputs = output.map(|output| pieces(&output, PIECE));
    for (index, input) in pieces(&input, PIECE).iter().enumerate() {
        let output = outputs.as_ref().map(|outputs| &outputs[index]);
        // Nobody but the root receives all inputs, so it pays for longer ones than in an all-reduce.
        if input.len() <= 2 * context.thresholds().gather || context.size() <= 2 {
            reduce_at_root(&context, input, output, root, &reduction).await?;
        } else {
            reduce_slices(&context, input, output, root, &reduction).await?;
        }
    }
    Ok(())
}

async fn reduce_at_root(
    context: &Context,
    input: &View,
    output: Option<&View>,
    root: usize,
    reduction: &Reduction,
) -> Result<()> {
    let Some(output) = output else {
        return context.send(root, input)?.await.map(drop);
    };
    let scratch = context.scratch(input.len() * context.size());
    let mut contributions = parts(&scratch.view(), input.len().max(1), context.size());
    contributions[context.rank()] = *input;
    let received =
        context.peers().map(|peer| context.receive(peer, &contributions[peer])).collect::<Result<Vec<_>>>()?;
    all(received).await?;
    Ok(reduction.reduce(output, &contributions)?)
}

async fn reduce_slices(
    context: &Context,
    input: &View,
    output: Option<&View>,
    root: usize,
    reduction: &Reduction,
) -> Result<()> {
    let (element, size) = (reduction.dtype().size(), context.size());
    let inputs = parts(input, element, size);
    let Some(output) = output else {
        let scratch = context.scratch(inputs[context.rank()].len());
        let result = scratch.view();
        collect(context, &inputs, |inputs| Ok(reduction.reduce(&result, inputs)?)).await?;
        return context.send(root, &result)?.await.map(drop);
    };
    // The output may be the input: the slices of others arrive only after they have been sent their inputs.
    let results = |rank| output.slice(part(output.len(), element, size, rank));
    let own = results(context.rank());
    collect(context, &inputs, |inputs| Ok(reduction.reduce(&own, inputs)?)).await?;
    let received = context.peers().map(|peer| context.receive(peer, &results(peer))).collect::<Result<Vec<_>>>()?;
    all(received).await
}
