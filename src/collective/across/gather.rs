//! Gather: the ranks of the root's node show it their inputs, the others send them.

use super::Across;
use super::chain::{Chain, Link};
use super::local::Place;
use crate::collective::context::all;
use crate::error::{Error, Result};
use crate::memory::View;

/// `outputs` are the root's alone.
pub(super) async fn gather(across: &Across, input: &View, outputs: &[View], root: usize) -> Result<()> {
    let topology = &across.topology;
    let rank = topology.rank();
    if rank == root {
        outputs[rank].copy_from(input);
    }
    let mut posted = Vec::new();
    if !topology.is_here(root) {
        posted.push(across.context.send(root, input)?);
    }
    for from in (0..topology.size()).filter(|&from| rank == root && !topology.is_here(from)) {
        posted.push(across.context.receive(from, &outputs[from])?);
    }
    let slots = across.begin().await?;
    if topology.is_here(root) {
        let chain = |place: usize, from: usize| -> Result<Chain> {
            let len = slots.count(place);
            Ok(match from {
                // The root has its own.
                _ if from == root => Vec::new(),
                _ if from == rank => vec![Link::Here(*input)],
                _ if rank != root => vec![Link::Skip(len)],
                _ if outputs[from].len() == len => vec![Link::Here(outputs[from])],
                _ => {
                    let (received, expected) = (len as u64, outputs[from].len() as u64);
                    return Err(Error::Length { peer: from, received, expected });
                }
            })
        };
        let chains: Vec<_> =
            topology.neighbours().iter().enumerate().map(|(place, &from)| chain(place, from)).collect::<Result<_>>()?;
        across.share(&chains, Place::Within).await?;
    }
    all(posted).await?;
    across.end().await
}
