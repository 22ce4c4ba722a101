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
/// all of them with `wait_all_ranks`; the ranks that did arrive, and those that come later, fail then, too. Ranks of
/// `node`, of which this one is a member, are not waited for once they have died, failed or left. The context's tag must be of this barrier alone: a
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

/// What rank 0 knows of another rank.
enum Standing {
    Expected,
    Arrived,
    /// Its time is up. It may still come.
    Late,
    /// It takes no part, or none any more, for this reason.
    Gone(String),
}

async fn supervise(
    context: &Context,
    node: Option<&Node>,
    start: Instant,
    timeout: Duration,
    wait_all_ranks: bool,
) -> Result<()> {
    let nothing = View::empty();
    let mut roll = Roll::default();
    for rank in 1..context.size() {
        roll.ranks.push((Awaited::new(rank, context.receive(rank, &nothing)), Standing::Expected));
    }
    let was_late = start.elapsed() >= timeout;
    poll_fn(|task| {
        roll.look(node, start.elapsed() >= timeout, task);
        if roll.is_decided(wait_all_ranks) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let elapsed = start.elapsed();
    tell(context, node, &mut roll).await;

    let names = roll.names();
    let Some(first) = names.first() else { return Ok(()) };
    let waited = elapsed.min(timeout).as_millis();
    let text = match (wait_all_ranks, was_late) {
        (true, _) => format!("Ranks {} failed to pass monitoredBarrier in {waited} ms", names.join(", ")),
        (false, true) => format!(
            "Rank 0 timed out in monitoredBarrier after {} ms; its timeout is {} ms. No report from: {}",
            elapsed.as_millis(),
            timeout.as_millis(),
            names.join(", ")
        ),
        (false, false) => format!("Rank {first} failed to pass monitoredBarrier in {waited} ms"),
    };
    Err(Error::MonitoredBarrier(match roll.causes() {
        causes if causes.is_empty() => text,
        causes => format!("{text}: {causes}"),
    }))
}

/// Sends the verdict to every rank that is not gone: one that comes later must not wait for rank 0, which has ended by then.
/// Only those that have arrived are waited for.
async fn tell(context: &Context, node: Option<&Node>, roll: &mut Roll) {
    let scratch = context.scratch(VERDICT);
    let verdict = scratch.view();
    verdict.write(&roll.to_bytes());
    let present = roll.ranks.iter_mut().filter(|(_, standing)| !matches!(standing, Standing::Gone(_)));
    let mut messages: Vec<_> =
        present.map(|(one, standing)| (Awaited::new(one.rank, context.send(one.rank, &verdict)), standing)).collect();
    poll_fn(|task| {
        let mut is_told = true;
        messages.retain_mut(|(message, standing)| match message.poll(node, Ok(()), task) {
            Poll::Pending => {
                is_told &= !matches!(standing, Standing::Arrived);
                true
            }
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(cause)) => {
                **standing = Standing::Gone(cause.to_string());
                false
            }
        });
        if is_told { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Who has come, and who has not; in the order of ranks.
#[derive(Default)]
struct Roll {
    ranks: Vec<(Awaited, Standing)>,
}

impl Roll {
    /// Looks for reports, and whether those that have sent one are still there: all ranks are to hear one verdict, and
    /// it is only rank 0 that judges.
    fn look(&mut self, node: Option<&Node>, is_over: bool, task: &mut TaskContext<'_>) {
        for (one, standing) in &mut self.ranks {
            if matches!(standing, Standing::Late | Standing::Gone(_)) {
                continue;
            }
            match one.poll(node, Ok(()), task) {
                Poll::Ready(Ok(())) => *standing = Standing::Arrived,
                Poll::Ready(Err(cause)) => *standing = Standing::Gone(cause.to_string()),
                Poll::Pending if is_over && matches!(standing, Standing::Expected) => *standing = Standing::Late,
                Poll::Pending => {}
            }
        }
    }

    fn is_decided(&self, wait_all_ranks: bool) -> bool {
        let is_any_expected = self.ranks.iter().any(|(_, standing)| matches!(standing, Standing::Expected));
        !is_any_expected || !wait_all_ranks && self.missing().next().is_some()
    }

    fn missing(&self) -> impl Iterator<Item = usize> {
        let is_missing = |standing: &Standing| matches!(standing, Standing::Late | Standing::Gone(_));
        self.ranks.iter().filter(move |(_, standing)| is_missing(standing)).map(|(one, _)| one.rank)
    }

    fn names(&self) -> Vec<String> {
        self.missing().map(|rank| rank.to_string()).collect()
    }

    /// Why ranks are missing, as far as it is known.
    fn causes(&self) -> String {
        let causes = self.ranks.iter().filter_map(|(_, standing)| match standing {
            Standing::Gone(cause) => Some(cause.as_str()),
            _ => None,
        });
        causes.collect::<Vec<_>>().join("; ")
    }

    /// The verdict as it travels.
    fn to_bytes(&self) -> [u8; VERDICT] {
        let mut bytes = [0; VERDICT];
        if self.missing().next().is_none() {
            bytes[0] = PASSED;
            return bytes;
        }
        let text = match self.causes() {
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
    let mut answer = Awaited::new(0, context.receive(0, &verdict));
    let sent = context.send(0, &View::empty()).map_err(|error| answer.mark_broken(error));
    // Rank 0 sees the ranks of its node, and tells all what it makes of that. Two that judge might judge differently.
    let judge = node.filter(|node| node.rank_of(0).is_none());
    // Rank 0 may have begun later than this rank, and its timeout counts from then.
    let deadline = start + timeout + timeout;
    let answered = poll_fn(|task| {
        // Rank 0 does not see those of this node until its timeout.
        let others = judge.map_or(Ok(()), Node::check_no_failure);
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

/// A message from a rank, or to it, unless it is gone.
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
    fn new(rank: usize, message: Result<Posted>) -> Self {
        let mut awaited = Awaited { rank, message: None, broken: None, gone: None };
        match message {
            Ok(message) => awaited.message = Some(message),
            Err(error) => awaited.mark_broken(error),
        }
        awaited
    }

    /// There is no way to the rank, says MPI.
    fn mark_broken(&mut self, error: Error) {
        self.broken = Some((Instant::now(), error));
    }

    /// Looks for the message. An error if it will not come: the rank is gone, or `others` says so, and nothing it may have
    /// sent before is still under way. Once the message has come, whether the rank is gone since.
    fn poll(&mut self, node: Option<&Node>, others: Result<()>, task: &mut TaskContext<'_>) -> Poll<Result<()>> {
        let member = node.and_then(|node| Some((node, node.rank_of(self.rank)?)));
        let found = member.map_or(Ok(()), |(node, place)| node.check_peer(place)).and(others);
        if let Some(message) = &mut self.message
            && let Poll::Ready(result) = Pin::new(message).poll(task)
        {
            self.message = None;
            match result {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) => self.mark_broken(error),
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
mod tests;
