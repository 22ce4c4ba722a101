//! What can be asked of a group.

use crate::memory::View;
use crate::reduce::{DataType, Reduction};

/// An operation, apart from its memory. With `p` ranks, `[t]` one view, `[t; p]` one view per rank, the inputs and
/// outputs of an [`Invocation`] are:
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
    /// How it reduces, if it does.
    pub fn reduction(&self) -> Option<&Reduction> {
        match self {
            Call::AllReduce(reduction) | Call::Reduce { reduction, .. } | Call::ReduceScatter(reduction) => {
                Some(reduction)
            }
            _ => None,
        }
    }

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
    pub(crate) fn peer(&self) -> Option<(&'static str, usize)> {
        match *self {
            Call::Broadcast { root } | Call::Scatter { root } => Some(("from rank", root)),
            Call::Reduce { root, .. } | Call::Gather { root } => Some(("to rank", root)),
            Call::Send { to, .. } => Some(("to rank", to)),
            Call::Receive { from, .. } => from.map(|from| ("from rank", from)),
            _ => None,
        }
    }
}

/// A call with its memory.
#[derive(Clone, Copy, Debug)]
pub struct Invocation<'a> {
    /// What to do.
    pub call: Call,
    /// Data type of the elements. Where nothing is reduced it serves only to notice ranks that disagree.
    pub dtype: DataType,
    /// What is read.
    pub inputs: &'a [View],
    /// What is written.
    pub outputs: &'a [View],
}

impl<'a> Invocation<'a> {
    /// With the data type of the call's reduction, or [`DataType::Bytes`].
    pub fn new(call: Call, inputs: &'a [View], outputs: &'a [View]) -> Self {
        let dtype = call.reduction().map_or(DataType::Bytes, Reduction::dtype);
        Invocation { call, dtype, inputs, outputs }
    }

    /// The same with another data type, which must be the reduction's if there is one.
    pub fn of(self, dtype: DataType) -> Self {
        Invocation { dtype, ..self }
    }
}
