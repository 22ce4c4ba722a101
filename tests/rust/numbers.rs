//! What ranks put into a collective, and what a reduction of it is, by plain loops. The unit tests use it too.

use half::bf16;

use super::{DataType, ReduceOp, Reduction};

/// Whole numbers that every type holds; sums of a few need rounding in a half type.
pub fn number(rank: usize, salt: usize, i: usize) -> i64 {
    ((i * 31 + salt * 13 + 5) * (rank * rank + 3) % 97) as i64 - 48
}

fn bytes_of(dtype: DataType, value: f64) -> Vec<u8> {
    match dtype {
        DataType::Float32 => (value as f32).to_ne_bytes().to_vec(),
        DataType::BFloat16 => bf16::from_f64(value).to_ne_bytes().to_vec(),
        _ => (value.trunc() as i64).to_ne_bytes().to_vec(),
    }
}

pub fn block(dtype: DataType, rank: usize, salt: usize, len: usize) -> Vec<u8> {
    (0..len).flat_map(|i| bytes_of(dtype, number(rank, salt, i) as f64)).collect()
}

/// Rounded once: the sums are exact.
pub fn reduced(reduction: &Reduction, size: usize, salt: usize, len: usize) -> Vec<u8> {
    let element = |i| {
        let all = || (0..size).map(|rank| number(rank, salt, i));
        let sum = all().sum::<i64>() as f64;
        let value = match reduction.op() {
            ReduceOp::Sum => sum,
            ReduceOp::Avg => f64::from((sum / size as f64) as f32),
            ReduceOp::PremulSum => sum * reduction.factor(),
            ReduceOp::Min => all().min().unwrap() as f64,
            ReduceOp::Max => all().max().unwrap() as f64,
            op => panic!("{op}"),
        };
        bytes_of(reduction.dtype(), value)
    };
    (0..len).flat_map(element).collect()
}
