//! Reductions in two levels on simulated ranks in domains, polled in a random order.

use std::sync::Arc;

use half::{bf16, f16};
use proptest::prelude::*;

use super::super::tests::{Part, run};
use super::*;
use crate::collective::buffers::Buffers;
use crate::reduce::{DataType, ReduceOp};
use crate::shm::{Node, Round};

/// A rank for each name, which is that of its domain.
fn nodes(names: &[u64], capacity: usize) -> Vec<Arc<Node>> {
    let nodes = Node::simulated(names.len(), capacity).into_iter();
    nodes.map(|node| Arc::new(node.divided_by(names))).collect()
}

/// A whole number for an element. Sums of a few are exact in an accumulator of any type, and have to be rounded in a half
/// type; so are products of powers of two.
fn number(op: ReduceOp, rank: usize, salt: usize, i: usize) -> i64 {
    let number = (i * 31 + salt * 13 + 5) * (rank * rank + 3) % 97;
    if op == ReduceOp::Product { [1, 2, -1, -2][number % 4] } else { number as i64 - 48 }
}

fn bytes_of(dtype: DataType, value: i64) -> Vec<u8> {
    let float = value as f64;
    match dtype {
        DataType::Float16 => f16::from_f64(float).to_ne_bytes().to_vec(),
        DataType::BFloat16 => bf16::from_f64(float).to_ne_bytes().to_vec(),
        DataType::Float32 => (float as f32).to_ne_bytes().to_vec(),
        DataType::Float64 => float.to_ne_bytes().to_vec(),
        DataType::Complex64 => [float as f32, 1.0 - float as f32].iter().flat_map(|part| part.to_ne_bytes()).collect(),
        DataType::Complex128 => [float, 1.0 - float].iter().flat_map(|part| part.to_ne_bytes()).collect(),
        DataType::Bool => vec![u8::from(value % 3 == 0)],
        integer => value.to_le_bytes()[..integer.size()].to_vec(),
    }
}

fn block(reduction: &Reduction, rank: usize, salt: usize, len: usize) -> Vec<u8> {
    (0..len).flat_map(|i| bytes_of(reduction.dtype(), number(reduction.op(), rank, salt, i))).collect()
}

/// What the kernels make of all ranks' blocks in one step, which they are tested for themselves.
fn reduced(reduction: &Reduction, ranks: usize, salt: usize, len: usize) -> Vec<u8> {
    let inputs = Buffers::new(&(0..ranks).map(|rank| block(reduction, rank, salt, len)).collect::<Vec<_>>());
    let output = Buffers::new(&[vec![0; len * reduction.dtype().size()]]);
    reduction.reduce(&output.views[0], &inputs.views).unwrap();
    output.views[0].to_vec()
}

/// Whether elements are the same. The sign of a zero that a complex product has may depend on the order.
fn are_same(dtype: DataType, a: &[u8], b: &[u8]) -> bool {
    let numbers = |bytes: &[u8]| -> Vec<f64> {
        let f32_of = |bytes: &[u8]| f64::from(f32::from_ne_bytes(bytes.try_into().unwrap()));
        let f64_of = |bytes: &[u8]| f64::from_ne_bytes(bytes.try_into().unwrap());
        match dtype {
            DataType::Complex64 => bytes.chunks_exact(4).map(f32_of).collect(),
            DataType::Complex128 => bytes.chunks_exact(8).map(f64_of).collect(),
            _ => bytes.iter().map(|&byte| byte.into()).collect(),
        }
    };
    numbers(a) == numbers(b)
}

/// All of them.
fn reductions() -> Vec<Reduction> {
    let ops = |&dtype: &DataType| ReduceOp::ALL.map(|op| Reduction::new(dtype, op, 0.5));
    DataType::ALL.iter().flat_map(ops).flatten().collect()
}

