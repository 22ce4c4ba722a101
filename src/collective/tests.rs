//! Every schedule on 1 to 11 simulated ranks in one thread, polled in a random order. The reference is plain loops.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use super::*;
use crate::error::Result;
use crate::memory::{Scratch, View};
use crate::reduce::{DataType, ReduceOp, Reduction};
use crate::transport::Channel;
use crate::transport::local::{LocalTransport, Network};

type Steps = Pin<Box<dyn Future<Output = Result<()>>>>;

const RANKS: [usize; 9] = [1, 2, 3, 4, 5, 7, 8, 9, 11];
/// Elements of 4 bytes: short, odd, and beyond every threshold.
const LENGTHS: [usize; 6] = [0, 1, 13, 1_500, 40_007, 2_200_003];

/// A small generator (splitmix64): the same order at every run of a test.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Runs one schedule per rank to its end.
fn run(size: usize, mut start: impl FnMut(usize, Context) -> Steps) {
    let network = Arc::new(Network::default());
    let mut steps: Vec<Option<Steps>> = (0..size)
        .map(|rank| {
            let transport = Arc::new(LocalTransport { network: network.clone(), rank, size });
            Some(start(rank, Context::new(transport, network.operation(), Channel::Collective, 7)))
        })
        .collect();
    let mut random = Random(size as u64);
    let mut polls = 0_u64;
    while steps.iter().any(Option::is_some) {
        polls += 1;
        assert!(polls < 1_000_000, "the schedules do not end");
        let rank = random.next() as usize % size;
        if let Some(step) = &mut steps[rank]
            && let Poll::Ready(result) = step.as_mut().poll(&mut TaskContext::from_waker(Waker::noop()))
        {
            result.unwrap();
            steps[rank] = None;
        }
    }
    assert!(network.is_empty(), "a message was sent that nobody received");
}

/// Memory with rank-dependent 32-bit integers.
fn integers(rank: usize, len: usize) -> Memory {
    Memory::new((0..len).map(|i| ((i as i64 * 7 + 3) * (rank as i64 + 1) % 1_000_003) as i32).collect())
}

struct Memory {
    scratch: Scratch,
}

impl Memory {
    fn new(values: Vec<i32>) -> Self {
        let mut scratch = Scratch::new(values.len() * 4);
        scratch.view().write(&values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<_>>());
        Memory { scratch }
    }

    fn view(&mut self) -> View {
        self.scratch.view()
    }

    fn values(&mut self) -> Vec<i32> {
        self.view().to_vec().chunks_exact(4).map(|bytes| i32::from_ne_bytes(bytes.try_into().unwrap())).collect()
    }
}

fn sum() -> Reduction {
    Reduction::new(DataType::Int32, ReduceOp::Sum, 1.0).unwrap()
}

fn expected_sum(size: usize, len: usize) -> Vec<i32> {
    let inputs: Vec<_> = (0..size).map(|rank| integers(rank, len).values()).collect();
    (0..len).map(|i| inputs.iter().fold(0_i32, |sum, input| sum.wrapping_add(input[i]))).collect()
}

/// Large cases only for some numbers of ranks: the point is the thresholds, not the time.
fn cases() -> impl Iterator<Item = (usize, usize)> {
    RANKS
        .iter()
        .flat_map(|&size| LENGTHS.iter().map(move |&len| (size, len)))
        .filter(|&(size, len)| len < 50_000 || size <= 4)
}

#[test]
fn all_reduce_sums_in_place_and_out_of_place() {
    for (size, len) in cases() {
        for in_place in [true, false] {
            let mut inputs: Vec<_> = (0..size).map(|rank| integers(rank, len)).collect();
            let mut outputs: Vec<_> = (0..size).map(|_| integers(99, len)).collect();
            run(size, |rank, context| {
                let input = inputs[rank].view();
                let output = if in_place { input } else { outputs[rank].view() };
                Box::pin(all_reduce(context, input, output, sum()))
            });
            for rank in 0..size {
                let result = if in_place { inputs[rank].values() } else { outputs[rank].values() };
                assert!(result == expected_sum(size, len), "{size} ranks, {len} elements");
                assert!(in_place || inputs[rank].values() == integers(rank, len).values(), "the input has changed");
            }
        }
    }
}

