//! A barrier in which rank 0 names the ranks that did not arrive. Every rank reports to rank 0, which answers all of
//! them with its verdict, so that nobody waits longer than rank 0 does. Messages go over MPI, since what a late rank leaves
//! behind must not stand in the way of others; what shared memory knows of the ranks of this node spares the wait for those
//! that are gone.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use super::Context;
use super::context::all;
use crate::error::{Error, Result};
use crate::memory::View;
use crate::shm::Node;
use crate::transport::Posted;

/// Bytes of rank 0's answer: whether the barrier has passed, the length of a text, and the text.
const VERDICT: usize = 256;
const PASSED: u8 = 1;
const FAILED: u8 = 2;

/// How long a message may still be under way from a rank that is gone: memory shows its end before MPI shows its message.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// Returns when every rank has called it. After `timeout` rank 0 fails, naming the first rank that did not arrive, or
/// all of them with `wait_all_ranks`; the ranks that did arrive fail then, too. Ranks of `node`, of which this one is a
/// member, are not waited for once they have died, failed or left. The context's tag must be of this barrier alone: a
/// late rank's report is never received.
pub async fn monitored_barrier(
    context: Context,
    node: Option<Arc<Node>>,
    timeout: Duration,
    wait_all_ranks: bool,
) -> Result<()> {
    let start = Instant::now();
    if context.rank() == 0 {
        supervise(&context, node.as_deref(), start, timeout, wait_all_ranks).await
    } else {
        report(&context, node.as_deref(), start, timeout).await
    }
}

/// A report that rank 0 waits for.
struct Expected {
    rank: usize,
    report: Posted,
    suspicion: Suspicion,
}

/// Who has come, and who has not; in the order of ranks.
#[derive(Default)]
struct Roll {
    arrived: Vec<usize>,
    missing: Vec<usize>,
    /// Why, as far as it is known.
    causes: Vec<String>,
}

