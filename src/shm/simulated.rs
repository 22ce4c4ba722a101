//! The ranks of a node that is in this process alone: for tests, models and benchmarks.

use std::sync::Arc;

use super::doorbell::Doorbell;
use super::identity::Process;
use super::layout::Layout;
use super::node::{Member, Node};
use super::segment::Segment;

/// A rank of such a node, and the doorbell that its peers ring.
pub(crate) struct Rank {
    pub node: Node,
    #[cfg_attr(not(any(loom, feature = "bench-internals")), expect(dead_code, reason = "tests poll"))]
    pub bell: Arc<Doorbell>,
}

/// The ranks that share this segment, which have these ranks in the group.
pub(super) fn ranks(segment: &Arc<Segment>, layout: Layout, group_ranks: &[usize]) -> Vec<Rank> {
    let size = group_ranks.len();
    let bells: Vec<_> = (0..size).map(|_| Arc::new(Doorbell::private())).collect();
    // Nothing is known about it, so that none is ever found dead.
    let process = Process { pid: std::process::id(), started: 0, namespace: 0 };
    let rank = |own: usize| {
        let bell_of = |rank: usize| (rank != own).then(|| bells[rank].clone());
        let member = |rank: usize| Member { group_rank: group_ranks[rank], process, doorbell: bell_of(rank) };
        let members = (0..size).map(member).collect();
        Rank { node: Node::new(segment.clone(), layout, own, members, bells[own].clone()), bell: bells[own].clone() }
    };
    (0..size).map(rank).collect()
}

/// The ranks of a node with slots of `capacity` bytes.
#[cfg(not(loom))]
pub(crate) fn node(group_ranks: &[usize], capacity: usize) -> crate::error::Result<Vec<Rank>> {
    let layout = Layout::new(group_ranks.len(), capacity);
    Ok(ranks(&Arc::new(Segment::create(layout.len())?.0), layout, group_ranks))
}

#[cfg(test)]
#[cfg(not(loom))]
impl Node {
    /// As [`node`], for tests that need no doorbells.
    pub(crate) fn simulated(size: usize, capacity: usize) -> Vec<Node> {
        Node::simulated_as(&(0..size).collect::<Vec<_>>(), capacity)
    }

    /// The same with these ranks of a group.
    pub(crate) fn simulated_as(group_ranks: &[usize], capacity: usize) -> Vec<Node> {
        node(group_ranks, capacity).unwrap().into_iter().map(|rank| rank.node).collect()
    }
}
