//! The cxx bridge: the one file that C++ and Rust share. It converts, and holds no logic.
//!
//! A function that fails throws `rust::Error`, whose text is `"<ErrorKind as a number>|<message>"`; `cpp/errors.cpp`
//! turns it into the exception that PyTorch users expect.

mod convert;
mod memory;
mod request;
mod window;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{self, Completion, Outcome, panic_text};
use crate::error::{Error, Result};
use crate::group::{self, Address, GroupOptions, Invocation, Number, Started};
use crate::memory::View;
use crate::mpi::library_version;
use crate::process;
use crate::reduce::Reduction;
use crate::tuning::{Overrides, Setting, Source, in_words};
use convert::{data_type, next, reduce_op, to_call, to_step};
use memory::{allocate_memory, can_share_memory, heap_stats, memory_stat, release_memory};
use request::{Request, Told, own_request};
use window::Mapping;

#[cxx::bridge(namespace = "rmpi::bridge")]
#[allow(missing_docs, clippy::missing_safety_doc)]
mod ffi {
    /// The class of an error; the shim turns it into the exception class that PyTorch users expect.
    #[derive(Debug)]
    enum ErrorKind {
        /// No error.
        None = 0,
        /// A bad value: ValueError.
        Value = 1,
        /// A dtype, or an op that a dtype does not have: TypeError.
        Type = 2,
        /// Something that this build, machine or process cannot do: NotImplementedError.
        NotImplemented = 3,
        /// A deadline passed: DistBackendError.
        Timeout = 4,
        /// MPI or a peer failed, or the group was aborted: DistBackendError.
        Backend = 5,
    }

    /// The operations. See `Call` in `src/collective/call.rs` for the regions that each takes.
    #[derive(Debug)]
    enum Operation {
        Broadcast,
        AllReduce,
        Reduce,
        AllGather,
        Gather,
        Scatter,
        ReduceScatter,
        AllToAll,
        Barrier,
        /// Barrier in which rank 0 names the ranks that did not arrive; its failure leaves the group usable.
        MonitoredBarrier,
        Send,
        Recv,
        /// Of a window.
        Put,
        Signal,
        WaitSignal,
    }

    /// Element type. `Bytes`: any other type; it moves but does not reduce.
    #[derive(Debug)]
    enum DataType {
        Float16,
        BFloat16,
        Float32,
        Float64,
        Complex64,
        Complex128,
        UInt8,
        Int8,
        UInt16,
        Int16,
        UInt32,
        Int32,
        UInt64,
        Int64,
        Bool,
        Bytes,
    }

    /// Reduction. `PremulSum` multiplies by `Call::factor` before it adds.
    #[derive(Debug)]
    enum ReduceOp {
        Sum,
        Avg,
        Product,
        Min,
        Max,
        BitAnd,
        BitOr,
        BitXor,
        PremulSum,
    }

    /// One contiguous piece of memory: a tensor, or one rank's part of it. `data` may be null only if `bytes` is 0. The
    /// core's `View` has the same layout.
    struct Region {
        data: *mut u8,
        bytes: usize,
    }

    /// What is asked of a group, apart from the memory.
    struct Call {
        operation: Operation,
        /// Element type; matters where something is reduced.
        dtype: DataType,
        /// Ignored where nothing is reduced.
        reduce_op: ReduceOp,
        /// PREMUL_SUM's factor.
        factor: f64,
        /// Group rank: of the root; send, put and signal: of the destination; recv: of the source, -1 for any; wait_signal: of
        /// the source.
        root: i64,
        /// Of send and recv.
        tag: i64,
        /// Of put, signal and wait_signal.
        window: u64,
        /// Put: where in the memory of rank `root`, in bytes.
        offset: u64,
        /// Monitored barrier: name every missing rank, not only the first.
        wait_all_ranks: bool,
        /// Below 0: the group's default.
        timeout_ms: i64,
        /// Added to it.
        timeout_extension_ms: i64,
        /// The caller waits for the operation at once: a collective may be carried out here, and no other thread is woken.
        waits: bool,
        /// The caller issues others of the same batch at once.
        batched: bool,
        /// The completion has to be announced in any case, so one has to be made.
        reported: bool,
    }

