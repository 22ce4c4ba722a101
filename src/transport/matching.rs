//! Receives over MPI: which message belongs to which, checked for its length before anything is written.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::claim::{Claim, Place};
use super::mpi::Endpoint;
use super::{Arrival, Channel, Request};
use crate::error::{Error, Result};
use crate::memory::{Scratch, View};
use crate::mpi::{self, Message};

type Key = (Channel, i32);

/// The receives of one rank that wait for their message, by channel and tag, in the order in which they were started.
#[derive(Debug, Default)]
pub(super) struct Matching {
    waiting: Mutex<HashMap<Key, VecDeque<Arc<Slot>>>>,
}

/// A receive that waits. Its message may be found by another one that asked MPI.
#[derive(Debug)]
struct Slot {
    /// `None`: any.
    peer: Option<usize>,
    message: Mutex<Option<Message>>,
    /// Present if the message may come from elsewhere.
    claim: Option<Arc<Claim>>,
}

impl Slot {
    fn message(&self) -> MutexGuard<'_, Option<Message>> {
        self.message.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        self.claim.as_ref().is_none_or(|claim| claim.is_open_to(Place::Mpi))
    }
}

impl Matching {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Key, VecDeque<Arc<Slot>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, key: Key, peer: Option<usize>, claim: Option<Arc<Claim>>) -> Arc<Slot> {
        let slot = Arc::new(Slot { peer, message: Mutex::default(), claim });
        self.waiting().entry(key).or_default().push_back(slot.clone());
        slot
    }

    fn leave(&self, key: Key, slot: &Arc<Slot>) {
        let mut waiting = self.waiting();
        if let Some(queue) = waiting.get_mut(&key) {
            queue.retain(|other| !Arc::ptr_eq(other, slot));
            if queue.is_empty() {
                waiting.remove(&key);
            }
        }
    }

    /// Gives a message to the first receive that takes it and has none: messages of one sender and tag are received in
    /// the order in which the receives were started. Returns it if there is no such receive.
    fn deliver(&self, key: Key, message: Message) -> Option<Message> {
        let waiting = self.waiting();
        let takes = |slot: &&Arc<Slot>| {
            slot.peer.is_none_or(|peer| peer == message.source()) && slot.message().is_none() && slot.is_open()
        };
        match waiting.get(&key).and_then(|queue| queue.iter().find(takes)) {
            Some(slot) => {
                if let Some(claim) = &slot.claim {
                    claim.take(Place::Mpi);
                }
                *slot.message() = Some(message);
                None
            }
            None => Some(message),
        }
    }
}

/// A receive.
pub(super) struct Receive {
    endpoint: Arc<Endpoint>,
    key: Key,
    buffer: View,
    state: State,
}

enum State {
    Waiting(Arc<Slot>),
    Receiving(mpi::Request),
    /// A message that nobody can take: it is received, so that its sender goes on, into memory of its own.
    Discarding(mpi::Request, Error, #[allow(dead_code)] Scratch),
    GivenUp,
}

impl Receive {
    pub fn start(
        endpoint: Arc<Endpoint>,
        key: Key,
        peer: Option<usize>,
        buffer: &View,
        claim: Option<Arc<Claim>>,
    ) -> Self {
        let slot = endpoint.matching.enter(key, peer, claim);
        Receive { endpoint, key, buffer: *buffer, state: State::Waiting(slot) }
    }

    fn begin(&mut self, message: Message) -> Result<()> {
        let (peer, bytes) = (message.source(), message.bytes());
        if bytes == self.buffer.len() {
            self.state = State::Receiving(message.receive(&self.buffer)?);
            return Ok(());
        }
        let error = Error::Length { peer, received: bytes as u64, expected: self.buffer.len() as u64 };
        self.discard(message, error)
    }

    fn discard(&mut self, message: Message, error: Error) -> Result<()> {
        let mut scratch = Scratch::new(message.bytes());
        let request = message.receive(&scratch.view())?;
        self.state = State::Discarding(request, error, scratch);
        Ok(())
    }
}

impl Request for Receive {
    fn test(&mut self) -> Result<Option<Arrival>> {
        if let State::Waiting(slot) = &self.state {
            let slot = slot.clone();
            if slot.message().is_none()
                && slot.is_open()
                && let Some(message) = self.endpoint.probe(self.key.0, slot.peer, self.key.1)?
            {
                let left = self.endpoint.matching.deliver(self.key, message);
                debug_assert!(left.is_none(), "this receive takes it, if no other does");
            }
            let Some(message) = slot.message().take() else { return Ok(None) };
            self.endpoint.matching.leave(self.key, &slot);
            self.begin(message)?;
        }
        match &mut self.state {
            State::Waiting(_) => Ok(None),
            State::Receiving(request) => request.test(),
            State::Discarding(request, error, _) => match request.test()? {
                Some(_) => Err(error.clone()),
                None => Ok(None),
            },
            State::GivenUp => Ok(Some(Arrival { peer: 0, bytes: 0 })),
        }
    }

    fn cancel(&mut self) {
        // A message that is on its way into memory is there soon.
        let State::Waiting(slot) = &self.state else { return };
        let slot = slot.clone();
        self.endpoint.matching.leave(self.key, &slot);
        self.state = State::GivenUp;
        // Another receive may have found this one's message: the next one takes it, or it is received for nobody, since
        // only its handle can receive it and its sender waits for that.
        let message = slot.message().take();
        if let Some(message) = message.and_then(|message| self.endpoint.matching.deliver(self.key, message)) {
            let error = Error::Internal("a message for a receive that was given up".to_owned());
            if let Err(error) = self.discard(message, error) {
                log::warn!("{error}");
            }
        }
    }
}
