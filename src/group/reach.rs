//! How the ranks of a group reach each other.

use std::fmt;
use std::sync::Arc;

use crate::collective::across::{Place, Topology};
use crate::shm::Node;
use crate::transport::{SharedTransport, SpanningTransport};

/// The same kind on every rank of the group.
pub(super) enum Reach {
    /// Over MPI.
    Messages,
    /// Over MPI, and they tell each other what they call, each as a node of its own.
    Apart(Arc<Topology>),
    /// Through memory that all of them share: everything but monitored barriers.
    Node(Shared),
    /// Through memory that the ranks of each node share, and over MPI between nodes.
    Nodes(Spanning),
}

/// Memory that all ranks of a group share.
pub(super) struct Shared {
    pub node: Arc<Node>,
    pub transport: Arc<SharedTransport>,
}

/// Memory that the ranks of this node share, in a group that spans nodes.
pub(super) struct Spanning {
    pub place: Place,
    pub transport: Arc<SpanningTransport>,
}

impl Reach {
    /// The ranks on this node that this one shares memory with, if it does.
    pub fn node(&self) -> Option<&Arc<Node>> {
        match self {
            Reach::Messages | Reach::Apart(_) => None,
            Reach::Node(shared) => Some(&shared.node),
            Reach::Nodes(spanning) => Some(&spanning.place.node),
        }
    }

    /// The highest tag that a message of the user may have, where MPI takes up to `mpi`.
    pub fn tag_max(&self, mpi: i32) -> i32 {
        match self {
            Reach::Messages | Reach::Apart(_) => mpi,
            Reach::Node(shared) => shared.transport.tag_max(),
            Reach::Nodes(spanning) => spanning.transport.tag_max(),
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reach::Messages | Reach::Apart(_) => Ok(()),
            Reach::Node(_) => f.write_str("shared memory and "),
            Reach::Nodes(spanning) => {
                write!(f, "shared memory on each of {} nodes and ", spanning.place.topology.nodes())
            }
        }
    }
}