    /// What became of a call.
    struct Issued {
        /// The operation, for `own_request`; null if it has ended well already, as short ones do.
        request: *mut Request,
        /// Of an operation that has ended: the group's count of collectives (or messages) when it was issued. An issuer's
        /// completion hears it when it is made.
        sequence_number: u64,
        /// Of an operation that has ended: how long it might have taken, in milliseconds.
        timeout_ms: i64,
        /// Of a receive that has ended: the sender's group rank. Else -1.
        source: i32,
    }

    /// Options of a group.
    struct GroupOptions {
        /// The name that messages use.
        name: String,
        /// What the group is for; added to the name in messages unless it is empty or "undefined".
        description: String,
        /// How long an operation may take if its call does not say.
        timeout_ms: i64,
        overrides: Vec<Override>,
    }

    /// A setting that the user has chosen, with its value as the variable would have it.
    struct Override {
        name: String,
        value: String,
    }

    /// A setting, as it is in force.
    struct Setting {
        name: String,
        variable: String,
        value: String,
        source: String,
    }

    /// A number that says what a group occupies.
    struct MemoryStat {
        name: String,
        value: u64,
    }

    // SAFETY: cxx checks these signatures against the header, whose functions may be called from any thread, one at a time.
    unsafe extern "C++" {
        include!("bridge/completion.hpp");
        /// What to do when an operation ends; owns the tensors.
        type Completion;
        fn finish(self: Pin<&mut Completion>, kind: ErrorKind, message: &str, source: i32);
        fn announce(self: Pin<&mut Completion>);
        fn announce_to_nobody(self: Pin<&mut Completion>) -> bool;
        /// Makes the completion of an operation that does not end at once.
        type Issuer;
        fn completion(self: Pin<&mut Issuer>, sequence_number: u64, timeout_ms: i64) -> Result<UniquePtr<Completion>>;
    }

