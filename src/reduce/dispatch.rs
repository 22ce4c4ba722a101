//! Which kernel reduces a data type with an op; the one place that says which combinations exist.

use half::{bf16, f16};

use super::complex::Complex;
use super::element::{Boolean, Element};
use super::kernel::{Kernel, reduce};
use super::number::{Bits, Divide, Number, Ordered, Scale};
use super::operation::{And, Average, Maximum, Minimum, Or, PremultipliedSum, Product, Sum, Xor};
use super::{DataType, ReduceOp};

/// The kernel for elements of `dtype` and `op`; none if the type does not have the op.
pub(super) fn kernel(dtype: DataType, op: ReduceOp) -> Option<Kernel> {
    match dtype {
        DataType::Float16 => float::<f16, f32>(op),
        DataType::BFloat16 => float::<bf16, f32>(op),
        DataType::Float32 => float::<f32, f32>(op),
        DataType::Float64 => float::<f64, f64>(op),
        DataType::Complex64 => complex::<Complex<f32>>(op),
        DataType::Complex128 => complex::<Complex<f64>>(op),
        DataType::UInt8 => integer::<u8, u64>(op),
        DataType::Int8 => integer::<i8, i64>(op),
        DataType::UInt16 => integer::<u16, u64>(op),
        DataType::Int16 => integer::<i16, i64>(op),
        DataType::UInt32 => integer::<u32, u64>(op),
        DataType::Int32 => integer::<i32, i64>(op),
        DataType::UInt64 => integer::<u64, u128>(op),
        DataType::Int64 => integer::<i64, i128>(op),
        DataType::Bool => boolean(op),
        DataType::Bytes => None,
    }
}

fn float<E: Element<A>, A: Divide + Scale + Ordered>(op: ReduceOp) -> Option<Kernel> {
    Some(match op {
        ReduceOp::Sum => reduce::<E, A, Sum>,
        ReduceOp::Avg => reduce::<E, A, Average>,
        ReduceOp::Product => reduce::<E, A, Product>,
        ReduceOp::Min => reduce::<E, A, Minimum>,
        ReduceOp::Max => reduce::<E, A, Maximum>,
        ReduceOp::PremulSum => reduce::<E, A, PremultipliedSum<A::Factor>>,
        ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor => return None,
    })
}

fn complex<E: Element<E> + Divide + Scale>(op: ReduceOp) -> Option<Kernel> {
    Some(match op {
        ReduceOp::Sum => reduce::<E, E, Sum>,
        ReduceOp::Avg => reduce::<E, E, Average>,
        ReduceOp::Product => reduce::<E, E, Product>,
        ReduceOp::PremulSum => reduce::<E, E, PremultipliedSum<E::Factor>>,
        ReduceOp::Min | ReduceOp::Max | ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor => return None,
    })
}

/// `W` holds the exact sum of as many elements as there can be ranks.
fn integer<E: Element<E> + Element<W> + Number + Ordered + Bits, W: Divide>(op: ReduceOp) -> Option<Kernel> {
    Some(match op {
        ReduceOp::Sum => reduce::<E, E, Sum>,
        ReduceOp::Avg => reduce::<E, W, Average>,
        ReduceOp::Product => reduce::<E, E, Product>,
        ReduceOp::Min => reduce::<E, E, Minimum>,
        ReduceOp::Max => reduce::<E, E, Maximum>,
        ReduceOp::BitAnd => reduce::<E, E, And>,
        ReduceOp::BitOr => reduce::<E, E, Or>,
        ReduceOp::BitXor => reduce::<E, E, Xor>,
        ReduceOp::PremulSum => return None,
    })
}

fn boolean(op: ReduceOp) -> Option<Kernel> {
    Some(match op {
        ReduceOp::Sum | ReduceOp::Max | ReduceOp::BitOr => reduce::<Boolean, u8, Or>,
        ReduceOp::Product | ReduceOp::Min | ReduceOp::BitAnd => reduce::<Boolean, u8, And>,
        ReduceOp::BitXor => reduce::<Boolean, u8, Xor>,
        ReduceOp::Avg | ReduceOp::PremulSum => return None,
    })
}
