//! Collectives of groups that span nodes, some of which hold several of their ranks: shared memory within a node, messages
//! between nodes, where each rank of a node carries a share. One per file; what they have in common is in `local`.
//!
//! Each begins with a round of all ranks of a node, in which they see whether they call the same thing, and ends with
//! one, which the leader of the node enters when it knows that the other nodes agree, too.

mod all_gather;
mod all_reduce;
mod all_to_all;
mod apart;
mod broadcast;
mod chain;
mod fingerprint;
mod gather;
mod local;
mod reduce;
mod reduce_scatter;
mod scatter;
#[cfg(test)]
mod tests;
mod topology;
mod verdict;

pub use apart::checked;
pub use fingerprint::fingerprint;
pub use topology::Topology;
pub use verdict::Verdict;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::{Call, Context, Invocation};
use crate::error::{Error, Result};
use crate::memory::View;
use crate::reduce::DataType;
use crate::shm::{Announcement, Node};
use fingerprint::Statement;

/// Where the ranks of a group are.
#[derive(Clone)]
pub struct Place {
    /// Those on this node, this one alone if it is the only one.
    pub node: Arc<Node>,
    /// All of them.
    pub topology: Arc<Topology>,
}

/// One collective, as its schedule sees it.
struct Across {
    node: Arc<Node>,
    topology: Arc<Topology>,
    /// Messages to any rank; only those of other nodes get any.
    context: Context,
    /// Messages of the leaders to each other.
    statements: Context,
    announcement: Announcement,
    verdict: Arc<Verdict>,
}

/// A collective as a schedule. The tags of the two contexts differ, and are this collective's alone.
#[allow(clippy::too_many_arguments)]
pub async fn run(
    place: Place,
    verdict: Arc<Verdict>,
    [context, statements]: [Context; 2],
    call: Call,
    dtype: DataType,
    inputs: Vec<View>,
    outputs: Vec<View>,
) -> Result<()> {
    let Place { node, topology } = place;
    let announcement = fingerprint(&Invocation { call, dtype, inputs: &inputs, outputs: &outputs }, &topology);
    let across = Across { node, topology, context, statements, announcement, verdict };
    let mut steps = pin!(across.steps(call, &inputs, &outputs));
    let mut failure = None;
    poll_fn(|task| {
        across.verdict.progress(task, &mut failure);
        if failure.is_none() {
            match steps.as_mut().poll(task) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => failure = Some(error),
                Poll::Pending => {
                    // A rank of this node that waits for a message from another one, while its peers have failed.
                    if let Err(error) = across.node.check_no_failure() {
                        // The peer may have failed after it had ended this one, which has all that it needs then.
                        match steps.as_mut().poll(task) {
                            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                            Poll::Ready(Err(other)) => failure = Some(other),
                            Poll::Pending => failure = Some(error),
                        }
                    }
                }
            }
        }
        // The other nodes must not be left to wait for this one's statement.
        if let Some(error) = &failure
            && !across.verdict.has_begun()
            && let Err(other) = across.give_up(error)
        {
            return Poll::Ready(Err(other));
        }
        match failure.take_if(|error| across.verdict.may_fail(error)) {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    })
    .await
}

impl Across {
    /// Before all ranks of this node have arrived: has its leader tell the other nodes that they never will.
    fn give_up(&self, error: &Error) -> Result<()> {
        if self.topology.leads() {
            let statement = Statement::of_failure(self.announcement, error);
            self.verdict.ask(&self.statements, &self.topology, statement)
        } else {
            self.verdict.leave_to_leader();
            Ok(())
        }
    }

    async fn steps(&self, call: Call, inputs: &[View], outputs: &[View]) -> Result<()> {
        let only = |views: &[View]| views.first().copied().unwrap_or(View::empty());
        let (input, output) = (only(inputs), only(outputs));
        match call {
            Call::Broadcast { root } => broadcast::broadcast(self, &output, root).await,
            Call::AllReduce(reduction) => all_reduce::all_reduce(self, &input, &output, &reduction).await,
            Call::Reduce { root, reduction } => reduce::reduce(self, &input, &output, root, &reduction).await,
            Call::AllGather => all_gather::all_gather(self, &input, outputs).await,
            Call::Gather { root } => gather::gather(self, &input, outputs, root).await,
            Call::Scatter { root } => scatter::scatter(self, inputs, &output, root).await,
            Call::ReduceScatter(reduction) => reduce_scatter::reduce_scatter(self, inputs, &output, &reduction).await,
            Call::AllToAll => all_to_all::all_to_all(self, inputs, outputs).await,
            Call::Barrier => {
                self.begin().await?;
                self.end().await
            }
            Call::MonitoredBarrier { .. } | Call::Send { .. } | Call::Receive { .. } => {
                Err(Error::Internal(format!("{} does not run in rounds", call.name())))
            }
        }
    }
}
