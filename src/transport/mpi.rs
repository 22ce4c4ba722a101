//! Messages over MPI: one communicator for collectives, one for the user's send and recv.

use std::sync::{Arc, Mutex, PoisonError};

use super::claim::Claim;
use super::matching::{Matching, Receive};
use super::{Arrival, Channel, Request, Transport};
use crate::error::{Error, Result};
use crate::memory::View;
use crate::mpi::{self, Communicator, Environment, Message};

/// A group's two communicators.
#[derive(Debug)]
pub struct MpiTransport {
    rank: usize,
    size: usize,
    tag_max: i32,
    endpoint: Arc<Endpoint>,
}

/// What the messages of a group need for as long as one is under way.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// `None` once the group was closed.
    communicators: Mutex<Option<Communicators>>,
    pub matching: Matching,
}

#[derive(Debug)]
struct Communicators {
    collective: Communicator,
    point_to_point: Communicator,
}

impl MpiTransport {
    /// The highest tag on the point-to-point channel.
    pub fn tag_max(&self) -> i32 {
        self.tag_max
    }

    /// Creates the communicators of the processes with these ranks in MPI_COMM_WORLD. Blocks until all of them have
    /// called it: they must have met before. `tag` separates groups that are created at the same time.
    pub fn create(environment: &Environment, world_ranks: &[usize], tag: i32) -> Result<Self> {
        let ranks: Vec<_> = world_ranks.iter().map(|&rank| rank as i32).collect();
        let collective = Communicator::create(environment, &ranks, tag)?;
        let point_to_point = collective.duplicate()?;
        Ok(MpiTransport {
            rank: collective.rank()?,
            size: collective.size()?,
            tag_max: environment.tag_max(),
            endpoint: Endpoint::new(Communicators { collective, point_to_point }),
        })
    }

    /// MPI_COMM_WORLD, which other libraries use too: for a first meeting, with few tags.
    pub fn world(environment: &Environment) -> Self {
        MpiTransport {
            rank: environment.world_rank(),
            size: environment.world_size(),
            tag_max: mpi::PORTABLE_TAG_MAX,
            endpoint: Endpoint::new(Communicators {
                collective: Communicator::world(environment),
                point_to_point: Communicator::world(environment),
            }),
        }
    }

    /// As [`Transport::receive`] from any rank, unless the message is found elsewhere first.
    pub(super) fn receive_half(
        &self,
        channel: Channel,
        tag: i32,
        buffer: &View,
        claim: Arc<Claim>,
    ) -> impl Request + use<> {
        Receive::start(self.endpoint.clone(), (channel, tag), None, buffer, Some(claim))
    }

    /// Gives the communicators back to MPI. No request may be pending, and every rank must have used the group up:
    /// after a failure call [`MpiTransport::leak`] instead.
    pub fn free(&self) -> Result<()> {
        match self.endpoint.take() {
            Some(pair) if mpi::is_usable() => pair.collective.free().and(pair.point_to_point.free()),
            _ => Ok(()),
        }
    }

    /// Forgets the communicators without giving them back. What a late peer sends to a failed group must never match
    /// a message of a later one, and MPI may reuse the context id of a communicator that was freed.
    pub fn leak(&self) {
        self.endpoint.take();
    }
}

impl Endpoint {
    fn new(communicators: Communicators) -> Arc<Self> {
        Arc::new(Endpoint { communicators: Mutex::new(Some(communicators)), matching: Matching::default() })
    }

    fn take(&self) -> Option<Communicators> {
        self.communicators.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A message that has come from `peer`, or from anybody.
    pub fn probe(&self, channel: Channel, peer: Option<usize>, tag: i32) -> Result<Option<Message>> {
        self.with(channel, |communicator| Message::probe(communicator, peer, tag))
    }

    fn with<T>(&self, channel: Channel, call: impl FnOnce(&Communicator) -> Result<T>) -> Result<T> {
        match &*self.communicators.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(pair) => call(match channel {
                Channel::Collective => &pair.collective,
                Channel::PointToPoint => &pair.point_to_point,
            }),
            None => Err(Error::Argument("the group was shut down".to_owned())),
        }
    }
}

impl Transport for MpiTransport {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn send(&self, channel: Channel, peer: usize, tag: i32, data: &View) -> Result<Box<dyn Request>> {
        self.endpoint
            .with(channel, |communicator| Ok(Box::new(mpi::Request::send(communicator, peer, tag, data)?) as _))
    }

    fn receive(&self, channel: Channel, peer: Option<usize>, tag: i32, buffer: &View) -> Result<Box<dyn Request>> {
        Ok(Box::new(Receive::start(self.endpoint.clone(), (channel, tag), peer, buffer, None)))
    }
}

impl Request for mpi::Request {
    fn test(&mut self) -> Result<Option<Arrival>> {
        mpi::Request::test(self)
    }

    fn cancel(&mut self) {
        mpi::Request::cancel(self);
    }
}
