//! All-to-all: blocks for ranks of this node through shared memory, the others as messages, at the same time.

use super::Across;
use crate::collective::all_to_all::exchange;
use crate::collective::context::both;
use crate::error::Result;
use crate::memory::View;

pub(super) async fn all_to_all(across: &Across, inputs: &[View], outputs: &[View]) -> Result<()> {
    let topology = &across.topology;
    let here = async {
        let slots = across.begin().await?;
        // Every rank has announced the longest of its blocks. Whether blocks fit each other comes out with the verdict.
        let longest = (0..slots.size()).map(|rank| slots.count(rank)).max().unwrap_or(0);
        let of_node = |views: &[View]| topology.neighbours().iter().map(|&rank| views[rank]).collect::<Vec<_>>();
        across.exchange(&of_node(inputs), &of_node(outputs), longest).await
    };
    both(here, exchange(&across.context, inputs, outputs, |peer| !topology.is_here(peer))).await?;
    across.end().await
}
