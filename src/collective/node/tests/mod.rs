//! Every collective on simulated ranks that share memory, polled in a random order, against plain loops. Slots are small,
//! so that a few hundred elements take many rounds.

mod types;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;
use crate::collective::buffers::Buffers;
use crate::error::Error;
use crate::reduce::{ReduceOp, Reduction};

/// Memory of one rank with lists of 32-bit integers; by chance it can be mapped.
fn integers(lists: &[Vec<i32>]) -> Buffers {
    let bytes = |list: &Vec<i32>| list.iter().flat_map(|value| value.to_ne_bytes()).collect();
    let blocks = lists.iter().map(bytes).collect::<Vec<_>>();
    match lists.iter().map(Vec::len).sum::<usize>() % 4 {
        0 => Buffers::new(&blocks),
        _ => Buffers::in_arena(&blocks),
    }
}

/// Lists of 32-bit zeros.
fn zeros(lengths: &[usize]) -> Buffers {
    Buffers::zeroed(&lengths.iter().map(|len| 4 * len).collect::<Vec<_>>())
}

fn values(buffers: &Buffers) -> Vec<Vec<i32>> {
    let value = |bytes: &[u8]| i32::from_ne_bytes(bytes.try_into().unwrap());
    buffers.blocks().iter().map(|block| block.chunks_exact(4).map(value).collect()).collect()
}

/// What one rank does.
pub(super) struct Part {
    pub call: Call,
    pub dtype: DataType,
    pub inputs: Buffers,
    pub outputs: Buffers,
}

fn part(call: Call, inputs: &[Vec<i32>], outputs: Buffers) -> Part {
    Part { call, dtype: DataType::Int32, inputs: integers(inputs), outputs }
}

type Steps = Pin<Box<dyn Future<Output = Result<()>>>>;

/// Runs `parts`, one per rank, to their ends; several times, so that slots are used again.
pub(super) fn run(nodes: &[Arc<Node>], parts: &[Part], seed: u64) -> Vec<Result<()>> {
    let mut random = seed | 1;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    let mut steps: Vec<Option<Steps>> = Vec::new();
    for (node, part) in nodes.iter().zip(parts) {
        let Part { call, dtype, inputs, outputs } = part;
        // As the inline path does, or as the engine does.
        let begun = (next() % 2 == 0).then(|| {
            begin(node, &Invocation { call: *call, dtype: *dtype, inputs: &inputs.views, outputs: &outputs.views })
        });
        let run = super::run(node.clone(), *call, *dtype, inputs.views.clone(), outputs.views.clone(), begun);
        steps.push(Some(Box::pin(run)));
    }
    let mut results: Vec<Option<Result<()>>> = parts.iter().map(|_| None).collect();
    for _ in 0..1_000_000 {
        if steps.iter().all(Option::is_none) {
            return results.into_iter().flatten().collect();
        }
        let rank = next() % nodes.len();
        if let Some(step) = &mut steps[rank]
            && let Poll::Ready(result) = step.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            results[rank] = Some(result);
            steps[rank] = None;
        }
    }
    panic!("the schedules do not end");
}

fn nodes(size: usize, capacity: usize) -> Vec<Arc<Node>> {
    Node::simulated(size, capacity).into_iter().map(Arc::new).collect()
}

/// As [`nodes`]; by chance the ranks copy straight from each other's memory, and by chance one of them cannot.
fn any_nodes(size: usize, capacity: usize, seed: u64) -> Vec<Arc<Node>> {
    let nodes = Node::simulated(size, capacity).into_iter();
    let mut nodes: Vec<_> = match seed % 5 {
        0 | 1 => nodes.map(|node| node.streaming_from(Some(seed as usize % 200))).collect(),
        2 => nodes.map(|node| node.streaming_from(None)).collect(),
        _ => nodes.collect(),
    };
    if seed.is_multiple_of(3) {
        return nodes.into_iter().map(Arc::new).collect();
    }
    if seed % 3 == 1 {
        nodes[seed as usize % size].make_unreadable((seed / 7) as usize % size);
    }
    nodes.iter().for_each(|node| node.copy_once(true));
    nodes.into_iter().map(Arc::new).collect()
}

fn input(rank: usize, salt: usize, len: usize) -> Vec<i32> {
    (0..len).map(|i| ((i * 31 + salt * 17 + 5) * (rank * rank + 3)) as i32 % 100_003).collect()
}

fn sum() -> Reduction {
    Reduction::new(DataType::Int32, ReduceOp::Sum, 1.0).unwrap()
}

