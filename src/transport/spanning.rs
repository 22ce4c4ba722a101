//! Messages of a group that spans nodes: through shared memory between ranks of one node, over MPI between others. Each
//! pair of ranks has one way, so that messages of a pair keep their order.

use std::sync::Arc;

use super::claim::Claim;
use super::{Arrival, Channel, MpiTransport, Request, SharedTransport, Transport};
use crate::error::Result;
use crate::memory::View;

/// See the module.
pub struct SpanningTransport {
    mpi: Arc<MpiTransport>,
    shared: SharedTransport,
    /// By rank of the group: its rank on this node, if it is here.
    neighbours: Vec<Option<usize>>,
}

impl SpanningTransport {
    /// The highest tag on the point-to-point channel.
    pub fn tag_max(&self) -> i32 {
        self.mpi.tag_max().min(self.shared.tag_max())
    }

    /// `neighbours[r]` is the rank on this node of the group's rank r, if that is here.
    pub fn new(mpi: Arc<MpiTransport>, shared: SharedTransport, neighbours: Vec<Option<usize>>) -> Self {
        SpanningTransport { mpi, shared, neighbours }
    }

    /// Whether `peer` rings when it has sent or taken something, so that nobody has to poll.
    pub fn rings(&self, peer: Option<usize>) -> bool {
        peer.is_some_and(|peer| self.neighbours[peer].is_some())
    }
}

impl Transport for SpanningTransport {
    fn rank(&self) -> usize {
        self.mpi.rank()
    }

    fn size(&self) -> usize {
        self.mpi.size()
    }

    fn send(&self, channel: Channel, peer: usize, tag: i32, data: &View) -> Result<Box<dyn Request>> {
        match self.neighbours[peer] {
            Some(neighbour) => self.shared.send(channel, neighbour, tag, data),
            None => self.mpi.send(channel, peer, tag, data),
        }
    }

    fn receive(&self, channel: Channel, peer: Option<usize>, tag: i32, buffer: &View) -> Result<Box<dyn Request>> {
        let Some(peer) = peer else {
            let claim = Arc::new(Claim::default());
            return Ok(Box::new(Either {
                here: Some(self.shared.receive_half(channel, tag, buffer, claim.clone())),
                elsewhere: self.mpi.receive_half(channel, tag, buffer, claim),
            }));
        };
        match self.neighbours[peer] {
            Some(neighbour) => self.shared.receive(channel, Some(neighbour), tag, buffer),
            None => self.mpi.receive(channel, Some(peer), tag, buffer),
        }
    }
}

/// A receive from any rank. A [`Claim`] sees to it that one half at most finds a message.
struct Either<H, E> {
    /// `None` once it has failed.
    here: Option<H>,
    elsewhere: E,
}

impl<H: Request, E: Request> Request for Either<H, E> {
    fn test(&mut self) -> Result<Option<Arrival>> {
        if let Some(here) = &mut self.here {
            match here.test() {
                Ok(None) => {}
                Ok(Some(arrival)) => {
                    // It has found nothing, and looks no more.
                    self.elsewhere.cancel();
                    return Ok(Some(arrival));
                }
                Err(error) => {
                    self.here = None;
                    self.elsewhere.cancel();
                    // MPI may be writing into the memory if the message was found there; see `cancel`.
                    return match self.elsewhere.test()? {
                        Some(_) => Err(error),
                        None => Ok(None),
                    };
                }
            }
        }
        self.elsewhere.test()
    }

    fn has_moved(&self) -> bool {
        self.here.as_ref().is_some_and(Request::has_moved) || self.elsewhere.has_moved()
    }

    fn cancel(&mut self) {
        self.here = None;
        self.elsewhere.cancel();
    }
}
