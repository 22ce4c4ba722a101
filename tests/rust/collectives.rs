//! Every collective, with lengths below and above what fits into a slot of shared memory, against plain loops.

#[path = "numbers.rs"]
mod numbers;

use numbers::{block, reduced};
use rmpi::{Call, DataType, Group, Invocation, ReduceOp, Reduction, View};

/// Nothing, one element, what does not divide, and more than a slot holds.
const LENGTHS: [usize; 5] = [0, 1, 7, 9_001, 150_003];

fn view(bytes: &mut [u8]) -> View {
    // SAFETY: each test keeps the memory until the operation has ended.
    unsafe { View::new(bytes.as_mut_ptr(), bytes.len()) }
}

/// Runs a call on memory of these contents; returns what the outputs hold then.
fn run(group: &Group, call: Call, dtype: DataType, mut inputs: Vec<Vec<u8>>, outputs: &[usize]) -> Vec<Vec<u8>> {
    let mut outputs: Vec<Vec<u8>> = outputs.iter().map(|&len| vec![0; len]).collect();
    let input_views: Vec<_> = inputs.iter_mut().map(|block| view(block)).collect();
    let output_views: Vec<_> = outputs.iter_mut().map(|block| view(block)).collect();
    group.run(&Invocation::new(call, &input_views, &output_views).of(dtype)).unwrap();
    outputs
}

const DTYPES: [DataType; 3] = [DataType::Float32, DataType::BFloat16, DataType::Int64];

pub fn reductions(group: &Group) {
    reductions_of(group, &DTYPES);
}

pub fn reductions_of(group: &Group, dtypes: &[DataType]) {
    let (rank, size) = (group.rank(), group.size());
    for (dtype, len) in dtypes.iter().flat_map(|&dtype| LENGTHS.map(|len| (dtype, len))) {
        for op in [ReduceOp::Sum, ReduceOp::Avg, ReduceOp::PremulSum, ReduceOp::Min] {
            let Ok(reduction) = Reduction::new(dtype, op, 0.5) else { continue };
            let bytes = len * dtype.size();
            let expected = reduced(&reduction, size, len, len);
            let own = || vec![block(dtype, rank, len, len)];
            assert!(run(group, Call::AllReduce(reduction), dtype, own(), &[bytes])[0] == expected, "{reduction:?}");
            let root = len % size;
            let outputs = vec![bytes; usize::from(rank == root)];
            let results = run(group, Call::Reduce { root, reduction }, dtype, own(), &outputs);
            assert!(results.iter().all(|result| *result == expected), "{reduction:?} to {root}");
            let lengths: Vec<_> = (0..size).map(|to| len / (to + 1)).collect();
            let inputs = (0..size).map(|to| block(dtype, rank, to, lengths[to])).collect();
            let bytes = lengths[rank] * dtype.size();
            let results = run(group, Call::ReduceScatter(reduction), dtype, inputs, &[bytes]);
            assert!(results[0] == reduced(&reduction, size, rank, lengths[rank]), "{reduction:?} scattered");
        }
    }
}

pub fn movements(group: &Group) {
    let (rank, size) = (group.rank(), group.size());
    let dtype = DataType::BFloat16;
    for len in LENGTHS {
        let lengths: Vec<_> = (0..size).map(|rank| len / (rank + 1)).collect();
        let bytes: Vec<_> = lengths.iter().map(|len| len * dtype.size()).collect();
        let blocks: Vec<_> = (0..size).map(|rank| block(dtype, rank, 1, lengths[rank])).collect();
        assert!(run(group, Call::AllGather, dtype, blocks[rank..=rank].to_vec(), &bytes) == blocks, "{len}");
        for root in 0..size {
            let mut memory = block(dtype, rank, 0, len);
            let whole = view(&mut memory);
            group.run(&Invocation::new(Call::Broadcast { root }, &[], &[whole]).of(dtype)).unwrap();
            assert!(memory == block(dtype, root, 0, len), "{len} from {root}");
            let outputs: &[usize] = if rank == root { &bytes } else { &[] };
            let gathered = run(group, Call::Gather { root }, dtype, blocks[rank..=rank].to_vec(), outputs);
            assert!(rank != root || gathered == blocks, "{len} to {root}");
            let inputs = if rank == root { blocks.clone() } else { Vec::new() };
            let scattered = run(group, Call::Scatter { root }, dtype, inputs, &bytes[rank..=rank]);
            assert!(scattered[0] == blocks[rank], "{len} scattered from {root}");
        }
        let length = |from: usize, to: usize| len / (1 + (from * 2 + to) % 3);
        let inputs = (0..size).map(|to| block(dtype, rank, to, length(rank, to))).collect();
        let outputs: Vec<_> = (0..size).map(|from| length(from, rank) * dtype.size()).collect();
        let received = run(group, Call::AllToAll, dtype, inputs, &outputs);
        let expected: Vec<_> = (0..size).map(|from| block(dtype, from, rank, length(from, rank))).collect();
        assert!(received == expected, "{len} to all");
        run(group, Call::Barrier, DataType::Bytes, Vec::new(), &[]);
    }
}
