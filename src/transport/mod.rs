//! How one rank of a group reaches another: over MPI, or through memory that the ranks of a node share. Schedules in
//! `collective/` see one trait.

mod claim;
#[cfg(test)]
pub(crate) mod local;
mod matching;
mod mpi;
mod outstanding;
mod shared;
mod spanning;
mod subset;

pub use self::mpi::MpiTransport;
pub use crate::mpi::Arrival;
pub use outstanding::{Lease, Outstanding, Posted};
pub use shared::{PIECE, Receipt, SharedTransport};
pub use spanning::SpanningTransport;
pub use subset::Subset;

use crate::error::Result;
use crate::memory::View;

/// What a message belongs to. The two never match each other, so a user's tag cannot meet a collective's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Messages of collectives.
    Collective,
    /// The user's send and recv.
    PointToPoint,
}

/// One rank's way to the other ranks of its group. Messages of one (sender, channel, tag) arrive in the order sent.
///
/// The memory that a view names must stay until the request has been tested to its end; [`Outstanding`] sees to that.
pub trait Transport: Send + Sync {
    /// This rank.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Starts to send `data` to rank `peer`.
    fn send(&self, channel: Channel, peer: usize, tag: i32, data: &View) -> Result<Box<dyn Request>>;

    /// Starts to receive exactly `buffer.len()` bytes from rank `peer`, or from any rank.
    fn receive(&self, channel: Channel, peer: Option<usize>, tag: i32, buffer: &View) -> Result<Box<dyn Request>>;
}

/// A message under way.
pub trait Request: Send {
    /// `None` while it is under way. Not called again after anything else came.
    fn test(&mut self) -> Result<Option<Arrival>>;

    /// Whether the last test has moved a part of it, so that another one may find more to do at once.
    fn has_moved(&self) -> bool {
        false
    }

    /// Asks for the memory back; `test` tells when it is.
    fn cancel(&mut self);
}
