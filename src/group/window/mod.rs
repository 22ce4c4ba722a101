//! Windows: memory of each rank that the other ranks write into, without the rank that has it taking part.
//!
//! Where a rank has the window of another one mapped, it copies into it by itself. Otherwise it sends a header and the data,
//! and a service of the other rank, which its engine drives, receives them into the window and answers. Signals are
//! messages of no bytes, each of which one wait receives.
//!
//! What a rank puts, and signals, through one window happens in the order of the calls: a signal is sent when the puts
//! before it have arrived.

mod service;

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use super::schedule::TAGS;
use super::{Call, Group, LONGEST_TIMEOUT, Next, Number, Reach, Started, neighbours};
use crate::collective::Context;
use crate::collective::node::pause;
use crate::engine::{Completion, Engine, Lane, OnFailure, Operation, Order, Outcome, Schedule, Task, Witness, engine};
use crate::error::{Error, Result};
use crate::memory::View;
use crate::mpi::PORTABLE_TAG_MAX;
use crate::shm::heap::Spot;
use crate::shm::{Mapped, Node};
use crate::transport::{Channel, Outstanding, Transport};
use service::{Header, Service};

/// Up to so many bytes a caller that does not wait copies by itself.
const AT_ONCE: usize = 256 << 10;
/// After so many bytes others have their turn.
const PIECE: usize = 1 << 20;

/// What messages of a window are, each with a tag of its own.
#[derive(Clone, Copy)]
enum Kind {
    Header,
    Data,
    Answer,
    Signal,
}

impl Kind {
    const COUNT: u64 = 4;

    fn tag(self, window: u64) -> i32 {
        // The tags above those of collectives, leaders and monitored barriers.
        let first = 3 * TAGS;
        let windows = (PORTABLE_TAG_MAX as u64 - first) / Self::COUNT;
        (first + window % windows * Self::COUNT + self as u64) as i32
    }
}

/// What a rank says of its part of a window.
#[derive(Clone, Copy, Debug)]
struct Extent {
    spot: Spot,
    len: u64,
    dtype: u64,
}

impl Extent {
    const LEN: usize = Spot::LEN + 16;

    fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..Spot::LEN].copy_from_slice(&self.spot.to_bytes());
        bytes[Spot::LEN..Spot::LEN + 8].copy_from_slice(&self.len.to_ne_bytes());
        bytes[Spot::LEN + 8..].copy_from_slice(&self.dtype.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::LEN]) -> Extent {
        let word = |start: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[start..start + 8]);
            u64::from_ne_bytes(word)
        };
        let mut spot = [0; Spot::LEN];
        spot.copy_from_slice(&bytes[..Spot::LEN]);
        Extent { spot: Spot::from_bytes(&spot), len: word(Spot::LEN), dtype: word(Spot::LEN + 8) }
    }
}

/// How this rank reaches the memory of another one.
#[derive(Debug)]
enum Way {
    /// It is its own.
    Own(View),
    /// It is mapped here.
    Mapped(Mapped),
    /// There is none.
    Empty,
    /// By its service.
    Messages,
}

/// What is asked of a window.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Writes `data` into the memory of rank `to`, from byte `offset` on.
    Put {
        /// The rank.
        to: usize,
        /// Where in its memory, in bytes.
        offset: usize,
        /// What.
        data: View,
    },
    /// Ends one `Wait` of rank `to`.
    Signal {
        /// The rank.
        to: usize,
    },
    /// Waits for a signal of rank `from`.
    Wait {
        /// The rank.
        from: usize,
    },
}

impl Step {
    fn peer(&self) -> usize {
        match *self {
            Step::Put { to, .. } | Step::Signal { to } => to,
            Step::Wait { from } => from,
        }
    }
}

/// Memory of each rank of a group that the others write into.
pub struct Window {
    id: u64,
    lens: Vec<usize>,
    ways: Vec<Way>,
    lane: Arc<Lane>,
    transport: Arc<dyn Transport>,
    node: Option<Arc<Node>>,
    /// Counts what was asked of it.
    steps: AtomicU64,
    /// The put or signal issued last: the next one comes after it.
    last: Mutex<Option<Arc<Operation>>>,
    service: Option<Service>,
    _owner: Arc<Keep>,
}

/// What owns the memory of this rank.
struct Keep {
    engine: &'static Engine,
    owner: Mutex<Option<Box<dyn Completion>>>,
}

impl Drop for Keep {
    fn drop(&mut self) {
        let owner = self.owner.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        self.engine.dispose(owner);
    }
}

