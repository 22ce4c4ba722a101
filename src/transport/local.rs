//! Ranks in one thread, for tests of schedules: messages cross in memory, and arrive after a while.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Arrival, Channel, Outstanding, Request, Transport};
use crate::error::{Error, Result};
use crate::memory::View;

type Key = (usize, usize, bool, i32);

/// How many tests of any message a sent one takes to leave.
const DELAY: u32 = 5;

/// What is on its way, and the operations to which it belongs.
#[derive(Default)]
pub(crate) struct Network {
    state: Arc<Mutex<State>>,
    operations: Mutex<Vec<Arc<Outstanding>>>,
}

#[derive(Default)]
struct State {
    /// Sent, but still read from the sender's memory.
    leaving: VecDeque<Leaving>,
    mail: HashMap<Key, VecDeque<Vec<u8>>>,
    sends: u64,
    sent: u64,
}

struct Leaving {
    number: u64,
    key: Key,
    data: View,
    delay: u32,
}

impl Network {
    /// The messages of one operation of one rank. They are kept however the operation ends, as the engine keeps them.
    pub fn operation(&self) -> Arc<Outstanding> {
        let operation = Arc::<Outstanding>::default();
        self.operations.lock().unwrap().push(operation.clone());
        operation
    }

    /// Whether every message was received.
    pub fn is_empty(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.leaving.is_empty() && state.mail.values().all(VecDeque::is_empty)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Nobody tests messages any more, so nothing reads them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner).leaving.clear();
    }
}

impl State {
    /// As in MPI, testing any message moves all of them on. Memory is read as late as possible, so that a schedule that
    /// writes there too early is found out.
    fn progress(&mut self) {
        for message in &mut self.leaving {
            message.delay = message.delay.saturating_sub(1);
        }
        while self.leaving.front().is_some_and(|message| message.delay == 0) {
            let Some(message) = self.leaving.pop_front() else { break };
            self.mail.entry(message.key).or_default().push_back(message.data.to_vec());
            self.sent += 1;
        }
    }
}

/// One rank of a [`Network`].
pub(crate) struct LocalTransport {
    pub network: Arc<Network>,
    pub rank: usize,
    pub size: usize,
}

impl Transport for LocalTransport {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn send(&self, channel: Channel, peer: usize, tag: i32, data: &View) -> Result<Box<dyn Request>> {
        assert!(peer < self.size && peer != self.rank, "rank {} sends to {peer}", self.rank);
        let key = (self.rank, peer, channel == Channel::Collective, tag);
        let mut state = self.network.state.lock().unwrap();
        state.sends += 1;
        let number = state.sends;
        state.leaving.push_back(Leaving { number, key, data: *data, delay: DELAY });
        Ok(Box::new(Sending { state: self.network.state.clone(), number, peer, len: data.len() }))
    }

    fn receive(&self, channel: Channel, peer: Option<usize>, tag: i32, buffer: &View) -> Result<Box<dyn Request>> {
        let key = (peer.unwrap(), self.rank, channel == Channel::Collective, tag);
        assert!(key.0 < self.size && key.0 != self.rank, "rank {} receives from {}", self.rank, key.0);
        Ok(Box::new(Receiving { state: self.network.state.clone(), key, buffer: *buffer }))
    }
}

struct Sending {
    state: Arc<Mutex<State>>,
    number: u64,
    peer: usize,
    len: usize,
}

impl Request for Sending {
    fn test(&mut self) -> Result<Option<Arrival>> {
        let mut state = self.state.lock().unwrap();
        state.progress();
        // Messages leave in the order in which they were sent.
        Ok((state.sent >= self.number).then_some(Arrival { peer: self.peer, bytes: self.len as u64 }))
    }

    fn cancel(&mut self) {}
}

impl Drop for Sending {
    fn drop(&mut self) {
        // Whoever drops it counts on the memory being unused.
        let is_own = |message: &Leaving| message.number == self.number;
        let is_read = self.state.lock().unwrap_or_else(PoisonError::into_inner).leaving.iter().any(is_own);
        assert!(!is_read || std::thread::panicking(), "a message to rank {} was dropped while under way", self.peer);
    }
}

struct Receiving {
    state: Arc<Mutex<State>>,
    key: Key,
    buffer: View,
}

impl Request for Receiving {
    fn test(&mut self) -> Result<Option<Arrival>> {
        let mut state = self.state.lock().unwrap();
        state.progress();
        let Some(message) = state.mail.entry(self.key).or_default().pop_front() else { return Ok(None) };
        let (received, expected) = (message.len() as u64, self.buffer.len() as u64);
        if received != expected {
            return Err(Error::Length { peer: self.key.0, received, expected });
        }
        self.buffer.write(&message);
        Ok(Some(Arrival { peer: self.key.0, bytes: received }))
    }

    fn cancel(&mut self) {}
}

mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "was dropped while under way")]
    fn a_message_that_is_read_must_be_kept() {
        let transport = LocalTransport { network: Arc::default(), rank: 0, size: 2 };
        drop(transport.send(Channel::Collective, 1, 0, &View::empty()));
    }
}
