//! What a schedule may do: exchange messages with the other ranks of its group.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use crate::error::Result;
use crate::memory::View;
use crate::transport::{Channel, Lease, Outstanding, Posted, Subset, Transport};
use crate::tuning::Thresholds;

/// One operation's access to its group.
#[derive(Clone)]
pub struct Context {
    transport: Arc<dyn Transport>,
    outstanding: Arc<Outstanding>,
    channel: Channel,
    tag: i32,
    thresholds: Thresholds,
}

impl Context {
    /// Messages carry `tag` on `channel`, and are kept in `outstanding` until they have completed.
    pub fn new(transport: Arc<dyn Transport>, outstanding: Arc<Outstanding>, channel: Channel, tag: i32) -> Self {
        Context { transport, outstanding, channel, tag, thresholds: Thresholds::default() }
    }

    /// The same with other sizes at which algorithms change.
    pub fn with(self, thresholds: Thresholds) -> Self {
        Context { thresholds, ..self }
    }

    /// The sizes at which algorithms change, the same on all ranks.
    pub fn thresholds(&self) -> Thresholds {
        self.thresholds
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.transport.rank()
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.transport.size()
    }

    /// The same for some ranks of the group alone, this one among them, numbered by their place in `ranks`.
    pub fn among(&self, ranks: Vec<usize>) -> Result<Context> {
        let transport = Arc::new(Subset::new(self.transport.clone(), ranks)?);
        Ok(Context { transport, ..self.clone() })
    }

    /// The other ranks, beginning with the next one: if every rank goes through them in this order, no rank is
    /// everybody's first.
    pub fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let (rank, size) = (self.rank(), self.size());
        (1..size).map(move |distance| (rank + distance) % size)
    }

    /// `len` bytes of scratch memory, zeroed. It stays for as long as a message of the operation may use it, however the
    /// schedule ends.
    pub fn scratch(&self, len: usize) -> Lease {
        self.outstanding.lease(len)
    }

    /// Starts to send `data`; await the result before the memory is written again.
    pub fn send(&self, peer: usize, data: &View) -> Result<Posted> {
        let request = self.transport.send(self.channel, peer, self.tag, data)?;
        Ok(self.outstanding.keep(request))
    }

    /// Starts to receive exactly the length of `buffer`, now; await the result before the memory is used.
    pub fn receive(&self, peer: usize, buffer: &View) -> Result<Posted> {
        self.receive_from(Some(peer), buffer)
    }

    /// As [`Context::receive`]; with `None` from whichever rank sends.
    pub fn receive_from(&self, peer: Option<usize>, buffer: &View) -> Result<Posted> {
        let request = self.transport.receive(self.channel, peer, self.tag, buffer)?;
        Ok(self.outstanding.keep(request))
    }
}

/// Awaits all of them. Each is asked at every poll, so that all transfers go on at once.
pub(super) async fn all(mut posted: Vec<Posted>) -> Result<()> {
    poll_fn(move |context| {
        let mut failure = None;
        posted.retain_mut(|message| match Pin::new(message).poll(context) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                failure = failure.take().or(result.err());
                false
            }
        });
        match failure {
            Some(error) => Poll::Ready(Err(error)),
            None if posted.is_empty() => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    })
    .await
}

/// Awaits both, which go on side by side; an error ends the other one.
pub(super) async fn both(a: impl Future<Output = Result<()>>, b: impl Future<Output = Result<()>>) -> Result<()> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut a_ended, mut b_ended) = (false, false);
    poll_fn(|context| {
        if !a_ended && let Poll::Ready(result) = a.as_mut().poll(context) {
            result?;
            a_ended = true;
        }
        if !b_ended && let Poll::Ready(result) = b.as_mut().poll(context) {
            result?;
            b_ended = true;
        }
        if a_ended && b_ended { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}
