//! Broadcast: a binomial tree for short messages; for long ones the root scatters slices, which all ranks then exchange
//! (van de Geijn), so that no rank sends the whole more than about twice.

use super::Context;
use super::all_gather::exchange;
use super::context::all;
use super::slices::{parts, pieces};
use crate::error::Result;
use crate::memory::View;

/// The longest piece that is scattered at once: what follows overlaps.
const PIECE: usize = 16 << 20;

/// Copies `root`'s memory to every rank's.
pub async fn broadcast(context: Context, memory: View, root: usize) -> Result<()> {
    if memory.len() < context.thresholds().tree || context.size() == 2 {
        return binomial(&context, &memory, root).await;
    }
    for piece in pieces(&memory, PIECE) {
        let slices = parts(&piece, 1, context.size());
        if context.rank() == root {
            let sent = context.peers().map(|peer| context.send(peer, &slices[peer])).collect::<Result<Vec<_>>>()?;
            all(sent).await?;
        } else {
            context.receive(root, &slices[context.rank()])?.await?;
        }
        exchange(&context, &slices).await?;
    }
    Ok(())
}

async fn binomial(context: &Context, memory: &View, root: usize) -> Result<()> {
    let size = context.size();
    // Ranks counted from the root.
    let relative = (context.rank() + size - root) % size;
    let mut bit = 1;
    while bit < size {
        if relative & bit != 0 {
            context.receive((relative - bit + root) % size, memory)?.await?;
            break;
        }
        bit *= 2;
    }
    let mut sent = Vec::new();
    bit /= 2;
    while bit > 0 {
        if relative + bit < size {
            sent.push(context.send((relative + bit + root) % size, memory)?);
        }
        bit /= 2;
    }
    all(sent).await
}
