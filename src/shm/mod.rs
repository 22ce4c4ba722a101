//! What ranks of one node share: memory, doorbells, and the knowledge of each other. Nothing else maps memory.
//!
//! - [`Segment`]: memory without a name; [`Doorbell`]: how a sleeping process is woken
//! - [`Node`]: the ranks of a group on this node, and the rounds in which they exchange data
//! - `pace`: whether what others read is written through the caches
//! - `heap`: memory that users allocate for what they communicate; [`Mapped`]: that of other processes
//! - [`RingWriter`], [`RingReader`]: a stream of bytes from one rank to another
//! - [`Sample`]: whether ranks can copy straight from each other's memory
//! - [`identity`]: who can share memory, and who still lives; `meeting`: how descriptors travel
//! - [`locality`]: what the cores of a process share; [`Domains`]: the ranks of a node by that

mod atomic;
mod board;
mod domains;
mod doorbell;
pub mod heap;
pub mod identity;
mod layout;
pub mod locality;
mod mapped;
mod meeting;
#[cfg(loom)]
mod model;
mod node;
mod pace;
mod ring;
#[cfg(not(loom))]
mod segment;
#[cfg(loom)]
use model::segment;
#[cfg(any(test, feature = "bench-internals"))]
pub(crate) mod simulated;
mod single_copy;

pub use board::Farewell;
pub use domains::Domains;
pub use doorbell::{Doorbell, Sleeper};
pub use mapped::Mapped;
pub use meeting::{Card, Meeting, own_doorbell};
pub use node::{Announcement, Node, Remote, Round, leave_all};
pub use ring::{RingReader, RingWriter, UNIT};
pub use segment::Segment;
pub use single_copy::{Location, Sample};

use crate::error::Error;

/// An error of a system call.
fn failed(call: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |error| Error::Unavailable(format!("shared memory is not available: {call} failed: {error}"))
}
