//! Reductions of every type and op in shared memory, with values that go wrong, at any address, in place and not. Every
//! rank gets what the reference gives for the inputs in rank order, and all get the same bits.

use super::*;
use crate::reduce::tests::random::Random;
use crate::reduce::tests::reference;

#[derive(Clone, Debug)]
struct Case {
    size: usize,
    capacity: usize,
    dtype: DataType,
    op: ReduceOp,
    /// Elements of a block.
    len: usize,
    offset: usize,
    in_place: bool,
    seed: u64,
}

const FACTOR: f64 = 1.0 / 3.0;

fn kinds() -> Vec<(DataType, ReduceOp)> {
    let all = DataType::ALL.iter().flat_map(|&dtype| ReduceOp::ALL.map(|op| (dtype, op)));
    all.filter(|&(dtype, op)| Reduction::new(dtype, op, FACTOR).is_ok()).collect()
}

/// Lengths about the edges of a slot, and where ranks begin to divide the work (16 KiB).
fn cases() -> impl Strategy<Value = Case> {
    let kind = prop::sample::select(kinds());
    let capacity = prop::sample::select(vec![512_usize, 1024, 4096]);
    (kind, capacity, 2..=5_usize).prop_flat_map(|((dtype, op), capacity, size)| {
        let (edge, divided) = (capacity / dtype.size(), (16 << 10) / dtype.size());
        let len = prop_oneof![
            4 => 0..20_usize,
            3 => prop::sample::select(vec![edge - 1, edge, edge + 1, 2 * edge - 1, 2 * edge + 1]),
            2 => 0..3 * edge,
            1 => divided..divided + edge + 2,
        ];
        (len, 0..16_usize, any::<bool>(), any::<u64>()).prop_map(move |(len, offset, in_place, seed)| Case {
            size,
            capacity,
            dtype,
            op,
            len,
            offset,
            in_place,
            seed,
        })
    })
}

impl Case {
    fn reduction(&self) -> Reduction {
        Reduction::new(self.dtype, self.op, FACTOR).unwrap()
    }

    /// `blocks[rank]` are those of a rank.
    fn contents(&self, blocks: usize) -> Vec<Vec<Vec<u8>>> {
        let mut random = Random::new(self.seed);
        (0..self.size).map(|_| (0..blocks).map(|_| random.elements(self.dtype, self.len)).collect()).collect()
    }

    fn unaligned(&self, blocks: &[Vec<u8>]) -> Buffers {
        // On all ranks, so that by chance they read each other's memory.
        Buffers::unaligned(blocks, self.offset, self.seed.is_multiple_of(2))
    }

    /// Every rank has blocks as inputs; in place its output is the block number `place(rank)` of them.
    fn run(
        &self,
        nodes: &[Arc<Node>],
        call: Call,
        inputs: &[Vec<Vec<u8>>],
        place: impl Fn(usize) -> usize,
    ) -> Vec<Part> {
        let output = || self.unaligned(&[vec![0; self.len * self.dtype.size()]]);
        let mut parts: Vec<_> = inputs
            .iter()
            .map(|blocks| Part { call, dtype: self.dtype, inputs: self.unaligned(blocks), outputs: output() })
            .collect();
        if self.in_place {
            for (rank, part) in parts.iter_mut().enumerate() {
                part.outputs.views[0] = part.inputs.views[place(rank)];
            }
        }
        if let Call::Reduce { root, .. } = call {
            let others = parts.iter_mut().enumerate().filter(|&(rank, _)| rank != root);
            others.for_each(|(_, part)| part.outputs = Buffers::zeroed(&[]));
        }
        for result in run(nodes, &parts, self.seed) {
            result.unwrap();
        }
        parts
    }

    /// Whether `actual` is the reduction of `inputs`.
    fn check(&self, actual: &[u8], inputs: &[&Vec<u8>]) -> std::result::Result<(), TestCaseError> {
        let size = self.dtype.size();
        for (position, actual) in actual.chunks(size).enumerate() {
            let elements: Vec<_> = inputs.iter().map(|input| &input[position * size..(position + 1) * size]).collect();
            let expected = reference::reduce(self.dtype, self.op, FACTOR, &elements);
            prop_assert!(
                reference::equal(self.dtype, self.op, actual, &expected),
                "element {position} of {elements:x?}: {actual:x?} instead of {expected:x?}"
            );
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn reductions_of_any_type(case in cases()) {
        let nodes = any_nodes(case.size, case.capacity, case.seed);
        let contents = case.contents(1);
        let all: Vec<_> = contents.iter().map(|blocks| &blocks[0]).collect();
        let parts = case.run(&nodes, Call::AllReduce(case.reduction()), &contents, |_| 0);
        let results: Vec<_> = parts.iter().map(|part| part.outputs.views[0].to_vec()).collect();
        case.check(&results[0], &all)?;
        for result in &results {
            // SUM is compared to the bit, but for those of NaN.
            prop_assert!(reference::equal(case.dtype, ReduceOp::Sum, result, &results[0]), "not the same bits");
        }
        let root = case.seed as usize % case.size;
        let parts = case.run(&nodes, Call::Reduce { root, reduction: case.reduction() }, &contents, |_| 0);
        case.check(&parts[root].outputs.views[0].to_vec(), &all)?;
    }

    #[test]
    fn reduce_scatters_of_any_type(case in cases()) {
        let nodes = any_nodes(case.size, case.capacity, case.seed);
        let contents = case.contents(case.size);
        let parts = case.run(&nodes, Call::ReduceScatter(case.reduction()), &contents, |rank| rank);
        for (rank, part) in parts.iter().enumerate() {
            let blocks: Vec<_> = contents.iter().map(|blocks| &blocks[rank]).collect();
            case.check(&part.outputs.views[0].to_vec(), &blocks)?;
        }
    }

    /// Each rank's input is the block of its output that it goes to.
    #[test]
    fn gathers_in_place(case in cases()) {
        let nodes = any_nodes(case.size, case.capacity, case.seed);
        let contents = case.contents(1);
        let expected: Vec<_> = contents.iter().map(|blocks| blocks[0].clone()).collect();
        let root = case.seed as usize % case.size;
        for call in [Call::AllGather, Call::Gather { root }] {
            let takes = |rank| matches!(call, Call::AllGather) || rank == root;
            let parts: Vec<_> = (0..case.size).map(|rank| {
                let mut inputs = case.unaligned(&contents[rank]);
                let outputs = case.unaligned(&if takes(rank) { expected.clone() } else { Vec::new() });
                for (other, view) in outputs.views.iter().enumerate() {
                    if other != rank {
                        view.fill(0x5a);
                    }
                }
                if takes(rank) {
                    inputs.views[0] = outputs.views[rank];
                }
                Part { call, dtype: case.dtype, inputs, outputs }
            }).collect();
            prop_assert!(run(&nodes, &parts, case.seed).iter().all(Result::is_ok));
            for (_, part) in parts.iter().enumerate().filter(|&(rank, _)| takes(rank)) {
                let blocks: Vec<_> = part.outputs.views.iter().map(View::to_vec).collect();
                prop_assert!(blocks == expected);
            }
        }
    }
}
