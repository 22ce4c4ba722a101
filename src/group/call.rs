//! What can be asked of a group.

use crate::reduce::Reduction;

/// An operation, apart from its memory. With `p` ranks, `[t]` one view, `[t; p]` one view per rank, the inputs and
/// outputs of [`super::Group::issue`] are:
///
/// | Operation | inputs | outputs |
/// |---|---|---|
/// | `Broadcast` | | `[t]`, in place |
/// | `AllReduce` | `[t]` | `[t]`, may be the input |
/// | `Reduce` | `[t]` | root: `[t]`, may be the input; else none |
/// | `AllGather` | `[t]` | `[t; p]`, lengths may differ |
/// | `Gather` | `[t]` | root: `[t; p]`, lengths may differ; else none |
/// | `Scatter` | root: `[t; p]`, lengths may differ; else none | `[t]` |
/// | `ReduceScatter` | `[t; p]`, lengths may differ | `[t]` |
/// | `AllToAll` | `[t; p]`, any lengths | `[t; p]`, any lengths |
/// | `Barrier`, `MonitoredBarrier` | | |
/// | `Send` | `[t]` | |
/// | `Receive` | | `[t]` |
#[derive(Clone, Copy, Debug)]
pub enum Call {
    /// The root's memory to every rank.
    Broadcast {
        /// Whose memory.
        root: usize,
    },
    /// The reduction of all ranks' inputs to every rank.
    AllReduce(Reduction),
    /// The reduction of all ranks' inputs to the root.
    Reduce {
        /// Who gets it.
        root: usize,
        /// How.
        reduction: Reduction,
    },
    /// Every rank's input to every rank.
    AllGather,
    /// Every rank's input to the root.
    Gather {
        /// Who gets them.
        root: usize,
    },
    /// Rank r gets the root's input r.
    Scatter {
        /// Who has them.
        root: usize,
    },
    /// Rank r gets the reduction of all ranks' inputs r.
    ReduceScatter(Reduction),
    /// Rank r gets every rank's input r.
    AllToAll,
    /// Ends when every rank has called it.
    Barrier,
    /// The same; after the timeout rank 0 names those that did not arrive. Its failure leaves the group usable.
    MonitoredBarrier {
        /// Name all of them, not only the first.
        wait_all_ranks: bool,
    },
    /// A message to one rank.
    Send {
        /// To whom.
        to: usize,
        /// Matched with the receiver's.
        tag: i32,
    },
    /// A message from one rank.
    Receive {
        /// From whom; `None`: from whoever sends.
        from: Option<usize>,
        /// Matched with the sender's.
        tag: i32,
    },
}

impl Call {
    /// Its name in messages and profiles, as c10d's.
    pub fn name(&self) -> &'static str {
        match self {
            Call::Broadcast { .. } => "broadcast",
            Call::AllReduce(_) => "all_reduce",
            Call::Reduce { .. } => "reduce",
            Call::AllGather => "all_gather",
            Call::Gather { .. } => "gather",
            Call::Scatter { .. } => "scatter",
            Call::ReduceScatter(_) => "reduce_scatter",
            Call::AllToAll => "all_to_all",
            Call::Barrier => "barrier",
            Call::MonitoredBarrier { .. } => "monitored_barrier",
            Call::Send { .. } => "send",
            Call::Receive { .. } => "recv",
        }
    }
    /// The rank that its name goes with, and how.
    pub(super) fn peer(&self) -> Option<(&'static str, usize)> {
        match *self {
            Call::Broadcast { root } | Call::Scatter { root } => Some(("from rank", root)),
            Call::Reduce { root, .. } | Call::Gather { root } => Some(("to rank", root)),
            Call::Send { to, .. } => Some(("to rank", to)),
            Call::Receive { from, .. } => from.map(|from| ("from rank", from)),
            _ => None,
        }
    }
}
