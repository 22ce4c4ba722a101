//! A reduction in two steps, against the same reference as one in one step.

use super::*;

#[test]
fn two_steps_give_what_the_reference_gives() {
    for available in Instructions::ALL.iter().filter_map(|&instructions| Available::new(instructions)) {
        for (dtype, op) in DataType::ALL.iter().flat_map(|&dtype| ReduceOp::ALL.map(|op| (dtype, op))) {
            let Ok(reduction) = Reduction::with(available, dtype, op, FACTOR) else { continue };
            for count in COUNTS {
                check_split(&reduction, count);
            }
        }
    }
}

/// Three inputs, of which the first two meet first: the order of the additions is that of one step.
fn check_split(reduction: &Reduction, count: usize) {
    let (size, wide) = (reduction.dtype().size(), reduction.accumulator());
    let mut random = Random::new(count as u64 + 17);
    let contents: Vec<Vec<u8>> = (0..3).map(|_| random.elements(reduction.dtype(), count)).collect();
    let mut buffers = Buffers::new(&contents, 1, count * size);
    let inputs: Vec<_> = (0..3).map(|index| buffers.view(index)).collect();
    let empty = || vec![0; count * wide];
    let mut accumulators = Buffers::new(&[empty(), empty()], 3, count * wide);
    let accumulated: Vec<_> = (0..2).map(|index| accumulators.view(index)).collect();
    reduction.accumulate(&accumulated[0], &inputs[..2]).unwrap();
    reduction.accumulate(&accumulated[1], &inputs[2..]).unwrap();
    let mut results = Buffers::new(&[vec![0; count * size]], 5, count * size);
    let result = results.view(0);
    reduction.complete(&result, &accumulated, 3).unwrap();
    for (position, actual) in result.to_vec().chunks(size).enumerate() {
        let range = position * size..(position + 1) * size;
        let elements: Vec<_> = contents.iter().map(|content| &content[range.clone()]).collect();
        let expected = reference::reduce(reduction.dtype(), reduction.op(), FACTOR, &elements);
        assert!(
            reference::equal(reduction.dtype(), reduction.op(), actual, &expected),
            "{} {}, element {position} of {elements:x?}: {actual:x?} instead of {expected:x?}",
            reduction.dtype(),
            reduction.op()
        );
    }
}

#[test]
fn steps_that_do_not_fit_are_refused() {
    let reduction = Reduction::new(DataType::BFloat16, ReduceOp::Sum, 1.0).unwrap();
    assert_eq!(reduction.accumulator(), 4);
    let mut buffers = Buffers::new(&[vec![0; 8], vec![0; 8]], 0, 8);
    let (a, b) = (buffers.view(0), buffers.view(1));
    assert!(matches!(reduction.accumulate(&a, &[]), Err(LayoutError::NoInput)));
    assert!(matches!(reduction.accumulate(&a, &[b]), Err(LayoutError::Length { .. })));
    assert!(matches!(reduction.accumulate(&a, &[a.slice(0..4)]), Err(LayoutError::PartialOverlap { .. })));
    assert!(matches!(reduction.complete(&b.slice(0..6), &[a], 2), Err(LayoutError::Length { .. })));
    assert!(reduction.complete(&b.slice(0..4), &[a], 2).is_ok());
}
