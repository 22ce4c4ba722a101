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
/// How long memory may take to show that a rank is gone to which MPI has lost the way. MPI says less about it.
const NOTICE: Duration = Duration::from_secs(1);

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
        expected.push(Awaited::new(rank, context.receive(rank, &nothing)?));
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
        one: &mut Awaited,
        node: Option<&Node>,
        is_over: bool,
        task: &mut TaskContext<'_>,
    ) -> bool {
        match one.poll(node, Ok(()), task) {
            Poll::Ready(Ok(())) => self.arrived.push(one.rank),
            Poll::Pending if !is_over => return true,
            Poll::Pending => self.missing.push(one.rank),
            Poll::Ready(Err(cause)) => {
                self.missing.push(one.rank);
                self.causes.push(cause.to_string());
            }
        }
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
    let mut answer = Awaited::new(0, context.receive(0, &verdict)?);
    let sent = context.send(0, &View::empty())?;
    // Rank 0 may have begun later than this rank, and its timeout counts from then.
    let deadline = start + timeout + timeout;
    let answered = poll_fn(|task| {
        // Any rank that is gone, since rank 0 may have given up before this rank came.
        let others = node.map_or(Ok(()), Node::check_no_failure);
        match answer.poll(node, others, task) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending if Instant::now() >= deadline => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
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

/// A message that a rank sends unless it is gone.
struct Awaited {
    rank: usize,
    /// `None` once it has ended.
    message: Option<Posted>,
    /// What MPI says, and since when.
    broken: Option<(Instant, Error)>,
    /// Since when the rank, or another one that matters, seems to be gone.
    gone: Option<Instant>,
}

impl Awaited {
    fn new(rank: usize, message: Posted) -> Self {
        Awaited { rank, message: Some(message), broken: None, gone: None }
    }

    /// Looks for the message. An error if it will not come: the rank is gone, or `others` says so, and nothing it may have
    /// sent before is still under way.
    fn poll(&mut self, node: Option<&Node>, others: Result<()>, task: &mut TaskContext<'_>) -> Poll<Result<()>> {
        let member = node.and_then(|node| Some((node, node.rank_of(self.rank)?)));
        let found = member.map_or(Ok(()), |(node, place)| node.check_peer(place)).and(others);
        if let Some(message) = &mut self.message
            && let Poll::Ready(result) = Pin::new(message).poll(task)
        {
            self.message = None;
            match result {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) => self.broken = Some((Instant::now(), error)),
            }
        }
        if let Err(error) = found
            && self.gone.get_or_insert_with(Instant::now).elapsed() >= UNDER_WAY
        {
            return Poll::Ready(Err(error));
        }
        match self.broken.take_if(|(since, _)| member.is_none() || since.elapsed() >= NOTICE) {
            Some((_, error)) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::error::Kind;
    use crate::shm::Farewell;
    use crate::transport::Channel;
    use crate::transport::local::{LocalTransport, Network};

    /// What each of `size` ranks of one node is told, where `absent` does not call but takes leave.
    fn told(size: usize, absent: usize, wait_all_ranks: bool, farewell: &Farewell) -> Vec<String> {
        let network = Arc::new(Network::default());
        let nodes: Vec<_> = Node::simulated(size, 4096).into_iter().map(Arc::new).collect();
        nodes[absent].bid_farewell(farewell);
        let schedule = |rank: usize| {
            let transport = Arc::new(LocalTransport { network: network.clone(), rank, size });
            let context = Context::new(transport, network.operation(), Channel::Collective, 7);
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