/// Ranks of `names` run it on these inputs. Returns what each has then.
fn results(
    nodes: &[Arc<Node>],
    call: Call,
    inputs: &[Vec<Vec<u8>>],
    outputs: &[usize],
    in_place: bool,
    seed: u64,
) -> Vec<Vec<u8>> {
    let dtype = call.reduction().unwrap().dtype();
    let part = |(rank, (inputs, &len)): (usize, (&Vec<Vec<u8>>, &usize))| {
        let takes = !matches!(call, Call::Reduce { root, .. } if root != rank);
        let inputs = Buffers::new(inputs);
        let mut outputs = Buffers::new(&vec![vec![0; len]; usize::from(takes)]);
        if in_place && takes {
            outputs.views[0] = inputs.views[if inputs.views.len() > 1 { rank } else { 0 }];
        }
        Part { call, dtype, inputs, outputs }
    };
    let parts: Vec<_> = inputs.iter().zip(outputs).enumerate().map(part).collect();
    let ended = run(nodes, &parts, seed);
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    parts.iter().map(|part| part.outputs.views.first().map_or(Vec::new(), View::to_vec)).collect()
}

/// Names of domains by rank, capacity of a slot, lengths of blocks in elements, which reduction, and the order of polls.
fn shapes() -> impl Strategy<Value = (Vec<u64>, usize, Vec<usize>, usize, u64)> {
    let names = prop::collection::vec(1..=3_u64, 3..=9);
    (names, prop::sample::select(vec![512_usize, 1024, 4096]), any::<u64>()).prop_flat_map(|(names, capacity, seed)| {
        let length = prop_oneof![
            1 => 0..20_usize,
            2 => capacity / 8..2 * capacity,
            1 => prop::sample::select(vec![capacity / 4, capacity / 4 + 1, capacity / 2 + 1, capacity + 1]),
        ];
        let lengths = prop::collection::vec(length, names.len());
        (Just(names), Just(capacity), lengths, 0..reductions().len(), Just(seed))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_reduction_of_any_ranks((names, capacity, lengths, which, seed) in shapes(), in_place in any::<bool>()) {
        let nodes = nodes(&names, capacity);
        let (size, root) = (names.len(), seed as usize % names.len());
        let reduction = reductions()[which];
        let (dtype, element) = (reduction.dtype(), reduction.dtype().size());
        let len = lengths[0];
        let inputs: Vec<_> = (0..size).map(|rank| vec![block(&reduction, rank, 0, len)]).collect();
        let expected = reduced(&reduction, size, 0, len);
        let all = results(&nodes, Call::AllReduce(reduction), &inputs, &vec![len * element; size], in_place, seed);
        prop_assert!(all.iter().all(|result| are_same(dtype, result, &expected)), "{reduction:?} of {len}");
        prop_assert!(all.iter().all(|result| *result == all[0]));
        let call = Call::Reduce { root, reduction };
        let one = results(&nodes, call, &inputs, &vec![len * element; size], in_place, seed);
        prop_assert!(one[root] == all[0], "{reduction:?} of {len} to {root}");

        let blocks = |rank| lengths.iter().enumerate().map(|(to, &len)| block(&reduction, rank, to, len)).collect();
        let inputs: Vec<_> = (0..size).map(blocks).collect();
        let bytes: Vec<_> = lengths.iter().map(|len| len * element).collect();
        let each = results(&nodes, Call::ReduceScatter(reduction), &inputs, &bytes, in_place, seed);
        for (rank, &len) in lengths.iter().enumerate() {
            let expected = reduced(&reduction, size, rank, len);
            prop_assert!(are_same(dtype, &each[rank], &expected), "{reduction:?} of {lengths:?}, rank {rank}");
        }
    }
}

/// Numbers that no sum of is exact.
fn inexact(rank: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + rank * 104_729) as f32).sin() * 1000.0).collect()
}

/// In plain loops: over the ranks of each domain, then over the domains by their first rank.
fn in_order(names: &[u64], inputs: &[Vec<f32>]) -> Vec<f32> {
    let mut domains: Vec<u64> = Vec::new();
    names.iter().for_each(|name| {
        if !domains.contains(name) {
            domains.push(*name)
        }
    });
    let sum = |values: Vec<f32>| values.into_iter().reduce(|a, b| a + b).unwrap();
    let element = |i: usize| {
        let of_domain = |&domain: &u64| {
            let ranks = (0..names.len()).filter(|&rank| names[rank] == domain);
            sum(ranks.map(|rank| inputs[rank][i]).collect())
        };
        sum(domains.iter().map(of_domain).collect())
    };
    (0..inputs[0].len()).map(element).collect()
}

