//! Which ranks of a group are on which node.

/// The ranks of a group by node. Nodes are numbered by their first rank, and the ranks of a node by their rank in the
/// group. The first rank of a node is its leader.
#[derive(Debug)]
pub struct Topology {
    nodes: Vec<Vec<usize>>,
    /// By rank of the group: its node, and its place there.
    places: Vec<(usize, usize)>,
    rank: usize,
}

impl Topology {
    /// Ranks are on one node if `is_same` says so of them. This rank is `rank` of `size`.
    pub fn new(size: usize, rank: usize, is_same: impl Fn(usize, usize) -> bool) -> Self {
        let mut nodes: Vec<Vec<usize>> = Vec::new();
        let mut places = Vec::with_capacity(size);
        for other in 0..size {
            let node = nodes.iter().position(|members| is_same(members[0], other)).unwrap_or_else(|| {
                nodes.push(Vec::new());
                nodes.len() - 1
            });
            places.push((node, nodes[node].len()));
            nodes[node].push(other);
        }
        Topology { nodes, places, rank }
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The most ranks that a node has.
    pub fn width(&self) -> usize {
        self.nodes.iter().map(Vec::len).max().unwrap_or(1)
    }

    /// The ranks of the group that are on `node`.
    pub fn members(&self, node: usize) -> &[usize] {
        &self.nodes[node]
    }

    /// Number of ranks of the group.
    pub fn size(&self) -> usize {
        self.places.len()
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The node of a rank of the group.
    pub fn node_of(&self, rank: usize) -> usize {
        self.places[rank].0
    }

    /// The place of a rank of the group on its node.
    pub fn place_of(&self, rank: usize) -> usize {
        self.places[rank].1
    }

    /// This rank's node.
    pub fn node(&self) -> usize {
        self.node_of(self.rank)
    }

    /// The other nodes.
    pub fn other_nodes(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.node();
        (0..self.nodes()).filter(move |&node| node != own)
    }

    /// The ranks on this node.
    pub fn neighbours(&self) -> &[usize] {
        self.members(self.node())
    }

    /// Whether a rank is on this node.
    pub fn is_here(&self, rank: usize) -> bool {
        self.node_of(rank) == self.node()
    }

    /// Whether this rank speaks for its node.
    pub fn leads(&self) -> bool {
        self.place_of(self.rank) == 0
    }

    /// The rank of the group that has slice `slice` on `node`, where slices are dealt out to its ranks in turn.
    pub fn owner(&self, node: usize, slice: usize) -> usize {
        let members = self.members(node);
        members[slice % members.len()]
    }

    /// The ranks that have slice `slice`, one on each node.
    pub fn owners(&self, slice: usize) -> Vec<usize> {
        (0..self.nodes()).map(|node| self.owner(node, slice)).collect()
    }

    /// The place on this node of the rank that has slice `slice`.
    pub fn place_of_owner(&self, slice: usize) -> usize {
        slice % self.neighbours().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_dealt_out_to_nodes() {
        let names = [7, 9, 7, 3, 9, 7];
        let topology = Topology::new(6, 4, |a, b| names[a] == names[b]);
        assert_eq!(
            (topology.members(0), topology.members(1), topology.members(2)),
            (&[0, 2, 5][..], &[1, 4][..], &[3][..])
        );
        assert_eq!((topology.nodes(), topology.width(), topology.node(), topology.leads()), (3, 3, 1, false));
        assert_eq!(topology.owners(4), [2, 1, 3]);
        assert_eq!(topology.other_nodes().collect::<Vec<_>>(), [0, 2]);
        assert!(topology.is_here(1) && !topology.is_here(0));
    }
}
