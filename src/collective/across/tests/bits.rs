//! Reductions of values that do not add up exactly, and of those that go wrong: every rank gets the bits that come of the
//! documented order, over the ranks of a node and then over the nodes, with one rounding of half types.

use half::bf16;

use super::*;
use crate::reduce::tests::random::Random;
use crate::reduce::tests::reference;

const FACTOR: f64 = 1.0 / 3.0;

/// The type in which elements are accumulated.
fn wide(dtype: DataType) -> DataType {
    if dtype.size() == 2 { DataType::Float32 } else { dtype }
}

fn widened(dtype: DataType, element: &[u8]) -> Vec<u8> {
    let bits = || u16::from_ne_bytes(element.try_into().unwrap());
    match dtype {
        DataType::Float16 => half::f16::from_bits(bits()).to_f32().to_ne_bytes().to_vec(),
        DataType::BFloat16 => bf16::from_bits(bits()).to_f32().to_ne_bytes().to_vec(),
        _ => element.to_vec(),
    }
}

/// The average, if that is the op, as an element.
fn finished(dtype: DataType, op: ReduceOp, ranks: usize, accumulator: &[u8]) -> Vec<u8> {
    let ranks = if op == ReduceOp::Avg { ranks } else { 1 };
    let single = |bytes: &[u8]| f32::from_ne_bytes(bytes.try_into().unwrap()) / ranks as f32;
    match dtype {
        DataType::Float16 => half::f16::from_f32(single(accumulator)).to_ne_bytes().to_vec(),
        DataType::BFloat16 => bf16::from_f32(single(accumulator)).to_ne_bytes().to_vec(),
        DataType::Float64 => {
            (f64::from_ne_bytes(accumulator.try_into().unwrap()) / ranks as f64).to_ne_bytes().to_vec()
        }
        _ => accumulator.chunks(4).flat_map(|part| single(part).to_ne_bytes()).collect(),
    }
}

/// One element, of each rank.
fn expected(dtype: DataType, op: ReduceOp, nodes: &[Vec<usize>], elements: &[&[u8]]) -> Vec<u8> {
    let reduce = |op, elements: &[Vec<u8>]| {
        reference::reduce(wide(dtype), op, FACTOR, &elements.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    // The factor is applied once, and the division comes at the end.
    let (within, between) = match op {
        ReduceOp::Avg => (ReduceOp::Sum, ReduceOp::Sum),
        ReduceOp::PremulSum => (op, ReduceOp::Sum),
        _ => (op, op),
    };
    let of_node = |ranks: &Vec<usize>| {
        reduce(within, &ranks.iter().map(|&rank| widened(dtype, elements[rank])).collect::<Vec<_>>())
    };
    finished(dtype, op, elements.len(), &reduce(between, &nodes.iter().map(of_node).collect::<Vec<_>>()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn reductions_give_the_same_bits_everywhere(
        (names, capacity, lengths, seed) in shapes(),
        dtype in prop::sample::select(vec![
            DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64, DataType::Complex64,
        ]),
        op in prop::sample::select(vec![ReduceOp::Sum, ReduceOp::Avg, ReduceOp::Product, ReduceOp::PremulSum]),
    ) {
        let size = names.len();
        let mut cluster = Cluster::new(&names, capacity);
        let (len, call) = (lengths[0], Call::AllReduce(Reduction::new(dtype, op, FACTOR).unwrap()));
        let mut random = Random::new(seed);
        let contents: Vec<_> = (0..size).map(|_| random.elements(dtype, len)).collect();
        let parts: Vec<_> = contents.iter().map(|content| Part {
            call,
            dtype,
            inputs: Buffers::new(std::slice::from_ref(content)),
            outputs: Buffers::zeroed(&[content.len()]),
        }).collect();
        let results = cluster.run(&parts, seed);
        prop_assert!(results.iter().all(Result::is_ok), "{results:?}");

        let topology = cluster.places[0].topology.clone();
        let nodes: Vec<_> = (0..topology.nodes()).map(|node| topology.members(node).to_vec()).collect();
        for part in &parts {
            for (position, actual) in part.outputs.blocks()[0].chunks(dtype.size()).enumerate() {
                let range = position * dtype.size()..(position + 1) * dtype.size();
                let elements: Vec<_> = contents.iter().map(|content| &content[range.clone()]).collect();
                let expected = expected(dtype, op, &nodes, &elements);
                prop_assert!(
                    reference::equal(dtype, op, actual, &expected),
                    "{dtype} {op} {nodes:?}, element {position} of {elements:x?}: {actual:x?} instead of {expected:x?}"
                );
            }
        }
    }
}
