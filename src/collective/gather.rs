//! Gather: every rank sends to the root.

use super::Context;
use super::context::all;
use crate::error::Result;
use crate::memory::View;

/// Copies rank r's `input` to `outputs[r]` of the root; other ranks have no outputs. Lengths may differ by rank.
pub async fn gather(context: Context, input: View, outputs: Option<Vec<View>>, root: usize) -> Result<()> {
    let Some(outputs) = outputs else {
        return context.send(root, &input)?.await.map(drop);
    };
    let received = context.peers().map(|peer| context.receive(peer, &outputs[peer])).collect::<Result<Vec<_>>>()?;
    outputs[context.rank()].copy_from(&input);
    all(received).await
}
