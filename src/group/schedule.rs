//! From a call to its schedule.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Call, Group, Invocation, Shared};
use crate::collective::node::Begun;
use crate::collective::{self, Context};
use crate::engine::{Outcome, Schedule};
use crate::error::Result;
use crate::memory::View;
use crate::transport::{Channel, Outstanding, Transport};

/// Tags of collectives and of monitored barriers; both fit into what every MPI offers.
const TAGS: u64 = 1 << 14;

/// The steps of a call whose arguments have been checked: over `shared` memory, where it may have `begun`, or
/// over MPI.
pub(super) fn schedule(
    group: &Group,
    invocation: &Invocation<'_>,
    shared: Option<&Shared>,
    begun: Option<Begun>,
    outstanding: &Arc<Outstanding>,
    sequence: u64,
    timeout: Duration,
) -> Schedule {
    let Invocation { call, dtype, inputs, outputs } = *invocation;
    let is_message = matches!(call, Call::Send { .. } | Call::Receive { .. });
    let transport: Arc<dyn Transport> = match shared {
        Some(Shared { transport, .. }) if is_message => transport.clone(),
        Some(Shared { node, .. }) => {
            let (inputs, outputs) = (inputs.to_vec(), outputs.to_vec());
            return done(collective::node::run(node.clone(), call, dtype, inputs, outputs, begun));
        }
        None => group.transport.clone(),
    };
    let (channel, tag) = match call {
        Call::Send { tag, .. } | Call::Receive { tag, .. } => (Channel::PointToPoint, tag),
        Call::MonitoredBarrier { .. } => (Channel::Collective, (TAGS + sequence % TAGS) as i32),
        _ => (Channel::Collective, (sequence % TAGS) as i32),
    };
    let context = Context::new(transport, outstanding.clone(), channel, tag);
    let input = inputs.first().copied().unwrap_or(View::empty());
    let output = outputs.first().copied();
    let all = |views: &[View]| views.to_vec();
    let some = |views: &[View]| (!views.is_empty()).then(|| views.to_vec());
    match call {
        Call::Broadcast { root } => done(collective::broadcast(context, output.unwrap_or(View::empty()), root)),
        Call::AllReduce(reduction) => {
            done(collective::all_reduce(context, input, output.unwrap_or(View::empty()), reduction))
        }
        Call::Reduce { root, reduction } => done(collective::reduce(context, input, output, root, reduction)),
        Call::AllGather => done(collective::all_gather(context, input, all(outputs))),
        Call::Gather { root } => done(collective::gather(context, input, some(outputs), root)),
        Call::Scatter { root } => {
            done(collective::scatter(context, some(inputs), output.unwrap_or(View::empty()), root))
        }
        Call::ReduceScatter(reduction) => {
            done(collective::reduce_scatter(context, all(inputs), output.unwrap_or(View::empty()), reduction))
        }
        Call::AllToAll => done(collective::all_to_all(context, all(inputs), all(outputs))),
        Call::Barrier => done(collective::barrier(context)),
        Call::MonitoredBarrier { wait_all_ranks } => {
            let strays = group.strays.clone();
            // Relaxed: read when the lane has no operation left, which orders it.
            strays.fetch_add(1, Ordering::Relaxed);
            done(async move {
                collective::monitored_barrier(context, timeout, wait_all_ranks).await?;
                strays.fetch_sub(1, Ordering::Relaxed);
                Ok(())
            })
        }
        Call::Send { to, .. } => done(async move { context.send(to, &input)?.await.map(drop) }),
        Call::Receive { from, .. } => {
            let output = output.unwrap_or(View::empty());
            Box::pin(async move {
                let arrival = context.receive_from(from, &output)?.await?;
                Ok(Outcome { source: Some(arrival.peer) })
            })
        }
    }
}

fn done(steps: impl Future<Output = Result<()>> + Send + 'static) -> Schedule {
    Box::pin(async move {
        steps.await?;
        Ok(Outcome::default())
    })
}