/// Tells nobody of the end of a service, and keeps the memory until the transport has given it back.
struct Held {
    _owner: Arc<Keep>,
}

impl Completion for Held {
    fn finish(&mut self, _: &Result<Outcome>) {}

    fn announce_to_nobody(&mut self) -> bool {
        true
    }
}

/// The windows of a group.
#[derive(Default)]
pub(super) struct Windows {
    /// How many were registered: their numbers are the same on all ranks.
    count: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Window>>>,
}

impl Windows {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Window>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all windows.
    pub fn close(&self) {
        let windows = std::mem::take(&mut *self.open());
        windows.values().for_each(|window| window.end_service());
    }
}

/// What a rank says when it has seen everybody's part of a new window; the most that one says counts.
const ALL_MAPPED: u8 = 0;
const NEEDS_SERVICES: u8 = 1;
const TOO_MANY: u8 = 2;

impl Group {
    /// Makes `memory`, of elements of `dtype` (a number that says which), the part of this rank of a new window. Every rank
    /// calls it, in the order of collectives. Blocks until all have. Returns the number of the window. `owner` is dropped
    /// when nobody writes into the memory any more.
    ///
    /// # Safety
    /// The memory must be valid, for reads and writes, for as long as `owner` lives.
    pub unsafe fn register(&self, memory: View, dtype: u64, owner: Box<dyn Completion>) -> Result<u64> {
        self.check()?;
        let owner = Arc::new(Keep { engine: self.engine, owner: Mutex::new(Some(owner)) });
        let own = Extent { spot: Spot::of(&memory), len: memory.len() as u64, dtype };
        let extents: Vec<_> =
            self.exchange_within(own.to_bytes(), self.timeout())?.iter().map(Extent::from_bytes).collect();
        // Relaxed: registrations are collective, and so in one order.
        let id = self.windows.count.fetch_add(1, Ordering::Relaxed);
        if let Some(rank) = extents.iter().position(|other| other.dtype != extents[0].dtype) {
            return Err(Error::Mismatch(format!(
                "window: ranks 0 and {rank} registered tensors of different dtypes; every rank must register the same"
            )));
        }
        let node = self.reach.node();
        let way = |rank: usize| {
            let Extent { spot, len, .. } = &extents[rank];
            if rank == self.rank() {
                return Way::Own(memory);
            }
            if *len == 0 {
                return Way::Empty;
            }
            node.and_then(|node| node.map(node.rank_of(rank)?, spot, *len as usize)).map_or(Way::Messages, Way::Mapped)
        };
        let ways: Vec<_> = (0..self.size()).map(way).collect();
        let own = if self.windows.open().keys().any(|&other| Kind::Header.tag(other) == Kind::Header.tag(id)) {
            TOO_MANY
        } else if ways.iter().any(|way| matches!(way, Way::Messages)) {
            NEEDS_SERVICES
        } else {
            ALL_MAPPED
        };
        let said = self.exchange_within([own], self.timeout())?.iter().map(|&[said]| said).max();
        if said == Some(TOO_MANY) {
            return Err(Error::Unavailable("a group can have some two thousand windows; deregister others".to_owned()));
        }
        let transport: Arc<dyn Transport> = match &self.reach {
            Reach::Messages | Reach::Apart(_) => self.transport.clone(),
            Reach::Node(shared) => shared.transport.clone(),
            Reach::Nodes(spanning) => spanning.transport.clone(),
        };
        if !matches!(self.reach, Reach::Node(_)) {
            // Signals that nobody waits for may stay under way over MPI.
            self.strays.fetch_add(1, Ordering::Relaxed);
        }
        let service = (said == Some(NEEDS_SERVICES)).then(|| {
            let completion = Box::new(Held { _owner: owner.clone() });
            Service::start(self.engine, &self.lane, id, memory, &transport, node, completion)
        });
        let window = Window {
            id,
            lane: self.lane.clone(),
            lens: extents.iter().map(|extent| extent.len as usize).collect(),
            ways,
            transport,
            node: node.cloned(),
            steps: AtomicU64::new(0),
            last: Mutex::default(),
            service,
            _owner: owner,
        };
        self.windows.open().insert(id, Arc::new(window));
        // It may have been shut down meanwhile, by another thread, which has not seen this window.
        self.check().inspect_err(|_| self.abandon(id))?;
        Ok(id)
    }

