//! Groups of ranks: who is in them, and what they are asked to do.

mod address;
mod check;
mod estimate;
mod inline;
mod issue;
mod neighbours;
mod reach;
mod schedule;
mod window;
mod world;

pub use crate::collective::{Call, Invocation};
pub use address::Address;
pub use issue::{Next, Number, Started};
pub use window::{Step, Window};
pub use world::world_broadcast;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use crate::engine::{self, Engine, Lane, Operation, engine};
use crate::error::{Error, Kind, Result};
use crate::mpi::{self, Environment};
use crate::reduce::Instructions;
use crate::shm::Farewell;
use crate::transport::{MpiTransport, Transport};
use crate::tuning::{Overrides, Tuning, Wishes};
use reach::Reach;

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
    /// Settings that are not to be those of the environment variables, or the defaults.
    pub overrides: Overrides,
}

impl Default for GroupOptions {
    fn default() -> Self {
        GroupOptions { name: "world".to_owned(), timeout: DEFAULT_TIMEOUT, overrides: Overrides::default() }
    }
}

/// What overrides and variables say; an error if something in them is not understood, or was not possible for any group.
pub fn wishes(overrides: &Overrides) -> Result<Wishes> {
    Instructions::check_variable()?;
    Wishes::new(overrides)
}

/// MPI and the engine, in the order in which the exit handler must find them.
pub fn start() -> Result<(&'static Environment, &'static Engine)> {
    let environment = Environment::start()?;
    Ok((environment, engine()?))
}

/// A group of processes that communicate. May be shared by threads: collectives run in the order in which their calls
/// to [`Group::issue`] and [`Group::start`] return, which must be the same order on every rank.
pub struct Group {
    engine: &'static Engine,
    lane: Arc<Lane>,
    transport: Arc<MpiTransport>,
    reach: Reach,
    tuning: Tuning,
    timeout_ms: AtomicU64,
    issued: Mutex<Issued>,
    patience: inline::Patience,
    /// When it was shut down.
    closed: OnceCell<Instant>,
    /// What may leave messages that still come when nobody will receive them: monitored barriers that have not passed, and
    /// windows.
    strays: Arc<AtomicUsize>,
    windows: window::Windows,
    estimates: estimate::Estimates,
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
        let wishes = wishes(&options.overrides)?;
        let (environment, engine) = start()?;
        let world_ranks = address::check(addresses, rank, environment)?;
        let tag = address::creation_tag(&addresses[0].group);
        Group::of_world_ranks(environment, engine, &world_ranks, tag, options, &wishes)
    }

    /// A group of the processes with these ranks in MPI_COMM_WORLD, all of which are here and have the same `tag`.
    fn of_world_ranks(
        environment: &Environment,
        engine: &'static Engine,
        world_ranks: &[usize],
        tag: i32,
        options: GroupOptions,
        wishes: &Wishes,
    ) -> Result<Group> {
        let transport = MpiTransport::create(environment, world_ranks, tag)?;
        let (rank, size) = (transport.rank(), transport.size());
        if size != world_ranks.len() || world_ranks[rank] != environment.world_rank() {
            return Err(Error::Internal(format!("MPI made this process rank {rank} of {size} in {world_ranks:?}")));
        }
        let mut group = Group::over(engine, transport, options, wishes);
        group.meet_neighbours(wishes)?;
        let (name, reach) = (group.lane.name(), &group.reach);
        log::info!("group \"{name}\": rank {rank} of {size} over {reach}{}; {}", mpi::library_version(), group.tuning);
        Ok(group)
    }

    fn over(engine: &'static Engine, transport: MpiTransport, options: GroupOptions, wishes: &Wishes) -> Group {
        let group = Group {
            engine,
            lane: Arc::new(Lane::new(options.name, transport.rank()).spinning(wishes.spins())),
            transport: Arc::new(transport),
            reach: Reach::Messages,
            tuning: wishes.resolve(1, engine::is_crowded()),
            timeout_ms: AtomicU64::new(0),
            issued: Mutex::default(),
            patience: inline::Patience::default(),
            closed: OnceCell::new(),
            strays: Arc::default(),
            windows: window::Windows::default(),
            estimates: estimate::Estimates::default(),
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

    /// The settings in force.
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// Number of collectives issued.
    pub fn sequence_number(&self) -> u64 {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).collectives
    }

    /// Operations whose memory is in use.
    pub fn pending(&self) -> usize {
        self.lane.pending()
    }

    /// What the group occupies: names and numbers, of bytes where the name says so.
    pub fn memory(&self) -> [(&'static str, usize); 3] {
        let node = self.reach.node();
        [
            ("shared_bytes", node.map_or(0, |node| node.segment_len())),
            ("own_shared_bytes", node.map_or(0, |node| node.own_len())),
            ("pending_operations", self.pending()),
        ]
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

    /// Drives until `operation`, of this group, is done, or for at most `limit`. Returns whether it is done.
    pub fn wait(&self, operation: &Operation, limit: Option<Duration>) -> bool {
        self.engine.wait(operation, limit)
    }

    /// Drives until none of the group's operations is pending, or for at most `limit`. Returns whether that is so.
    pub fn quiesce(&self, limit: Duration) -> bool {
        self.engine.quiesce(&self.lane, limit)
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
        self.windows.close();
        // What is still pending goes on.
        if let Some(node) = self.reach.node().filter(|_| self.lane.pending() == 0) {
            node.bid_farewell(&Farewell::Left);
        }
        if self.lane.has_failed() || self.lane.pending() > 0 || self.strays.load(Ordering::Relaxed) > 0 {
            self.transport.leak();
            return Ok(());
        }
        engine.exclusively(|| self.transport.free())
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
