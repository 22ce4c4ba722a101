//! Messages between ranks of one node, through the rings of their segment. Each is a header and its bytes.
//!
//! Messages of one sender are sent one after the other. The receiver copies each into the memory of the first receive that
//! takes it. A message that none takes stays in the ring, unless a receive waits for one that comes after it; then it is
//! kept aside. So a full ring blocks only its sender. A long message is shown piece by piece, so that the receiver copies
//! one while the sender copies the next.

mod header;
mod incoming;
mod outgoing;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::claim::Claim;
use super::{Arrival, Channel, Request, Transport};
use crate::error::{Error, Result};
use crate::memory::View;
use crate::shm::Node;
use header::Key;
use incoming::Incoming;
use outgoing::Outgoing;

/// Bytes of a message after which the other side sees them: it reads them while this one writes the next.
pub const PIECE: usize = 32 << 10;
/// Bytes after which other operations have their turn.
const BURST: usize = 1 << 20;

/// What came of looking for a message.
#[derive(Clone, Copy, Debug)]
pub enum Receipt {
    /// It was there, and is in its buffer.
    Taken(Arrival),
    /// It may come at any moment. Nothing has been done.
    NotYet,
    /// There are others to be dealt with first, whose receives may come later. Nothing has been done.
    NotNext,
}

/// The ranks of a group that are on this node, numbered as its [`Node`] does; what ends reports ranks of the group.
pub struct SharedTransport {
    mailbox: Arc<Mailbox>,
}

/// What the messages of a group need for as long as one is under way.
struct Mailbox {
    node: Arc<Node>,
    state: Mutex<State>,
}

struct State {
    outgoing: Vec<Outgoing>,
    incoming: Incoming,
}

impl SharedTransport {
    /// The highest tag on the point-to-point channel.
    pub fn tag_max(&self) -> i32 {
        i32::MAX
    }

    /// The transport of a group whose ranks are those of `node`. There may be one.
    pub fn new(node: &Arc<Node>) -> Self {
        let (writers, readers): (Vec<_>, Vec<_>) = (0..node.size()).map(|peer| node.streams(peer)).unzip();
        let state =
            State { outgoing: writers.into_iter().map(Outgoing::new).collect(), incoming: Incoming::new(readers) };
        SharedTransport { mailbox: Arc::new(Mailbox { node: node.clone(), state: Mutex::new(state) }) }
    }

    /// As [`Transport::send`], if the message leaves at once. False: nothing has been done.
    pub fn send_now(&self, channel: Channel, peer: usize, tag: i32, data: &View) -> bool {
        self.mailbox.lock().outgoing[peer].send_now(Key { channel, tag }, data)
    }

    /// As [`Transport::receive`], if the message is there.
    pub fn receive_now(&self, channel: Channel, peer: Option<usize>, tag: i32, buffer: &View) -> Receipt {
        match self.mailbox.lock().incoming.receive_now(peer, Key { channel, tag }, buffer) {
            Receipt::Taken(arrival) => {
                Receipt::Taken(Arrival { peer: self.mailbox.node.group_rank(arrival.peer), ..arrival })
            }
            other => other,
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
        let id = self.mailbox.lock().incoming.post(None, Key { channel, tag }, buffer, Some(claim));
        Receive { mailbox: self.mailbox.clone(), peer: None, id, is_half: true, moved: false }
    }
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for SharedTransport {
    fn rank(&self) -> usize {
        self.mailbox.node.rank()
    }

    fn size(&self) -> usize {
        self.mailbox.node.size()
    }

    fn send(&self, channel: Channel, peer: usize, tag: i32, data: &View) -> Result<Box<dyn Request>> {
        let id = self.mailbox.lock().outgoing[peer].post(Key { channel, tag }, data);
        Ok(Box::new(Send { mailbox: self.mailbox.clone(), peer, id, len: data.len(), moved: false }))
    }

    fn receive(&self, channel: Channel, peer: Option<usize>, tag: i32, buffer: &View) -> Result<Box<dyn Request>> {
        let id = self.mailbox.lock().incoming.post(peer, Key { channel, tag }, buffer, None);
        Ok(Box::new(Receive { mailbox: self.mailbox.clone(), peer, id, is_half: false, moved: false }))
    }
}

/// An error of a message, with the sender as the group knows it.
fn in_group(node: &Node, error: Error) -> Error {
    match error {
        Error::Length { peer, received, expected } => Error::Length { peer: node.group_rank(peer), received, expected },
        other => other,
    }
}

struct Send {
    mailbox: Arc<Mailbox>,
    peer: usize,
    id: u64,
    len: usize,
    moved: bool,
}

impl Request for Send {
    fn test(&mut self) -> Result<Option<Arrival>> {
        let mut state = self.mailbox.lock();
        let rank = self.mailbox.node.group_rank(self.peer);
        let outgoing = &mut state.outgoing[self.peer];
        self.moved = outgoing.write();
        match outgoing.has_left(self.id) {
            Some(true) => Ok(Some(Arrival { peer: rank, bytes: self.len as u64 })),
            // The peer makes no more room once it has gone.
            Some(false) if self.moved => Ok(None),
            Some(false) => self.mailbox.node.check_peer(self.peer).map(|()| None),
            // A peer that has gone is the better reason.
            None => self.mailbox.node.check_peer(self.peer).and(Err(Error::Abandoned { rank })),
        }
    }

    fn has_moved(&self) -> bool {
        self.moved
    }

    fn cancel(&mut self) {
        self.mailbox.lock().outgoing[self.peer].forget(self.id);
    }
}

impl Drop for Send {
    /// However it ended: its memory may be gone from now on.
    fn drop(&mut self) {
        self.cancel();
    }
}

struct Receive {
    mailbox: Arc<Mailbox>,
    peer: Option<usize>,
    id: u64,
    /// Whether a rank of another node may send the message, too.
    is_half: bool,
    moved: bool,
}

impl Request for Receive {
    fn test(&mut self) -> Result<Option<Arrival>> {
        let node = &self.mailbox.node;
        // Before the look: what a peer has sent before it went is there.
        let absent = match self.peer {
            Some(peer) => node.check_peer(peer),
            None if self.is_half => node.check_no_failure(),
            None => node.check_any_peer(),
        };
        let (moved, ended) = self.mailbox.lock().incoming.progress(self.id).map_err(|error| in_group(node, error))?;
        self.moved = moved;
        // While something comes there may be more, and what is waited for may be behind it.
        if ended.is_none() && !moved {
            absent?;
        }
        Ok(ended.map(|arrival| Arrival { peer: node.group_rank(arrival.peer), ..arrival }))
    }

    fn has_moved(&self) -> bool {
        self.moved
    }

    fn cancel(&mut self) {
        self.mailbox.lock().incoming.cancel(self.id);
    }
}

impl Drop for Receive {
    /// See [`Send`].
    fn drop(&mut self) {
        self.mailbox.lock().incoming.forget(self.id);
    }
}
