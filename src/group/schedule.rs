//! From a call to its schedule.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::reach::{Reach, Shared, Spanning};
use super::{Call, Group, Invocation, neighbours};
use crate::collective::node::Begun;
use crate::collective::{self, Context, across};
use crate::engine::{Outcome, Schedule, Witness};
use crate::error::Result;
use crate::memory::View;
use crate::transport::{Channel, Outstanding, Transport};

/// Tags of collectives, as many for what leaders of nodes tell each other, and for monitored barriers; those above are of
/// windows. All fit into what every MPI offers.
pub(super) const TAGS: u64 = 1 << 13;

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
    let over = |transport: Arc<dyn Transport>| messages(transport, invocation, outstanding, tag, group, timeout);
    let mpi = || group.transport.clone();
    let on_mpi = |tag| context(group, mpi(), outstanding, Channel::Collective, tag);
    let (collective_tag, statement_tag) = (tag, TAGS as i32 + tag);
    let is_message = matches!(call, Call::Send { .. } | Call::Receive { .. });
    match &group.reach {
        // What a monitored barrier leaves behind must meet nothing else.
        _ if matches!(call, Call::MonitoredBarrier { .. }) => (over(mpi()), None),
        Reach::Node(Shared { node, transport }) if is_message => {
            (over(transport.clone()), Some(neighbours::peer(node, &call)))
        }
        Reach::Node(Shared { node, .. }) => {
            let (inputs, outputs) = (inputs.to_vec(), outputs.to_vec());
            let schedule = collective::node::run(node.clone(), call, dtype, inputs, outputs, begun);
            (done(schedule), Some(neighbours::waiting(node)))
        }
        Reach::Nodes(Spanning { place, transport }) if is_message => {
            let rings = transport.rings(call.peer().map(|(_, rank)| rank));
            (over(transport.clone()), rings.then(|| neighbours::peer(&place.node, &call)))
        }
        Reach::Nodes(Spanning { place, .. }) => {
            let verdict = Arc::new(across::Verdict::default());
            let contexts = [on_mpi(collective_tag), on_mpi(statement_tag)];
            let (inputs, outputs) = (inputs.to_vec(), outputs.to_vec());
            let schedule = across::run(place.clone(), verdict.clone(), contexts, call, dtype, inputs, outputs);
            (done(schedule), Some(neighbours::across(&place.node, verdict, outstanding)))
        }
        Reach::Apart(topology) if !is_message => {
            let verdict = Arc::new(across::Verdict::default());
            let steps = match call {
                // All have said what they call: that is all.
                Call::Barrier => done(async { Ok(()) }),
                _ => over(mpi()),
            };
            let announcement = across::fingerprint(invocation, topology);
            let statements = on_mpi(statement_tag);
            let schedule = across::checked(topology.clone(), verdict.clone(), statements, announcement, steps);
            (Box::pin(schedule), Some(neighbours::apart(verdict)))
        }
        Reach::Messages | Reach::Apart(_) => (over(mpi()), None),
    }
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
            let (strays, node) = (group.strays.clone(), group.reach.node().cloned());
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