#[test]
fn reduce_writes_at_the_root_only() {
    for (size, len) in cases() {
        let root = size - 1;
        let mut memory: Vec<_> = (0..size).map(|rank| integers(rank, len)).collect();
        run(size, |rank, context| {
            let view = memory[rank].view();
            Box::pin(reduce(context, view, (rank == root).then_some(view), root, sum()))
        });
        for (rank, memory) in memory.iter_mut().enumerate() {
            let expected = if rank == root { expected_sum(size, len) } else { integers(rank, len).values() };
            assert!(memory.values() == expected, "rank {rank} of {size}, {len} elements");
        }
    }
}

#[test]
fn reduce_scatter_takes_parts_of_any_length() {
    for (size, len) in cases() {
        let lengths: Vec<_> = (0..size).map(|rank| len / size + rank % 3).collect();
        let total: usize = lengths.iter().sum();
        let starts: Vec<usize> = (0..size).map(|rank| lengths[..rank].iter().sum()).collect();
        let mut inputs: Vec<_> = (0..size).map(|rank| integers(rank, total)).collect();
        let mut outputs: Vec<_> = (0..size).map(|rank| integers(50, lengths[rank])).collect();
        run(size, |rank, context| {
            let input = inputs[rank].view();
            let parts =
                (0..size).map(|part| input.slice(starts[part] * 4..(starts[part] + lengths[part]) * 4)).collect();
            Box::pin(reduce_scatter(context, parts, outputs[rank].view(), sum()))
        });
        let expected = expected_sum(size, total);
        for rank in 0..size {
            assert!(outputs[rank].values() == expected[starts[rank]..starts[rank] + lengths[rank]], "{size} {len}");
        }
    }
}

#[test]
fn broadcast_copies_the_roots_memory() {
    for (size, len) in cases() {
        for root in [0, size / 2] {
            let mut memory: Vec<_> = (0..size).map(|rank| integers(rank, len)).collect();
            run(size, |rank, context| Box::pin(broadcast(context, memory[rank].view(), root)));
            for memory in &mut memory {
                assert!(memory.values() == integers(root, len).values(), "{size} ranks, {len} elements");
            }
        }
    }
}

#[test]
fn all_gather_takes_equal_and_different_lengths() {
    for (size, len) in cases() {
        for uneven in [0, 1] {
            let lengths: Vec<_> = (0..size).map(|rank| len / size + uneven * (rank % 3)).collect();
            let mut inputs: Vec<_> = (0..size).map(|rank| integers(rank, lengths[rank])).collect();
            let mut outputs: Vec<Vec<_>> =
                (0..size).map(|_| lengths.iter().map(|&length| integers(77, length)).collect()).collect();
            run(size, |rank, context| {
                let views = outputs[rank].iter_mut().map(Memory::view).collect();
                Box::pin(all_gather(context, inputs[rank].view(), views))
            });
            for outputs in &mut outputs {
                for (rank, output) in outputs.iter_mut().enumerate() {
                    assert!(output.values() == integers(rank, lengths[rank]).values(), "{size} {len}");
                }
            }
        }
    }
}

#[test]
fn gather_and_scatter_are_inverse() {
    for (size, len) in cases() {
        let root = size / 2;
        let lengths: Vec<_> = (0..size).map(|rank| len / size + rank).collect();
        let mut inputs: Vec<_> = (0..size).map(|rank| integers(rank, lengths[rank])).collect();
        let mut gathered: Vec<_> = lengths.iter().map(|&length| integers(44, length)).collect();
        run(size, |rank, context| {
            let views = gathered.iter_mut().map(Memory::view).collect();
            Box::pin(gather(context, inputs[rank].view(), (rank == root).then_some(views), root))
        });
        for (rank, gathered) in gathered.iter_mut().enumerate() {
            assert!(gathered.values() == integers(rank, lengths[rank]).values(), "{size} {len}");
        }
        let mut outputs: Vec<_> = lengths.iter().map(|&length| integers(45, length)).collect();
        run(size, |rank, context| {
            let views = gathered.iter_mut().map(Memory::view).collect();
            Box::pin(scatter(context, (rank == root).then_some(views), outputs[rank].view(), root))
        });
        for (rank, output) in outputs.iter_mut().enumerate() {
            assert!(output.values() == integers(rank, lengths[rank]).values(), "{size} {len}");
        }
    }
}

