//! Some ranks of a group as a group of their own.

use std::sync::Arc;

use super::{Channel, Request, Transport};
use crate::error::{Error, Result};
use crate::memory::View;

/// Messages among some ranks of a group, numbered by their place among them. What ends, and errors, report ranks of the
/// group.
pub struct Subset {
    group: Arc<dyn Transport>,
    ranks: Vec<usize>,
    rank: usize,
}

impl Subset {
    /// The ranks `ranks` of `group`; this one is among them.
    pub fn new(group: Arc<dyn Transport>, ranks: Vec<usize>) -> Result<Self> {
        match ranks.iter().position(|&rank| rank == group.rank()) {
            Some(rank) => Ok(Subset { group, ranks, rank }),
            None => Err(Error::Internal(format!("rank {} is not among {ranks:?}", group.rank()))),
        }
    }
}

impl Transport for Subset {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.ranks.len()
    }

    fn send(&self, channel: Channel, peer: usize, tag: i32, data: &View) -> Result<Box<dyn Request>> {
        self.group.send(channel, self.ranks[peer], tag, data)
    }

    fn receive(&self, channel: Channel, peer: Option<usize>, tag: i32, buffer: &View) -> Result<Box<dyn Request>> {
        self.group.receive(channel, peer.map(|peer| self.ranks[peer]), tag, buffer)
    }
}
