//! All-reduce. Short: every rank gathers all contributions and reduces them itself. Long: each rank reduces one slice of
//! everybody's contribution, then all exchange the results.
//!
//! Either way each element is reduced once, over all contributions in rank order: the result is the same bits on every
//! rank whatever the timing, and half types are rounded once. Ranks exchange raw inputs, so no extra bytes travel.

use super::Context;
use super::all_gather::exchange;
use super::reduce_scatter::collect;
use super::slices::{parts, pieces};
use crate::error::Result;
use crate::memory::View;
use crate::reduce::Reduction;

/// The longest piece that is reduced at once; it bounds the scratch memory.
const PIECE: usize = 8 << 20;

/// Reduces `input` of all ranks into `output` of all ranks; the two may be the same memory.
pub async fn all_reduce(context: Context, input: View, output: View, reduction: Reduction) -> Result<()> {
    if context.size() == 1 {
        return Ok(reduction.reduce(&output, &[input])?);
    }
    if input.len() * context.size() <= context.thresholds().gather {
        return gather(&context, &input, |inputs| Ok(reduction.reduce(&output, inputs)?)).await;
    }
    let (inputs, outputs) = (pieces(&input, PIECE), pieces(&output, PIECE));
    let element = reduction.dtype().size();
    for (input, output) in inputs.iter().zip(&outputs) {
        let results = parts(output, element, context.size());
        let own = results[context.rank()];
        let inputs = parts(input, element, context.size());
        collect(&context, &inputs, |inputs| Ok(reduction.reduce(&own, inputs)?)).await?;
        exchange(&context, &results).await?;
    }
    Ok(())
}

/// Has `reduce` reduce everybody's `input`, in rank order.
pub(super) async fn gather(context: &Context, input: &View, reduce: impl FnOnce(&[View]) -> Result<()>) -> Result<()> {
    let scratch = context.scratch(input.len() * context.size());
    let contributions = parts(&scratch.view(), input.len().max(1), context.size());
    contributions[context.rank()].copy_from(input);
    exchange(context, &contributions).await?;
    reduce(&contributions)
}
