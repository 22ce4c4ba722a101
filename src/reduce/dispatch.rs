//! Which kernel reduces a data type with an op; the one place that says which combinations exist.

use half::{bf16, f16};

use super::complex::Complex;
use super::element::{Boolean, Element};
use super::kernel::Kernels;
use super::number::{Bits, Divide, Number, Ordered, Scale};
use super::operation::{And, Average, Maximum, Minimum, Or, PremultipliedSum, Product, Sum, Xor};
use super::{DataType, ReduceOp};

/// The kernels for elements of `dtype` and `op`; none if the type does not have the op.
pub(super) fn kernel(dtype: DataType, op: ReduceOp) -> Option<Kernels> {
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

fn float<E: Element<A>, A: Element<A> + Default + Divide + Scale + Ordered>(op: ReduceOp) -> Option<Kernels> {
    // A wider accumulator is kept, so that there is one rounding. Minimum and maximum are one of the inputs.
    let is_widened = size_of::<A>() > size_of::<E>();
    Some(match op {
        ReduceOp::Sum if is_widened => Kernels::staged::<E, A, Sum>(),
        ReduceOp::Sum => Kernels::new::<E, A, Sum>(),
        ReduceOp::Avg => Kernels::staged::<E, A, Average>(),
        ReduceOp::Product if is_widened => Kernels::staged::<E, A, Product>(),
        ReduceOp::Product => Kernels::new::<E, A, Product>(),
        ReduceOp::Min => Kernels::new::<E, A, Minimum>(),
        ReduceOp::Max => Kernels::new::<E, A, Maximum>(),
        ReduceOp::PremulSum => Kernels::staged::<E, A, PremultipliedSum<A::Factor>>(),
        ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor => return None,
    })
}

fn complex<E: Element<E> + Divide + Scale>(op: ReduceOp) -> Option<Kernels> {
    Some(match op {
        ReduceOp::Sum => Kernels::new::<E, E, Sum>(),
        ReduceOp::Avg => Kernels::staged::<E, E, Average>(),
        ReduceOp::Product => Kernels::new::<E, E, Product>(),
        ReduceOp::PremulSum => Kernels::staged::<E, E, PremultipliedSum<E::Factor>>(),
        ReduceOp::Min | ReduceOp::Max | ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor => return None,
    })
}

/// `W` holds the exact sum of as many elements as there can be ranks.
fn integer<E: Element<E> + Element<W> + Number + Ordered + Bits, W: Element<W> + Default + Divide>(
    op: ReduceOp,
) -> Option<Kernels> {
    Some(match op {
        ReduceOp::Sum => Kernels::new::<E, E, Sum>(),
        ReduceOp::Avg => Kernels::staged::<E, W, Average>(),
        ReduceOp::Product => Kernels::new::<E, E, Product>(),
        ReduceOp::Min => Kernels::new::<E, E, Minimum>(),
        ReduceOp::Max => Kernels::new::<E, E, Maximum>(),
        ReduceOp::BitAnd => Kernels::new::<E, E, And>(),
        ReduceOp::BitOr => Kernels::new::<E, E, Or>(),
        ReduceOp::BitXor => Kernels::new::<E, E, Xor>(),
        ReduceOp::PremulSum => return None,
    })
}

fn boolean(op: ReduceOp) -> Option<Kernels> {
    Some(match op {
        ReduceOp::Sum | ReduceOp::Max | ReduceOp::BitOr => Kernels::new::<Boolean, u8, Or>(),
        ReduceOp::Product | ReduceOp::Min | ReduceOp::BitAnd => Kernels::new::<Boolean, u8, And>(),
        ReduceOp::BitXor => Kernels::new::<Boolean, u8, Xor>(),
        ReduceOp::Avg | ReduceOp::PremulSum => return None,
    })
}
