//! Scatter: the root shows the ranks of its node their blocks, and sends the others theirs.

use super::Across;
use super::chain::{Chain, Link};
use super::local::Place;
use crate::collective::context::all;
use crate::error::{Error, Result};
use crate::memory::View;

/// `inputs` are the root's alone.
pub(super) async fn scatter(across: &Across, inputs: &[View], output: &View, root: usize) -> Result<()> {
    let topology = &across.topology;
    let rank = topology.rank();
    let mut posted = Vec::new();
    if !topology.is_here(root) {
        posted.push(across.context.receive(root, output)?);
    }
    for to in (0..topology.size()).filter(|&to| rank == root && !topology.is_here(to)) {
        posted.push(across.context.send(to, &inputs[to])?);
    }
    let slots = across.begin().await?;
    if topology.is_here(root) {
        let link = |place: usize, to: usize| -> Result<Link> {
            // What the other ranks have announced they expect; the root shows nothing to itself.
            let len = if to == root { 0 } else { slots.count(place) };
            match rank == root && to != root {
                true if inputs[to].len() == len => Ok(Link::Here(inputs[to])),
                true => Err(Error::Mismatch(format!(
                    "rank {root} sent {} bytes to rank {to}, where {len} bytes were expected; every rank must pass \
                     matching sizes and dtypes",
                    inputs[to].len()
                ))),
                false if to == rank && rank != root => Ok(Link::Here(*output)),
                false => Ok(Link::Skip(len)),
            }
        };
        let neighbours = topology.neighbours().iter().enumerate();
        let blocks: Chain = neighbours.map(|(place, &to)| link(place, to)).collect::<Result<_>>()?;
        let chain = |&from: &usize| if from == root { blocks.clone() } else { Vec::new() };
        let chains: Vec<Chain> = topology.neighbours().iter().map(chain).collect();
        if rank == root {
            output.copy_from(&inputs[root]);
        }
        across.share(&chains, Place::Within).await?;
    }
    all(posted).await?;
    across.end().await
}
