//! Windows: memory of each rank that the other ranks write into, without the rank that has it taking part.
//!
//! Where a rank has the window of another one mapped, it copies into it by itself. Otherwise it sends a header and the data,
//! and a service of the other rank, which its engine drives, receives them into the window and answers. Signals are
//! messages of no bytes, each of which one wait receives.
//!
//! What a rank puts, and signals, through one window happens in the order of the calls: a signal is sent when the puts
//! before it have arrived.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::issue::Nobody;
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

/// Up to so many bytes a caller that does not wait copies by itself.
const AT_ONCE: usize = 256 << 10;
/// After so many bytes others have their turn.
const PIECE: usize = 1 << 20;
/// How long a service that is told to end may take: as long as the message that it is receiving.
const FAREWELL: Duration = Duration::from_secs(5);

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
    rank: usize,
    name: String,
    lens: Vec<usize>,
    ways: Vec<Way>,
    lane: Arc<Lane>,
    transport: Arc<dyn Transport>,
    node: Option<Arc<Node>>,
    steps: AtomicU64,
    service: Option<Service>,
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

    /// Ends all services.
    pub fn close(&self) {
        let windows = std::mem::take(&mut *self.open());
        windows.values().for_each(|window| window.end_service());
    }
}

impl Group {
    /// Makes `memory`, of elements of `dtype` (a number that says which), the part of this rank of a new window. Every rank
    /// calls it, in the order of collectives. Blocks until all have. Returns the number of the window.
    ///
    /// # Safety
    /// The memory must be valid, for reads and writes, until [`Group::deregister`] or [`Group::abandon`] has returned.
    pub unsafe fn register(&self, memory: View, dtype: u64) -> Result<u64> {
        self.check()?;
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
        let all_mapped = !ways.iter().any(|way| matches!(way, Way::Messages));
        let needs_services =
            self.exchange_within([u8::from(!all_mapped)], self.timeout())?.iter().any(|&[needs]| needs != 0);
        let transport: Arc<dyn Transport> = match &self.reach {
            Reach::Messages | Reach::Apart(_) => self.transport.clone(),
            Reach::Node(shared) => shared.transport.clone(),
            Reach::Nodes(spanning) => spanning.transport.clone(),
        };
        let name = format!("{}, window {id}", self.lane.name());
        let service = needs_services.then(|| Service::start(self.engine, &name, id, memory, &transport, node));
        let window = Window {
            id,
            rank: self.rank(),
            lane: Arc::new(Lane::new(name.clone(), self.rank()).spinning(Some(self.lane.spins()))),
            name,
            lens: extents.iter().map(|extent| extent.len as usize).collect(),
            ways,
            transport,
            node: node.cloned(),
            steps: AtomicU64::new(0),
            service,
        };
        // Signals that nobody waits for stay under way.
        self.strays.fetch_add(1, Ordering::Relaxed);
        self.windows.open().insert(id, Arc::new(window));
        Ok(id)
    }

