use std::task::Waker;

use super::*;
use crate::error::Kind;
use crate::shm::Farewell;
use crate::transport::local::{LocalTransport, Network};
use crate::transport::{Channel, Outstanding, Request, Transport};

type Steps = Pin<Box<dyn Future<Output = Result<()>>>>;

const HOUR: Duration = Duration::from_secs(3600);

/// Ranks of one node, each of which calls the barrier once, or never.
struct Ranks {
    network: Arc<Network>,
    nodes: Vec<Arc<Node>>,
    /// What a rank has sent is read from its memory for as long as it is under way.
    outstanding: Vec<Arc<Outstanding>>,
    running: Vec<(usize, Steps)>,
    /// What each was told in the end; empty where it has passed.
    texts: Vec<Option<String>>,
}

impl Ranks {
    fn new(size: usize) -> Self {
        Ranks {
            network: Arc::default(),
            nodes: Node::simulated(size, 4096).into_iter().map(Arc::new).collect(),
            outstanding: (0..size).map(|_| Arc::default()).collect(),
            running: Vec::new(),
            texts: vec![None; size],
        }
    }

    fn start(&mut self, rank: usize, timeout: Duration, wait_all_ranks: bool) {
        let transport = self.transport(rank);
        self.start_over(Arc::new(transport), timeout, wait_all_ranks);
    }

    fn transport(&self, rank: usize) -> LocalTransport {
        LocalTransport { network: self.network.clone(), rank, size: self.nodes.len() }
    }

    fn start_over(&mut self, transport: Arc<dyn Transport>, timeout: Duration, wait_all_ranks: bool) {
        let rank = transport.rank();
        let context = Context::new(transport, self.outstanding[rank].clone(), Channel::Collective, 7);
        let steps = monitored_barrier(context, Some(self.nodes[rank].clone()), timeout, wait_all_ranks);
        self.running.push((rank, Box::pin(steps)));
    }

    fn start_all(&mut self, ranks: &[usize], wait_all_ranks: bool) {
        ranks.iter().for_each(|&rank| self.start(rank, HOUR, wait_all_ranks));
    }

    /// Rank `rank` goes no further.
    fn end(&mut self, rank: usize, farewell: &Farewell) {
        self.running.retain(|(other, _)| *other != rank);
        self.nodes[rank].bid_farewell(farewell);
    }

    fn poll(&mut self) {
        let texts = &mut self.texts;
        self.running.retain_mut(|(rank, steps)| {
            match steps.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
                Poll::Pending => true,
                Poll::Ready(result) => {
                    texts[*rank] = Some(result.map_or_else(
                        |error| {
                            assert!(matches!(error, Error::MonitoredBarrier(_)), "rank {rank}: {error:?}");
                            error.to_string()
                        },
                        |()| String::new(),
                    ));
                    false
                }
            }
        });
    }

    fn finish(&mut self) {
        while !self.running.is_empty() {
            self.poll();
        }
    }

    fn text(&self, rank: usize) -> &str {
        self.texts[rank].as_deref().unwrap()
    }
}

/// A rank that has lost the way to rank 2.
struct Broken(LocalTransport);

impl Transport for Broken {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn tag_max(&self) -> i32 {
        self.0.tag_max()
    }

    fn send(&self, channel: Channel, peer: usize, tag: i32, data: &View) -> Result<Box<dyn Request>> {
        match peer {
            2 => Err(Error::Mpi { call: "MPI_Isend", class: 1, text: "no way".to_owned() }),
            _ => self.0.send(channel, peer, tag, data),
        }
    }

    fn receive(&self, channel: Channel, peer: Option<usize>, tag: i32, buffer: &View) -> Result<Box<dyn Request>> {
        self.0.receive(channel, peer, tag, buffer)
    }
}

fn failed() -> Farewell {
    Farewell::Failed(Kind::Backend, "it broke".to_owned())
}