#[test]
fn all_to_all_takes_any_lengths() {
    for (size, len) in cases() {
        // What rank a sends to rank b.
        let length = |a: usize, b: usize| if (a + b).is_multiple_of(3) { 0 } else { len / size + a * 2 + b };
        let block = |a: usize, b: usize| integers(a * size + b, length(a, b));
        let mut inputs: Vec<Vec<_>> = (0..size).map(|a| (0..size).map(|b| block(a, b)).collect()).collect();
        let mut outputs: Vec<Vec<_>> =
            (0..size).map(|b| (0..size).map(|a| integers(200, length(a, b))).collect()).collect();
        run(size, |rank, context| {
            let inputs = inputs[rank].iter_mut().map(Memory::view).collect();
            let outputs = outputs[rank].iter_mut().map(Memory::view).collect();
            Box::pin(all_to_all(context, inputs, outputs))
        });
        for (b, outputs) in outputs.iter_mut().enumerate() {
            for (a, output) in outputs.iter_mut().enumerate() {
                assert!(output.values() == block(a, b).values(), "{size} ranks, {len} elements");
            }
        }
    }
}

#[test]
fn barriers_pass_when_all_have_come() {
    for size in RANKS {
        run(size, |_, context| Box::pin(barrier(context)));
        let timeout = std::time::Duration::from_secs(60);
        run(size, |_, context| Box::pin(monitored_barrier(context, None, timeout, true)));
    }
}

#[test]
fn a_message_of_another_length_is_an_error() {
    let network = Arc::new(Network::default());
    let context = |rank| {
        let transport = Arc::new(LocalTransport { network: network.clone(), rank, size: 2 });
        Context::new(transport, network.operation(), Channel::Collective, 0)
    };
    let (mut short, mut long) = (integers(0, 3), integers(1, 5));
    let mut steps: [Steps; 2] = [
        Box::pin(all_reduce(context(0), short.view(), short.view(), sum())),
        Box::pin(all_reduce(context(1), long.view(), long.view(), sum())),
    ];
    let mut failed = 0;
    for _ in 0..100 {
        for step in &mut steps {
            if let Poll::Ready(result) = step.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
                assert!(result.unwrap_err().to_string().contains("bytes"));
                failed += 1;
                *step = Box::pin(std::future::pending());
            }
        }
    }
    assert_eq!(failed, 2);
}

#[test]
fn scratch_outlives_a_schedule_that_fails_while_a_message_is_under_way() {
    let network = Arc::new(Network::default());
    let outstanding = [network.operation(), network.operation()];
    // Rank 1 sends too little, rank 2 nothing: rank 0 fails, with its receive from rank 2 still posted.
    let mut memory = [integers(0, 3_000), integers(1, 5)];
    let mut steps: Vec<Steps> = (0..2)
        .map(|rank| {
            let transport = Arc::new(LocalTransport { network: network.clone(), rank, size: 3 });
            let context = Context::new(transport, outstanding[rank].clone(), Channel::Collective, 0);
            let view = memory[rank].view();
            Box::pin(all_reduce(context, view, view, sum())) as Steps
        })
        .collect();
    let mut task = TaskContext::from_waker(Waker::noop());
    let failed = (0..100).any(|_| {
        let _ = steps[1].as_mut().poll(&mut task);
        matches!(steps[0].as_mut().poll(&mut task), Poll::Ready(Err(_)))
    });
    assert!(failed);
    assert!(!outstanding[0].drain(), "a receive is still posted");
    assert_eq!(outstanding[0].kept_scratch(), 1, "the memory that it writes to was freed");
}
