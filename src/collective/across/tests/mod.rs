//! Every collective on simulated ranks of several nodes, polled in a random order, against plain loops. Slots are small, so
//! that a few hundred elements take many rounds.

mod apart;
mod bits;
#[path = "../../../../tests/rust/numbers.rs"]
mod numbers;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use numbers::{block, reduced};
use proptest::prelude::*;

use super::*;
use crate::collective::buffers::Buffers;
use crate::error::Kind;
use crate::reduce::{ReduceOp, Reduction};
use crate::shm::Farewell;
use crate::transport::Channel;
use crate::transport::local::{LocalTransport, Network};

/// Ranks, by the name of their node.
struct Cluster {
    places: Vec<Place>,
    network: Arc<Network>,
    sequence: i32,
}

impl Cluster {
    fn new(names: &[usize], capacity: usize) -> Self {
        let size = names.len();
        let topology = |rank| Topology::new(size, rank, |a, b| names[a] == names[b]);
        let mut nodes: Vec<Option<Arc<Node>>> = vec![None; size];
        for node in 0..topology(0).nodes() {
            let members = topology(0).members(node).to_vec();
            for (simulated, rank) in Node::simulated_as(&members, capacity).into_iter().zip(members) {
                nodes[rank] = Some(Arc::new(simulated));
            }
        }
        let place = |(rank, node): (usize, Option<Arc<Node>>)| Place {
            node: node.unwrap(),
            topology: Arc::new(topology(rank)),
        };
        Cluster { places: nodes.into_iter().enumerate().map(place).collect(), network: Arc::default(), sequence: 0 }
    }

    fn start<'a>(&self, rank: usize, part: &Part) -> Steps<'a> {
        let size = self.places.len();
        let outstanding = self.network.operation();
        let context = |tag| {
            let transport = Arc::new(LocalTransport { network: self.network.clone(), rank, size });
            Context::new(transport, outstanding.clone(), Channel::Collective, tag)
        };
        let contexts = [context(2 * self.sequence), context(2 * self.sequence + 1)];
        let views = |buffers: &Buffers| buffers.views.clone();
        let place = self.places[rank].clone();
        let (inputs, outputs) = (views(&part.inputs), views(&part.outputs));
        let steps = run(place, Arc::default(), contexts, part.call, part.dtype, inputs, outputs);
        Box::pin(async move {
            let result = steps.await;
            assert!(result.is_err() || !outstanding.is_any(), "it has ended well with a message under way");
            result
        })
    }