async fn supervise(
    context: &Context,
    node: Option<&Node>,
    start: Instant,
    timeout: Duration,
    wait_all_ranks: bool,
) -> Result<()> {
    let nothing = View::empty();
    let mut expected = Vec::new();
    for rank in 1..context.size() {
        let report = context.receive(rank, &nothing)?;
        expected.push(Expected { rank, report, suspicion: Suspicion::default() });
    }
    let was_late = start.elapsed() >= timeout;
    let mut roll = Roll::default();
    poll_fn(|task| {
        let is_over = start.elapsed() >= timeout;
        expected.retain_mut(|one| roll.keeps_waiting_for(one, node, is_over, task));
        let is_decided = expected.is_empty() || !wait_all_ranks && !roll.missing.is_empty();
        if is_decided { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let elapsed = start.elapsed();
    roll.missing.sort_unstable();

    let scratch = context.scratch(VERDICT);
    let verdict = scratch.view();
    verdict.write(&roll.to_bytes());
    let sent = roll.arrived.iter().map(|&rank| context.send(rank, &verdict)).collect::<Result<Vec<_>>>();
    let told = match sent {
        Ok(sent) => all(sent).await,
        Err(error) => Err(error),
    };
    let Some(first) = roll.missing.first() else { return told };
    let waited = elapsed.min(timeout).as_millis();
    let text = match (wait_all_ranks, was_late) {
        (true, _) => format!("Ranks {} failed to pass monitoredBarrier in {waited} ms", roll.names()),
        (false, true) => format!(
            "Rank 0 timed out in monitoredBarrier after {} ms; its timeout is {} ms. No report from: {}",
            elapsed.as_millis(),
            timeout.as_millis(),
            roll.names()
        ),
        (false, false) => format!("Rank {first} failed to pass monitoredBarrier in {waited} ms"),
    };
    Err(Error::MonitoredBarrier(match roll.causes.join("; ") {
        causes if causes.is_empty() => text,
        causes => format!("{text}: {causes}"),
    }))
}

impl Roll {
    /// Looks for one report. False if there is nothing more to wait for.
    fn keeps_waiting_for(
        &mut self,
        one: &mut Expected,
        node: Option<&Node>,
        is_over: bool,
        task: &mut TaskContext<'_>,
    ) -> bool {
        // Before the look: what the rank has sent before it went may be there.
        let gone = one.suspicion.confirmed(check(node, one.rank));
        let cause = match Pin::new(&mut one.report).poll(task) {
            Poll::Ready(Ok(_)) => {
                self.arrived.push(one.rank);
                return false;
            }
            Poll::Ready(Err(error)) => Some(error),
            Poll::Pending => gone,
        };
        if cause.is_none() && !is_over {
            return true;
        }
        self.missing.push(one.rank);
        self.causes.extend(cause.map(|cause| cause.to_string()));
        false
    }

    fn names(&self) -> String {
        self.missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The verdict as it travels.
    fn to_bytes(&self) -> [u8; VERDICT] {
        let mut bytes = [0; VERDICT];
        if self.missing.is_empty() {
            bytes[0] = PASSED;
            return bytes;
        }
        let text = match self.causes.join("; ") {
            causes if causes.is_empty() => "its error names them".to_owned(),
            causes => causes,
        };
        let mut len = text.len().min(VERDICT - 2);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        (bytes[0], bytes[1]) = (FAILED, len as u8);
        bytes[2..2 + len].copy_from_slice(&text.as_bytes()[..len]);
        bytes
    }
}

async fn report(context: &Context, node: Option<&Node>, start: Instant, timeout: Duration) -> Result<()> {
    let rank = context.rank();
    let scratch = context.scratch(VERDICT);
    let verdict = scratch.view();
    let mut answer = context.receive(0, &verdict)?;
    let sent = context.send(0, &View::empty())?;
    // Rank 0 may have begun later than this rank, and its timeout counts from then.
    let deadline = start + timeout + timeout;
    let mut suspicion = Suspicion::default();
    let answered = poll_fn(|task| {
        // Any rank that is gone, since rank 0 may have given up before this rank came.
        let gone = check(node, 0).and(node.map_or(Ok(()), Node::check_no_failure));
        let gone = suspicion.confirmed(gone);
        match (Pin::new(&mut answer).poll(task), gone) {
            (Poll::Ready(result), _) => Poll::Ready(Some(result.map(drop))),
            (Poll::Pending, Some(error)) => Poll::Ready(Some(Err(error))),
            (Poll::Pending, None) if Instant::now() >= deadline => Poll::Ready(None),
            (Poll::Pending, None) => Poll::Pending,
        }
    })
    .await;
    drop(sent);
    let why = match answered {
        Some(Ok(())) => {
            let bytes = verdict.to_vec();
            if bytes[0] == PASSED {
                return Ok(());
            }
            let text = String::from_utf8_lossy(&bytes[2..2 + usize::from(bytes[1])]).into_owned();
            format!("rank 0 found that other ranks did not arrive; {text}")
        }
        Some(Err(error)) => error.to_string(),
        None => format!("rank 0 did not answer within twice the timeout of {timeout:?}"),
    };
    Err(Error::MonitoredBarrier(format!(
        "Rank {rank} successfully reached monitoredBarrier, but received errors while waiting for send/recv from rank 0: {why}"
    )))
}

/// An error if shared memory shows that a rank of the group takes no further part.
fn check(node: Option<&Node>, rank: usize) -> Result<()> {
    match node.and_then(|node| Some((node, node.rank_of(rank)?))) {
        Some((node, place)) => node.check_peer(place),
        None => Ok(()),
    }
}

/// A rank that seems to be gone.
#[derive(Default)]
struct Suspicion(Option<Instant>);

impl Suspicion {
    /// The error, when it has stood for so long that no message of before can still be under way.
    fn confirmed(&mut self, found: Result<()>) -> Option<Error> {
        let error = found.err()?;
        (self.0.get_or_insert_with(Instant::now).elapsed() >= UNDER_WAY).then_some(error)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::error::Kind;
    use crate::shm::Farewell;
    use crate::transport::local::{LocalTransport, Network};
    use crate::transport::{Channel, Outstanding};

    /// What each of `size` ranks of one node is told, where `absent` does not call but takes leave.
    fn told(size: usize, absent: usize, wait_all_ranks: bool, farewell: &Farewell) -> Vec<String> {
        let network = Arc::new(Network::default());
        let nodes: Vec<_> = Node::simulated(size, 4096).into_iter().map(Arc::new).collect();
        nodes[absent].bid_farewell(farewell);
        let schedule = |rank: usize| {
            let transport = Arc::new(LocalTransport { network: network.clone(), rank, size });
            let context = Context::new(transport, Arc::<Outstanding>::default(), Channel::Collective, 7);
            let hour = Duration::from_secs(3600);
            Box::pin(monitored_barrier(context, Some(nodes[rank].clone()), hour, wait_all_ranks))
        };
        let mut running: Vec<_> = (0..size).filter(|&rank| rank != absent).map(|rank| (rank, schedule(rank))).collect();
        let mut texts = vec![String::new(); size];
        while !running.is_empty() {
            running.retain_mut(|(rank, steps)| {
                match steps.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
                    Poll::Pending => true,
                    Poll::Ready(result) => {
                        texts[*rank] = result.unwrap_err().to_string();
                        false
                    }
                }
            });
        }
        texts
    }

    #[test]
    fn a_rank_that_has_failed_is_named_long_before_the_timeout() {
        for wait_all_ranks in [false, true] {
            let texts = told(4, 2, wait_all_ranks, &Farewell::Failed(Kind::Backend, "it broke".to_owned()));
            let expected = if wait_all_ranks { "Ranks 2 failed to pass" } else { "Rank 2 failed to pass" };
            assert!(texts[0].starts_with(expected), "{texts:?}");
            assert!(texts[1].starts_with("Rank 1 successfully reached"), "{texts:?}");
            for rank in [0, 1, 3] {
                assert!(texts[rank].contains("rank 2 has failed: it broke"), "{texts:?}");
            }
        }
    }

    #[test]
    fn rank_0_that_has_left_is_not_waited_for() {
        let texts = told(3, 0, false, &Farewell::Left);
        for rank in [1, 2] {
            assert!(texts[rank].contains("rank 0 has left the group"), "{texts:?}");
        }
    }
}
