//! Collectives of groups whose ranks share no memory go over messages alone. Beside them every rank tells all others what
//! it calls, as leaders of nodes do.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::fingerprint::Statement;
use super::{Topology, Verdict};
use crate::collective::Context;
use crate::error::{Error, Result};
use crate::shm::Announcement;

/// Runs `steps`, the messages of a collective; it ends well only if all ranks announce what fits together. The data does not
/// wait for that. `topology` has a node for each rank. The tag of `statements` is this collective's alone.
pub async fn checked<T>(
    topology: Arc<Topology>,
    verdict: Arc<Verdict>,
    statements: Context,
    announcement: Announcement,
    steps: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut steps = pin!(steps);
    let mut statement = Some(Statement { call: announcement, failure: None });
    let (mut outcome, mut disagreement) = (None, None);
    poll_fn(|task| {
        if outcome.is_none()
            && disagreement.is_none()
            && let Poll::Ready(ended) = steps.as_mut().poll(task)
        {
            outcome = Some(ended);
        }
        // Not before the first data is under way: peers wait for that.
        if let Some(statement) = statement.take() {
            verdict.ask(&statements, &topology, statement)?;
        }
        if let Err(error) = verdict.progress(task) {
            disagreement.get_or_insert(error);
        }
        let may_end = match (&disagreement, &outcome) {
            (None, None) => false,
            (None, Some(Ok(_))) => verdict.has_passed(),
            // A peer that calls something else sends other lengths, too: that it does says more.
            (None, Some(Err(Error::Length { peer, .. }))) => {
                verdict.has_told() && verdict.has_heard_of(topology.node_of(*peer))
            }
            // The others must not be left to wait for this rank's statement.
            (Some(_), _) | (None, Some(Err(_))) => verdict.has_told(),
        };
        let result = match may_end {
            true => disagreement.take().map(Err).or_else(|| outcome.take()),
            false => None,
        };
        result.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