    /// Ends a window: everything that was put has arrived then. Every rank calls it, in the order of collectives. Blocks
    /// until all have.
    pub fn deregister(&self, id: u64) -> Result<()> {
        let window = self.window(id)?;
        let last = window.last().clone();
        if let Some(last) = last {
            self.end_of(&last)?;
        }
        self.exchange_within([0], self.timeout())?;
        self.abandon(id);
        Ok(())
    }

    /// Ends this rank's part of a window; others must use it no more.
    pub fn abandon(&self, id: u64) {
        let window = self.windows.open().remove(&id);
        if let Some(window) = window {
            window.end_service();
        }
    }

    /// The window with this number.
    pub fn window(&self, id: u64) -> Result<Arc<Window>> {
        let window = self.windows.open().get(&id).cloned();
        window.ok_or_else(|| Error::Argument(format!("window {id} was deregistered, or its group was shut down")))
    }
}

impl Window {
    /// The memory of `rank`, if this process has it mapped.
    pub fn mapped(&self, rank: usize) -> Option<&Mapped> {
        match self.ways.get(rank)? {
            Way::Mapped(mapped) => Some(mapped),
            Way::Own(_) | Way::Empty | Way::Messages => None,
        }
    }

    /// Whether what a rank writes into the memory of `rank` is there at once.
    pub fn is_unified(&self, rank: usize) -> bool {
        self.ways.get(rank).is_some_and(|way| !matches!(way, Way::Messages))
    }

    /// Bytes of the memory of `rank`.
    pub fn len_of(&self, rank: usize) -> Option<usize> {
        self.lens.get(rank).copied()
    }

    /// Checks and begins a step. `told`: `completion` is to be made in any case; otherwise only if the step has not ended
    /// when this returns.
    pub fn start(
        self: &Arc<Self>,
        group: &Group,
        step: Step,
        timeout: Option<Duration>,
        next: Next,
        told: bool,
        completion: impl FnOnce(Number) -> Result<Box<dyn Completion>>,
    ) -> Result<Started> {
        group.check()?;
        self.check(&step)?;
        let timeout = timeout.unwrap_or_else(|| group.timeout()).min(LONGEST_TIMEOUT);
        // Relaxed: only a number for messages.
        let number = Number { sequence: self.steps.fetch_add(1, Ordering::Relaxed), timeout };
        let is_short = |data: &View| next == Next::Waits || data.len() <= AT_ONCE;
        if let Step::Put { to, offset, data } = step
            && let Some(place) = self.place(to, offset, data.len())
            && self.last().as_ref().is_none_or(|last| last.is_done())
            && !told
            && is_short(&data)
        {
            self.check_peer(to)?;
            place.copy_from(&data);
            return Ok(Started::Ended { number, outcome: Outcome::default() });
        }
        let engine = engine()?;
        let completion = completion(number)?;
        let peer = step.peer();
        let (name, preposition) = match step {
            Step::Put { .. } => ("put", "to rank"),
            Step::Signal { .. } => ("signal", "to rank"),
            Step::Wait { .. } => ("wait_signal", "from rank"),
        };
        let operation =
            Operation::new(name, Some((preposition, peer)), self.lane.clone(), number.sequence, number.timeout);
        let outstanding = Arc::new(Outstanding::default());
        let steps = self.schedule(step, &outstanding);
        let schedule = match step {
            Step::Wait { .. } => steps,
            Step::Put { .. } | Step::Signal { .. } => after(self.last().replace(operation.clone()), steps),
        };
        engine.submit(Task {
            operation: operation.clone(),
            schedule,
            outstanding,
            completion,
            order: Order::Free,
            on_failure: OnFailure::FailLane,
            witness: self.witness(&step),
        });
        if next != Next::Waits {
            engine.begin(&operation);
        }
        Ok(Started::Pending(operation))
    }

    fn last(&self) -> MutexGuard<'_, Option<Arc<Operation>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error if a rank of this node takes no further part: its memory may be used for something else.
    fn check_peer(&self, rank: usize) -> Result<()> {
        match (&self.ways[rank], &self.node) {
            (Way::Mapped(_), Some(node)) => node.rank_of(rank).map_or(Ok(()), |here| node.check_peer(here)),
            _ => Ok(()),
        }
    }

    fn check(&self, step: &Step) -> Result<()> {
        let (peer, size) = (step.peer(), self.ways.len());
        if peer >= size {
            return Err(Error::Argument(format!("window: rank {peer} is out of range for a group of {size} ranks")));
        }
        if let Step::Put { to, offset, data } = step {
            let len = self.lens[*to];
            if *offset > len || data.len() > len - offset {
                return Err(Error::Argument(format!(
                    "put: {} bytes at byte {offset} do not fit into the window of rank {to}, which has {len} bytes",
                    data.len()
                )));
            }
        }
        Ok(())
    }

