//! All-to-all: pairwise, a window of peers at a time. Blocks may have any lengths, and may be empty.

use super::Context;
use super::context::all;
use crate::error::Result;
use crate::memory::View;

/// Peers that a rank exchanges with at the same time.
const WINDOW: usize = 16;

/// Copies `inputs[r]` to `outputs[rank]` of rank r.
pub async fn all_to_all(context: Context, inputs: Vec<View>, outputs: Vec<View>) -> Result<()> {
    let rank = context.rank();
    outputs[rank].copy_from(&inputs[rank]);
    exchange(&context, &inputs, &outputs, |_| true).await
}

/// The same with the other ranks that `takes` names alone.
pub(super) async fn exchange(
    context: &Context,
    inputs: &[View],
    outputs: &[View],
    takes: impl Fn(usize) -> bool,
) -> Result<()> {
    let (rank, size) = (context.rank(), context.size());
    let mut first = 1;
    while first < size {
        let distances = first..(first + WINDOW).min(size);
        let mut posted = Vec::with_capacity(2 * WINDOW);
        for distance in distances.clone() {
            let peer = (rank + size - distance) % size;
            if !takes(peer) {
                continue;
            }
            posted.push(context.receive(peer, &outputs[peer])?);
        }
        for distance in distances.clone() {
            let peer = (rank + distance) % size;
            if !takes(peer) {
                continue;
            }
            posted.push(context.send(peer, &inputs[peer])?);
        }
        all(posted).await?;
        first = distances.end;
    }
    Ok(())
}
