//! Messages from all peers: which belongs to which receive.

use std::collections::VecDeque;
use std::sync::Arc;

use super::header::{Header, Key};
use super::{BURST, PIECE, Receipt};
use crate::error::{Error, Result};
use crate::memory::{Scratch, View};
use crate::shm::RingReader;
use crate::transport::Arrival;
use crate::transport::claim::{Claim, Place};

/// Messages from all peers.
pub(super) struct Incoming {
    streams: Vec<Stream>,
    posted: u64,
    /// Receives that have not ended, in the order in which they were started.
    receives: VecDeque<Receiving>,
    /// Messages that no receive has taken yet, in the order in which they came.
    aside: VecDeque<Aside>,
    /// Messages kept aside so far.
    kept: u64,
}

struct Stream {
    ring: RingReader,
    /// The message whose bytes come next.
    current: Option<Current>,
}

struct Current {
    header: Header,
    read: usize,
    target: Target,
}

/// Where a message goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Into the memory of a receive.
    Receive(u64),
    /// Into memory of its own.
    Aside(u64),
    /// It is too long or too short for the receive that takes it.
    Refused(u64),
    /// Nobody wants it any more.
    Nowhere,
}

struct Receiving {
    id: u64,
    peer: Option<usize>,
    key: Key,
    buffer: View,
    /// Present if the message may come from elsewhere.
    claim: Option<Arc<Claim>>,
    state: State,
}

enum State {
    Waiting,
    /// A message has been found, and is on its way.
    Taking,
    Ended(Result<Arrival>),
}

struct Aside {
    id: u64,
    peer: usize,
    key: Key,
    memory: Scratch,
    len: usize,
    is_complete: bool,
}

impl Incoming {
    pub fn new(rings: Vec<RingReader>) -> Self {
        let streams = rings.into_iter().map(|ring| Stream { ring, current: None }).collect();
        Incoming { streams, posted: 0, receives: VecDeque::new(), aside: VecDeque::new(), kept: 0 }
    }

    /// Starts a receive; [`Incoming::progress`] looks for its message.
    pub fn post(&mut self, peer: Option<usize>, key: Key, buffer: &View, claim: Option<Arc<Claim>>) -> u64 {
        self.posted += 1;
        let receiving = Receiving { id: self.posted, peer, key, buffer: *buffer, claim, state: State::Waiting };
        self.receives.push_back(receiving);
        self.posted
    }

    /// Receives a message that has come as a whole and is the next one of its sender.
    pub fn receive_now(&mut self, peer: Option<usize>, key: Key, buffer: &View) -> Receipt {
        if !self.receives.is_empty() || !self.aside.is_empty() {
            return Receipt::NotNext;
        }
        let peers = match peer {
            Some(peer) => peer..peer + 1,
            None => 0..self.streams.len(),
        };
        let wanted = Header { key, len: buffer.len() };
        let mut may_come = false;
        for peer in peers {
            let Stream { ring, current } = &mut self.streams[peer];
            let available = ring.available();
            if current.is_some() {
                continue;
            }
            if available < Header::LEN {
                may_come = true;
                continue;
            }
            let mut header = [0; Header::LEN];
            ring.peek_bytes(&mut header);
            if Header::from_bytes(header) != wanted {
                continue;
            }
            if available < Header::LEN + buffer.len() {
                return Receipt::NotYet;
            }
            ring.skip(Header::LEN);
            ring.read(buffer, buffer.len());
            ring.align();
            ring.show();
            return Receipt::Taken(Arrival { peer, bytes: buffer.len() as u64 });
        }
        if may_come { Receipt::NotYet } else { Receipt::NotNext }
    }

    /// Takes in what has come for this receive and those before it, up to a limit. Whether anything has, and `Some` when
    /// the receive has ended; it is forgotten then.
    pub fn progress(&mut self, id: u64) -> Result<(bool, Option<Arrival>)> {
        let Some(index) = self.index(id) else { return Err(Error::Internal("a receive that nobody knows".to_owned())) };
        let peers = match self.receives[index].peer {
            Some(peer) => peer..peer + 1,
            None => 0..self.streams.len(),
        };
        self.take_from_aside();
        let mut moved = false;
        for peer in peers {
            moved |= self.read(peer);
        }
        match self.index(id).and_then(|index| match self.receives[index].state {
            State::Ended(_) => self.receives.remove(index),
            _ => None,
        }) {
            Some(Receiving { state: State::Ended(result), .. }) => Ok((true, Some(result?))),
            _ => Ok((moved, None)),
        }
    }

    /// Ends a receive whose memory is wanted back.
    pub fn cancel(&mut self, id: u64) {
        if let Some(mut receiving) = self.remove(id) {
            receiving.buffer = View::empty();
            receiving.state = State::Ended(Ok(Arrival { peer: 0, bytes: 0 }));
            self.receives.push_back(receiving);
        }
    }

    /// Knows nothing of a receive any more. What is on its way to it goes nowhere.
    pub fn forget(&mut self, id: u64) {
        self.remove(id);
    }

    fn remove(&mut self, id: u64) -> Option<Receiving> {
        for stream in &mut self.streams {
            if let Some(current) = &mut stream.current
                && matches!(current.target, Target::Receive(target) | Target::Refused(target) if target == id)
            {
                current.target = Target::Nowhere;
            }
        }
        self.index(id).and_then(|index| self.receives.remove(index))
    }

