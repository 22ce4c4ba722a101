//! The core of torch-rmpi: collectives and messages among the processes of an MPI job, on plain memory. It knows no
//! torch; the C++ shim turns tensors into memory and errors into exceptions.
//!
//! Layers, each of which uses only those below it:
//!
//! - [`mod@bridge`] (C++) and [`capi`] (C): what other languages see
//! - [`group`]: members, order, health, checks
//! - [`engine`]: who drives, waiting, deadlines, completion
//! - [`collective`]: the schedule of each collective
//! - [`reduce`]: element types and reductions
//! - [`transport`]: messages between ranks
//! - [`mpi`]: every call into MPI; [`shm`]: memory that ranks of one node share
//! - [`tuning`]: what users may choose; [`memory`], [`error`]: used by all
//!
//! With `--cfg loom` there is only what the models of `shm` need.

#![cfg_attr(loom, allow(dead_code, reason = "its users are left out"))]

#[cfg(all(feature = "bench-internals", not(loom)))]
#[doc(hidden)]
pub mod bench;
#[cfg(all(feature = "bridge", not(loom)))]
pub mod bridge;
#[cfg(not(loom))]
pub mod capi;
#[cfg(not(loom))]
pub mod collective;
#[cfg(not(loom))]
pub mod engine;
pub mod error;
#[cfg(not(loom))]
pub mod group;
#[cfg(not(loom))]
mod logging;
pub mod memory;
#[cfg(not(loom))]
pub mod mpi;
mod process;
pub mod reduce;
pub mod shm;
#[cfg(not(loom))]
pub mod transport;
pub mod tuning;

#[cfg(not(loom))]
pub use engine::{Completion, Operation, Outcome};
pub use error::{Error, Result};
#[cfg(not(loom))]
pub use group::{Address, Call, Group, GroupOptions, Invocation};
pub use memory::View;
pub use reduce::{DataType, ReduceOp, Reduction};

/// Version of this crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
