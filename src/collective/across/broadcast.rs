//! Broadcast: each rank of the root's node sends a slice to its counterparts, which show them to the others of their node.
//! Short: the root sends it all.

use super::Across;
use super::all_reduce::{chains, width};
use super::chain::{Chain, Link};
use super::local::Place;
use crate::collective::context::both;
use crate::collective::slices::parts;
use crate::error::Result;
use crate::memory::View;

pub(super) async fn broadcast(across: &Across, memory: &View, root: usize) -> Result<()> {
    let topology = &across.topology;
    let width = width(across, memory.len());
    let slices = parts(memory, 1, width);
    let here = topology.node_of(root);
    // The root has the first slice, so that it need not go through another rank.
    let owner = |node: usize, slice: usize| match node == here {
        true => topology.owner(node, slice + topology.place_of(root)),
        false => topology.owner(node, slice),
    };
    let send = async |slice: usize| {
        let owners: Vec<_> = (0..topology.nodes()).map(|node| owner(node, slice)).collect();
        if !owners.contains(&topology.rank()) || slices[slice].is_empty() {
            return Ok(());
        }
        crate::collective::broadcast(across.context.among(owners)?, slices[slice], here).await
    };
    if topology.node() != here {
        let receive = async {
            for slice in 0..width {
                send(slice).await?;
            }
            Ok(())
        };
        both(async { across.begin().await.map(drop) }, receive).await?;
        return across.share(&chains(across, &slices), Place::Last).await;
    }
    let chain = |&rank: &usize| if rank == root { vec![Link::Here(*memory)] } else { Vec::new() };
    let shown: Vec<Chain> = topology.neighbours().iter().map(chain).collect();
    if width == 1 {
        both(across.share(&shown, Place::Within), send(0)).await?;
    } else {
        across.share(&shown, Place::Within).await?;
        for slice in 0..width {
            send(slice).await?;
        }
    }
    across.end().await
}
