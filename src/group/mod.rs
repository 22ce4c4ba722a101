//! Groups of ranks: who is in them, and what they are asked to do.

mod address;
mod check;
mod inline;
mod neighbours;
mod schedule;
mod world;

pub use crate::collective::{Call, Invocation};
pub use address::Address;
pub use world::world_broadcast;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use crate::engine::{self, Completion, Engine, Lane, OnFailure, Operation, Order, Outcome, Task, engine};
use crate::error::{Error, Kind, Result};
use crate::mpi::{self, Environment};
use crate::shm::{Farewell, Node};
use crate::transport::{MpiTransport, Outstanding, SharedTransport, Transport};
use inline::Attempt;

/// The timeout of an operation if nothing else is said: as torch's (c10d `kBackendDefaultTimeout`).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Longer timeouts are taken for this one; it keeps deadlines representable.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How long [`Group::shutdown`] lets pending operations go on.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// How long [`Group::shutdown`] waits for the memory of a failed group.
const RELEASE_GRACE: Duration = Duration::from_millis(100);

/// What may be chosen when a group is created.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// The name that messages use.
    pub name: String,
    /// How long an operation may take if its call does not say.
    pub timeout: Duration,
}

impl Default for GroupOptions {
    fn default() -> Self {
        GroupOptions { name: "world".to_owned(), timeout: DEFAULT_TIMEOUT }
    }
}

/// MPI and the engine, in the order in which the exit handler must find them.
pub fn start() -> Result<(&'static Environment, &'static Engine)> {
    let environment = Environment::start()?;
    Ok((environment, engine()?))
}

/// A group of processes that communicate. May be shared by threads: collectives run in the order in which their calls
/// to [`Group::issue`] return, which must be the same order on every rank.
pub struct Group {
    engine: &'static Engine,
    lane: Arc<Lane>,
    transport: Arc<MpiTransport>,
    /// What all ranks share if they are on one node: everything but monitored barriers goes through it.
    shared: Option<Shared>,
    timeout_ms: AtomicU64,
    issued: Mutex<Issued>,
    /// When it was shut down.
    closed: OnceCell<Instant>,
    /// Monitored barriers whose messages may still come when nobody will receive them: those that have not passed.
    strays: Arc<AtomicUsize>,
}

/// Memory that all ranks of a group share.
struct Shared {
    node: Arc<Node>,
    transport: Arc<SharedTransport>,
}

/// How many operations of each kind were issued.
#[derive(Debug, Default)]
struct Issued {
    collectives: u64,
    messages: u64,
    monitored_barriers: u64,
}

impl Group {
    /// Creates a group of the processes at `addresses`, in rank order; this process is `rank`. Every member calls it,
    /// after all have exchanged their addresses (so none keeps the others waiting), with the same arguments but `rank`.
    pub fn create(addresses: &[Address], rank: usize, options: GroupOptions) -> Result<Group> {
        let (environment, engine) = start()?;
        let world_ranks = address::check(addresses, rank, environment)?;
        Group::of_world_ranks(environment, engine, &world_ranks, options)
    }

    /// A group of the processes with these ranks in MPI_COMM_WORLD, all of which are here.
    fn of_world_ranks(
        environment: &Environment,
        engine: &'static Engine,
        world_ranks: &[usize],
        options: GroupOptions,
    ) -> Result<Group> {
        let transport = MpiTransport::create(environment, world_ranks, address::creation_tag(&options.name))?;
        let (rank, size) = (transport.rank(), transport.size());
        if size != world_ranks.len() || world_ranks[rank] != environment.world_rank() {
            return Err(Error::Internal(format!("MPI made this process rank {rank} of {size} in {world_ranks:?}")));
        }
        let mut group = Group::over(engine, transport, options);
        group.meet_neighbours()?;
        let over = if group.shared.is_some() { "shared memory and " } else { "" };
        log::info!("group \"{}\": rank {rank} of {size} over {over}{}", group.lane.name(), mpi::library_version());
        Ok(group)
    }

