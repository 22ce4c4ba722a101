//! A barrier in which rank 0 names the ranks that did not arrive. Every rank reports to rank 0, which answers all of
//! them with its verdict, so that nobody waits longer than rank 0 does.

use std::time::{Duration, Instant};

use super::Context;
use super::context::{all, until};
use crate::error::{Error, Result};
use crate::memory::View;

/// What rank 0 answers.
const PASSED: u8 = 1;
const FAILED: u8 = 2;

/// Returns when every rank has called it. After `timeout` rank 0 fails, naming the first rank that did not arrive, or
/// all of them with `wait_all_ranks`; the ranks that did arrive fail then, too. The context's tag must be of this
/// barrier alone: a late rank's report is never received.
pub async fn monitored_barrier(context: Context, timeout: Duration, wait_all_ranks: bool) -> Result<()> {
    let start = Instant::now();
    if context.rank() == 0 {
        supervise(&context, start, timeout, wait_all_ranks).await
    } else {
        report(&context, start, timeout).await
    }
}

async fn supervise(context: &Context, start: Instant, timeout: Duration, wait_all_ranks: bool) -> Result<()> {
    let nothing = View::empty();
    let deadline = start + timeout;
    let mut reports = Vec::new();
    for rank in 1..context.size() {
        reports.push((rank, context.receive(rank, &nothing)?));
    }
    let (mut arrived, mut missing) = (Vec::new(), Vec::new());
    let mut out_of_time = None;
    for (rank, report) in reports {
        if Instant::now() >= deadline && missing.is_empty() {
            out_of_time.get_or_insert(start.elapsed());
        }
        match until(deadline, report).await {
            Some(result) => {
                result?;
                arrived.push(rank);
            }
            None => missing.push(rank),
        }
    }
    let scratch = context.scratch(1);
    let verdict = scratch.view();
    verdict.fill(if missing.is_empty() { PASSED } else { FAILED });
    let sent = arrived.iter().map(|&rank| context.send(rank, &verdict)).collect::<Result<Vec<_>>>()?;
    all(sent).await?;
    let Some(first) = missing.first() else { return Ok(()) };
    let named: Vec<_> = missing.iter().map(ToString::to_string).collect();
    Err(Error::MonitoredBarrier(match out_of_time {
        Some(elapsed) if !wait_all_ranks => format!(
            "Rank 0 timed out in monitoredBarrier after {} ms; its timeout is {} ms. No report from: {}",
            elapsed.as_millis(),
            timeout.as_millis(),
            named.join(", ")
        ),
        _ if wait_all_ranks => {
            format!("Ranks {} failed to pass monitoredBarrier in {} ms", named.join(", "), timeout.as_millis())
        }
        _ => format!("Rank {first} failed to pass monitoredBarrier in {} ms", timeout.as_millis()),
    }))
}

async fn report(context: &Context, start: Instant, timeout: Duration) -> Result<()> {
    let rank = context.rank();
    let nothing = View::empty();
    let scratch = context.scratch(1);
    let verdict = scratch.view();
    let answer = context.receive(0, &verdict)?;
    let sent = context.send(0, &nothing)?;
    // Rank 0 may have begun later than this rank, and its timeout counts from then.
    let answered = until(start + timeout + timeout, answer).await;
    drop(sent);
    match answered {
        Some(Ok(_)) if verdict.to_vec() == [PASSED] => Ok(()),
        Some(Ok(_)) => Err(reached(rank, "rank 0 found that other ranks did not arrive; its error names them")),
        Some(Err(error)) => Err(reached(rank, &error.to_string())),
        None => Err(reached(rank, &format!("rank 0 did not answer within twice the timeout of {timeout:?}"))),
    }
}

fn reached(rank: usize, why: &str) -> Error {
    Error::MonitoredBarrier(format!(
        "Rank {rank} successfully reached monitoredBarrier, but received errors while waiting for send/recv from rank 0: {why}"
    ))
}