    /// Runs `parts`, one per rank, to their ends.
    fn run(&mut self, parts: &[Part], seed: u64) -> Vec<Result<()>> {
        self.sequence += 1;
        let mut steps: Vec<_> = parts.iter().enumerate().map(|(rank, part)| Some(self.start(rank, part))).collect();
        let mut results: Vec<_> = parts.iter().map(|_| None).collect();
        let mut random = seed | 1;
        for _ in 0..2_000_000 {
            if steps.iter().all(Option::is_none) {
                return results.into_iter().flatten().collect();
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let rank = (random >> 33) as usize % parts.len();
            if let Some(step) = &mut steps[rank]
                && let Poll::Ready(result) = step.as_mut().poll(&mut TaskContext::from_waker(Waker::noop()))
            {
                if let Err(error) = &result {
                    // As the group does.
                    let farewell = Farewell::Failed(error.kind(), error.to_string());
                    self.places[rank].node.bid_farewell(&farewell);
                }
                results[rank] = Some(result);
                steps[rank] = None;
            }
        }
        panic!("the schedules do not end: {results:?}");
    }
}

type Steps<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// What one rank does.
struct Part {
    call: Call,
    dtype: DataType,
    inputs: Buffers,
    outputs: Buffers,
}

fn sum_of(dtype: DataType) -> Reduction {
    Reduction::new(dtype, ReduceOp::Sum, 1.0).unwrap()
}

/// Names of nodes by rank, capacity of a slot, lengths of blocks (one per pair of ranks), and the order of polls.
fn shapes() -> impl Strategy<Value = (Vec<usize>, usize, Vec<usize>, u64)> {
    let names = prop::collection::vec(0..3_usize, 2..=6);
    (names, prop::sample::select(vec![512_usize, 4096])).prop_flat_map(|(names, capacity)| {
        let edge = capacity / 4;
        let length = prop_oneof![
            3 => 0..20_usize,
            2 => 0..3 * edge,
            1 => prop::sample::select(vec![edge - 1, edge, edge + 1, 2 * edge, 8, 9]),
            1 => 5_000..12_000_usize,
        ];
        let pairs = names.len() * names.len();
        (Just(names), Just(capacity), prop::collection::vec(length, pairs), any::<u64>())
    })
}

fn reductions() -> Vec<Reduction> {
    let mut all = Vec::new();
    for dtype in [DataType::Float32, DataType::BFloat16, DataType::Int64] {
        for op in [ReduceOp::Sum, ReduceOp::Avg, ReduceOp::PremulSum, ReduceOp::Max] {
            all.extend(Reduction::new(dtype, op, 0.5));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn reductions_to_all_and_to_one((names, capacity, lengths, seed) in shapes(), in_place in any::<bool>()) {
        let size = names.len();
        let mut cluster = Cluster::new(&names, capacity);
        for (salt, reduction) in reductions().into_iter().enumerate() {
            let (len, dtype) = (lengths[salt % lengths.len()], reduction.dtype());
            let root = salt % size;
            for call in [Call::AllReduce(reduction), Call::Reduce { root, reduction }] {
                let takes = |rank| matches!(call, Call::AllReduce(_)) || rank == root;
                let mut parts: Vec<_> = (0..size).map(|rank| Part {
                    call,
                    dtype,
                    inputs: Buffers::new(&[block(dtype, rank, salt, len)]),
                    outputs: Buffers::zeroed(&vec![len * dtype.size(); usize::from(takes(rank))]),
                }).collect();
                if in_place {
                    for part in &mut parts {
                        let taken = part.outputs.views.len();
                        part.outputs.views.copy_from_slice(&part.inputs.views[..taken]);
                    }
                }
                let results = cluster.run(&parts, seed);
                prop_assert!(results.iter().all(Result::is_ok), "{results:?}");
                let expected = reduced(&reduction, size, salt, len);
                for (rank, part) in parts.iter().enumerate().filter(|&(rank, _)| takes(rank)) {
                    prop_assert!(part.outputs.blocks()[0] == expected, "{call:?} of {len}, rank {rank}");
                }
            }
        }
        prop_assert!(cluster.network.is_empty());
    }

    #[test]
    fn broadcast_from_any_root((names, capacity, lengths, seed) in shapes()) {
        let mut cluster = Cluster::new(&names, capacity);
        for (root, &len) in lengths[..names.len()].iter().enumerate() {
            let memory = |rank| block(DataType::Float32, rank, root, len);
            let parts: Vec<_> = (0..names.len()).map(|rank| Part {
                call: Call::Broadcast { root },
                dtype: DataType::Float32,
                inputs: Buffers::zeroed(&[]),
                outputs: Buffers::new(&[memory(rank)]),
            }).collect();
            prop_assert!(cluster.run(&parts, seed).iter().all(Result::is_ok));
            prop_assert!(parts.iter().all(|part| part.outputs.blocks()[0] == memory(root)));
        }
        prop_assert!(cluster.network.is_empty());
    }

    #[test]
    fn gathers_of_different_lengths((names, capacity, lengths, seed) in shapes()) {
        let size = names.len();
        let mut cluster = Cluster::new(&names, capacity);
        let inputs: Vec<_> = (0..size).map(|rank| block(DataType::Int64, rank, 1, lengths[rank])).collect();
        let bytes: Vec<_> = inputs.iter().map(Vec::len).collect();
        for root in 0..size {
            for call in [Call::AllGather, Call::Gather { root }] {
                let takes = |rank| matches!(call, Call::AllGather) || rank == root;
                let parts: Vec<_> = (0..size).map(|rank| Part {
                    call,
                    dtype: DataType::Int64,
                    inputs: Buffers::new(&inputs[rank..=rank]),
                    outputs: Buffers::zeroed(if takes(rank) { &bytes } else { &[] }),
                }).collect();
                let results = cluster.run(&parts, seed);
                prop_assert!(results.iter().all(Result::is_ok), "{results:?}");
                for (_, part) in parts.iter().enumerate().filter(|&(rank, _)| takes(rank)) {
                    prop_assert!(part.outputs.blocks() == inputs);
                }
            }
        }
        prop_assert!(cluster.network.is_empty());
    }

    #[test]
    fn scatter_and_reduce_scatter_of_different_lengths((names, capacity, lengths, seed) in shapes()) {
        let size = names.len();
        let mut cluster = Cluster::new(&names, capacity);
        let dtype = DataType::BFloat16;
        let blocks = |rank| -> Vec<_> { (0..size).map(|to| block(dtype, rank, to, lengths[to])).collect() };
        let outputs = |rank: usize| Buffers::zeroed(&[lengths[rank] * dtype.size()]);
        for root in 0..size {
            let inputs = |rank| Buffers::new(&if rank == root { blocks(rank) } else { Vec::new() });
            let call = Call::Scatter { root };
            let part = |rank| Part { call, dtype, inputs: inputs(rank), outputs: outputs(rank) };
            let parts: Vec<_> = (0..size).map(part).collect();
            let results = cluster.run(&parts, seed);
            prop_assert!(results.iter().all(Result::is_ok), "{results:?}");
            for (rank, part) in parts.iter().enumerate() {
                prop_assert!(part.outputs.blocks()[0] == blocks(root)[rank]);
            }
        }
        for op in [ReduceOp::Sum, ReduceOp::Avg] {
            let reduction = Reduction::new(dtype, op, 1.0).unwrap();
            let call = Call::ReduceScatter(reduction);
            let inputs = |rank| Buffers::new(&blocks(rank));
            let part = |rank| Part { call, dtype, inputs: inputs(rank), outputs: outputs(rank) };
            let parts: Vec<_> = (0..size).map(part).collect();
            let results = cluster.run(&parts, seed);
            prop_assert!(results.iter().all(Result::is_ok), "{results:?}");
            for (rank, part) in parts.iter().enumerate() {
                prop_assert!(part.outputs.blocks()[0] == reduced(&reduction, size, rank, lengths[rank]));
            }
        }
        prop_assert!(cluster.network.is_empty());
    }

    #[test]
    fn all_to_all_of_any_lengths((names, capacity, lengths, seed) in shapes()) {
        let size = names.len();
        let mut cluster = Cluster::new(&names, capacity);
        let dtype = DataType::Float32;
        let sent = |from: usize, to: usize| block(dtype, from, to, lengths[from * size + to]);
        for _ in 0..2 {
            let parts: Vec<_> = (0..size).map(|rank| Part {
                call: Call::AllToAll,
                dtype,
                inputs: Buffers::new(&(0..size).map(|to| sent(rank, to)).collect::<Vec<_>>()),
                outputs: Buffers::zeroed(&(0..size).map(|from| sent(from, rank).len()).collect::<Vec<_>>()),
            }).collect();
            let results = cluster.run(&parts, seed);
            prop_assert!(results.iter().all(Result::is_ok), "{results:?}");
            for (rank, part) in parts.iter().enumerate() {
                prop_assert!(part.outputs.blocks() == (0..size).map(|from| sent(from, rank)).collect::<Vec<_>>());
            }
        }
        prop_assert!(cluster.network.is_empty());
    }

    /// One rank calls something else: everybody fails, and nobody hangs.
    #[test]
    fn any_disagreement_ends_everywhere((names, capacity, lengths, seed) in shapes(), odd in 0..6_usize, kind in 0..9_usize) {
        let size = names.len();
        let odd = odd % size;
        let len = lengths[0] + 1;
        let parts: Vec<_> = (0..size).map(|rank| common(kind, size, rank, len, rank == odd)).collect();
        let results = Cluster::new(&names, capacity).run(&parts, seed);
        prop_assert!(results.iter().all(Result::is_err), "{results:?}");
    }
}

/// One of several calls, or something that does not fit the others'.
fn common(kind: usize, size: usize, rank: usize, len: usize, is_odd: bool) -> Part {
    let dtype = DataType::Float32;
    let more = if is_odd { len + 1 } else { len };
    let (len, more) = (len * 4, more * 4);
    let all = |own: usize| -> Vec<usize> { (0..size).map(|other| if other == rank { own } else { len }).collect() };
    let at = |root: usize, lengths: &[usize]| if rank == root { lengths.to_vec() } else { Vec::new() };
    // A rank expects more of another one, or sends it more.
    let one_more = |lengths: Vec<usize>| -> Vec<usize> {
        let other = (rank + 1) % size;
        let longer = |(index, len)| if is_odd && index == other { len + 4 } else { len };
        lengths.into_iter().enumerate().map(longer).collect()
    };
    let root = usize::from(is_odd);
    let (call, inputs, outputs) = match kind {
        0 if is_odd => (Call::Barrier, vec![], vec![]),
        0 => (Call::AllReduce(sum_of(dtype)), vec![len], vec![len]),
        1 => (Call::AllReduce(sum_of(dtype)), vec![more], vec![more]),
        2 => (Call::Broadcast { root }, vec![], vec![len]),
        3 => (Call::AllGather, vec![more], all(more)),
        4 => (Call::AllToAll, one_more(vec![len; size]), vec![len; size]),
        5 => (Call::AllToAll, vec![len; size], one_more(vec![len; size])),
        6 if rank == 0 => (Call::Gather { root: 0 }, vec![len], one_more(vec![len; size])),
        6 => (Call::Gather { root: 0 }, vec![more], vec![]),
        7 if rank == 0 => (Call::Scatter { root: 0 }, at(0, &one_more(vec![len; size])), vec![len]),
        7 => (Call::Scatter { root: 0 }, vec![], vec![more]),
        _ => (Call::ReduceScatter(sum_of(dtype)), all(more), vec![more]),
    };
    Part { call, dtype, inputs: Buffers::zeroed(&inputs), outputs: Buffers::zeroed(&outputs) }
}

#[test]
fn barriers_and_nodes_of_one_rank() {
    for names in [&[0, 0, 1, 1][..], &[0, 0, 1], &[0, 1, 2, 2], &[0, 1], &[0, 1, 1, 1, 0, 2, 2]] {
        let mut cluster = Cluster::new(names, 512);
        for seed in 0..20 {
            let nothing = || Buffers::zeroed(&[]);
            let part = |_| Part { call: Call::Barrier, dtype: DataType::Bytes, inputs: nothing(), outputs: nothing() };
            let parts: Vec<_> = (0..names.len()).map(part).collect();
            assert!(cluster.run(&parts, seed).iter().all(Result::is_ok));
        }
    }
}

#[test]
fn pieces_of_megabytes() {
    let names = [0, 0, 1, 0, 2, 2];
    let mut cluster = Cluster::new(&names, 64 << 10);
    let (len, reduction) = (5_000_001, sum_of(DataType::BFloat16));
    let call = Call::AllReduce(reduction);
    let inputs = |rank| Buffers::new(&[block(DataType::BFloat16, rank, 0, len)]);
    let part =
        |rank| Part { call, dtype: DataType::BFloat16, inputs: inputs(rank), outputs: Buffers::zeroed(&[2 * len]) };
    let parts: Vec<_> = (0..names.len()).map(part).collect();
    assert!(cluster.run(&parts, 3).iter().all(Result::is_ok));
    let expected = reduced(&reduction, names.len(), 0, len);
    assert!(parts.iter().all(|part| part.outputs.blocks()[0] == expected));
}

#[test]
fn everybody_hears_what_the_ranks_of_each_node_called() {
    let part = |rank: usize| common(0, 4, rank, 5, rank > 1);
    for result in Cluster::new(&[0, 0, 1, 1], 512).run(&(0..4).map(part).collect::<Vec<_>>(), 5) {
        let text = result.unwrap_err().to_string();
        for words in ["ranks 0, 1 called all_reduce of 5 float32 (20 bytes) with SUM", "ranks 2, 3 called barrier"] {
            assert!(text.contains(words), "{text}");
        }
    }
    // Within one node, of which the other one hears.
    let part = |rank: usize| common(0, 4, rank, 5, rank == 3);
    for result in Cluster::new(&[0, 0, 1, 1], 512).run(&(0..4).map(part).collect::<Vec<_>>(), 5) {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("rank 2 called all_reduce") && text.contains("rank 3 called barrier"), "{text}");
    }
}

#[test]
fn who_waits_for_another_node_hears_that_a_neighbour_has_failed() {
    let cluster = Cluster::new(&[0, 0, 1], 512);
    let parts: Vec<_> = (0..3).map(|rank| common(0, 3, rank, 5, false)).collect();
    let mut task = TaskContext::from_waker(Waker::noop());
    let mut steps: Vec<_> = (0..2).map(|rank| cluster.start(rank, &parts[rank])).collect();
    for _ in 0..50 {
        assert!(steps.iter_mut().all(|step| step.as_mut().poll(&mut task).is_pending()));
    }
    cluster.places[0].node.bid_farewell(&Farewell::Failed(Kind::Timeout, "no time".to_owned()));
    let Poll::Ready(Err(error)) = steps[1].as_mut().poll(&mut task) else { panic!("it waits on") };
    assert_eq!(error.to_string(), "rank 0 has failed: no time");
}

#[test]
fn other_nodes_hear_that_a_rank_will_not_come() {
    let mut cluster = Cluster::new(&[0, 1, 0], 512);
    cluster.places[2].node.bid_farewell(&Farewell::Left);
    let mut task = TaskContext::from_waker(Waker::noop());
    cluster.sequence += 1;
    let parts: Vec<_> = (0..3).map(|rank| common(0, 3, rank, 5, false)).collect();
    let mut steps: Vec<_> = (0..2).map(|rank| cluster.start(rank, &parts[rank])).collect();
    let mut texts = vec![None, None];
    for _ in 0..100 {
        for (step, text) in steps.iter_mut().zip(&mut texts).filter(|(_, text)| text.is_none()) {
            if let Poll::Ready(result) = step.as_mut().poll(&mut task) {
                *text = Some(result.unwrap_err().to_string());
            }
        }
    }
    let left = "rank 2 has left the group (destroy_process_group)";
    assert_eq!(texts[0].as_deref(), Some(left));
    assert_eq!(texts[1], Some(format!("rank 0 has failed: {left}")));
}