    /// Ends a window: everything that was put has arrived then. Every rank calls it, in the order of collectives. Blocks
    /// until all have.
    pub fn deregister(&self, id: u64) -> Result<()> {
        let window = self.window(id)?;
        if !self.engine.quiesce(&window.lane, self.timeout()) {
            return Err(Error::Argument(format!(
                "window {id} is to be deregistered, but what was issued on it has not ended within {} ms",
                self.timeout().as_millis()
            )));
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
            _ => None,
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
        self.lane.check()?;
        self.check(&step)?;
        let timeout = timeout.unwrap_or_else(|| group.timeout()).min(LONGEST_TIMEOUT);
        // Relaxed: only a number for messages.
        let number = Number { sequence: self.steps.fetch_add(1, Ordering::Relaxed), timeout };
        let is_short = |data: &View| next == Next::Waits || data.len() <= AT_ONCE;
        if let Step::Put { to, offset, data } = step
            && let Some(place) = self.place(to, offset, data.len())
            && self.lane.pending() == 0
            && !told
            && is_short(&data)
        {
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
        engine.submit(Task {
            operation: operation.clone(),
            schedule: self.schedule(step, &outstanding),
            outstanding,
            completion,
            order: if matches!(step, Step::Wait { .. }) { Order::Free } else { Order::InLane },
            on_failure: OnFailure::FailLane,
            witness: self.witness(&step),
        });
        if next != Next::Waits {
            engine.begin(&operation);
        }
        Ok(Started::Pending(operation))
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
                    // The mapping lives as long as the schedule.
                    let window = self.clone();
                    Box::pin(async move {
                        for start in (0..data.len()).step_by(PIECE) {
                            let range = start..(start + PIECE).min(data.len());
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
        if let Some(service) = &self.service
            && !service.end(self)
        {
            log::warn!("window \"{}\" on rank {}: its service is still receiving", self.name, self.rank);
        }
    }
}

/// What precedes the data of a put, or tells a service to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    Put { offset: u64, len: u64 },
    End,
}

impl Header {
    const LEN: usize = 24;
    const PUT: u64 = 1;
    const END: u64 = 2;

    fn to_bytes(self) -> [u8; Self::LEN] {
        let words = match self {
            Header::Put { offset, len } => [Self::PUT, offset, len],
            Header::End => [Self::END, 0, 0],
        };
        let mut bytes = [0; Self::LEN];
        for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Of memory of `capacity` bytes; `None` for anything that no rank sends.
    fn from_bytes(bytes: &[u8; Self::LEN], capacity: usize) -> Option<Header> {
        let mut words = [0; 3];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut own = [0; 8];
            own.copy_from_slice(bytes);
            *word = u64::from_ne_bytes(own);
        }
        match words {
            [Self::PUT, offset, len] if offset.checked_add(len)? <= capacity as u64 => {
                Some(Header::Put { offset, len })
            }
            [Self::END, 0, 0] => Some(Header::End),
            _ => None,
        }
    }
}

/// What receives the puts of other ranks.
struct Service {
    operation: Arc<Operation>,
    engine: &'static Engine,
}

impl Service {
    fn start(
        engine: &'static Engine,
        name: &str,
        window: u64,
        memory: View,
        transport: &Arc<dyn Transport>,
        node: Option<&Arc<Node>>,
    ) -> Service {
        let outstanding = Arc::new(Outstanding::default());
        let lane = Arc::new(Lane::new(name.to_owned(), transport.rank()));
        let operation = Operation::service("the service of a window", lane);
        let context =
            |kind: Kind| Context::new(transport.clone(), outstanding.clone(), Channel::Collective, kind.tag(window));
        let contexts = [Kind::Header, Kind::Data, Kind::Answer].map(context);
        // Of groups that span nodes, messages may come over MPI, which rings nobody.
        let node = node.filter(|node| node.size() == transport.size());
        engine.submit(Task {
            operation: operation.clone(),
            schedule: Box::pin(serve(memory, contexts)),
            outstanding,
            completion: Box::new(Nobody),
            order: Order::Free,
            on_failure: OnFailure::KeepLane,
            witness: node.map(|node| neighbours::peer(node, &Call::Receive { from: None, tag: 0 })),
        });
        engine.begin(&operation);
        Service { operation, engine }
    }

    /// Ends it. False if it is still receiving.
    fn end(&self, window: &Window) -> bool {
        if self.operation.is_done() {
            return true;
        }
        let lane = Arc::new(Lane::new(window.name.clone(), window.rank));
        let operation = Operation::new("end of a window", None, lane, 0, FAREWELL);
        let outstanding = Arc::new(Outstanding::default());
        let headers = window.context(&outstanding, Kind::Header);
        let rank = window.rank;
        let schedule = Box::pin(async move {
            let header = headers.scratch(Header::LEN);
            header.view().write(&Header::End.to_bytes());
            headers.send(rank, &header.view())?.await?;
            Ok(Outcome::default())
        });
        self.engine.submit(Task {
            operation: operation.clone(),
            schedule,
            outstanding,
            completion: Box::new(Nobody),
            order: Order::Free,
            on_failure: OnFailure::KeepLane,
            witness: None,
        });
        let until = Instant::now() + FAREWELL;
        self.engine.wait(&operation, Some(FAREWELL));
        self.engine.wait(&self.operation, Some(until.saturating_duration_since(Instant::now())))
    }
}

/// Receives what others put into `memory`, until this rank tells it to end, or nobody is left.
async fn serve(memory: View, [headers, contents, answers]: [Context; 3]) -> Result<Outcome> {
    let own = headers.rank();
    loop {
        let bytes = headers.scratch(Header::LEN);
        let peer = match headers.receive_from(None, &bytes.view())?.await {
            Ok(arrival) => arrival.peer,
            Err(Error::PeerLeft { .. }) => return Ok(Outcome::default()),
            Err(error) => return Err(error),
        };
        let mut header = [0; Header::LEN];
        bytes.view().read(&mut header);
        match Header::from_bytes(&header, memory.len()) {
            Some(Header::Put { offset, len }) => {
                let place = memory.slice(offset as usize..(offset + len) as usize);
                contents.receive(peer, &place)?.await?;
                answers.send(peer, &View::empty())?.await?;
            }
            Some(Header::End) if peer == own => return Ok(Outcome::default()),
            _ => return Err(Error::Internal(format!("rank {peer} has sent {header:?} to a window"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_journey_and_nothing_else_is_one() {
        for header in [Header::Put { offset: 3, len: 7 }, Header::Put { offset: 0, len: 10 }, Header::End] {
            assert_eq!(Header::from_bytes(&header.to_bytes(), 10), Some(header));
        }
        for (offset, len) in [(4, 7), (11, 0), (u64::MAX, 2), (2, u64::MAX)] {
            assert_eq!(Header::from_bytes(&Header::Put { offset, len }.to_bytes(), 10), None);
        }
        assert_eq!(Header::from_bytes(&[7; Header::LEN], 10), None);
    }

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
