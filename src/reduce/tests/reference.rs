//! The semantics once more, one element at a time, in arithmetic wider than the kernels'.

use crate::reduce::{DataType, ReduceOp};

/// The reduction of one element of each input.
pub(crate) fn reduce(dtype: DataType, op: ReduceOp, factor: f64, elements: &[&[u8]]) -> Vec<u8> {
    match dtype {
        DataType::Float16 | DataType::BFloat16 => {
            let half = Half::of(dtype);
            let values = elements.iter().map(|bytes| half.value(u16::from_ne_bytes(array(bytes)))).collect();
            half.nearest(float(op, f64::from(factor as f32), values, in_f32)).to_ne_bytes().to_vec()
        }
        DataType::Float32 => {
            let values = elements.iter().map(|bytes| f32::from_ne_bytes(array(bytes)).into()).collect();
            (float(op, f64::from(factor as f32), values, in_f32) as f32).to_ne_bytes().to_vec()
        }
        DataType::Float64 => {
            let values = elements.iter().map(|bytes| f64::from_ne_bytes(array(bytes))).collect();
            float(op, factor, values, |value| value).to_ne_bytes().to_vec()
        }
        DataType::Complex64 => {
            let part = |bytes: &[u8]| f64::from(f32::from_ne_bytes(array(bytes)));
            let values = elements.iter().map(|bytes| (part(&bytes[..4]), part(&bytes[4..]))).collect();
            let (re, im) = complex(op, f64::from(factor as f32), values, in_f32);
            [(re as f32).to_ne_bytes(), (im as f32).to_ne_bytes()].concat()
        }
        DataType::Complex128 => {
            let part = |bytes: &[u8]| f64::from_ne_bytes(array(bytes));
            let values = elements.iter().map(|bytes| (part(&bytes[..8]), part(&bytes[8..]))).collect();
            let (re, im) = complex(op, factor, values, |value| value);
            [re.to_ne_bytes(), im.to_ne_bytes()].concat()
        }
        DataType::Bool => {
            let trues = elements.iter().filter(|bytes| bytes[0] != 0).count();
            let result = match op {
                ReduceOp::Sum | ReduceOp::Max | ReduceOp::BitOr => trues > 0,
                ReduceOp::Product | ReduceOp::Min | ReduceOp::BitAnd => trues == elements.len(),
                ReduceOp::BitXor => trues % 2 == 1,
                ReduceOp::Avg | ReduceOp::PremulSum => unreachable!(),
            };
            vec![u8::from(result)]
        }
        DataType::Bytes => unreachable!(),
        _ => {
            let values = elements.iter().map(|bytes| integer_value(dtype, bytes)).collect();
            integer(dtype, op, values).to_le_bytes()[..dtype.size()].to_vec()
        }
    }
}

/// Whether a result is right: the bits of NaN are free, and so is the sign of a zero that MIN or MAX gives.
pub(crate) fn equal(dtype: DataType, op: ReduceOp, actual: &[u8], expected: &[u8]) -> bool {
    let value = |bytes: &[u8]| match dtype {
        DataType::Float16 | DataType::BFloat16 => Half::of(dtype).value(u16::from_ne_bytes(array(bytes))),
        DataType::Float32 | DataType::Complex64 => f32::from_ne_bytes(array(bytes)).into(),
        _ => f64::from_ne_bytes(array(bytes)),
    };
    let part = match dtype {
        DataType::Float16 | DataType::BFloat16 | DataType::Float32 | DataType::Float64 => dtype.size(),
        DataType::Complex64 | DataType::Complex128 => dtype.size() / 2,
        _ => return actual == expected,
    };
    actual.chunks(part).zip(expected.chunks(part)).all(|(actual_bytes, expected_bytes)| {
        let (actual, expected) = (value(actual_bytes), value(expected_bytes));
        let zeros = matches!(op, ReduceOp::Min | ReduceOp::Max) && actual == 0.0 && expected == 0.0;
        actual_bytes == expected_bytes || (actual.is_nan() && expected.is_nan()) || zeros
    })
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap()
}

/// Rounding a binary64 sum, product or quotient of two binary32 to binary32 is the same as rounding the exact one.
fn in_f32(value: f64) -> f64 {
    f64::from(value as f32)
}

fn float(op: ReduceOp, factor: f64, values: Vec<f64>, round: fn(f64) -> f64) -> f64 {
    let ranks = values.len() as f64;
    let sum = |values: Vec<f64>| values.into_iter().reduce(|sum, value| round(sum + value)).unwrap();
    match op {
        ReduceOp::Sum => sum(values),
        ReduceOp::Avg => round(sum(values) / ranks),
        ReduceOp::PremulSum => sum(values.into_iter().map(|value| round(value * factor)).collect()),
        ReduceOp::Product => values.into_iter().reduce(|product, value| round(product * value)).unwrap(),
        ReduceOp::Min | ReduceOp::Max if values.iter().any(|value| value.is_nan()) => f64::NAN,
        ReduceOp::Min => values.into_iter().reduce(f64::min).unwrap(),
        ReduceOp::Max => values.into_iter().reduce(f64::max).unwrap(),
        ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor => unreachable!(),
    }
}

