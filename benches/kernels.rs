//! Every data type with every op and each set of instructions, over two inputs of several sizes. The rate is that of the
//! output's bytes.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rmpi::bench::memory;
use rmpi::reduce::{Available, Instructions};
use rmpi::{DataType, ReduceOp, Reduction};

/// One that the first-level cache holds, one for the second, and one for neither.
const SIZES: [usize; 3] = [1 << 10, 64 << 10, 4 << 20];

/// As a number of any type it is neither tiny nor huge.
const BYTE: u8 = 0x3f;

fn kernels(criterion: &mut Criterion) {
    for (dtype, op) in DataType::ALL.iter().flat_map(|&dtype| ReduceOp::ALL.map(|op| (dtype, op))) {
        let mut group = criterion.benchmark_group(format!("{dtype}/{op}"));
        for available in Instructions::ALL.iter().filter_map(|&instructions| Available::new(instructions)) {
            let Ok(reduction) = Reduction::with(available, dtype, op, 0.5) else { continue };
            for size in SIZES {
                let [left, right, output] = [memory(size, BYTE), memory(size, BYTE), memory(size, 0)];
                let inputs = [left.1, right.1];
                group.throughput(Throughput::Bytes(size as u64));
                group.bench_function(BenchmarkId::new(available.get().name(), size), |bencher| {
                    bencher.iter(|| reduction.reduce(black_box(&output.1), black_box(&inputs)));
                });
            }
        }
        group.finish();
    }
}

/// There are a thousand: each takes half a second.
fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .sample_size(10)
}

criterion_group! { name = benches; config = short(); targets = kernels }
criterion_main!(benches);
