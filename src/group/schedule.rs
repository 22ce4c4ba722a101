//! From a call to its schedule.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Call, Group, Invocation, Shared, Spanning, neighbours};
use crate::collective::node::Begun;
use crate::collective::{self, Context, across};
use crate::engine::{Outcome, Schedule, Witness};
use crate::error::Result;
use crate::memory::View;
use crate::transport::{Channel, Outstanding, Transport};

/// Tags of collectives, as many for what leaders of nodes tell each other, and for monitored barriers; all fit into what
/// every MPI offers.
const TAGS: u64 = 1 << 13;

/// The steps of a call whose arguments have been checked: over shared memory, where it may have `begun`, over MPI, or
/// both; and who knows what they wait for.
pub(super) fn schedule(
    group: &Group,
    invocation: &Invocation<'_>,
    begun: Option<Begun>,
    outstanding: &Arc<Outstanding>,
    sequence: u64,
    timeout: Duration,
) -> (Schedule, Option<Arc<dyn Witness>>) {
    let Invocation { call, dtype, inputs, outputs } = *invocation;
    let tag = (sequence % TAGS) as i32;
    match call {
        // What a monitored barrier leaves behind must meet nothing else.
        Call::MonitoredBarrier { .. } => {}
        Call::Send { .. } | Call::Receive { .. } => {
            let peer = match call {
                Call::Send { to, .. } => Some(to),
                Call::Receive { from, .. } => from,
                _ => None,
            };
            if let Some(Shared { node, transport }) = &group.shared {
                let schedule = messages(transport.clone(), invocation, outstanding, tag, group, timeout);
                return (schedule, Some(neighbours::peer(node, &call)));
            }
            if let Some(Spanning { place, transport }) = &group.spanning {
                let witness = transport.rings(peer).then(|| neighbours::peer(&place.node, &call));
                return (messages(transport.clone(), invocation, outstanding, tag, group, timeout), witness);
            }
        }
        _ => {
            let (inputs, outputs) = (inputs.to_vec(), outputs.to_vec());
            if let Some(Shared { node, .. }) = &group.shared {
                let schedule = done(collective::node::run(node.clone(), call, dtype, inputs, outputs, begun));
                return (schedule, Some(neighbours::waiting(node)));
            }
            if let Some(Spanning { place, .. }) = &group.spanning {
                let verdict = Arc::new(across::Verdict::default());
                let context = |tag| context(group, group.transport.clone(), outstanding, Channel::Collective, tag);
                let contexts = [context(tag), context(TAGS as i32 + tag)];
                let schedule = across::run(place.clone(), verdict.clone(), contexts, call, dtype, inputs, outputs);
                return (done(schedule), Some(neighbours::across(&place.node, verdict, outstanding)));
            }
            if let Some(topology) = &group.apart {
                let verdict = Arc::new(across::Verdict::default());
                let transport = group.transport.clone();
                let statements =
                    Context::new(transport.clone(), outstanding.clone(), Channel::Collective, TAGS as i32 + tag);
                let steps = match call {
                    // All have said what they call: that is all.
                    Call::Barrier => done(async { Ok(()) }),
                    _ => messages(transport, invocation, outstanding, tag, group, timeout),
                };
                let call = across::fingerprint(invocation, topology);
                let schedule = across::checked(topology.clone(), verdict.clone(), statements, call, steps);
                return (Box::pin(schedule), Some(neighbours::apart(verdict)));
            }
        }
    }
    (messages(group.transport.clone(), invocation, outstanding, tag, group, timeout), None)
}

fn context(
    group: &Group,
    transport: Arc<dyn Transport>,
    outstanding: &Arc<Outstanding>,
    channel: Channel,
    tag: i32,
) -> Context {
    Context::new(transport, outstanding.clone(), channel, tag).with(group.tuning.thresholds())
}

/// The steps of a call as messages over `transport`.
fn messages(
    transport: Arc<dyn Transport>,
    invocation: &Invocation<'_>,
    outstanding: &Arc<Outstanding>,
    tag: i32,
    group: &Group,
    timeout: Duration,
) -> Schedule {
    let Invocation { call, inputs, outputs, .. } = *invocation;
    let (channel, tag) = match call {
        Call::Send { tag, .. } | Call::Receive { tag, .. } => (Channel::PointToPoint, tag),
        Call::MonitoredBarrier { .. } => (Channel::Collective, 2 * TAGS as i32 + tag),
        _ => (Channel::Collective, tag),
    };
    let context = context(group, transport, outstanding, channel, tag);
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
            let (strays, node) = (group.strays.clone(), group.node().cloned());
            // Relaxed: read when the lane has no operation left, which orders it.
            strays.fetch_add(1, Ordering::Relaxed);
            done(async move {
                collective::monitored_barrier(context, node, timeout, wait_all_ranks).await?;
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
