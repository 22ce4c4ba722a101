//! Collectives of ranks that share no memory, which tell each other what they call.

use super::numbers::number;
use super::*;
use crate::collective::{all_reduce, broadcast};
use crate::transport::Outstanding;

/// One collective of ranks that share no memory.
struct Apart {
    network: Arc<Network>,
    /// By rank.
    outstanding: Vec<Arc<Outstanding>>,
    verdicts: Vec<Arc<Verdict>>,
    memory: Vec<Buffers>,
}

/// What a rank calls, and of how many elements.
type Called = (Call, usize);

impl Apart {
    fn new(calls: &[Called]) -> Self {
        let block = |(rank, &(_, len)): (usize, &Called)| Buffers::new(&[block(DataType::Int64, rank, 0, len)]);
        let network = Arc::<Network>::default();
        Apart {
            outstanding: calls.iter().map(|_| network.operation()).collect(),
            network,
            verdicts: calls.iter().map(|_| Arc::default()).collect(),
            memory: calls.iter().enumerate().map(block).collect(),
        }
    }

    fn context(&self, rank: usize, tag: i32) -> Context {
        let transport = Arc::new(LocalTransport { network: self.network.clone(), rank, size: self.memory.len() });
        Context::new(transport, self.outstanding[rank].clone(), Channel::Collective, tag)
    }

    fn start(&self, rank: usize, call: Call) -> Steps<'static> {
        let (context, view) = (self.context(rank, 0), self.memory[rank].views[0]);
        let steps: Steps<'static> = match call {
            Call::AllReduce(reduction) => Box::pin(all_reduce(context, view, view, reduction)),
            Call::Broadcast { root } => Box::pin(broadcast(context, view, root)),
            _ => Box::pin(async { Ok(()) }),
        };
        self.check(rank, call, steps)
    }

    fn check(&self, rank: usize, call: Call, steps: Steps<'static>) -> Steps<'static> {
        let topology = Arc::new(Topology::new(self.memory.len(), rank, |a, b| a == b));
        let views = match call {
            Call::Barrier => &[],
            _ => &self.memory[rank].views[..],
        };
        let invocation = Invocation { call, dtype: DataType::Int64, inputs: views, outputs: views };
        let announcement = fingerprint(&invocation, &topology);
        Box::pin(checked(topology, self.verdicts[rank].clone(), self.context(rank, 1), announcement, steps))
    }

    /// Every rank's result, with the ranks polled in an order that depends on `seed`.
    fn run(&self, calls: &[Called], seed: u64) -> Vec<Result<()>> {
        let mut steps: Vec<_> = calls.iter().enumerate().map(|(rank, &(call, _))| self.start(rank, call)).collect();
        let mut results: Vec<_> = calls.iter().map(|_| None).collect();
        let mut random = seed;
        for _ in 0..100_000 {
            if results.iter().all(Option::is_some) {
                return results.into_iter().flatten().collect();
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let rank = (random >> 33) as usize % calls.len();
            if results[rank].is_none()
                && let Poll::Ready(result) = poll(&mut steps[rank])
            {
                results[rank] = Some(result);
            }
        }
        panic!("the schedules do not end: {results:?}");
    }
}

fn poll(steps: &mut Steps<'_>) -> Poll<Result<()>> {
    steps.as_mut().poll(&mut TaskContext::from_waker(Waker::noop()))
}

fn sum() -> Call {
    Call::AllReduce(Reduction::new(DataType::Int64, ReduceOp::Sum, 1.0).unwrap())
}

#[test]
fn ranks_that_agree_end_well() {
    for (size, seed) in (2..=5).flat_map(|size| (0..20).map(move |seed| (size, seed))) {
        for call in [sum(), Call::Broadcast { root: 1 }, Call::Barrier] {
            let calls = vec![(call, 13); size];
            let apart = Apart::new(&calls);
            for result in apart.run(&calls, seed) {
                result.unwrap();
            }
            assert!(apart.network.is_empty(), "a message was sent that nobody received");
            let element = |i| match call {
                Call::AllReduce(_) => (0..size).map(|rank| number(rank, 0, i)).sum(),
                _ => number(1, 0, i),
            };
            let expected: Vec<_> = (0..13).flat_map(|i| i64::to_ne_bytes(element(i))).collect();
            for memory in apart.memory.iter().filter(|_| !matches!(call, Call::Barrier)) {
                assert!(memory.blocks() == [expected.clone()], "{size} ranks, {call:?}");
            }
        }
    }
}

#[test]
fn ranks_that_call_different_things_all_hear_of_it_whatever_the_lengths() {
    for (size, seed) in (2..=5).flat_map(|size| (0..40).map(move |seed| (size, seed))) {
        let cases = [
            ((Call::Broadcast { root: 1 }, 13), "ranks called different operations"),
            ((Call::Broadcast { root: 1 }, 7), "ranks called different operations"),
            ((Call::Barrier, 0), "ranks called different operations"),
            ((sum(), 7), "ranks passed different sizes"),
        ];
        for (other, expected) in cases {
            let mut calls = vec![(sum(), 13); size];
            calls[1] = other;
            for result in Apart::new(&calls).run(&calls, seed) {
                let error = result.unwrap_err();
                assert!(matches!(error, Error::Mismatch(_)), "{error:?}");
                assert!(error.to_string().starts_with(expected), "{error}");
                assert!(error.to_string().contains("rank 1 called"), "{error}");
            }
        }
    }
}

#[test]
fn data_leaves_before_statements() {
    let calls = [(sum(), 13); 2];
    let apart = Apart::new(&calls);
    let verdict = apart.verdicts[0].clone();
    let steps: Steps<'static> = Box::pin(poll_fn(move |_| {
        assert!(!verdict.has_begun(), "statements were sent first");
        Poll::Ready(Ok(()))
    }));
    let mut steps = [apart.check(0, sum(), steps), apart.check(1, sum(), Box::pin(async { Ok(()) }))];
    while poll(&mut steps[0]).is_pending() {
        let _ = poll(&mut steps[1]);
    }
}

#[test]
fn a_timeout_says_who_has_not_come_or_that_all_have() {
    let calls = [(sum(), 13); 2];
    let apart = Apart::new(&calls);
    let never = || Box::pin(std::future::pending()) as Steps<'static>;
    let mut steps = [apart.check(0, sum(), never()), apart.check(1, sum(), never())];
    assert!(poll(&mut steps[0]).is_pending());
    assert_eq!(apart.verdicts[0].missing("").unwrap(), "rank 1 has not arrived");
    for _ in 0..100 {
        assert!(steps.iter_mut().all(|steps| poll(steps).is_pending()));
    }
    for verdict in &apart.verdicts {
        assert_eq!(verdict.missing("").unwrap(), "all ranks take part; one has not gone on");
    }
}
