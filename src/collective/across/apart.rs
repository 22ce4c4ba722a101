//! Collectives of groups whose ranks share no memory go over messages alone. Beside them every rank tells all others what
//! it calls, as leaders of nodes do.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::fingerprint::Statement;
use super::{Topology, Verdict};
use crate::collective::Context;
use crate::error::Result;
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
    let (mut result, mut failure) = (None, None);
    poll_fn(|task| {
        if result.is_none()
            && failure.is_none()
            && let Poll::Ready(ended) = steps.as_mut().poll(task)
        {
            match ended {
                Ok(ended) => result = Some(ended),
                Err(error) => failure = Some(error),
            }
        }
        // Not before the first data is under way: peers wait for that.
        if let Some(statement) = statement.take() {
            verdict.ask(&statements, &topology, statement)?;
        }
        verdict.progress(task, &mut failure);
        if failure.is_some() {
            // The others must not be left to wait for this rank's statement.
            return match failure.take_if(|error| verdict.may_fail(error)) {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            };
        }
        match result.take_if(|_| verdict.has_passed()) {
            Some(result) => Poll::Ready(Ok(result)),
            None => Poll::Pending,
        }
    })
    .await
}
