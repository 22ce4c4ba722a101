//! From a call to its schedule.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Call, Group};
use crate::collective::{self, Context};
use crate::engine::{Outcome, Schedule};
use crate::error::Result;
use crate::memory::View;
use crate::transport::{Channel, Outstanding};

/// Tags of collectives and of monitored barriers; both fit into what every MPI offers.
const TAGS: u64 = 1 << 14;

/// The steps of `call`, whose arguments have been checked.
pub(super) fn schedule(
    group: &Group,
    call: &Call,
    inputs: &[View],
    outputs: &[View],
    outstanding: &Arc<Outstanding>,
    sequence: u64,
    timeout: Duration,
) -> Schedule {
    let (channel, tag) = match *call {
        Call::Send { tag, .. } | Call::Receive { tag, .. } => (Channel::PointToPoint, tag),
        Call::MonitoredBarrier { .. } => (Channel::Collective, (TAGS + sequence % TAGS) as i32),
        _ => (Channel::Collective, (sequence % TAGS) as i32),
    };
    let context = Context::new(group.transport.clone(), outstanding.clone(), channel, tag);
    let input = inputs.first().copied().unwrap_or(View::empty());
    let output = outputs.first().copied();
    let all = |views: &[View]| views.to_vec();
    let some = |views: &[View]| (!views.is_empty()).then(|| views.to_vec());
    match *call {
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
