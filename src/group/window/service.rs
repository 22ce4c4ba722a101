//! What receives the puts of other ranks into memory that they have not mapped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::issue::Nobody;
use super::super::{Call, neighbours};
use super::{Kind, Window};
use crate::collective::Context;
use crate::engine::{Completion, Engine, Lane, OnFailure, Operation, Order, Outcome, Task};
use crate::error::{Error, Result};
use crate::memory::View;
use crate::shm::Node;
use crate::transport::{Channel, Outstanding, Transport};

/// How long a service that is told to end may take: as long as the message that it is receiving.
const FAREWELL: Duration = Duration::from_secs(5);

/// What precedes the data of a put, or tells a service to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    Put { offset: u64, len: u64 },
    End,
}

impl Header {
    pub const LEN: usize = 24;
    const PUT: u64 = 1;
    const END: u64 = 2;

    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let words = match self {
            Header::Put { offset, len } => [Self::PUT, offset, len],
            Header::End => [Self::END, 0, 0],
        };
        let mut bytes = [0; Self::LEN];
        for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Of memory of `capacity` bytes; `None` for anything that no rank sends.
    fn from_bytes(bytes: &[u8; Self::LEN], capacity: usize) -> Option<Header> {
        let mut words = [0; 3];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut own = [0; 8];
            own.copy_from_slice(bytes);
            *word = u64::from_ne_bytes(own);
        }
        match words {
            [Self::PUT, offset, len] if offset.checked_add(len)? <= capacity as u64 => {
                Some(Header::Put { offset, len })
            }
            [Self::END, 0, 0] => Some(Header::End),
            _ => None,
        }
    }
}

/// What receives the puts of other ranks.
pub(super) struct Service {
    operation: Arc<Operation>,
    engine: &'static Engine,
}

impl Service {
    /// `completion` owns the memory.
    pub fn start(
        engine: &'static Engine,
        lane: &Arc<Lane>,
        window: u64,
        memory: View,
        transport: &Arc<dyn Transport>,
        node: Option<&Arc<Node>>,
        completion: Box<dyn Completion>,
    ) -> Service {
        let outstanding = Arc::new(Outstanding::default());
        let operation = Operation::service("the service of a window", lane.clone());
        let context =
            |kind: Kind| Context::new(transport.clone(), outstanding.clone(), Channel::Collective, kind.tag(window));
        let contexts = [Kind::Header, Kind::Data, Kind::Answer].map(context);
        // Of groups that span nodes, messages may come over MPI, which rings nobody.
        let node = node.filter(|node| node.size() == transport.size());
        engine.submit(Task {
            operation: operation.clone(),
            schedule: Box::pin(serve(memory, contexts)),
            outstanding,
            completion,
            order: Order::Free,
            // Others may wait for its answers.
            on_failure: OnFailure::FailLane,
            witness: node.map(|node| neighbours::peer(node, &Call::Receive { from: None, tag: 0 })),
        });
        engine.begin(&operation);
        Service { operation, engine }
    }

    /// Tells it to end, and waits for that; not for long, if another rank has begun to put something and does not go on.
    pub fn end(&self, window: &Window) {
        if self.operation.is_done() || self.engine.is_closed() {
            return;
        }
        let (name, rank) = (window.lane.name(), window.lane.rank());
        // A lane of its own: it does not fail with the group.
        let lane = Arc::new(Lane::new(name.to_owned(), rank));
        let operation = Operation::new("end of a window", None, lane, 0, FAREWELL);
        let outstanding = Arc::new(Outstanding::default());
        let headers = window.context(&outstanding, Kind::Header);
        let schedule = Box::pin(async move {
            let header = headers.scratch(Header::LEN);
            header.view().write(&Header::End.to_bytes());
            headers.send(rank, &header.view())?.await?;
            Ok(Outcome::default())
        });
        self.engine.submit(Task {
            operation: operation.clone(),
            schedule,
            outstanding,
            completion: Box::new(Nobody),
            order: Order::Free,
            on_failure: OnFailure::KeepLane,
            witness: None,
        });
        let until = Instant::now() + FAREWELL;
        self.engine.wait(&operation, Some(FAREWELL));
        if !self.engine.wait(&self.operation, Some(until.saturating_duration_since(Instant::now()))) {
            let cause = "a window was ended while another rank was putting something into it".to_owned();
            self.engine.end(self.operation.clone(), Error::GroupFailed { group: name.to_owned(), cause });
        }
    }
}

/// Receives what others put into `memory`, until this rank tells it to end, or nobody is left.
async fn serve(memory: View, [headers, contents, answers]: [Context; 3]) -> Result<Outcome> {
    let own = headers.rank();
    loop {
        let bytes = headers.scratch(Header::LEN);
        let peer = match headers.receive_from(None, &bytes.view())?.await {
            Ok(arrival) => arrival.peer,
            Err(Error::PeerLeft { .. }) => return Ok(Outcome::default()),
            Err(error) => return Err(error),
        };
        let mut header = [0; Header::LEN];
        bytes.view().read(&mut header);
        match Header::from_bytes(&header, memory.len()) {
            Some(Header::Put { offset, len }) => {
                let place = memory.slice(offset as usize..(offset + len) as usize);
                contents.receive(peer, &place)?.await?;
                answers.send(peer, &View::empty())?.await?;
            }
            Some(Header::End) if peer == own => return Ok(Outcome::default()),
            _ => return Err(Error::Internal(format!("rank {peer} has sent {header:?} to a window"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_journey_and_nothing_else_is_one() {
        for header in [Header::Put { offset: 3, len: 7 }, Header::Put { offset: 0, len: 10 }, Header::End] {
            assert_eq!(Header::from_bytes(&header.to_bytes(), 10), Some(header));
        }
        for (offset, len) in [(4, 7), (11, 0), (u64::MAX, 2), (2, u64::MAX)] {
            assert_eq!(Header::from_bytes(&Header::Put { offset, len }.to_bytes(), 10), None);
        }
        assert_eq!(Header::from_bytes(&[7; Header::LEN], 10), None);
    }
}
