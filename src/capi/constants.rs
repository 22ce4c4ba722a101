//! Numbers that C and Rust agree on.

use crate::error::{Error, Kind, Result};
use crate::reduce::{DataType, ReduceOp};

/// The call succeeded.
pub const RMPI_SUCCESS: i32 = 0;
/// An argument has a value that the operation cannot take. Nothing was moved.
pub const RMPI_ERROR_VALUE: i32 = 1;
/// The data type does not have the reduction. Nothing was moved.
pub const RMPI_ERROR_TYPE: i32 = 2;
/// This machine, MPI or process lacks what was asked for.
pub const RMPI_ERROR_UNAVAILABLE: i32 = 3;
/// The timeout passed. The group can no longer be used.
pub const RMPI_ERROR_TIMEOUT: i32 = 4;
/// MPI or a peer failed. The group can no longer be used.
pub const RMPI_ERROR_BACKEND: i32 = 5;

/// IEEE 754 half precision, 2 bytes.
pub const RMPI_FLOAT16: i32 = 0;
/// bfloat16, 2 bytes.
pub const RMPI_BFLOAT16: i32 = 1;
/// float.
pub const RMPI_FLOAT32: i32 = 2;
/// double.
pub const RMPI_FLOAT64: i32 = 3;
/// Two floats.
pub const RMPI_COMPLEX64: i32 = 4;
/// Two doubles.
pub const RMPI_COMPLEX128: i32 = 5;
/// uint8_t.
pub const RMPI_UINT8: i32 = 6;
/// int8_t.
pub const RMPI_INT8: i32 = 7;
/// uint16_t.
pub const RMPI_UINT16: i32 = 8;
/// int16_t.
pub const RMPI_INT16: i32 = 9;
/// uint32_t.
pub const RMPI_UINT32: i32 = 10;
/// int32_t.
pub const RMPI_INT32: i32 = 11;
/// uint64_t.
pub const RMPI_UINT64: i32 = 12;
/// int64_t.
pub const RMPI_INT64: i32 = 13;
/// One byte; any other value than 0 is true.
pub const RMPI_BOOL: i32 = 14;
/// One byte that moves but does not reduce.
pub const RMPI_BYTES: i32 = 15;

/// Sum; of integers it wraps around, of bool it is the logical or.
pub const RMPI_SUM: i32 = 0;
/// Sum divided by the number of ranks; of integers truncated toward zero.
pub const RMPI_AVG: i32 = 1;
/// Product; of integers it wraps around, of bool it is the logical and.
pub const RMPI_PRODUCT: i32 = 2;
/// Minimum; NaN if an input is NaN.
pub const RMPI_MIN: i32 = 3;
/// Maximum; NaN if an input is NaN.
pub const RMPI_MAX: i32 = 4;
/// Bitwise and.
pub const RMPI_BAND: i32 = 5;
/// Bitwise or.
pub const RMPI_BOR: i32 = 6;
/// Bitwise exclusive or.
pub const RMPI_BXOR: i32 = 7;

const DATA_TYPES: [DataType; 16] = [
    DataType::Float16,
    DataType::BFloat16,
    DataType::Float32,
    DataType::Float64,
    DataType::Complex64,
    DataType::Complex128,
    DataType::UInt8,
    DataType::Int8,
    DataType::UInt16,
    DataType::Int16,
    DataType::UInt32,
    DataType::Int32,
    DataType::UInt64,
    DataType::Int64,
    DataType::Bool,
    DataType::Bytes,
];

const REDUCE_OPS: [ReduceOp; 8] = [
    ReduceOp::Sum,
    ReduceOp::Avg,
    ReduceOp::Product,
    ReduceOp::Min,
    ReduceOp::Max,
    ReduceOp::BitAnd,
    ReduceOp::BitOr,
    ReduceOp::BitXor,
];

pub(super) fn data_type(number: i32) -> Result<DataType> {
    let found = usize::try_from(number).ok().and_then(|index| DATA_TYPES.get(index));
    found
        .copied()
        .ok_or_else(|| Error::Argument(format!("{number} is no data type: pass one of RMPI_FLOAT16 to RMPI_BYTES")))
}

pub(super) fn reduce_op(number: i32) -> Result<ReduceOp> {
    let found = usize::try_from(number).ok().and_then(|index| REDUCE_OPS.get(index));
    found
        .copied()
        .ok_or_else(|| Error::Argument(format!("{number} is no reduction: pass one of RMPI_SUM to RMPI_BXOR")))
}

pub(super) fn status(kind: Kind) -> i32 {
    match kind {
        Kind::None => RMPI_SUCCESS,
        Kind::Value => RMPI_ERROR_VALUE,
        Kind::Type => RMPI_ERROR_TYPE,
        Kind::NotImplemented => RMPI_ERROR_UNAVAILABLE,
        Kind::Timeout => RMPI_ERROR_TIMEOUT,
        Kind::Backend => RMPI_ERROR_BACKEND,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_name_what_they_say() {
        assert_eq!(data_type(RMPI_FLOAT32).unwrap(), DataType::Float32);
        assert_eq!(data_type(RMPI_UINT8).unwrap(), DataType::UInt8);
        assert_eq!(data_type(RMPI_INT64).unwrap(), DataType::Int64);
        assert_eq!(data_type(RMPI_BYTES).unwrap(), DataType::Bytes);
        assert_eq!(reduce_op(RMPI_SUM).unwrap(), ReduceOp::Sum);
        assert_eq!(reduce_op(RMPI_BXOR).unwrap(), ReduceOp::BitXor);
        assert!(data_type(-1).is_err() && data_type(16).is_err() && reduce_op(8).is_err());
    }
}