    extern "Rust" {
        type Group;
        type Request;
        type Mapping;

        /// Whether MPI has been started in this process, by whomever.
        fn mpi_started() -> bool;
        /// Starts MPI if nobody has.
        fn start() -> Result<()>;
        /// An error if the core has no such reduction for this dtype.
        fn check_reduction(dtype: DataType, op: ReduceOp) -> Result<()>;
        /// This process's address for a group of this name, to be exchanged through the Store. Starts MPI if nobody has.
        fn local_address(group: &str) -> Result<String>;
        /// This process's rank in MPI_COMM_WORLD. Starts MPI if nobody has.
        fn world_rank() -> Result<i32>;
        /// Number of processes that the launcher started. Starts MPI if nobody has.
        fn world_size() -> Result<i32>;
        /// MPI rank 0's payload on every process of MPI_COMM_WORLD; all of them call it.
        fn world_broadcast(payload: &str, timeout_ms: i64) -> Result<String>;

        /// The settings that a group with these would have; an error if one, or a variable, is wrong. Starts no MPI.
        fn read_settings(overrides: &Vec<Override>) -> Result<Vec<Setting>>;

        /// Creates a group; every member calls it once all have exchanged their addresses. `addresses[r]` is rank r's.
        fn create_group(addresses: &Vec<String>, rank: usize, options: &GroupOptions) -> Result<Box<Group>>;

        /// Checks and issues an operation. Waits for a peer only if it receives, or if the caller waits, and then for some
        /// microseconds. An error means that nothing moved, or that the collective has failed and the group with it;
        /// neither `finish` nor `announce` has been called then.
        ///
        /// # Safety
        /// The regions must be valid until the completion that `issuer` has made is destroyed, or, if it has made none,
        /// until this returns; outputs for writing.
        unsafe fn issue(
            self: &Group,
            call: &Call,
            inputs: &[Region],
            outputs: &[Region],
            issuer: Pin<&mut Issuer>,
        ) -> Result<Issued>;
        /// How long `issue` would take, in microseconds; after `prepare_estimates`. Nothing moves.
        ///
        /// # Safety
        /// As for `issue`.
        unsafe fn estimate(self: &Group, call: &Call, inputs: &[Region], outputs: &[Region]) -> Result<f64>;
        /// Every rank calls it, in the order of collectives. Blocks while operations are measured, if that has not been done.
        fn prepare_estimates(self: &Group) -> Result<()>;
        /// Whether that has been done.
        fn has_estimates(self: &Group) -> bool;
        /// The same group, for another thread.
        fn share(self: &Group) -> Box<Group>;
        /// Makes memory with elements of `dtype`, a number that says which, this rank's part of a new window, and returns the
        /// window's number. Every rank calls it, in the order of collectives. Blocks until all have.
        ///
        /// # Safety
        /// The memory must be valid for as long as `owner` lives, of which nothing is called but its destructor.
        unsafe fn register_window(
            self: &Group,
            memory: Region,
            dtype: u64,
            owner: UniquePtr<Completion>,
        ) -> Result<u64>;
        /// Ends it. Every rank calls it, in the order of collectives. Blocks until all have.
        fn deregister_window(self: &Group, window: u64) -> Result<()>;
        /// Ends this rank's part of it.
        fn abandon_window(self: &Group, window: u64);
        /// Whether what is put into the memory of `rank` is there at once.
        fn is_window_unified(self: &Group, window: u64, rank: usize) -> Result<bool>;
        /// The memory of another rank, if it is mapped here.
        fn map_window(self: &Group, window: u64, rank: usize) -> Result<Box<Mapping>>;
        fn region(self: &Mapping) -> Region;

        /// What `Issued` points to.
        ///
        /// # Safety
        /// Once for each.
        unsafe fn own_request(request: *mut Request) -> Box<Request>;
        /// Collectives issued so far.
        fn sequence_number(self: &Group) -> u64;
        fn set_timeout(self: &Group, timeout_ms: i64);
        /// The settings in force.
        fn settings(self: &Group) -> Vec<Setting>;
        /// Fails every pending operation and every later one.
        fn abort(self: &Group, reason: &str);
        /// Lets pending operations end for at most `slice_ms`, then gives the communicators back; true: done. Call it
        /// again until it is.
        fn shutdown(self: &Group, slice_ms: u64) -> Result<bool>;
        /// What the group occupies.
        fn memory_stats(self: &Group) -> Vec<MemoryStat>;
        /// Drives until none of the group's operations is pending; false when the time is up.
        fn quiesce(self: &Group, milliseconds: u64) -> bool;
        /// `None` while the group is healthy.
        fn error_kind(self: &Group) -> ErrorKind;

        /// Drives until the operation is done or `milliseconds` have passed; true: done.
        fn wait(self: &Request, milliseconds: u64) -> bool;
        /// Operation, sequence number, group and rank, for messages.
        fn describe(self: &Request) -> String;
        /// Ends the operation with an error, unless it ends first; its group fails with it.
        fn cancel(self: &Request, reason: &str);

        /// Lets pending operations end, and their completions be announced; false when the time is up.
        fn drain(milliseconds: u64) -> bool;
        /// For a host with an interpreter, before that ends: from then on no completion is announced or destroyed.
        fn before_interpreter_ends();
        /// Waits until no completion is being announced or due; false when the time is up.
        fn await_users(milliseconds: u64) -> bool;

        /// Whether other processes of the node can map memory of this one.
        fn can_share_memory() -> bool;
        /// New memory of `bytes` bytes, more than 0, that they can map.
        fn allocate_memory(bytes: usize) -> Result<*mut u8>;
        /// Takes it back; in a forked child it does nothing.
        ///
        /// # Safety
        /// Once for each, when nothing uses it any more.
        unsafe fn release_memory(address: *mut u8);
        /// What such memory occupies.
        fn heap_stats() -> Vec<MemoryStat>;

        /// A number that a child that is forked from now on does not have.
        fn process_generation() -> u32;
        /// Where that number can be read, by relaxed loads; null if only by calling it.
        fn process_generation_address() -> *const u32;

        /// Name and version of the MPI library; does not start MPI.
        fn mpi_library() -> String;
        /// Version of torch-rmpi.
        fn version() -> String;
    }
}

/// A group, for C++.
pub struct Group(Arc<group::Group>);

/// An error as cxx carries it: see the module.
struct Thrown(Error);

impl fmt::Display for Thrown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|{}", self.0.kind() as u8, self.0)
    }
}

/// Runs `body`; a panic becomes an error, as it must not cross into C++.
fn guard<T>(body: impl FnOnce() -> Result<T>) -> std::result::Result<T, Thrown> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|panic| Err(Error::Internal(panic_text(&*panic))))
        .map_err(Thrown)
}

