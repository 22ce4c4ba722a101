//! Any type, op, number of ranks, length, addresses and division into pieces, against the reference.

use proptest::prelude::*;

use super::*;

fn kinds() -> impl Strategy<Value = (DataType, ReduceOp)> {
    let all = DataType::ALL.iter().flat_map(|&dtype| ReduceOp::ALL.map(|op| (dtype, op)));
    prop::sample::select(all.filter(|&(dtype, op)| has(dtype, op)).collect::<Vec<_>>())
}

/// Mostly short; about a kernel's blocks; and several of them.
fn counts() -> impl Strategy<Value = usize> {
    prop_oneof![0..70_usize, 500..530_usize, 1000..1600_usize]
}

fn inputs(dtype: DataType, ranks: usize, count: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    (0..ranks).map(|_| random.elements(dtype, count)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn one_step(
        (dtype, op) in kinds(),
        ranks in 1..=9_usize,
        count in counts(),
        offsets in prop::collection::vec(0..16_usize, 10),
        target in 0..10_usize,
        seed in any::<u64>(),
    ) {
        let output = if target < ranks { Output::Input(target) } else { Output::Apart };
        check(dtype, op, &inputs(dtype, ranks, count, seed), &offsets, output);
    }

    /// The first inputs meet in one step, the others one by one in the second: that is the order of one step. Each step
    /// takes the elements in two pieces.
    #[test]
    fn two_steps_in_pieces(
        (dtype, op) in kinds(),
        ranks in 1..=6_usize,
        first in 1..=6_usize,
        count in counts(),
        cuts in (0..=1600_usize, 0..=1600_usize),
        offsets in prop::collection::vec(0..16_usize, 7),
        seed in any::<u64>(),
    ) {
        let first = first.min(ranks);
        let contents = inputs(dtype, ranks, count, seed);
        let size = dtype.size();
        for available in Instructions::ALL.iter().filter_map(|&instructions| Available::new(instructions)) {
            let reduction = Reduction::with(available, dtype, op, FACTOR).unwrap();
            let wide = reduction.accumulator();
            let mut sources = Buffers::at(&contents, &offsets, count * size);
            let groups: Vec<_> = std::iter::once(0..first).chain((first..ranks).map(|rank| rank..rank + 1)).collect();
            let mut accumulators = Buffers::at(&vec![vec![0; count * wide]; groups.len()], &offsets, count * wide);
            for piece in pieces(count, cuts.0) {
                for (index, group) in groups.iter().enumerate() {
                    let inputs: Vec<_> = group.clone().map(|rank| part(sources.view(rank), &piece, size)).collect();
                    reduction.accumulate(&part(accumulators.view(index), &piece, wide), &inputs).unwrap();
                }
            }
            let result = sources.view(ranks);
            for piece in pieces(count, cuts.1) {
                let accumulated: Vec<_> =
                    (0..groups.len()).map(|index| part(accumulators.view(index), &piece, wide)).collect();
                reduction.complete(&part(result, &piece, size), &accumulated, ranks).unwrap();
            }
            for (position, actual) in result.to_vec().chunks(size).enumerate() {
                let elements: Vec<_> =
                    contents.iter().map(|content| &content[position * size..(position + 1) * size]).collect();
                let expected = reference::reduce(dtype, op, FACTOR, &elements);
                prop_assert!(
                    reference::equal(dtype, op, actual, &expected),
                    "{dtype} {op} {available:?}, element {position} of {elements:x?}: {actual:x?} instead of {expected:x?}"
                );
            }
        }
    }
}

fn pieces(count: usize, cut: usize) -> [std::ops::Range<usize>; 2] {
    let cut = cut.min(count);
    [0..cut, cut..count]
}

fn part(view: View, elements: &std::ops::Range<usize>, size: usize) -> View {
    view.slice(elements.start * size..elements.end * size)
}