#[test]
fn the_order_is_that_of_domains_and_ranks_whoever_comes_first() {
    let len = 3001;
    for names in [&[2, 1, 1, 3, 2, 1, 2][..], &[1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 2, 2, 2, 2, 3]] {
        let inputs: Vec<_> = (0..names.len()).map(|rank| inexact(rank, len)).collect();
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<u8>>();
        let expected = bytes(&in_order(names, &inputs));
        let inputs: Vec<_> = inputs.iter().map(|input| vec![bytes(input)]).collect();
        let call = Call::AllReduce(Reduction::new(DataType::Float32, ReduceOp::Sum, 1.0).unwrap());
        for seed in 0..10 {
            let all = results(&nodes(names, 1024), call, &inputs, &vec![len * 4; names.len()], false, seed);
            assert!(all.iter().all(|result| *result == expected), "{names:?}, {seed}");
        }
    }
}

#[test]
fn half_types_are_rounded_once() {
    let names = [1, 2, 1, 2, 1, 1];
    let (size, len) = (names.len(), 3001);
    let halves = |rank| inexact(rank, len).into_iter().map(bf16::from_f32).collect::<Vec<_>>();
    let widened: Vec<Vec<_>> = (0..size).map(|rank| halves(rank).iter().map(|half| half.to_f32()).collect()).collect();
    let round = |value: &f32| bf16::from_f32(*value).to_ne_bytes();
    let expected: Vec<u8> = in_order(&names, &widened).iter().flat_map(round).collect();
    let bytes = |rank| halves(rank).iter().flat_map(|half| half.to_ne_bytes()).collect();
    let inputs: Vec<_> = (0..size).map(|rank| vec![bytes(rank)]).collect();
    let call = Call::AllReduce(Reduction::new(DataType::BFloat16, ReduceOp::Sum, 1.0).unwrap());
    for result in results(&nodes(&names, 1024), call, &inputs, &vec![len * 2; size], false, 5) {
        assert!(result == expected);
    }
}

#[test]
fn what_fits_into_a_slot_stays_in_one_level() {
    let reduction = Reduction::new(DataType::Int32, ReduceOp::Sum, 1.0).unwrap();
    let rounds = |names: &[u64], call: Call, lengths: &[usize]| {
        let nodes = nodes(names, 4096);
        let inputs = Buffers::new(&lengths.iter().map(|&len| vec![0; len]).collect::<Vec<_>>());
        let slots = Slots { node: &nodes[0], round: Round::first() };
        Levels::of(slots, &Invocation::new(call, &inputs.views, &[])).map(|levels| levels.rounds())
    };
    let names = [1, 1, 2, 2];
    let reduce = Call::Reduce { root: 3, reduction };
    assert_eq!(rounds(&names, Call::AllReduce(reduction), &[4096]), None);
    // 1664 bytes at a time.
    assert_eq!(rounds(&names, Call::AllReduce(reduction), &[4100]), Some(3 + 3));
    assert_eq!(rounds(&names, reduce, &[4 * 1664 + 4]), Some(5 + 2));
    assert_eq!(rounds(&names, Call::ReduceScatter(reduction), &[2048, 2048, 0, 0]), None);
    // 384 bytes of each.
    assert_eq!(rounds(&names, Call::ReduceScatter(reduction), &[1536, 1540, 1536, 4]), Some(5 + 1));
    // Nothing is reduced, or there is one domain.
    assert_eq!(rounds(&names, Call::AllGather, &[40_000]), None);
    assert_eq!(rounds(&[1, 1, 1], Call::AllReduce(reduction), &[40_000]), None);
}

#[test]
fn ranks_that_disagree_all_hear_of_it() {
    let sum = |dtype| Reduction::new(dtype, ReduceOp::Sum, 1.0).unwrap();
    let part = |len: usize, dtype| {
        let memory = || Buffers::new(&[vec![0; len]]);
        Part { call: Call::AllReduce(sum(dtype)), dtype, inputs: memory(), outputs: memory() }
    };
    let common = || part(40_000, DataType::Float32);
    // One level, other pieces, and as many rounds of another type.
    for odd in [part(8, DataType::Float32), part(80_000, DataType::Float32), part(40_000, DataType::BFloat16)] {
        for result in run(&nodes(&[1, 2, 1, 2], 1024), &[common(), common(), odd, common()], 3) {
            let text = result.unwrap_err().to_string();
            assert!(text.contains("rank 2 called all_reduce of"), "{text}");
        }
    }
}
