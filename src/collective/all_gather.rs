//! All-gather: every rank to every other at once for a few ranks, Bruck's algorithm for short messages of many, a ring
//! for the rest. Ranks may contribute different lengths.

use super::Context;
use super::context::all;
use crate::error::Result;
use crate::memory::View;

/// Up to this many ranks each sends to all others at once.
const FEW: usize = 8;
/// Up to this many bytes per rank, Bruck's algorithm is used above `FEW` ranks.
const SHORT: usize = 4 << 10;

/// Copies rank r's `input` to `outputs[r]` of every rank.
pub async fn all_gather(context: Context, input: View, outputs: Vec<View>) -> Result<()> {
    outputs[context.rank()].copy_from(&input);
    exchange(&context, &outputs).await
}

/// The same with each rank's contribution in its place, `blocks[rank]`, already.
pub(super) async fn exchange(context: &Context, blocks: &[View]) -> Result<()> {
    let len = blocks[0].len();
    if context.size() <= FEW {
        direct(context, blocks).await
    } else if len <= SHORT && blocks.iter().all(|block| block.len() == len) {
        bruck(context, blocks, len).await
    } else {
        ring(context, blocks).await
    }
}

async fn direct(context: &Context, blocks: &[View]) -> Result<()> {
    let mut posted = Vec::with_capacity(2 * context.size());
    for peer in context.peers() {
        posted.push(context.receive(peer, &blocks[peer])?);
    }
    for peer in context.peers() {
        posted.push(context.send(peer, &blocks[context.rank()])?);
    }
    all(posted).await
}

/// Bruck et al. 1997: log2(size) rounds, each rank's own block first, then those of the ranks after it.
async fn bruck(context: &Context, blocks: &[View], len: usize) -> Result<()> {
    let (rank, size) = (context.rank(), context.size());
    let scratch = context.scratch(size * len);
    let rotated = scratch.view();
    rotated.slice(0..len).copy_from(&blocks[rank]);
    let mut have = 1;
    while have < size {
        let count = have.min(size - have);
        let received = context.receive((rank + have) % size, &rotated.slice(have * len..(have + count) * len))?;
        let sent = context.send((rank + size - have) % size, &rotated.slice(0..count * len))?;
        received.await?;
        sent.await?;
        have += count;
    }
    for distance in 1..size {
        blocks[(rank + distance) % size].copy_from(&rotated.slice(distance * len..(distance + 1) * len));
    }
    Ok(())
}

async fn ring(context: &Context, blocks: &[View]) -> Result<()> {
    let (rank, size) = (context.rank(), context.size());
    for step in 0..size - 1 {
        let received = context.receive((rank + size - 1) % size, &blocks[(rank + size - step - 1) % size])?;
        let sent = context.send((rank + 1) % size, &blocks[(rank + size - step) % size])?;
        received.await?;
        sent.await?;
    }
    Ok(())
}