#[test]
fn a_rank_that_has_failed_is_named_long_before_the_timeout() {
    for wait_all_ranks in [false, true] {
        let mut ranks = Ranks::new(4);
        ranks.end(2, &failed());
        ranks.start_all(&[0, 1, 3], wait_all_ranks);
        ranks.finish();
        let expected = if wait_all_ranks { "Ranks 2 failed to pass" } else { "Rank 2 failed to pass" };
        assert!(ranks.text(0).starts_with(expected), "{:?}", ranks.texts);
        assert!(ranks.text(1).starts_with("Rank 1 successfully reached"), "{:?}", ranks.texts);
        for rank in [0, 1, 3] {
            assert!(ranks.text(rank).contains("rank 2 has failed: it broke"), "{:?}", ranks.texts);
        }
    }
}

#[test]
fn rank_0_that_has_left_is_not_waited_for() {
    let mut ranks = Ranks::new(3);
    ranks.end(0, &Farewell::Left);
    ranks.start_all(&[1, 2], false);
    ranks.finish();
    for rank in [1, 2] {
        assert!(ranks.text(rank).contains("rank 0 has left the group"), "{:?}", ranks.texts);
    }
}

#[test]
fn a_rank_that_comes_after_the_verdict_hears_it() {
    for farewell in [Farewell::Left, failed()] {
        let mut ranks = Ranks::new(4);
        ranks.end(2, &farewell);
        ranks.start_all(&[0, 1], false);
        ranks.finish();
        ranks.start_all(&[3], false);
        ranks.finish();
        for rank in [0, 1, 3] {
            assert!(ranks.text(rank).contains("rank 2 has "), "{:?}", ranks.texts);
        }
    }
}

#[test]
fn a_rank_that_comes_after_rank_0s_timeout_hears_of_it() {
    for wait_all_ranks in [false, true] {
        let mut ranks = Ranks::new(3);
        ranks.start(0, Duration::ZERO, wait_all_ranks);
        ranks.start(1, HOUR, wait_all_ranks);
        ranks.finish();
        ranks.start(2, HOUR, wait_all_ranks);
        ranks.finish();
        for rank in [1, 2] {
            assert!(ranks.text(rank).contains("other ranks did not arrive"), "{:?}", ranks.texts);
        }
    }
}

#[test]
fn a_rank_that_is_gone_after_it_has_arrived_fails_the_barrier_for_all() {
    for wait_all_ranks in [false, true] {
        let mut ranks = Ranks::new(4);
        ranks.start_all(&[0, 1, 2], wait_all_ranks);
        // Every message has arrived by then.
        (0..100).for_each(|_| ranks.poll());
        ranks.end(2, &failed());
        if wait_all_ranks {
            let start = Instant::now();
            while start.elapsed() < 2 * UNDER_WAY {
                ranks.poll();
            }
            assert_eq!(ranks.running.len(), 2, "rank 0 waits for rank 3: {:?}", ranks.texts);
        } else {
            ranks.finish();
        }
        ranks.start_all(&[3], wait_all_ranks);
        ranks.finish();
        for rank in [0, 1, 3] {
            assert!(ranks.text(rank).contains("rank 2 has failed: it broke"), "{:?}", ranks.texts);
        }
    }
}

#[test]
fn a_rank_that_cannot_be_told_is_named() {
    let mut ranks = Ranks::new(4);
    let broken = Broken(ranks.transport(0));
    ranks.start_over(Arc::new(broken), HOUR, false);
    ranks.start_all(&[1, 2, 3], false);
    while ranks.running.len() > 1 {
        ranks.poll();
    }
    assert!(ranks.text(0).starts_with("Rank 2 failed to pass monitoredBarrier in "), "{:?}", ranks.texts);
    assert!(ranks.text(0).contains("no way"), "{:?}", ranks.texts);
    assert_eq!([ranks.text(1), ranks.text(3)], ["", ""]);
}