fn complex(op: ReduceOp, factor: f64, values: Vec<(f64, f64)>, round: fn(f64) -> f64) -> (f64, f64) {
    if op == ReduceOp::Product {
        let product = |a: (f64, f64), b: (f64, f64)| {
            (round(round(a.0 * b.0) - round(a.1 * b.1)), round(round(a.0 * b.1) + round(a.1 * b.0)))
        };
        return values.into_iter().reduce(product).unwrap();
    }
    let (re, im) = values.into_iter().unzip();
    (float(op, factor, re, round), float(op, factor, im, round))
}

fn integer_value(dtype: DataType, bytes: &[u8]) -> i128 {
    match dtype {
        DataType::UInt8 => bytes[0].into(),
        DataType::Int8 => (bytes[0] as i8).into(),
        DataType::UInt16 => u16::from_ne_bytes(array(bytes)).into(),
        DataType::Int16 => i16::from_ne_bytes(array(bytes)).into(),
        DataType::UInt32 => u32::from_ne_bytes(array(bytes)).into(),
        DataType::Int32 => i32::from_ne_bytes(array(bytes)).into(),
        DataType::UInt64 => u64::from_ne_bytes(array(bytes)).into(),
        DataType::Int64 => i64::from_ne_bytes(array(bytes)).into(),
        _ => unreachable!(),
    }
}

/// The result; its low bits are the element, which is what wrapping means.
fn integer(dtype: DataType, op: ReduceOp, values: Vec<i128>) -> i128 {
    let ranks = values.len() as i128;
    let product = |a: i128, b: i128| {
        // Reduced to the element's width after each step, so that the next product fits 128 bits.
        let bits = 8 * dtype.size() as u32;
        a.wrapping_mul(b) & ((1i128 << bits) - 1)
    };
    let combined = match op {
        ReduceOp::Sum | ReduceOp::Avg => values.into_iter().reduce(|a, b| a + b),
        ReduceOp::Product => values.into_iter().reduce(product),
        ReduceOp::Min => values.into_iter().min(),
        ReduceOp::Max => values.into_iter().max(),
        ReduceOp::BitAnd => values.into_iter().reduce(|a, b| a & b),
        ReduceOp::BitOr => values.into_iter().reduce(|a, b| a | b),
        ReduceOp::BitXor => values.into_iter().reduce(|a, b| a ^ b),
        ReduceOp::PremulSum => unreachable!(),
    };
    let combined = combined.unwrap();
    if op == ReduceOp::Avg { combined / ranks } else { combined }
}

/// A 16-bit float, by the definition of its fields.
pub(super) struct Half {
    fraction_bits: u32,
    bias: i32,
}

impl Half {
    pub(super) fn of(dtype: DataType) -> Half {
        match dtype {
            DataType::Float16 => Half { fraction_bits: 10, bias: 15 },
            _ => Half { fraction_bits: 7, bias: 127 },
        }
    }

    /// Bits of infinity.
    pub(super) fn infinity(&self) -> u16 {
        0x7fff >> self.fraction_bits << self.fraction_bits
    }

    pub(super) fn value(&self, bits: u16) -> f64 {
        let magnitude = bits & 0x7fff;
        let sign = if bits == magnitude { 1.0 } else { -1.0 };
        let fraction = f64::from(magnitude & ((1 << self.fraction_bits) - 1)) / f64::from(1u32 << self.fraction_bits);
        let exponent = i32::from(magnitude >> self.fraction_bits);
        if magnitude > self.infinity() {
            f64::NAN
        } else if magnitude == self.infinity() {
            sign * f64::INFINITY
        } else if exponent == 0 {
            sign * fraction * 2f64.powi(1 - self.bias)
        } else {
            sign * (1.0 + fraction) * 2f64.powi(exponent - self.bias)
        }
    }

    /// Bits of the nearest value, found by bisection of all of them; of two equally near ones the even one.
    pub(super) fn nearest(&self, value: f64) -> u16 {
        let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
        if value.is_nan() {
            return self.infinity() | 1;
        }
        let value = value.abs();
        // The largest finite value or infinity, as if the exponents went on.
        let beyond = 2f64.powi(i32::from(self.infinity() >> self.fraction_bits) - self.bias);
        let candidate = |bits: u16| if bits == self.infinity() { beyond } else { self.value(bits) };
        let (mut below, mut above) = (0, self.infinity());
        if value >= beyond {
            return sign | above;
        }
        while above - below > 1 {
            let middle = below.midpoint(above);
            if candidate(middle) <= value { below = middle } else { above = middle }
        }
        let (down, up) = (value - candidate(below), candidate(above) - value);
        let rounded = if down < up || (down == up && below.is_multiple_of(2)) { below } else { above };
        sign | rounded
    }
}
