//! Scatter: the root sends to every rank.

use super::Context;
use super::context::all;
use crate::error::Result;
use crate::memory::View;

/// Copies `inputs[r]` of the root, which alone has inputs, to rank r's `output`. Lengths may differ by rank.
pub async fn scatter(context: Context, inputs: Option<Vec<View>>, output: View, root: usize) -> Result<()> {
    let Some(inputs) = inputs else {
        return context.receive(root, &output)?.await.map(drop);
    };
    let sent = context.peers().map(|peer| context.send(peer, &inputs[peer])).collect::<Result<Vec<_>>>()?;
    output.copy_from(&inputs[context.rank()]);
    all(sent).await
}