    /// Where a put goes that this rank carries out by itself.
    fn place(&self, to: usize, offset: usize, len: usize) -> Option<View> {
        match &self.ways[to] {
            Way::Own(memory) => Some(memory.slice(offset..offset + len)),
            Way::Mapped(mapped) => Some(mapped.view().slice(offset..offset + len)),
            Way::Empty => Some(View::empty()),
            Way::Messages => None,
        }
    }

    fn context(&self, outstanding: &Arc<Outstanding>, kind: Kind) -> Context {
        Context::new(self.transport.clone(), outstanding.clone(), Channel::Collective, kind.tag(self.id))
    }

    fn schedule(self: &Arc<Self>, step: Step, outstanding: &Arc<Outstanding>) -> Schedule {
        match step {
            Step::Put { to, offset, data } => match self.place(to, offset, data.len()) {
                Some(place) => {
                    // Mappings, and this rank's own memory, live as long as the schedule.
                    let window = self.clone();
                    Box::pin(async move {
                        window.check_peer(to)?;
                        // What overlaps is copied as a whole.
                        let piece = if place.overlaps(&data) { data.len() } else { PIECE };
                        for start in (0..data.len()).step_by(piece) {
                            let range = start..(start + piece).min(data.len());
                            place.slice(range.clone()).copy_from(&data.slice(range));
                            pause().await;
                        }
                        drop(window);
                        Ok(Outcome::default())
                    })
                }
                None => self.send_put(to, offset, data, outstanding),
            },
            Step::Signal { to } => {
                let signals = self.context(outstanding, Kind::Signal);
                Box::pin(async move {
                    signals.send(to, &View::empty())?.await?;
                    Ok(Outcome::default())
                })
            }
            Step::Wait { from } => {
                let signals = self.context(outstanding, Kind::Signal);
                Box::pin(async move {
                    signals.receive(from, &View::empty())?.await?;
                    Ok(Outcome { source: Some(from) })
                })
            }
        }
    }

    fn send_put(&self, to: usize, offset: usize, data: View, outstanding: &Arc<Outstanding>) -> Schedule {
        let context = |kind| self.context(outstanding, kind);
        let [headers, contents, answers] = [Kind::Header, Kind::Data, Kind::Answer].map(context);
        Box::pin(async move {
            let header = headers.scratch(Header::LEN);
            header.view().write(&Header::Put { offset: offset as u64, len: data.len() as u64 }.to_bytes());
            let answer = answers.receive(to, &View::empty())?;
            let header = headers.send(to, &header.view())?;
            let content = contents.send(to, &data)?;
            header.await?;
            content.await?;
            answer.await?;
            Ok(Outcome::default())
        })
    }

    /// Who knows what the step waits for.
    fn witness(&self, step: &Step) -> Option<Arc<dyn Witness>> {
        let node = self.node.as_ref().filter(|node| node.rank_of(step.peer()).is_some())?;
        let call = match *step {
            Step::Put { to, .. } if self.is_unified(to) => return None,
            // It waits for the answer.
            Step::Put { to: peer, .. } | Step::Wait { from: peer } => Call::Receive { from: Some(peer), tag: 0 },
            Step::Signal { to } => Call::Send { to, tag: 0 },
        };
        Some(neighbours::peer(node, &call))
    }

    fn end_service(&self) {
        if let Some(service) = &self.service {
            service.end(self);
        }
    }
}

/// A step that comes after another one.
fn after(before: Option<Arc<Operation>>, steps: Schedule) -> Schedule {
    let Some(before) = before.filter(|before| !before.is_done()) else { return steps };
    Box::pin(async move {
        // The engine takes another turn when an operation has ended. If it has failed, this one ends with its group.
        poll_fn(|_| if before.is_done() { Poll::Ready(()) } else { Poll::Pending }).await;
        steps.await
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_those_of_no_collective_and_of_one_window() {
        let tags: Vec<_> = [0, 1, 2046]
            .into_iter()
            .flat_map(|window| [Kind::Header, Kind::Data, Kind::Answer, Kind::Signal].map(|kind| kind.tag(window)))
            .collect();
        assert!(tags.iter().all(|&tag| tag >= 3 * TAGS as i32 && tag < PORTABLE_TAG_MAX));
        let mut apart = tags.clone();
        apart.sort_unstable();
        apart.dedup();
        assert_eq!(apart.len(), tags.len());
    }
}