/// As [`guard`], where there is no way to report an error but the log.
fn guard_or<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        log::error!("internal error of torch-rmpi, please report it: {}", panic_text(&*panic));
        fallback
    })
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(ms.max(0) as u64)
}

/// The sender's group rank, or -1.
fn source(outcome: &Outcome) -> i32 {
    outcome.source.map_or(-1, |source| source as i32)
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn mpi_started() -> bool {
    guard_or(false, crate::mpi::is_initialized)
}

fn start() -> std::result::Result<(), Thrown> {
    guard(|| group::start().map(drop))
}

fn check_reduction(dtype: ffi::DataType, op: ffi::ReduceOp) -> std::result::Result<(), Thrown> {
    guard(|| {
        Reduction::new(data_type(dtype)?, reduce_op(op)?, 1.0)?;
        Ok(())
    })
}

fn local_address(group: &str) -> std::result::Result<String, Thrown> {
    guard(|| {
        group::start()?;
        Ok(Address::local(group)?.to_string())
    })
}

fn world_rank() -> std::result::Result<i32, Thrown> {
    guard(|| Ok(group::start()?.0.world_rank() as i32))
}

fn world_size() -> std::result::Result<i32, Thrown> {
    guard(|| Ok(group::start()?.0.world_size() as i32))
}

fn world_broadcast(payload: &str, timeout_ms: i64) -> std::result::Result<String, Thrown> {
    guard(|| group::world_broadcast(payload, duration(timeout_ms)))
}

fn overrides(given: &[ffi::Override]) -> Result<Overrides> {
    Overrides::new(given.iter().map(|given| (given.name.as_str(), given.value.as_str())))
}

fn listed(settings: impl Iterator<Item = (Setting, String, Source)>) -> Vec<ffi::Setting> {
    in_words(settings).map(|[name, variable, value, source]| ffi::Setting { name, variable, value, source }).collect()
}

#[allow(clippy::ptr_arg, reason = "cxx passes its own vector by reference")]
fn read_settings(given: &Vec<ffi::Override>) -> std::result::Result<Vec<ffi::Setting>, Thrown> {
    guard(|| Ok(listed(group::wishes(&overrides(given)?)?.settings())))
}

#[allow(clippy::ptr_arg, reason = "cxx passes its own vector by reference")]
fn create_group(
    addresses: &Vec<String>,
    rank: usize,
    options: &ffi::GroupOptions,
) -> std::result::Result<Box<Group>, Thrown> {
    guard(|| {
        let addresses = addresses.iter().map(|text| text.parse()).collect::<Result<Vec<Address>>>()?;
        let name = match options.description.as_str() {
            "" | "undefined" => options.name.clone(),
            description => format!("{} ({description})", options.name),
        };
        let options =
            GroupOptions { name, timeout: duration(options.timeout_ms), overrides: overrides(&options.overrides)? };
        Ok(Box::new(Group(Arc::new(group::Group::create(&addresses, rank, options)?))))
    })
}

fn await_users(milliseconds: u64) -> bool {
    guard_or(true, || engine::await_users(Duration::from_millis(milliseconds)))
}

fn drain(milliseconds: u64) -> bool {
    guard_or(true, || engine::drain(Duration::from_millis(milliseconds)))
}

fn before_interpreter_ends() {
    guard_or((), engine::before_interpreter_ends);
}

fn process_generation() -> u32 {
    guard_or(0, process::generation)
}

fn process_generation_address() -> *const u32 {
    guard_or(std::ptr::null(), process::generation_address)
}

fn mpi_library() -> String {
    guard_or("unknown MPI".to_owned(), library_version)
}

fn version() -> String {
    crate::VERSION.to_owned()
}

/// Regions as the core's views.
///
/// # Safety
/// As for [`View::new`], for each region.
unsafe fn views(regions: &[ffi::Region]) -> &[View] {
    const {
        assert!(size_of::<ffi::Region>() == size_of::<View>() && align_of::<ffi::Region>() == align_of::<View>());
        assert!(std::mem::offset_of!(ffi::Region, data) == View::ADDRESS_OFFSET);
    }
    // SAFETY: both are an address and a length, in this order, with C's layout; the caller makes `View`'s promise.
    unsafe { std::slice::from_raw_parts(regions.as_ptr().cast(), regions.len()) }
}

impl Group {
    /// # Safety
    /// See the declaration.
    unsafe fn issue(
        &self,
        call: &ffi::Call,
        inputs: &[ffi::Region],
        outputs: &[ffi::Region],
        issuer: Pin<&mut ffi::Issuer>,
    ) -> std::result::Result<ffi::Issued, Thrown> {
        guard(|| {
            let mut timeout = (call.timeout_ms >= 0).then(|| duration(call.timeout_ms));
            if call.timeout_extension_ms > 0 {
                timeout = Some(timeout.unwrap_or_else(|| self.0.timeout()) + duration(call.timeout_extension_ms));
            }
            // SAFETY: the caller keeps the regions for as long as the operation uses them.
            let (inputs, outputs) = unsafe { (views(inputs), views(outputs)) };
            let completion = |number: Number| -> Result<Box<dyn Completion>> {
                let made = issuer
                    .completion(number.sequence, milliseconds(number.timeout))
                    .map_err(|error| Error::Internal(error.what().to_owned()))?;
                Ok(Box::new(Told(made)))
            };
            if let Some(step) = to_step(call, inputs)? {
                let window = self.0.window(call.window)?;
                let started = window.start(&self.0, step, timeout, next(call), call.reported, completion)?;
                return Ok(self.issued(started));
            }
            let invocation = Invocation::new(to_call(call)?, inputs, outputs).of(data_type(call.dtype)?);
            let started = if call.reported {
                Started::Pending(self.0.issue_with(&invocation, timeout, completion)?)
            } else {
                self.0.start(&invocation, timeout, next(call), completion)?
            };
            Ok(self.issued(started))
        })
    }

    fn issued(&self, started: Started) -> ffi::Issued {
        match started {
            Started::Ended { number, outcome } => ffi::Issued {
                request: std::ptr::null_mut(),
                sequence_number: number.sequence,
                timeout_ms: milliseconds(number.timeout),
                source: source(&outcome),
            },
            Started::Pending(operation) => {
                let request = Box::into_raw(Box::new(Request { group: self.0.clone(), operation }));
                // The completion has been told of its number.
                ffi::Issued { request, sequence_number: 0, timeout_ms: 0, source: -1 }
            }
        }
    }

    /// # Safety
    /// See the declaration.
    unsafe fn estimate(
        &self,
        call: &ffi::Call,
        inputs: &[ffi::Region],
        outputs: &[ffi::Region],
    ) -> std::result::Result<f64, Thrown> {
        guard(|| {
            // SAFETY: the caller keeps the regions until this returns.
            let (inputs, outputs) = unsafe { (views(inputs), views(outputs)) };
            let invocation = Invocation::new(to_call(call)?, inputs, outputs).of(data_type(call.dtype)?);
            let time = self.0.estimate(&invocation, next(call))?;
            time.ok_or_else(|| Error::Internal("estimates have not been prepared".to_owned()))
        })
    }

    fn prepare_estimates(&self) -> std::result::Result<(), Thrown> {
        guard(|| self.0.prepare_estimates())
    }

    fn has_estimates(&self) -> bool {
        self.0.has_estimates()
    }

    fn share(&self) -> Box<Group> {
        Box::new(Group(self.0.clone()))
    }

    fn sequence_number(&self) -> u64 {
        self.0.sequence_number()
    }

    fn set_timeout(&self, timeout_ms: i64) {
        self.0.set_timeout(duration(timeout_ms));
    }

    fn settings(&self) -> Vec<ffi::Setting> {
        guard_or(Vec::new(), || listed(self.0.tuning().settings()))
    }

    fn abort(&self, reason: &str) {
        guard_or((), || self.0.abort(reason));
    }

    fn shutdown(&self, slice_ms: u64) -> std::result::Result<bool, Thrown> {
        guard(|| self.0.shutdown(Duration::from_millis(slice_ms)))
    }

    fn memory_stats(&self) -> Vec<ffi::MemoryStat> {
        guard_or(Vec::new(), || self.0.memory().map(memory_stat).into())
    }

    fn quiesce(&self, milliseconds: u64) -> bool {
        guard_or(true, || self.0.quiesce(Duration::from_millis(milliseconds)))
    }

    fn error_kind(&self) -> ffi::ErrorKind {
        self.0.failure_kind().into()
    }
}
