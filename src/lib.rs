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
//! - [`memory`], [`error`]: used by all

#[cfg(feature = "bridge")]
pub mod bridge;
pub mod capi;
pub mod collective;
pub mod engine;
pub mod error;
pub mod group;
mod logging;
pub mod memory;
pub mod mpi;
pub mod reduce;
pub mod shm;
pub mod transport;

pub use engine::{Completion, Operation, Outcome};
pub use error::{Error, Result};
pub use group::{Address, Call, Group, GroupOptions, Invocation};
pub use memory::View;
pub use reduce::{DataType, ReduceOp, Reduction};

/// Version of this crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