    fn index(&self, id: u64) -> Option<usize> {
        self.receives.iter().position(|receiving| receiving.id == id)
    }

    /// Reads from a peer for as long as a receive wants something of it, up to a limit. Returns whether anything came.
    fn read(&mut self, peer: usize) -> bool {
        let mut steps = 0;
        while steps < BURST / PIECE && self.step(peer) {
            steps += 1;
            let Stream { ring, current } = &self.streams[peer];
            if current.as_ref().is_some_and(|current| current.read > 0) {
                // Of a long message: the sender copies the next piece meanwhile.
                ring.show();
            }
        }
        if steps > 0 {
            self.streams[peer].ring.show();
        }
        steps > 0
    }

    /// Reads a header, or a piece. False if there is nothing to do.
    fn step(&mut self, peer: usize) -> bool {
        let Some(Current { header, read, target }) = self.streams[peer].current.take() else {
            return self.begin(peer);
        };
        let ring = &mut self.streams[peer].ring;
        let left = read..header.len.min(read + PIECE);
        let count = match target {
            Target::Receive(id) => match self.receives.iter().find(|receiving| receiving.id == id) {
                Some(receiving) => ring.read(&receiving.buffer.slice(left), header.len),
                None => ring.skip(left.len()),
            },
            Target::Aside(id) => match self.aside.iter_mut().find(|message| message.id == id) {
                Some(message) => ring.read(&message.memory.view().slice(left), header.len),
                None => ring.skip(left.len()),
            },
            Target::Refused(_) | Target::Nowhere => ring.skip(left.len()),
        };
        if read + count < header.len {
            self.streams[peer].current = Some(Current { header, read: read + count, target });
            return count > 0;
        }
        ring.align();
        self.complete(peer, header, target);
        true
    }

    /// Looks at the next message, and takes it if a receive wants something of this peer.
    fn begin(&mut self, peer: usize) -> bool {
        let wanted = self.receives.iter().any(|receiving| receiving.waits_for(peer));
        let ring = &mut self.streams[peer].ring;
        if !wanted || ring.available() < Header::LEN {
            return false;
        }
        let mut bytes = [0; Header::LEN];
        ring.read_bytes(&mut bytes);
        let header = Header::from_bytes(bytes);
        let taker = self.receives.iter_mut().find(|receiving| receiving.takes(peer, header.key));
        let target = match taker {
            Some(receiving) => {
                receiving.take();
                receiving.state = State::Taking;
                let fits = receiving.buffer.len() == header.len;
                if fits { Target::Receive(receiving.id) } else { Target::Refused(receiving.id) }
            }
            None => {
                self.kept += 1;
                let memory = Scratch::new(header.len);
                let (id, key, len) = (self.kept, header.key, header.len);
                self.aside.push_back(Aside { id, peer, key, memory, len, is_complete: false });
                Target::Aside(id)
            }
        };
        self.streams[peer].current = Some(Current { header, read: 0, target });
        true
    }

    fn complete(&mut self, peer: usize, header: Header, target: Target) {
        match target {
            Target::Receive(id) => self.end(id, Ok(Arrival { peer, bytes: header.len as u64 })),
            Target::Refused(id) => self.end_refused(id, peer, header.len),
            Target::Aside(id) => {
                if let Some(message) = self.aside.iter_mut().find(|message| message.id == id) {
                    message.is_complete = true;
                }
                // Before a later message can be taken in its place.
                self.take_from_aside();
            }
            Target::Nowhere => {}
        }
    }

    fn end(&mut self, id: u64, result: Result<Arrival>) {
        if let Some(receiving) = self.receives.iter_mut().find(|receiving| receiving.id == id) {
            receiving.state = State::Ended(result);
        }
    }

    fn end_refused(&mut self, id: u64, peer: usize, received: usize) {
        let Some(receiving) = self.receives.iter().find(|receiving| receiving.id == id) else { return };
        let expected = receiving.buffer.len() as u64;
        self.end(id, Err(Error::Length { peer, received: received as u64, expected }));
    }

    /// Gives messages that were kept aside to the receives that take them.
    fn take_from_aside(&mut self) {
        if self.aside.is_empty() {
            return;
        }
        for receiving in &mut self.receives {
            let first = self.aside.iter().position(|message| receiving.takes(message.peer, message.key));
            // Its bytes may still be on their way; no later message may be taken in its place.
            let Some(index) = first.filter(|&index| self.aside[index].is_complete) else { continue };
            let Some(mut message) = self.aside.remove(index) else { continue };
            let (peer, bytes) = (message.peer, message.len as u64);
            receiving.take();
            receiving.state = State::Ended(if receiving.buffer.len() == message.len {
                receiving.buffer.copy_from(&message.memory.view());
                Ok(Arrival { peer, bytes })
            } else {
                Err(Error::Length { peer, received: bytes, expected: receiving.buffer.len() as u64 })
            });
        }
    }
}

impl Receiving {
    fn waits_for(&self, peer: usize) -> bool {
        let is_open = self.claim.as_ref().is_none_or(|claim| claim.is_open_to(Place::Shared));
        matches!(self.state, State::Waiting) && self.peer.is_none_or(|own| own == peer) && is_open
    }

    /// It has found its message here.
    fn take(&self) {
        if let Some(claim) = &self.claim {
            claim.take(Place::Shared);
        }
    }

    fn takes(&self, peer: usize, key: Key) -> bool {
        self.waits_for(peer) && self.key == key
    }
}