    fn over(engine: &'static Engine, transport: MpiTransport, options: GroupOptions) -> Group {
        let group = Group {
            engine,
            lane: Arc::new(Lane::new(options.name, transport.rank())),
            transport: Arc::new(transport),
            shared: None,
            timeout_ms: AtomicU64::new(0),
            issued: Mutex::default(),
            closed: OnceCell::new(),
            strays: Arc::default(),
        };
        group.set_timeout(options.timeout);
        group
    }

    /// This process's rank.
    pub fn rank(&self) -> usize {
        self.transport.rank()
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.transport.size()
    }

    /// How long an operation may take if its call does not say.
    pub fn timeout(&self) -> Duration {
        // Relaxed: a setting; later calls see it as their thread sees this one.
        Duration::from_millis(self.timeout_ms.load(Ordering::Relaxed))
    }

    /// Sets [`Group::timeout`] for later calls.
    pub fn set_timeout(&self, timeout: Duration) {
        let ms = timeout.min(LONGEST_TIMEOUT).as_millis() as u64;
        self.timeout_ms.store(ms, Ordering::Relaxed);
    }

    /// Number of collectives issued.
    pub fn sequence_number(&self) -> u64 {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).collectives
    }

    /// Operations whose memory is in use.
    pub fn pending(&self) -> usize {
        self.lane.pending()
    }

    /// The kind of the failure, or `None`.
    pub fn failure_kind(&self) -> Kind {
        self.lane.failure_kind()
    }

    /// An error if an operation failed or the group was aborted or shut down, so that later calls fail.
    pub fn check(&self) -> Result<()> {
        if self.closed.get().is_some() {
            return Err(Error::Argument(format!(
                "group \"{}\" was shut down (destroy_process_group); create a new one",
                self.lane.name()
            )));
        }
        self.lane.check()
    }

    /// Checks and issues an operation. After an error nothing has moved. `waits`: the caller waits for the operation at
    /// once, so that it may be gone on with here for a moment; otherwise this never waits for a peer.
    pub fn issue(
        &self,
        invocation: &Invocation<'_>,
        timeout: Option<Duration>,
        completion: Box<dyn Completion>,
        waits: bool,
    ) -> Result<Arc<Operation>> {
        let engine = engine()?;
        self.check()?;
        if mpi::is_finalized() {
            return Err(Error::Unavailable("MPI was finalized already: nothing can be communicated".to_owned()));
        }
        let call = &invocation.call;
        let tag_max = self.shared.as_ref().map_or(self.transport.tag_max(), |shared| shared.transport.tag_max());
        check::check(invocation, self.rank(), self.size(), tag_max)?;
        let timeout = timeout.unwrap_or_else(|| self.timeout()).min(LONGEST_TIMEOUT);
        // Held until the engine has the task: the order of sequence numbers is the order of execution.
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = match call {
            Call::Send { .. } | Call::Receive { .. } => &mut issued.messages,
            Call::MonitoredBarrier { .. } => &mut issued.monitored_barriers,
            _ => &mut issued.collectives,
        };
        let sequence = *counter;
        *counter += 1;
        let (order, on_failure) = match call {
            Call::Send { .. } | Call::Receive { .. } => (Order::Free, OnFailure::FailLane),
            Call::MonitoredBarrier { .. } => (Order::Free, OnFailure::KeepLane),
            _ => (Order::InLane, OnFailure::FailLane),
        };
        let limit = if matches!(call, Call::MonitoredBarrier { .. }) {
            // It watches its own deadline, to name who is missing.
            timeout * 2 + Duration::from_secs(10)
        } else {
            timeout
        };
        let operation = Operation::new(call.name(), call.peer(), self.lane.clone(), sequence, limit);
        // It may have failed since it was looked at, and then slots of a collective that has not ended here may be read.
        self.lane.check()?;
        let shared = self.shared.as_ref().filter(|_| !matches!(call, Call::MonitoredBarrier { .. }));
        let mut begun = None;
        let mut _held = None;
        if let Some(Shared { node, .. }) = shared
            && waits
            && order == Order::InLane
            && self.lane.pending() == 0
            && inline::is_short(invocation)
        {
            _held = Some(self.lane.hold());
            match inline::attempt(node, invocation) {
                Attempt::Begun(state) => begun = Some(state),
                Attempt::Ended(result) => {
                    let result = result.map_err(|error| error.during(operation.to_string()));
                    if let Err(error) = &result {
                        engine.fail_here(&operation, error);
                    }
                    // Users' code runs from here on, and may issue.
                    drop(issued);
                    engine.end_here(operation.clone(), completion, result.map(|()| Outcome::default()));
                    return Ok(operation);
                }
            }
        }
        let outstanding = Arc::new(Outstanding::default());
        let schedule = schedule::schedule(self, invocation, shared, begun, &outstanding, sequence, timeout);
        let witness = shared.map(|shared| neighbours::witness(&shared.node, order));
        let task = Task { operation: operation.clone(), schedule, outstanding, completion, order, on_failure, witness };
        engine.submit(task);
        drop(issued);
        engine.begin(&operation, waits);
        Ok(operation)
    }

    /// Drives until `operation`, of this group, is done, or for at most `limit`. Returns whether it is done.
    pub fn wait(&self, operation: &Operation, limit: Option<Duration>) -> bool {
        self.engine.wait(operation, limit)
    }

    /// Issues an operation and waits for its end.
    pub fn run(&self, invocation: &Invocation<'_>) -> Result<Outcome> {
        self.run_for(invocation, None)
    }

    fn run_for(&self, invocation: &Invocation<'_>, timeout: Option<Duration>) -> Result<Outcome> {
        let operation = self.issue(invocation, timeout, Box::new(Nobody), true)?;
        while !self.wait(&operation, None) {}
        match operation.result() {
            Some(result) => result.clone(),
            None => Err(Error::Internal(format!("{operation} ended without a result"))),
        }
    }

    /// Ends one operation with an error, unless it ends first; its group fails with it, unless it is a monitored barrier.
    pub fn cancel(&self, operation: &Arc<Operation>, reason: &str) {
        let error = Error::GroupFailed { group: self.lane.name().to_owned(), cause: reason.to_owned() };
        self.engine.end(operation.clone(), error);
    }

    /// Fails every pending operation and every later one.
    pub fn abort(&self, reason: &str) {
        self.engine.end_lane(&self.lane, reason);
    }

    /// Lets pending operations end for at most `limit`, then gives the communicators back. Returns whether that is done;
    /// if not, call it again. What is pending ten seconds after the first call ends with an error. Operations issued
    /// from now on fail.
    pub fn shutdown(&self, limit: Duration) -> Result<bool> {
        let engine = engine()?;
        let closed = self.closed.get_or_init(Instant::now);
        if self.lane.has_failed() {
            engine.end_lane(&self.lane, "the group was shut down");
            // Memory that MPI has given back is the caller's again when this returns.
            engine.quiesce(&self.lane, limit.min(RELEASE_GRACE));
        } else if !engine.quiesce(&self.lane, limit) {
            if closed.elapsed() > SHUTDOWN_GRACE {
                let cause = "it was shut down (destroy_process_group) with operations pending that no peer has matched";
                engine.end_lane(&self.lane, cause);
            }
            return Ok(false);
        }
        self.release(engine)?;
        Ok(true)
    }

    fn release(&self, engine: &'static Engine) -> Result<()> {
        // What is still pending goes on.
        if let Some(Shared { node, .. }) = self.shared.as_ref().filter(|_| self.lane.pending() == 0) {
            node.bid_farewell(&Farewell::Left);
        }
        if self.lane.has_failed() || self.lane.pending() > 0 || self.strays.load(Ordering::Relaxed) > 0 {
            self.transport.leak();
            return Ok(());
        }
        engine.exclusively(|| self.transport.free())
    }
}

/// Nobody but the waiter is to be told.
struct Nobody;

impl Completion for Nobody {
    fn finish(&mut self, _: &Result<Outcome>) {}

    fn announce_to_nobody(&mut self) -> bool {
        true
    }
}

impl Drop for Group {
    /// Gives the communicators back if nothing is pending; otherwise the operations go on, and the communicators stay.
    fn drop(&mut self) {
        // A forked child must leave everything alone.
        if let Some(engine) = engine::existing()
            && let Err(error) = self.release(engine)
        {
            log::warn!("group \"{}\": {error}", self.lane.name());
        }
    }
}
