//! All-gather: every rank sends its block to one rank of each other node; the ranks of a node show each other their own
//! blocks, and those that have come.

use super::Across;
use super::chain::{Chain, Link};
use super::local::Place;
use crate::collective::context::all;
use crate::error::Result;
use crate::memory::View;

pub(super) async fn all_gather(across: &Across, input: &View, outputs: &[View]) -> Result<()> {
    let topology = &across.topology;
    let rank = topology.rank();
    outputs[rank].copy_from(input);
    // Dealt out to the ranks of this node.
    let taken_by = |place: usize| {
        let size = across.node.size();
        let from_elsewhere = (0..topology.size()).filter(|&other| !topology.is_here(other));
        from_elsewhere.filter(move |&other| topology.place_of(other) % size == place)
    };
    let mut posted = Vec::new();
    for from in taken_by(across.node.rank()).filter(|&from| !outputs[from].is_empty()) {
        posted.push(across.context.receive(from, &outputs[from])?);
    }
    for node in topology.other_nodes().filter(|_| !input.is_empty()) {
        posted.push(across.context.send(topology.owner(node, topology.place_of(rank)), &outputs[rank])?);
    }
    let here: Vec<Chain> = topology.neighbours().iter().map(|&rank| vec![Link::Here(outputs[rank])]).collect();
    across.share(&here, Place::Within).await?;
    all(posted).await?;
    let chain = |place| taken_by(place).map(|rank| Link::Here(outputs[rank])).collect();
    let elsewhere: Vec<Chain> = (0..across.node.size()).map(chain).collect();
    across.share(&elsewhere, Place::Last).await
}