fn summed(lists: &[Vec<i32>]) -> Vec<i32> {
    (0..lists[0].len()).map(|i| lists.iter().map(|list| list[i]).sum()).collect()
}

/// Number of ranks, capacity of a slot, lengths of blocks (one per pair of ranks), and the order of polls.
fn shapes() -> impl Strategy<Value = (usize, usize, Vec<usize>, u64)> {
    (2..=6_usize, prop::sample::select(vec![512_usize, 1024, 4096])).prop_flat_map(|(size, capacity)| {
        let edge = capacity / 4;
        let length = prop_oneof![
            3 => 0..20_usize,
            2 => 0..3 * edge,
            1 => prop::sample::select(vec![edge - 1, edge, edge + 1, 2 * edge, 8, 9]),
            1 => 5_000..12_000_usize,
        ];
        (Just(size), Just(capacity), prop::collection::vec(length, size * size), any::<u64>())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn reductions_to_all_and_to_one((size, capacity, lengths, seed) in shapes(), in_place in any::<bool>()) {
        let nodes = any_nodes(size, capacity, seed);
        for (salt, &len) in lengths[..3].iter().enumerate() {
            let inputs: Vec<_> = (0..size).map(|rank| input(rank, salt, len)).collect();
            let root = salt % size;
            for call in [Call::AllReduce(sum()), Call::Reduce { root, reduction: sum() }] {
                let takes = |rank| matches!(call, Call::AllReduce(_)) || rank == root;
                let mut parts: Vec<_> = (0..size).map(|rank| {
                    part(call, &inputs[rank..=rank], zeros(if takes(rank) { &lengths[salt..=salt] } else { &[] }))
                }).collect();
                if in_place {
                    for part in &mut parts {
                        let taken = part.outputs.views.len();
                        part.outputs.views.copy_from_slice(&part.inputs.views[..taken]);
                    }
                }
                prop_assert!(run(&nodes, &parts, seed).iter().all(Result::is_ok));
                for (rank, part) in parts.iter().enumerate().filter(|&(rank, _)| takes(rank)) {
                    prop_assert_eq!(&values(&part.outputs)[0], &summed(&inputs), "rank {}", rank);
                }
            }
        }
    }

    #[test]
    fn broadcast_from_any_root((size, capacity, lengths, seed) in shapes()) {
        let nodes = any_nodes(size, capacity, seed);
        for (root, &len) in lengths[..size].iter().enumerate() {
            let call = Call::Broadcast { root };
            let outputs = |rank| integers(&[input(rank, root, len)]);
            let parts: Vec<_> = (0..size).map(|rank| part(call, &[], outputs(rank))).collect();
            prop_assert!(run(&nodes, &parts, seed).iter().all(Result::is_ok));
            prop_assert!(parts.iter().all(|part| values(&part.outputs)[0] == input(root, root, len)));
        }
    }

    #[test]
    fn gathers_of_different_lengths((size, capacity, lengths, seed) in shapes()) {
        let nodes = any_nodes(size, capacity, seed);
        let lengths = &lengths[..size];
        let inputs: Vec<_> = (0..size).map(|rank| input(rank, 1, lengths[rank])).collect();
        for root in 0..size {
            for call in [Call::AllGather, Call::Gather { root }] {
                let takes = |rank| matches!(call, Call::AllGather) || rank == root;
                let outputs = |rank| zeros(if takes(rank) { lengths } else { &[] });
                let parts: Vec<_> = (0..size).map(|rank| part(call, &inputs[rank..=rank], outputs(rank))).collect();
                prop_assert!(run(&nodes, &parts, seed).iter().all(Result::is_ok));
                for (_, part) in parts.iter().enumerate().filter(|&(rank, _)| takes(rank)) {
                    prop_assert_eq!(values(&part.outputs), inputs.clone());
                }
            }
        }
    }

    #[test]
    fn scatter_and_reduce_scatter_of_different_lengths((size, capacity, lengths, seed) in shapes()) {
        let nodes = any_nodes(size, capacity, seed);
        let lengths = &lengths[..size];
        let blocks = |rank| -> Vec<_> { (0..size).map(|to| input(rank, to, lengths[to])).collect() };
        let outputs = |rank: usize| zeros(&lengths[rank..=rank]);
        for root in 0..size {
            let inputs = |rank| if rank == root { blocks(rank) } else { Vec::new() };
            let call = Call::Scatter { root };
            let parts: Vec<_> = (0..size).map(|rank| part(call, &inputs(rank), outputs(rank))).collect();
            prop_assert!(run(&nodes, &parts, seed).iter().all(Result::is_ok));
            for (rank, part) in parts.iter().enumerate() {
                prop_assert_eq!(&values(&part.outputs)[0], &blocks(root)[rank]);
            }
        }
        let call = Call::ReduceScatter(sum());
        let parts: Vec<_> = (0..size).map(|rank| part(call, &blocks(rank), outputs(rank))).collect();
        prop_assert!(run(&nodes, &parts, seed).iter().all(Result::is_ok));
        for (rank, part) in parts.iter().enumerate() {
            let contributions: Vec<_> = (0..size).map(|from| blocks(from)[rank].clone()).collect();
            prop_assert_eq!(&values(&part.outputs)[0], &summed(&contributions));
        }
    }

    #[test]
    fn all_to_all_of_any_lengths((size, capacity, lengths, seed) in shapes()) {
        let nodes = any_nodes(size, capacity, seed);
        let length = |from: usize, to: usize| lengths[from * size + to];
        let sent = |from| -> Vec<_> { (0..size).map(|to| input(from, to, length(from, to))).collect() };
        let received = |to| zeros(&(0..size).map(|from| length(from, to)).collect::<Vec<_>>());
        for _ in 0..2 {
            let parts: Vec<_> = (0..size).map(|rank| part(Call::AllToAll, &sent(rank), received(rank))).collect();
            prop_assert!(run(&nodes, &parts, seed).iter().all(Result::is_ok));
            for (rank, part) in parts.iter().enumerate() {
                let expected: Vec<_> = (0..size).map(|from| input(from, rank, length(from, rank))).collect();
                prop_assert_eq!(values(&part.outputs), expected);
            }
        }
    }
}

/// All ranks fail, and what they say contains every one of `words`.
fn all_say(parts: &[Part], words: &[&str]) {
    for result in run(&nodes(parts.len(), 1024), parts, 7) {
        let text = result.unwrap_err().to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}

#[test]
fn ranks_that_call_different_things_all_hear_of_it() {
    for size in 2..=4 {
        let memory = || vec![input(0, 0, 5)];
        let all_reduce = || part(Call::AllReduce(sum()), &memory(), zeros(&[5]));
        let others = |odd: Part| {
            let mut parts: Vec<_> = (1..size).map(|_| all_reduce()).collect();
            parts.push(odd);
            parts
        };
        let last = format!("rank {} called", size - 1);
        let same = "rank 0 called all_reduce of 5 int32 (20 bytes) with SUM";
        all_say(&others(part(Call::Barrier, &[], zeros(&[]))), &[same, &last, "barrier"]);
        let broadcast = part(Call::Broadcast { root: 0 }, &[], zeros(&[5]));
        all_say(&others(broadcast), &[same, &last, "broadcast of 5 int32 (20 bytes) from rank 0"]);
        let longer = part(Call::AllReduce(sum()), &[input(0, 0, 6)], zeros(&[6]));
        all_say(&others(longer), &["different sizes", same, &last, "6 int32"]);
        let product = Reduction::new(DataType::Int32, ReduceOp::Product, 1.0).unwrap();
        all_say(&others(part(Call::AllReduce(product), &memory(), zeros(&[5]))), &[same, &last, "PRODUCT"]);
        let float = Reduction::new(DataType::Float32, ReduceOp::Sum, 1.0).unwrap();
        let float = Part { dtype: DataType::Float32, ..part(Call::AllReduce(float), &memory(), zeros(&[5])) };
        all_say(&others(float), &[same, &last, "float32"]);
    }
}

#[test]
fn different_roots_and_factors_are_noticed() {
    let broadcast = |root| part(Call::Broadcast { root }, &[], zeros(&[3]));
    all_say(
        &[broadcast(0), broadcast(1)],
        &["rank 0 called broadcast of 3 int32 (12 bytes) from rank 0", "from rank 1"],
    );
    let scaled = |factor| {
        let reduction = Reduction::new(DataType::Float32, ReduceOp::PremulSum, factor).unwrap();
        Part { dtype: DataType::Float32, ..part(Call::AllReduce(reduction), &[vec![0]], zeros(&[1])) }
    };
    all_say(&[scaled(1.0), scaled(2.0), scaled(1.0)], &["factors"]);
}

#[test]
fn sizes_of_blocks_that_do_not_fit_are_noticed_by_all() {
    let gather = |rank: usize, expected: &[usize]| {
        let outputs = if rank == 0 { expected } else { &[] };
        part(Call::Gather { root: 0 }, &[input(rank, 0, 4)], zeros(outputs))
    };
    let words = ["rank 2 sent 16 bytes", "20 bytes were expected"];
    all_say(&[gather(0, &[4, 4, 5]), gather(1, &[]), gather(2, &[])], &words);
    let scatter = |rank: usize, len: usize| {
        let inputs: Vec<_> = (0..3).filter(|_| rank == 0).map(|to| input(0, to, 4)).collect();
        part(Call::Scatter { root: 0 }, &inputs, zeros(&[len]))
    };
    all_say(&[scatter(0, 4), scatter(1, 4), scatter(2, 3)], &["rank 0 sent 16 bytes", "12 bytes were expected"]);
    let all_to_all = |from_second: usize| {
        let inputs: Vec<_> = (0..3).map(|to| input(0, to, 4)).collect();
        part(Call::AllToAll, &inputs, zeros(&[4, from_second, 4]))
    };
    all_say(&[all_to_all(7), all_to_all(4), all_to_all(4)], &["rank 1 sent 16 bytes", "28 bytes were expected"]);
    let all_gather = |first: usize| part(Call::AllGather, &[input(0, 0, 4)], zeros(&[first, 4]));
    all_say(&[all_gather(4), all_gather(9)], &["expect different sizes"]);
}

#[test]
fn ranks_stop_reading_memory_when_one_of_them_cannot() {
    for forgetful in [None, Some(0), Some(1)] {
        let mut pair = Node::simulated(2, 512);
        if let Some(rank) = forgetful {
            pair[rank].make_unreadable(1 - rank);
        }
        pair.iter().for_each(|node| node.copy_once(true));
        let pair: Vec<_> = pair.into_iter().map(Arc::new).collect();
        for _ in 0..2 {
            let gather = |rank| part(Call::AllGather, &[input(rank, 0, 3000)], zeros(&[3000, 3000]));
            let parts = [gather(0), gather(1)];
            assert!(run(&pair, &parts, 11).iter().all(Result::is_ok));
            let expected = vec![input(0, 0, 3000), input(1, 0, 3000)];
            assert!(parts.iter().all(|part| values(&part.outputs) == expected));
            assert!(pair.iter().all(|node| node.copies_once() == forgetful.is_none()));
        }
    }
}

#[test]
fn ranks_stop_mapping_arenas_when_one_of_them_cannot() {
    for forgetful in [None, Some(0), Some(1)] {
        let mut pair = Node::simulated(2, 512);
        if let Some(rank) = forgetful {
            pair[rank].make_unreadable(1 - rank);
        }
        let pair: Vec<_> = pair.into_iter().map(Arc::new).collect();
        for _ in 0..2 {
            let blocks = |rank| [input(rank, 0, 3001), input(rank, 1, 3001)];
            let scatter = |rank| part(Call::ReduceScatter(sum()), &blocks(rank), zeros(&[3001]));
            let parts = [scatter(0), scatter(1)];
            assert!(run(&pair, &parts, 12).iter().all(Result::is_ok));
            for (rank, part) in parts.iter().enumerate() {
                assert_eq!(values(&part.outputs)[0], summed(&[input(0, rank, 3001), input(1, rank, 3001)]));
            }
            assert!(pair.iter().all(|node| node.maps() == forgetful.is_none()));
        }
    }
}

#[test]
fn arenas_are_read_only_if_all_senders_have_them() {
    let pair = nodes(2, 512);
    let is_direct = |inputs: [Buffers; 2]| {
        let outputs = [zeros(&[3000, 3000]), zeros(&[3000, 3000])];
        let call = |rank: usize| Invocation::new(Call::AllGather, &inputs[rank].views, &outputs[rank].views);
        let mut begun = [0, 1].map(|rank| begin(&pair[rank], &call(rank)));
        let ended = [0, 1].map(|rank| begun[rank].go_on(&pair[rank], &call(rank)).unwrap());
        assert_eq!(ended, [false, false]);
        begun.map(|begun| begun.is_direct)
    };
    let contents = [vec![1; 12_000]];
    let (ordinary, arena) = (|| Buffers::new(&contents), || Buffers::in_arena(&contents));
    assert_eq!(is_direct([arena(), arena()]), [true, true]);
    assert_eq!(is_direct([arena(), ordinary()]), [false, false]);
    assert_eq!(is_direct([ordinary(), arena()]), [false, false]);
    pair.iter().for_each(|node| node.stop_mapping());
    assert_eq!(is_direct([arena(), arena()]), [false, false]);
}

#[test]
fn memory_of_a_rank_that_has_failed_meanwhile_is_not_taken_for_data() {
    let pair = nodes(2, 512);
    pair.iter().for_each(|node| node.copy_once(true));
    let mut memory = [integers(&[input(0, 0, 3000)]), zeros(&[3000])];
    let start = |rank: usize, views: &[View]| -> Steps {
        let call = Call::Broadcast { root: 0 };
        Box::pin(super::run(pair[rank].clone(), call, DataType::Int32, Vec::new(), views.to_vec(), None))
    };
    let (mut root, mut reader) = (start(0, &memory[0].views), start(1, &memory[1].views));
    let poll = |steps: &mut Steps| steps.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    // The first round; then everybody says where its memory is, and the root, which reads nothing, that it has read.
    // The reader has read some of it then.
    for _ in 0..2 {
        assert!(poll(&mut root).is_pending());
        assert!(poll(&mut reader).is_pending());
    }
    // The root gives up, and uses its memory for something else.
    pair[0].bid_farewell(&crate::shm::Farewell::Failed(crate::error::Kind::Timeout, "no time".to_owned()));
    memory[0].views[0].fill(0xee);
    let result = (0..100).find_map(|_| match poll(&mut reader) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    });
    assert!(matches!(result, Some(Err(Error::PeerFailed { rank: 0, .. }))), "{result:?}");
    drop(root);
    memory[1].scratch.clear();
}

#[test]
fn a_rank_that_has_gone_is_not_waited_for() {
    let start = |nodes: &[Arc<Node>]| -> Steps {
        Box::pin(super::run(nodes[0].clone(), Call::Barrier, DataType::Bytes, Vec::new(), Vec::new(), None))
    };
    let poll = |steps: &mut Steps| steps.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    let pair = nodes(2, 512);
    let mut steps = start(&pair);
    assert!(poll(&mut steps).is_pending());
    pair[1].bid_farewell(&crate::shm::Farewell::Left);
    assert!(matches!(poll(&mut steps), Poll::Ready(Err(Error::PeerLeft { rank: 1 }))));
    let pair = nodes(2, 512);
    let mut steps = start(&pair);
    assert!(poll(&mut steps).is_pending());
    let failed = crate::shm::Farewell::Failed(crate::error::Kind::Timeout, "no time".to_owned());
    pair[1].bid_farewell(&failed);
    let Poll::Ready(Err(error)) = poll(&mut steps) else { panic!("still pending") };
    assert_eq!(
        (error.kind(), error.to_string()),
        (crate::error::Kind::Timeout, "rank 1 has failed: no time".to_owned())
    );
}

#[test]
fn a_rank_that_stays_behind_in_a_later_round_is_named() {
    for copies_once in [false, true] {
        let pair = nodes(2, 512);
        pair.iter().for_each(|node| node.copy_once(copies_once));
        let memory = [integers(&[input(0, 0, 3000)]), zeros(&[3000])];
        let start = |rank: usize| -> Steps {
            let (call, views) = (Call::Broadcast { root: 0 }, memory[rank].views.clone());
            Box::pin(super::run(pair[rank].clone(), call, DataType::Int32, Vec::new(), views, None))
        };
        let (mut root, mut reader) = (start(0), start(1));
        let poll = |steps: &mut Steps| steps.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        // The reader has begun to read the root's memory, or the slots, when it stops.
        for _ in 0..2 {
            assert!(poll(&mut root).is_pending());
            assert!(poll(&mut reader).is_pending());
        }
        for _ in 0..100 {
            assert!(poll(&mut root).is_pending());
        }
        assert_eq!(absentees(&pair[0]).unwrap(), "rank 1 takes part, but has not gone on");
        let mut running = vec![root, reader];
        for _ in 0..1000 {
            running.retain_mut(|steps| match poll(steps) {
                Poll::Pending => true,
                Poll::Ready(result) => result.is_err(),
            });
        }
        assert!(running.is_empty());
        assert_eq!(values(&memory[1])[0], input(0, 0, 3000));
    }
}

#[test]
fn who_is_missing_and_what_it_did_last() {
    let pair = nodes(2, 512);
    assert_eq!(absentees(&pair[0]), None);
    let barrier = Invocation::new(Call::Barrier, &[], &[]);
    let mut first = begin(&pair[0], &barrier);
    assert_eq!(absentees(&pair[0]).unwrap(), "rank 1 has not arrived (it has called no collective here)");
    begin(&pair[1], &barrier);
    assert!(first.is_ready(&pair[0]) && first.go_on(&pair[0], &barrier).unwrap());
    begin(&pair[0], &barrier);
    assert_eq!(absentees(&pair[0]).unwrap(), "rank 1 has not arrived (its last collective here was barrier)");
}
