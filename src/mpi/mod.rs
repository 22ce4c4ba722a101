//! Every call into MPI. The rest of the crate sees one MPI, whatever the vendor, and gets a `Result` from each call.
//!
//! MPI is asked for `MPI_THREAD_MULTIPLE`, so nothing here is undefined when two threads call at once. The engine makes
//! all calls of operations under its progress lock all the same: that is what keeps them cheap and ordered.

mod check;
mod communicator;
mod datatype;
mod environment;
mod request;

pub use communicator::Communicator;
pub use environment::{Environment, is_initialized, library_version};
pub(crate) use environment::{is_finalized, is_usable};
pub use request::{Arrival, Message, Request};

/// The highest tag that every MPI supports (MPI 4.1, section 9.1.2, `MPI_TAG_UB` is at least this).
pub const PORTABLE_TAG_MAX: i32 = 32767;
